"""A model of a few hundred weights, and artifacts made of it by hand."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
import zstandard

from pgolf_core.base.files import canonical_json
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing.format import MAGIC, PREAMBLE, STREAMS_OF, checksum, version_of
from pgolf_core.recipes import recipe

CAP = {"code_bytes": 1000, "cap_bytes": 1_000_000}
ON_GRIDS = recipe.Quant(small_tensor_elements=100, mlp="int5_row_nofloor", attention="int6_clip_search")
AS_RECORD = dataclasses.replace(
    ON_GRIDS,
    mlp="int6_sigma",
    tok_emb="int7_sigma",
    low_rank=2,
    low_rank_top=3,
    low_rank_group=8,
    grouping="similarity",
)
"""What PR 1855 adds to a file."""

MODEL = recipe.Model(
    vocab_size=32, num_layers=2, model_dim=16, num_heads=2, num_kv_heads=1, mlp_hidden=24, rope_dims=4, bigram_rows=9,
    bigram_dim=8,
)  # fmt: skip


def tiny_state() -> dict[str, torch.Tensor]:
    """Weights from integer arithmetic, equal on every machine."""
    state = {}
    for tag, (name, shape) in enumerate(parameter_shapes(MODEL).items()):
        i = torch.arange(math.prod(shape), dtype=torch.int64)
        state[name] = (((i * 7919 + tag * 104729) % 1009).to(torch.float32) / 1009 - 0.5).reshape(shape)
    return state


def contents(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    """A file's header and streams, read without any of the reader's checks."""
    payload = path.read_bytes()
    start = PREAMBLE.size
    length = PREAMBLE.unpack_from(payload)[2]
    header = json.loads(zstandard.ZstdDecompressor().decompress(payload[start : start + length]))
    streams, at = [], start + length
    for stream in STREAMS_OF[version_of(header)]:
        streams.append(payload[at : at + header["streams"][stream]])
        at += header["streams"][stream]
    return header, streams


def signed(header: dict[str, Any], streams: list[bytes], header_text: str | None = None) -> bytes:
    """A file with a checksum that holds."""
    header = header | {"sha256": checksum(header, b"".join(streams))}
    packed = zstandard.compress((header_text or canonical_json(header)).encode())
    return PREAMBLE.pack(MAGIC, version_of(header), len(packed)) + packed + b"".join(streams)


def write(path: Path, payload: bytes) -> Path:
    path.write_bytes(payload)
    return path
