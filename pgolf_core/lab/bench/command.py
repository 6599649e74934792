"""`pgolf bench`: its options and what they call. Heavy imports stay inside the calls."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pgolf_core.base.files import UserError
from pgolf_core.lab.shared.usage import count
from pgolf_core.recipes.reading import load_recipe

MEASURES = ("step", "newton_schulz", "sliding", "packing")


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf bench`."""
    option = parser.add_argument
    about = "comma-separated (default: local, or local-pr315 where there is none, and pr315)"
    option("--recipes", type=_recipes, default="", metavar="A,B", help=about)
    about = f"comma-separated, of {', '.join(MEASURES)} (default: all)"
    option("--measures", type=_measures, default=MEASURES, metavar="A,B", help=about)
    option("--set", action="append", default=[], metavar="KEY=VALUE", help="for all recipes, as schedule.compile=off")
    option("--threads", type=count, default=2, metavar="N", help="of every process (default 2)")
    about = "sequences of a micro-batch in both arms (default: the recipe's, a record's cut)"
    option("--micro-batch-seqs", type=count, default=0, metavar="N", help=about)
    option("--quick", action="store_true", help="two turns of each: shows that it runs, its numbers are no result")
    option("--profile", action="store_true", help="instead: which operators one step of each recipe spends its time in")
    option("--arm", choices=("fast", "plain"), default="fast", help="which arm --profile looks at (default fast)")
    option("--out", type=_json_file, metavar="FILE.json", help="where the numbers go (default: runs/bench/<time>.json)")
    option("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measure or profile what the options name; returns the exit status."""
    from pgolf_core.lab.bench import run as bench

    recipes = options.recipes or bench.default_recipes()
    try:
        for recipe in recipes:
            load_recipe(recipe, options.set)
    except UserError as error:
        options.wrong_usage(str(error))
    how = {"quick": options.quick, "threads": options.threads, "micro_batch_seqs": options.micro_batch_seqs}
    if options.profile:
        how["arm"] = options.arm
        return bench.profile_command(recipes, options.set, out=options.out, as_json=options.json, **how)
    how["measures"] = options.measures
    return bench.command(recipes, options.set, out=options.out, as_json=options.json, **how)


def _recipes(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        for name in names:
            load_recipe(name)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return names


def _measures(text: str) -> list[str]:
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown measure '{unknown[0]}'; known: {', '.join(MEASURES)}")
    return names


def _json_file(text: str) -> Path:
    path = Path(os.path.expanduser(text))
    if path.suffix != ".json":
        raise argparse.ArgumentTypeError(f"'{text}': the numbers' file ends in .json")
    return path
