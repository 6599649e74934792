"""The arms of a comparison: a run folder's finished seeds, or a published record, read and checked into one shape.

Published sliding scores in 1,024 pieces count the last 64 targets 32 times, which moves them by about 0.00001 bpb
(papers/records).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pgolf_core.base.files import UserError
from pgolf_core.base.names import SEED_RESULT
from pgolf_core.lab.compare import results as finished
from pgolf_core.lab.compare.agreement import read_seed_result
from pgolf_core.lab.compare.records import RECORDS, load_published
from pgolf_core.lab.shared.places import ENV_FILE, RECIPE_FILE, SEED_FOLDER
from pgolf_core.lab.shared.settings import flatten
from pgolf_core.lab.shared.texts import FINEWEB_TRACK, SAME_BYTES, SAME_TARGETS
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import TRACK_CAP_BYTES, to_dict
from pgolf_core.result import Result

PUBLISHED_AS = {
    "sliding": "sliding", "roundtrip": "standard", "raw": "raw", "averaged": "averaged", "adapted": "adapted",
}  # fmt: skip
"""Our scores by what the published logs call them, best known first; one record alone scored averaged weights."""


@dataclass(frozen=True)
class Arm:
    """One experiment with all its finished seeds, scored in one way."""

    name: str
    seeds: pd.DataFrame
    """One row a seed: bpb, nats_per_token, nats_per_byte, total_bytes, train_seconds, seconds (the whole seed's); NaN
    for what a record does not publish."""
    track: str
    cap_bytes: int
    text_bytes: int
    """Of the whole validation text."""
    text_targets: int
    """Tokens of the whole validation text: by it tokenizers are told apart."""
    scored_targets: int
    """Of this score: raw and averaged may cover the beginning only."""
    vocab_size: int | None
    window: int
    stride: int | None
    """Of the sliding score; None for the others."""
    data: str
    """For the reader; the hash is what counts."""
    data_sha256: str
    core: str
    settings: dict[str, Any]
    """The resolved recipe, flat; empty where the folder has none."""
    machine: dict[str, str]
    notes: tuple[str, ...]

    def values(self, unit: str) -> dict[int, float]:
        """{seed: value} in 'bpb', 'nats_per_token' or 'nats_per_byte'."""
        return self.seeds[unit].to_dict()


def read_arm(which: str | Path, score: str, seeds: Sequence[int] | None = None) -> Arm:
    """A record by its name (a string such as 'pr315'), else a run folder; UserError for what is missing or broken.

    A folder that is called like a record is written with its path, as ./pr315. `seeds` are those of a run that count
    (default: all that are finished).
    """
    return _published_arm(str(which), score) if is_record(which) else _run_arm(Path(which), score, seeds)


def is_record(which: str | Path) -> bool:
    """Whether this names a published record and not a folder."""
    return isinstance(which, str) and which in RECORDS


def record_scores(name: str) -> list[str]:
    """Scores that every seed of a record has, best known first: a subset of PUBLISHED_AS."""
    seeds = load_published(name).seeds
    return [ours for ours, theirs in PUBLISHED_AS.items() if None not in [getattr(s, f"{theirs}_bpb") for s in seeds]]


def _run_arm(folder: Path, score: str, seeds: Sequence[int] | None) -> Arm:
    results, unfinished = _finished_results(folder)
    if missing := [seed for seed in seeds or () if seed not in results]:
        raise UserError(f"{folder.name} has no finished seed {missing[0]}; run it with `pgolf record`")
    results = {seed: result for seed, result in results.items() if seeds is None or seed in seeds}
    finished.refuse_unlike(results, f"{folder}: ")
    one = next(iter(results.values()))
    settings = _settings(finished.read_object(folder / RECIPE_FILE))
    notes = [f"seed {seed} is not finished and was left out" for seed in unfinished]
    if score == "sliding" and all(result.adapted_bpb is not None for result in results.values()):
        mean = math.fsum(result.adapted_bpb or 0.0 for result in results.values()) / len(results)
        notes.append(f"it has an adapted score too: mean {mean:.4f} (--score adapted, or final)")
    if not settings:
        notes.append("no recipe.json: its settings were not compared")
    return Arm(
        folder.resolve().name, _seeds({seed: _row(result, score, folder) for seed, result in results.items()}),
        track=one.track, cap_bytes=one.cap_bytes, text_bytes=one.val_bytes, text_targets=one.val_targets,
        scored_targets=one.val_targets if score in finished.JUDGED else one.raw_targets or one.val_targets,
        vocab_size=pieces if type(pieces := settings.get("model.vocab_size")) is int else None, window=one.window,
        stride=one.sliding_stride if score in finished.WHOLE_WINDOWS else None,
        data=f"{settings.get('data.dataset', 'dataset')} {one.data_sha256:.12}", data_sha256=one.data_sha256,
        core=f"{one.core_sha256:.12}", settings=settings, machine=_machine(folder, results), notes=tuple(notes),
    )  # fmt: skip


def _finished_results(folder: Path) -> tuple[dict[int, Result], list[int]]:
    """result.json of every finished seed, and the seeds that have none yet."""
    if not folder.is_dir():
        known = f"one that holds seed folders, as runs/TRACK/RECIPE, or a published record ({', '.join(RECORDS)})"
        raise UserError(f"{folder} is not a run folder; name {known}")
    folders = finished.seed_folders(folder)
    done = {seed: place for seed, place in folders.items() if (place / SEED_RESULT).is_file()}
    if not done:
        name, above = folder.resolve().name, folder.resolve().parent.name
        if SEED_FOLDER.fullmatch(name):
            raise UserError(f"{folder} is one seed's folder; name the run's folder above it, {above}")
        raise UserError(f"{folder} holds no seed<k>/result.json; finish a seed first with `pgolf record`")
    results = {seed: read_seed_result(place, seed) for seed, place in done.items()}
    return results, [seed for seed in folders if seed not in done]


def _row(result: Result, score: str, folder: Path) -> tuple[float | None, ...]:
    score = finished.final_score(result) if score == "final" else score
    bpb, loss = getattr(result, f"{score}_bpb"), getattr(result, f"{score}_loss")
    if bpb is None or loss is None:
        label = finished.COMPARED[score]
        raise UserError(f"{folder}: seed {result.seed} has no {label} score; choose one with --score")
    return bpb, loss, result.total_bytes, result.seconds["train"], finished.whole_seconds(result)


def _seeds(rows: Mapping[int, tuple[float | None, ...]]) -> pd.DataFrame:
    """Arm.seeds from (bpb, nats per token, bytes, seconds of training, of all)."""
    columns = ["bpb", "nats_per_token", "total_bytes", "train_seconds", "seconds"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float).rename_axis("seed")
    table.insert(2, "nats_per_byte", table["bpb"] * math.log(2))  # the score without the tokenizer in it
    return table


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values, flat, without its names."""
    return {key: value for key, value in flatten(recipe).items() if key not in ("name", "title", "fingerprint")}


def _machine(folder: Path, seeds: Iterable[int]) -> dict[str, str]:
    """Device, threads and torch version of the seeds' env.json, as text; what no file has is left out."""
    flat, found = [flatten(finished.read_object(folder / f"seed{seed}" / ENV_FILE)) for seed in seeds], {}
    for name, key in {"device": "device", "threads": "threads", "torch": "versions.torch"}.items():
        if texts := dict.fromkeys(str(one[key]) for one in flat if one.get(key) is not None):
            found[name] = " and ".join(texts)
    return found


def _published_arm(name: str, score: str) -> Arm:
    record, known = load_published(name), record_scores(name)
    if score == "final":
        score = "adapted" if "adapted" in known else "sliding"
    if score not in known:
        label = finished.COMPARED[score]
        raise UserError(f"{name} has no {label} score; published are: {', '.join(known)}; choose one with --score")
    kind, rows = PUBLISHED_AS[score], {}
    scored, scored_bytes = record.covered(kind)
    for seed in record.seeds:
        bpb, loss = getattr(seed, f"{kind}_bpb"), getattr(seed, f"{kind}_loss")
        derived = bpb * math.log(2) * scored_bytes / scored
        train_seconds = record.budget_seconds if seed.train_seconds is None else seed.train_seconds
        rows[seed.seed] = (bpb, derived if loss is None else loss, seed.total_bytes, train_seconds, None)
    recipe = f"{name}-as-run"
    return Arm(
        name, _seeds(rows), track=FINEWEB_TRACK, cap_bytes=TRACK_CAP_BYTES[FINEWEB_TRACK], text_bytes=record.val_bytes,
        text_targets=record.val_targets, scored_targets=scored, vocab_size=record.vocab_size,
        window=record.window_tokens, stride=64 if score in finished.WHOLE_WINDOWS else None,
        data="FineWeb as published", data_sha256="published",
        core=f"the published script of {record.script_bytes:,} bytes",
        settings=_settings(to_dict(load_recipe(recipe))), machine={"device": record.hardware, "torch": record.torch},
        notes=(f"published figures; settings are those of the recipe {recipe}",),
    )  # fmt: skip


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
    pairs: dict[str, tuple[Any, Any]] = {}
    if a.data_sha256 != b.data_sha256:
        pairs["data"] = (a.data, b.data)
    pairs |= {"track": (a.track, b.track), "core": (a.core, b.core)}
    pairs |= {key: (a.machine[key], b.machine[key]) for key in a.machine if key in b.machine}
    if a.settings and b.settings:
        pairs |= {key: (a.settings.get(key), b.settings.get(key)) for key in {**a.settings, **b.settings}}
    return [(what, *pair) for what, pair in pairs.items() if pair[0] != pair[1]]
