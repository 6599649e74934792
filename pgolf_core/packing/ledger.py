"""The ledger of a packed file: where its bytes went, and what an ideal coder would have needed."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgolf_core.base.files import UserError


@dataclass(frozen=True)
class Ledger:
    """Where the bytes went: weights + scales + header = file, and file + code = total, exactly."""

    weights_bytes: int
    """Compressed codes of the gridded tensors, and the fp16 tensors."""
    fp16_bytes: int
    """The fp16 tensors' part of weights_bytes."""
    scales_bytes: int
    """Compressed float16 row scales."""
    header_bytes: int
    """Magic, version and compressed header."""
    file_bytes: int
    code_bytes: int
    """Bytes of the script that trains and reads the file, train_gpt.py; they count against the cap."""
    total_bytes: int
    cap_bytes: int
    tensors: list[dict[str, Any]]
    """Per tensor: name, grid, shape, elements, raw_bytes before compression (codes or halves, without the scales),
    scales_raw_bytes, compressed_bytes (None for fp16: those share one stream), and entropy_bytes: raw_bytes under an
    ideal coder that knows this tensor's own symbol counts (order 0). What compressed_bytes has above entropy_bytes is
    the coder's loss; entropy_bytes itself is the model's size. Tensors on steps, or by brotli, share one stream: their
    bytes are their share of its bits."""
    steps: dict[str, Any] | None = None
    """How the budget of a file on steps was spent (see allocation.spend); None without steps."""
    correction: dict[str, Any] | None = None
    """What quant.correction = hessian did (see correction.Correction); None without it."""


class CapExceeded(UserError):
    """The packed model and the code do not fit under the cap; `ledger` holds the numbers. Nothing was written."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        super().__init__(
            f"artifact {ledger.file_bytes:,} bytes (weights {ledger.weights_bytes:,}, scales {ledger.scales_bytes:,}, "
            f"header {ledger.header_bytes:,}) + code {ledger.code_bytes:,} = {ledger.total_bytes:,} bytes: "
            f"{ledger.total_bytes - ledger.cap_bytes:,} over the cap of {ledger.cap_bytes:,}\n"
            "nothing was written; take coarser grids (quant.*), fewer layers or a narrower model"
        )


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """A stream's bytes by tensor, in proportion to weights: in one stream tensors have no borders."""
    ends = [round(total * part / (sum(weights) or 1)) for part in itertools.accumulate(weights)]
    ends[-1:] = [total]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def entropy_bits(symbols: np.ndarray) -> float:
    """Bits of whole numbers under an ideal coder that knows how often each occurs (order 0)."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def entropy_bytes(symbols: np.ndarray) -> int:
    """Order-0 entropy: the size under an ideal coder that knows the counts (of each byte plane, for float16)."""
    planes = symbols.view(np.uint8).reshape(-1, symbols.itemsize).T
    return math.ceil(sum(map(entropy_bits, planes)) / 8)
