"""What the fast code should reach: each goal is a number of one measure, a bound, and what it is for."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pgolf_core.lab.shared.texts import FINEWEB_TRACK

LOCAL_TRACK = "local_10min_1mb"
MUON_TOKENS = 98_304
AT_LEAST, AT_MOST = "at least", "at most"
Values = dict[str, Any]
"""What one measure of one recipe found (bench.measures.measure)."""


class Goal(NamedTuple):
    """A median that a measure should reach for some recipes."""

    what: str
    measure: str
    of: tuple[str, ...]
    """Tracks or recipes."""
    sense: str
    bound: float
    unit: str
    spread_of: Callable[[Values], dict[str, float]]
    published: float | None = None
    """What the record's own log says, in the same unit."""


def _of_one_rank(values: Values) -> Values:
    return {step["step_tokens"]: step for step in values["steps"]}[MUON_TOKENS]


GOALS = (
    Goal("whole step against the plain one", "step", (LOCAL_TRACK,), AT_LEAST, 1.5, "times as fast",
         lambda values: values["steps"][0]["speedup_ratio"]),
    Goal("sliding score against the plain way", "sliding", (LOCAL_TRACK,), AT_LEAST, 1.1, "times as fast",
         lambda values: values["ratio"]["whole"]),
    Goal("Newton-Schulz batched against the loop", "newton_schulz", (LOCAL_TRACK, FINEWEB_TRACK), AT_LEAST, 1.3,
         "times as fast", lambda values: values["ratio"]["whole"]),
    Goal(f"Muon's share of a step of {MUON_TOKENS:,} tokens", "step", (FINEWEB_TRACK,), AT_MOST, 0.05,
         "of the step's seconds",
         lambda values: _of_one_rank(values)["muon_share"]["fast"]),
    Goal("rounding in turn against PR 1493's way", "rounding", ("pr1493",), AT_LEAST, 3.0, "times as fast",
         lambda values: values["ratio"]["whole"]),
    Goal("packing", "packing", (FINEWEB_TRACK,), AT_MOST, 60.0, "seconds",
         lambda values: values["seconds"]["fast"]["pack"]),
)  # fmt: skip

PROOF_GOALS = (
    Goal(f"step of {MUON_TOKENS:,} tokens, one rank's share of matrices", "step", ("pr315",), AT_MOST, 0.070, "seconds",
         lambda values: values["one_rank"]["step_seconds"], 0.085),
    Goal(f"step of {MUON_TOKENS:,} tokens against the plain one", "step", ("pr315",), AT_LEAST, 2.0, "times as fast",
         lambda values: _of_one_rank(values)["speedup_ratio"]),
    Goal("peak memory of the step", "step", ("pr315",), AT_MOST, 20_596, "MiB",
         lambda values: {"median": values["peak_memory"]["fast"]["peak_bytes"] / 2**20}, 20_596),
    Goal("graph breaks of the step", "step", (FINEWEB_TRACK,), AT_MOST, 0, "breaks",
         lambda values: {"median": values["graph"]["breaks"]}),
    Goal("Muon's share of the step, one rank's share of matrices", "step", (FINEWEB_TRACK,), AT_MOST, 0.05,
         "of the step's seconds", lambda values: values["one_rank"]["muon_share"]),
    Goal("sliding score of the whole validation split on eight cards", "sliding", ("pr315",), AT_MOST, 60.0, "seconds",
         lambda values: {"median": values["whole_split_seconds"]["as it is"]}, 72.7),
)  # fmt: skip
"""On one H100 (bench.proof)."""


def judged(measures: Iterable[Values], goals: Iterable[Goal] = GOALS) -> list[Values]:
    """A row for every goal and every recipe that it is for, in the order of the goals."""
    rows, found = [], list(measures)
    for goal in goals:
        for values in found:
            if values["measure"] == goal.measure and {values["track"], values["recipe"]} & {*goal.of}:
                measured, bound = goal.spread_of(values)["median"], goal.bound
                met = measured >= bound if goal.sense == AT_LEAST else measured <= bound
                row = {"goal": goal.what, "recipe": values["recipe"], "sense": goal.sense, "bound": bound}
                rows.append(row | {"unit": goal.unit, "measured": measured, "met": met})
    return rows


def goal_cells(row: Values) -> tuple[str, str, str | None]:
    """Cells of a table of what was judged: the goal, what is wanted, what was measured."""
    wanted = f"{row['sense']} {row['bound']:g} {row['unit']}"
    return f"{row['goal']}, {row['recipe']}", wanted, None if row["measured"] is None else f"{row['measured']:.3g}"
