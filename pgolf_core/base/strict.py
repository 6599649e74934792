"""A frozen dataclass from what a file holds, or one line on what does not fit."""

import dataclasses
import types
import typing
from typing import Any

from pgolf_core.base.files import UserError


def build(kind: type, values: Any, source: str, prefix: str = "") -> Any:
    """A `kind` from nested plain values, as JSON or TOML gives them; fields with defaults may be missing.

    `source` names the file in errors, `prefix` the place in it. Raises UserError for a key that is unknown or missing
    and for a value of another type; whole numbers serve where a float is asked for, true and false never as numbers.
    """
    if not isinstance(values, dict):
        place = f"{prefix.rstrip('.')} " if prefix else ""
        raise UserError(f"{source}: {place}must be a table, not {values!r:.99}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"{source}: unknown key '{prefix}{unknown[0]}'; allowed: {', '.join(hints)}")
    for field in dataclasses.fields(kind):
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if not optional and field.name not in values:
            raise UserError(f"{source}: key '{prefix}{field.name}' is missing")
    return kind(**{key: convert(value, hints[key], source, prefix + key) for key, value in values.items()})


def convert(value: Any, hint: Any, source: str, key: str) -> Any:
    """`value` as a type hint asks: a class, a dataclass, `X | None`, tuple[...], list[X], dict[str, X] or Any."""
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, source, f"{key}.")
    items = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return None if value is None else convert(value, items[0], source, key)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise UserError(f"{source}: {key} must be a table, not {value!r}")
        return {name: convert(item, items[1], source, f"{key}.{name}") for name, item in value.items()}
    if isinstance(hint, types.GenericAlias):  # tuple[int, ...], tuple[float, float] or list[int]
        if not isinstance(value, list | tuple):
            raise UserError(f"{source}: {key} must be a list, not {value!r}")
        if typing.get_origin(hint) is list or items[-1] is Ellipsis:
            return typing.get_origin(hint)(convert(item, items[0], source, key) for item in value)
        if len(value) != len(items):
            raise UserError(f"{source}: {key} must have {len(items)} entries, not {len(value)}")
        return tuple(convert(item, kind, source, key) for item, kind in zip(value, items, strict=True))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        if not -1e300 < value < 1e300:  # false for NaN too
            raise UserError(f"{source}: {key} must be finite, not {value!r}")
        return float(value)
    if hint is float or type(value) is not hint:
        raise UserError(f"{source}: {key} must be of type {hint.__name__}, not {value!r}")
    if hint is int and abs(value) >= 2**53:
        raise UserError(f"{source}: {key} must be below 2^53, not {value}")
    return value
