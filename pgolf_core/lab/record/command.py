"""`pgolf record`: a recipe's notebooks for every seed, and the report."""

from __future__ import annotations

import argparse
import sys

from pgolf_core.base.files import UserError, read_json
from pgolf_core.lab.shared.places import short_path
from pgolf_core.lab.shared.usage import UsageError, add_data, add_set, checked_recipe, count, place, recipe_argument

DEFAULT_SEEDS = "1337,1338,1339"


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf record`."""
    parser.add_argument("recipe", help="name of a recipe (`pgolf recipes`), or a path ending in .toml")
    option = parser.add_argument
    option("--seeds", type=_seeds, default=DEFAULT_SEEDS, help=f"comma-separated (default {DEFAULT_SEEDS})")
    about = (
        "processes that train together, one for each GPU of this machine (default 1); several machines: see Several "
        "hosts in papers/commands.md"
    )
    option("--nproc", type=count, default=1, metavar="N", help=about)
    add_set(parser)
    option("--runs", default="", metavar="DIR", help="where runs go (default: the repository's runs/)")
    option("--name", default="", help="name of the run's folder instead of the recipe's")
    option("--fresh", action="store_true", help="delete these seeds' earlier results and redo them")
    add_data(parser)


def run(options: argparse.Namespace) -> int:
    """Run every seed and print the table and where the report is; returns the exit status."""
    from pgolf_core.lab.record.launch import hosts
    from pgolf_core.text.shards import check_ranks

    recipe = recipe_argument(options.recipe)
    try:
        check_ranks(options.nproc * hosts(), checked_recipe(recipe, options.set).data)
    except UserError as error:
        raise UsageError(str(error)) from None
    from pgolf_core.lab.record.folder import RunRequest
    from pgolf_core.lab.record.notebooks import Stopped, record
    from pgolf_core.lab.report.seeds import seeds_table_text

    request = RunRequest(
        recipe, tuple(options.set), data=options.data, runs_dir=place(options.runs) or "runs", name=options.name,
        cache_dir=place(options.cache), fresh=options.fresh, processes=options.nproc,
    )  # fmt: skip
    try:
        summary = record(request, options.seeds)
    except Stopped as stop:
        without = " without --fresh" if options.fresh else ""
        print(f"pgolf: stopped ({stop}); the same command{without} goes on from here", file=sys.stderr)
        stop.told = True
        raise
    print(seeds_table_text(read_json(summary)))
    print(f"report: {short_path(summary.with_name('report.html'))}")
    return 0


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers, as 1337,1338,1339")
    return [int(part) for part in parts]
