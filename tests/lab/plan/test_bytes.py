"""The plan's bytes: the walk against simulation, bits against rounded weights, the sum against published files."""

import math

import numpy as np
import pytest
import torch
from small import small_recipe

from pgolf_core.lab.compare.records import RECORDS, load_published
from pgolf_core.lab.plan.bytes import ERROR, bits_per_weight, grid_shares, predicted_bytes, walk_variance
from pgolf_core.network.grid import GRIDS, quantise_tensor
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.training.optim import Group


@pytest.mark.parametrize("name", ["int6_row", "int5_row_nofloor", "int8_clip_search_step4", "int6_sigma"])
@pytest.mark.parametrize("std", [0.02, 0.2, 1.0])
def test_bits_are_the_entropy_of_gaussian_weights_rounded_by_the_grid(name: str, std: float):
    w = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)) * std
    counts = np.unique(quantise_tensor(w, GRIDS[name])[0], return_counts=True)[1] / w.numel()
    measured = -float((counts * np.log2(counts)).sum())
    bits, on_floor = bits_per_weight(std, 512, GRIDS[name])
    assert bits == pytest.approx(measured, rel=0.02)
    assert on_floor == (std * 3.2 / GRIDS[name].levels < GRIDS[name].scale_floor)


def test_a_walk_without_memory_has_the_variance_of_its_closed_form():
    # Adam's first beta 0: independent steps. Var(W) -> lr^2 u / (1 - (1 - a)^2), a = lr wd, whatever the start
    recipe = small_recipe(schedule={"warmdown_iters": 0})
    group = Group("g", "adamw", ("w",), lr=0.1, betas=(0.0, 0.95), weight_decay=0.5)
    assert walk_variance(2000, group, recipe, 7.0, 2.0) == pytest.approx(0.1**2 * 2.0 / (1 - 0.95**2))
    still = Group("g", "adamw", ("w",), lr=0.1, betas=(0.0, 0.95))
    assert walk_variance(10, still, recipe, 7.0, 2.0) == pytest.approx(7.0 + 10 * 0.1**2 * 2.0)


def test_a_walk_with_momentum_has_the_variance_of_simulated_ones():
    rng = np.random.default_rng(0)
    group = Group("g", "adamw", ("w",), lr=0.05, betas=(0.9, 0.95), weight_decay=0.4)
    w = np.zeros(200_000)
    u = rng.normal(size=w.size)
    for step in range(60):
        lr = 0.05 * min(1.0, (60 - step) / 20)
        w = (1 - lr * 0.4) * w - lr * u
        u = 0.9 * u + math.sqrt(1 - 0.9**2) * rng.normal(size=w.size)
    recipe = small_recipe(schedule={"warmdown_iters": 20})
    assert walk_variance(60, group, recipe, 0.0, 1.0) == pytest.approx(w.var(), rel=0.02)


def test_a_rate_that_late_qat_lowers_is_walked_at_the_lower_rate():
    falling = {"warmdown_iters": 1000}  # a tenth of it is walked: below 1 from the first step on, and late QAT with it
    late = small_recipe(schedule=falling, qat={"kind": "late", "threshold": 1.0, "lr_factor": 0.5})
    whole, half = (Group("g", "adamw", ("w",), lr=lr, betas=(0.9, 0.95), weight_decay=0.5) for lr in (0.1, 0.05))
    expected = walk_variance(100, half, small_recipe(schedule=falling), 3.0, 1.0)
    assert walk_variance(100, whole, late, 3.0, 1.0) == pytest.approx(expected)
    assert walk_variance(100, whole, small_recipe(schedule=falling), 3.0, 1.0) != pytest.approx(expected)


@pytest.mark.parametrize("name", RECORDS)
def test_what_was_fitted_to_one_record_predicts_every_published_file(name: str):
    closer = {"pr315": 0.005, "pr1493": 0.001}  # the fit, and a file whose size follows from its clip
    for run in load_published(name).seeds:
        found = predicted_bytes(load_recipe(f"{name}-as-run"), run.steps)["bytes"].sum()
        assert found == pytest.approx(run.model_bytes, rel=closer.get(name, ERROR)), run.seed


def test_exceptions_are_counted_on_their_own_grids():
    def sizes(name: str, *overrides: str) -> dict[str, int]:
        return dict(predicted_bytes(load_recipe(name, overrides), 4000)["weights"])

    plain, excepted = sizes("pr534", "quant.exceptions=[]"), sizes("pr534")
    block = 2 * 512 * 512 + 2 * 256 * 512 + 2 * 1408 * 512
    assert excepted["int8_clip_search"] - plain["int8_clip_search"] == 2 * block
    plain, excepted = sizes("pr531", "quant.exceptions=[]"), sizes("pr531")
    assert excepted["fp16"] - plain["fp16"] == plain["int6_clip_search"] - excepted["int6_clip_search"] == 256 * 512


def test_bits_that_gradients_will_choose_are_counted_in_the_shares_of_the_rule():
    shares = grid_shares(load_recipe("pr332"))
    expected = {"int5_row_clip": 16 / 75, "int6_row_clip": 51 / 75, "int7_row_clip": 8 / 75}  # papers/records/pr332.md
    assert shares["blocks.3.mlp.fc.weight"] == shares["bigram.embed.weight"] == pytest.approx(expected)
    assert shares["tok_emb.weight"] == {"int8_row_clip": 1.0} and shares["bigram.proj.weight"] == {"fp16": 1.0}


@pytest.mark.parametrize(
    ("name", "steps", "files"),
    [("pr1855", 4950, (15_865_260, 15_875_551)), ("pr2135", 4994, (15_905_667, 15_910_335))],
)
def test_files_of_another_compressor_are_predicted_as_near(name: str, steps: int, files: tuple[int, int]):
    """The records' is ZPAQ, ours brotli: the prediction lies above, by no more than its error."""
    total = predicted_bytes(load_recipe(name), steps)["bytes"].sum()
    assert files[1] < total < (1 + ERROR) * files[0]


def test_what_a_records_file_adds_is_counted():
    whole = load_recipe("pr1855")
    table = predicted_bytes(whole, 500)
    assert table.loc["low rank", "weights"] == 4 * (8192 + 512 + 2 * (2048 + 512))  # the embedding and two MLPs
    assert 0 < table.loc["low rank", "bytes"] <= 49_152 / 4 + 6144 / 2 + 2 * (3 + 96)  # two and four bits, scales
    orders = sum(math.log2(math.factorial(rows)) for rows in (8192, *[2048] * 11, *[512] * 11)) / 8
    assert table.loc["orders of rows", "bytes"] == math.ceil(orders)
    plain = load_recipe("pr1855", ["quant.low_rank=0", "quant.grouping=off", "quant.gates=float16"])
    assert {"low rank", "orders of rows", "int8_row"}.isdisjoint(predicted_bytes(plain, 500).index)
