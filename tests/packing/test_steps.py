"""Matrices on steps: the multiplier's sixteenths, vectors that tell of each other, the stream there and back."""

import math

import numpy as np
import pytest
from tiny_steps import gaussian, uneven

from pgolf_core.packing import allocation, steps


@pytest.mark.parametrize("multiplier", [1.0, 2.0**-10, 2.0**-149, 3.4e38, 0.7, 1e-5, 1.0905077])
def test_a_multiplier_falls_on_the_sixteenth_of_an_octave_that_logarithms_say(multiplier: float):
    multiplier = float(np.float32(multiplier))
    quarters, fraction = steps.sixteenths(multiplier)
    assert 0 <= fraction < 4 and abs(4 * quarters + fraction + 16 * math.log2(multiplier) + 0.5) <= 0.50001


def test_a_vector_like_an_earlier_one_costs_less():
    random = np.random.default_rng(0)
    first, other = (np.rint(6 * random.standard_normal(384)).astype(np.int32) for _ in range(2))
    alike = np.rint(0.75 * first + random.standard_normal(384)).astype(np.int32)
    for like in (alike, -alike):
        plain = [steps.Stepped(0, 0, v, first[:2], first * 0, first[:2]) for v in (first, like, other)]
        bits = [8 * steps.side_bytes(plain[:n]) for n in (1, 2, 3)]
        assert bits[1] - bits[0] < 0.65 * (bits[2] - bits[1])


@pytest.mark.parametrize("multiplier", [1.0, 2.0**-7, 0.3])
def test_matrices_come_back_from_the_stream_as_they_were_rounded(multiplier: float):
    made = {name: allocation.plan(gaussian(24, 40, seed), uneven(24, 40, seed)) for seed, name in enumerate("ab")}
    multiplier = float(np.float32(multiplier * allocation.fit(made, 3.0 * 2 * 24 * 40)[0]))
    items = {name: plan.rounded(multiplier) for name, plan in made.items()}
    payload = steps.write_steps(list(items.values()), multiplier)
    found = steps.read_steps(memoryview(payload), {name: (24, 40) for name in items})
    assert all((found[name] == item.weights(multiplier)).all() for name, item in items.items())
    assert steps.side_bytes(list(items.values())) < len(payload)
    with pytest.raises(ValueError):
        steps.read_steps(payload, {"a": (24, 40)})
