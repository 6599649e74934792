"""Where bytes went, and what an ideal coder would need."""

import math

import numpy as np
import pytest

from pgolf_core.packing.ledger import CapExceeded, Ledger, entropy_bits, entropy_bytes, shares


@pytest.mark.parametrize(
    ("symbols", "bits"),
    [([7] * 9, 0.0), ([0, 1] * 8, 16.0), ([0, 1, 2, -900] * 4, 32.0), ([0, 0, 0, 1], 4 * 2 - 3 * math.log2(3))],
)
def test_entropy_is_the_size_under_a_coder_that_knows_the_counts(symbols: list[int], bits: float):
    assert entropy_bits(np.array(symbols)) == pytest.approx(bits, abs=1e-9)


def test_entropy_of_halves_is_that_of_their_two_bytes_apart():
    codes = np.tile(np.array([-1, 0, 1, 2], np.int8), 8)
    assert entropy_bytes(codes) == math.ceil(entropy_bits(codes) / 8) == 8
    halves = np.tile(np.array([1.0, 2.0, 1.5, 2.0], np.float16), 8)  # 3C00, 4000, 3E00, 4000: one low byte, three high
    assert entropy_bytes(halves) == math.ceil(entropy_bits(halves) / 8) == 6


def test_shares_add_up_to_the_stream_also_where_no_tensor_has_a_bit():
    assert shares(100, [1.0, 1.0, 2.0, 0.0]) == [25, 25, 50, 0] and sum(shares(101, [0.3, 0.3, 0.1])) == 101
    assert shares(0, [0.0, 0.0]) == [0, 0] and shares(9, [0, 0]) == [0, 9]


def test_what_is_over_the_cap_says_every_number_and_the_remedy():
    message = str(CapExceeded(Ledger(1500, 300, 200, 34, 1734, 40_000, 41_734, 41_000, [])))
    parts = "artifact 1,734 bytes (weights 1,500, scales 200, header 34) + code 40,000 = 41,734 bytes: 734 over"
    assert parts in message and "cap of 41,000" in message and "coarser grids" in message and message.count("\n") == 1
