"""How train.log tells an adapted score."""

from __future__ import annotations

from pgolf_core.network.score import Score

EVALUATION_SECONDS = 600.0
"""What all scores of a file may take together, adapting included, on every track."""


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
