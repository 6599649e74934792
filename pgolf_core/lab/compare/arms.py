"""The arms of a comparison: a run folder's finished seeds, or a published record, read and checked into one shape.

A published sliding score counts the last 64 targets 32 times (SEEDS.md 1.9), which moves it by about 0.00001 bpb.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, read_json
from pgolf_core.base.names import SEED_RESULT
from pgolf_core.lab.compare.records import RECORDS, load_published
from pgolf_core.lab.recipes.settings import flatten
from pgolf_core.lab.shared.places import ENV_FILE, RECIPE_FILE
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import to_dict
from pgolf_core.recipes.rules import TRACK_CAP_BYTES

SCORES = {"raw_bpb": "raw", "averaged_bpb": "averaged", "roundtrip_bpb": "round-trip", "sliding_bpb": "sliding"}
"""The four scores of result.json in the order of the stages, and what figures and tables call them."""
SCORE_NAMES = tuple(key.removesuffix("_bpb") for key in SCORES)
PACKED = ("sliding", "roundtrip")
"""Scores of the packed file, which is what the challenge judges; the first is the headline."""
TEXTS = ("recipe", "track", "recipe_sha256", "data_sha256", "core_sha256")
"""Equal in every seed, or the seeds are not one experiment."""
SCRIPT_HASH = "script_sha256"
"""Of the train_gpt.py that was counted as code; absent from runs that were made before it was."""
SHARED = (*TEXTS, "val_targets", "val_bytes", "raw_targets", "sliding_stride", "window", SCRIPT_HASH)
PUBLISHED_AS = {"raw": "raw", "roundtrip": "standard", "sliding": "sliding"}
"""Our scores by what the published logs call them; averaged weights were never scored by themselves."""
FINEWEB_TRACK = "10min_16mb"
FINEWEB_TARGETS, FINEWEB_BYTES = 62_021_632, 151_080_363
"""What every published score covers (SEEDS.md 1.8): tokens of sp1024, and the bytes of their text."""
SAME_BYTES, SAME_TARGETS = 1e-3, 1e-4
"""FineWeb only: tokenizers that normalise count its bytes a little differently, published scores drop the tail."""
RECORD_VOCAB = 1024


@dataclass(frozen=True)
class Seed:
    """One seed of an arm; None where a record does not publish it."""

    bpb: float
    nats_per_token: float
    total_bytes: int | None
    train_seconds: float | None
    seconds: float | None
    """The whole seed."""

    @property
    def nats_per_byte(self) -> float:
        """The score without the tokenizer in it."""
        return self.bpb * math.log(2)


@dataclass(frozen=True)
class Arm:
    """One experiment with all its finished seeds, scored in one way."""

    name: str
    is_published: bool
    seeds: dict[int, Seed]
    track: str
    cap_bytes: int | None
    text_bytes: int
    """Of the whole validation text."""
    text_targets: int
    """Tokens of the whole validation text: by it tokenizers are told apart."""
    scored_targets: int
    """Of this score: raw and averaged may cover the beginning only."""
    vocab_size: int | None
    window: int | None
    stride: int | None
    """Of the sliding score; None for the others."""
    data: str
    """For the reader; the hash is what counts."""
    data_sha256: str
    core: str
    settings: dict[str, Any] = field(default_factory=dict)
    """The resolved recipe, flat; empty where the folder has none."""
    machine: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def values(self, unit: str) -> dict[int, float]:
        """{seed: value} in 'bpb', 'nats_per_token' or 'nats_per_byte'."""
        return {number: getattr(seed, unit) for number, seed in self.seeds.items()}


def read_arm(which: str | Path, score: str) -> Arm:
    """A record by its name (a string such as 'pr315'), else a run folder; UserError for what is missing or broken.

    A folder that is called like a record is written with its path, as ./pr315.
    """
    return _published_arm(which, score) if is_record(which) else _run_arm(Path(which), score)


def is_record(which: str | Path) -> bool:
    """Whether this names a published record and not a folder."""
    return isinstance(which, str) and which in RECORDS


def record_scores(name: str) -> list[str]:
    """Scores that every seed of a record has, best known first: a subset of sliding, roundtrip, raw."""
    seeds = load_published(name).seeds
    names = (*PACKED, *(name for name in SCORE_NAMES if name not in PACKED))
    return [
        name
        for name in names
        if name in PUBLISHED_AS and all(getattr(seed, f"{PUBLISHED_AS[name]}_bpb") is not None for seed in seeds)
    ]


# ---------------------------------------------------------------------- run folders


def seed_folders(recipe_folder: Path) -> dict[int, Path]:
    """{seed: folder} of every seed<k> folder in a recipe's run folder, finished or not, by seed."""
    found = {
        int(path.name[4:]): path
        for path in Path(recipe_folder).glob("seed*")
        if path.is_dir() and path.name[4:].isdecimal()
    }
    return dict(sorted(found.items()))


def whole_seconds(seconds: Mapping[str, float]) -> float:
    """Seconds of a whole seed: its `total` entry where there is one, else the sum of its parts."""
    return float(seconds["total"]) if "total" in seconds else float(sum(seconds.values()))


def result_seconds(result: Mapping[str, Any], folder: Path, seed: int) -> dict[str, float]:
    """The checked `seconds` table of one result.json; UserError where it or its `train` entry is missing."""
    seconds = result.get("seconds")
    if not isinstance(seconds, dict) or "train" not in seconds:
        raise UserError(f"{_place(folder, seed)} lacks 'seconds.train'; run seed {seed} again with --fresh")
    return {name: _number(seconds, name, folder, seed) for name in seconds}


def _run_arm(folder: Path, score: str) -> Arm:
    results, unfinished = _finished_results(folder)
    numbers = {seed: _checked(result, score, folder, seed) for seed, result in results.items()}
    first = next(iter(results))
    for seed, result in results.items():
        for key in SHARED:
            if result.get(key) != results[first].get(key):
                raise UserError(
                    f"{folder}: seeds {first} and {seed} differ in {key} ({results[first].get(key)!s:.12}, "
                    f"{result.get(key)!s:.12}): they are not one experiment; run them again with --fresh"
                )
    one = results[first]
    settings = _settings(folder / RECIPE_FILE)
    targets, vocab_size = int(one["val_targets"]), settings.get("model.vocab_size")
    notes = [f"seed {seed} is not finished and was left out" for seed in unfinished]
    if not settings:
        notes.append("no recipe.json: its settings were not compared")
    track = str(one.get("track", ""))
    return Arm(
        name=folder.resolve().name,
        is_published=False,
        seeds=numbers,
        track=track,
        cap_bytes=TRACK_CAP_BYTES.get(track),
        text_bytes=int(one["val_bytes"]),
        text_targets=targets,
        scored_targets=targets if score in PACKED else int(one.get("raw_targets") or targets),
        vocab_size=vocab_size if isinstance(vocab_size, int) else None,
        window=one.get("window"),
        stride=int(one["sliding_stride"]) if score == "sliding" else None,
        data=f"{settings.get('data.dataset', 'dataset')} {one['data_sha256']:.12}",
        data_sha256=one["data_sha256"],
        core=f"{one['core_sha256']:.12}",
        settings=settings,
        machine=_machine(folder, results),
        notes=tuple(notes),
    )


def _finished_results(folder: Path) -> tuple[dict[int, dict[str, Any]], list[int]]:
    """result.json of every finished seed, and the seeds that have none yet."""
    if not folder.is_dir():
        known = f"a published record ({', '.join(RECORDS)})"
        raise UserError(
            f"{folder} is not a run folder; name one that holds seed folders, as runs/TRACK/RECIPE, or {known}"
        )
    paths = {seed: path / SEED_RESULT for seed, path in seed_folders(folder).items()}
    results = {seed: read_json(path) for seed, path in paths.items() if path.is_file()}
    if not results:
        if re.fullmatch(r"seed\d+", folder.resolve().name):
            raise UserError(
                f"{folder} is one seed's folder; name the run's folder above it, {folder.resolve().parent.name}"
            )
        raise UserError(f"{folder} holds no seed<k>/result.json; finish a seed first with `pgolf record`")
    for seed, result in results.items():
        if not isinstance(result, dict):
            raise UserError(f"{_place(folder, seed)} is not a JSON object; run seed {seed} again with --fresh")
    return results, [seed for seed in paths if seed not in results]


def _checked(result: Mapping[str, Any], score: str, folder: Path, seed: int) -> Seed:
    """The numbers of one seed; UserError for one that is missing or that contradicts another."""
    keys = (f"{score}_bpb", f"{score}_loss", "total_bytes", "val_targets", "val_bytes", "sliding_stride")
    bpb, loss, total_bytes, targets, num_bytes, _ = (_number(result, key, folder, seed) for key in keys)
    for key in ("data_sha256", "core_sha256"):
        if not isinstance(result.get(key), str) or not result[key]:
            raise UserError(f"{_place(folder, seed)} has no '{key}'; run seed {seed} again with --fresh")
    if result.get("raw_targets") is not None:
        _number(result, "raw_targets", folder, seed)
    if result.get("seed", seed) != seed:
        raise UserError(f"{_place(folder, seed)} says that it is seed {result['seed']}; put it back or run it again")
    if targets < 1 or num_bytes < 1:
        raise UserError(f"{_place(folder, seed)} scored nothing: {targets} targets of {num_bytes} bytes")
    if score in PACKED and not math.isclose(bpb, loss * targets / (math.log(2) * num_bytes), rel_tol=1e-6):
        wrong = f"{score}_bpb does not follow from {score}_loss, val_targets and val_bytes"
        raise UserError(f"{_place(folder, seed)}: {wrong}; run seed {seed} again with --fresh")
    seconds = result_seconds(result, folder, seed)
    return Seed(bpb, loss, int(total_bytes), seconds["train"], whole_seconds(seconds))


def _settings(path: Path) -> dict[str, Any]:
    """A recorded recipe, flat, without its names; empty where there is none."""
    if not path.is_file():
        return {}
    recipe = read_json(path)
    if not isinstance(recipe, dict):
        raise UserError(f"{path} does not hold a JSON object; delete it and run the run's first notebook again")
    return {key: value for key, value in flatten(recipe).items() if key not in ("name", "title", "fingerprint")}


def _machine(folder: Path, seeds: Iterable[int]) -> dict[str, str]:
    """Device, threads and torch version of the seeds' env.json, as text; what no file has is left out."""
    found: dict[str, dict[str, None]] = {}
    for path in (folder / f"seed{seed}" / ENV_FILE for seed in seeds):
        values = read_json(path) if path.is_file() else {}
        flat = flatten(values) if isinstance(values, dict) else {}
        for name, key in {"device": "device", "threads": "threads", "torch": "versions.torch"}.items():
            if flat.get(key) is not None:
                found.setdefault(name, {})[str(flat[key])] = None
    return {name: " and ".join(texts) for name, texts in found.items()}


def _number(values: Mapping[str, Any], key: str, folder: Path, seed: int) -> float:
    value = values.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e15 < value < 1e15:  # false for NaN too
        raise UserError(f"{_place(folder, seed)} has no number '{key}'; check the name or run the seed with --fresh")
    return value


def _place(folder: Path, seed: int) -> str:
    return str(Path(folder) / f"seed{seed}" / SEED_RESULT)


# ---------------------------------------------------------------------- published records


def _published_arm(name: str, score: str) -> Arm:
    record = load_published(name)
    if score not in record_scores(name):
        known = ", ".join(record_scores(name))
        raise UserError(
            f"{name} has no {SCORES[f'{score}_bpb']} score; published are: {known}; choose one with --score"
        )
    kind = PUBLISHED_AS[score]
    numbers = {}
    for seed in record.seeds:
        bpb, loss = getattr(seed, f"{kind}_bpb"), getattr(seed, f"{kind}_loss")
        derived = bpb * math.log(2) * FINEWEB_BYTES / FINEWEB_TARGETS
        train_seconds = record.budget_seconds if seed.train_seconds is None else seed.train_seconds
        numbers[seed.seed] = Seed(bpb, derived if loss is None else loss, seed.total_bytes, train_seconds, None)
    recipe = f"{name}-as-run" if f"{name}-as-run" in available_recipes() else name
    settings = flatten(to_dict(load_recipe(recipe)))
    return Arm(
        name=name,
        is_published=True,
        seeds=numbers,
        track=FINEWEB_TRACK,
        cap_bytes=TRACK_CAP_BYTES[FINEWEB_TRACK],
        text_bytes=FINEWEB_BYTES,
        text_targets=FINEWEB_TARGETS,
        scored_targets=FINEWEB_TARGETS,
        vocab_size=RECORD_VOCAB,
        window=record.window_tokens,
        stride=64 if score == "sliding" else None,
        data="FineWeb as published",
        data_sha256="published",
        core=f"the published script of {record.script_bytes:,} bytes",
        settings={key: value for key, value in settings.items() if key not in ("name", "title")},
        machine={"device": record.hardware, "torch": record.torch},
        notes=(f"published figures; settings are those of the recipe {recipe}",),
    )


# ---------------------------------------------------------------------- what two arms have in common


def same_text(a: Arm, b: Arm) -> bool:
    """Whether both were scored on one validation text: one dataset, or texts of one size on one track.

    FineWeb's bytes may differ by SAME_BYTES between tokenizers that normalise.
    """
    allowed = SAME_BYTES * a.text_bytes if a.track == FINEWEB_TRACK else 0
    return a.data_sha256 == b.data_sha256 or (a.track == b.track and abs(a.text_bytes - b.text_bytes) <= allowed)


def same_tokenizer(a: Arm, b: Arm) -> bool:
    """Whether a token is the same unit in both: one dataset, or one text cut into as many tokens of one vocabulary."""
    if a.data_sha256 == b.data_sha256:
        return True
    allowed = SAME_TARGETS * a.text_targets if a.track == FINEWEB_TRACK else 0
    vocabularies = {size for size in (a.vocab_size, b.vocab_size) if size is not None}
    return len(vocabularies) < 2 and abs(a.text_targets - b.text_targets) <= allowed


def what_differs(a: Arm, b: Arm) -> list[tuple[str, Any, Any]]:
    """(what, in a, in b) of data, track, core, machine and recipe keys; empty if all is equal.

    Where one side has no recipe or machine on file, its keys are left out; a key that one recipe lacks is None.
    """
    found: list[tuple[str, Any, Any]] = []
    if a.data_sha256 != b.data_sha256:
        found.append(("data", a.data, b.data))
    kept = {key: (a.machine[key], b.machine[key]) for key in a.machine if key in b.machine}
    if a.settings and b.settings:
        kept |= {key: (a.settings.get(key), b.settings.get(key)) for key in {**a.settings, **b.settings}}
    pairs = {"track": (a.track, b.track), "core": (a.core, b.core)} | kept
    return found + [(what, *pair) for what, pair in pairs.items() if pair[0] != pair[1]]
