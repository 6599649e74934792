"""What notebooks and the plan say of recipes with steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_artifact import MODEL, tiny_state
from tiny_steps import CAP, QUANT, tiny_groups

from pgolf_core.lab.export import code_bytes_of
from pgolf_core.lab.look import n02_network as analysis_model
from pgolf_core.lab.look import n05_packing as analysis_packing
from pgolf_core.lab.look.beside_records import records_with_rule, rule_table
from pgolf_core.lab.plan import bytes as plan_bytes
from pgolf_core.network.grid import grid_names_for
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import Groups
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes import recipe
from pgolf_core.recipes.reading import load_recipe

SHAPES = {name: tuple(w.shape) for name, w in tiny_state().items()}


def test_a_file_of_steps_is_worked_out_again_bit_for_bit_from_weights_and_multiplier(tmp_path: Path):
    ledger = pack(tiny_state(), MODEL, QUANT, tmp_path / "m", sensitivity=tiny_groups(), **CAP)
    grids, state = grid_names_for(SHAPES, QUANT), unpack(tmp_path / "m")[1]
    multiplier = ledger.steps["multiplier"]
    expected = analysis_packing.expected_weights(tiny_state(), grids, QUANT, None, tiny_groups(), multiplier)
    assert analysis_packing.mismatches(expected, state) == []
    state["tok_emb.weight"][0, 0] += 1e-3
    assert analysis_packing.mismatches(expected, state) == ["tok_emb.weight"]


def test_promised_bits_are_half_the_log_of_arithmetic_over_geometric_mean():
    groups = {"blocks.0.mlp.fc.weight": Groups(np.array([1.0, 4.0]), np.full(3, 2.5)),
              "tok_emb.weight": Groups(np.zeros(2), np.zeros(2))}  # fmt: skip
    table = analysis_packing.promised_bits(groups, groups)
    assert len(table) == 1 and table["columns"].iloc[0] == pytest.approx(0)
    assert table["rows"].iloc[0] == pytest.approx(0.5 * np.log2(2.5 / 2))
    assert table.attrs["whole"] == pytest.approx(0.5 * np.log2(2.5 / 2))


def test_the_same_bytes_are_offered_as_steps_and_a_recipe_of_steps_is_its_own_row(tmp_path: Path):
    grid = recipe.Quant(small_tensor_elements=100)
    choices = analysis_packing.packing_choices(grid, None, {}, 3000)
    assert choices["steps, as many bytes"][0].target_bytes == 3000 and choices["this recipe"][0] == grid
    own = analysis_packing.packing_choices(QUANT, None, {}, 3000)
    assert "steps, as many bytes" not in own and own["this recipe"][0].kind == "steps"
    assert {quant.kind for label, (quant, _) in own.items() if label != "this recipe"} == {"grid"}
    table = analysis_packing.rate_distortion(
        tiny_state(), MODEL, {label: choices[label] for label in ("this recipe", "steps, as many bytes")},
        lambda state: float(torch.cat([w.flatten() for w in state.values()]).square().mean()), tiny_groups(),
    )  # fmt: skip
    assert 2940 <= table["file_bytes"].iloc[2] <= 3000


def test_notebooks_show_named_grids_where_a_recipe_has_steps():
    assert analysis_model.on_grids(QUANT) == recipe.Quant(small_tensor_elements=100)
    assert analysis_model.size_estimate(MODEL, QUANT) == analysis_model.size_estimate(
        MODEL, recipe.Quant(small_tensor_elements=100)
    )
    steps = load_recipe("local-pr315", ["quant.kind=steps"])
    assert rule_table({"mine": steps}).loc["attention", "mine"] == "steps by gradient"
    assert records_with_rule(steps.quant) == []


def test_a_recipe_of_steps_is_predicted_to_fill_its_target():
    steps = load_recipe("local-pr315", ["quant.kind=steps"])
    sizes = plan_bytes.predicted_bytes(steps, 800)
    assert sizes["bytes"].sum() + code_bytes_of(steps) == pytest.approx(999_000, abs=8)
    assert sizes.loc["steps", "weights"] == sum(
        np.prod(shape) for shape in analysis_model.parameter_shapes(steps.model).values() if np.prod(shape) > 4096
    )
