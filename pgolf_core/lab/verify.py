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
from collections.abc import Callable
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
from pgolf_core.grid import grid_names_for
from pgolf_core.lab.analysis_scoring import leak_from_the_future, times_scored
from pgolf_core.lab.corpus import Dataset, open_dataset, validation_documents
from pgolf_core.lab.progress import score_bar
from pgolf_core.lab.runs import core_sha256, recorded_recipe
from pgolf_core.lab.stages import ARTIFACT, SCRIPT
from pgolf_core.lab.stats import NUMBERS, SCORES, TEXTS, seed_folders
from pgolf_core.model import GPT, parameter_shapes
from pgolf_core.recipe import Eval, Recipe, to_dict
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
Row = tuple[str, str, str]


class _Broken(Exception):
    """The claim is false, with the evidence."""


class _CannotCheck(Exception):
    """Something that is needed is not here."""


def verify(
    path: Path | str, *, cache_dir: Path | str = "", budget_seconds: float | None = None, progress: bool = False
) -> pd.DataFrame:
    """Columns check, verdict, evidence for an artifact, a seed's run folder, or a recipe's with all its seeds.

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


def artifact_rows(path: Path) -> list[Row]:
    """The three checks that need nothing but the file."""
    checks = (
        ("artifact opens and is whole", _opens),
        ("header and streams make up the file", _adds_up),
        ("tensors fit the artifact's own model", _fits),
    )
    return [_row(name, functools.partial(check, path)) for name, check in checks]


def _opens(path: Path) -> str:
    tensors = artifact.read_header(path)["tensors"]
    return f"its checksum holds: {len(tensors)} tensors; SHA-256 of the file {sha256_file(path):.16}…"


def _header(path: Path) -> dict[str, Any]:
    return _needed("an artifact that opens", lambda: artifact.read_header(path))


def _adds_up(path: Path) -> str:
    streams = _header(path)["streams"]
    with open(path, "rb") as file:
        _, _, length = struct.unpack("<8sHI", file.read(14))
    parts = {"preamble": 14, "header": length, **streams}
    total, size = sum(parts.values()), path.stat().st_size
    return _hold(total == size, f"{' + '.join(f'{n} {b:,}' for n, b in parts.items())} = {total:,}; file {size:,}")


def _fits(path: Path) -> str:
    _header(path)
    model = load_model(path, torch.device("cpu"))
    return f"{sum(p.numel() for p in model.parameters()):,} parameters in {model.config.num_layers} layers"


def _other_rows(folder: Path) -> list[Row]:
    """A folder that is no run's, such as a submission's: its artifacts alone are checked."""
    found = sorted(folder.glob("*.pgolf"))
    evidence = f"no run's folder: neither recipe.json nor seed folders; {len(found)} artifact(s) in it"
    rows = [("the folder's claims", UNKNOWN, evidence)]
    return rows + [(f"{path.name}: {name}", *rest) for path in found for name, *rest in artifact_rows(path)]


def _recipe_rows(folder: Path, how: dict[str, Any]) -> list[Row]:
    seeds = {seed: _Seed(path, **how) for seed, path in seed_folders(folder).items()}
    rows = [_row("one recipe, dataset and core over all seeds", lambda: _one_experiment(folder, seeds))]
    for number, seed in seeds.items():
        rows += [(f"seed {number}: {name}", *rest) for name, *rest in _seed_rows(seed)]
    return rows


def _one_experiment(folder: Path, seeds: dict[int, _Seed]) -> str:
    fingerprint = recorded_recipe(folder).fingerprint
    found = {part: {seed.result.get(f"{part}_sha256") for seed in seeds.values()} for part in HASHES}
    found["recipe"] |= {fingerprint} | {seed.recipe.fingerprint for seed in seeds.values()}
    evidence = [f"{part} {', '.join(sorted(str(one)[:12] for one in hashes))}" for part, hashes in found.items()]
    return _hold(all(len(hashes) == 1 for hashes in found.values()), "; ".join(evidence))


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
    def dataset(self) -> Dataset:
        """The dataset of the run, and no other of its name."""
        try:
            dataset = open_dataset(self.recipe.data.dataset, self.cache_dir or None)
        except UserError as error:
            raise _CannotCheck(str(error)) from None
        if dataset.manifest_sha256 != self.result.get("data_sha256"):
            there = self.result.get("data_sha256")
            raise _CannotCheck(f"{dataset.name} here is {dataset.manifest_sha256:.12}…, the run's is {there!s:.12}…")
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

    @functools.cached_property
    def evaluation(self) -> Eval:
        """The recipe's way of scoring, unless it could exhaust the memory."""
        evaluation = self.recipe.eval
        if evaluation.seq_len * evaluation.batch_seqs > MAX_TOKENS_AT_ONCE:
            raise _CannotCheck(f"eval.seq_len x eval.batch_seqs is more than {MAX_TOKENS_AT_ONCE:,} tokens at once")
        return evaluation

    def first_window(self, length: int) -> torch.Tensor:
        """The beginning of the validation stream, int64 [1, T] with T at most `length`, on the model's device."""
        ids = torch.from_numpy(self.tokens[: min(length, len(self.tokens) - 1)].astype(np.int64))
        return ids[None].to(next(self.model.parameters()).device)

    def autocast(self):
        return machine.autocast(next(self.model.parameters()).device, self.recipe.schedule.autocast)


def _recipe_json(seed: _Seed) -> str:
    recipe = recorded_recipe(seed.folder)
    recorded = _object(seed.folder / "recipe.json").get("fingerprint")
    return _hold(recorded == recipe.fingerprint, f"fingerprint {recipe.fingerprint:.12}…, it says {recorded!s:.12}…")


def _result_json(seed: _Seed) -> str:
    result = _object(seed.folder / "result.json")
    for key in (*NUMBERS, "seed"):
        _number(result, key)
    for key in TEXTS:
        _hold(isinstance(result.get(key), str), f"no text '{key}'")
    named = re.fullmatch(r"seed(\d+)", seed.folder.resolve().name)
    _hold(not named or int(named[1]) == result["seed"], f"it is of seed {result['seed']}, not the folder's")
    _hold(result["track"] == seed.recipe.track, f"track {result['track']}, not recipe.json's")
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
    here, there = core_sha256(), seed.result.get("core_sha256")
    if here != there:
        raise _CannotCheck(f"scores are taken with the core here, {here:.12}…; the run's was {there!s:.12}…")
    return f"{here:.12}…"


def _dataset(seed: _Seed) -> str:
    checked = seed.dataset.verify(seed.progress)
    return f"{seed.dataset.name}, manifest {seed.dataset.manifest_sha256:.12}…: {checked}"


def _same_model(seed: _Seed) -> str:
    header = _header(seed.artifact)
    _hold(header["model"] == to_dict(seed.recipe)["model"], "its configuration is not recipe.json's model")
    if seed.recipe.quant.allocation == "gradient":
        return "its configuration; grids by gradient are not compared"
    expected = grid_names_for(parameter_shapes(seed.recipe.model), seed.recipe.quant)
    differing = [name for name, grid, _ in header["tensors"] if expected.get(name) != grid]
    return _hold(not differing, f"on another grid: {differing[0]}" if differing else "its configuration and its grids")


def _cap(seed: _Seed) -> str:
    size, recorded = seed.artifact.stat().st_size, _number(seed.result, "artifact_bytes")
    _hold(size == recorded, f"the file has {size:,} bytes, result.json says {recorded:,}")
    code, cap = _number(seed.result, "code_bytes"), seed.recipe.cap_bytes
    script = seed.folder.parent / SCRIPT
    _hold(not script.is_file() or script.stat().st_size == code, f"{SCRIPT} has not the {code:,} bytes of result.json")
    _hold(_number(seed.result, "cap_bytes") == cap, f"the cap of {seed.recipe.track} is {cap:,}, not result.json's")
    _hold(_number(seed.result, "total_bytes") == size + code, "total_bytes is not file + code")
    return _hold(size + code <= cap, f"file {size:,} + code {code:,} = {size + code:,}; cap {cap:,}")


def _ledger(seed: _Seed) -> str:
    ledger, streams = _object(seed.folder / "ledger.json"), _header(seed.artifact)["streams"]
    size = seed.artifact.stat().st_size
    parts = {"weights_bytes": streams["codes"] + streams["fp16"], "scales_bytes": streams["scales"]}
    parts |= {"header_bytes": size - sum(streams.values()), "file_bytes": size}
    for key, expected in parts.items():
        _hold(ledger.get(key) == expected, f"{key} {ledger.get(key)}, the file has {expected}")
    return ", ".join(f"{key.removesuffix('_bytes')} {value:,}" for key, value in parts.items())


def _once(seed: _Seed) -> str:
    targets, window = len(seed.tokens) - 1, seed.recipe.eval.seq_len
    _hold(_number(seed.result, "val_targets") == targets, f"{targets:,} targets, result.json says otherwise")
    said = (seed.result.get("window", window), _number(seed.result, "sliding_stride"))
    _hold(said == (window, seed.recipe.eval.stride), f"window and stride {said} are not the recipe's")
    for stride in (window, seed.recipe.eval.stride):
        wrong = int((times_scored(plan_windows(targets, window, stride), targets) != 1).sum())
        _hold(wrong == 0, f"stride {stride}: {wrong:,} targets not scored exactly once")
    return f"{targets:,} targets, window {window}, strides {window} and {seed.recipe.eval.stride}"


def _text_bytes(seed: _Seed) -> str:
    said, counted = _number(seed.result, "val_bytes"), seed.tokenizer.bytes.total(seed.tokens)
    text = sum(len(text.encode("utf-8")) for _, text in validation_documents(seed.dataset))
    kind = "" if seed.tokenizer.lossless else " (of the text as the tokenizer normalises it)"
    return _hold(said == counted == text, f"text {text:,}{kind}, tokens {counted:,}, result.json {said:,}")


def _implied_bytes(seed: _Seed) -> str:
    """bpb = targets x nats / (ln 2 x bytes), solved for the bytes."""
    whole, evidence = _number(seed.result, "val_targets"), []
    for kind in (key.removesuffix("_bpb") for key in SCORES):
        targets = seed.result.get("raw_targets", whole) if kind in ("raw", "averaged") else whole
        _hold(type(targets) is int and 0 < targets < len(seed.tokens), f"{kind}: {targets!r} targets")
        loss, bpb = _number(seed.result, f"{kind}_loss"), _number(seed.result, f"{kind}_bpb")
        _hold(bpb > 0, f"{kind}_bpb {bpb}")
        implied = targets * loss / (math.log(2) * bpb)
        real = seed.tokenizer.bytes.total(seed.tokens[: targets + 1])
        evidence.append(f"{kind} {implied:,.1f} of {real:,}")
        _hold(abs(implied - real) < min(0.5, TOLERANCE * real), evidence[-1])
    return ", ".join(evidence)


@torch.inference_mode()
def _probabilities(seed: _Seed) -> str:
    """Of the losses as the score takes them: exp(-loss) over every possible next token, at one position."""
    ids = seed.first_window(8)
    every = torch.arange(seed.model.config.vocab_size, device=ids.device)[:, None]
    with seed.autocast():
        losses = [seed.model.token_losses(ids.expand(len(t), -1), t, ids.size(1) - 1) for t in every.split(512)]
    total = float(torch.cat(losses).double().neg().exp().sum())
    return _hold(abs(total - 1) <= PROBABILITY_TOLERANCE, f"{total:.8f} over {len(every):,} tokens")


def _causality(seed: _Seed) -> str:
    ids = seed.first_window(seed.evaluation.seq_len)
    places = sorted({1, ids.size(1) // 2, ids.size(1) - 1} - {0})
    with seed.autocast():
        changes = [leak_from_the_future(seed.model, ids, place)[0] for place in places]
    evidence = f"positions {places} and on replaced: earlier logits change by {max(changes)}"
    return _hold(all(change == 0 for change in changes), evidence)


def _rescored(seed: _Seed, kind: str) -> str:
    said = {key: _number(seed.result, f"{kind}_{key}") for key in ("bpb", "loss")}
    evaluation, _ = seed.evaluation, seed.model
    stride = evaluation.stride if kind == "sliding" else evaluation.seq_len
    arguments = (seed.artifact, seed.tokens, seed.tokenizer.bytes, evaluation.seq_len, stride, evaluation.batch_seqs)
    t_end = time.monotonic() + (math.inf if seed.budget_seconds is None else seed.budget_seconds)
    with score_bar(f"{seed.folder.name}, stride {stride}", enabled=seed.progress) as bar:

        def update(done: int, total: int) -> None:
            bar(done, total)
            if done < total and time.monotonic() > t_end:
                raise _CannotCheck(f"{done:,} of {total:,} targets in the budget of {seed.budget_seconds:g} s")

        score = score_artifact(*arguments, autocast=seed.recipe.schedule.autocast, progress=update)
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
    is_half = machine.autocast_dtype(device, mode) is torch.bfloat16
    here = machine.describe(device, mode, "off", kernel_name(device.type, is_half))
    there = str(_needed("stages/03_train.json", lambda: _object(seed.folder / "stages/03_train.json")["path"]))
    return tuple(re.sub(r" \| graph: .*? \| ", " | ", line) for line in (here, there))


SEED_CHECKS: dict[str, Callable[[_Seed], str]] = {
    "recipe.json is whole": _recipe_json,
    "result.json is whole": _result_json,
    "the run's own hashes agree": _hashes,
    "the core here is the run's": _core,
    "the dataset here is the run's, and whole": _dataset,
    "the artifact is this recipe's model": _same_model,
    "file and code fit under the cap": _cap,
    "ledger.json is the file's": _ledger,
    "every target is scored once": _once,
    "bytes are those of the decoded text": _text_bytes,
    "each score implies those bytes": _implied_bytes,
    "probabilities sum to one": _probabilities,
    "no logit sees a later token": _causality,
    "round-trip score from the file alone": functools.partial(_rescored, kind="roundtrip"),
    "sliding score from the file alone": functools.partial(_rescored, kind="sliding"),
}
"""Every check of one seed besides its artifact's own, quick ones first."""


def _seed_rows(seed: _Seed) -> list[Row]:
    rows = [_row(name, functools.partial(check, seed)) for name, check in SEED_CHECKS.items()]
    return [*artifact_rows(seed.artifact), *rows]
