"""`pgolf submission`: a finished run as the folder of a pull request."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf submission`."""
    parser.add_argument("folder", metavar="RUNDIR")
    for flag in ("--name", "--author", "--github-id"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--out", help="the folder to make (default: beside the run, under submissions/)")


def run(options: argparse.Namespace) -> int:
    """Write the folder and print where it is; returns the exit status."""
    from pgolf_core.lab.submission.folder import write_submission

    out = Path(options.out).resolve() if options.out else None
    print(write_submission(Path(options.folder), options.name, options.author, options.github_id, out))
    return 0
