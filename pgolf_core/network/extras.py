"""What format version 5 adds to a file: codes grouped by kind, and low-rank corrections beside them (PR 1855)."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgolf_core.base.files import Refused
from pgolf_core.base.grouping import grouped, order_rows, ungrouped
from pgolf_core.network.grid import dequantise
from pgolf_core.network.low_rank import check_told, corrections_of, factor_bytes, read_factors
from pgolf_core.recipes.recipe import Quant

Coded = tuple[np.ndarray, np.ndarray]
"""int8 codes [rows, cols] and float16 scales of a matrix."""


def with_extras(
    state: Mapping[str, Tensor], coded: Mapping[str, Coded], gates: Sequence[str], quant: Quant
) -> tuple[list[bytes], list[bytes], dict[str, Any]]:
    """(the codes in the order of the file, what the streams `factors` and `order` hold, what the header says of them).

    `coded` has every matrix on a grid, of which `gates` get no correction; `state` has the weights.
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


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """A stream's bytes by tensor, in proportion to weights: a kind's tensors have no borders in it."""
    ends = [round(total * part / (sum(weights) or 1)) for part in itertools.accumulate(weights)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


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
        rows = np.ascontiguousarray(np.frombuffer(order, np.uint8).reshape(2, -1).T).view("<u2").reshape(-1)
        codes = ungrouped(codes, rows, shapes, header["grouping"])
    found = read_factors(factors, header["low_rank"], shapes) if header.get("low_rank") else {}
    return codes, {name: one.product() for name, one in found.items()}
