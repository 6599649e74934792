"""Statistics over seeds against values worked out by hand; the arithmetic is beside each expectation.

No expectation comes from scipy: quantiles are from a printed table, probabilities from Student's density itself.
"""

import math

import numpy as np
import pytest

from pgolf_core.lab.compare.inference import (
    challenge_rule,
    compare_runs,
    detectable_by_another,
    detectable_difference,
    summarise,
)


def tail(t, freedom):
    """P(T > t) by Simpson's rule over Student's density."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    x = np.linspace(0.0, t, 20_001)
    weights = np.r_[1, np.tile([4, 2], 10_000)[:-1], 1]
    inner = (weights * scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)).sum() * (x[1] - x[0]) / 3
    return 0.5 - inner


def test_summary_of_five_numbers_equals_the_hand_computed_one():
    summary = summarise([2.0, 4.0, 4.0, 5.0, 10.0])
    assert summary.n == 5 and summary.mean == 5.0
    assert summary.std == pytest.approx(3.0)  # squares 9 + 1 + 1 + 0 + 25 = 36, over 4 = 9
    assert summary.sem == pytest.approx(3.0 / math.sqrt(5))
    half_width = 2.7764451 * 3.0 / math.sqrt(5)  # t(0.975, 4 degrees) from a printed table
    assert summary.low == pytest.approx(5.0 - half_width, abs=1e-6)
    assert summary.high == pytest.approx(5.0 + half_width, abs=1e-6)


def test_one_value_has_a_mean_and_no_spread():
    summary = summarise([1.5])
    assert (summary.n, summary.mean) == (1, 1.5)
    assert summary.std is summary.sem is summary.low is summary.high is None


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_values_and_values_that_are_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        summarise(values)


def test_shared_seeds_are_compared_pair_by_pair_and_others_are_left_out_and_named():
    a, b = {1: 10.0, 2: 12.0, 3: 9.0, 4: 11.0, 5: 13.0}, {5: 9.0, 4: 8.0, 3: 9.0, 2: 10.0, 1: 9.0}
    result = compare_runs(a, b)  # -1, -2, 0, -3, -4
    assert result.method == "paired t" and (result.n_a, result.n_b, result.note) == (5, 5, "")
    assert result.difference == pytest.approx(-2.0)  # squares 1 + 0 + 4 + 1 + 4 = 10, over 4 = 2.5, over 5 = 0.5
    assert result.p_value == pytest.approx(2 * tail(2.0 / math.sqrt(0.5), 4), abs=1e-9)
    assert result.p_value == pytest.approx(0.047421, abs=1e-6)  # the closed form for 4 degrees, t^2 = 8
    assert result.low == pytest.approx(-2.0 - 2.7764451 * math.sqrt(0.5), abs=1e-6)
    assert result.high == pytest.approx(-2.0 + 2.7764451 * math.sqrt(0.5), abs=1e-6)
    of_five = compare_runs(a, b, tests=5)
    assert of_five.high == pytest.approx(-2.0 + 4.6040949 * math.sqrt(0.5), abs=1e-6)  # t(0.995, 4 degrees)
    assert (of_five.low + of_five.high, of_five.p_value) == (-4.0, result.p_value)
    assert of_five.detectable == pytest.approx(detectable_difference(math.sqrt(0.5), 4, 0.01))
    more = compare_runs(a | {9: 50.0}, b)
    assert more.difference == result.difference and more.note == "seeds 9 are in one arm only and were left out"


def test_arms_without_shared_seeds_are_compared_by_welch_without_pooling_their_variances():
    result = compare_runs({1: 1.0, 2: 2.0, 3: 3.0}, {11: 4.0, 12: 8.0})
    assert result.method == "Welch t" and result.difference == pytest.approx(4.0)
    part_a, part_b = 1.0 / 3, 8.0 / 2  # variances 1 and 8 over n
    error = math.sqrt(part_a + part_b)
    freedom = (part_a + part_b) ** 2 / (part_a**2 / 2 + part_b**2 / 1)  # Welch and Satterthwaite: 1.17
    assert result.low + result.high == pytest.approx(8.0)
    assert tail((result.high - 4.0) / error, freedom) == pytest.approx(0.025, abs=1e-6)
    assert result.p_value == pytest.approx(2 * tail(4.0 / error, freedom), abs=1e-9)
    assert result.detectable == pytest.approx(detectable_difference(error, freedom))


@pytest.mark.parametrize("a, b, why", [
    ({1: 2.0}, {1: 1.5}, "1 against 1 seed, and one seed has no spread"),
    ({1: 2.0, 2: 2.1}, {7: 1.0}, "2 against 1 seed, and one seed has no spread"),
    ({1: 2.0, 2: 2.1, 3: 2.2}, {1: 1.0, 2: 1.1, 3: 1.2}, "no spread over the seeds"),
])  # fmt: skip
def test_without_a_spread_there_is_a_difference_no_p_value_and_no_verdict(a, b, why):
    result = compare_runs(a, b)
    assert result.method == "none" and result.p_value is result.low is result.detectable is None
    assert result.difference == pytest.approx(-1.0, abs=0.5) and result.note.startswith("no p-value: ")
    assert why in result.note
    rule = challenge_rule(result)
    assert rule.passes is None and rule.p_value is None and rule.detectable is None


# ---------------------------------------------------------------------- the challenge's rule


def improved(improvement, std=0.001):
    """A baseline of three seeds without spread against three whose losses lie `improvement` below it on average."""
    return compare_runs({1: 2.0, 2: 2.0, 3: 2.0}, {k: 2.0 - improvement + std * (k - 2) for k in (1, 2, 3)})


@pytest.mark.parametrize("improvement, passes", [(0.00901, False), (0.00903, True)])
def test_the_rule_turns_at_its_border(improvement, passes):
    # improvements m - s, m, m + s have the std s = 0.001; t(0.99, 2 degrees) = 6.9645567:
    # 0.005 + 6.9645567 * 0.001 / sqrt(3) = 0.009021
    rule = challenge_rule(improved(improvement))
    assert rule.passes is passes and rule.improvement == pytest.approx(improvement)
    assert rule.p_value == pytest.approx(tail((improvement - 0.005) / (0.001 / math.sqrt(3)), 2), abs=1e-7)
    assert rule.detectable == pytest.approx(0.005 + detectable_difference(0.001 / math.sqrt(3), 2, 0.01, sides=1))


def test_the_rule_asks_for_more_than_the_margin_and_in_one_direction_only():
    rule = challenge_rule(improved(0.005))
    assert rule.p_value == pytest.approx(0.5) and rule.passes is False
    worse = challenge_rule(improved(-0.1))
    assert worse.improvement == pytest.approx(-0.1) and worse.p_value > 0.99 and worse.passes is False
    other = challenge_rule(improved(0.01), margin=0.009)
    assert other.passes is False and other.margin == 0.009


# ---------------------------------------------------------------------- what could be detected


@pytest.mark.parametrize("n, sides, level, critical", [(5, 2, 0.05, 2.7764451), (3, 1, 0.01, 6.9645567)])
def test_a_detectable_difference_is_found_in_four_of_five_simulated_repetitions(n, sides, level, critical):
    std = 0.7
    true = detectable_difference(std / math.sqrt(n), n - 1, level, sides)
    x = np.random.default_rng(6).normal(true, std, size=(40_000, n))
    t = x.mean(axis=1) / (x.std(axis=1, ddof=1) / math.sqrt(n))
    found = (np.abs(t) if sides == 2 else t) > critical
    assert found.mean() == pytest.approx(0.8, abs=0.008)  # four standard errors of 40,000 draws


def test_a_detectable_difference_scales_with_the_spread_and_falls_with_the_seeds():
    assert detectable_by_another(2.0, 4) == pytest.approx(2 * detectable_by_another(1.0, 4))
    by_seeds = [detectable_by_another(1.0, n) for n in (2, 3, 5, 10, 50)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    # many seeds: (1.960 + 0.842) standard errors, by the normal distribution
    assert detectable_difference(1.0, 1e6) == pytest.approx(2.8016, abs=1e-3)
