"""One finished seed's files, read and held against each other, and the command that makes it again."""

import contextlib
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.base.names import ARTIFACT, METRICS, SEED_RESULT
from pgolf_core.base.strict import build
from pgolf_core.lab.compare.results import SCORE_LABELS, json_object, read_object, read_seed_result
from pgolf_core.lab.shared.places import ENV_FILE, LEDGER_FILE, RECIPE_FILE
from pgolf_core.lab.shared.settings import flatten
from pgolf_core.packing.ledger import Ledger
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import to_dict
from pgolf_core.result import Result


@dataclass(frozen=True)
class SeedRun:
    """One seed's files, checked."""

    result: Result
    ledger: Ledger
    metrics: pd.DataFrame
    """Columns seed, kind ('train' or 'val'), step, loss (nats per token)."""
    environment: dict[str, Any]
    artifact_sha256: str
    """Empty where the artifact is no longer in the folder."""


def read_seed(recipe_folder: Path, seed: int) -> SeedRun:
    """One finished seed; UserError for a missing file or number, or for numbers that contradict each other."""
    folder, command = recipe_folder / f"seed{seed}", command_of(recipe_folder, [seed])
    for name in (SEED_RESULT, LEDGER_FILE, METRICS, ENV_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist; run `{command}`, or take it off the list of seeds")
    result, artifact = read_seed_result(folder, seed), folder / ARTIFACT
    ledger = build(Ledger, json_object(folder / LEDGER_FILE), str(folder / LEDGER_FILE))
    for complaint in _contradictions(result, ledger):
        raise UserError(f"{folder / SEED_RESULT}: {complaint}; run `{command} --fresh`")
    metrics = _read_metrics(folder / METRICS, seed, f"run `{command} --fresh`")
    digest = sha256_file(artifact) if artifact.is_file() else ""
    return SeedRun(result, ledger, metrics, read_object(folder / ENV_FILE), digest)


def _contradictions(result: Result, ledger: Ledger) -> Iterator[str]:
    for key in (f"{name}_{what}" for name in SCORE_LABELS for what in ("bpb", "loss")):
        if getattr(result, key) is None:
            yield f"there is no '{key}'"
    for ours, theirs in {"artifact": "file", "code": "code", "total": "total", "cap": "cap"}.items():
        if getattr(result, f"{ours}_bytes") != getattr(ledger, f"{theirs}_bytes"):
            yield f"{ours}_bytes is not ledger.json's {theirs}_bytes"
    if ledger.weights_bytes + ledger.scales_bytes + ledger.header_bytes != ledger.file_bytes:
        yield "ledger.json's weights, scales and header do not add up to the file"
    if not ledger.tensors:
        yield "ledger.json lists no tensor"
    for tensor in ledger.tensors:
        if not all(isinstance(tensor.get(key), str) for key in ("name", "grid")):
            yield f"ledger.json has a tensor without name or grid ({tensor.get('name')!r:.40})"
        own = [] if tensor.get("grid") == "fp16" else ["compressed_bytes"]
        for key in ("elements", "raw_bytes", "scales_raw_bytes", "entropy_bytes", *own):
            if type(tensor.get(key)) not in (int, float):
                yield f"ledger.json has no number '{key}' of {tensor.get('name')}"
        shape: Any = tensor.get("shape")
        is_shape = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
        if not is_shape or math.prod(shape) != tensor.get("elements"):
            yield f"ledger.json: the shape of {tensor.get('name')!r:.40} has not its elements"


def _read_metrics(path: Path, seed: int, remedy: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            if record["kind"] != "correction":  # that comes after the last step, without a loss
                rows.append((seed, str(record["kind"]), int(record["step"]), float(record["loss"])))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise UserError(f"{path}, line {number}: not a metrics record with kind, step and loss; {remedy}") from None
    if not rows:
        raise UserError(f"{path} is empty; {remedy}")
    return pd.DataFrame(rows, columns=["seed", "kind", "step", "loss"])


def command_of(recipe_folder: Path, seeds: Sequence[int]) -> str:
    """The command that makes these seeds, from the folder's recipe.json: its changes to the recipe file as --set."""
    recorded = read_object(recipe_folder / RECIPE_FILE)
    name = str(recorded.get("name", recipe_folder.name))
    source = name if name in available_recipes() else f"{name}.toml"  # a file of one's own, wherever it lies
    words = ["pgolf record", shlex.quote(source), "--seeds", ",".join(map(str, seeds))]
    with contextlib.suppress(UserError):  # the recipe file may be gone; the settings are in the report all the same
        base = flatten(to_dict(load_recipe(source)))
        for key, value in flatten(recorded).items():
            if key in base and base[key] != value and key not in ("name", "title"):
                words += ["--set", shlex.quote(f"{key}={json.dumps(value)}")]
    if recipe_folder.name not in (name, f"{name}+{recorded.get('fingerprint', '')!s:.8}"):
        words += ["--name", shlex.quote(recipe_folder.name)]
    return " ".join(words)
