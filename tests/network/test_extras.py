"""What format version 5 adds to a file comes back from it; a low-rank correction takes away some of an error."""

import numpy as np
import pytest
import torch
from refused import refused

from pgolf_core.base.files import Refused
from pgolf_core.network.extras import (
    LEFT,
    RIGHT,
    check_told,
    coded_factors,
    corrections_of,
    extra_sizes,
    factor_bytes,
    read_extras,
    read_factors,
    with_extras,
)
from pgolf_core.network.grid import dequantise
from pgolf_core.recipes.recipe import Quant

SHAPES = {"blocks.0.mlp.fc.weight": (12, 8), "blocks.1.mlp.fc.weight": (12, 8), "tok_emb.weight": (20, 8)}


def coded(seed: int = 1) -> tuple[dict[str, torch.Tensor], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Weights, and what a coarse grid makes of them."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    scale = np.full(1, 0.5, np.float16)
    return state, {name: (w.div(0.5).round().to(torch.int8).numpy(), scale.repeat(len(w))) for name, w in state.items()}


@pytest.mark.parametrize("grouping", ["off", "similarity", "similarity_all"])
@pytest.mark.parametrize("rank", [0, 2])
def test_codes_and_corrections_come_back(grouping: str, rank: int) -> None:
    state, matrices = coded()
    quant = Quant(grouping=grouping, low_rank=rank, low_rank_top=2, low_rank_group=8)
    codes, extras, told = with_extras(state, matrices, ["blocks.0.mlp.fc.weight"], quant)
    assert [len(part) for part in extras] == extra_sizes(told, SHAPES)
    found, added = read_extras(told, b"".join(codes), extras, SHAPES)
    assert found == b"".join(matrix.tobytes() for matrix, _ in matrices.values())
    assert set(added) == ({"blocks.1.mlp.fc.weight", "tok_emb.weight"} if rank else set()), "gates get none"
    for name, product in added.items():
        error = state[name] - dequantise(*map(torch.from_numpy, matrices[name]))
        assert (error - product).norm() < error.norm()


@pytest.mark.parametrize("header", [{"grouping": "other"}, {"grouping": 7}, {"low_rank": []}, {"low_rank": {"x": 1}}])
def test_a_header_that_no_version_has_is_refused(header: dict) -> None:
    with pytest.raises(Refused):
        extra_sizes(header, SHAPES)


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
    with refused(why):
        corrections_of({"c": errors()["c"]}, rank, 1, group)
