"""What a ledger says of its tensors."""

from __future__ import annotations

import math

from pgolf_core.lab.report.tensors import grid_rows, tensor_table
from pgolf_core.packing.ledger import Ledger

ROWS = [
    {"name": "tok_emb.weight", "grid": "fp16", "shape": [8, 4], "raw_bytes": 64, "scales_raw_bytes": 0,
     "compressed_bytes": None},
    {"name": "blocks.3.mlp.fc.weight", "grid": "int6_row", "shape": [16, 4], "raw_bytes": 64,
     "scales_raw_bytes": 32, "compressed_bytes": 40},
    {"name": "blocks.0.attn_scale", "grid": "fp16", "shape": [16], "raw_bytes": 32, "scales_raw_bytes": 0,
     "compressed_bytes": None},
]  # fmt: skip
LEDGER = Ledger(
    weights_bytes=130, fp16_bytes=90, scales_bytes=20, header_bytes=5, file_bytes=155, code_bytes=1, total_bytes=156,
    cap_bytes=999, tensors=[row | {"elements": math.prod(row["shape"]), "entropy_bytes": 30} for row in ROWS],
)  # fmt: skip


def test_stored_bits_of_the_tensors_add_up_to_weights_and_scales():
    table = tensor_table(LEDGER).set_index("name")
    assert table["stored_bytes"].tolist() == [60, 60, 30], "fp16 tensors share their stream by size"
    assert table["stored_bits"].tolist() == [15, 7.5, 15]
    assert table["kind"].tolist() == ["tok_emb", "mlp.fc", "vectors and scalars"]
    assert table["layer"].fillna(-1).tolist() == [-1, 3, 0]


def test_tensors_are_gathered_by_grid():
    assert grid_rows(LEDGER) == [["fp16", "2", "48", "96", "60", "10.00"], ["int6_row", "1", "64", "64", "30", "3.75"]]
