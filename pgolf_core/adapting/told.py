"""What an adapted or mixed score is told by: the score with other nats, the lines of train.log, the trace's file."""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pgolf_core.base.files import sha256_file, write_bytes
from pgolf_core.base.names import ADAPT_TRACE
from pgolf_core.network.score import Score, bits_per_byte

EVALUATION_SECONDS = 600.0
"""What all scores of a file may take together, adapting included, on every track."""


def rescored(score: Score, per_token: np.ndarray, seconds: float, **windows: int) -> Score:
    """The same targets with other nats, float32 [targets]; `windows` are other fields of it."""
    nats = float(per_token.sum(dtype=np.float64))
    return dataclasses.replace(
        score, bpb=bits_per_byte(nats, score.bytes), loss_nats_per_token=nats / score.tokens, nats=nats,
        seconds=seconds, per_token_nats=per_token, **windows,
    )  # fmt: skip


def adapted_lines(score: Score, scoring_seconds: float, about: str) -> list[str]:
    """Two lines on an adapted `score`, rounded and exact; `about` says how it came about.

    `scoring_seconds` is what the scores of the file's own weights took.
    """
    spent, loss, bpb = scoring_seconds + score.seconds, score.loss_nats_per_token, score.bpb
    window = f"stride:{score.stride} seq_len:{score.seq_len} eval_time:{score.seconds * 1000:.0f}ms"
    if spent > EVALUATION_SECONDS:
        window += f" over_the_cap:{spent * 1000:.0f}ms of {EVALUATION_SECONDS * 1000:.0f}ms does not count"
    return [
        f"final_adapted val_loss:{loss:.4f} val_bpb:{bpb:.4f} {about} {window}",
        f"final_adapted_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}",
    ]


def write_trace(folder: Path, score: Score, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Write adapt.npz of arrays by name, and return what result.json says of it and of the score."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    write_bytes(folder / ADAPT_TRACE, file.getvalue())
    digest = sha256_file(folder / ADAPT_TRACE)
    return {"adapted_bpb": score.bpb, "adapted_loss": score.loss_nats_per_token, "adapt_sha256": digest}
