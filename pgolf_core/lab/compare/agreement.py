"""What the files of a finished seed say of each other: a number that two of them hold is equal in both.

A file that is not there says nothing. `pgolf verify` asks more, of the artifact, the text and the model themselves.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.base.names import ADAPT_TRACE, ARTIFACT, METRICS, SCORES, SEED_RESULT, TRAIN_LOG
from pgolf_core.base.strict import build
from pgolf_core.lab.compare.results import contradictions, json_object, recorded_recipe
from pgolf_core.lab.shared.places import AVERAGING_FILE, DATA_FILE, ENV_FILE, LEDGER_FILE, RECIPE_FILE, TRAINING
from pgolf_core.lab.shared.settings import is_number
from pgolf_core.packing.ledger import Ledger
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.result import Result
from pgolf_core.training.progress import training_curve
from pgolf_core.training.runlog import TrainResult

HASHES = ("recipe", "data", "core")
FILE_HASHES = "files"
"""Key of a stage's mark: SHA-256 of the files that it left, by their names in its folder."""
LOGGED = {"roundtrip": "final_roundtrip", "sliding": "final_sliding_window", "adapted": "final_adapted"}
"""Scores by what the last lines of train.log call them."""
OF_ALL_SEEDS = "0[12]*"
"""Stages that a recipe's folder has before its seeds; the report comes after them."""
SHARED_SECONDS = ("averaging", "lost")
"""Parts of training's seconds to which later stages add."""


def unequal(result: Result, source: str, **expected: Any) -> Iterator[str]:
    """Fields of a result that are not those of `source`."""
    for name, value in expected.items():
        there = getattr(result, name)
        if there != value:
            yield f"{name} is {there!s:.40} in {SEED_RESULT}, {value!s:.40} by {source}"


def by_recipe(result: Result, recipe: Recipe) -> Iterator[str]:
    """Against recipe.json."""
    yield from unequal(
        result, RECIPE_FILE, track=recipe.track, recipe=recipe.name, recipe_sha256=recipe.fingerprint,
        window=recipe.eval.seq_len, sliding_stride=recipe.eval.stride, cap_bytes=recipe.cap_bytes,
    )  # fmt: skip


def by_data(result: Result, values: Mapping[str, Any]) -> Iterator[str]:
    """Against data.json: the text that was scored."""
    names = {"data_sha256": "manifest_sha256", "val_targets": "val_targets", "val_bytes": "val_bytes"}
    yield from unequal(result, DATA_FILE, **{ours: values[its] for ours, its in names.items() if its in values})


def by_averaging(result: Result, values: Mapping[str, Any]) -> Iterator[str]:
    """Against averaging.json: the scores of weights in memory."""
    for kind in ("raw", "averaged"):
        own = values.get(kind)
        told = own if isinstance(own, dict) else {}
        scores = {f"{kind}_bpb": told.get("bpb"), f"{kind}_loss": told.get("loss_nats_per_token")}
        yield from unequal(result, AVERAGING_FILE, raw_targets=told.get("tokens"), **scores)


def by_training(result: Result, training: TrainResult) -> Iterator[str]:
    """Against what training counted until it ended."""
    keys = ("steps", "tokens", "parameters", "stopped_by", "resumed_at_steps")
    yield from unequal(result, TRAINING, **{key: getattr(training, key) for key in keys})


def by_timers(result: Result, training: TrainResult) -> Iterator[str]:
    """Against where training says that its seconds went."""
    for part, spent in training.seconds.items():
        said = result.seconds.get(part, -1.0)
        if part != "rest" and not (said >= spent if part in SHARED_SECONDS else said == spent):
            yield f"seconds.{part} is not that of {TRAINING}"


def by_ledger(result: Result, ledger: Ledger) -> Iterator[str]:
    """Against ledger.json: the sums that both have."""
    keys = {"artifact_bytes": ledger.file_bytes, "code_bytes": ledger.code_bytes, "total_bytes": ledger.total_bytes}
    yield from unequal(result, LEDGER_FILE, **keys, cap_bytes=ledger.cap_bytes, correction=ledger.correction)


def by_metrics(result: Result, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Against the last step of metrics.jsonl."""
    steps = [row["step"] for row in lines if row.get("kind") == "train" and type(row.get("step")) is int]
    yield from unequal(result, METRICS, steps=max(steps, default=None))


def by_clock(result: Result, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Against the clock of metrics.jsonl."""
    clock = max((row["seconds"] for row in lines if is_number(row.get("seconds"))), default=0.0)
    if not abs(result.seconds["train"] - clock) <= 0.5 + 0.01 * clock:
        yield f"{METRICS}'s clock ends at {clock:.1f} s, train is {result.seconds['train']:.1f} s"


def by_log(result: Result, text: str) -> Iterator[str]:
    """Against the exact scores at the end of train.log, where they are there."""
    told = dict(re.findall(r"^(final_\w+)_exact (val_loss:\S+ val_bpb:\S+)$", text, re.MULTILINE))
    for kind, name in LOGGED.items():
        loss, bpb = (getattr(result, f"{kind}_{key}") or 0.0 for key in ("loss", "bpb"))
        if name in told and told[name] != (ours := f"val_loss:{loss:.8f} val_bpb:{bpb:.8f}"):
            yield f"{name} is {told[name]:.60} in {TRAIN_LOG}, {ours} in {SEED_RESULT}"


def by_scores(result: Result, path: Path) -> Iterator[str]:
    """Against the nats of every window, whose hash the result has."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            nats = {name: float(arrays[name].sum()) for name in ("roundtrip", "sliding")}
    except Exception as error:  # a damaged archive breaks in ways nobody lists
        yield f"{path.name} is damaged ({type(error).__name__})"
        return
    for name, total in nats.items():
        if not math.isclose(getattr(result, f"{name}_loss") * result.val_targets, total, rel_tol=1e-6):
            yield f"{name}_loss is not that of the windows in {path.name}"


def by_hashes(result: Result, folder: Path) -> Iterator[str]:
    """Against the hashes of recipe, data and core that env.json has, and those of files that the result has."""
    if (folder / ENV_FILE).is_file():
        told = json_object(folder / ENV_FILE).get("hashes")
        if told is not None and told != {part: getattr(result, f"{part}_sha256") for part in HASHES}:
            yield f"{ENV_FILE} has other hashes than {SEED_RESULT}"
    for name, digest in ((SCORES, result.scores_sha256), (ADAPT_TRACE, result.adapt_sha256)):
        if digest and (folder / name).is_file() and sha256_file(folder / name) != digest:
            yield f"{name} has not the hash that {SEED_RESULT} says"


def file_hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of those of these files that are there, for a stage's mark."""
    return {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}


def changed_files(folder: Path, stages: str = "[0-9]*") -> Iterator[str]:
    """Files of a seed's or a recipe's folder that are not what the last of these stages which left them wrote."""
    said: dict[str, Any] = {}
    for mark in sorted(folder.glob(f"stages/{stages}.json")):
        files = json_object(mark).get(FILE_HASHES, {})
        said |= files if isinstance(files, dict) else {f"stages/{mark.name}": ""}
    for name, digest in said.items():
        if (folder / name).is_file() and sha256_file(folder / name) != digest:
            yield f"{name} was changed after its stage had ended"


def disagreements(folder: Path, result: Result) -> Iterator[str]:
    """What result.json in `folder` says otherwise than another file of its run, by file; the cheapest first."""

    def of(path: Path, read: Callable[[Path], Any], *against: Callable[..., Iterator[str]]) -> Iterator[str]:
        if path.is_file() and (said := read(path)) is not None:
            for one in against:
                yield from one(result, said)

    above = folder.parent
    if (folder / ARTIFACT).is_file():
        yield from unequal(result, f"the file {ARTIFACT}", artifact_bytes=(folder / ARTIFACT).stat().st_size)
    yield from itertools.chain.from_iterable((
        *(of(place / RECIPE_FILE, lambda path: recorded_recipe(path.parent), by_recipe) for place in (above, folder)),
        of(above / DATA_FILE, json_object, by_data),
        of(folder / LEDGER_FILE, lambda path: build(Ledger, json_object(path), str(path)), by_ledger),
        of(folder / AVERAGING_FILE, json_object, by_averaging),
        of(folder / TRAINING, _training, by_training, by_timers),
        of(folder / METRICS, lambda path: training_curve(path.parent), by_metrics, by_clock),
        of(folder / TRAIN_LOG, lambda path: path.read_text(encoding="utf-8", errors="replace"), by_log),
        by_hashes(result, folder),
        of(folder / SCORES, Path, by_scores),
        changed_files(folder), changed_files(above, OF_ALL_SEEDS),
    ))  # fmt: skip


def first_difference(expected: Any, found: Any, place: str = "") -> str:
    """Where two JSON values differ, numbers to 1e-9; empty if nowhere."""
    if type(expected) is type(found) and isinstance(expected, dict | list):
        form = "{}[{}]" if isinstance(expected, list) else "{}.{}"
        one, other = (dict(enumerate(value)) if isinstance(value, list) else value for value in (expected, found))
        inside = (
            first_difference(one.get(at, ...), other.get(at, ...), form.format(place, at).removeprefix("."))
            for at in {**one, **other}
        )
        return next(filter(None, inside), "")
    same = expected == found and type(expected) is type(found)
    close = is_number(expected) and is_number(found) and math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-12)
    return "" if same or close else place or "all of it"


def _training(mark: Path) -> TrainResult | None:
    """What the mark of training says of it, if it does."""
    said = json_object(mark).get("training")
    return None if said is None else build(TrainResult, said, TRAINING)


def read_seed_result(folder: Path, seed: int) -> Result:
    """result.json of seed `seed` in its folder; UserError for what is missing, and for what contradicts itself or
    another file of the run."""
    path = folder / SEED_RESULT
    result = Result.read(path)
    for complaint in itertools.chain(contradictions(result, seed), disagreements(folder, result)):
        raise UserError(f"{path}: {complaint}; run seed {seed} again with --fresh, or put back what was changed")
    return result
