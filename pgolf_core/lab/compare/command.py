"""`pgolf compare`: runs and published records, paired by seed."""

import argparse
import json
import os
import sys
from pathlib import Path

from pgolf_core.lab.shared.usage import UsageError, add_json


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf compare`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a published record, as pr315")
    about = "the baseline (default: a record, else the first)"
    parser.add_argument("--against", default="", metavar="RUN", help=about)
    scores = ("sliding", "roundtrip", "averaged", "raw", "adapted", "final")
    about = f"{', '.join(scores[:-1])}, or final, which is adapted where a recipe adapts and else sliding (default: "
    about += "sliding, or roundtrip where a record has no sliding score)"
    parser.add_argument("--score", default="", choices=scores, metavar="SCORE", help=about)
    parser.add_argument("--csv", metavar="FILE.csv", help="write the table there, and FILE-seeds.csv beside it")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compare and print; returns the exit status."""
    from pgolf_core.lab.compare import comparison
    from pgolf_core.lab.compare.text import comparison_text

    csv = Path(os.path.expanduser(options.csv)) if options.csv else None
    if csv and csv.suffix != ".csv":
        raise UsageError(f"--csv {csv}: a table's file ends in .csv")
    compared = comparison.compare_arms(options.runs, options.score, options.against)
    as_json = options.json and json.dumps(comparison.to_json(compared), indent=2)
    print(as_json or comparison_text(compared))
    for path in comparison.write_csv(compared, csv) if csv else ():
        print(f"wrote {path}", file=sys.stderr)
    return 0
