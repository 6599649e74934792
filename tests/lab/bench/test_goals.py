"""Goals are judged by the measure and the tracks that they are for.

pytest tests/lab/bench/test_goals.py
"""

from __future__ import annotations

import pytest

from pgolf_core.lab.bench.goals import judged


@pytest.mark.parametrize(("seconds", "met"), [(59.0, True), (60.0, True), (61.0, False)])
def test_a_goal_at_most_is_met_up_to_its_bound(seconds: float, met: bool) -> None:
    values = {"measure": "packing", "recipe": "r", "seconds": {"fast": {"pack": {"median": seconds}}}}
    (row,) = judged([values | {"track": "10min_16mb"}, values | {"track": "local_10min_1mb"}])
    assert (row["sense"], row["bound"], row["measured"], row["met"]) == ("at most", 60.0, seconds, met)


@pytest.mark.parametrize(("ratio", "met"), [(1.29, False), (1.3, True)])
def test_a_goal_at_least_is_met_from_its_bound_on_both_tracks(ratio: float, met: bool) -> None:
    values = {"measure": "newton_schulz", "recipe": "r", "ratio": {"whole": {"median": ratio}}}
    rows = judged([values | {"track": "10min_16mb"}, values | {"track": "local_10min_1mb"}])
    assert [row["met"] for row in rows] == [met, met] and rows[0]["unit"] == "times as fast"
