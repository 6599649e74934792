"""Writing the artifact: weights into one small file, with an account of each byte."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor

from pgolf_core.base.bits import gathered_bits
from pgolf_core.base.files import Refused, UserError, canonical_json, explain_os_errors, write_bytes
from pgolf_core.base.squeeze import shuffled, squeeze
from pgolf_core.network.choice import STEPS, grid_names_for
from pgolf_core.network.extras import with_extras
from pgolf_core.network.grid import grid_of, quantise_tensor
from pgolf_core.packing.allocation import spend
from pgolf_core.packing.correction import Correction, Hessians, all_in_turn, corrections
from pgolf_core.packing.format import (
    MAGIC,
    PREAMBLE,
    RECORD_VERSION,
    STEPS_VERSION,
    STREAMS_OF,
    check_tensors,
    checksum,
    version_of,
)
from pgolf_core.packing.ledger import CapExceeded, Ledger, entropy_bytes, shares
from pgolf_core.packing.sensitivity import Groups, groups_of
from pgolf_core.recipes.recipe import Model, Quant, Recipe, recorded

_HEAD_SLACK = 32
"""How much longer a header can get through the digits of its last stream's length and its checksum."""


@dataclass(frozen=True)
class Statistics:
    """What training gathered that packing may ask for; a recipe that asks for none does without."""

    mean_squares: dict[str, float]
    """Mean squared gradient of each ranked matrix (GroupMeter.mean_squares)."""
    steps: int
    """How many steps were counted in it."""
    sums: dict[str, Tensor]
    """GroupMeter.sums."""
    hessians: Hessians | None = None


def bits_of(quant: Quant, statistics: Statistics) -> dict[str, int] | None:
    """PR 332's bits by squared gradient where the recipe asks for them, else None; UserError if none were gathered."""
    return gathered_bits(statistics.mean_squares, statistics.steps) if quant.allocation == "gradient" else None


def pack_averaged(
    recipe: Recipe, state: dict[str, Tensor], statistics: Statistics, path: Path | str, code_bytes: int
) -> Ledger:
    """`pack` as a recipe says, with what its training gathered; UserError where that is too little."""
    quant = recipe.quant
    return pack(
        state, recipe.model, quant, path,
        bits=bits_of(quant, statistics),
        sensitivity=groups_of(statistics.sums) if quant.kind == "steps" else None,
        hessians=statistics.hessians if quant.correction == "hessian" else None,
        code_bytes=code_bytes, cap_bytes=recipe.cap_bytes,
    )  # fmt: skip


def pack(
    state: dict[str, Tensor],
    model: Model,
    quant: Quant,
    path: Path | str,
    *,
    bits: dict[str, int] | None = None,
    sensitivity: Mapping[str, Groups] | None = None,
    hessians: Hessians | None = None,
    code_bytes: int,
    cap_bytes: int,
) -> Ledger:
    """Quantise `state` (any order, device and float dtype), compress it and write it atomically to `path`.

    With quant.kind = steps, `sensitivity` decides the steps and quant.target_bytes how fine they are. The bytes depend
    on what is given and the versions of zstandard, constriction and brotli alone; with quant.correction = hessian,
    which needs `hessians`, also on how the machine's linear algebra adds up. Raises UserError naming the tensor for
    weights that are not finite or do not fit float16, and CapExceeded, removing what an earlier packing left at `path`,
    when file and code together exceed `cap_bytes`.
    """
    steps = quant.kind == "steps"
    if steps and (quant.compressor == "brotli" or quant.low_rank or quant.grouping != "off"):
        raise UserError("quant.kind = steps: brotli, low_rank and grouping are for grids")
    if (bits is None and quant.allocation == "gradient") or (sensitivity is None and steps):
        raise UserError("packing by gradients needs the run's sensitivities; train with this recipe first")
    table = _table(state, model, quant, bits)
    correction = None
    if quant.correction == "hessian":
        if hessians is None:
            raise UserError("quant.correction = hessian needs the run's inputs; train with this recipe first")
        shapes = {name: tuple(shape) for name, grid, shape in table if grid != "fp16"}
        correction = corrections(hessians, shapes, quant)
    plain, on_steps = ([row for row in table if (row[1] == STEPS) is kind] for kind in (False, True))
    streams, rows, told = _plain_streams(state, plain, quant, correction)
    spent = None
    if on_steps and sensitivity is not None:
        target = quant.target_bytes or cap_bytes - cap_bytes // 1000
        others = len(_head(model, table, [*streams, b""], quant, told)) + sum(map(len, streams)) + _HEAD_SLACK
        stepped = {name: _finite(name, state[name]).numpy() for name, _, _ in on_steps}
        payload, more, spent = spend(stepped, sensitivity, target - code_bytes - others, correction=correction)
        streams.append(payload)
        rows = sorted(rows + more, key=lambda row: str(row["name"]))
        spent["target_bytes"] = target
    head = _head(model, table, streams, quant, told)
    file_bytes = len(head) + sum(map(len, streams))
    ledger = Ledger(
        weights_bytes=sum(map(len, streams)) - len(streams[2]), fp16_bytes=len(streams[1]),
        scales_bytes=len(streams[2]), header_bytes=len(head), file_bytes=file_bytes, code_bytes=code_bytes,
        total_bytes=file_bytes + code_bytes, cap_bytes=cap_bytes, tensors=rows, steps=spent,
        correction=correction.told if correction else None,
    )  # fmt: skip
    if ledger.total_bytes > cap_bytes:
        with explain_os_errors(f"cannot remove the outdated {path}"):
            Path(path).unlink(missing_ok=True)
        raise CapExceeded(ledger)
    if 0 < quant.target_bytes < ledger.total_bytes:
        least = ledger.total_bytes  # every weight on steps is zero, and that is no network
        raise UserError(f"quant.target_bytes = {quant.target_bytes}; code and file take at least {least}: raise it")
    write_bytes(path, head + b"".join(streams))
    return ledger


Entry = tuple[str, str, list[int]]
"""Name, grid and shape of a tensor: a line of the header's table."""


def _table(state: dict[str, Tensor], model: Model, quant: Quant, bits: dict[str, int] | None) -> list[Entry]:
    """What the header says of each tensor, in name order; UserError for weights that are not this model's."""
    grids = grid_names_for({name: tuple(tensor.shape) for name, tensor in state.items()}, quant, bits)
    table = [(name, grids[name], list(state[name].shape)) for name in sorted(state)]
    try:
        check_tensors([list(entry) for entry in table], model)
    except Refused as reason:
        raise UserError(f"these weights cannot be packed: {reason}") from None
    return table


def _plain_streams(
    state: dict[str, Tensor], table: list[Entry], quant: Quant, correction: Correction | None
) -> tuple[list[bytes], list[dict[str, Any]], dict[str, Any]]:
    """The streams of what is not on steps, the ledger's row of each tensor, and what the header says of the streams."""
    rows: list[dict[str, Any]] = []
    in_turn, coded, halves = {}, {}, []
    if correction is not None:
        grids = {name: grid_of(name, grid, quant) for name, grid, _ in table if name in correction.feedback}
        in_turn = all_in_turn({name: _finite(name, state[name]) for name in grids}, grids, correction.feedback)
    for name, grid, shape in table:
        symbols, scales = _encode(name, state[name], grid, quant, in_turn.get(name))
        if grid == "fp16":
            halves.append(symbols)
        else:
            coded[name] = symbols.reshape(shape), scales
        rows.append({
            "name": name, "grid": grid, "shape": shape, "elements": symbols.size, "raw_bytes": symbols.nbytes,
            "scales_raw_bytes": scales.nbytes, "compressed_bytes": None, "entropy_bytes": entropy_bytes(symbols),
        })  # fmt: skip
    gridded = [row for row in rows if row["name"] in coded]
    codes = [matrix.tobytes() for matrix, _ in coded.values()]
    others = [_byte_planes(halves), _byte_planes([scales for _, scales in coded.values()])]
    told: dict[str, Any] = {}
    if quant.grouping != "off" or quant.low_rank:
        gates = [name for name, grid, _ in table if grid == quant.gates]
        codes, more, told = with_extras(state, coded, gates, quant)
        others += more
    if quant.compressor == "brotli":
        joined, sizes = b"".join(codes), []
        # grouped codes are not shuffled: like ones are neighbours already
        streams = [squeeze(part) for part in (joined if "grouping" in told else shuffled(joined), *others)]
    else:
        blocks = _compress(codes, quant.zstd_level, min_match=7)
        streams = [b"".join(blocks), *(_compress([part], quant.zstd_level)[0] for part in others)]
        sizes = [*map(len, blocks)]
    if quant.compressor == "brotli" or "grouping" in told:
        sizes = shares(len(streams[0]), [row["entropy_bytes"] for row in gridded])
    for row, size in zip(gridded, sizes, strict=False):
        row["compressed_bytes"] = size
    return streams, rows, told


def _encode(
    name: str, tensor: Tensor, grid: str, quant: Quant, in_turn: tuple[Tensor, Tensor] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Symbols of one tensor, flat (int8 codes, or float16 values), and its float16 scales (none for fp16); `in_turn`
    are those of a matrix whose rounding is corrected."""
    w = _finite(name, tensor)
    if grid == "fp16":
        symbols, scales = w.to(torch.float16).flatten(), torch.empty(0, dtype=torch.float16)
        finite = torch.isfinite(symbols).all()
    else:
        symbols, scales = in_turn or quantise_tensor(w, grid_of(name, grid, quant))
        finite = torch.isfinite(scales).all()
    if not finite:
        raise UserError(f"{name} holds values up to {w.abs().max():.3g}, too large for float16 on grid {grid}")
    return symbols.flatten().numpy(), scales.numpy()


def _finite(name: str, tensor: Tensor) -> Tensor:
    w = tensor.detach().to("cpu", torch.float32)
    if not torch.isfinite(w).all():
        raise UserError(f"{name} is not finite: training diverged; lower the rates")
    return w


def _byte_planes(arrays: list[np.ndarray]) -> bytes:
    """Low bytes of all float16 values, then their high bytes: the high ones are alike, the low ones noise."""
    halves = np.concatenate([np.empty(0, np.float16), *arrays]).astype("<f2")
    return halves.view(np.uint8).reshape(-1, 2).T.tobytes()


def _compress(parts: list[bytes], level: int, **options: int) -> list[bytes]:
    """One zstd frame over all parts, as one piece for each part, each in blocks of its own (one piece for no parts).

    Codes are nearly independent symbols, so two defaults cost bytes: matches as short as 3 are accidents that spoil the
    literals' Huffman tables (up to 7 % at level 22, hence min_match=7), and blocks across two matrices share one table
    (0.2 %). What is left above the order-0 entropy, about 1.3 %, is Huffman's whole bits.
    """
    size = sum(map(len, parts))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=size, write_content_size=1, write_checksum=0, threads=0, **options
    )
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=size)
    pieces = [frame.compress(part) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for part in parts] or [b""]
    pieces[-1] += frame.flush()
    return pieces


def _head(model: Model, table: list[Entry], streams: list[bytes], quant: Quant, told: dict[str, Any]) -> bytes:
    names = STREAMS_OF[RECORD_VERSION if told else STEPS_VERSION]
    header: dict[str, Any] = {
        "model": recorded(model),
        "streams": {stream: len(payload) for stream, payload in zip(names, streams, strict=False)},
        "tensors": table,
        **told,
    }
    if quant.compressor == "brotli":
        header["compressor"] = "brotli"
    header["sha256"] = checksum(header, b"".join(streams))
    (packed,) = _compress([canonical_json(header).encode("ascii")], quant.zstd_level)
    return PREAMBLE.pack(MAGIC, version_of(header), len(packed)) + packed
