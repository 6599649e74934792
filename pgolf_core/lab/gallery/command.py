"""`pgolf gallery`: the seven notebooks of a finished seed and the report of its run, as pages to look at."""

import argparse
from pathlib import Path

from pgolf_core.lab.shared.places import short_path


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf gallery`."""
    parser.add_argument("folder", metavar="RUN", help="a finished run's folder, as runs/TRACK/RECIPE")
    parser.add_argument("--seed", type=int, metavar="SEED", help="whose notebooks 03 to 06 (default: its first)")
    parser.add_argument("--out", metavar="DIR", help="the folder to make (default: the repository's papers/gallery)")


def run(options: argparse.Namespace) -> int:
    """Make the gallery and print where it is and how large; returns the exit status."""
    from pgolf_core.lab.gallery.pages import make_gallery

    out = Path(options.out).expanduser() if options.out else None
    index, size = make_gallery(Path(options.folder).expanduser(), options.seed, out)
    print(f"{short_path(index)}: the gallery, {size:,} bytes")
    return 0
