"""Bytes that `pgolf verify` counts on a run: the artifact's own, those of file and code, and those of its ledger."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.base.strict import build
from pgolf_core.lab.export import code_bytes_of
from pgolf_core.lab.shared.places import LEDGER_FILE, SCRIPT, core_sha256
from pgolf_core.lab.verify.evidence.checks import CannotCheck, Row, hold, judge, judge_all, require
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.reviewed import MODEL_CHECKS, Artifact, header_of
from pgolf_core.lab.verify.reading.seed import Seed
from pgolf_core.lab.verify.reading.untrusted import is_number, json_object, number
from pgolf_core.network.grid import STEPS, grid_names_for
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing.format import PREAMBLE
from pgolf_core.packing.ledger import Ledger
from pgolf_core.packing.unpack import load_model, read_header
from pgolf_core.recipes.recipe import Recipe, to_dict

# ---------------------------------------------------------------------- the artifact alone


def artifact_rows(path: Path) -> list[Row]:
    """The three checks that need nothing but the file."""
    checks = {
        "artifact opens and is whole": _opens,
        "header and streams make up the file": _adds_up,
        "tensors fit the artifact's own model": _fits,
    }
    return judge_all(checks, path)


def scored_artifact_rows(path: Path, how: How) -> list[Row]:
    """The same, and what a scoring on the dataset that `how` names shows."""
    first, second, _, sliding, last = MODEL_CHECKS
    one, renamed = Artifact(path, how), {sliding: "score from the file alone"}
    names = (first, second, sliding, last)
    return artifact_rows(path) + [judge(renamed.get(name, name), MODEL_CHECKS[name], one) for name in names]


def _opens(path: Path) -> str:
    tensors = read_header(path)["tensors"]
    return f"its checksum holds: {len(tensors)} tensors; SHA-256 of the file {sha256_file(path):.16}…"


def _adds_up(path: Path) -> str:
    streams = header_of(path)["streams"]
    with open(path, "rb") as file:
        _, _, length = PREAMBLE.unpack(file.read(PREAMBLE.size))
    parts = {"preamble": PREAMBLE.size, "header": length, **streams}
    total, size = sum(parts.values()), path.stat().st_size
    return hold(total == size, f"{' + '.join(f'{n} {b:,}' for n, b in parts.items())} = {total:,}; file {size:,}")


def _fits(path: Path) -> str:
    header_of(path)
    model = load_model(path, torch.device("cpu"))
    return f"{sum(p.numel() for p in model.parameters()):,} parameters in {model.config.num_layers} layers"


# ---------------------------------------------------------------------- file and code of a run


def same_model(seed: Seed) -> str:
    """The artifact's configuration and grids are the recipe's."""
    header = header_of(seed.artifact)
    hold(header["model"] == to_dict(seed.recipe)["model"], "its configuration is not recipe.json's model")
    shapes = parameter_shapes(seed.recipe.model)
    count, said = sum(map(math.prod, shapes.values())), seed.result.parameters
    hold(said == count, f"the model has {count:,} parameters, result.json says {said:,}")
    if seed.recipe.quant.allocation == "gradient":
        return f"its configuration, {count:,} parameters; grids by gradient are not compared"
    expected = grid_names_for(shapes, seed.recipe.quant)
    differing = [name for name, grid, _ in header["tensors"] if expected.get(name) != grid]
    evidence = f"on another grid: {differing[0]}" if differing else f"its configuration and grids, {count:,} parameters"
    return hold(not differing, evidence)


def cap(seed: Seed) -> str:
    """Literal bytes of file and code, the recorded ones, and the track's cap."""
    size, result, most = seed.artifact.stat().st_size, seed.result, seed.recipe.cap_bytes
    code = result.code_bytes
    hold(size == result.artifact_bytes, f"the file has {size:,} bytes, result.json says {result.artifact_bytes:,}")
    hold(result.cap_bytes == most, f"the cap of {seed.recipe.track} is {most:,}, not result.json's")
    hold(result.total_bytes == size + code, "total_bytes is not file + code")
    evidence = hold(size + code <= most, f"file {size:,} + code {code:,} = {size + code:,}; cap {most:,}")
    return f"{evidence}; {_counted_code(seed, code)}"


def _counted_code(seed: Seed, code: int) -> str:
    """What has exactly `code` bytes: a script beside the run, or what `pgolf export` writes."""
    for script in (seed.folder / SCRIPT, seed.folder.parent / SCRIPT):
        if script.is_file():
            size, digest = script.stat().st_size, seed.result.script_sha256
            hold(code == size, f"{SCRIPT} has {size:,} bytes, result.json says {code:,}")
            return hold(sha256_file(script) == digest, f"{SCRIPT} has {size:,} bytes, and result.json's hash")
    is_same_core = core_sha256() == seed.result.core_sha256
    require(is_same_core, f"the code that was counted is not here: the core of the run is another ({code:,} bytes)")
    try:
        exported = code_bytes_of(seed.recipe)
    except UserError as error:
        raise CannotCheck(f"the script that was counted cannot be made: {error}") from None
    return hold(code == exported, f"the exported script has {exported:,} bytes, result.json says {code:,}")


def ledger(seed: Seed) -> str:
    """ledger.json against the file: its parts, and each tensor's name, grid, shape and raw bytes."""
    told: Ledger = build(Ledger, json_object(seed.folder / LEDGER_FILE), LEDGER_FILE)
    header, size, result = header_of(seed.artifact), seed.artifact.stat().st_size, seed.result
    streams, tensors = header["streams"], header["tensors"]
    hold(len(told.tensors) == len(tensors), "it lists other tensors than the file")
    _correction(told.correction, seed.recipe, {name for name, grid, _ in tensors if grid != "fp16"})
    parts = {
        "weights_bytes": sum(streams.values()) - streams["scales"], "fp16_bytes": streams["fp16"],
        "scales_bytes": streams["scales"], "header_bytes": size - sum(streams.values()), "file_bytes": size,
    }  # fmt: skip
    expected = dataclasses.replace(
        told, **parts, code_bytes=result.code_bytes, total_bytes=size + result.code_bytes, cap_bytes=result.cap_bytes,
        tensors=[row | _tensor(*entry) for row, entry in zip(told.tensors, tensors, strict=True)],
        correction=result.correction,
    )  # fmt: skip
    wrong = first_difference(dataclasses.asdict(expected), dataclasses.asdict(told))
    hold(not wrong, f"{wrong} is not that of the file and of result.json")
    _compressed(told, streams)
    text = ", ".join(f"{key.removesuffix('_bytes')} {value:,}" for key, value in parts.items())
    return f"{text}; {len(tensors)} tensors"


def _tensor(name: str, grid: str, shape: list[int]) -> dict[str, Any]:
    """What a ledger must say of a tensor of the file."""
    elements, is_half = math.prod(shape), grid == "fp16"
    known = {"name": name, "grid": grid, "shape": shape, "elements": elements}
    known |= {"raw_bytes": 2 * elements if is_half else elements}
    known |= {"scales_raw_bytes": 0 if is_half or grid == STEPS else 2 * shape[0]}
    return known | ({"compressed_bytes": None} if is_half else {})


def _compressed(told: Ledger, streams: dict[str, int]) -> None:
    """The tensors' compressed bytes make up their streams, and what is told of steps is theirs."""
    for stream in ("codes", STEPS):  # a stream of no tensor is an empty frame, and no tensor's bytes
        rows = [row for row in told.tensors if row["grid"] != "fp16" and (row["grid"] == STEPS) is (stream == STEPS)]
        total = sum(number(row, "compressed_bytes") for row in rows)
        hold(not rows or total == streams.get(stream, 0), f"compressed_bytes do not make up the {stream}")
    if STEPS not in streams:
        hold(told.steps is None, "it tells of steps that the file has not")
        return
    spent = told.steps or {}
    coded = number(spent, "side_bytes") + number(spent, "coded_bytes")
    hold(coded == streams[STEPS], "side and coded bytes do not make up the steps")


def _correction(told: dict[str, Any] | None, recipe: Recipe, matrices: set[str]) -> None:
    """What a ledger tells of a correction is the recipe's, and of matrices that the file has on a grid or on steps."""
    if recipe.quant.correction == "off":
        hold(told is None, "it tells of a correction that the recipe has not")
        return
    hold(bool(told), "it tells nothing of the recipe's correction")
    values, damping = told or {}, recipe.quant.correction_damping
    hold(values.get("damping") == damping, f"correction: damping {values.get('damping')}, the recipe has {damping:g}")
    raised, plain = values.get("raised"), values.get("plain")
    listed = {*raised, *map(str, plain)} if isinstance(raised, dict) and isinstance(plain, list) else {""}
    hold(listed <= matrices, "correction: raised or plain are no matrices of the file")
    counts: list[Any] = [values.get("matrices"), values.get("tokens")]
    hold(all(is_number(n) and n > 0 for n in counts), f"correction: {counts} are no numbers of matrices and tokens")
    is_of_file = len(raised or ()) <= counts[0] <= len(matrices - set(plain or ()))
    hold(is_of_file, f"correction: {counts[0]} matrices, not the file's")


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of everything in a JSON value that holds nothing else."""
    if isinstance(value, dict | list) and value:
        named = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in named:
            inside = f"{place}[{key}]" if isinstance(value, list) else f"{place}.{key}"
            yield from leaves(item, inside.removeprefix("."))
    else:
        yield place, value


def first_difference(expected: Any, found: Any) -> str:
    """Where two JSON values differ, numbers to 1e-9; empty if nowhere."""
    one, other = dict(leaves(expected)), dict(leaves(found))
    for place in {**one, **other}:
        pair = one.get(place, NotImplemented), other.get(place, NotImplemented)
        same = pair[0] == pair[1] and type(pair[0]) is type(pair[1])
        if not (same or (all(map(is_number, pair)) and math.isclose(*pair, rel_tol=1e-9, abs_tol=1e-12))):
            return place or "all of it"
    return ""
