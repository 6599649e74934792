"""What the fast code should reach: each goal is a number of one measure, a bound, and the tracks that it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

LOCAL_TRACK, RECORD_TRACK = "local_10min_1mb", "10min_16mb"
MUON_TOKENS = 98_304
AT_LEAST, AT_MOST = "at least", "at most"
Values = dict[str, Any]
"""What one measure of one recipe found (bench.measures.measure)."""


class Goal(NamedTuple):
    """A median that a measure should reach for the recipes of some tracks."""

    what: str
    measure: str
    tracks: tuple[str, ...]
    sense: str
    bound: float
    unit: str
    spread_of: Callable[[Values], dict[str, float]]


GOALS = (
    Goal("whole step against the plain one", "step", (LOCAL_TRACK,), AT_LEAST, 1.5, "times as fast",
         lambda values: values["steps"][0]["speedup_ratio"]),
    Goal("sliding score against the plain way", "sliding", (LOCAL_TRACK,), AT_LEAST, 1.1, "times as fast",
         lambda values: values["ratio"]["whole"]),
    Goal("Newton-Schulz batched against the loop", "newton_schulz", (LOCAL_TRACK, RECORD_TRACK), AT_LEAST, 1.3,
         "times as fast", lambda values: values["ratio"]["whole"]),
    Goal(f"Muon's share of a step of {MUON_TOKENS:,} tokens", "step", (RECORD_TRACK,), AT_MOST, 0.05,
         "of the step's seconds",
         lambda values: {s["step_tokens"]: s["muon_share"]["fast"] for s in values["steps"]}[MUON_TOKENS]),
    Goal("packing", "packing", (RECORD_TRACK,), AT_MOST, 60.0, "seconds",
         lambda values: values["seconds"]["fast"]["pack"]),
)  # fmt: skip


def judged(measures: Iterable[Values]) -> list[dict[str, Any]]:
    """A row for every goal and every recipe that it is for, in the order of the goals."""
    rows, found = [], list(measures)
    for goal in GOALS:
        for values in found:
            if values["measure"] == goal.measure and values["track"] in goal.tracks:
                measured, bound = goal.spread_of(values)["median"], goal.bound
                met = measured >= bound if goal.sense == AT_LEAST else measured <= bound
                row = {"goal": goal.what, "recipe": values["recipe"], "sense": goal.sense, "bound": bound}
                rows.append(row | {"unit": goal.unit, "measured": measured, "met": met})
    return rows
