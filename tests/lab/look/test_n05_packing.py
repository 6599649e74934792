"""What notebook 05 computes, against the packer itself, slow loops and cases worked out by hand."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import tiny_steps
import torch
from tiny_artifact import CAP, MODEL

from pgolf_core.base.bits import allocate_bits
from pgolf_core.lab.export import code_bytes_of
from pgolf_core.lab.look import n05_packing as analysis
from pgolf_core.lab.look.beside_records import records_with_rule, rule_table
from pgolf_core.lab.look.n02_network import codes_of, on_grids, size_estimate
from pgolf_core.lab.plan.bytes import predicted_bytes
from pgolf_core.network.choice import grid_names_for
from pgolf_core.network.grid import GRIDS, grid_of, quantise_tensor
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing.correction import Hessians
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import Groups
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes import recipe
from pgolf_core.recipes.reading import load_recipe

QUANT = recipe.Quant(small_tensor_elements=100)
HALVES = dataclasses.replace(QUANT, small_tensor_elements=10**9)
SHAPES = parameter_shapes(MODEL)
GRID_NAMES = grid_names_for(SHAPES, QUANT)
ALL_HALVES = dict.fromkeys(SHAPES, "fp16")
FC = "blocks.0.mlp.fc.weight"
PACKABLE = [name for name, grid in GRIDS.items() if grid.packable]


def some_weights(std: float = 0.2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * std for name, shape in SHAPES.items()}


WEIGHTS = some_weights()
WIDTHS = {name: w.shape[1] for name, w in WEIGHTS.items() if name.startswith("blocks.") and w.ndim == 2}
INPUTS = {name: np.random.default_rng(1).normal(size=(50, width)) for name, width in WIDTHS.items()}
HESSIANS = Hessians({name: torch.from_numpy(x.T @ x / 50).float() for name, x in INPUTS.items()}, 50)
BY_DEVIATIONS = dataclasses.replace(
    QUANT, attention="int6_sigma", mlp="int4_sigma", tok_emb="int8_sigma", clip_sigmas=3.0, embed_clip_sigmas=4.0,
    correction="hessian", correction_order="activation", compressor="brotli",
)  # fmt: skip
CORRECTED, CORRECTED_STEPS = (dataclasses.replace(one, correction="hessian") for one in (QUANT, tiny_steps.QUANT))
WAYS = {
    "grids": (QUANT, None, None),
    "corrected": (CORRECTED, HESSIANS, None),
    "by deviations, corrected by activation, brotli": (BY_DEVIATIONS, HESSIANS, None),
    "steps": (tiny_steps.QUANT, None, tiny_steps.tiny_groups()),
    "corrected steps": (CORRECTED_STEPS, HESSIANS, tiny_steps.tiny_groups()),
}


def packed(folder: Path, quant: recipe.Quant, **options) -> tuple:
    """The ledger of WEIGHTS packed that way, and what comes back."""
    ledger = pack(WEIGHTS, MODEL, quant, folder / "model.pgolf", **CAP | options)
    return ledger, unpack(folder / "model.pgolf")[1]


def test_the_grid_table_holds_every_tensor_and_weight_once() -> None:
    table = analysis.grid_table(SHAPES, GRID_NAMES)
    assert table["tensors"].sum() == len(SHAPES)
    assert table["weights"].sum() == sum(math.prod(shape) for shape in SHAPES.values())
    attention = table[table["part"] == "attention"].set_index("grid").loc["int6_row"]
    assert attention["codes"] == 64 and attention["floor"] == 1 / 31
    assert table.loc[table["grid"] == "fp16", ["codes", "floor"]].isna().all(axis=None)


@pytest.mark.parametrize("name", PACKABLE)
def test_codes_and_grid_lines_hold_all_that_a_grid_ever_uses(name: str) -> None:
    quant = dataclasses.replace(QUANT, clip_sigmas=1.5)
    grid = grid_of(FC, name, quant)
    used = set(quantise_tensor(torch.linspace(-40, 40, 10_000).expand(4, -1), grid)[0].unique().tolist())
    assert used <= set(codes_of(grid)) and len(used) >= len(codes_of(grid)) - 1
    w = torch.linspace(-0.9, 0.9, 40_001).expand(3, -1)
    q, scale = quantise_tensor(w, grid)
    lines = analysis.grid_lines({FC: w}, {FC: name}, "MLP", quant)
    assert np.abs(lines[:, None] - np.unique(q.numpy()) * float(scale[0])).min(axis=0).max() < 1e-6
    assert np.abs(lines).max() <= 0.9 + grid.step * float(scale[0])


def test_grid_lines_are_what_a_row_at_the_floor_can_take_and_the_neighbours_of_zero_for_the_smallest_weights() -> None:
    weights = some_weights(0.1)
    lines, step = analysis.grid_lines(weights, GRID_NAMES, "attention", QUANT), float(np.float16(1 / 31))
    assert np.allclose(np.diff(lines), step) and 0.0 in lines
    reach = max(float(weights[n].abs().max()) for n in weights if ".attn." in n and GRID_NAMES[n] != "fp16")
    assert abs(lines[-1] - reach) <= step
    lines = analysis.grid_lines({FC: torch.full((4, 8), 1e-4)}, {FC: "int6_row"}, "MLP", QUANT)
    assert len(lines) == 3 and lines[1] == 0


def test_the_floor_makes_small_rows_coarse_and_cheap_and_leaves_large_rows_alone() -> None:
    small, large = (analysis.floor_effect(some_weights(std), {FC: "int6_row"}, QUANT).iloc[0] for std in (0.05, 5.0))
    assert (small["rows_at_floor"], large["rows_at_floor"]) == (1, 0)
    assert small["step"] == pytest.approx(1 / 31, rel=1e-3)
    assert small["bits"] < small["bits_without"] and small["rms"] > small["rms_without"]
    assert (large["bits"], large["rms"]) == (large["bits_without"], large["rms_without"])


def test_floor_and_code_functions_say_nothing_where_nothing_is_on_a_grid() -> None:
    assert analysis.floor_effect(WEIGHTS, ALL_HALVES, QUANT).empty
    assert (
        analysis.weights_by_part(WEIGHTS, ALL_HALVES) == analysis.code_shares(WEIGHTS, ALL_HALVES, "MLP", QUANT) == {}
    )


def test_grids_side_by_side_hold_each_network_s_weights_once_and_no_bits_that_were_never_published() -> None:
    tables = {"mine": analysis.grid_table(SHAPES, GRID_NAMES)}
    tables |= {name: analysis.published_grid_table(load_recipe(name)) for name in ("pr531", "pr332")}
    table = analysis.grids_beside(tables)
    for label, each in tables.items():
        assert table[label, "tensors"].sum() == each["tensors"].sum()
        assert table[label, "weights"].sum() == pytest.approx(1)
    assert [table.loc[("MLP", "int5_row_nofloor"), (one, "tensors")] for one in ("mine", "pr531")] == [0, 22]
    assert table.loc[("attention", "fp16"), ("pr531", "tensors")] == 1, "its one exception"
    guided = tables["pr332"][tables["pr332"]["grid"] == "5, 6 or 7 bits"]
    assert guided["tensors"].sum() == 73 and guided["codes"].isna().all()  # 72 block matrices and the bigram table
    assert tables["pr332"].set_index("part").loc["token embedding", "grid"] == "int8_row_clip"


def test_exceptions_are_listed_with_what_each_of_them_decides() -> None:
    quant = dataclasses.replace(QUANT, exceptions=("blocks.0.*.weight=fp16", "*.c_k.weight=int8_row_clip"))
    table, names = analysis.exception_table(SHAPES, quant), grid_names_for(SHAPES, quant)
    assert table["pattern"].tolist() == ["blocks.0.*.weight", "*.c_k.weight"] and table["tensors"].tolist() == [6, 1]
    assert names["blocks.0.attn.c_k.weight"] == "fp16" and names["blocks.1.attn.c_k.weight"] == "int8_row_clip"
    assert analysis.exception_table(SHAPES, QUANT).empty


def test_weights_of_a_part_are_all_there_while_they_are_few_and_thinned_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = analysis.weights_by_part(WEIGHTS, GRID_NAMES)["MLP"]
    assert len(everything) == sum(w.numel() for name, w in WEIGHTS.items() if ".mlp." in name)
    monkeypatch.setattr(analysis, "MOST_DRAWN", 500)
    assert 500 <= len(analysis.weights_by_part(WEIGHTS, GRID_NAMES)["MLP"]) < 1000


def test_code_shares_count_every_code_of_a_part() -> None:
    ((grid, (codes, shares)),) = analysis.code_shares(WEIGHTS, GRID_NAMES, "MLP", QUANT).items()
    q = torch.cat([quantise_tensor(w, GRIDS[grid])[0].flatten() for name, w in WEIGHTS.items() if ".mlp." in name])
    assert grid == "int6_row" and codes.tolist() == list(range(int(q.min()), int(q.max()) + 1))
    assert shares.tolist() == pytest.approx([(q == code).double().mean().item() for code in codes])


@pytest.mark.parametrize("quant", [QUANT, HALVES], ids=["grids", "halves"])
def test_the_tables_bytes_add_up_to_the_ledger(quant: recipe.Quant, tmp_path: Path) -> None:
    ledger, _ = packed(tmp_path, quant)
    tensors, coder = analysis.tensor_table(ledger), analysis.coder_table(ledger)
    near = {"abs": 16 if quant is HALVES else 1e-3}  # an empty stream has a few bytes
    assert tensors["stored"].sum() == pytest.approx(ledger.weights_bytes, **near)
    assert coder["stored_bytes"].sum() == pytest.approx(ledger.weights_bytes, **near)
    assert tensors["scales"].sum() == pytest.approx(ledger.scales_bytes, **near)
    whole = tensors["stored"] + tensors["scales"]
    assert whole.is_monotonic_decreasing and len(tensors) == len(SHAPES)
    assert np.allclose(tensors["bits"], 8 * whole / tensors["weights"])
    assert coder["weights"].sum() == tensors["weights"].sum() and (quant is QUANT or coder["grid"].tolist() == ["fp16"])
    assert np.allclose(coder["loss"], coder["stored_bytes"] / coder["entropy_bytes"] - 1)


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_back_is_worked_out_again_and_any_other_bit_is_named(way: str, tmp_path: Path) -> None:
    quant, hessians, groups = WAYS[way]
    ledger, state = packed(tmp_path, quant, hessians=hessians, sensitivity=groups)
    grids, multiplier = grid_names_for(SHAPES, quant), ledger.steps["multiplier"] if ledger.steps else 0.0
    expected = analysis.expected_weights(WEIGHTS, grids, quant, hessians, groups, multiplier)
    spoiled = state | {FC: torch.nextafter(state[FC], torch.tensor(9.0))}
    fewer = {key: value for key, value in state.items() if key != FC}
    assert [analysis.mismatches(expected, one) for one in (state, spoiled, fewer)] == [[], [FC], [FC]]
    if hessians:
        plain = analysis.expected_weights(WEIGHTS, grids, quant, None, groups, multiplier)
        assert FC in analysis.mismatches(plain, state), "a correction changes what is rounded"


def test_promised_bits_are_half_the_log_of_arithmetic_over_geometric_mean():
    groups = {FC: Groups(np.array([1.0, 4.0]), np.full(3, 2.5)), "tok_emb.weight": Groups(np.zeros(2), np.zeros(2))}
    table = analysis.promised_bits(groups, groups)
    assert len(table) == 1 and table["columns"].iloc[0] == pytest.approx(0)
    assert [table["rows"].iloc[0], table.attrs["whole"]] == pytest.approx([0.5 * np.log2(2.5 / 2)] * 2)


def test_bits_by_sensitivity_is_the_core_s_rule_in_ascending_order() -> None:
    sensitivity = {name: float(value) for value, name in enumerate(reversed(list(SHAPES)))}
    table = analysis.bits_by_sensitivity(sensitivity)
    assert table["sensitivity"].is_monotonic_increasing and table["bits"].is_monotonic_increasing
    assert dict(zip(table["name"], table["bits"], strict=True)) == allocate_bits(sensitivity)
    assert analysis.bits_by_sensitivity({}).empty


def test_choices_differ_in_attention_and_mlp_alone() -> None:
    choices = analysis.packing_choices(QUANT, None, {FC: 1.0})
    assert choices["this recipe"] == (QUANT, None)
    for name in ("int5_row_clip", "int8_row_clip", "int5_row_nofloor"):
        assert choices[name] == (dataclasses.replace(QUANT, attention=name, mlp=name), None)
    assert choices["5/6/7 by gradient"][0].allocation == "gradient"
    assert "5/6/7 by gradient" not in analysis.packing_choices(QUANT, None, {})
    changed = dataclasses.replace(QUANT, exceptions=("blocks.0.*.weight=fp16",), correction="hessian")
    choices = analysis.packing_choices(changed, None, {FC: 1.0})
    excepted = [label for label, (quant, _) in choices.items() if quant.exceptions]
    assert excepted == ["this recipe", "rounded plainly"]
    assert [label for label, (quant, _) in choices.items() if quant.correction == "off"] == ["rounded plainly"]


def test_the_same_bytes_are_offered_as_steps_and_a_recipe_of_steps_is_its_own_row():
    by_brotli = dataclasses.replace(QUANT, compressor="brotli")  # which steps have no use for
    assert analysis.packing_choices(by_brotli, None, {}, 3000)["steps, as many bytes"][0].compressor == "zstd"
    choices = analysis.packing_choices(QUANT, None, {}, 3000)
    assert choices["steps, as many bytes"][0].target_bytes == 3000 and choices["this recipe"][0] == QUANT
    own = analysis.packing_choices(tiny_steps.QUANT, None, {}, 3000)
    assert "steps, as many bytes" not in own and own["this recipe"][0].kind == "steps"
    assert {quant.kind for label, (quant, _) in own.items() if label != "this recipe"} == {"grid"}
    both = {label: choices[label] for label in ("this recipe", "steps, as many bytes")}
    table = analysis.rate_distortion(WEIGHTS, MODEL, both, lambda state: 2.0, tiny_steps.tiny_groups())
    assert 2940 <= table["file_bytes"].iloc[2] <= 3000


def test_more_bits_take_more_bytes_and_less_error_and_each_packing_is_scored_from_its_file() -> None:
    weights, scored = some_weights(0.3), []
    choices = analysis.packing_choices(QUANT, None, dict.fromkeys(SHAPES, 1.0)) | {"halves": (HALVES, None)}
    table = analysis.rate_distortion(weights, MODEL, choices, lambda state: scored.append(state) or 2.0 + len(scored))
    clips = table.set_index("packing").loc[[f"int{bits}_row_clip" for bits in (5, 6, 7, 8)]]
    assert clips["file_bytes"].is_monotonic_increasing and clips["bits"].is_monotonic_increasing
    assert clips["rms"].is_monotonic_decreasing
    assert len(scored) == len(table) and table["bpb_lost"].tolist() == [float(i) for i in range(len(table))]
    assert not torch.equal(scored[1]["tok_emb.weight"], weights["tok_emb.weight"])
    assert table[["bits", "rms"]].iloc[-1].isna().all(), "without any grid there are no bits to speak of"


def test_notebooks_and_the_plan_show_named_grids_where_a_recipe_has_steps_and_its_file_fills_the_target():
    assert on_grids(tiny_steps.QUANT) == QUANT
    assert size_estimate(MODEL, tiny_steps.QUANT) == size_estimate(MODEL, QUANT)
    steps = load_recipe("local-pr315", ["quant.kind=steps"])
    assert rule_table({"mine": steps}).loc["attention", "mine"] == "steps by gradient"
    assert records_with_rule(steps.quant) == []
    sizes, counts = predicted_bytes(steps, 800), [math.prod(shape) for shape in parameter_shapes(steps.model).values()]
    assert sizes["bytes"].sum() + code_bytes_of(steps) == pytest.approx(999_000, abs=8)
    assert sizes.loc["steps", "weights"] == sum(count for count in counts if count > 4096)
