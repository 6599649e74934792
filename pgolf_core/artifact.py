"""The artifact: pack weights into one small file, account for each byte, and read back only what holds together.

Layout (little-endian), format version 1, and 3 where matrices are on steps (2, an older layout of them, is refused):
    8 bytes magic | u16 version | u32 length of the header | header | codes | fp16 | scales [| steps]
The header is canonical JSON (sorted keys, no spaces) in one zstd frame: the model's configuration, [name, grid, shape]
of each tensor in name order, the length of each stream, and a SHA-256 over the version, the rest of the header and all
streams. Each stream is one zstd frame: `codes` int8 of every gridded tensor, each in blocks of its own; `fp16` the
tensors kept at half precision and `scales` the float16 row scales, both with all low bytes before all high bytes.
`steps` (version 3) is no frame but the entropy coder's own words: see pgolf_core/steps.py.
No time, path or commit is inside.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor

from pgolf_core import recipe
from pgolf_core.allocation import spend
from pgolf_core.correction import Correction, Hessians, corrections, quantise_in_turn
from pgolf_core.files import UserError, canonical_json, explain_os_errors, write_bytes
from pgolf_core.grid import GRIDS, STEPS, dequantise, grid_names_for, packable_names, quantise_tensor
from pgolf_core.ledger import CapExceeded, Ledger, entropy_bytes
from pgolf_core.sensitivity import Groups
from pgolf_core.steps import read_steps

MAGIC = b"\x89PGOLF\r\n"
"""Eight bytes that no text file begins with and that any newline conversion spoils, as in PNG."""
VERSION, STEPS_VERSION = 1, 3
_PREAMBLE = struct.Struct("<8sHI")
_STREAMS = ("codes", "fp16", "scales")
_STEPS_STREAMS = (*_STREAMS, "steps")
_HEAD_SLACK = 32
"""How much longer a header can get through the digits of its last stream's length and its checksum."""
MAX_FILE_BYTES = 64 * 2**20
"""Larger files are refused unread; the largest track allows a quarter of it."""
MAX_HEADER_BYTES = 2**20
MAX_ELEMENTS = 2**27
"""Weights in one artifact: one bit each fills the 16 MB track. It bounds what a hostile header can make us allocate."""
_MATRICES_PER_LAYER = 6
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")


def pack(
    state: dict[str, Tensor],
    model: recipe.Model,
    quant: recipe.Quant,
    path: Path | str,
    *,
    bits: dict[str, int] | None = None,
    sensitivity: dict[str, Groups] | None = None,
    hessians: Hessians | None = None,
    code_bytes: int,
    cap_bytes: int,
) -> Ledger:
    """Quantise `state` (any order, device and float dtype), compress it and write it atomically to `path`.

    With quant.kind = steps, `sensitivity` decides the steps and quant.target_bytes how fine they are. The bytes depend
    on what is given and the versions of zstandard and constriction alone; with quant.correction = hessian, which needs
    `hessians`, also on how the machine's linear algebra adds up. Raises UserError naming the tensor for weights that
    are not finite or do not fit float16, and CapExceeded, removing what an earlier packing left at `path`, when file
    and code together exceed `cap_bytes`.
    """
    if quant.allocation == "gradient" and bits is None:
        raise UserError("quant.allocation = gradient needs the run's sensitivities; train with this recipe first")
    if quant.kind == "steps" and sensitivity is None:
        raise UserError("quant.kind = steps needs the run's sensitivities; train with this recipe first")
    grids = grid_names_for({name: tuple(tensor.shape) for name, tensor in state.items()}, quant, bits)
    table = [[name, grids[name], list(state[name].shape)] for name in sorted(state)]
    try:
        _check_tensors(table, model)
    except _Refused as reason:
        raise UserError(f"these weights cannot be packed: {reason}") from None
    correction = None
    if quant.correction == "hessian":
        if hessians is None:
            raise UserError("quant.correction = hessian needs the run's inputs; train with this recipe first")
        gridded = {name: tuple(shape) for name, grid, shape in table if grid != "fp16"}
        correction = corrections(hessians, gridded, quant.correction_damping)
    parts: dict[str, list[np.ndarray]] = {stream: [] for stream in _STREAMS}
    rows, stepped = [], {}
    for name, grid, shape in table:
        if quant.kind == "steps" and grid == STEPS:
            stepped[name] = _finite(name, state[name]).numpy()
            continue
        symbols, scales = _encode(name, state[name], grid, correction=correction)
        parts["fp16" if grid == "fp16" else "codes"].append(symbols)
        parts["scales"].append(scales)
        rows.append({
            "name": name, "grid": grid, "shape": shape, "elements": symbols.size, "raw_bytes": symbols.nbytes,
            "scales_raw_bytes": scales.nbytes, "compressed_bytes": None, "entropy_bytes": entropy_bytes(symbols),
        })  # fmt: skip
    blocks = _compress([codes.tobytes() for codes in parts["codes"]], quant.zstd_level, min_match=7)
    for row, block in zip((row for row in rows if row["grid"] != "fp16"), blocks, strict=False):
        row["compressed_bytes"] = len(block)
    rest = [_compress([_byte_planes(parts[stream])], quant.zstd_level)[0] for stream in ("fp16", "scales")]
    streams, spent = [b"".join(blocks), *rest], None
    if quant.kind == "steps" and stepped:
        target = quant.target_bytes or cap_bytes - cap_bytes // 1000
        others = len(_head(model, table, [*streams, b""], quant.zstd_level)) + sum(map(len, streams)) + _HEAD_SLACK
        payload, shares, spent = spend(stepped, sensitivity, target - code_bytes - others, correction=correction)
        streams.append(payload)
        rows = sorted(rows + shares, key=lambda row: row["name"])
        spent |= {"target_bytes": target}
    head = _head(model, table, streams, quant.zstd_level)
    file_bytes = len(head) + sum(map(len, streams))
    ledger = Ledger(
        weights_bytes=sum(map(len, streams)) - len(streams[2]), fp16_bytes=len(streams[1]),
        scales_bytes=len(streams[2]), header_bytes=len(head), file_bytes=file_bytes, code_bytes=code_bytes,
        total_bytes=file_bytes + code_bytes, cap_bytes=cap_bytes, tensors=rows, steps=spent,
    )  # fmt: skip
    if correction is not None:
        ledger = dataclasses.replace(ledger, correction=correction.told)
    if ledger.total_bytes > cap_bytes:
        with explain_os_errors(f"cannot remove the outdated {path}"):
            Path(path).unlink(missing_ok=True)
        raise CapExceeded(ledger)
    write_bytes(path, head + b"".join(streams))
    return ledger


def read_header(path: Path | str) -> dict[str, Any]:
    """The verified header: `model`, `tensors` ([name, grid, shape] each), `streams` (bytes each), `sha256`."""
    return _explained(path, lambda header, model, streams: header)


def unpack(path: Path | str) -> tuple[recipe.Model, dict[str, Tensor]]:
    """The model's configuration and its weights, float32 on the CPU, in name order.

    Whatever a file may hold, this returns exactly what was packed or raises one UserError, and allocates at most a few
    bytes for each of MAX_ELEMENTS weights. That the tensors are this model's, neither more nor fewer, is for the caller
    to see (a strict load_state_dict); here they are only held to be enough for it, so that building it is safe too.
    """
    return _explained(path, lambda header, model, streams: (model, _decode(header["tensors"], streams)))


class _Refused(Exception):
    """Why a file is no artifact; turned into a UserError that names the file."""


def _explained(path: Path | str, use: Callable[..., Any]) -> Any:
    try:
        return use(*_read(path))
    except _Refused as reason:
        text = f"{path} is not a usable artifact: {str(reason)[:300]}; pack it again or fetch a fresh copy"
        raise UserError(text) from None


# Writing


def _encode(
    name: str, tensor: Tensor, grid: str, correction: Correction | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Symbols of one tensor, flat (int8 codes, or float16 values), and its float16 scales (none for fp16)."""
    w = _finite(name, tensor)
    if grid == "fp16":
        symbols, scales = w.to(torch.float16).flatten(), torch.empty(0, dtype=torch.float16)
        finite = torch.isfinite(symbols).all()
    else:
        symbols, scales = quantise_tensor(w, GRIDS[grid])
        if correction is not None and name in correction.feedback:
            symbols, scales = quantise_in_turn(w, GRIDS[grid], correction.feedback[name])
        finite = torch.isfinite(scales).all()
    if not finite:
        raise UserError(f"{name} holds values up to {w.abs().max():.3g}, too large for float16 on grid {grid}")
    return symbols.flatten().numpy(), scales.numpy()


def _finite(name: str, tensor: Tensor) -> Tensor:
    w = tensor.detach().to("cpu", torch.float32)
    if not torch.isfinite(w).all():
        raise UserError(f"{name} holds values that are not finite; the training diverged: lower the learning rates")
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


def _head(model: recipe.Model, table: list[list[Any]], streams: list[bytes], level: int) -> bytes:
    header = {
        "model": recipe.to_dict(recipe.Recipe(model=model))["model"],
        "streams": {stream: len(payload) for stream, payload in zip(_STEPS_STREAMS, streams, strict=False)},
        "tensors": table,
    }
    header["sha256"] = _checksum(header, b"".join(streams))
    (packed,) = _compress([canonical_json(header).encode("ascii")], level)
    return _PREAMBLE.pack(MAGIC, _version(header), len(packed)) + packed


def _version(header: dict[str, Any]) -> int:
    streams = header.get("streams")
    return STEPS_VERSION if isinstance(streams, dict) and "steps" in streams else VERSION


def _checksum(header: dict[str, Any], body: bytes | memoryview) -> str:
    covered = {key: value for key, value in header.items() if key != "sha256"}
    digest = hashlib.sha256(struct.pack("<H", _version(header)) + canonical_json(covered).encode("ascii"))
    digest.update(body)
    return digest.hexdigest()


# Reading: nothing is allocated before its size has been checked, and nothing is believed before the checksum


def _read(path: Path | str) -> tuple[dict[str, Any], recipe.Model, dict[str, memoryview]]:
    payload = _payload(path)
    if len(payload) < _PREAMBLE.size or payload[: len(MAGIC)] != MAGIC:
        raise _Refused("it does not begin with pgolf's signature")
    _, version, header_length = _PREAMBLE.unpack_from(payload)
    if version not in (VERSION, STEPS_VERSION):
        raise _Refused(f"format version {version}, this program reads versions {VERSION} and {STEPS_VERSION}")
    view = memoryview(payload)[_PREAMBLE.size :]
    if header_length > len(view):
        raise _Refused("it ends inside its header")
    header = _parse_header(view[:header_length])
    if version != _version(header):
        raise _Refused(f"its streams are not those of format version {version}")
    body = view[header_length:]
    lengths = header["streams"]
    if sum(lengths.values()) != len(body):
        raise _Refused(f"its header promises {sum(lengths.values())} bytes of streams, it holds {len(body)}")
    if _checksum(header, body) != header["sha256"]:
        raise _Refused("its checksum does not hold, the file is damaged")
    model = _parse_model(header["model"])
    _check_tensors(header["tensors"], model)
    streams, offset = {}, 0
    for stream in _STEPS_STREAMS[: len(lengths)]:
        streams[stream] = body[offset : offset + lengths[stream]]
        offset += lengths[stream]
    if ("steps" in streams) != any(grid == STEPS for _, grid, _ in header["tensors"]):
        raise _Refused("its table of tensors and its streams do not agree on steps")
    return header, model, streams


def _payload(path: Path | str) -> bytes:
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist; pack a model first")
    if not os.path.isfile(path):
        raise UserError(f"{path} is not a file")
    try:
        with open(path, "rb") as file:
            payload = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if len(payload) > MAX_FILE_BYTES:
        raise _Refused(f"larger than {MAX_FILE_BYTES} bytes")
    return payload


def _decompress(frame: memoryview, what: str, size: int | None = None) -> bytes:
    """Contents of exactly one zstd frame, whose declared size is checked before anything is allocated for it."""
    try:
        least, most = (0, MAX_HEADER_BYTES) if size is None else (size, size)
        declared = zstandard.frame_content_size(frame)
        if not least <= declared <= most:
            raise _Refused(f"its {what} would unpack to {declared} bytes, {most} allowed")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _Refused(f"its {what} cannot be decompressed ({error})") from None


def _parse_header(frame: memoryview) -> dict[str, Any]:
    try:
        text = _decompress(frame, "header").decode("ascii")
        header = json.loads(text)
        canonical = canonical_json(header) == text  # false for NaN, repeated keys, odd numbers, spaces
    except (ValueError, RecursionError):
        raise _Refused("its header is not JSON") from None
    if not canonical or not isinstance(header, dict) or set(header) != {"model", "sha256", "streams", "tensors"}:
        raise _Refused("its header is not one that pgolf writes")
    lengths = header["streams"]
    if (
        not isinstance(lengths, dict)
        or set(lengths) not in (set(_STREAMS), set(_STEPS_STREAMS))
        or not all(map(_is_size, lengths.values()))
    ):
        raise _Refused("its stream lengths make no sense")
    return header


def _parse_model(values: Any) -> recipe.Model:
    fields = {field.name for field in dataclasses.fields(recipe.Model)}
    if not isinstance(values, dict) or set(values) != fields:
        raise _Refused("its model configuration has other keys than this version of pgolf knows")
    try:
        return recipe.from_dict({"model": values}, source="its header").model
    except UserError as error:
        raise _Refused(str(error)) from None


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_ELEMENTS  # a bool is no size


def _check_tensors(tensors: Any, model: recipe.Model) -> None:
    """Refuse a table of [name, grid, shape] that is malformed, too large, or too small for the model it goes with."""
    if not isinstance(tensors, list) or not all(isinstance(entry, list) and len(entry) == 3 for entry in tensors):
        raise _Refused("its list of tensors is malformed")
    for name, grid, shape in tensors:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _Refused(f"tensor name {str(name)[:50]!r} is not allowed")
        if not isinstance(grid, str) or grid not in packable_names():
            raise _Refused(f"{name} has the unknown grid {str(grid)[:50]!r}")
        if not isinstance(shape, list) or len(shape) > 4 or not all(map(_is_size, shape)):
            raise _Refused(f"{name} has an impossible shape")
        if grid != "fp16" and (len(shape) != 2 or 0 in shape):
            raise _Refused(f"{name} has shape {shape}, which grid {grid} cannot hold")
    names = [entry[0] for entry in tensors]
    if names != sorted(set(names)):
        raise _Refused("its tensors are repeated or out of order")
    elements = sum(math.prod(shape) for _, _, shape in tensors)
    if elements > MAX_ELEMENTS:
        raise _Refused(f"{elements} weights are more than the {MAX_ELEMENTS} that an artifact may hold")
    least = _least_elements(model)
    if elements < least or len(tensors) < _MATRICES_PER_LAYER * model.num_layers:
        raise _Refused(
            f"a model of {model.num_layers} layers with at least {least} weights does not come out of"
            f" {len(tensors)} tensors with {elements}"
        )


def _least_elements(model: recipe.Model) -> int:
    """Weights in the model's matrices: a lower bound of all its weights, and of the memory that building it takes."""
    width, kv_width = model.model_dim, model.model_dim // model.num_heads * model.num_kv_heads
    layer = 2 * width * width + 2 * width * kv_width + 2 * width * model.mlp_hidden
    bigram = model.bigram_rows and model.bigram_dim * (model.bigram_rows + width)
    value_embedding = model.ve_dim * (model.vocab_size + kv_width)
    return model.vocab_size * width + model.num_layers * layer + bigram + value_embedding


def _decode(tensors: list[list[Any]], streams: dict[str, memoryview]) -> dict[str, Tensor]:
    sizes = {stream: 0 for stream in _STREAMS}
    plain = [entry for entry in tensors if entry[1] != STEPS]
    for _, grid, shape in plain:
        sizes["fp16" if grid == "fp16" else "codes"] += math.prod(shape)
        sizes["scales"] += 0 if grid == "fp16" else shape[0]
    codes = _decompress(streams["codes"], "codes", sizes["codes"])
    halves = _halves(_decompress(streams["fp16"], "fp16 values", 2 * sizes["fp16"]))
    scales = _halves(_decompress(streams["scales"], "scales", 2 * sizes["scales"]))
    if not np.isfinite(halves).all() or not np.isfinite(scales).all() or (scales < 0).any():
        raise _Refused("it holds values that are not finite, or negative scales")
    state, code_at, half_at, row_at = {}, 0, 0, 0
    if "steps" in streams:
        state.update(_decode_steps(tensors, streams["steps"]))
    for name, grid, shape in plain:
        count = math.prod(shape)
        if grid == "fp16":
            state[name] = torch.from_numpy(halves[half_at : half_at + count].astype(np.float32)).reshape(shape)
            half_at += count
            continue
        q = np.frombuffer(codes, np.int8, count, code_at)
        if q.min() < GRIDS[grid].qmin or q.max() > GRIDS[grid].qmax:
            raise _Refused(f"{name} has codes outside grid {grid}")
        values = torch.from_numpy(q.astype(np.float32)).reshape(shape)
        state[name] = dequantise(values, torch.from_numpy(scales[row_at : row_at + shape[0]]))
        code_at, row_at = code_at + count, row_at + shape[0]
    return {name: state[name] for name, _, _ in tensors}


def _decode_steps(tensors: list[list[Any]], stream: memoryview) -> dict[str, Tensor]:
    shapes = {name: shape for name, grid, shape in tensors if grid == STEPS}
    try:
        return {name: torch.from_numpy(weights) for name, weights in read_steps(stream, shapes).items()}
    except ValueError as error:
        raise _Refused(f"its steps cannot be decoded ({error})") from None


def _halves(planes: bytes) -> np.ndarray:
    low_high = np.frombuffer(planes, np.uint8).reshape(2, -1)
    return np.ascontiguousarray(low_high.T).view("<f2").reshape(-1).astype(np.float16, copy=False)
