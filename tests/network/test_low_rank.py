"""The low-rank correction: what it takes away of an error, its grids, its bytes and their way back."""

import numpy as np
import pytest
import torch

from pgolf_core.base.files import UserError
from pgolf_core.network.low_rank import (
    LEFT,
    RIGHT,
    check_told,
    coded_factors,
    corrections_of,
    factor_bytes,
    read_factors,
)


def errors() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    narrow = torch.randn(24, 2, generator=random) @ torch.randn(2, 16, generator=random)
    return {"b": narrow, "a": 0.3 * narrow.T, "c": 0.01 * torch.randn(8, 16, generator=random)}


def test_the_largest_errors_are_corrected_and_become_smaller():
    given = errors()
    found = corrections_of(given, 2, 2, 8)
    assert list(found) == ["a", "b"]
    for name, factors in found.items():
        assert (given[name] - factors.product()).norm() < 0.7 * given[name].norm(), name
        for codes, (least, most, _) in ((factors.left, LEFT), (factors.right, RIGHT)):
            assert least <= int(codes.min()) and int(codes.max()) <= most


def test_what_is_written_is_read_back_and_as_long_as_was_told():
    found = corrections_of(errors(), 2, 3, 8)
    told, shapes = {name: [2, 8] for name in found}, {name: tuple(e.shape) for name, e in errors().items()}
    data = factor_bytes(found)
    assert len(data) == check_told(told, shapes)
    back = read_factors(data, told, shapes)
    assert all(torch.equal(back[n].product(), f.product()) for n, f in found.items()) and back.keys() == found.keys()


def test_a_product_is_its_pairs_added_in_order_to_the_last_bit():
    for factors in corrections_of(errors(), 4, 2, 8).values():
        left = factors.left.numpy().astype(np.float32) * factors.left_scale.float().numpy()
        scales = factors.right_scales.float().numpy().repeat(8).reshape(factors.right.shape)
        right, wanted = factors.right.numpy().astype(np.float32) * scales, np.zeros(1, np.float32)
        for k in range(4):
            wanted = wanted + left[:, k : k + 1] * right[k]
        assert wanted.dtype == np.float32 and np.array_equal(factors.product().numpy(), wanted)


def test_a_group_of_zeros_stays_zero():
    factors = coded_factors(torch.zeros(3, 2), torch.zeros(2, 8), 8)
    assert not factors.product().any()


@pytest.mark.parametrize(("rank", "group", "why"), [(2, 7, "must divide the 32 numbers"), (9, 8, "more than c of")])
def test_what_does_not_fit_is_refused(rank: int, group: int, why: str):
    with pytest.raises(UserError, match=why):
        corrections_of({"c": errors()["c"]}, rank, 1, group)
