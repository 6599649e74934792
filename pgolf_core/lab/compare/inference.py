"""What a few seeds can say: means and intervals, tests between two arms, the challenge's rule, what could be detected.

Intervals are Student's t. Two arms are compared by a paired t test where they share seeds, else by Welch's t test
(B. L. Welch, Biometrika 34, 1947). One seed never gets a p-value. Everything here is arithmetic on {seed: value}.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from pgolf_core.lab.shared.tables import so_many

CONFIDENCE = 0.95
"""Level of every interval that the project reports."""
POWER = 0.8
"""A detectable difference is one that this share of repetitions would find."""
RULE_MARGIN_NATS = 0.005
"""By more than this a record has to be better, in nats a token, by the challenge's README."""
RULE_LEVEL = 0.01
"""The p-value has to be below this."""


@dataclass(frozen=True)
class Summary:
    """Mean and spread of one number over seeds, in that number's own unit; spreads are None for n = 1."""

    n: int
    mean: float
    std: float | None
    """Sample standard deviation, divisor n - 1."""
    sem: float | None
    """Standard error of the mean, std / sqrt(n)."""
    low: float | None
    """Lower end of the two-sided interval of the mean."""
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """Arm b against arm a; `difference` = mean of b - mean of a (paired: over the shared seeds only)."""

    method: str
    """'paired t', 'Welch t', or 'none' when no test is possible; then all that may be None is."""
    n_a: int
    """Seeds of a that entered."""
    n_b: int
    difference: float
    note: str
    """Why there is no p-value, or which seeds were left out; empty otherwise."""
    standard_error: float | None = None
    """Of the difference."""
    freedom: float | None = None
    """Degrees of freedom."""
    low: float | None = None
    """Lower end of the interval of the difference."""
    high: float | None = None
    p_value: float | None = None
    """Two-sided, of: no difference."""
    detectable: float | None = None
    """The true difference that this test, with this spread, would find in POWER of repetitions."""


@dataclass(frozen=True)
class RuleTest:
    """The challenge's rule: one-sided test of `improvement <= margin`, by the method of the comparison."""

    improvement: float
    """Mean of the baseline - mean of the run (paired: over the shared seeds): positive where the run is better."""
    margin: float
    """In the unit of the values."""
    p_value: float | None
    """None where no test is possible."""
    detectable: float | None
    """The true improvement that would pass in POWER of repetitions, with this spread."""

    @property
    def passes(self) -> bool | None:
        """p < RULE_LEVEL; None where no test is possible."""
        return None if self.p_value is None else self.p_value < RULE_LEVEL


def summarise(values: Iterable[float]) -> Summary:
    """Mean, standard deviation (divisor n - 1), standard error and t interval; ValueError for none or not finite."""
    x = _finite(values)
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Summary(1, mean, None, None, None, None)
    std = float(x.std(ddof=1))
    sem = std / math.sqrt(n)
    half = half_width(sem, n - 1)
    return Summary(n, mean, std, sem, mean - half, mean + half)


def compare_runs(values_a: Mapping[int, float], values_b: Mapping[int, float], tests: int = 1) -> Comparison:
    """Compare two arms given as {seed: value}; paired over the seeds that both have if there are two, else Welch.

    Interval and `detectable` are those of one of so many tests that shall hold together (Bonferroni); p is of this one.
    """
    shared = sorted(set(values_a) & set(values_b))
    paired = len(shared) >= 2
    a, b = (_finite(own[seed] for seed in (shared if paired else own)) for own in (values_a, values_b))
    difference = float((b - a).mean() if paired else b.mean() - a.mean())
    samples, left_out = ([b - a] if paired else [a, b]), sorted(set(values_a) ^ set(values_b)) if paired else []
    note = f"seeds {', '.join(map(str, left_out))} are in one arm only and were left out" if left_out else ""
    if min(map(len, samples)) < 2:
        why = f"no p-value: {len(a)} against {so_many(len(b), 'seed')}, and one seed has no spread to test against"
        return Comparison("none", len(a), len(b), difference, why)
    spreads = [float(sample.std(ddof=1)) for sample in samples]
    # Rounding leaves about 1e-16 of the values where the true spread is zero; a t statistic from it means nothing.
    if max(spreads) <= 1e-12 * max(1.0, abs(a).max(), abs(b).max()):
        why = "no p-value: no spread over the seeds to test against"
        return Comparison("none", len(a), len(b), difference, "; ".join(filter(None, (why, note))))
    parts = [(spread**2 / len(sample), len(sample) - 1) for spread, sample in zip(spreads, samples, strict=True)]
    variance = sum(part for part, _ in parts)
    error = math.sqrt(variance)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)  # Welch and Satterthwaite's; n - 1 if paired
    half = half_width(error, freedom, tests)
    return Comparison(
        "paired t" if paired else "Welch t", len(a), len(b), difference, note, error, freedom, difference - half,
        difference + half, 2 * float(stats.t.sf(abs(difference) / error, freedom)),
        detectable_difference(error, freedom, (1 - CONFIDENCE) / tests),
    )  # fmt: skip


def challenge_rule(losses: Comparison, margin: float = RULE_MARGIN_NATS) -> RuleTest:
    """Is the loss of the run, arm b, lower than the baseline's by more than `margin` (its unit), at p < RULE_LEVEL?"""
    improvement, error, freedom = -losses.difference, losses.standard_error, losses.freedom
    if error is None or freedom is None:
        return RuleTest(improvement, margin, None, None)
    p_value = float(stats.t.sf((improvement - margin) / error, freedom))
    return RuleTest(improvement, margin, p_value, margin + detectable_difference(error, freedom, RULE_LEVEL, sides=1))


def detectable_difference(
    standard_error: float, freedom: float, level: float = 1 - CONFIDENCE, sides: int = 2
) -> float:
    """The smallest true difference that a t test at `level` finds with probability POWER, in standard_error's unit.

    `freedom`: the test's degrees of freedom. An observed standard error makes this an estimate, rough with few seeds.
    """
    critical = float(stats.t.isf(level / sides, freedom))
    # t = (z + shift) / s with s^2 = chi^2 / freedom. Scipy's noncentral t says the same, but is NaN from shift 38 on.
    middles = (np.arange(10_000) + 0.5) / 10_000
    bars = critical * np.sqrt(stats.chi2.ppf(middles, freedom) / freedom)

    def missing_power(shift: float) -> float:
        found = stats.norm.sf(bars - shift).mean()
        return float(found + (stats.norm.cdf(-bars - shift).mean() if sides == 2 else 0.0)) - POWER

    return float(optimize.brentq(missing_power, 0.0, 10 + 10 * critical)) * standard_error


def detectable_by_another(std: float, n: int) -> float:
    """The difference to another arm of n seeds that spreads alike which Welch's test would find in POWER of cases."""
    return detectable_difference(std * math.sqrt(2 / n), 2 * (n - 1))


def half_width(standard_error: float, freedom: float, tests: int = 1) -> float:
    """Half the interval of an estimate, wide enough for `tests` of them to hold together (Bonferroni)."""
    return float(stats.t.ppf(1 - (1 - CONFIDENCE) / tests / 2, freedom)) * standard_error


def _finite(values: Iterable[float]) -> np.ndarray:
    x = np.asarray(list(values), dtype=np.float64)
    if not x.size or not np.isfinite(x).all():
        raise ValueError(f"need at least one value, all finite; got {x.tolist()}")
    return x
