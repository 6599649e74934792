"""Recipes as flat settings, keyed as `--set` takes them, where two differ; settings given as one text; numbers."""

import ast
import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from pgolf_core.base.files import UserError
from pgolf_core.recipes.recipe import Recipe, to_dict


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one: {"model": {"num_layers": 9}} gives {"model.num_layers": 9}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def differences(ours: Recipe, theirs: Recipe) -> list[list[Any]]:
    """[key, ours, theirs] wherever two recipes differ, name and title apart."""
    mine, other = flatten(to_dict(ours)), flatten(to_dict(theirs))
    return [[key, mine[key], other[key]] for key in mine if mine[key] != other[key] and key not in ("name", "title")]


def given_overrides(value: Sequence[str] | str) -> list[str]:
    """Overrides as a notebook's parameter: a list, or one text as `papermill -p` gives it, "a.b=1 c.d=2" or JSON."""
    if isinstance(value, str):
        listed = json_list(value)
        value = re.split(r"[,;\s]+(?=[a-z_]+(?:\.[a-z_]+)*\s*=)", value.strip()) if listed is None else listed
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise UserError(f'overrides {value!r} must be a list of texts, as ["model.num_layers=12"]')
    return [one for one in value if one]


def json_list(text: str) -> list[Any] | None:
    """The list that a text writes in JSON or as Python does, if it does."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = read(text.strip())
            repr(value)  # or a message about it would fail: Python reads hexadecimal numbers of any length
            return list(value) if isinstance(value, list | tuple) else None
    return None


def check_seed(seed: object, what: str = "seed") -> None:
    """UserError for a seed that no result could hold, named as `what`."""
    if type(seed) is not int or not 0 <= seed < 10**15:
        raise UserError(f"{what} {seed!r} is not a whole number below 10^15, as a result can hold")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number that a float can hold; a bool is none."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False
