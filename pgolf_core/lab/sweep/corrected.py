"""A sweep's comparison with the number of its arms taken into account, and what its seeds could show.

p-values by Holm's method (S. Holm, Scandinavian Journal of Statistics 6, 1979), intervals by Bonferroni's: with k arms
against the baseline each interval has the confidence 1 - 0.05 / k, and then all of them hold together in 95 % of
repetitions.
"""

import bisect
import math
import textwrap
from collections.abc import Sequence

from pgolf_core.lab.compare.comparison import Compared
from pgolf_core.lab.compare.inference import CONFIDENCE, POWER, Comparison, detectable_difference, half_width
from pgolf_core.lab.shared.tables import table_text, width

MOST_SEEDS = 1000


def holm(p_values: Sequence[float], tests: int) -> list[float]:
    """Holm's adjusted p-values, in the order given; `tests` counts those too that have no p-value."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (tests - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def interval(compared: Comparison, tests: int) -> tuple[float | None, float | None]:
    """The interval of a difference, wide enough for `tests` of them to hold together; None where there is no test."""
    if compared.standard_error is None or compared.freedom is None:
        return None, None
    half = half_width(compared.standard_error, compared.freedom, tests)
    return compared.difference - half, compared.difference + half


def seeds_needed(compared: Comparison, worth: float, tests: int) -> int | None:
    """How many seeds a paired test of this spread needs to find a true difference of `worth` in POWER of cases.

    None where there is no paired test, or where MOST_SEEDS would not do.
    """
    if compared.standard_error is None or compared.method != "paired t":
        return None
    std, numbers = compared.standard_error * math.sqrt(compared.n_a), range(2, MOST_SEEDS + 1)

    def finds(n: int) -> bool:
        return detectable_difference(std / math.sqrt(n), n - 1, (1 - CONFIDENCE) / tests) <= worth

    place = bisect.bisect_left(numbers, True, key=finds)
    return numbers[place] if place < len(numbers) else None


def corrected_text(compared: Compared, tests: int, worth: float | None = None) -> str:
    """The table of a sweep's arms, `tests` of which were tried against the baseline, with what it means.

    `worth` is the difference in bits per byte that seeds are counted for: by default the challenge's margin.
    """
    tried = [(one.arm.name, one.bpb) for one in compared.against if one.bpb and one.bpb.p_value is not None]
    if not tried:
        return f"{tests} arms were tried; none has the two seeds that a test needs"
    margins = [one.margin_bpb for one in compared.against if one.margin_bpb]
    worth = worth or min(margins, default=0.005)
    p_values = holm([test.p_value or 0.0 for _, test in tried], tests)
    rows = []
    for (name, test), p_value in zip(tried, p_values, strict=True):
        low, high = interval(test, tests)
        assert test.standard_error is not None and test.freedom is not None
        detectable = detectable_difference(test.standard_error, test.freedom, (1 - CONFIDENCE) / tests)
        needed = seeds_needed(test, worth, tests)
        rows.append([name, f"{test.difference:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{p_value:.3g}",
                     f"{detectable:.4f}", needed or f"over {MOST_SEEDS}"])  # fmt: skip
    header = ["run", "difference", f"{CONFIDENCE:.0%} together", "p (Holm)", "detectable", "seeds needed"]
    said = (
        f"{tests} arms were tried against {compared.arms[0].name}. p is adjusted by Holm's method, the intervals by "
        f"Bonferroni's: all {tests} hold together in {CONFIDENCE:.0%} of repetitions. detectable: the smallest true "
        f"difference that these seeds would show in {POWER:.0%} of repetitions. seeds needed: to show {worth:.4f} bpb "
        "so; all if the seeds spread as they did here"
    )
    return f"{table_text(header, rows)}\n{textwrap.fill(said, width(), subsequent_indent='  ')}"
