"""Entropy coding of whole numbers that are nearly Gaussian: an ANS coder (constriction) on tables made by integers.

Every number comes with a class k: it is coded as a Gaussian of standard deviation 2^(k/4), rounded. Within one row and
column of a trained matrix the weights are so close to a Gaussian that its table beats the numbers' own histogram as
soon as that has to be sent too (papers/techniques/steps-by-sensitivity.md). No table is stored. What describes the
matrices is less regular: there the Gaussian is where a table begins that learns from the numbers already coded.

A table must be the same on every machine, or a file decodes to noise. So it is computed without floating point, and
what constriction takes as floats are whole numbers whose sums stay below 2^24: both of its float types hold them
exactly, its own scale factor is 1, and no rounding is left that a machine could do differently.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import constriction
import numpy as np

PRECISION = 24
"""Probabilities are multiples of 2^-PRECISION, as constriction's models have it."""
FIRST, LAST = -12, 52
"""Classes: from a standard deviation of 1/8, where all numbers are zero but one in 16,000, to 8192."""
_REACH = 10
"""A table ends at this many standard deviations, and a few numbers more."""
_PRIOR = 64
"""How many numbers a learning table's Gaussian counts for."""
_LATTICE_BITS, _MASS_BITS, _PLACE_BITS, _WORK_BITS = 6, 36, 24, 80


def reach(k: int) -> int:
    """The largest magnitude that class k can code."""
    return (_REACH * _root4(k + 16) >> 4) + 4  # 2^(k/4) in sixteenths, rounded down


def _root4(k: int) -> int:
    """2^(k/4), rounded down, by integers alone."""
    return math.isqrt(math.isqrt(1 << k))


@functools.cache
def _half_masses() -> np.ndarray:
    """Mass of a normal variable between 0 and i/64, in units of 2^-36 of its half, int64.

    The density falls from lattice point to lattice point by a ratio, and that ratio by exp(-h^2); trapezia between.
    """
    one, h_squared = 1 << _WORK_BITS, 2 * _LATTICE_BITS

    def exp_of_minus_power(n: int) -> int:  # exp(-2^-n) in units of 2^-80
        return sum((-1) ** i * ((one >> n * i) // math.factorial(i)) for i in range(8))

    density, ratio, fall = one, exp_of_minus_power(h_squared + 1), exp_of_minus_power(h_squared)
    masses = [0]
    for _ in range((_REACH + 1) << _LATTICE_BITS):
        following = density * ratio >> _WORK_BITS
        masses.append(masses[-1] + density + following)
        density, ratio = following, ratio * fall >> _WORK_BITS
    return np.array([(mass << _MASS_BITS) // masses[-1] for mass in masses], np.int64)


@functools.cache
def frequencies(k: int, fraction: int = 0) -> np.ndarray:
    """Probability of -reach(k)..reach(k) in class k, in units of 2^-24: int64, all at least 1, of sum 2^24.

    The standard deviation is 2^((4k + fraction)/16), the fraction from 0 to 3.
    """
    assert FIRST <= k <= LAST and 0 <= fraction < 4
    n, masses = reach(k), _half_masses()
    # lattice steps from one number to the next, 2^-24 each
    per_number = math.isqrt(math.isqrt(_root4(16 * (_PLACE_BITS + _LATTICE_BITS) - 4 * k - fraction)))
    place = np.minimum((2 * np.arange(n + 1) + 1) * per_number >> 1, (len(masses) - 1 << _PLACE_BITS) - 1)
    cell, part = place >> _PLACE_BITS, place & ((1 << _PLACE_BITS) - 1)
    below = masses[cell] + ((masses[cell + 1] - masses[cell]) * part >> _PLACE_BITS)
    tail = 1 + (np.diff(below) * ((1 << PRECISION) - 2 * n - 1) >> _MASS_BITS + 1)
    return np.concatenate((tail[::-1], [(1 << PRECISION) - 2 * tail.sum()], tail))


def _categorical(table: np.ndarray) -> Any:
    # constriction gives every symbol one unit and shares out the rest in proportion: here by a factor of exactly 1
    return constriction.stream.model.Categorical((table - 1).astype(np.float64), perfect=False)


@functools.cache
def _model(k: int, fraction: int) -> Any:
    return _categorical(frequencies(k, fraction))


def _learnt(k: int, counts: np.ndarray) -> np.ndarray:
    """Class k's table after `counts` (int64) of its numbers: as `frequencies`."""
    mean = (_PRIOR * frequencies(k) + (counts << PRECISION)) // (_PRIOR + counts.sum())
    table = 1 + (mean * ((1 << PRECISION) - len(mean)) >> PRECISION)
    table[reach(k)] += (1 << PRECISION) - table.sum()
    return table


def _chunks(k: int, size: int, step: Callable[[Any, int, int], np.ndarray]) -> np.ndarray:
    """Code `size` numbers with a table that begins as class k's and learns, in chunks that grow, so that their number
    stays small: `step` takes the model and a chunk's bounds and returns its symbols, the numbers plus reach(k)."""
    counts, symbols, start = np.zeros(2 * reach(k) + 1, np.int64), np.empty(size, np.int32), 0
    while start < size:
        end = min(start + 8 + start // 8, size)
        symbols[start:end] = step(_categorical(_learnt(k, counts)), start, end)
        counts += np.bincount(symbols[start:end], minlength=len(counts))
        start = end
    return symbols


@functools.cache
def _lengths(fraction: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits of each magnitude of all classes, one class after another, float32; and where each class begins, int32."""
    tables = [PRECISION - np.log2(frequencies(k, fraction)[reach(k) :]) for k in range(FIRST, LAST + 1)]
    starts = np.cumsum([0, *map(len, tables)])[:-1]
    return np.concatenate(tables).astype(np.float32), starts.astype(np.int32)


@functools.cache
def _reaches() -> np.ndarray:
    return np.array([reach(k) for k in range(FIRST, LAST + 1)], np.int32)


def clip(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """`values` as int32, limited to what their classes can code."""
    most = _reaches()[classes - FIRST]
    return np.clip(values, -most, most).astype(np.int32)


def lengths(values: np.ndarray, classes: np.ndarray, fraction: int = 0) -> np.ndarray:
    """Bits that each number takes: float32 in their shape. `values` within their classes' reach."""
    table, starts = _lengths(fraction)
    return table[starts[classes - FIRST] + np.abs(values)]


def best_class(values: np.ndarray, last: int = LAST) -> int:
    """The class in which all of `values` together take the fewest bits; FIRST for no values, or zeros alone."""
    most = int(np.abs(values).max(initial=0))
    fitting = [k for k in range(FIRST, last + 1) if reach(k) >= most]
    costs = [float(lengths(values, np.full(values.shape, k)).sum(dtype=np.float64)) for k in fitting]
    return fitting[int(np.argmin(costs))]


def encode(parts: Sequence[tuple[np.ndarray, np.ndarray | int]], fraction: int = 0) -> bytes:
    """Code (values, classes) one after another: what a Decoder takes in the same order.

    Where `classes` is one whole number, the values (of one dimension, within its reach) are coded by a table that
    learns, otherwise class by class by tables of `fraction`.
    """
    coded: list[tuple[np.ndarray, Any]] = []

    for values, classes in parts:
        if isinstance(classes, int):
            symbols = (values + reach(classes)).astype(np.int32)

            def keep(model: Any, start: int, end: int, symbols: np.ndarray = symbols) -> np.ndarray:
                coded.append((symbols[start:end], model))
                return symbols[start:end]

            _chunks(classes, len(values), keep)
            continue
        for k in range(FIRST, LAST + 1):
            chosen = values[classes == k]
            if chosen.size:
                coded.append(((chosen + reach(k)).astype(np.int32), _model(k, fraction)))
    coder = constriction.stream.stack.AnsCoder()
    for chosen, model in reversed(coded):  # a stack: the last in is the first out
        coder.encode_reverse(chosen, model)
    return coder.get_compressed().astype("<u4").tobytes()


class Decoder:
    """Takes back what `encode` wrote. Any bytes decode to something; `finished` says whether it can have been this."""

    def __init__(self, payload: bytes | memoryview, fraction: int = 0):
        """Raises ValueError for bytes that no coder ends with."""
        self._coder = constriction.stream.stack.AnsCoder(np.frombuffer(payload, "<u4").astype(np.uint32))
        self._fraction = fraction

    def take(self, classes: np.ndarray) -> np.ndarray:
        """The next part, int32 in the shape of its classes (FIRST to LAST)."""
        values = np.empty(classes.shape, np.int32)
        for k in range(FIRST, LAST + 1):
            chosen = classes == k
            count = int(np.count_nonzero(chosen))
            if count:
                values[chosen] = self._coder.decode(_model(k, self._fraction), count) - reach(k)
        return values

    def learn(self, k: int, size: int) -> np.ndarray:
        """The next part, int32 of one dimension, where `encode` was given the one class k."""
        return _chunks(k, size, lambda model, start, end: self._coder.decode(model, end - start)) - reach(k)

    def finished(self) -> bool:
        """Whether everything has been taken and nothing is left over."""
        return self._coder.is_empty()
