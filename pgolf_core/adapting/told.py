"""What an adapted or mixed score is told by: the score with other nats, the lines of train.log, the trace's file."""

import dataclasses
import io
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Learned:
    """A score that learned from what was scored before it."""

    score: Score
    """Its seconds are of all that made it: updates of the weights too, and mixing."""
    about: str
    """How it came about, in a word for train.log."""
    arrays: dict[str, Any]
    """What adapt.npz holds, NumPy arrays by name."""
    earlier_seconds: float
    """How many of the score's belong to attempts that ended early."""

    def lines(self, scoring_seconds: float) -> list[str]:
        """How train.log tells it, rounded and exactly; `scoring_seconds` is what the packed weights' scores took."""
        score = self.score
        spent, loss, bpb = scoring_seconds + score.seconds, score.loss_nats_per_token, score.bpb
        window = f"stride:{score.stride} seq_len:{score.seq_len} eval_time:{score.seconds * 1000:.0f}ms"
        if spent > EVALUATION_SECONDS:
            window += f" over_the_cap:{spent * 1000:.0f}ms of {EVALUATION_SECONDS * 1000:.0f}ms does not count"
        return [
            f"final_adapted val_loss:{loss:.4f} val_bpb:{bpb:.4f} {self.about} {window}",
            f"final_adapted_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}",
        ]

    def write(self, folder: Path) -> dict[str, Any]:
        """Write adapt.npz, and return what result.json says of it and of the score."""
        file = io.BytesIO()
        np.savez(file, **self.arrays)
        write_bytes(folder / ADAPT_TRACE, file.getvalue())
        digest = sha256_file(folder / ADAPT_TRACE)
        return {"adapted_bpb": self.score.bpb, "adapted_loss": self.score.loss_nats_per_token, "adapt_sha256": digest}
