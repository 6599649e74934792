"""The plan's numbers, by hand on a small model, and against the published files of the records.

pytest tests/test_plan.py
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from small import small_recipe

from pgolf_core import recipe as recipes
from pgolf_core.files import UserError
from pgolf_core.grid import GRIDS, quantise_tensor
from pgolf_core.lab import plan
from pgolf_core.recipe import Recipe, load_recipe, to_dict

PUBLISHED_STEP_MS = 85.0
"""PR 315 on its own machine (SEEDS 5.6)."""


def values(recipe: Recipe, step_ms: float | None = None) -> dict[str, float]:
    table = plan.plan_table(recipe, step_ms)
    assert list(table.columns) == ["quantity", "value", "unit", "note"] and table["quantity"].is_unique
    return dict(zip(table["quantity"], table["value"], strict=True))


def like_pr315(**changes: dict) -> Recipe:
    sections = to_dict(load_recipe("pr315"))
    return recipes.from_dict(sections | {name: sections[name] | keys for name, keys in changes.items()})


# ---------------------------------------------------------------------- by hand


def test_parameters_work_and_memory_of_a_small_model_are_those_counted_by_hand():
    # small.py: V 64, 3 layers, C 32, 2 heads of 16, 1 kv head, F 64, bigram 32 x 8, T 16, 128 tokens a step
    found = values(small_recipe())
    block = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 2 * 64 * 32  # q, k and v, output, MLP: 7,168
    small = 3 * (4 * 32 + 2) + 32 + 32 + 1  # scales, mix and gains of a block; smear; one skip row; bigram scale
    assert found["parameters"] == 64 * 32 + 32 * 8 + 32 * 8 + 3 * block + small == 24_519
    assert found["parameters: MLP: up"] == 3 * 64 * 32
    products = 3 * block + 32 * 8 + 64 * 32  # blocks, bigram projection, head; tables cost no product
    attention = 3 * 2 * (2 * 32 * 17 / 2)  # scores and values, 2 FLOP each, over (16 + 1) / 2 positions of width 32
    assert found["forward pass of a token"] == 2 * products + attention == 2 * 23_808 + 3_264
    assert found["forward and backward of a step"] == 3 * 128 * (2 * 23_808 + 3_264)
    # Newton-Schulz: 5 iterations of 2 (2 m^2 n + m^3): squares 32, flat 16 x 32, long 32 x 64, and 8 x 32 (bigram)
    squares, flat = 2 * (2 * 32**3 + 32**3), 2 * (2 * 16**2 * 32 + 16**3)
    long, bigram = 2 * (2 * 32**2 * 64 + 32**3), 2 * (2 * 8**2 * 32 + 8**3)
    assert found["Newton-Schulz of a step"] == 5 * (3 * (2 * squares + 2 * flat + 2 * long) + bigram)
    muon = 3 * block + 32 * 8
    assert found["memory: weights"] == found["memory: gradients"] == found["memory: average"] == 4 * 24_519
    assert found["memory: optimiser"] == 4 * muon + 8 * (24_519 - muon)
    assert found["memory: together"] == 3 * 4 * 24_519 + found["memory: optimiser"]
    assert (found["tokens of a step"], found["steps in the budget"], found["tokens in the budget"]) == (128, 12, 1536)


def test_nothing_is_kept_for_an_average_that_is_not_taken_nor_for_frozen_weights():
    assert values(small_recipe(average={"kind": "none"}))["memory: average"] == 0
    frozen = small_recipe(model={"ve_dim": 4, "ve_layers": [1]}, optim={"ve_frozen": True})
    learnt = small_recipe(model={"ve_dim": 4, "ve_layers": [1]})
    tables = 4 * (64 * 4 + 16 * 4)
    assert values(learnt)["memory: gradients"] - values(frozen)["memory: gradients"] == tables
    assert values(learnt)["memory: optimiser"] - values(frozen)["memory: optimiser"] == 2 * 4 * 64 * 4 + 4 * 16 * 4


def test_steps_follow_from_clock_and_step_time_or_say_what_they_need():
    clocked = small_recipe(schedule={"max_seconds": 10.0, "iterations": 1000})
    assert values(clocked, 30.0)["steps in the budget"] == 334, "the step that begins inside the cap is finished"
    assert values(clocked, 1.0)["steps in the budget"] == 1000
    table = plan.plan_table(clocked).set_index("quantity")
    assert math.isnan(table.loc["steps in the budget", "value"])
    assert "--step-ms" in table.loc["steps in the budget", "note"]
    assert math.isnan(table.loc["work in the budget", "value"])
    assert "may end it sooner" in table.loc["predicted bytes: artifact", "note"]
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="positive number of milliseconds"):
            plan.plan_table(clocked, wrong)


def test_the_table_survives_json_with_gaps_as_null():
    rows = json.loads(plan.plan_table(load_recipe("pr315")).to_json(orient="records"))
    by_name = {row["quantity"]: row["value"] for row in rows}
    assert by_name["steps in the budget"] is None and by_name["parameters"] == 26_829_913


# ---------------------------------------------------------------------- bytes


def test_the_bytes_of_the_table_add_up_and_are_held_against_the_cap():
    found = values(small_recipe())
    parts = [value for name, value in found.items() if name.startswith("predicted bytes: ")]
    *grids, artifact, total = parts
    assert sum(grids) == artifact and total == artifact + found["code"]
    assert found["predicted bytes left"] == found["cap"] - total and found["cap"] == 16_000_000
    assert found["predicted bytes: fp16"] == 2 * (24_519 - 3 * 7168 - 64 * 32 - 2 * 256)  # of at most 100 elements


@pytest.mark.parametrize("name", ["int6_row", "int5_row_nofloor", "int8_clip_search_step4"])
@pytest.mark.parametrize("std", [0.02, 0.2, 1.0])
def test_bits_are_the_entropy_of_gaussian_weights_rounded_by_the_grid(name: str, std: float):
    w = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)) * std
    counts = np.unique(quantise_tensor(w, GRIDS[name])[0], return_counts=True)[1] / w.numel()
    measured = -float((counts * np.log2(counts)).sum())
    bits, on_floor = plan.bits_per_weight(std, 512, GRIDS[name])
    assert bits == pytest.approx(measured, rel=0.02)
    assert on_floor == (std * 3.2 / GRIDS[name].levels < GRIDS[name].scale_floor)


def test_a_walk_without_memory_has_the_variance_of_its_closed_form():
    # Adam's first beta 0: independent steps. Var(W) -> lr^2 u / (1 - (1 - a)^2), a = lr wd, whatever the start
    recipe = small_recipe(schedule={"warmdown_iters": 0})
    group = plan.Group("g", "adamw", ("w",), lr=0.1, betas=(0.0, 0.95), weight_decay=0.5)
    expected = 0.1**2 * 2.0 / (1 - 0.95**2)
    assert plan.walk_variance(2000, group, recipe, 7.0, 2.0) == pytest.approx(expected)
    still = plan.Group("g", "adamw", ("w",), lr=0.1, betas=(0.0, 0.95))
    assert plan.walk_variance(10, still, recipe, 7.0, 2.0) == pytest.approx(7.0 + 10 * 0.1**2 * 2.0)


def test_a_walk_with_momentum_has_the_variance_of_simulated_ones():
    rng = np.random.default_rng(0)
    group = plan.Group("g", "adamw", ("w",), lr=0.05, betas=(0.9, 0.95), weight_decay=0.4)
    w = np.zeros(200_000)
    u = rng.normal(size=w.size)
    for step in range(60):
        lr = 0.05 * min(1.0, (60 - step) / 20)
        w = (1 - lr * 0.4) * w - lr * u
        u = 0.9 * u + math.sqrt(1 - 0.9**2) * rng.normal(size=w.size)
    recipe = small_recipe(schedule={"warmdown_iters": 20})
    assert plan.walk_variance(60, group, recipe, 0.0, 1.0) == pytest.approx(w.var(), rel=0.02)


def test_pr315_comes_out_at_its_published_size_whether_or_not_the_step_is_known():
    published = 15_525_821  # mean of three files
    known = values(load_recipe("pr315"), PUBLISHED_STEP_MS)
    assert known["predicted bytes: artifact"] == pytest.approx(published, rel=0.02)
    assert values(load_recipe("pr315"))["predicted bytes: artifact"] == pytest.approx(published, rel=0.1)
    assert known["steps in the budget"] == pytest.approx(7058, abs=7) and known["predicted bytes left"] > 0


@pytest.mark.parametrize(
    "published, steps, changes",
    [
        (15_590_308, 8061, {  # PR 332: mean of three
            "model": {"num_layers": 12, "mlp_hidden": 1408}, "quant": {"allocation": "gradient"},
            "optim": {"muon_wd_order": "after", "bigram_optimizer": "scalar"}}),
        (15_765_483, 7906, {  # PR 194: mean of the two with averaging
            "model": {"bigram_rows": 0, "ln_scale": False, "xsa_last_n": 0, "rope_dims": 64, "smear": "before"},
            "optim": {"embed_lr": 0.03, "matrix_lr": 0.02, "scalar_lr": 0.02, "adam_wd": 0.0, "muon_wd": 0.038},
            "quant": {"attention": "int6_row_clip", "mlp": "int6_row_clip", "tok_emb": "fp16"}}),
    ],
)  # fmt: skip
def test_what_was_fitted_to_one_record_predicts_others(published: int, steps: int, changes: dict):
    found = plan.predicted_bytes(like_pr315(**changes), steps)["bytes"].sum()
    assert found == pytest.approx(published, rel=0.04)


def test_absurd_but_allowed_recipes_are_planned_at_once():
    extreme = small_recipe(
        schedule={"iterations": 2**52}, optim={"matrix_lr": 1e150, "embed_lr": 0.0, "muon_momentum": 1.0}
    )
    assert values(extreme)["steps in the budget"] == 2**52
