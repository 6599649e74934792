"""Tables of whole numbers, and numbers that come back in the bits that the tables promise."""

import numpy as np
import pytest
from scipy.stats import norm

from pgolf_core.packing import coder


def test_tables_are_symmetric_whole_numbers_whose_sum_the_library_finds_exactly_in_single_precision():
    for k in range(coder.FIRST, coder.LAST + 1, 3):
        table = coder.frequencies(k, k % 4)
        assert table.dtype == np.int64 and table.min() >= 1 and table.sum() == 2**coder.PRECISION
        assert len(table) == 2 * coder.reach(k) + 1 and (table == table[::-1]).all()
        given = np.cumsum((table - 1).astype(np.float32), dtype=np.float32)  # so the library's own factor is 1
        assert (given == np.cumsum(table - 1)).all()
        limited = coder.clip(np.array([1e9, -1e9, 0.0]), np.full(3, k))
        assert limited.tolist() == [coder.reach(k), -coder.reach(k), 0]


@pytest.mark.parametrize(("k", "fraction"), [(-12, 0), (-5, 1), (0, 0), (0, 2), (3, 3), (8, 0), (21, 1), (40, 3)])
def test_a_table_is_the_rounded_gaussian_of_its_class(k: int, fraction: int):
    numbers, deviation = np.arange(-coder.reach(k), coder.reach(k) + 1), 2 ** ((4 * k + fraction) / 16)
    exact = norm.cdf((numbers + 0.5) / deviation) - norm.cdf((numbers - 0.5) / deviation)
    table = coder.frequencies(k, fraction)
    wasted_bits = float((exact * np.log2(exact.clip(1e-300) * 2**coder.PRECISION / table)).sum())
    assert -1e-6 < wasted_bits < 2e-3


@pytest.mark.parametrize("fraction", [0, 3])
def test_numbers_of_all_classes_come_back_in_the_bits_that_the_tables_promise(fraction: int):
    random = np.random.default_rng(0)
    classes = random.integers(coder.FIRST, 41, 20_000).astype(np.int8)
    values = coder.clip(np.rint(random.standard_normal(20_000) * 2.0 ** (classes / 4)), classes)
    side, side_classes = np.array([3, -900, 0]), np.full(3, 28)
    payload = coder.encode([(side, side_classes), (values, classes)], fraction)
    decoder = coder.Decoder(payload, fraction)
    assert (decoder.take(side_classes) == side).all()
    assert (decoder.take(classes) == values).all() and decoder.finished()
    promised = coder.lengths(values, classes, fraction).sum() + coder.lengths(side, side_classes, fraction).sum()
    assert promised / 8 <= len(payload) <= promised / 8 + 8


def test_a_table_that_learns_codes_what_is_not_gaussian_in_fewer_bits_and_costs_little_where_it_is():
    random = np.random.default_rng(0)
    gaussian_like = np.rint(4 * random.standard_normal(500)).astype(np.int32)
    spiked = np.where(random.random(500) < 0.5, 14, gaussian_like).astype(np.int32)
    constant = np.full(100_000, 14, np.int32)  # the library takes its table, too
    for values, least, most in ((gaussian_like, 0.98, 1.05), (spiked, 0.6, 0.85), (constant, 0.0, 0.05)):
        k = coder.best_class(values)
        payload = coder.encode([(values, k), (values[:0], k), (values[:1], k)])
        assert least < len(payload) * 8 / coder.lengths(values, np.full(len(values), k)).sum() < most
        decoder = coder.Decoder(payload)
        assert (decoder.learn(k, len(values)) == values).all() and not len(decoder.learn(k, 0))
        assert decoder.learn(k, 1) == values[:1] and decoder.finished()


def test_the_best_class_is_the_one_that_codes_all_numbers_in_the_fewest_bits():
    values = np.array([0, 3, -5, 2, 40], np.int32)
    fitting = range(coder.best_class(np.array([40])) - 9, coder.LAST + 1)
    costs = {k: coder.lengths(values, np.full(5, k)).sum() for k in fitting if coder.reach(k) >= 40}
    assert coder.best_class(values) == min(costs, key=costs.get)
    assert coder.best_class(values[:0]) == coder.best_class(values[:1]) == coder.FIRST
