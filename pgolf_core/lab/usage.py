"""What commands share: wrong usage, and numbers and recipes as the command line names them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from pgolf_core.files import UserError
from pgolf_core.recipe import Recipe, load_recipe


class UsageError(UserError):
    """The command was called with something that cannot be meant."""


def count(text: str) -> int:
    """An option that counts something; argparse.ArgumentTypeError below 1."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def recipe_argument(name: str) -> str:
    """A recipe's name as given; a path to a .toml made absolute, since notebooks run in another folder."""
    return os.path.abspath(os.path.expanduser(name)) if name.endswith(".toml") else name


def checked_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name with `--set` applied; UsageError for one that cannot be."""
    try:
        return load_recipe(name, overrides)
    except UserError as error:
        raise UsageError(str(error)) from None
