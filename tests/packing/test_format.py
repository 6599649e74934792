"""The layout of the file, pinned by golden bytes: format version 1 (grids), 3 (steps), 4 (brotli) and 5 (records)."""

import dataclasses
import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from tiny_artifact import contents

from pgolf_core.base.files import canonical_json
from pgolf_core.base.squeeze import unsqueeze
from pgolf_core.packing import coder, steps
from pgolf_core.packing.unpack import unpack

PINNED_ZSTD, PINNED_BROTLI = (1, 5, 7), "1.2.1"
GOLDEN_BROTLI = "d84e174bedfc4b3c388a91c16753c47b56eecd57c37343024c1e77c52127a4af"
"""Of the streams of the same, by brotli."""
GOLDEN: dict[str, Any] = {
    "raw_lengths": [3712, 474, 448],
    "contents": "9c9bda61b51accb1c22a68dbe99553e37839ee6000f4617b563136cbfd0985aa",
    "begins": "8950474f4c460d0a01004502000028b52ffd609705c41100c69d561e508b1ed8",
    "file": (2037, "8d4ea353b7b159e4c309d829fdf0b38dc55a9dcdc4ac0db513bb8e796866e0fd"),
}
"""Of `tiny_state` packed with ON_GRIDS. Changing any of it is a new format version."""
GOLDEN_RECORD: dict[str, Any] = {
    "raw_lengths": [3712, 474, 448, 274, 224],
    "contents": "792df57c33e53b3ddb63c7265be1c0207368283a03ceb84b0414227d93fd8e1e",
}
"""The same with AS_RECORD, without the low-rank factors. Changing any of it is a new format version."""
GOLDEN_STEPS: dict[str, Any] = {
    "tables": "158d0a9d1cc80e5b167613c161fc8b9ecaa3fb4b13bb9b0c934f2fe95554033f",
    "stream": (108, "44b56bb72c362643903e6f614e6259dadd4bd2b8e2d38c6f8e8df18f1eef62fd"),
    "weights": "0d5275e07f89642f4218fbaa3926789142ef19b3b5ba64d39dc29220ff29bd8a",
    "begins": "8950474f4c460d0a0300",
}
"""Of all tables, of `pinned_items`, and of a packed file. Changing any of it is a new format version."""


def digest_of(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def check_contents(path: Path, golden: dict[str, Any], unpinned: int | None = None) -> None:
    """Header and streams, but for one that the machine's linear algebra decides."""
    header, streams = contents(path)
    raw = [zstandard.ZstdDecompressor().decompress(stream) for stream in streams]
    assert [len(part) for part in raw] == golden["raw_lengths"]
    inside = {key: value for key, value in header.items() if key not in ("sha256", "streams")}
    pinned = [part for place, part in enumerate(raw) if place != unpinned]
    assert digest_of(canonical_json(inside).encode() + b"".join(pinned)) == golden["contents"]


def test_version_1_is_pinned_by_golden_bytes(on_grids: Path):
    payload = on_grids.read_bytes()
    assert payload[:10].hex() == "8950474f4c460d0a0100"
    check_contents(on_grids, GOLDEN)
    if zstandard.ZSTD_VERSION == PINNED_ZSTD:  # another zstd may find other, equally valid compressed bytes
        assert payload[:32].hex() == GOLDEN["begins"]
        assert (len(payload), digest_of(payload)) == GOLDEN["file"]


def test_version_4_is_pinned_and_holds_what_version_1_does(on_grids: Path, on_brotli: Path):
    assert on_brotli.read_bytes()[:10].hex() == "8950474f4c460d0a0400"
    (header, plain), (other, streams) = contents(on_grids), contents(on_brotli)
    assert other == header | {key: other[key] for key in ("compressor", "sha256", "streams")}
    raw = [zstandard.ZstdDecompressor().decompress(stream) for stream in plain]
    shuffled = [raw[0][::2] + raw[0][1::2], *raw[1:]]  # the other two are by low and high bytes in both
    assert [unsqueeze(stream, len(part)) for stream, part in zip(streams, shuffled, strict=True)] == shuffled
    if version("brotli") == PINNED_BROTLI:
        assert digest_of(b"".join(streams)) == GOLDEN_BROTLI
    state, same = unpack(on_grids)[1], unpack(on_brotli)[1]
    assert list(state) == list(same) and all(map(torch.equal, state.values(), same.values()))


def test_the_tables_of_version_3_are_pinned_and_made_without_floating_point():
    coder.frequencies.cache_clear()
    coder._half_masses.cache_clear()
    tables = [coder.frequencies(k, fraction) for k in range(coder.FIRST, 41) for fraction in range(4)]
    assert coder._half_masses().dtype == np.int64
    assert digest_of(b"".join(table.astype("<i8").tobytes() for table in tables)) == GOLDEN_STEPS["tables"]


def pinned_items() -> dict[str, steps.Stepped]:
    """Two matrices of whole numbers from integer arithmetic."""
    items = {}
    for tag, (rows, cols) in enumerate(((8, 12), (5, 3))):
        vectors = [(np.arange(size) * (7 + tag) % 9 - 4).astype(np.int32) for size in (rows, cols, rows, cols)]
        shape = steps.Stepped(3 - 50 * tag, 10 + tag, *vectors)
        codes = ((np.arange(rows * cols) * 7919 + tag) % 23 - 11).reshape(rows, cols)
        items[f"m{tag}"] = dataclasses.replace(shape, codes=coder.clip(codes, shape.classes()))
    return items


def test_version_3_is_pinned_by_golden_bytes(on_steps: Path):
    assert on_steps.read_bytes()[:10].hex() == GOLDEN_STEPS["begins"]
    assert list(contents(on_steps)[0]["streams"]) == ["codes", "fp16", "scales", "steps"]
    items = pinned_items()
    payload = steps.write_steps(list(items.values()), 2.0**-10)
    assert (len(payload), digest_of(payload)) == GOLDEN_STEPS["stream"]
    weights = steps.read_steps(payload, {name: item.codes.shape for name, item in items.items()})
    assert all((weights[name] == item.weights(2.0**-10)).all() for name, item in items.items())
    assert digest_of(b"".join(w.astype("<f4").tobytes() for w in weights.values())) == GOLDEN_STEPS["weights"]


def test_version_5_is_pinned_by_golden_bytes(on_record: Path):
    """But for the factors: when a file is made, linear algebra decides their last bits."""
    assert on_record.read_bytes()[:10].hex() == "8950474f4c460d0a0500"
    check_contents(on_record, GOLDEN_RECORD, unpinned=3)
