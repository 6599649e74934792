"""How a score is taken and judged: what the fresh process and the one that asks it must agree on, without torch."""

from dataclasses import dataclass

NOISE_WINDOWS, NOISE_TIMES, NOISE_ERRORS = 16, 30, 10
"""On so many windows this arithmetic is held against float64; what was kept of a window may lie so many times as far
off as the worst, and the mean of n windows so many times the worst / sqrt(n), besides twice the arithmetic's bias."""


@dataclass(frozen=True)
class Way:
    """How a score is taken."""

    seq_len: int
    stride: int
    """Of the sliding score; the round-trip score has stride = window."""
    batch_seqs: int = 32
    autocast: str = "auto"
    document_mask: bool = False
