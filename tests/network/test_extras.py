"""What format version 5 adds to a file comes back from it, and what no version has is refused."""

import numpy as np
import pytest
import torch

from pgolf_core.base.files import Refused
from pgolf_core.network.extras import extra_sizes, read_extras, shares, with_extras
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


def test_shares_add_up_to_the_stream() -> None:
    assert shares(100, [1.0, 1.0, 2.0]) == [25, 25, 50] and sum(shares(101, [0.3, 0.3, 0.1])) == 101
    assert shares(0, [0.0, 0.0]) == [0, 0]
