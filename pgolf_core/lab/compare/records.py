"""What the five published records say of themselves: papers/records/prN.toml as dataclasses and tables.

The files are read strictly: an unknown or missing key, a wrong type or an impossible value is an error that names the
file and the key. A figure that was never published is a key left out, None here and NaN in a table.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pgolf_core.base.files import UserError
from pgolf_core.lab.shared.places import CORE_DIR
from pgolf_core.recipes.reading import available_recipes, lineage
from pgolf_core.recipes.rules import TRACK_CAP_BYTES

RECORDS = ("pr194", "pr315", "pr332", "pr531", "pr534")
RECORD_DIR = CORE_DIR.parent / "papers" / "records"
UNITS = {"train loss": "nats per token", "val bpb": "bits per byte"}
"""What a curve may hold, and its unit."""
CHOICES = {
    "status": ("merged", "open", "closed"),
    "scored_with": ("sliding 64", "standard"),
    "curve.what": tuple(UNITS),
}


@dataclass(frozen=True)
class Seed:
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
class Log:
    """Where in a published log the figures stand: a line begins with these words."""

    model_line: str
    total_line: str
    score_line: str
    """Holds the claimed score at full precision. The same words mean sliding in one record, standard in another."""
    submission_keys: tuple[str, ...]
    """Keys of its submission.json."""
    standard_line: str | None = None
    train_log_seed: int | None = None
    """Seed of the file called train.log."""


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
    log: Log
    seeds: tuple[Seed, ...]
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


TABLES = {"seed": "seeds", "curve": "curves", "claim": "claims"}
"""[[seed]] in the file is `seeds` here: a table is named for one entry, a field for all."""


def load_published(name: str, folder: Path = RECORD_DIR) -> Published:
    """The published figures of one record; UserError for an unknown name or a malformed file."""
    if name not in RECORDS:
        raise UserError(f"unknown record '{name}'; known: {', '.join(RECORDS)}")
    path = folder / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; the figures lie in the repository: install from a clone") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: not valid TOML: {error}") from None
    for table, field in TABLES.items():
        if field in values:
            raise UserError(f"{path.name}: unknown key '{field}'; write [[{table}]] once for each")
        if table in values:
            values[field] = values.pop(table)
    if "name" in values:
        raise UserError(f"{path.name}: unknown key 'name'; the file's own name is the record's")
    published = _build(Published, values | {"name": name}, path.name, "")
    for message in _contradictions(published):
        raise UserError(f"{path.name}: {message}")
    return published


def record_of(recipe_name: str) -> str | None:
    """The record that a recipe descends from: by its name and its `extends`, else by its name's parts; else None.

    `recipe_name` may end in .toml and is then a file, as for `recipe.load_recipe`, and a faulty file raises UserError.
    """
    at_hand = recipe_name in available_recipes() or (recipe_name.endswith(".toml") and Path(recipe_name).is_file())
    stems = [path.stem for path in lineage(recipe_name)] if at_hand else []  # of a run from elsewhere the name is
    parts = Path(recipe_name).stem.split("-")
    return next((name for name in [*stems, *parts] if name in RECORDS), None)


def seeds_table(published: Published) -> pd.DataFrame:
    """One row a seed: steps, tokens, ms_per_step, losses in nats per token, scores in bpb, bytes, bytes left."""
    cap = TRACK_CAP_BYTES["10min_16mb"]
    rows = []
    for seed in published.seeds:
        row: dict[str, Any] = {"record": published.name, "seed": seed.seed, "steps": seed.steps}
        row["tokens"] = seed.steps * published.batch_tokens
        row["ms_per_step"] = published.ms_per_step if seed.ms_per_step is None else seed.ms_per_step
        for kind in ("raw", "standard", "sliding"):
            row[f"{kind}_loss_nats"] = getattr(seed, f"{kind}_loss")
            row[f"{kind}_bpb"] = getattr(seed, f"{kind}_bpb")
        row |= {"model_bytes": seed.model_bytes, "total_bytes": seed.total_bytes}
        row["bytes_left"] = None if seed.total_bytes is None else cap - seed.total_bytes
        rows.append(row)
    table = pd.DataFrame(rows)
    kinds = {c: "Int64" if c.startswith(("model", "total", "bytes")) else float for c in table.columns[4:]}
    return table.astype(kinds)  # a figure never published is a gap, never an object column


def records_table() -> pd.DataFrame:
    """One row a record, means over its seeds; raw_bpb is the one score that all five have on the same windows."""
    rows = []
    for name in RECORDS:
        published = load_published(name)
        seeds = seeds_table(published)
        row = {"record": name, "title": published.title, "status": published.status}
        row |= {"parameters": published.parameters, "batch_tokens": published.batch_tokens, "seeds": len(seeds)}
        row |= {column: seeds[column].mean() for column in ("steps", "ms_per_step", "raw_bpb", "standard_bpb")}
        row |= {"sliding_bpb": seeds["sliding_bpb"].mean(), "claimed_bpb": published.claimed_bpb}
        row |= {"claimed_of": published.claimed_of, "scored_with": published.scored_with}
        row |= {"total_bytes_max": seeds["total_bytes"].max(), "seeds_over_cap": int((seeds["bytes_left"] < 0).sum())}
        row |= {"script_bytes": published.script_bytes, "peak_memory_mib": published.peak_memory_mib}
        rows.append(row | {"torch": published.torch})
    return pd.DataFrame(rows).astype({"peak_memory_mib": float})


# ---------------------------------------------------------------------- reading


def _contradictions(published: Published) -> typing.Iterator[str]:
    """What no single value shows: as messages that name the key."""
    seeds = [seed.seed for seed in published.seeds]
    if not seeds:
        yield "missing key 'seed'; at least one [[seed]] is needed"
    if len(set(seeds)) < len(seeds):
        yield f"seed.seed: {seeds} names a seed twice"
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


def _build(kind: type, values: Any, source: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{source}: {prefix.rstrip('.')} must be a table, not {values!r}")
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            allowed = [name for name in _in_file(hints) if name != "name"]
            raise UserError(f"{source}: unknown key '{prefix}{key}'; allowed: {', '.join(allowed)}")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in values:
            raise UserError(f"{source}: missing key '{prefix}{_in_file([field.name])[0]}'")
    return kind(**{key: _convert(value, hints[key], source, prefix, key) for key, value in values.items()})


def _convert(value: Any, hint: Any, source: str, prefix: str, key: str) -> Any:
    where = prefix + _in_file([key])[0]
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, source, f"{where}.")
    if isinstance(hint, types.GenericAlias):
        item = typing.get_args(hint)[0]
        if not isinstance(value, list):
            raise UserError(f"{source}: {where} must be a list, not {value!r}")
        return tuple(_convert(entry, item, source, prefix, key) for entry in value)
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise UserError(f"{source}: {where} must be of type {hint.__name__}, not {value!r}")
    if where in CHOICES and value not in CHOICES[where]:
        raise UserError(f"{source}: {where} = {value!r}; allowed: {', '.join(CHOICES[where])}")
    if hint is str and not value.strip():
        raise UserError(f"{source}: {where} is empty; leave an unknown figure out")
    if hint in (int, float) and not 0 <= value < 1e15:  # false for NaN too
        raise UserError(f"{source}: {where} = {value}; every figure is a finite number from 0 on")
    return value


def _in_file(names: typing.Iterable[str]) -> list[str]:
    """Field names as the file writes them: seeds is [[seed]]."""
    written = {field: table for table, field in TABLES.items()}
    return [written.get(name, name) for name in names]
