"""What the published records say of themselves: papers/records/prN.toml as dataclasses and tables.

An unknown or missing key or a wrong type is an error that names the file and the key; that the figures agree with each
other is for their test. A figure that was never published is a key left out, None here and NaN in a table.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pgolf_core.base.files import UserError
from pgolf_core.base.strict import build
from pgolf_core.lab.shared.places import CORE_DIR
from pgolf_core.lab.shared.texts import FINEWEB_BYTES, FINEWEB_TARGETS
from pgolf_core.recipes.reading import available_recipes, lineage, toml_of

RECORDS = ("pr194", "pr315", "pr332", "pr531", "pr534", "pr1493", "pr1855", "pr2135")
RECORD_DIR = CORE_DIR.parent / "papers" / "records"
UNITS = {"train loss": "nats per token", "val bpb": "bits per byte"}
"""What a curve may hold, and its unit."""


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
    averaged_loss: float | None = None
    """Averaged, unquantised weights, non-overlapping windows."""
    averaged_bpb: float | None = None
    standard_loss: float | None = None
    """Packed file, non-overlapping windows."""
    standard_bpb: float | None = None
    sliding_loss: float | None = None
    """Packed file, stride 64, with the published re-scoring of the last 64 targets where a record has it."""
    sliding_bpb: float | None = None
    adapted_loss: float | None = None
    """Packed file, stride 64, learning from what it has scored."""
    adapted_bpb: float | None = None
    model_bytes: int | None = None
    """Compressed weight file."""
    total_bytes: int | None = None
    """Weight file and script: what the cap is for."""
    script_bytes: int | None = None
    """Of this seed's own script, where it is not the record's."""
    loop_step: int | None = None
    """First step with blocks run several times."""
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
class Published:
    """One record. `name` is the file's."""

    name: str
    title: str
    status: str
    """merged, open or closed."""
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
    """sliding 64, standard (non-overlapping), or adapted (sliding 64, learning from what was scored)."""
    claimed_bpb: float
    claimed_of: str
    """mean, or 'seed K'."""
    artifact: dict[str, Any]
    """The published weight file: its container and compressor, bytes and tensors of the state before quantisation, and
    bytes before compression. For tests alone."""
    log: dict[str, Any]
    """Where in its logs the figures stand: how the lines begin, the keys of its submission.json. Nothing reads it."""
    seeds: tuple[PublishedSeed, ...]
    curves: tuple[Curve, ...]
    claims: tuple[Any, ...] = ()
    """Figures from its documents that no log bears out, or that are stated beside the results: what, value, unit, note.
    For tests alone."""
    mean_bpb: float | None = None
    std_bpb: float | None = None
    ms_per_step: float | None = None
    """Typical step, where the record gives one number for all seeds."""
    ms_by_loop: tuple[float, ...] | None = None
    """The same before and after some blocks run several times."""
    peak_memory_mib: float | None = None
    """MiB on one device."""
    eval_seconds: float | None = None
    train_shards: int | None = None
    head_script_bytes: int | None = None
    """Script at the head of the pull request, where it is not the one that made the logs."""
    vocab_size: int = 1024
    """Pieces of its tokenizer."""
    val_targets: int = FINEWEB_TARGETS
    """Tokens that its standard score covers."""
    val_bytes: int = FINEWEB_BYTES
    """Bytes of their text."""
    part_targets: int | None = None
    """Tokens that its raw, averaged and standard scores cover, where those are fewer (PR 1855, PR 2135)."""
    part_bytes: int | None = None
    """Bytes of their text."""

    def covered(self, kind: str) -> tuple[int, int]:
        """(tokens, bytes) that its score of this kind is of: raw, averaged, standard, sliding or adapted."""
        if self.part_targets and self.part_bytes and kind in ("raw", "averaged", "standard"):
            return self.part_targets, self.part_bytes
        return self.val_targets, self.val_bytes


def load_published(name: str, folder: Path = RECORD_DIR) -> Published:
    """The published figures of one record; UserError for an unknown name or a malformed file."""
    if name not in RECORDS:
        raise UserError(f"unknown record '{name}'; known: {', '.join(RECORDS)}")
    path = folder / f"{name}.toml"
    try:
        values = toml_of(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = "it is in the repository: install from a clone"
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name}: not valid TOML: {error}") from None
    return build(Published, values | {"name": name}, path.name)


def record_of(recipe_name: str) -> str | None:
    """The record that a recipe descends from, by its name's parts and those of the files that it extends; else None.

    `recipe_name` may end in .toml and is then a file, as for `load_recipe`, and a faulty file raises UserError.
    """
    at_hand = recipe_name in available_recipes() or (recipe_name.endswith(".toml") and Path(recipe_name).is_file())
    files = lineage(recipe_name) if at_hand else [Path(recipe_name)]  # of a run from elsewhere its name is all
    parts = [part for file in files for part in file.stem.split("-")]
    record = next((part for part in parts if re.fullmatch(r"pr\d+", part)), None)
    return record if record in RECORDS else None  # one without figures here is none, and not the one that it extends


def seeds_table(published: Published) -> pd.DataFrame:
    """One row a seed, columns as PublishedSeed's fields, gaps NaN; ms_per_step is the record's if a seed has none."""
    table = pd.DataFrame(map(asdict, published.seeds)).astype(float)
    if published.ms_per_step is not None:
        table["ms_per_step"] = table["ms_per_step"].fillna(published.ms_per_step)
    return table
