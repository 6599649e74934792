"""What the fast code should reach: each goal is a number of one measure, a bound, and the tracks that it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

LOCAL_TRACK, RECORD_TRACK = "local_10min_1mb", "10min_16mb"
MUON_TOKENS = 98_304
Values = dict[str, Any]
"""What one measure of one recipe found (bench.measures.measure)."""


@dataclass(frozen=True)
class Goal:
    """A median that a measure should reach for the recipes of some tracks."""

    what: str
    measure: str
    tracks: tuple[str, ...]
    sense: str
    """at least or at most."""
    bound: float
    unit: str
    median_of: Callable[[Values], float]

    def judge(self, values: Values) -> dict[str, Any]:
        """The goal's row for one recipe."""
        measured = self.median_of(values)
        return {
            "goal": self.what, "recipe": values["recipe"], "sense": self.sense, "bound": self.bound, "unit": self.unit,
            "measured": measured, "met": measured >= self.bound if self.sense == "at least" else measured <= self.bound,
        }  # fmt: skip


def _whole_ratio(values: Values) -> float:
    return values["ratio"]["whole"]["median"]


def _muon_share(values: Values) -> float:
    return next(s for s in values["steps"] if s["step_tokens"] == MUON_TOKENS)["muon_share"]["fast"]["median"]


GOALS = (
    Goal("whole step against the plain one", "step", (LOCAL_TRACK,), "at least", 1.5, "times as fast",
         lambda values: values["steps"][0]["speedup_ratio"]["median"]),
    Goal("sliding score against the plain way", "sliding", (LOCAL_TRACK,), "at least", 1.1, "times as fast",
         _whole_ratio),
    Goal("Newton-Schulz batched against the loop", "newton_schulz", (LOCAL_TRACK, RECORD_TRACK), "at least", 1.3,
         "times as fast", _whole_ratio),
    Goal(f"Muon's share of a step of {MUON_TOKENS:,} tokens", "step", (RECORD_TRACK,), "at most", 0.05,
         "of the step's seconds", _muon_share),
    Goal("packing", "packing", (RECORD_TRACK,), "at most", 60.0, "seconds",
         lambda values: values["seconds"]["fast"]["pack"]["median"]),
)  # fmt: skip


def judged(measures: Iterable[Values]) -> list[dict[str, Any]]:
    """A row for every goal and every recipe that it is for, in the order of the goals."""
    found = list(measures)
    return [
        goal.judge(values) for goal in GOALS for values in found
        if values["measure"] == goal.measure and values["track"] in goal.tracks
    ]  # fmt: skip
