"""What a sweep's seeds say of its arms, whose number is taken into account: a table, and which are given up early.

p-values by Holm's method (S. Holm, Scandinavian Journal of Statistics 6, 1979), intervals by Bonferroni's: with k arms
against the baseline each interval has the confidence 1 - 0.05 / k, and then all of them hold together in 95 % of
repetitions.
"""

import bisect
import contextlib
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.base.strict import build
from pgolf_core.lab.compare.comparison import Compared
from pgolf_core.lab.compare.inference import CONFIDENCE, POWER, Comparison, compare_runs, detectable_difference
from pgolf_core.lab.compare.results import seed_folders
from pgolf_core.lab.shared.tables import so_many, table_text, width
from pgolf_core.training.progress import training_curve

MOST_SEEDS = 1000
STOPPED = "stopped.json"
"""In the folder of an arm that was given up: on what ground. It holds until that file is deleted."""


def holm(p_values: Sequence[float], tests: int) -> list[float]:
    """Holm's adjusted p-values, in the order given; `tests` counts those too that have no p-value."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (tests - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def seeds_needed(compared: Comparison, worth: float, tests: int) -> float | None:
    """How many seeds a paired test of this spread needs to find a true difference of `worth` in POWER of cases.

    None where there is no paired test, infinity where MOST_SEEDS would not do.
    """
    if compared.standard_error is None or compared.method != "paired t":
        return None
    std, numbers = compared.standard_error * math.sqrt(compared.n_a), range(2, MOST_SEEDS + 1)

    def finds(n: int) -> bool:
        return detectable_difference(std / math.sqrt(n), n - 1, (1 - CONFIDENCE) / tests) <= worth

    place = bisect.bisect_left(numbers, True, key=finds)
    return numbers[place] if place < len(numbers) else math.inf


def corrected_text(compared: Compared, tests: int, worth: float | None = None) -> str:
    """The table of a sweep's arms, `tests` of which were tried against the baseline, with what it means.

    `worth` is the difference in bits per byte that seeds are counted for: by default the challenge's margin.
    """
    base = compared.arms[0].values("bpb")
    tried = {one.arm.name: compare_runs(base, one.arm.values("bpb"), tests)
             for one in compared.against if one.bpb and one.bpb.p_value is not None}  # fmt: skip
    if not tried:
        return _why_untested(compared, tests)
    margins = [one.margin_bpb for one in compared.against if one.margin_bpb]
    worth = worth or min(margins, default=0.005)
    p_values = holm([test.p_value or 0.0 for test in tried.values()], tests)
    rows = []
    for (name, test), p_value in zip(tried.items(), p_values, strict=True):
        needed = seeds_needed(test, worth, tests)
        rows.append([name, f"{test.difference:+.4f}", f"{test.low:+.4f} to {test.high:+.4f}", f"{p_value:.3g}",
                     f"{test.detectable:.4f}", f"over {MOST_SEEDS}" if needed == math.inf else needed])  # fmt: skip
    header = ["run", "difference", f"{CONFIDENCE:.0%} together", "p (Holm)", "detectable", "seeds needed"]
    said = (
        f"{so_many(tests, 'arm')} tried against {compared.arms[0].name}. p is adjusted by Holm's method, the intervals "
        f"by Bonferroni's: all {tests} hold together in {CONFIDENCE:.0%} of repetitions. detectable: the smallest true "
        f"difference that these seeds would show in {POWER:.0%} of repetitions. seeds needed: to show {worth:.4f} bpb "
        "so; all if the seeds spread as they did here"
    )
    return f"{table_text(header, rows)}\n{textwrap.fill(said, width(), subsequent_indent='  ')}"


def _why_untested(compared: Compared, tests: int) -> str:
    """Why no arm has a test: other text, no spread, or, where nothing else is said, too few seeds."""
    lines = [f"{so_many(tests, 'arm')} tried; none has the two seeds that a test needs"]
    whys = {one.arm.name: one.bpb.note if one.bpb else one.notes[0] for one in compared.against
            if not one.bpb or min(one.bpb.n_a, one.bpb.n_b) > 1}  # fmt: skip
    if whys:
        few = [one.arm.name for one in compared.against if one.arm.name not in whys]
        whys |= {name: "it has not the two seeds that a test needs" for name in few}
        lines = [f"{so_many(tests, 'arm')} tried; none could be tested"]
    lines += [textwrap.fill(f"{name}: {why}", width(), subsequent_indent="  ") for name, why in whys.items()]
    return "\n".join(lines)


# ---------------------------------------------------------------------- given up early


def bpb_at(folder: Path, step: int) -> dict[int, float]:
    """{seed: bits per byte of the validation after so many steps} of the seeds of a run that have come so far."""
    found = {}
    for seed, place in seed_folders(folder).items():
        with contextlib.suppress(UserError):  # it has not begun to train
            for line in training_curve(place):
                bpb = line.get("bpb")  # which a training that diverged has not, or not as a number
                if (line.get("kind"), line.get("step")) == ("val", step) and type(bpb) is float and math.isfinite(bpb):
                    found[seed] = bpb
    return found


@dataclass(frozen=True)
class Excluded:
    """What STOPPED holds: at which step an arm was found to be worse than the best one, and by how much."""

    step: int
    best: str
    difference: float
    """Bits per byte; `low` is the least of its interval."""
    low: float
    seeds: int
    """How many of its own it was judged by."""


def excluded(folders: Mapping[str, Path], step: int) -> dict[str, dict[str, Any]]:
    """Arms whose difference to the best at that step has an interval above zero, with what was found.

    The intervals of all arms hold together (Bonferroni). An arm with fewer than two seeds so far is not judged.
    """
    values = {name: bpb_at(folder, step) for name, folder in folders.items()}
    values = {name: own for name, own in values.items() if len(own) > 1}
    if not values:
        return {}
    best = min(values, key=lambda name: sum(values[name].values()) / len(values[name]))
    found = {}
    for name, own in values.items():
        test = compare_runs(values[best], own, len(folders) - 1)
        if name != best and test.low is not None and test.low > 0:
            found[name] = asdict(Excluded(step, best, test.difference, test.low, len(own)))
    return found


def is_stopped(name: str, folders: Mapping[str, Path], step: int) -> bool:
    """Whether an arm gets no further seed, 0 being no step; noted in its folder where that is found out now."""
    noted = folders[name] / STOPPED
    if step and not noted.exists() and (found := excluded(folders, step).get(name)):
        write_json(noted, found)
    return step > 0 and noted.exists()


def why_stopped(folder: Path) -> str:
    """In words why the arm was given up; empty if it was not."""
    if not (folder / STOPPED).exists():
        return ""
    try:
        said = build(Excluded, read_json(folder / STOPPED), str(folder / STOPPED))
    except UserError as error:
        raise UserError(f"{str(error).partition('; ')[0]}; delete it, and the arm is judged anew") from None
    beyond = f"{said.difference:+.4f} bpb, at least {said.low:+.4f}, from {said.best}"
    return f"stopped after {so_many(said.seeds, 'seed')}: at step {said.step} {beyond}"
