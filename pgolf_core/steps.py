"""Matrices on steps: whole numbers times a step of each row times a step of each column, and the bytes they take.

All steps are powers of 2^(1/4) times one multiplier of the whole file. So a matrix is described by small whole numbers:
an exponent for itself, each row and each column. A second set says how far the codes spread, which tells the coder the
class of each. Vectors that do not pay for their bytes are zero, and zeros cost nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pgolf_core.coder import FIRST, LAST, Decoder, best_class, encode

VECTORS = ("row_steps", "col_steps", "row_spreads", "col_spreads")
_NUMBERS = 2 + len(VECTORS)
_NUMBERS_CLASS = 28
"""Class of the six numbers that come before each matrix's vectors: standard deviation 128."""
_MULTIPLIER = struct.Struct("<f")
_QUARTERS = np.array([1, 2**0.25, 2**0.5, 2**0.75]).astype(np.float32)


@dataclass(frozen=True)
class Stepped:
    """One matrix [rows, cols]. Exponents are int32, in quarter octaves."""

    base: int
    """Exponent of the matrix's own step."""
    spread: int
    """Class of a code whose row and column add nothing."""
    row_steps: np.ndarray
    col_steps: np.ndarray
    row_spreads: np.ndarray
    """How much wider a row's weights lie than the matrix's, steps apart."""
    col_spreads: np.ndarray
    codes: np.ndarray | None = None
    """int32 [rows, cols]"""

    def steps(self, multiplier: float) -> tuple[np.ndarray, np.ndarray]:
        """Steps of the rows [rows, 1] and factors of the columns [1, cols], float32, without rounding but one each."""
        rows = np.float32(multiplier) * quarter_octaves(self.base + self.row_steps)
        return rows[:, None], quarter_octaves(self.col_steps)[None]

    def spreads(self) -> np.ndarray:
        """The class that each code would have if there were no first and last, int32 [rows, cols]."""
        rows, cols = self.row_spreads - self.row_steps + self.spread, self.col_spreads - self.col_steps
        return rows[:, None] + cols[None]

    def classes(self) -> np.ndarray:
        """The coder's class of each code, int8 [rows, cols]."""
        return np.clip(self.spreads(), FIRST, LAST).astype(np.int8)

    def weights(self, multiplier: float) -> np.ndarray:
        """float32 [rows, cols]: two products of float32 numbers each, the same on every machine."""
        rows, cols = self.steps(multiplier)
        return self.codes.astype(np.float32) * rows * cols


def quarter_octaves(exponents: np.ndarray) -> np.ndarray:
    """2^(e/4) as float32, from four constants and exact powers of two."""
    exponents = np.clip(exponents, -400, 400)
    return np.ldexp(_QUARTERS[exponents & 3], exponents >> 2)


def _side_parts(items: Sequence[Stepped]) -> list[tuple[np.ndarray, np.ndarray]]:
    """What describes the matrices: six numbers each, then their vectors, each in a class of its own."""
    vectors = [getattr(item, name) for item in items for name in VECTORS]
    classes = [best_class(vector) for vector in vectors]
    told = np.array(classes, np.int32).reshape(len(items), len(VECTORS))
    own = np.array([[item.base, item.spread] for item in items], np.int32).reshape(len(items), 2)
    numbers = np.concatenate((own, told), axis=1).ravel()
    return [
        (numbers, np.full(numbers.shape, _NUMBERS_CLASS)),
        (np.concatenate([*vectors, np.empty(0, np.int32)]), np.repeat(classes, list(map(len, vectors))).astype(int)),
    ]


def write_steps(items: Sequence[Stepped], multiplier: float) -> bytes:
    """The stream: the multiplier, then everything about the matrices and all of their codes, class by class."""
    codes = np.concatenate([item.codes.ravel() for item in items])
    classes = np.concatenate([item.classes().ravel() for item in items])
    return _MULTIPLIER.pack(multiplier) + encode([*_side_parts(items), (codes, classes)])


def side_bytes(items: Sequence[Stepped]) -> int:
    """Bytes of the stream that are not codes."""
    return _MULTIPLIER.size + len(encode(_side_parts(items)))


def read_steps(payload: bytes | memoryview, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Weights float32 by name, in the order in which they were written; `shapes` is what bounds the work and memory.

    Raises ValueError for bytes that are no such stream.
    """
    if len(payload) < _MULTIPLIER.size or len(payload) % 4:
        raise ValueError("a length that no coder ends with")
    (multiplier,) = _MULTIPLIER.unpack_from(payload)
    if not 0 < multiplier < np.inf:
        raise ValueError(f"the multiplier {multiplier}")
    decoder = Decoder(payload[_MULTIPLIER.size :])
    numbers = decoder.take(np.full((len(shapes), _NUMBERS), _NUMBERS_CLASS))
    if numbers[:, 2:].min() < FIRST or numbers[:, 2:].max() > LAST:
        raise ValueError("a class that no coder has")
    sizes = [size for rows, cols in shapes.values() for size in (rows, cols, rows, cols)]
    classes = np.repeat(numbers[:, 2:].ravel().astype(np.int8), sizes)
    vectors = np.split(decoder.take(classes), np.cumsum(sizes)[:-1])
    items = [
        Stepped(int(base), int(spread), *vectors[4 * i : 4 * i + 4]) for i, (base, spread) in enumerate(numbers[:, :2])
    ]
    codes = decoder.take(np.concatenate([item.classes().ravel() for item in items]))
    if not decoder.finished():
        raise ValueError("bytes left over")
    weights, start = {}, 0
    for (name, shape), item in zip(shapes.items(), items, strict=True):
        count = shape[0] * shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            rows, cols = item.steps(multiplier)
            weights[name] = codes[start : start + count].reshape(shape).astype(np.float32) * rows * cols
        if not np.isfinite(weights[name]).all():
            raise ValueError(f"weights of {name} that are not finite")
        start += count
    return weights
