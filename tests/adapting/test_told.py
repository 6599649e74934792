"""How train.log tells an adapted score."""

import numpy as np
import pytest

from pgolf_core.adapting.told import EVALUATION_SECONDS, adapted_lines
from pgolf_core.network.score import Score


@pytest.mark.parametrize("over", [False, True])
def test_it_is_told_rounded_and_exactly_and_as_over_the_cap_where_it_is(over: bool) -> None:
    nats = np.full(2, 1.5, np.float32)
    found = Score(1.25, 1.5, 3.0, 2, 4, 1, 64, 8, 2.0, nats)
    rounded, exact = adapted_lines(found, EVALUATION_SECONDS - (1 if over else 2), "mixed")
    assert rounded.startswith("final_adapted val_loss:1.5000 val_bpb:1.2500 mixed stride:8 seq_len:64 eval_time:2000ms")
    assert rounded.endswith(" over_the_cap:601000ms of 600000ms does not count") is over
    assert exact == "final_adapted_exact val_loss:1.50000000 val_bpb:1.25000000"
