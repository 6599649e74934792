"""Quantisation grids against the published numbers, against torch, and the fake-quantiser against the packed weights.

The table is of the published quantisers, each on two hash-filled matrices, A with all |w| < 1 (where the scale floor
rules) and B with rows up to eight times larger.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hashfill import fill
from hypothesis import given, settings
from hypothesis import strategies as st

from pgolf_core.base.device import why_not_compile
from pgolf_core.network.grid import (
    GRIDS,
    choose_scale,
    dequantise,
    fake_quantise,
    grid_of,
    quantise,
    quantise_tensor,
    round_to_float16,
    row_quantile,
)
from pgolf_core.recipes.recipe import Quant

TABLE = {  # grid: (sum q, sum |q|, largest |q|, sum of scales, mean squared error) on A, then on B
    "int6_row_clip": ((606, 76_076, 9, 2.064453, 8.517393e-05), (2587, 216_427, 31, 3.090820, 2.193564e-04)),
    "int6_row": ((604, 76_080, 9, 2.064453, 8.517390e-05), (2573, 216_427, 31, 3.090820, 2.193306e-04)),
    "int8_row_clip": ((2542, 312_126, 38, 0.503906, 5.090850e-06), (10_492, 886_698, 127, 0.754425, 1.305542e-05)),
    "int5_row_clip": ((317, 36_401, 4, 4.265625, 3.679820e-04), (1319, 104_685, 15, 6.387207, 9.075104e-04)),
    "int7_row_clip": ((1235, 154_765, 19, 1.015625, 2.102826e-05), (5201, 439_899, 63, 1.520752, 5.304427e-05)),
    "int5_row_nofloor": ((1061, 123_271, 15, 1.276306, 3.255458e-05), (1062, 123_270, 15, 5.744354, 8.281778e-04)),
    "int6_clip_search": ((604, 76_080, 9, 2.064453, 8.517390e-05), (2574, 216_552, 31, 3.088837, 2.189714e-04)),
    "int8_clip_search": ((2542, 312_126, 38, 0.503906, 5.090850e-06), (10_492, 886_698, 127, 0.754425, 1.305542e-05)),
    "int8_clip_search_step4": ((2280, 311_288, 40, None, 9.992303e-05), (10_342, 886_414, 127, None, 2.422919e-04)),
}
FAKE_ERROR = {"int6_fake_pr194": 0.0121067, "int6_fake_pr534": 0.0108987}  # mean |change| of B


def matrix(which: str) -> torch.Tensor:
    a = fill((64, 256), 0.6, 500)
    return a if which == "A" else a * (1 + torch.arange(64) % 8)[:, None]


GENERATOR = torch.Generator().manual_seed(1)
WIDE = torch.randn(24, 96, generator=GENERATOR) * torch.linspace(0.01, 3, 24)[:, None]
WIDE[3:6] *= torch.tensor([[0.0], [1e-9], [1e-4]])
ODD = {
    "rows of every size": WIDE, "one column": torch.randn(7, 1, generator=GENERATOR),
    "one row": torch.randn(1, 50, generator=GENERATOR), "one weight": torch.tensor([[-2.5]]),
    "zeros": torch.zeros(3, 5),
}  # fmt: skip


@pytest.mark.parametrize("which", ["A", "B"])
@pytest.mark.parametrize("name", TABLE)
def test_every_quantiser_gives_the_published_numbers(name: str, which: str):
    total, magnitude, largest, scales, error = TABLE[name]["AB".index(which)]
    w = matrix(which)
    q, scale = quantise_tensor(w, GRIDS[name])
    codes = q.to(torch.int64)
    assert (codes.sum(), codes.abs().sum(), codes.abs().max()) == (total, magnitude, largest)
    assert scales is None or float(scale.double().sum()) == pytest.approx(scales, abs=6e-7)
    assert float((dequantise(q, scale) - w).double().square().mean()) == pytest.approx(error, rel=2e-6)
    assert "step4" not in name or set(q.unique().tolist()) <= {-127, *range(-124, 128, 4), 127}


@pytest.mark.parametrize("name", FAKE_ERROR)
def test_the_published_fake_quantisers_change_b_by_the_published_amount(name: str):
    w = matrix("B")
    assert float((fake_quantise(w, GRIDS[name]) - w).abs().mean()) == pytest.approx(FAKE_ERROR[name], abs=6e-8)


def test_the_scale_floor_leaves_most_levels_unused_and_a_floorless_grid_uses_all():
    floor, none = GRIDS["int6_row"], dataclasses.replace(GRIDS["int6_row"], scale_floor=0.0)
    used = [len(quantise_tensor(matrix("A"), grid)[0].unique()) for grid in (floor, none)]
    assert used == [19, 63]


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("name", GRIDS)
def test_fake_quantised_weights_are_bitwise_those_read_back_and_pass_gradients_unchanged(name: str, case: str):
    grid, w = GRIDS[name], ODD[case].clone().requires_grad_()
    faked, scale = fake_quantise(w, grid), choose_scale(w.detach(), grid)
    assert torch.equal(faked, dequantise(quantise(w.detach(), scale, grid), scale.stored))
    weights = torch.arange(w.numel(), dtype=torch.float32).reshape(w.shape)
    (faked * weights).sum().backward()
    assert torch.equal(w.grad, weights)
    if not grid.packable:
        return
    q, stored = quantise_tensor(w, grid)
    assert torch.equal(faked, dequantise(q, stored)) and (faked[w == 0] == 0).all()
    assert (q.dtype, q.shape, stored.dtype, stored.shape) == (torch.int8, w.shape, torch.float16, w.shape[:1])
    assert q.min() >= grid.qmin and q.max() <= grid.qmax and torch.isfinite(stored).all() and (stored >= 0).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), rows=st.integers(1, 9), cols=st.integers(1, 40), spread=st.floats(1e-3, 100),
    name=st.sampled_from(["int6_row", "int8_row_clip", "int5_row_clip", "int5_row_nofloor"]),
)  # fmt: skip
def test_inside_the_clip_the_error_is_at_most_half_a_step(seed: int, rows: int, cols: int, spread: float, name: str):
    grid = GRIDS[name]
    w = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)) * spread
    q, stored = quantise_tensor(w, grid)
    scale = choose_scale(w, grid)
    inside = w.abs() <= scale.clip[:, None]
    step = torch.maximum(scale.divisor, stored.float())[:, None]
    rounding = q.float().abs() * (scale.divisor - stored.float()).abs()[:, None]  # codes and stored scale disagree
    last = q.float().abs() == grid.levels  # the scale's own rounding can leave the maximum a little beyond the end
    allowed = step / 2 * 1.0001 + rounding + last * step * grid.levels * 2**-11
    assert ((dequantise(q, stored) - w).abs() <= allowed)[inside].all()


def test_the_row_quantile_is_bitwise_torchs():
    generator = torch.Generator().manual_seed(0)
    for cols in (1, 2, 3, 7, 96, 512, 1000, 1408, 1536, 5000):
        x = torch.randn(20, cols, generator=generator).abs()
        for quantile in (0.25, 0.999, 0.9995, 0.9999, 0.99999, 0.999999, 0.9999984, 1.0):
            assert torch.equal(row_quantile(x, quantile), torch.quantile(x, quantile, dim=1)), (cols, quantile)


def test_rounding_to_float16_by_integer_arithmetic_is_the_cast():
    x = torch.arange(0, 0x477FE000, 911, dtype=torch.int32).view(torch.float32)  # every size below 65,504
    halfway = (torch.arange(0, 0x7BFF, dtype=torch.int16).view(torch.float16).double() * (1 + 2**-11)).float()
    for values in (x, halfway):
        assert torch.equal(round_to_float16(values), values.to(torch.float16).to(torch.float32))


@pytest.mark.parametrize(
    ("names", "backend"),
    [
        (["int5_row_nofloor", "int6_clip_search", "int8_clip_search_step4"], "eager"),  # searching and stepping
        pytest.param(list(GRIDS), "inductor", marks=pytest.mark.slow),  # a C++ compiler at work
    ],
)
def test_compiled_in_one_graph_the_fake_quantiser_is_bitwise_the_eager_one(names: list[str], backend: str):
    """Inductor drops a cast to float16 and back inside one kernel; the scale must be rounded all the same."""
    if backend == "inductor" and (reason := why_not_compile(torch.device("cpu"))):
        pytest.skip(reason)
    torch._dynamo.reset()
    fake_all = lambda w: [fake_quantise(w, GRIDS[name]) for name in names]  # noqa: E731
    w = (ODD["rows of every size"] * 0.7).requires_grad_()
    results = torch.compile(fake_all, fullgraph=True, dynamic=False, backend=backend)(w)
    torch.stack(results).sum().backward()
    assert torch.equal(w.grad, torch.full_like(w, len(names)))
    assert all(map(torch.equal, results, fake_all(w)))


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_a_row_is_clipped_at_its_recipes_number_of_standard_deviations(bits: int):
    """Rows without spread have scale 0: their codes are the ends, and they read back as zeros (PR 1493)."""
    w, quant = torch.randn(5, 400, generator=torch.Generator().manual_seed(2)), Quant(clip_sigmas=2.5)
    w[3], w[4, :399], w[4, 399] = -0.7, 0.0, 1e-12
    levels = 2 ** (bits - 1) - 1
    for tensor, sigmas in (("blocks.0.attn.c_q.weight", 2.5), ("tok_emb.weight", 20.0)):
        q, scale = quantise_tensor(w, grid_of(tensor, f"int{bits}_sigma", quant))
        expected = np.std(w.double().numpy(), axis=1, ddof=1) * sigmas / levels
        np.testing.assert_allclose(scale.double(), np.where(expected < 1e-7, 0, expected), rtol=2**-11)
        step = scale[:3].double()[:, None]
        assert torch.equal(q[:3], (w[:3].double() / step).round().clamp(-levels, levels).to(torch.int8))
        assert q[3].unique().tolist() == [-levels] and q[4].unique().tolist() == [0, levels]
        assert not dequantise(q, scale)[3:].any() and bool(q[:3].abs().max() == levels) is (sigmas == 2.5)
