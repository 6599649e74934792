"""What format version 5 adds to a file (PR 1855): codes grouped by kind, and low-rank corrections beside them.

LQER: what rounding took from a few matrices is given back as a product of two narrow ones. The largest singular
pairs of the error E = W - q s become A [rows, rank] in two bits under one scale, and B [rank, cols] in four bits under
a scale for each group (Zhang et al. 2024, arXiv 2402.02446, without its weights).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgolf_core.base.files import Refused, UserError
from pgolf_core.base.grouping import grouped, order_rows, ungrouped
from pgolf_core.network.grid import dequantise, round_to_float16
from pgolf_core.recipes.recipe import Quant

LEFT, RIGHT = (-2, 1, 1.5), (-8, 7, 7.5)
"""Smallest and largest code of each factor, and what its scale divides the largest magnitude by."""
Told = list[int]
"""[rank, group] of one matrix, as a header tells them."""


class Factors(NamedTuple):
    """One correction: codes int8 [rows, rank] and [rank, cols], float16 scales [1] and [rank * cols / group]."""

    left: Tensor
    left_scale: Tensor
    right: Tensor
    right_scales: Tensor

    def product(self) -> Tensor:
        """What is added to the rounded weights, float32 [rows, cols]: the same bits on every machine.

        A matrix product would sum in an order that the machine chooses; here one pair is added after the other.
        """
        size = self.right.numel() // len(self.right_scales)
        right = self.right.float().reshape(-1, size) * self.right_scales.float()[:, None]
        left = self.left.float() * self.left_scale.float()
        return functools.reduce(torch.add, map(torch.outer, left.T, right.reshape(self.right.shape)))


def _coded(values: Tensor, grid: tuple[int, int, float]) -> tuple[Tensor, Tensor]:
    """Codes and float16 scales of groups of numbers, [groups, size]."""
    least, most, divisor = grid
    scales = round_to_float16(values.abs().amax(1).clamp_min(1e-10) / divisor)
    codes = torch.nan_to_num(values / scales[:, None]).round().clamp(least, most).to(torch.int8)
    return codes, scales.half()


def coded_factors(a: Tensor, b: Tensor, group: int) -> Factors:
    """Two factors [rows, rank] and [rank, cols] as a file keeps them; UserError for groups that do not fill B."""
    if b.numel() % group:
        raise UserError(f"quant.low_rank_group = {group} must divide the {b.numel()} numbers of a right factor")
    left, left_scale = _coded(a.reshape(1, -1), LEFT)
    right, right_scales = _coded(b.reshape(-1, group), RIGHT)
    return Factors(left.reshape(a.shape), left_scale, right.reshape(b.shape), right_scales)


def leading_pairs(error: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A = U S [rows, rank] and B = V^T [rank, cols] of the largest singular values; a pair's sign is as
    the routine gives it."""
    u, s, vt = torch.linalg.svd(error.float(), full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def corrections_of(errors: Mapping[str, Tensor], rank: int, top: int, group: int) -> dict[str, Factors]:
    """The corrections of the `top` errors of largest norm (the first of equals), by name."""
    chosen = sorted(errors, key=lambda name: -float(errors[name].double().norm()))[:top]
    wide = [name for name in chosen if rank > min(errors[name].shape)]
    if wide:
        raise UserError(f"quant.low_rank = {rank} is more than {wide[0]} of {list(errors[wide[0]].shape)} has")
    return {name: coded_factors(*leading_pairs(errors[name], rank), group) for name in sorted(chosen)}


def factor_bytes(factors: Mapping[str, Factors]) -> bytes:
    """All codes, left before right, then the low and the high bytes of all scales."""
    codes = b"".join(part.numpy().tobytes() for f in factors.values() for part in (f.left, f.right))
    halves = np.concatenate([
        np.empty(0, "<f2"), *(s.numpy().astype("<f2") for f in factors.values() for s in (f.left_scale, f.right_scales))
    ])  # fmt: skip
    return codes + halves.view(np.uint8).reshape(-1, 2).T.tobytes()


def check_told(told: Mapping[str, Told], shapes: Mapping[str, Sequence[int]]) -> int:
    """How many bytes `factor_bytes` makes of corrections [rank, group] of matrices of these shapes; else Refused."""
    size = 0
    for name, values in told.items():
        known = name in shapes and isinstance(values, list) and len(values) == 2
        if not known or not all(type(v) is int and v > 0 for v in values):
            raise Refused(f"its low-rank correction of {name[:50]} makes no sense")
        (rows, cols), (rank, group) = shapes[name], values
        if rank > min(rows, cols) or rank * cols % group:
            raise Refused(f"its low-rank correction of {name[:50]} does not fit the matrix")
        size += rank * (rows + cols) + 2 * (1 + rank * cols // group)
    return size


def read_factors(data: bytes, told: Mapping[str, Told], shapes: Mapping[str, Sequence[int]]) -> dict[str, Factors]:
    """What `factor_bytes` was given; `data` is as long as check_told says. Refused for codes or scales not ours."""
    num_codes = sum(rank * sum(shapes[name]) for name, (rank, _) in told.items())
    left = np.frombuffer(data, np.int8, num_codes)
    halves = _words(data[num_codes:]).view(np.float16)
    if not np.isfinite(halves).all() or (halves < 0).any():
        raise Refused("its low-rank scales are not finite, or negative")
    found = {}
    for name, (rank, group) in told.items():
        parts = []
        for size, (least, most, _) in zip(shapes[name], (LEFT, RIGHT), strict=True):
            codes, left = np.split(left, [rank * size])
            if codes.min() < least or codes.max() > most:
                raise Refused(f"{name} has low-rank codes outside their grid")
            parts.append(torch.from_numpy(codes.copy()))
        own, halves = np.split(halves, [1 + len(parts[1]) // group])
        scales = torch.from_numpy(own)
        found[name] = Factors(parts[0].reshape(-1, rank), scales[:1], parts[1].reshape(rank, -1), scales[1:])
    return found


def _words(planes: bytes) -> np.ndarray:
    """uint16 numbers of their low bytes, then their high ones."""
    low, high = np.frombuffer(planes, np.uint8).reshape(2, -1).astype(np.uint16)
    return low | high << 8


def with_extras(
    state: Mapping[str, Tensor], coded: Mapping[str, tuple[np.ndarray, np.ndarray]], gates: Sequence[str], quant: Quant
) -> tuple[list[bytes], list[bytes], dict[str, Any]]:
    """(the codes in the order of the file, what the streams `factors` and `order` hold, what the header says of them).

    `coded` has every matrix on a grid, its codes int8 [rows, cols] and its scales float16; of those, `gates` get no
    correction. `state` has the weights.
    """
    told: dict[str, Any] = {}
    codes, orders, factors = [matrix.tobytes() for matrix, _ in coded.values()], [np.empty(0, "<u2")], b""
    if quant.grouping != "off":
        told["grouping"] = quant.grouping
        by_kind, sorted_rows = grouped({name: matrix for name, (matrix, _) in coded.items()}, quant.grouping)
        codes, orders = [*by_kind.values()], [*orders, *sorted_rows]
    if quant.low_rank:
        errors = {
            name: state[name].detach().float().cpu() - dequantise(torch.from_numpy(matrix), torch.from_numpy(scales))
            for name, (matrix, scales) in coded.items() if name not in gates
        }  # fmt: skip
        found = corrections_of(errors, quant.low_rank, quant.low_rank_top, quant.low_rank_group)
        told["low_rank"] = {name: [quant.low_rank, quant.low_rank_group] for name in found}
        factors = factor_bytes(found)
    return codes, [factors, np.concatenate(orders).astype("<u2").view(np.uint8).reshape(-1, 2).T.tobytes()], told


def extra_sizes(header: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> list[int]:
    """Bytes of `factors` and `order`, of matrices of these shapes; Refused for a header that no version has."""
    low_rank, grouping = header.get("low_rank", {}), header.get("grouping")
    kinds, compressor = (None, "similarity", "similarity_all"), header.get("compressor", "brotli")
    if grouping not in kinds or not isinstance(low_rank, dict) or compressor != "brotli":
        raise Refused("its header names a compressor, a grouping or corrections that no version has")
    return [check_told(low_rank, shapes), 2 * order_rows(shapes, grouping) if grouping else 0]


def read_extras(
    header: Mapping[str, Any], codes: bytes, extras: Sequence[bytes], shapes: Mapping[str, Sequence[int]]
) -> tuple[bytes, dict[str, Tensor]]:
    """(the codes, one matrix after the other; what is added to some) of a header that `extra_sizes` took."""
    factors, order = extras
    if "grouping" in header:
        codes = ungrouped(codes, _words(order), shapes, header["grouping"])
    found = read_factors(factors, header["low_rank"], shapes) if header.get("low_rank") else {}
    return codes, {name: one.product() for name, one in found.items()}
