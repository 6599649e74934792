"""Codes in an order that compresses: all matrices of a kind together, transposed, like rows beside each other.

PR 1855 gives such groups to an external compressor; here they go to those that the project has.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pgolf_core.base.files import Refused, UserError

SORTED = ("attn.c_q.weight", "mlp.fc.weight", "tok_emb.weight")
"""Kinds whose rows PR 1855 sorts; PR 2135 sorts all."""
MOST_ROWS = 2**16
"""Of a matrix: an order is kept as uint16."""


def kinds_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Names by kind (the name without its block), kinds in order of the alphabet, each one's blocks by number."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        block = re.match(r"blocks\.(\d{1,9})\.", name)
        found.setdefault(name[block.end() :] if block else name, []).append((int(block[1]) if block else 0, name))
    return {kind: [name for _, name in sorted(found[kind])] for kind in sorted(found)}


def is_sorted(kind: str, grouping: str) -> bool:
    """Whether the rows of a kind's matrices are sorted under quant.grouping."""
    return grouping == "similarity_all" or kind in SORTED


def similarity_order(codes: np.ndarray) -> np.ndarray:
    """uint16 [rows]: from row 0 on always the nearest row that is left, in L1 distance; the first of equals.

    `codes` are int8 [rows, cols], at most MOST_ROWS rows; UserError for more.
    """
    rows = len(codes)
    if rows > MOST_ROWS:
        raise UserError(f"quant.grouping sorts matrices of at most {MOST_ROWS} rows, one has {rows}; take off")
    values = torch.from_numpy(codes.astype(np.float32))  # sums below 2^24 are exact
    order, used = np.zeros(rows, np.uint16), np.zeros(rows, bool)
    for place in range(1, rows):
        last = int(order[place - 1])
        used[last] = True
        far = torch.cdist(values[last : last + 1], values, p=1.0)[0].numpy()
        order[place] = np.where(used, np.inf, far).argmin()
    return order


def grouped(codes: Mapping[str, np.ndarray], grouping: str) -> tuple[dict[str, bytes], list[np.ndarray]]:
    """(bytes by kind, order of each sorted matrix) of int8 matrices [rows, cols] by name."""
    parts, orders = {}, []
    for kind, names in kinds_of([*codes]).items():
        pieces = []
        for name in names:
            matrix = codes[name]
            if is_sorted(kind, grouping):
                orders.append(similarity_order(matrix))
                matrix = matrix[orders[-1]]
            pieces.append(np.ascontiguousarray(matrix.T).tobytes())
        parts[kind] = b"".join(pieces)
    return parts, orders


def ungrouped(data: bytes, orders: np.ndarray, shapes: Mapping[str, Sequence[int]], grouping: str) -> bytes:
    """The codes that `grouped` was given, one matrix after the other, in the order of `shapes`.

    `data` are the kinds' bytes in turn, `orders` all orders. Refused for what is no order.
    """
    codes, left = {}, np.frombuffer(data, np.int8)
    for kind, names in kinds_of([*shapes]).items():
        for name in names:
            rows, cols = shapes[name]
            own, left = np.split(left, [rows * cols])
            matrix = own.reshape(cols, rows).T
            if is_sorted(kind, grouping):
                order, orders = np.split(orders, [rows])
                if not np.array_equal(np.sort(order), np.arange(rows)):
                    raise Refused(f"the order of {name}'s rows names one twice, or none")
                matrix = matrix[np.argsort(order)]
            codes[name] = matrix.tobytes()
    return b"".join(codes[name] for name in shapes)


def order_rows(shapes: Mapping[str, Sequence[int]], grouping: str) -> int:
    """How many rows of matrices of these shapes are sorted, all in all."""
    kinds = kinds_of([*shapes])
    return sum(shapes[name][0] for kind, names in kinds.items() if is_sorted(kind, grouping) for name in names)
