"""Goals are judged by the measure and the tracks that they are for."""

import pytest

from pgolf_core.lab.bench.goals import judged


@pytest.mark.parametrize(
    ("measure", "measured", "met"),
    [("packing", 59.0, [True]), ("packing", 60.0, [True]), ("packing", 61.0, [False]),
     ("newton_schulz", 1.29, [False, False]), ("newton_schulz", 1.3, [True, True])],
)  # fmt: skip
def test_a_goal_is_met_from_or_up_to_its_bound_on_its_tracks(measure: str, measured: float, met: list[bool]) -> None:
    seconds, ratio = {"fast": {"pack": {"median": measured}}}, {"whole": {"median": measured}}
    values = {"measure": measure, "recipe": "r", "seconds": seconds, "ratio": ratio}
    rows = judged([values | {"track": "10min_16mb"}, values | {"track": "local_10min_1mb"}])
    assert [row["met"] for row in rows] == met and {row["measured"] for row in rows} == {measured}
