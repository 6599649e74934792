"""Recipes as flat settings, keyed as `--set` takes them, and where two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
