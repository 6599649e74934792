"""Grouping: kinds, the order of rows against a plain search, and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from refused import refused

from pgolf_core.base.grouping import grouped, kinds_of, order_rows, similarity_order, ungrouped

MATRICES = arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 5)))


def plain_order(codes: np.ndarray) -> list[int]:
    order, left = [0], [*range(1, len(codes))]
    while left:
        far = [int(np.abs(codes[order[-1]].astype(int) - codes[i].astype(int)).sum()) for i in left]
        order.append(left.pop(int(np.argmin(far))))
    return order


@given(MATRICES)
def test_the_next_row_is_the_nearest_that_is_left_and_the_first_of_equals(codes: np.ndarray):
    assert similarity_order(codes).tolist() == plain_order(codes)


def test_blocks_of_a_kind_stand_together_by_their_number():
    names = ["blocks.10.mlp.fc.weight", "blocks.9.mlp.fc.weight", "tok_emb.weight", "blocks.9.attn.c_q.weight"]
    expected = {"attn.c_q.weight": [names[3]], "mlp.fc.weight": [names[1], names[0]], "tok_emb.weight": [names[2]]}
    assert kinds_of(names) == expected and list(kinds_of(names)) == sorted(expected)


@pytest.mark.parametrize(("grouping", "rows"), [("similarity", 6 + 5), ("similarity_all", 6 + 5 + 3)])
def test_codes_come_back_as_they_were_and_a_sorted_matrix_lies_transposed(grouping: str, rows: int):
    random = np.random.default_rng(3)
    sizes = {"blocks.0.attn.c_k.weight": (3, 4), "blocks.0.mlp.fc.weight": (6, 4), "tok_emb.weight": (5, 2)}
    codes = {name: random.integers(-31, 32, size).astype(np.int8) for name, size in sizes.items()}
    parts, orders = grouped(codes, grouping)
    data = b"".join(parts.values())
    embedding = codes["tok_emb.weight"]
    assert parts["tok_emb.weight"] == embedding[plain_order(embedding)].T.tobytes()
    assert order_rows(sizes, grouping) == sum(map(len, orders)) == rows
    assert ungrouped(data, np.concatenate(orders), sizes, grouping) == b"".join(c.tobytes() for c in codes.values())


def test_more_rows_than_an_order_can_name_are_told():
    with refused(r"65537; take off"):
        similarity_order(np.zeros((2**16 + 1, 1), np.int8))
