"""A run's finished seeds: their folders, what each result.json says of itself, and what makes them one experiment."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, read_json
from pgolf_core.lab.shared.places import RECIPE_FILE
from pgolf_core.recipes.recipe import Recipe, from_dict
from pgolf_core.result import Result

SCORE_LABELS = {"raw": "raw", "averaged": "averaged", "roundtrip": "round-trip", "sliding": "sliding"}
"""The four scores in the order of the stages, and what figures and tables call them: raw and averaged weights from
memory with stride = window, and the packed file with stride = window and sliding."""
PACKED = ("sliding", "roundtrip")
"""Scores of the packed file as it is, which every seed has."""
COMPARED = SCORE_LABELS | {"adapted": "adapted", "final": "final (adapted, or sliding where nothing adapts)"}
"""What `pgolf compare` can compare, and its name: also the score of weights that learn from what has been scored."""
JUDGED = (*PACKED, "adapted", "final")
"""Scores that the challenge's rule can be asked of."""
WHOLE_WINDOWS = ("sliding", "adapted", "final")
"""Scores taken at the recipe's stride; the others have windows side by side."""


def final_score(result: Result) -> str:
    """Which score a seed is known by: adapted where its recipe adapts, else sliding."""
    return "sliding" if result.adapted_bpb is None else "adapted"


TEXTS = tuple(field.name for field in fields(Result) if field.type is str and field.name != "stopped_by")
SHARED = (*TEXTS, "cap_bytes", "val_targets", "val_bytes", "raw_targets", "sliding_stride", "window")
"""Fields of Result that are equal in every seed, or the seeds are not one experiment."""


def seed_folders(recipe_folder: Path) -> dict[int, Path]:
    """{seed: folder} of every seed<k> folder in a recipe's run folder, finished or not, by seed."""
    found = [path for path in Path(recipe_folder).glob("seed*") if path.is_dir() and path.name[4:].isdecimal()]
    return dict(sorted((int(path.name[4:]), path) for path in found))


def json_object(path: Path) -> dict[str, Any]:
    """What a JSON file of a run folder holds; UserError if that is no object, or has a number that no run writes."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a JSON object; delete it and run its stage again")
    for odd in _strange_numbers(values):
        raise UserError(f"{path} has the number {odd!r:.20}, which no run writes; delete it and run its stage again")
    return values


def _strange_numbers(value: Any) -> Iterator[float]:
    """Numbers at any depth that are not finite, or whole ones that JSON's readers do not all keep exactly."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strange_numbers(item)
    elif isinstance(value, int | float) and not (abs(value) < 2**53 or (type(value) is float and math.isfinite(value))):
        yield value


def read_object(path: Path) -> dict[str, Any]:
    """The same, empty where there is no file."""
    return json_object(path) if path.is_file() else {}


def recorded_recipe(folder: Path | str, *, as_it_stands: bool = False) -> Recipe:
    """The recipe a run folder was made with, from its recipe.json; UserError where its values are not those of its
    fingerprint, unless it is to be taken `as_it_stands`.
    """
    path = Path(folder) / RECIPE_FILE
    values = json_object(path)
    said, recipe = values.pop("fingerprint", None), from_dict(values, str(path))
    if not as_it_stands and said != recipe.fingerprint:
        raise UserError(f"{path} was changed: its values are not its fingerprint's; delete it and record the run again")
    return recipe


def contradictions(result: Result, seed: int) -> Iterator[str]:
    """What a result of seed `seed` says against itself."""
    if result.seed != seed:
        yield f"seed {result.seed} is not {seed}"
    for key in ("data_sha256", "core_sha256"):
        if not getattr(result, key):
            yield f"there is no '{key}'"
    if result.val_targets < 1 or result.val_bytes < 1:
        yield f"nothing was scored: {result.val_targets} targets of {result.val_bytes} bytes"
        return
    if result.total_bytes != result.artifact_bytes + result.code_bytes:
        yield "total_bytes is not artifact_bytes + code_bytes"
    adapted = ("adapted",) if result.adapted_bpb is not None and result.adapted_loss is not None else ()
    if not adapted and (result.adapted_bpb, result.adapted_loss) != (None, None):
        yield "adapted_bpb and adapted_loss go together, and one is not there"
    for name in (*PACKED, *adapted):  # all cover all targets, so the bytes tie the loss to the bpb
        bpb = getattr(result, f"{name}_loss") * result.val_targets / (math.log(2) * result.val_bytes)
        if not math.isclose(bpb, getattr(result, f"{name}_bpb"), rel_tol=1e-6):
            yield f"{name}_bpb does not follow from {name}_loss, val_targets and val_bytes"
    if "train" not in result.seconds:
        yield "there is no 'seconds.train'"
    parts = sum(spent for part, spent in result.seconds.items() if part != "total")
    if not math.isclose(parts, whole_seconds(result), abs_tol=0.01):
        yield "the parts of seconds do not add up to its total"


def whole_seconds(result: Result) -> float:
    """Seconds of a whole seed: the `total` entry where there is one, else the sum of the parts."""
    return result.seconds["total"] if "total" in result.seconds else sum(result.seconds.values())


def refuse_unlike(results: Mapping[int, Result], where: str = "") -> None:
    """UserError for seeds of another recipe, code, text or window than the first: they describe no one experiment."""
    (first, one), *others = results.items()
    for seed, other in others:
        if (one.adapted_bpb is None) != (other.adapted_bpb is None):
            has, lacks = (first, seed) if other.adapted_bpb is None else (seed, first)
            what = f"seed {has} has an adapted score and seed {lacks} has none"
            raise UserError(f"{where}{what}: they are not one experiment; run them again with --fresh")
        if one.scores_sha256 and one.scores_sha256 == other.scores_sha256:
            what = f"seeds {first} and {seed} have the nats of every window in common"
            raise UserError(f"{where}{what}: one is a copy of the other; delete it, or run it again with --fresh")
        for key in SHARED:
            if (mine := getattr(one, key)) != (its := getattr(other, key)):
                what = f"seeds {first} and {seed} differ in {key} ({mine!s:.12}, {its!s:.12})"
                raise UserError(f"{where}{what}: they are not one experiment; run them again with --fresh")
