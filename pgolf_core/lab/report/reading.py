"""One finished seed's files, read and held against each other, and the command that makes it again."""

import contextlib
import dataclasses
import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.base.names import ARTIFACT, METRICS, SEED_RESULT
from pgolf_core.base.strict import build
from pgolf_core.lab.compare.agreement import first_difference, read_seed_result
from pgolf_core.lab.compare.results import SCORE_LABELS, json_object, read_object
from pgolf_core.lab.shared.places import ENV_FILE, LEDGER_FILE, RECIPE_FILE
from pgolf_core.lab.shared.settings import flatten, is_number
from pgolf_core.network.choice import STEPS
from pgolf_core.packing.ledger import Ledger
from pgolf_core.packing.unpack import read_header
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
    digest = ""
    if artifact.is_file():
        digest, header = sha256_file(artifact), read_header(artifact)
        for complaint in not_of_file(ledger, header, artifact.stat().st_size):
            raise UserError(f"{folder}: {complaint}; run `{command} --fresh`")
    return SeedRun(result, ledger, metrics, read_object(folder / ENV_FILE), digest)


def _contradictions(result: Result, ledger: Ledger) -> Iterator[str]:
    for key in (f"{name}_{what}" for name in SCORE_LABELS for what in ("bpb", "loss")):
        if getattr(result, key) is None:
            yield f"there is no '{key}'"
    if result.adapted_bpb is not None and not {"scoring", "adapting"} <= result.seconds.keys():
        yield "there is no 'seconds.scoring' or 'seconds.adapting'"
    if ledger.weights_bytes + ledger.scales_bytes + ledger.header_bytes != ledger.file_bytes:
        yield "ledger.json's weights, scales and header do not add up to the file"
    if not ledger.tensors:
        yield "ledger.json lists no tensor"
    for tensor in ledger.tensors:
        if not all(isinstance(tensor.get(key), str) for key in ("name", "grid")):
            yield f"ledger.json has a tensor without name or grid ({tensor.get('name')!r:.40})"
        own = [] if tensor.get("grid") == "fp16" else ["compressed_bytes"]
        for key in ("elements", "raw_bytes", "scales_raw_bytes", "entropy_bytes", *own):
            if not is_number(tensor.get(key)):
                yield f"ledger.json has no number '{key}' of {tensor.get('name')}"
                return
        if not 0 <= tensor["entropy_bytes"] <= tensor["raw_bytes"]:
            yield f"ledger.json: the entropy of {tensor['name']!r:.40} is no part of its raw bytes"
        shape: Any = tensor.get("shape")
        is_shape = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
        if not is_shape or math.prod(shape) != tensor.get("elements"):
            yield f"ledger.json: the shape of {tensor.get('name')!r:.40} has not its elements"


def _tensor(name: str, grid: str, shape: list[int]) -> dict[str, Any]:
    """What a ledger must say of a tensor of the file."""
    elements, is_half = math.prod(shape), grid == "fp16"
    known = {"name": name, "grid": grid, "shape": shape, "elements": elements, "raw_bytes": elements * (1 + is_half)}
    known |= {"scales_raw_bytes": 0 if is_half or grid == STEPS else 2 * shape[0]}
    return known | ({"compressed_bytes": None} if is_half else {})


def not_of_file(ledger: Ledger, header: Mapping[str, Any], file_bytes: int) -> Iterator[str]:
    """What a ledger says otherwise than the header of its artifact, a file of so many bytes."""
    streams, tensors = header["streams"], header["tensors"]
    if len(ledger.tensors) != len(tensors):
        yield f"{LEDGER_FILE} lists other tensors than the file"
        return
    parts = {
        "weights_bytes": sum(streams.values()) - streams["scales"], "fp16_bytes": streams["fp16"],
        "scales_bytes": streams["scales"], "header_bytes": file_bytes - sum(streams.values()), "file_bytes": file_bytes,
    }  # fmt: skip
    rows = [row | _tensor(*entry) for row, entry in zip(ledger.tensors, tensors, strict=True)]
    expected = dataclasses.replace(ledger, **parts, tensors=rows)
    if wrong := first_difference(dataclasses.asdict(expected), dataclasses.asdict(ledger)):
        yield f"{wrong} of {LEDGER_FILE} is not that of the file"
    for stream in ("codes", STEPS):  # a stream of no tensor is an empty frame, and no tensor's bytes
        own = [row for row in rows if row["grid"] != "fp16" and (row["grid"] == STEPS) is (stream == STEPS)]
        if own and _sum(row.get("compressed_bytes") for row in own) != streams.get(stream, 0):
            yield f"compressed_bytes of {LEDGER_FILE} do not make up the {stream}"
    spent = ledger.steps or {}
    if (STEPS in streams) is not bool(spent):
        yield f"{LEDGER_FILE} tells of steps and the file has none, or the other way about"
    elif spent and _sum(map(spent.get, ("side_bytes", "coded_bytes"))) != streams[STEPS]:
        yield f"side and coded bytes of {LEDGER_FILE} do not make up the steps"


def _sum(values: Iterable[Any]) -> float | None:
    """Their sum, if all are numbers."""
    listed = list(values)
    return sum(listed) if all(map(is_number, listed)) else None


def _read_metrics(path: Path, seed: int, remedy: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            if record["kind"] != "correction":  # that comes after the last step, without a loss
                rows.append((seed, str(record["kind"]), int(record["step"]), float(record["loss"])))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise UserError(f"{path}, line {number}: not a metrics record with kind, step and loss; {remedy}") from None
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
