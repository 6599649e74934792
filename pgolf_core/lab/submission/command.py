"""`pgolf submission`: a finished run as the folder of a pull request."""

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf submission`."""
    parser.add_argument("folder", metavar="RUN", help="a finished run's folder, as runs/TRACK/RECIPE")
    about = "title of the submission; its folder is named after it"
    parser.add_argument("--name", metavar="TITLE", required=True, help=about)
    parser.add_argument("--author", metavar="AUTHOR", required=True, help="your name, as submission.json shall give it")
    parser.add_argument("--github-id", metavar="LOGIN", required=True, help="your account on GitHub")
    parser.add_argument("--out", metavar="DIR", help="the folder to make (default: beside the run, under submissions/)")


def run(options: argparse.Namespace) -> int:
    """Write the folder and print where it is; returns the exit status."""
    from pgolf_core.lab.submission.folder import write_submission

    out = Path(options.out).expanduser() if options.out else None
    print(write_submission(Path(options.folder), options.name, options.author, options.github_id, out))
    return 0
