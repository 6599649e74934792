"""`pgolf plan`: what a recipe takes, before anything runs."""

import argparse
import sys

from pgolf_core.lab.shared.usage import add_json, add_set, checked_recipe, count, recipe_argument


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf plan`."""
    parser.add_argument("recipe", help="name of a recipe (`pgolf recipes`), or a path ending in .toml")
    add_set(parser)
    about = "milliseconds of a step, for the steps that fit in the budget"
    parser.add_argument("--step-ms", type=float, metavar="MS", help=about)
    about = "processes that train together; the memory shown is of one"
    parser.add_argument("--nproc", type=count, metavar="N", help=about)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the plan; returns the exit status."""
    recipe = checked_recipe(recipe_argument(options.recipe), options.set)
    from pgolf_core.lab.plan import memory, table

    if sys.stderr.isatty() and memory.assumed_execution(recipe).compiled:
        print("tracing a step: some ten seconds", file=sys.stderr)
    planned = table.plan_table(recipe, options.step_ms, ranks=options.nproc)
    if options.json:
        print(planned.to_json(orient="records", indent=2, force_ascii=False))
    else:
        print(table.plan_text(planned))
    return 0
