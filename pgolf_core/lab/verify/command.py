"""`pgolf verify`: what is true of an artifact, a run or a submission folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pgolf_core.lab.shared.usage import add_data, add_json, place


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf verify`."""
    parser.add_argument("path")
    parser.add_argument("--budget-seconds", type=float, help="a score that would take longer becomes a random sample")
    parser.add_argument("--run-code", action="store_true", help="also run a submission's own train_gpt.py; no sandbox")
    add_data(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Check and print; returns 1 if a check fails."""
    from pgolf_core.lab.verify import verify
    from pgolf_core.lab.verify.evidence.checks import FAILS

    table = verify.verify(
        Path(options.path), cache_dir=place(options.cache), budget_seconds=options.budget_seconds,
        progress=sys.stderr.isatty(), data=options.data, run_code=options.run_code,
    )  # fmt: skip
    if options.json:
        print(table.to_json(orient="records", indent=2, force_ascii=False))
    else:
        print(table.to_string(index=False, na_rep="–"))
    return 1 if (table["verdict"] == FAILS).any() else 0
