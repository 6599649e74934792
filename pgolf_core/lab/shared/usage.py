"""What commands share: wrong usage, and numbers and recipes as the command line names them."""

import argparse
import contextlib
import difflib
import math
import os
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pgolf_core.base.files import UserError
from pgolf_core.lab.shared.idle import idle_note
from pgolf_core.lab.shared.places import short_path
from pgolf_core.lab.shared.tables import width
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import Recipe, to_dict


class UsageError(UserError):
    """The command was called with something that cannot be meant."""

    status = 2
    """The command's exit status."""


def count(text: str) -> int:
    """An option that counts something; argparse.ArgumentTypeError below 1, and for more digits than Python reads."""
    with contextlib.suppress(ValueError):
        if text.isascii() and text.isdecimal() and (number := int(text)):
            return number
    raise argparse.ArgumentTypeError(f"'{text:.40}' is not a whole number of at least 1")


def span_seconds(text: str) -> float:
    """An option that is a span of time; argparse.ArgumentTypeError for what is none, as 0."""
    with contextlib.suppress(ValueError):
        if 0 < (span := float(text)) < math.inf:
            return span
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")


def whole_numbers(text: str) -> list[int]:
    """Whole numbers below 10^15 between commas, as results can hold; argparse.ArgumentTypeError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers, as 1337,1338,1339")
    if max(map(len, parts)) > 15:
        raise argparse.ArgumentTypeError(f"'{text}' has a number of more than 15 digits; give smaller ones")
    return list(map(int, parts))


def recipe_argument(name: str) -> str:
    """A recipe's name as given; a path to a .toml made absolute, since notebooks run in another folder."""
    return os.path.abspath(os.path.expanduser(name)) if name.endswith(".toml") else name


def checked_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name with `--set` applied; keys without effect, or set twice, are noted.

    UsageError for one that cannot be.
    """
    try:
        recipe = load_recipe(name, overrides)
    except UserError as error:
        raise UsageError(_meant(_place_of_fault(str(error), name, overrides), name)) from None
    times = Counter(text.partition("=")[0].strip() for text in overrides)
    for key, number in times.items():
        if number > 1:
            note(f"--set {key} is given {number} times; the last counts")
    if idle := idle_note(name, overrides, recipe):
        note(idle)
    return recipe


def _place_of_fault(said: str, name: str, overrides: Sequence[str]) -> str:
    """A recipe's fault that its own file does not have is that of `--set`."""
    if overrides:
        with contextlib.suppress(UserError):
            load_recipe(name)
            return f"--set: {said.removeprefix(f'{Path(name).stem}.toml: ')}"
    return said


def _meant(said: str, recipe: str) -> str:
    """Of a name that nothing has the nearest one, in place of the list of all."""
    if not (found := re.match(r"(.*unknown (recipe|key) '(.*)'); (?:allowed|known): ", said)):
        return said
    if found[2] == "recipe":
        near = difflib.get_close_matches(found[3], available_recipes(), 1, 0.8)
        return f"{found[1]}; did you mean {near[0]}? `pgolf recipes` lists all" if near else said
    sections = {name: part for name, part in to_dict(Recipe()).items() if isinstance(part, dict)}
    keys = {key: f"{name}." for name, part in sections.items() for key in part}
    near = difflib.get_close_matches(found[3].rpartition(".")[2], keys, 1, 0.8)
    return f"{found[1]}; did you mean {keys[near[0]]}{near[0]}? `pgolf recipes {recipe}` shows all" if near else said


def note(text: str) -> None:
    """A line on standard error for what a reader of the result has to know; at a terminal broken between words."""
    columns = width() if sys.stderr.isatty() else sys.maxsize
    print(textwrap.fill(f"note: {text}", columns, subsequent_indent="  ", break_on_hyphens=False), file=sys.stderr)


class Lines(argparse.HelpFormatter):
    """Help whose description and epilog keep their lines; one that is wider than the terminal goes on below, set in."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = []
        for line in text.splitlines():
            label = re.match(r" *\S.*?  +", line)  # the first of two columns
            hang = len(label[0]) if label and len(label[0]) <= width // 2 else len(line) - len(line.lstrip()) + 2
            lines += textwrap.wrap(line, width, subsequent_indent=" " * hang, break_on_hyphens=False) or [""]
        return "\n".join(lines)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, on whatever prints a table."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """`--cache`: where prepared datasets lie."""
    about = "folder of prepared datasets (default: PGOLF_CACHE, else your cache folder)"
    parser.add_argument("--cache", default="", metavar="DIR", help=about)


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data` and `--cache`: which dataset, and where it lies."""
    about = "prepared dataset (`pgolf data list`) instead of the recipe's own"
    parser.add_argument("--data", default="", metavar="NAME", help=about)
    add_cache(parser)


def add_set(parser: argparse.ArgumentParser) -> None:
    """`--set`: changes of single keys of a recipe."""
    about = "change a key, as model.num_layers=12; may be given again for another; `pgolf recipes NAME` shows every key"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=about)


def place(folder: str) -> str:
    """A folder given on the command line: absolute, or relative to the repository it lies in, so that runs can move."""
    return short_path(os.path.expanduser(folder)) if folder else ""
