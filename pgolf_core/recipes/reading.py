"""Recipes on disk: TOML files that extend one another (`extends = "pr315"`), and overrides in words."""

import os
import tomllib
import typing
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError
from pgolf_core.recipes.recipe import Recipe, from_dict

RECIPE_DIR = Path(__file__).parent


def _by_name(folder: Path) -> dict[str, Path]:
    """Path by recipe's name; our own lie in folders by kind."""
    ours = RECIPE_DIR.glob("*/*.toml") if folder == RECIPE_DIR else []
    return {path.stem: path for path in [*folder.glob("*.toml"), *ours]}


def available_recipes(folder: Path = RECIPE_DIR) -> list[str]:
    """Names of the recipes on disk, sorted."""
    return sorted(_by_name(folder))


def load_recipe(name: str, overrides: typing.Sequence[str] = (), folder: Path = RECIPE_DIR) -> Recipe:
    """Read a recipe by name (or a path ending in .toml), follow `extends`, apply `section.key=value` overrides.

    Raises UserError for an unknown recipe, an unknown key, a wrong type or an impossible value.
    """
    values: dict[str, Any] = {}
    for _, own in reversed(_read_chain(name, folder)):
        values.pop("title", None)  # a recipe without a title has none, whatever it extends
        values = _merge(values, own)
    source = _path_of(name, folder).name
    for text in overrides:
        _apply_override(values, text, source)
    values["name"] = Path(name).stem
    return from_dict(values, source)


def _path_of(name: str, folder: Path) -> Path:
    return Path(name) if name.endswith(".toml") else _by_name(folder).get(name, folder / f"{name}.toml")


def lineage(name: str, folder: Path = RECIPE_DIR) -> list[Path]:
    """The files of a recipe and of those that it extends, nearest first. Raises UserError as `load_recipe`."""
    return [path for path, _ in _read_chain(name, folder)]


def toml_of(text: str) -> dict[str, Any]:
    """What a TOML text says; ValueError or RecursionError for what it cannot, or no message could repeat."""
    values = tomllib.loads(text)
    repr(values)  # which refuses thousands of digits, as tomllib does but for hexadecimal, octal and binary ones
    return values


def _read_chain(name: str, folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Each file of the lineage with what it says, `extends` left out."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        path = _path_of(name, folder)
        if not os.path.isfile(path):  # which takes any text, as one that is too long for a name
            by = f"{chain[-1][0].name}: extends: " if chain else ""
            if name.endswith(".toml"):
                fault = "is a folder" if path.is_dir() else "does not exist"
                raise UserError(f"{by}{name} {fault}; name a recipe's file, or one of ours (`pgolf recipes`)")
            meant = f"{name}.toml, which is here, or one of: " if os.path.isfile(f"{name}.toml") else ""
            raise UserError(f"{by}unknown recipe '{name}'; known: {meant}{', '.join(available_recipes(folder))}")
        before = [known.resolve() for known, _ in chain]
        if path.resolve() in before:
            way = " -> ".join(known.stem for known in (*before, path))
            raise UserError(f"{path.name}: extends itself through {way}; break the circle")
        try:
            values = toml_of(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:  # also whole numbers and lists that Python itself refuses
            raise UserError(f"{path.name}: not valid TOML: {error}") from None
        if "name" in values:
            raise UserError(f"{path.name}: name cannot be given: a recipe is called as its file; take that line out")
        parent = values.pop("extends", None)
        chain.append((path, values))
        if parent is None:
            return chain
        if not isinstance(parent, str):
            raise UserError(f"{path.name}: extends must be a recipe's name, not {parent!r}")
        # a recipe of one's own may extend a neighbour or one of ours
        neighbour = path.parent / f"{parent.removesuffix('.toml')}.toml"
        name, folder = str(neighbour) if os.path.isfile(neighbour) else parent, RECIPE_DIR


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    tables = {key for key, value in change.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **change, **{key: _merge(base[key], change[key]) for key in tables}}


def _apply_override(values: dict[str, Any], text: str, source: str) -> None:
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not key or not raw:
        raise UserError(f"override '{text}' is not of the form section.key=value, for example model.num_layers=12")
    if key in ("name", "extends", "title"):
        raise UserError(f"override '{text}': {key} cannot be overridden; use --name or another recipe")
    try:
        parsed = toml_of(f"value = {raw.lower() if raw in ('True', 'False') else raw}")
    except (ValueError, RecursionError):
        parsed = {}  # a bare word is a string, so that --set average.kind=swa needs no quotes
    value = parsed["value"] if len(parsed) == 1 else raw  # of several lines none is dropped
    *sections, last = key.split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UserError(f"{source}: unknown key '{key}' in override '{text}'; `pgolf recipes NAME` shows all")
    if isinstance(table.get(last), dict):
        raise UserError(f"override '{text}': '{key}' is a section; give one of its keys, as {key}.KEY=value")
    table[last] = value
