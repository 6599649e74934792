"""What notebook 05 computes, against the packer itself, slow loops and cases worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from pgolf_core.lab.look import n05_packing as analysis
from pgolf_core.network.grid import GRIDS, grid_names_for, quantise_tensor
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing.ledger import Ledger
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import allocate_bits
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes import recipe
from pgolf_core.recipes.reading import load_recipe

MODEL = recipe.Model(
    vocab_size=48, num_layers=2, model_dim=32, num_heads=2, num_kv_heads=1, mlp_hidden=64, rope_dims=4, bigram_rows=33,
    bigram_dim=8,
)  # fmt: skip
QUANT = recipe.Quant(small_tensor_elements=300)
SHAPES = parameter_shapes(MODEL)
GRID_NAMES = grid_names_for(SHAPES, QUANT)
ALL_HALVES = dict.fromkeys(SHAPES, "fp16")


def some_weights(std: float = 0.2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * std for name, shape in SHAPES.items()}


WEIGHTS = some_weights()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ledger, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("packed") / "model.pgolf"
    ledger = pack(WEIGHTS, MODEL, QUANT, path, code_bytes=100, cap_bytes=10**6)
    return ledger, unpack(path)[1]


def test_the_grid_table_holds_every_tensor_and_weight_once() -> None:
    table = analysis.grid_table(SHAPES, GRID_NAMES)
    assert table["tensors"].sum() == len(SHAPES)
    assert table["weights"].sum() == sum(math.prod(shape) for shape in SHAPES.values())
    attention = table[table["part"] == "attention"].set_index("grid").loc["int6_row"]
    assert attention["codes"] == 64 and attention["floor"] == 1 / 31
    halves = table[table["grid"] == "fp16"]
    assert halves["codes"].isna().all() and halves["floor"].isna().all()


@pytest.mark.parametrize("name", [name for name, grid in GRIDS.items() if grid.packable])
def test_a_grid_s_number_of_codes_covers_all_that_it_ever_uses(name: str) -> None:
    grid = GRIDS[name]
    q, _ = quantise_tensor(torch.linspace(-40, 40, 40_000).reshape(4, -1), grid)
    shapes, names = {"blocks.0.mlp.fc.weight": (4, 10_000)}, {"blocks.0.mlp.fc.weight": name}
    used = {int(code) for code in q.unique()}
    assert used <= set(analysis.codes_of(grid).tolist())
    assert analysis.grid_table(shapes, names)["codes"].item() >= len(used) >= len(analysis.codes_of(grid)) - 1


def test_the_floor_makes_small_rows_coarse_and_cheap_and_leaves_large_rows_alone() -> None:
    name = "blocks.0.attn.c_q.weight"
    for std, share in ((0.05, 1.0), (5.0, 0.0)):
        row = analysis.floor_effect(some_weights(std), {name: "int6_row"}).iloc[0]
        assert row["rows_at_floor"] == share
        if share:
            assert row["step"] == pytest.approx(1 / 31, rel=1e-3)
            assert row["bits"] < row["bits_without"] and row["rms"] > row["rms_without"]
        else:
            assert (row["bits"], row["rms"]) == (row["bits_without"], row["rms_without"])


def test_floor_and_code_functions_say_nothing_where_nothing_is_on_a_grid() -> None:
    assert analysis.floor_effect(WEIGHTS, ALL_HALVES).empty
    assert analysis.weights_by_part(WEIGHTS, ALL_HALVES) == {}
    assert analysis.code_shares(WEIGHTS, ALL_HALVES, "MLP") == {}


def test_grid_lines_are_the_values_that_a_row_at_the_floor_can_take() -> None:
    weights = some_weights(0.1)
    lines = analysis.grid_lines(weights, GRID_NAMES, "attention")
    step = float(np.float16(1 / 31))
    assert np.allclose(np.diff(lines), step) and 0.0 in lines
    reach = max(float(weights[n].abs().max()) for n in weights if ".attn." in n and GRID_NAMES[n] != "fp16")
    assert abs(lines[-1] - reach) <= step


@pytest.mark.parametrize("grid", [name for name, grid in GRIDS.items() if grid.packable])
def test_grid_lines_hold_every_value_that_rows_of_one_scale_take(grid: str) -> None:
    name = "blocks.0.mlp.fc.weight"
    w = torch.linspace(-0.9, 0.9, 40_001).expand(3, -1)
    q, scale = quantise_tensor(w, GRIDS[grid])
    lines = analysis.grid_lines({name: w}, {name: grid}, "MLP")
    taken = np.unique(q.numpy()) * float(scale[0])
    assert np.abs(lines[:, None] - taken).min(axis=0).max() < 1e-6
    assert np.abs(lines).max() <= 0.9 + GRIDS[grid].step * float(scale[0])


def test_weights_smaller_than_a_step_have_the_grid_s_neighbours_of_zero() -> None:
    name = "blocks.0.mlp.fc.weight"
    lines = analysis.grid_lines({name: torch.full((4, 8), 1e-4)}, {name: "int6_row"}, "MLP")
    assert len(lines) == 3 and lines[1] == 0


def test_grids_side_by_side_hold_each_network_s_weights_once() -> None:
    record = load_recipe("pr531")
    tables = {"mine": analysis.grid_table(SHAPES, GRID_NAMES), "pr531": analysis.published_grid_table(record)}
    table = analysis.grids_beside(tables)
    for label, each in tables.items():
        assert table[label, "tensors"].sum() == each["tensors"].sum()
        assert table[label, "weights"].sum() == pytest.approx(1)
    assert table.loc[("MLP", "int5_row_nofloor"), ("mine", "tensors")] == 0
    assert table.loc[("MLP", "int5_row_nofloor"), ("pr531", "tensors")] == 22
    assert table.loc[("attention", "fp16"), ("pr531", "tensors")] == 1, "its one exception"


def test_bits_that_were_never_published_are_not_made_up() -> None:
    table = analysis.published_grid_table(load_recipe("pr332"))
    guided = table[table["grid"] == "5, 6 or 7 bits"]
    assert guided["tensors"].sum() == 73 and guided["codes"].isna().all()  # 72 block matrices and the bigram table
    assert table.set_index("part").loc["token embedding", "grid"] == "int8_row_clip"


def test_exceptions_are_listed_with_what_each_of_them_decides() -> None:
    quant = dataclasses.replace(QUANT, exceptions=("blocks.0.*.weight=fp16", "*.c_k.weight=int8_row_clip"))
    table = analysis.exception_table(SHAPES, quant)
    assert table["pattern"].tolist() == ["blocks.0.*.weight", "*.c_k.weight"]
    assert table["tensors"].tolist() == [6, 1]
    names = grid_names_for(SHAPES, quant)
    assert names["blocks.0.attn.c_k.weight"] == "fp16" and names["blocks.1.attn.c_k.weight"] == "int8_row_clip"
    assert analysis.exception_table(SHAPES, QUANT).empty


def test_weights_of_a_part_are_all_there_while_they_are_few_and_thinned_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = analysis.weights_by_part(WEIGHTS, GRID_NAMES)["MLP"]
    assert len(everything) == sum(w.numel() for name, w in WEIGHTS.items() if ".mlp." in name)
    monkeypatch.setattr(analysis, "MOST_DRAWN", 500)
    assert 500 <= len(analysis.weights_by_part(WEIGHTS, GRID_NAMES)["MLP"]) < 1000


def test_code_shares_count_every_code_of_a_part(packed: tuple) -> None:
    ((grid, (codes, shares)),) = analysis.code_shares(WEIGHTS, GRID_NAMES, "MLP").items()
    assert grid == "int6_row" and shares.sum() == pytest.approx(1)
    q = torch.cat([quantise_tensor(w, GRIDS[grid])[0].flatten() for name, w in WEIGHTS.items() if ".mlp." in name])
    assert shares[list(codes).index(0)] == pytest.approx((q == 0).double().mean().item())


def test_the_tensors_bytes_add_up_to_the_ledger(packed: tuple) -> None:
    ledger, _ = packed
    table = analysis.tensor_table(ledger)
    assert table["stored"].sum() == pytest.approx(ledger.weights_bytes)
    assert table["scales"].sum() == pytest.approx(ledger.scales_bytes)
    whole = table["stored"] + table["scales"]
    assert whole.is_monotonic_decreasing and len(table) == len(SHAPES)
    assert np.allclose(table["bits"], 8 * whole / table["weights"])


def test_the_coder_s_table_adds_up_to_the_ledger_s_weights(packed: tuple) -> None:
    ledger, _ = packed
    table = analysis.coder_table(ledger)
    assert table["stored_bytes"].sum() == ledger.weights_bytes and table["weights"].sum() == sum(
        tensor["elements"] for tensor in ledger.tensors
    )
    assert np.allclose(table["loss"], table["stored_bytes"] / table["entropy_bytes"] - 1)


def test_a_model_that_is_all_halves_has_its_tables_too(tmp_path) -> None:
    quant = dataclasses.replace(QUANT, small_tensor_elements=10**9)
    ledger = pack(WEIGHTS, MODEL, quant, tmp_path / "model.pgolf", code_bytes=0, cap_bytes=10**6)
    assert analysis.coder_table(ledger)["grid"].tolist() == ["fp16"]
    assert analysis.tensor_table(ledger)["scales"].sum() == 0


def test_what_comes_back_from_the_file_is_the_dequantised_weights_and_any_other_bit_is_named(packed: tuple) -> None:
    expected, name = analysis.expected_weights(WEIGHTS, GRID_NAMES, QUANT), "blocks.1.mlp.fc.weight"
    spoiled = packed[1] | {name: torch.nextafter(packed[1][name], torch.tensor(9.0))}
    fewer = {key: value for key, value in packed[1].items() if key != name}
    assert [analysis.mismatches(expected, state) for state in (packed[1], spoiled, fewer)] == [[], [name], [name]]


def test_bits_by_sensitivity_is_the_core_s_rule_in_ascending_order() -> None:
    sensitivity = {name: float(value) for value, name in enumerate(reversed(list(SHAPES)))}
    table = analysis.bits_by_sensitivity(sensitivity)
    assert table["sensitivity"].is_monotonic_increasing and table["bits"].is_monotonic_increasing
    assert dict(zip(table["name"], table["bits"], strict=True)) == allocate_bits(sensitivity)
    assert analysis.bits_by_sensitivity({}).empty


def test_choices_differ_in_attention_and_mlp_alone() -> None:
    choices = analysis.packing_choices(QUANT, None, {"blocks.0.mlp.fc.weight": 1.0})
    assert choices["this recipe"] == (QUANT, None)
    for name in ("int5_row_clip", "int8_row_clip", "int5_row_nofloor"):
        quant, bits = choices[name]
        assert bits is None and (quant.attention, quant.mlp) == (name, name)
        assert dataclasses.replace(quant, attention=QUANT.attention, mlp=QUANT.mlp) == QUANT
    assert choices["5/6/7 by gradient"][0].allocation == "gradient"
    excepted = dataclasses.replace(QUANT, exceptions=("blocks.0.*.weight=fp16",))
    choices = analysis.packing_choices(excepted, None, {"blocks.0.mlp.fc.weight": 1.0})
    assert [bool(quant.exceptions) for quant, _ in choices.values()] == [True] + [False] * (len(choices) - 1)
    assert "5/6/7 by gradient" not in analysis.packing_choices(QUANT, None, {})


def test_more_bits_take_more_bytes_and_less_error_and_each_packing_is_scored_from_its_file() -> None:
    weights, scored = some_weights(0.3), []

    def bpb_of(state: dict[str, torch.Tensor]) -> float:
        scored.append(state)
        return 2.0 + len(scored)

    choices = analysis.packing_choices(QUANT, None, dict.fromkeys(SHAPES, 1.0))
    table = analysis.rate_distortion(weights, MODEL, choices, bpb_of).set_index("packing")
    clips = table.loc[[f"int{bits}_row_clip" for bits in (5, 6, 7, 8)]]
    assert clips["file_bytes"].is_monotonic_increasing and clips["bits"].is_monotonic_increasing
    assert clips["rms"].is_monotonic_decreasing
    assert len(scored) == len(table) and table["bpb_lost"].tolist() == [float(i) for i in range(len(table))]
    assert not torch.equal(scored[1]["tok_emb.weight"], weights["tok_emb.weight"])


def test_packings_without_any_grid_have_no_bits_to_speak_of() -> None:
    choice = {"halves": (dataclasses.replace(QUANT, small_tensor_elements=10**9), None)}
    row = analysis.rate_distortion(WEIGHTS, MODEL, choice, lambda state: 2.0).iloc[1]
    assert np.isnan(row["bits"]) and np.isnan(row["rms"]) and row["bpb_lost"] == 0
