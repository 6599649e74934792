"""Matrices on steps: whole numbers times a step of each row times a step of each column, and the bytes they take.

All steps are powers of 2^(1/4) times one multiplier of the whole file. So a matrix is described by small whole numbers:
an exponent for itself, each row and each column. A second set says how far the codes spread, which tells the coder the
class of each. Vectors that do not pay for their bytes are zero, and zeros cost nothing.
"""

import dataclasses
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pgolf_core.packing.coder import FIRST, LAST, PRECISION, Decoder, best_class, encode, lengths

VECTORS = ("row_steps", "row_spreads", "col_steps", "col_spreads")
_WIDEST = 28
"""The widest class of what describes matrices: standard deviation 128. It bounds the tables that learn."""
_NUMBERS = (_WIDEST, _WIDEST, 16, 16, 8)
"""Classes in which what comes before the vectors begins: base and spread of each matrix, then of each vector its class,
and which vector it is like by what factor."""
_MOST_FACTOR, _FARTHEST = 8, 100
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
    codes: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int32))
    """int32 [rows, cols]; empty until the matrix has been rounded."""

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

    def bits(self, multiplier: float) -> float:
        """What the codes take that were rounded at a multiplier; the coder comes within a few bytes of it."""
        return float(lengths(self.codes, self.classes(), sixteenths(multiplier)[1]).sum(dtype=np.float64))

    def weights(self, multiplier: float) -> np.ndarray:
        """float32 [rows, cols]: two products of float32 numbers each, the same on every machine."""
        rows, cols = self.steps(multiplier)
        return self.codes.astype(np.float32) * rows * cols


def quarter_octaves(exponents: np.ndarray) -> np.ndarray:
    """2^(e/4) as float32, from four constants and exact powers of two."""
    exponents = np.clip(exponents, -400, 400)
    return np.ldexp(_QUARTERS[exponents & 3], exponents >> 2)


def sixteenths(multiplier: float) -> tuple[int, int]:
    """-16 log2 of a float32 multiplier, rounded down, as quarter octaves and sixteenths left over; by integers alone.

    The codes spread in inverse proportion to it, and so do not fall on a class of the coder but between two.
    """
    mantissa, exponent = math.frexp(multiplier)
    log = 16 * (exponent - PRECISION) + (int(mantissa * 2**PRECISION) ** 16).bit_length() - 1
    return divmod(-1 - log, 4)


def _predicted(known: list[np.ndarray], like: int, factor: int) -> np.ndarray | int:
    """A vector as `factor` quarters of the one that came `like` vectors of its length ago; 0 for none."""
    return np.clip(factor * known[-like] + 2 >> 2, -1000, 1000) if like else 0


def _related(vector: np.ndarray, known: list[np.ndarray]) -> tuple[int, int]:
    """(like, factor) that leave the least of a vector, if any saves more bits than the two numbers take.

    Rows that matter are large rows, a hidden unit is a row of one matrix and a column of the next, and matrices that
    read the same activations have columns of like sensitivity. Whole numbers alone: a file's bytes follow from it.
    """
    if not known:
        return 0, 0
    vector, others = vector.astype(np.int64), np.array(known[-_FARTHEST:], np.int64)
    products, squares = others @ vector, (others**2).sum(1) + 1
    factors = np.clip((8 * products // squares + 1) // 2, -_MOST_FACTOR, _MOST_FACTOR)
    saved = factors * (8 * products - factors * squares)  # of 16 times the sum of squares
    best, whole = saved.argmax(), 16 * vector @ vector + 1
    pays = len(vector) * math.log2(whole / (whole - saved[best])) > 32  # half a bit for each halving
    return (len(others) - int(best), int(factors[best])) if pays else (0, 0)


def _side_parts(items: Sequence[Stepped]) -> list[tuple[np.ndarray, int]]:
    """What describes the matrices: _NUMBERS of all, then their vectors, less what is predicted."""
    told, vectors = [], []
    known: dict[int, list[np.ndarray]] = {}
    for vector in (getattr(item, name) for item in items for name in VECTORS):
        same = known.setdefault(len(vector), [])
        like, factor = _related(vector, same)
        rest = vector - _predicted(same, like, factor)
        same.append(vector)
        k = best_class(rest, _WIDEST)
        told.append((k, like, factor))
        vectors.append((rest, k))
    numbers = [[item.base for item in items], [item.spread for item in items], *zip(*told, strict=True)]
    return [*zip((np.array(n, np.int32) for n in numbers), _NUMBERS, strict=True), *vectors]


def write_steps(items: Sequence[Stepped], multiplier: float) -> bytes:
    """The stream: the multiplier, then everything about the matrices and all of their codes, class by class."""
    codes = np.concatenate([item.codes.ravel() for item in items])
    classes = np.concatenate([item.classes().ravel() for item in items])
    return _MULTIPLIER.pack(multiplier) + encode([*_side_parts(items), (codes, classes)], sixteenths(multiplier)[1])


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
    decoder = Decoder(payload[_MULTIPLIER.size :], sixteenths(multiplier)[1])
    sizes = [size for rows, cols in shapes.values() for size in (rows, rows, cols, cols)]
    bases, spreads, *told = (
        decoder.learn(k, len(sizes) if i > 1 else len(shapes)).tolist() for i, k in enumerate(_NUMBERS)
    )
    known: dict[int, list[np.ndarray]] = {}
    vectors = []
    for size, k, like, factor in zip(sizes, *told, strict=True):
        same = known.setdefault(size, [])
        if not FIRST <= k <= _WIDEST or not 0 <= like <= len(same):
            raise ValueError("a class that no coder has, or a vector like none")
        vectors.append(decoder.learn(k, size) + _predicted(same, like, factor))
        same.append(vectors[-1])
    items = [
        Stepped(base, spread, **dict(zip(VECTORS, vectors[4 * i :], strict=False)))
        for i, (base, spread) in enumerate(zip(bases, spreads, strict=True))
    ]
    codes = decoder.take(np.concatenate([item.classes().ravel() for item in items]))
    if not decoder.finished():
        raise ValueError("bytes left over")
    weights = {}
    ends = np.cumsum([rows * cols for rows, cols in shapes.values()])
    for (name, shape), item, own in zip(shapes.items(), items, np.split(codes, ends[:-1]), strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            weights[name] = dataclasses.replace(item, codes=own.reshape(shape)).weights(multiplier)
        if not np.isfinite(weights[name]).all():
            raise ValueError(f"weights of {name} that are not finite")
    return weights
