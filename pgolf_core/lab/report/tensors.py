"""What a ledger says of its tensors, one by one and by grid."""

from __future__ import annotations

import re

import pandas as pd

from pgolf_core.packing.ledger import Ledger

VECTORS = "vectors and scalars"


def stored_and_scales(tensors: pd.DataFrame, fp16_bytes: int, scales_bytes: int) -> tuple[pd.Series, pd.Series]:
    """Bytes of each of a ledger's tensors in the file: of its codes or halves, and of its row scales.

    Tensors kept as fp16 are compressed together, and so are all scales: of both, each gets its part of the raw bytes.
    """
    halves = tensors["grid"] == "fp16"
    of_halves = tensors["raw_bytes"] * fp16_bytes / max(1, tensors.loc[halves, "raw_bytes"].sum())
    scales = tensors["scales_raw_bytes"] * scales_bytes / max(1, tensors["scales_raw_bytes"].sum())
    return tensors["compressed_bytes"].astype(float).where(~halves, of_halves), scales


def tensor_table(ledger: Ledger) -> pd.DataFrame:
    """One row a tensor: name, kind, layer, grid, elements, stored_bytes, stored_bits and entropy_bits of an element.

    Stored bytes are the tensor's share of the file without its header, scales included.
    """
    table = pd.DataFrame(ledger.tensors)
    table["stored_bytes"] = sum(stored_and_scales(table, ledger.fp16_bytes, ledger.scales_bytes))
    for name in ("stored", "entropy"):
        table[f"{name}_bits"] = 8 * table[f"{name}_bytes"] / table["elements"]
    parts = table["name"].map(lambda name: re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+?)(?:\.weight)?", name))
    table["layer"] = pd.array([int(found[1]) if found and found[1] else None for found in parts], dtype="Int64")
    table["kind"] = [found[2] if found else name for found, name in zip(parts, table["name"], strict=True)]
    table.loc[table["shape"].map(len) < 2, "kind"] = VECTORS
    return table[["name", "kind", "layer", "grid", "elements", "stored_bytes", "stored_bits", "entropy_bits"]]


def grid_rows(ledger: Ledger) -> list[list[str]]:
    """Tensors gathered by grid: count, values, bytes before compression, order-0 entropy in bytes and bits a value."""
    table = pd.DataFrame(ledger.tensors).assign(tensors=1)
    sums = table.groupby("grid", sort=True)[["tensors", "elements", "raw_bytes", "entropy_bytes"]].sum()
    return [
        [str(row.Index), *(f"{value:,.0f}" for value in row[1:]), f"{8 * row.entropy_bytes / row.elements:.2f}"]
        for row in sums.itertuples()
    ]
