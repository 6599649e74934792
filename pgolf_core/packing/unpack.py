"""Reading the artifact back, and scoring from the file alone.

Nothing is allocated before its size has been checked, and nothing is believed before the checksum.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor

from pgolf_core.base.device import pick_device
from pgolf_core.base.files import Refused, UserError, canonical_json
from pgolf_core.base.squeeze import unshuffled, unsqueeze
from pgolf_core.network.choice import STEPS
from pgolf_core.network.extras import extra_sizes, read_extras
from pgolf_core.network.grid import GRIDS, dequantise
from pgolf_core.network.model import GPT, network_with, parameter_shapes
from pgolf_core.network.score import Score, score
from pgolf_core.packing.format import (
    BROTLI_VERSION,
    MAGIC,
    PREAMBLE,
    RECORD_VERSION,
    STREAMS_OF,
    check_tensors,
    checksum,
    is_size,
    version_of,
)
from pgolf_core.packing.steps import read_steps
from pgolf_core.recipes.recipe import Model, from_dict, recorded
from pgolf_core.text.tokenizer import TokenBytes

MAX_FILE_BYTES = 64 * 2**20
"""Larger files are refused unread; the largest track allows a quarter of it."""
MAX_HEADER_BYTES = 2**20


def read_header(path: Path | str) -> dict[str, Any]:
    """The verified header: `model`, `tensors` ([name, grid, shape] each), `streams` (bytes each), `sha256`;
    of a file by brotli also `compressor`."""
    return _explained(path, lambda header, model, streams: header)


def unpack(path: Path | str) -> tuple[Model, dict[str, Tensor]]:
    """The model's configuration and its weights, float32 on the CPU, in name order.

    Whatever a file may hold, this returns exactly what was packed or raises one UserError, and allocates at most a few
    bytes for each of MAX_ELEMENTS weights. That the tensors are this model's, neither more nor fewer, is for the caller
    to see (a strict load_state_dict); here they are only held to be enough for it, so that building it is safe too.
    """
    return _explained(path, lambda header, model, streams: (model, _decode(header, streams)))


def _explained(path: Path | str, use: Callable[..., Any]) -> Any:
    try:
        return use(*_read(path))
    except Refused as reason:
        text = f"{path} is not a usable artifact: {str(reason)[:300]}; pack it again or fetch a fresh copy"
        raise UserError(text) from None


def _read(path: Path | str) -> tuple[dict[str, Any], Model, dict[str, memoryview]]:
    payload = _payload(path)
    if len(payload) < PREAMBLE.size or payload[: len(MAGIC)] != MAGIC:
        raise Refused("it does not begin with pgolf's signature")
    _, version, header_length = PREAMBLE.unpack_from(payload)
    if version not in STREAMS_OF:
        raise Refused(f"format version {version}, this program reads versions {', '.join(map(str, STREAMS_OF))}")
    view = memoryview(payload)[PREAMBLE.size :]
    if header_length > len(view):
        raise Refused("it ends inside its header")
    header = _parse_header(view[:header_length])
    lengths = header["streams"]
    by_brotli = "compressor" in header
    if (
        version != version_of(header)
        or (by_brotli != (version == BROTLI_VERSION) and version != RECORD_VERSION)
        or {*lengths} != {*STREAMS_OF[version]}
    ):
        raise Refused(f"its streams are not those of format version {version}")
    body = view[header_length:]
    if sum(lengths.values()) != len(body):
        raise Refused(f"its header promises {sum(lengths.values())} bytes of streams, it holds {len(body)}")
    if checksum(header, body) != header["sha256"]:
        raise Refused("its checksum does not hold, the file is damaged")
    model = _parse_model(header["model"])
    check_tensors(header["tensors"], model)
    streams, offset = {}, 0
    for stream in STREAMS_OF[version]:
        streams[stream] = body[offset : offset + lengths[stream]]
        offset += lengths[stream]
    if ("steps" in streams) != any(grid == STEPS for _, grid, _ in header["tensors"]):
        raise Refused("its table of tensors and its streams do not agree on steps")
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
        raise Refused(f"larger than {MAX_FILE_BYTES} bytes")
    return payload


def _decompress(frame: memoryview, what: str, size: int | None = None) -> bytes:
    """Contents of exactly one zstd frame, whose declared size is checked before anything is allocated for it."""
    try:
        least, most = (0, MAX_HEADER_BYTES) if size is None else (size, size)
        declared = zstandard.frame_content_size(frame)
        if not least <= declared <= most:
            raise Refused(f"its {what} would unpack to {declared} bytes, {most} allowed")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(f"its {what} cannot be decompressed ({error})") from None


def _parse_header(frame: memoryview) -> dict[str, Any]:
    try:
        text = _decompress(frame, "header").decode("ascii")
        header = json.loads(text)
        canonical = canonical_json(header) == text  # false for NaN, repeated keys, odd numbers, spaces
    except (ValueError, RecursionError):
        raise Refused("its header is not JSON") from None
    keys = {"model", "sha256", "streams", "tensors"}
    if not canonical or not isinstance(header, dict) or {*header} - {"compressor", "low_rank", "grouping"} != keys:
        raise Refused("its header is not one that pgolf writes")
    lengths = header["streams"]
    known = isinstance(lengths, dict) and set(lengths) in map(set, STREAMS_OF.values())
    if not known or not all(map(is_size, lengths.values())):
        raise Refused("its stream lengths make no sense")
    return header


def _parse_model(values: Any) -> Model:
    try:
        model = from_dict({"model": values}, source="its header").model
    except UserError as error:
        raise Refused(f"its model configuration is none or has other keys than this version writes: {error}") from None
    if set(values) != set(recorded(model)):
        raise Refused("its model configuration has other keys than this version writes")
    return model


def _decode(header: dict[str, Any], streams: dict[str, memoryview]) -> dict[str, Tensor]:
    tensors = header["tensors"]
    gridded = {name: shape for name, grid, shape in tensors if grid not in ("fp16", STEPS)}
    num_halves = sum(math.prod(shape) for _, grid, shape in tensors if grid == "fp16")
    num_rows = sum(shape[0] for shape in gridded.values())
    frames, in_bytes = list(streams.values()), [sum(map(math.prod, gridded.values())), 2 * num_halves, 2 * num_rows]
    in_bytes += extra_sizes(header, gridded) if "factors" in streams else []
    if "compressor" in header:
        codes, *planes = map(unsqueeze, frames, in_bytes)
        codes = codes if "grouping" in header else unshuffled(codes)
    else:
        codes, *planes = map(_decompress, frames, ("codes", "fp16 values", "scales", "factors", "order"), in_bytes)
    halves, scales = map(_halves, planes[:2])
    codes, added = read_extras(header, codes, planes[2:], gridded) if "factors" in streams else (codes, {})
    if not np.isfinite(halves).all() or not np.isfinite(scales).all() or (scales < 0).any():
        raise Refused("it holds values that are not finite, or negative scales")
    stepped: dict[str, np.ndarray] = {}
    if "steps" in streams:
        try:
            stepped = read_steps(streams["steps"], {name: shape for name, grid, shape in tensors if grid == STEPS})
        except ValueError as error:
            raise Refused(f"its steps cannot be decoded ({error})") from None
    state, left = {}, np.frombuffer(codes, np.int8)
    for name, grid, shape in tensors:
        if grid == STEPS:
            weights = torch.from_numpy(stepped[name])
        elif grid == "fp16":
            own, halves = np.split(halves, [math.prod(shape)])
            weights = torch.from_numpy(own.astype(np.float32))
        else:
            q, left = np.split(left, [math.prod(shape)])
            own, scales = np.split(scales, shape[:1])
            if q.min() < GRIDS[grid].qmin or q.max() > GRIDS[grid].qmax:
                raise Refused(f"{name} has codes outside grid {grid}")
            weights = dequantise(torch.from_numpy(q.astype(np.float32)).reshape(shape), torch.from_numpy(own))
            if name in added:
                weights += added[name]
        state[name] = weights.reshape(shape)
    return state


def _halves(planes: bytes) -> np.ndarray:
    return np.frombuffer(planes, np.uint8).reshape(2, -1).T.copy().view(np.float16).ravel()


def load_model(path: Path | str, device: torch.device | None = None) -> GPT:
    """Rebuild the network from a packed file alone, in eval mode; UserError for a file that does not fit itself."""
    config, state = unpack(path)
    expected = parameter_shapes(config)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        differing = sorted(set(found.items()) ^ set(expected.items()))[0][0]
        raise UserError(f"{path}: tensor '{differing}' is missing, unexpected or of the wrong shape for its own config")
    return network_with(config, state).to(device or pick_device()).eval()


def score_artifact(
    path: Path | str,
    tokens: np.ndarray,
    token_bytes: TokenBytes,
    seq_len: int,
    stride: int,
    batch_seqs: int,
    **options: Any,
) -> Score:
    """Score from the packed file on disk only; everything else is as for `score`."""
    model = load_model(path)
    if model.config.vocab_size != len(token_bytes.base):
        raise UserError(
            f"{path} has a vocabulary of {model.config.vocab_size}, the dataset's tokenizer {len(token_bytes.base)}; "
            "score it on the dataset it was trained for (--data)"
        )
    return score(model, tokens, token_bytes, seq_len, stride, batch_seqs, **options)
