"""What the five published records say of themselves: papers/records/prN.toml as dataclasses and tables.

The files are read strictly: an unknown or missing key, a wrong type or an impossible value is an error that names the
file and the key. A figure that was never published is a key left out, None here and NaN in a table.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pgolf_core.base.files import UserError
from pgolf_core.base.strict import build
from pgolf_core.lab.shared.places import CORE_DIR
from pgolf_core.recipes.reading import available_recipes, lineage

RECORDS = ("pr194", "pr315", "pr332", "pr531", "pr534")
RECORD_DIR = CORE_DIR.parent / "papers" / "records"
UNITS = {"train loss": "nats per token", "val bpb": "bits per byte"}
"""What a curve may hold, and its unit."""
CHOICES = {
    "status": ("merged", "open", "closed"),
    "scored_with": ("sliding 64", "standard"),
    "curves.what": tuple(UNITS),
}


@dataclass(frozen=True)
class PublishedSeed:
    """One published run, as its log has it. Losses in nats per token, scores in bits per byte."""

    seed: int
    steps: int
    ms_per_step: float | None = None
    """Mean over the run, validation left out."""
    train_seconds: float | None = None
    """Training clock at the end, where it is not the budget."""
    raw_loss: float | None = None
    """Unaveraged, unquantised weights, non-overlapping windows."""
    raw_bpb: float | None = None
    standard_loss: float | None = None
    """Packed file, non-overlapping windows."""
    standard_bpb: float | None = None
    sliding_loss: float | None = None
    """Packed file, stride 64, with the published re-scoring of the last 64 targets."""
    sliding_bpb: float | None = None
    model_bytes: int | None = None
    """Compressed weight file."""
    total_bytes: int | None = None
    """Weight file and script: what the cap is for."""
    snapshots: int | None = None
    """SWA snapshots that the log names; 0: SWA was asked for and the log has no line of it."""
    first_snapshot_step: int | None = None
    late_qat_step: int | None = None
    """Step at which the log says that late QAT came on, whether or not it did."""


@dataclass(frozen=True)
class Curve:
    """Points of one log's curve."""

    label: str
    what: str
    """train loss (rank 0's own mean) or val bpb (raw weights, non-overlapping windows)."""
    unit: str
    seed: int | None
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Artifact:
    """The published weight file."""

    file: str
    container: str
    """Format tag inside it, or the shape of the object where it has none."""
    compressor: str
    payload_bytes: int
    """Codes, scales and stored tensors before compression."""
    state_bytes: int
    """The state dict before quantisation, in its own mix of bfloat16 and float32."""
    state_tensors: int
    raw_object_bytes: int | None = None
    """The saved object before compression, container included."""


@dataclass(frozen=True)
class Claim:
    """A figure from its documents that no log bears out, or that is stated beside the results."""

    what: str
    value: float
    unit: str
    note: str


@dataclass(frozen=True)
class Published:
    """One record. `name` is the file's."""

    name: str
    title: str
    status: str
    parameters: int
    script_bytes: int
    """Of the script that made the logs, UTF-8."""
    batch_tokens: int
    window_tokens: int
    budget_seconds: float
    hardware: str
    torch: str
    """Version in the log, or 'not logged'."""
    attention_kernel: str
    scored_with: str
    """sliding 64, or standard (non-overlapping)."""
    claimed_bpb: float
    claimed_of: str
    """mean, or 'seed K'."""
    artifact: Artifact
    log: dict[str, Any]
    """Where in its logs the figures stand: how the lines begin, the keys of its submission.json. Nothing reads it."""
    seeds: tuple[PublishedSeed, ...]
    curves: tuple[Curve, ...]
    claims: tuple[Claim, ...] = ()
    mean_bpb: float | None = None
    std_bpb: float | None = None
    ms_per_step: float | None = None
    """Typical step, where the record gives one number for all seeds."""
    peak_memory_mib: float | None = None
    """MiB on one device."""
    eval_seconds: float | None = None
    train_shards: int | None = None
    head_script_bytes: int | None = None
    """Script at the head of the pull request, where it is not the one that made the logs."""


def load_published(name: str, folder: Path = RECORD_DIR) -> Published:
    """The published figures of one record; UserError for an unknown name or a malformed file."""
    if name not in RECORDS:
        raise UserError(f"unknown record '{name}'; known: {', '.join(RECORDS)}")
    path = folder / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = f"{error.strerror}; the figures lie in the repository: install from a clone"
        raise UserError(f"cannot read {path}: {why}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: not valid TOML: {error}") from None
    if "name" in values:
        raise UserError(f"{path.name}: unknown key 'name'; the file's own name is the record's")
    published = build(Published, values | {"name": name}, path.name)
    for complaint in itertools.chain(_impossible(values), _contradictions(published)):
        raise UserError(f"{path.name}: {complaint}")
    return published


def record_of(recipe_name: str) -> str | None:
    """The record that a recipe descends from: by its name and its `extends`, else by its name's parts; else None.

    `recipe_name` may end in .toml and is then a file, as for `load_recipe`, and a faulty file raises UserError.
    """
    at_hand = recipe_name in available_recipes() or (recipe_name.endswith(".toml") and Path(recipe_name).is_file())
    stems = [path.stem for path in lineage(recipe_name)] if at_hand else []  # of a run from elsewhere the name is
    parts = Path(recipe_name).stem.split("-")
    return next((name for name in [*stems, *parts] if name in RECORDS), None)


def seeds_table(published: Published) -> pd.DataFrame:
    """One row a seed, columns as PublishedSeed's fields, gaps NaN; ms_per_step is the record's if a seed has none."""
    rows = [asdict(seed) for seed in published.seeds]
    for row in rows:
        row["ms_per_step"] = row["ms_per_step"] or published.ms_per_step
    return pd.DataFrame(rows).astype(float)


def _impossible(value: Any, key: str = "") -> Iterator[str]:
    """Single values of the right type that no figure can have: as messages that name the key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _impossible(item, f"{key}.{name}".strip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _impossible(item, key)
    elif key in CHOICES and value not in CHOICES[key]:
        yield f"{key} = {value!r}; allowed: {', '.join(CHOICES[key])}"
    elif isinstance(value, str) and not value.strip():
        yield f"{key} is empty; leave an unknown figure out"
    elif isinstance(value, int | float) and value < 0:
        yield f"{key} = {value}; every figure is a number from 0 on"


def _contradictions(published: Published) -> Iterator[str]:
    """What no single value shows: as messages that name the key."""
    seeds = [seed.seed for seed in published.seeds]
    if not seeds:
        yield "no [[seeds]]; at least one is needed"
    if len(set(seeds)) < len(seeds):
        yield f"seeds.seed: {seeds} names a seed twice"
    if published.claimed_of not in ("mean", *(f"seed {seed}" for seed in seeds)):
        yield f"claimed_of = {published.claimed_of!r}; allowed: mean, {', '.join(f'seed {seed}' for seed in seeds)}"
    for curve in published.curves:
        where = f"curve '{curve.label}'"
        if len(curve.steps) != len(curve.values):
            yield f"{where}: steps has {len(curve.steps)} entries, values {len(curve.values)}"
        if not curve.steps or list(curve.steps) != sorted(set(curve.steps)):
            yield f"{where}: steps must increase, and there must be some"
        if curve.unit != UNITS[curve.what]:
            yield f"{where}: unit of {curve.what} is {UNITS[curve.what]!r}, not {curve.unit!r}"
        if curve.seed is not None and curve.seed not in seeds:
            yield f"{where}: seed {curve.seed} is none of {seeds}"
