"""How train.log tells an adapted score, and what is kept of it."""

from pathlib import Path

import numpy as np

from pgolf_core.adapting.told import Learned
from pgolf_core.base.files import sha256_file
from pgolf_core.base.names import ADAPT_TRACE
from pgolf_core.network.score import Score

TOLD = Learned(
    Score(1.25, 2.5, 5.0, 2, 4, 1, 16, 4, 0.25, np.full(2, 2.5, np.float32)), "updates:4", {"a": np.arange(3)}, 0.0
)


def test_it_is_told_rounded_and_exactly_and_as_over_the_cap_where_it_is() -> None:
    lines = [
        "final_adapted val_loss:2.5000 val_bpb:1.2500 updates:4 stride:4 seq_len:16 eval_time:250ms",
        "final_adapted_exact val_loss:2.50000000 val_bpb:1.25000000",
    ]
    assert TOLD.lines(599.74) == lines
    assert TOLD.lines(599.76) == [f"{lines[0]} over_the_cap:600010ms of 600000ms does not count", lines[1]]


def test_its_trace_is_written_and_named_with_the_score(tmp_path: Path) -> None:
    said = TOLD.write(tmp_path)
    digest = sha256_file(tmp_path / ADAPT_TRACE)
    assert said == {"adapted_bpb": 1.25, "adapted_loss": 2.5, "adapt_sha256": digest}
    with np.load(tmp_path / ADAPT_TRACE, allow_pickle=False) as file:
        assert list(file) == ["a"] and np.array_equal(file["a"], np.arange(3))
