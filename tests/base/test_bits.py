"""PR 332's allocation rule row by row."""

import math
import random

import pytest
from refused import refused

from pgolf_core.base.bits import allocate_bits


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([1, 2, 3, 4], [6, 6, 6, 6]),  # fewer than five: no fifth to take
        ([0, 2, 3, 4], [5, 6, 6, 6]),
        ([1, 2, 3, 4, 5], [5, 5, 6, 6, 7]),
        ([5, 4, 3, 2, 1], [7, 6, 6, 5, 5]),
        (list(range(1, 11)), [5, 5, 5, 6, 6, 6, 6, 6, 6, 7]),
        ([1, 1, 1, 1, 1, 9], [5, 5, 5, 5, 5, 7]),  # a tie with the threshold shares its bits
        ([3, 3, 3, 3, 3], [7, 7, 7, 7, 7]),  # seven is asked first
        ([], []),
    ],
)
def test_the_rule_gives_these_bits(values: list[float], bits: list[int]):
    names = [f"t{i}" for i in range(len(values))]
    assert list(allocate_bits(dict(zip(names, values, strict=True))).values()) == bits


def test_the_full_size_record_gets_eight_sevens_and_sixteen_fives_of_75():
    """Bits never fall with sensitivity and do not depend on order."""
    sensitivity = {f"t{i}": random.Random(i).lognormvariate(0, 2) for i in range(75)}
    bits = allocate_bits(sensitivity)
    assert [bits[name] for name in sorted(sensitivity, key=sensitivity.get)] == [5] * 16 + [6] * 51 + [7] * 8
    assert allocate_bits(dict(random.Random(0).sample(list(sensitivity.items()), 75))) == bits


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_sensitivity_that_is_no_finite_number_is_refused_by_name(value: float):
    with refused(r"blocks\.3"):
        allocate_bits({"blocks.3": value, "b": 1.0})
