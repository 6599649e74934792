"""Steps from sensitivities, and the multiplier that fills a budget."""

import math

import numpy as np
import pytest
from tiny_steps import gaussian, uneven

from pgolf_core.packing import allocation, steps
from pgolf_core.packing.sensitivity import Groups


def test_steps_fall_with_the_root_of_the_sensitivity():
    groups = uneven(96, 128)
    shape = allocation.plan(gaussian(96, 128), groups).shape
    rows, cols = shape.steps(1.0)
    expected = 1 / np.sqrt(np.maximum(groups.rows, 1e-3 * groups.mean)[:, None] * groups.cols[None] / groups.mean)
    assert np.abs(np.log2(rows * cols / expected)).max() <= 0.5  # two roundings to a quarter octave, and the matrix's


def test_on_gaussian_weights_steps_by_sensitivity_beat_equal_steps_by_what_the_theory_says():
    w, groups = gaussian(96, 128), uneven(96, 128, octaves=2)
    weighting = groups.rows[:, None] * groups.cols[None] / groups.mean
    lost = {}
    for label, known in (("own", groups), ("even", allocation.even_groups(w.shape, groups.mean))):
        made = allocation.plan(w, known)
        multiplier, _ = allocation.fit({"w": made}, 8.0 * w.size)
        lost[label] = float((weighting * (made.rounded(multiplier).weights(multiplier) - w) ** 2).mean())
    gain_bits = 0.5 * (math.log2(weighting.mean()) - np.log2(weighting).mean())
    assert 0.5 * math.log2(lost["even"] / lost["own"]) == pytest.approx(gain_bits, abs=0.1)


def test_groups_that_do_not_pay_for_their_exponents_have_none():
    random = np.random.default_rng(3)
    w = random.standard_normal((64, 64)).astype(np.float32)
    nearly_even = Groups(*(1 + 0.02 * random.standard_normal(64) for _ in range(2)))
    assert not any(getattr(allocation.plan(w, nearly_even).shape, name).any() for name in steps.VECTORS)


def test_rows_without_gradient_and_matrices_without_any_get_steps_that_say_something():
    w, groups = gaussian(64, 32), uneven(64, 32)
    groups.rows[::2] = 0.0
    zero = Groups(np.zeros(64), np.zeros(32))
    made = allocation.plans({"seen": w, "never": w, "absent": w}, {"seen": groups, "never": zero})
    assert np.isfinite(made["seen"].scaled).all()
    ratio = made["seen"].shape.row_steps[::2].max() - made["seen"].shape.row_steps.min()
    assert ratio <= 2 * math.log2(1 / allocation.FLOOR) + 24  # the floor, and the even rows' own range
    assert (made["never"].scaled == made["absent"].scaled).all()
    multiplier, _ = allocation.fit(made, 4.0 * 3 * w.size)
    assert np.abs(made["never"].rounded(multiplier).codes).max() > 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("apart", "bits_each"), [(1.0, 1e9), (1e-30, 1e9), (1e30, 1e9), (1e30, 0.5)])
def test_zeros_and_sensitivities_that_are_worlds_apart_have_steps_without_a_warning(apart: float, bits_each: float):
    w, usual = gaussian(64, 32), uneven(64, 32)
    far = Groups(usual.rows * apart, usual.cols * apart)
    made = allocation.plans({"usual": w, "far": w, "zero": 0 * w}, {"usual": usual, "far": far, "zero": usual})
    multiplier, _ = allocation.fit(made, bits_each * w.size)
    assert 0 < multiplier < math.inf and not made["zero"].rounded(multiplier).codes.any()


@pytest.mark.parametrize("bits_each", [0.5, 2.0, 4.0, 9.0])
def test_the_search_ends_just_below_any_budget_that_can_be_met_and_else_at_the_finest_steps(bits_each: float):
    matrices = {"a": allocation.plan(gaussian(96, 128), uneven(96, 128)),
                "b": allocation.plan(gaussian(64, 32, 5), uneven(64, 32, 6, 1e-9))}  # fmt: skip
    budget = bits_each * (96 * 128 + 64 * 32)
    multiplier, tries = allocation.fit(matrices, budget)
    bits = sum(plan.rounded(multiplier).bits(multiplier) for plan in matrices.values())
    assert 0.999 * budget <= bits <= budget and tries <= 15
    finest, _ = allocation.fit(matrices, 1e9)
    np.testing.assert_allclose(matrices["a"].rounded(finest).weights(finest), gaussian(96, 128), rtol=0.01, atol=1e-3)
