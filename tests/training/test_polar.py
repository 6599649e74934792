"""The coefficients of PR 1855: what five steps make of singular values, and that the order matters."""

import numpy as np

from pgolf_core.training.optim import NEWTON_SCHULZ_COEFFICIENTS
from pgolf_core.training.polar import POLAR_EXPRESS


def after(values: np.ndarray, coefficients) -> np.ndarray:
    for a, b, c in coefficients:
        values = a * values + b * values**3 + c * values**5
    return values


def test_from_a_thousandth_on_all_singular_values_end_nearer_to_one_than_by_the_same_step_five_times() -> None:
    values = np.linspace(1e-3, 1, 100_001)
    ours, theirs = (after(values, how) for how in (POLAR_EXPRESS, [NEWTON_SCHULZ_COEFFICIENTS] * 5))
    assert ours.min() > 0.85 and ours.max() < 1.15
    off, theirs_off = (abs(ended - 1).max() for ended in (ours, theirs))
    assert 3 * off < theirs_off
    errors = [abs(after(values, POLAR_EXPRESS[:steps]) - 1).max() for steps in range(1, 6)]
    assert errors == sorted(errors, reverse=True)
    assert abs(after(values, POLAR_EXPRESS[::-1])).max() > 10, "in another order they lead nowhere"
