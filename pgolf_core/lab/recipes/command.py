"""`pgolf recipes`: the list, one recipe resolved, or a recipe made of a published run command."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from pgolf_core.base.files import UserError, write_text
from pgolf_core.lab.shared.settings import flatten
from pgolf_core.lab.shared.tables import table_text
from pgolf_core.lab.shared.usage import UsageError, add_json, checked_recipe, recipe_argument
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import to_dict


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf recipes`."""
    parser.epilog = (
        "A recipe is everything that decides a run. NAME is one of the list, or a path to your own .toml file."
    )
    option = parser.add_argument
    about = "show this one with every value: the keys that --set takes (default: list all)"
    option("recipe", nargs="?", metavar="NAME", help=about)
    option("--from-command", metavar="TEXT", help='a run command, as "NUM_LAYERS=11 ... torchrun ..."')
    option("--script", metavar="PR", help="whose script it calls, and whose defaults so apply, as pr315")
    option("--out", metavar="FILE.toml", help="write that recipe there instead of printing it")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """List, show or make; returns the exit status."""
    if options.from_command is not None:
        return _recipe_from_command(options)
    if options.script or options.out:
        raise UsageError("--script and --out go with --from-command; see `pgolf recipes --help`")
    if options.recipe:
        recipe = checked_recipe(recipe_argument(options.recipe))
        values = {**to_dict(recipe), "fingerprint": recipe.fingerprint}
        shown = ((key, json.dumps(value, ensure_ascii=False)) for key, value in flatten(values).items())
        print(json.dumps(values, indent=2) if options.json else table_text(("key", "value"), shown, left=2))
        return 0
    recipes = [load_recipe(name) for name in available_recipes()]
    rows = [{"name": r.name, "fingerprint": r.fingerprint, "track": r.track, "title": r.title} for r in recipes]
    cells = ((row["name"], row["fingerprint"][:8], row["title"]) for row in rows)
    header = ("recipe", "fingerprint", "what it is")
    print(json.dumps(rows, indent=2) if options.json else table_text(header, cells, left=3))
    return 0


def _recipe_from_command(options: argparse.Namespace) -> int:
    """The recipe on standard output (or in --out), what there is to say about it on standard error."""
    from pgolf_core.lab.recipes.published_command import SCRIPTS, compare_known, comparison_lines, recipe_from_command

    if not options.script or options.recipe:
        raise UsageError(f"--from-command needs --script ({', '.join(SCRIPTS)}) and no recipe's name")
    out = Path(os.path.expanduser(options.out)) if options.out else None
    if out and out.suffix != ".toml":
        raise UsageError(f"--out {out}: a recipe's file ends in .toml")
    if out and out.exists():
        raise UsageError(f"--out {out} exists and is not overwritten; delete it or choose another name")
    try:
        resolved = recipe_from_command(options.from_command, options.script)
    except UserError as error:
        raise UsageError(str(error)) from None
    recipe, known = resolved.recipe, compare_known(resolved.recipe, options.script)
    for line in [*map(str, resolved.reports), *comparison_lines(recipe, known)]:
        print(line, file=sys.stderr)
    if out:
        write_text(out, resolved.toml)
    if options.json:
        reports = [asdict(report) for report in resolved.reports]
        values = {"recipe": to_dict(recipe), "fingerprint": recipe.fingerprint}
        print(json.dumps({**values, "reports": reports, "differs_from": known}, indent=2))
    else:
        print(out if out else resolved.toml, end="\n" if out else "")
    return 0
