"""Check what an artifact or a run claims, from the files themselves: one row per claim, never a traceback.

Three verdicts: `holds`, `fails`, and `cannot be checked here`, where something needed is missing or belongs to another
machine, with the reason as evidence. Files are parsed, never unpickled or executed. Scores are taken anew, whole, from
the artifact alone.
"""

from __future__ import annotations

import functools
import math
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pgolf_core import artifact
from pgolf_core import device as machine
from pgolf_core.attention import kernel_name
from pgolf_core.data import load_tokens
from pgolf_core.evaluate import load_model, plan_windows, score_artifact
from pgolf_core.files import UserError, read_json, sha256_file
from pgolf_core.lab.analysis_scoring import leak_from_the_future, probability_error, times_scored
from pgolf_core.lab.corpus import Dataset, open_dataset, validation_documents
from pgolf_core.lab.progress import score_bar
from pgolf_core.lab.runs import core_sha256, recorded_recipe
from pgolf_core.lab.stages import ARTIFACT
from pgolf_core.lab.stats import NUMBERS, SCORES, TEXTS, seed_folders, summarise
from pgolf_core.model import GPT, parameter_shapes
from pgolf_core.recipe import Recipe
from pgolf_core.tokenizer import Tokenizer

HOLDS, FAILS, UNKNOWN = "holds", "fails", "cannot be checked here"
TOLERANCE = 1e-6
"""Relative difference of a score taken twice on one kind of machine."""
OTHER_MACHINE = 1e-3
"""Within this, a machine that computes otherwise (device, dtype, kernel, threads) can neither confirm nor refute."""
PROBABILITY_TOLERANCE = 1e-5
MAX_TOKENS_AT_ONCE = 2**20
"""eval.seq_len x eval.batch_seqs; a recipe.json that asks for more is not scored, since it could exhaust the memory."""
HASHES = ("recipe", "data", "core")
LN2 = math.log(2)
Row = tuple[str, str, str]


class _Broken(Exception):
    """The claim is false; the message is the evidence."""


class _CannotCheck(Exception):
    """Something that is needed is not here; the message says what."""


def verify(
    path: Path | str, *, cache_dir: Path | str = "", budget_seconds: float | None = None, progress: bool = False
) -> pd.DataFrame:
    """Columns check, verdict, evidence for an artifact, a seed's run folder, or a recipe's (its checks, then each
    seed's).

    `cache_dir` is where prepared datasets lie (empty: the user's). `budget_seconds` bounds each rescoring; one that
    runs out of it cannot be checked. Raises UserError only for a path that does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; name an artifact, a seed's folder or a recipe's run folder")
    how = {"cache_dir": cache_dir, "budget_seconds": budget_seconds, "progress": progress}
    if path.is_file():
        rows = artifact_rows(path)
    elif seed_folders(path):
        rows = _recipe_rows(path, how)
    elif any((path / name).exists() for name in ("recipe.json", "result.json")):
        rows = _seed_rows(_Seed(path, **how))
    else:
        rows = _other_rows(path)
    return pd.DataFrame(rows, columns=["check", "verdict", "evidence"])


def _row(name: str, test: Callable[[], str]) -> Row:
    """Run one check: it returns its evidence, or raises."""
    try:
        verdict, evidence = HOLDS, test()
    except _CannotCheck as reason:
        verdict, evidence = UNKNOWN, str(reason)
    except (_Broken, UserError) as reason:
        verdict, evidence = FAILS, str(reason)
    except Exception as error:  # damaged files break things in ways nobody lists; each is a finding, not a crash
        verdict, evidence = FAILS, f"{type(error).__name__}: {error}"
    return name, verdict, " ".join(evidence.split())[:500]


def _hold(is_held: bool, evidence: str) -> str:
    if not is_held:
        raise _Broken(evidence)
    return evidence


def _needed(what: str, read: Callable[[], Any]) -> Any:
    """What another check already judges: without it, this one cannot be made."""
    try:
        return read()
    except Exception:
        raise _CannotCheck(f"needs {what}") from None


def _object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise _Broken(f"{path.name} is not a JSON object")
    return values


def _number(values: dict[str, Any], key: str) -> float:
    value = values.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _Broken(f"no number '{key}' ({value!r})")
    return value


# ---------------------------------------------------------------------- an artifact


def artifact_rows(path: Path) -> list[Row]:
    """The three checks that need nothing but the file."""
    return [
        _row("artifact opens and is whole", lambda: _opens(path)),
        _row("header and streams make up the file", lambda: _adds_up(path)),
        _row("tensors fit the artifact's own model", lambda: _fits(path)),
    ]


def _opens(path: Path) -> str:
    header = artifact.read_header(path)
    return f"its checksum holds: {len(header['tensors'])} tensors; SHA-256 of the file {sha256_file(path)[:16]}…"


def _adds_up(path: Path) -> str:
    header = _needed("an artifact that opens", lambda: artifact.read_header(path))
    with open(path, "rb") as file:
        _, _, length = struct.unpack("<8sHI", file.read(14))
    parts = {"preamble": 14, "header": length, **header["streams"]}
    total, size = sum(parts.values()), path.stat().st_size
    return _hold(total == size, f"{' + '.join(f'{n} {b:,}' for n, b in parts.items())} = {total:,}; file {size:,}")


def _fits(path: Path) -> str:
    _needed("an artifact that opens", lambda: artifact.read_header(path))
    model = load_model(path, torch.device("cpu"))
    return f"{sum(p.numel() for p in model.parameters()):,} parameters in {model.config.num_layers} layers"


def _other_rows(folder: Path) -> list[Row]:
    """A folder that is no run's, such as a submission's: its artifacts alone are checked."""
    found = sorted(folder.glob("*.pgolf"))

    def what() -> str:
        raise _CannotCheck(f"no run's folder: neither recipe.json nor seed folders; {len(found)} artifact(s) in it")

    rows = [_row("the folder", what)]
    return rows + [(f"{path.name}: {name}", *rest) for path in found for name, *rest in artifact_rows(path)]


# ---------------------------------------------------------------------- a recipe's run folder


def _recipe_rows(folder: Path, how: dict[str, Any]) -> list[Row]:
    seeds = {seed: _Seed(path, **how) for seed, path in seed_folders(folder).items()}
    rows = [
        _row("every seed is finished", lambda: _finished(seeds)),
        _row("one recipe, dataset and core over all seeds", lambda: _one_experiment(folder, seeds)),
        _row("summary.json says what the seeds say", lambda: _summary(folder, seeds)),
    ]
    for number, seed in seeds.items():
        rows += [(f"seed {number}: {name}", *rest) for name, *rest in _seed_rows(seed)]
    return rows


def _finished(seeds: dict[int, _Seed]) -> str:
    unfinished = [str(seed) for seed, one in seeds.items() if not (one.folder / "result.json").is_file()]
    return _hold(not unfinished, f"without a result.json: {', '.join(unfinished)}" if unfinished else f"{len(seeds)}")


def _one_experiment(folder: Path, seeds: dict[int, _Seed]) -> str:
    fingerprint = recorded_recipe(folder).fingerprint
    found = {part: {seed.result.get(f"{part}_sha256") for seed in seeds.values()} for part in HASHES}
    found["recipe"] |= {fingerprint} | {seed.recipe.fingerprint for seed in seeds.values()}
    evidence = "; ".join(f"{part} {', '.join(sorted(str(h)[:12] for h in found[part]))}" for part in HASHES)
    return _hold(all(len(hashes) == 1 for hashes in found.values()), evidence)


def _summary(folder: Path, seeds: dict[int, _Seed]) -> str:
    if not (folder / "summary.json").is_file():
        raise _CannotCheck("there is no summary.json yet")
    summary = _object(folder / "summary.json")
    for key in (*SCORES, "total_bytes"):
        said = {str(number): _number(seeds[number].result, key) for number in summary["seeds"]}
        mean, entry = summarise(said.values()).mean, summary[key]
        if entry["seeds"] != said or not math.isclose(entry["mean"], mean, rel_tol=1e-12):
            raise _Broken(f"{key}: mean {entry['mean']} of {entry['seeds']}, the seeds give {mean} of {said}")
    left_out = sorted(set(seeds) - set(summary["seeds"]))
    return f"{len(summary['seeds'])} seeds" + (f"; {left_out} are not in it" if left_out else "")


# ---------------------------------------------------------------------- a seed's run folder


class _Seed:
    """One seed's files, each read once; what is missing or broken raises _CannotCheck in the checks that need it."""

    def __init__(self, folder: Path, cache_dir: Path | str, budget_seconds: float | None, progress: bool):
        self.folder, self.cache_dir = folder, cache_dir
        self.budget_seconds, self.progress = budget_seconds, progress
        self.artifact = folder / ARTIFACT

    @functools.cached_property
    def recipe(self) -> Recipe:
        return _needed("a whole recipe.json", lambda: recorded_recipe(self.folder))

    @functools.cached_property
    def result(self) -> dict[str, Any]:
        return _needed("a whole result.json", lambda: _object(self.folder / "result.json"))

    @functools.cached_property
    def header(self) -> dict[str, Any]:
        return _needed("an artifact that opens", lambda: artifact.read_header(self.artifact))

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The dataset of the run, and no other of its name."""
        try:
            dataset = open_dataset(self.recipe.data.dataset, self.cache_dir or None)
        except UserError as error:
            raise _CannotCheck(str(error)) from None
        if dataset.manifest_sha256 != self.result.get("data_sha256"):
            here, there = dataset.manifest_sha256, self.result.get("data_sha256")
            raise _CannotCheck(f"dataset {dataset.name} here is {here[:12]}…, the run's is {str(there)[:12]}…")
        return dataset

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return self.dataset.tokenizer()

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        return load_tokens(self.dataset.val_paths, self.tokenizer.vocab_size)

    @functools.cached_property
    def model(self) -> GPT:
        return _needed("an artifact that fits its own model", lambda: load_model(self.artifact))

    def first_windows(self, count: int = 4) -> torch.Tensor:
        """The first windows of the validation stream, int64 [B, T], on the model's device."""
        self.refuse_vast_windows()
        length = min(self.recipe.eval.seq_len, len(self.tokens) - 1)
        count = min(count, len(self.tokens) // length)
        ids = torch.from_numpy(self.tokens[: count * length].astype(np.int64)).view(count, length)
        return ids.to(next(self.model.parameters()).device)

    def refuse_vast_windows(self) -> None:
        evaluation = self.recipe.eval
        if evaluation.seq_len * evaluation.batch_seqs > MAX_TOKENS_AT_ONCE:
            raise _CannotCheck(f"eval.seq_len x eval.batch_seqs is more than {MAX_TOKENS_AT_ONCE:,} tokens at once")

    def autocast(self):
        return machine.autocast(next(self.model.parameters()).device, self.recipe.schedule.autocast)


def _seed_rows(seed: _Seed) -> Iterator[Row]:
    """Every check of one seed, quick ones first."""
    yield _row("recipe.json is whole", lambda: _recipe_json(seed))
    yield _row("result.json is whole", lambda: _result_json(seed))
    yield _row("the run's own hashes agree", lambda: _hashes(seed))
    yield _row("the core here is the run's", lambda: _core(seed))
    yield _row("the dataset here is the run's, and whole", lambda: _dataset(seed))
    yield from artifact_rows(seed.artifact)
    yield _row("the artifact is this recipe's model", lambda: _same_model(seed))
    yield _row("file and code fit under the cap", lambda: _cap(seed))
    yield _row("ledger.json is the file's", lambda: _ledger(seed))
    yield _row("every target is scored once", lambda: _once(seed))
    yield _row("bytes are those of the decoded text", lambda: _text_bytes(seed))
    yield _row("each score implies those bytes", lambda: _implied_bytes(seed))
    yield _row("probabilities sum to one", lambda: _probabilities(seed))
    yield _row("no logit sees a later token", lambda: _causality(seed))
    for kind in ("roundtrip", "sliding"):
        yield _row(f"{kind} score from the file alone", lambda kind=kind: _rescored(seed, kind))


def _recipe_json(seed: _Seed) -> str:
    recipe = recorded_recipe(seed.folder)
    recorded = _object(seed.folder / "recipe.json").get("fingerprint")
    return _hold(recorded == recipe.fingerprint, f"fingerprint {recipe.fingerprint[:12]}…, it says {str(recorded)[:12]}…")


def _result_json(seed: _Seed) -> str:
    result = _object(seed.folder / "result.json")
    for key in (*NUMBERS, "seed"):
        _number(result, key)
    lacking = [key for key in TEXTS if not isinstance(result.get(key), str)]
    _hold(not lacking, f"no text '{(lacking or [''])[0]}'")
    named = re.fullmatch(r"seed(\d+)", seed.folder.resolve().name)
    _hold(not named or int(named[1]) == result["seed"], f"it is of seed {result['seed']}, not the folder's")
    track = seed.recipe.track
    _hold(result["track"] == track, f"track {result['track']}, recipe.json says {track}")
    return f"seed {result['seed']}, {len(NUMBERS)} finite numbers"


def _hashes(seed: _Seed) -> str:
    said = {part: seed.result.get(f"{part}_sha256") for part in HASHES}
    files = [seed.folder / "env.json", *sorted((seed.folder / "stages").glob("*.json"))]
    for path in files:
        hashes = _object(path).get("hashes")
        _hold(hashes == said, f"{path.name} has other hashes than result.json")
    _hold(said["recipe"] == seed.recipe.fingerprint, "result.json has another recipe_sha256 than recipe.json")
    return f"result.json, recipe.json, env.json and {len(files) - 1} stages"


def _core(seed: _Seed) -> str:
    here, there = core_sha256(), str(seed.result.get("core_sha256"))
    if here != there:
        raise _CannotCheck(f"pgolf_core here is {here[:12]}…, the run's was {there[:12]}…: scores are taken with this one")
    return f"{here[:12]}…"


def _dataset(seed: _Seed) -> str:
    dataset = seed.dataset
    dataset.verify()
    return f"{dataset.name}, manifest {dataset.manifest_sha256[:12]}…: every shard, document and the tokenizer"


def _same_model(seed: _Seed) -> str:
    model, _ = _needed("an artifact that opens", lambda: artifact.unpack(seed.artifact))
    _hold(model == seed.recipe.model, "its configuration is not recipe.json's model")
    if seed.recipe.quant.allocation == "gradient":
        return "its configuration; grids by gradient are not compared"
    expected = artifact.grid_names_for(parameter_shapes(model), seed.recipe.quant)
    differing = [name for name, grid, _ in seed.header["tensors"] if expected.get(name) != grid]
    return _hold(not differing, f"on another grid: {differing[0]}" if differing else "its configuration and its grids")


def _cap(seed: _Seed) -> str:
    size, recorded = seed.artifact.stat().st_size, _number(seed.result, "artifact_bytes")
    _hold(size == recorded, f"the file has {size:,} bytes, result.json says {recorded:,}")
    code, cap = _number(seed.result, "code_bytes"), seed.recipe.cap_bytes
    if core_sha256() == seed.result.get("core_sha256"):
        _hold(code == artifact.code_bytes(), f"the code has {artifact.code_bytes():,} bytes, result.json says {code:,}")
    _hold(_number(seed.result, "cap_bytes") == cap, f"the cap of {seed.recipe.track} is {cap:,}, not result.json's")
    _hold(_number(seed.result, "total_bytes") == size + code, "total_bytes is not file + code")
    return _hold(size + code <= cap, f"file {size:,} + code {code:,} = {size + code:,}; cap {cap:,}")


def _ledger(seed: _Seed) -> str:
    ledger, header = _object(seed.folder / "ledger.json"), seed.header
    streams = header["streams"]
    size = seed.artifact.stat().st_size
    parts = {
        "weights_bytes": streams["codes"] + streams["fp16"],
        "scales_bytes": streams["scales"],
        "header_bytes": size - sum(streams.values()),
        "file_bytes": size,
    }
    for key, expected in parts.items():
        _hold(ledger.get(key) == expected, f"{key} {ledger.get(key)}, the file has {expected}")
    return ", ".join(f"{key.removesuffix('_bytes')} {value:,}" for key, value in parts.items())


# ---------------------------------------------------------------------- the score


def _strides(seed: _Seed) -> dict[str, int]:
    return {"roundtrip": seed.recipe.eval.seq_len, "sliding": seed.recipe.eval.stride}


def _once(seed: _Seed) -> str:
    targets, window = len(seed.tokens) - 1, seed.recipe.eval.seq_len
    _hold(_number(seed.result, "val_targets") == targets, f"{targets:,} targets, result.json says otherwise")
    said = (seed.result.get("window", window), _number(seed.result, "sliding_stride"))
    _hold(said == (window, seed.recipe.eval.stride), f"window and stride {said} are not the recipe's")
    for kind, stride in _strides(seed).items():
        times = times_scored(plan_windows(targets, window, stride), targets)
        _hold(bool((times == 1).all()), f"{kind}: {int((times != 1).sum()):,} targets not scored exactly once")
    return f"{targets:,} targets, window {window}, strides {window} and {seed.recipe.eval.stride}"


def _text_bytes(seed: _Seed) -> str:
    said, counted = _number(seed.result, "val_bytes"), seed.tokenizer.bytes.total(seed.tokens)
    text = sum(len(text.encode("utf-8")) for _, text in validation_documents(seed.dataset))
    kind = "" if seed.tokenizer.lossless else " (of the text as the tokenizer normalises it)"
    return _hold(said == counted == text, f"text {text:,}{kind}, tokens {counted:,}, result.json {said:,}")


def _implied_bytes(seed: _Seed) -> str:
    """bpb = targets x nats / (ln 2 x bytes), solved for the bytes."""
    whole = _number(seed.result, "val_targets")
    evidence = []
    for kind in (key.removesuffix("_bpb") for key in SCORES):
        targets = seed.result.get("raw_targets", whole) if kind in ("raw", "averaged") else whole
        _hold(type(targets) is int and 0 < targets < len(seed.tokens), f"{kind}: {targets!r} targets")
        loss, bpb = _number(seed.result, f"{kind}_loss"), _number(seed.result, f"{kind}_bpb")
        _hold(bpb > 0, f"{kind}_bpb {bpb}")
        implied = targets * loss / (LN2 * bpb)
        real = seed.tokenizer.bytes.total(seed.tokens[: targets + 1])
        evidence.append(f"{kind} {implied:,.1f} of {real:,}")
        _hold(abs(implied - real) < 0.5, evidence[-1])
    return ", ".join(evidence)


def _probabilities(seed: _Seed) -> str:
    with seed.autocast():
        error = probability_error(seed.model, seed.first_windows())
    return _hold(error <= PROBABILITY_TOLERANCE, f"off by at most {error:.1e} on {seed.first_windows().numel():,} tokens")


def _causality(seed: _Seed) -> str:
    ids = seed.first_windows(1)
    places = sorted({1, ids.size(1) // 2, ids.size(1) - 1} - {0})
    with seed.autocast():
        changes = [leak_from_the_future(seed.model, ids, place)[0] for place in places]
    evidence = f"positions {places} and on replaced: earlier logits change by {max(changes)}"
    return _hold(all(change == 0 for change in changes), evidence)


def _rescored(seed: _Seed, kind: str) -> str:
    said = {key: _number(seed.result, f"{kind}_{key}") for key in ("bpb", "loss")}
    evaluation, stride = seed.recipe.eval, _strides(seed)[kind]
    seed.refuse_vast_windows()
    t_start, tokens, _ = time.monotonic(), seed.tokens, seed.model
    with score_bar(f"{seed.folder.name}, stride {stride}", enabled=seed.progress) as bar:

        def update(done: int, total: int) -> None:
            bar(done, total)
            if seed.budget_seconds is not None and time.monotonic() - t_start > seed.budget_seconds and done < total:
                raise _CannotCheck(f"{done:,} of {total:,} targets in the budget of {seed.budget_seconds:g} s")

        score = score_artifact(
            seed.artifact, tokens, seed.tokenizer.bytes, evaluation.seq_len, stride, evaluation.batch_seqs,
            autocast=seed.recipe.schedule.autocast, progress=update,
        )  # fmt: skip
    found = {"bpb": score.bpb, "loss": score.loss_nats_per_token}
    difference = max(abs(found[key] - said[key]) / abs(found[key]) for key in found)
    evidence = (
        f"{score.bpb:.8f} bpb here, {said['bpb']:.8f} in result.json; relative difference {difference:.1e} "
        f"over {score.tokens:,} targets in {score.seconds:.0f} s"
    )
    here, there = _computing_path(seed)
    if TOLERANCE < difference <= OTHER_MACHINE and here != there:
        raise _CannotCheck(f"{evidence}; the run computed on [{there}], this machine on [{here}]")
    return _hold(difference <= TOLERANCE, evidence)


def _computing_path(seed: _Seed) -> tuple[str, str]:
    """What decides the last digits of a score, here and in the run: device, threads, dtype, attention kernel."""
    device, mode = machine.pick_device(), seed.recipe.schedule.autocast
    kernel = kernel_name(device.type, machine.autocast_dtype(device, mode) is torch.bfloat16)
    here = machine.describe(device, mode, "off", kernel)
    try:
        there = str(_object(seed.folder / "stages" / "03_train.json")["path"])
    except (UserError, _Broken, KeyError):
        there = "unknown"
    return tuple(re.sub(r" \| graph: .*? \| ", " | ", line) for line in (here, there))
