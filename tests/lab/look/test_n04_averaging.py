"""What notebook 04 computes, against the core, the packed file and slow loops."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small import column, noisy_model, small_data, small_recipe

from pgolf_core.lab.look import n04_averaging as averaging
from pgolf_core.network.choice import grid_names_for, qat_grids
from pgolf_core.network.grid import GRIDS, Grid, dequantise, quantise_tensor
from pgolf_core.network.model import GPT, build_model, num_parameters, parameter_shapes
from pgolf_core.network.score import Score, score
from pgolf_core.packing.pack import pack
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes import recipe
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.text.shards import load_tokens
from pgolf_core.training.average import build_average
from pgolf_core.training.loop import train

SMALL = {
    "small": small_recipe(),
    "value embedding": small_recipe(model={"ve_dim": 8, "ve_layers": [1]}),
    "plain": small_recipe(model={"bigram_rows": 0, "smear": "off", "num_layers": 1, "xsa_last_n": 0}),
}
FC = "blocks.0.mlp.fc.weight"


def grids_of(settings: recipe.Recipe) -> tuple[dict[str, str], dict[str, Grid]]:
    """The grids on which a recipe's tensors are packed, and those on which QAT would train them."""
    shapes = parameter_shapes(settings.model)
    return grid_names_for(shapes, settings.quant), qat_grids(shapes, settings.quant, settings.qat)


def weights_of(settings: recipe.Recipe, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a network in which nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    model = build_model(settings.model, seed)
    return {name: p.detach() + 0.1 * torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


@pytest.fixture
def score_of(tmp_path: Path):
    """Call it with a seed and max_targets: the score of the seed's initial weights on the small validation split."""
    data = small_data(tmp_path / "data")
    tokens = load_tokens(data.val_paths)

    def scored(seed: int, max_targets: int = 0) -> Score:
        model = build_model(SMALL["small"].model, seed)
        return score(model, tokens, data.token_bytes, 16, 16, 4, autocast="off", max_targets=max_targets)

    scored.tokens, scored.bytes = tokens, data.token_bytes
    return scored


@pytest.mark.parametrize("kind", ["ema", "swa", "none"])
def test_the_weights_of_the_steps_rebuild_the_average_that_training_keeps(kind: str):
    settings = recipe.Average(kind=kind, ema_decay=0.7, swa_start=0.6, swa_every_steps=2)
    model = torch.nn.Linear(3, 2)
    kept = build_average(model, settings)
    seen, multipliers = [model.weight.detach().clone()], [1.0, 1.0, 0.8, 0.5, 0.4, 0.3, 0.1]
    for step, multiplier in enumerate(multipliers, start=1):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        kept.update(model, step, multiplier)
        seen.append(model.weight.detach().clone())
    table = averaging.step_weights(settings, multipliers)
    assert table["weight"].sum() == pytest.approx(1) and table["step"].tolist() == list(range(8))
    rebuilt = sum(weight * tensor for weight, tensor in zip(table["weight"], seen, strict=True))
    assert torch.allclose(rebuilt, kept.result(model)["weight"], atol=1e-5)
    without = averaging.step_weights(recipe.Average(kind="swa", swa_every_steps=50), [0.1] * 10)
    assert without["weight"].tolist() == [0.0] * 10 + [1.0], "no snapshot: the last weights"


def test_the_logged_rates_give_back_the_schedule_and_the_step_at_which_rounding_came_on():
    plain = [1.0, 1.0, 0.8, 0.5, 0.4, 0.45, 0.2]
    late = recipe.QAT(kind="late", threshold=0.5, lr_factor=0.5)
    logged = plain[:4] + [rate / 2 for rate in plain[4:]]
    assert averaging.qat_since(late, logged) == 5
    assert averaging.schedule_multipliers(late, logged) == pytest.approx(plain)
    for qat, since in ((recipe.QAT(), None), (recipe.QAT(kind="always"), 1), (recipe.QAT(kind="late"), None)):
        assert averaging.qat_since(qat, plain) == since
        assert averaging.schedule_multipliers(qat, plain).tolist() == plain


@pytest.mark.parametrize("kind", ["off", "always", "late"])
def test_the_step_that_the_trainer_logs_is_the_one_found(kind: str, tmp_path: Path):
    qat = {"kind": kind, "threshold": 0.6} | ({"lr_factor": 0.5} if kind == "late" else {})
    settings = small_recipe(qat=qat, average={"kind": "swa", "swa_start": 0.8, "swa_every_steps": 1})
    train(settings, 1, small_data(tmp_path / "data"), tmp_path)
    found = re.search(r"^qat:enabled.*step:(\d+)", (tmp_path / "train.log").read_text(), re.MULTILINE)
    rates = column(tmp_path, "lr_multiplier")
    assert averaging.qat_since(settings.qat, rates) == (int(found[1]) + 1 if found else None)  # it counts steps done
    assert averaging.schedule_multipliers(settings.qat, rates)[-6:] * 6 == pytest.approx([6, 5, 4, 3, 2, 1])


def test_numbers_of_an_average_are_those_of_hand_worked_cases():
    even = averaging.average_numbers(pd.DataFrame({"step": range(5), "weight": [0, 0.25, 0.25, 0.25, 0.25]}))
    assert even["mean age (steps)"] == 1.5 and even["effective number of steps"] == pytest.approx(4)
    assert even["weight of the last tenth of the steps"] == 0.25
    long = averaging.average_numbers(averaging.step_weights(recipe.Average(ema_decay=0.97), [1.0] * 2000))
    assert long["mean age (steps)"] == pytest.approx(0.97 / 0.03, rel=1e-6)
    assert long["effective number of steps"] == pytest.approx((1 + 0.97) / (1 - 0.97), rel=1e-6)


@pytest.mark.parametrize("name", ["local-smoke", "pr315", "pr332"])
def test_a_part_is_whole_windows_or_everything(name: str):
    config, length = load_recipe(name).model, load_recipe(name).eval.seq_len
    part = averaging.affordable_targets(296_858, num_parameters(config), config.vocab_size, length, "cpu")
    assert part == 296_858 or (part % length == 0 and part > 0)
    assert averaging.affordable_targets(62_021_632, 26_829_913, 1024, 2048, "cuda") == 62_021_632


def test_the_first_windows_of_a_score_are_the_score_of_the_first_windows(score_of):
    whole, part = score_of(3), score_of(3, max_targets=64)
    first = [averaging.bpb_of_first(whole, score_of.tokens, score_of.bytes, n) for n in (64, whole.tokens)]
    assert first == pytest.approx([part.bpb, whole.bpb], rel=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
def test_a_sample_taken_out_of_a_score_is_the_sample_scored_by_itself(score_of, share: float):
    whole = score_of(4)
    sample = averaging.spread_sample(score_of.tokens, score_of.bytes, whole.tokens, 16, share)
    assert sample.num_targets == max(round(share * (whole.tokens // 16)), 1) * 16
    assert len(set(sample.windows)) == len(sample.windows) and sample.windows.max() < whole.tokens // 16
    model = build_model(SMALL["small"].model, 4)
    assert sample.bpb_of_model(model, 3, "off", False) == pytest.approx(sample.bpb_of_score(whole), rel=1e-6)
    short = averaging.spread_sample(score_of.tokens, score_of.bytes, 7, 16, share)
    assert short.num_targets == 7 and short.windows.tolist() == [0], "a split shorter than a window is one sample"


def test_a_sample_is_scored_inside_documents_where_the_whole_is(score_of):
    model, tokens, sizes = noisy_model(), score_of.tokens, score_of.bytes
    found = {}
    for is_masked in (False, True):
        whole = score(model, tokens, sizes, 16, 16, 4, autocast="off", document_mask=is_masked)
        sample = averaging.spread_sample(tokens, sizes, whole.tokens, 16, 1.0)
        found[is_masked] = sample.bpb_of_model(model, 3, "off", is_masked)
        assert found[is_masked] == pytest.approx(sample.bpb_of_score(whole), rel=1e-6)
    assert abs(found[True] - found[False]) > 1e-3


def test_a_paired_difference_and_its_error_are_those_of_window_sums(score_of):
    one, other = score_of(1), score_of(2)
    gap, error = averaging.paired_difference(one, other)
    assert gap == pytest.approx(one.bpb - other.bpb)
    apart = one.per_token_nats - other.per_token_nats
    sums = [float(apart[i : i + 16].sum()) for i in range(0, one.tokens, 16)]
    assert error == pytest.approx(np.std(sums, ddof=1) * math.sqrt(len(sums)) / (math.log(2) * one.bytes), rel=1e-4)
    assert averaging.paired_difference(one, one) == (0, 0)


def test_the_line_passes_through_both_ends_and_distances_are_relative():
    raw, averaged = weights_of(SMALL["small"], 0), weights_of(SMALL["small"], 1)
    for place, end in ((0.0, raw), (1.0, averaged)):
        assert all(torch.allclose(w, end[name], atol=1e-6) for name, w in averaging.blend(raw, averaged, place).items())
    doubled = {name: 2 * tensor for name, tensor in raw.items()}
    assert averaging.total_distance(raw, doubled) == pytest.approx(1) and averaging.total_distance(raw, raw) == 0
    assert np.allclose(averaging.distance_table(raw, doubled)["relative"], 1)


def test_lines_by_layer_hold_every_block_matrix_once_but_none_without_a_value():
    weights = weights_of(SMALL["small"])
    lines = averaging.lines_by_layer(averaging.distance_table(weights, weights), "relative")
    assert len(lines) == 6 and all(layers.tolist() == [0, 1, 2] for layers, _ in lines.values())
    weights[FC].zero_()
    lines = averaging.lines_by_layer(averaging.distance_table(weights, weights), "relative")
    assert sorted(len(layers) for layers, _ in lines.values()) == [2, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("small_tensor_elements", [0, 100, 10**6])
def test_rounded_weights_are_those_that_come_back_from_the_file(name: str, small_tensor_elements: int, tmp_path: Path):
    settings = SMALL[name]
    settings = dataclasses.replace(settings, quant=recipe.Quant(small_tensor_elements=small_tensor_elements))
    weights, (names, _), path = weights_of(settings), grids_of(settings), tmp_path / "model.pgolf"
    pack(weights, settings.model, settings.quant, path, code_bytes=0, cap_bytes=10**7)
    _, back = unpack(path)
    mine = averaging.rounded(weights, names, recipe.Quant())
    assert mine.keys() == back.keys() and all(torch.equal(mine[one], back[one]) for one in back)
    table = averaging.rounding_table(weights, names, recipe.Quant()).set_index("tensor")
    errors = {one: ((back[one] - weights[one]).norm() / weights[one].norm()).item() for one in back}
    assert table["error"].to_dict() == pytest.approx(errors, nan_ok=True) and table["grid"].to_dict() == names


@pytest.mark.parametrize("grid", [name for name, grid in GRIDS.items() if grid.packable])
def test_fake_and_packed_grid_are_one_and_a_difference_is_named(grid: str, monkeypatch: pytest.MonkeyPatch):
    settings = small_recipe(quant={"attention": grid, "mlp": grid, "tok_emb": grid, "other": grid})
    weights = weights_of(settings)
    grids = averaging.matrix_grids(weights, settings.quant)
    assert grids.keys() == {name for name in weights if name.endswith(".weight")}
    assert averaging.fake_differs_from_packed(weights, grids) == []
    with pytest.raises(AssertionError, match="no float16 scales"):
        averaging.fake_differs_from_packed(weights, {FC: GRIDS["int6_fake_pr194"]})
    monkeypatch.setattr(averaging, "fake_quantise", lambda w, grid: w)
    assert averaging.fake_differs_from_packed(weights, grids) == list(grids)


def test_exceptions_hold_for_matrices_and_a_vector_s_exception_is_no_obstacle():
    weights = weights_of(SMALL["small"])
    exceptions = ("blocks.1.attn.c_k.weight=fp16", "blocks.0.*.weight=int8_clip_search", "skip_weights=fp16")
    quant = dataclasses.replace(SMALL["small"].quant, exceptions=exceptions)
    grids = averaging.matrix_grids(weights, quant)
    assert "blocks.1.attn.c_k.weight" not in grids and grids["blocks.2.mlp.fc.weight"].name == quant.mlp
    assert {grids[name].name for name in grids if name.startswith("blocks.0.")} == {"int8_clip_search"}


def test_training_on_the_packed_grid_has_no_gap_and_on_another_it_is_measured():
    settings = small_recipe(quant={"mlp": "int5_row_nofloor", "other": "int6_row"})
    weights, (packed, trained) = weights_of(settings), grids_of(settings)
    assert averaging.grid_gap(weights, trained, packed, recipe.Quant()).empty
    other = dataclasses.replace(settings, qat=recipe.QAT(kind="late", grid="int6_row"))
    gap = averaging.grid_gap(weights, grids_of(other)[1], packed, recipe.Quant()).set_index("kind")
    assert gap.index.tolist() == ["MLP: up", "MLP: down"] and (gap["matrices"] == 3).all()
    w = torch.cat([weights[f"blocks.{layer}.mlp.fc.weight"] for layer in range(3)])  # rows are rounded each by itself
    seen, back = (dequantise(*quantise_tensor(w, GRIDS[grid])) for grid in ("int6_row", "int5_row_nofloor"))
    assert gap.loc["MLP: up", "distance"] == pytest.approx(((seen - back).norm() / w.norm()).item(), rel=1e-5)
    half_steps = quantise_tensor(w, GRIDS["int5_row_nofloor"])[1].float()[:, None] / 2
    assert gap.loc["MLP: up", "other"] == pytest.approx(((seen - back).abs() > half_steps).double().mean().item())


@pytest.mark.parametrize("grid", ["int6_fake_pr194", "int6_fake_pr534"])
def test_a_grid_that_no_artifact_holds_can_be_looked_at(grid: str):
    settings = small_recipe(qat={"kind": "always", "grid": grid})
    weights, (packed, trained) = weights_of(settings), grids_of(settings)
    assert {each.name for each in trained.values()} == {grid}
    probe, _, _ = probe_of(settings, trained)
    assert len(probe.cosines) and probe.qat_loss == probe.rounded_loss != probe.plain_loss
    gap = averaging.grid_gap(weights, trained, packed, recipe.Quant())
    assert len(gap) and not gap["kind"].isin(["token embedding", "bigram table"]).any()


IDS = np.random.default_rng(2).integers(64, size=100).astype(np.uint16)


def probe_of(settings: recipe.Recipe, grids: dict) -> tuple[averaging.QatProbe, GPT, dict]:
    weights = weights_of(settings)
    model = build_model(settings.model, 0).eval()
    model.load_state_dict(weights)
    return averaging.probe_qat(model, grids, IDS, 4, 16, "off"), model, weights


@pytest.mark.parametrize("name", SMALL)
def test_rounding_in_the_forward_pass_is_rounding_beforehand_and_leaves_the_network_alone(name: str):
    settings = SMALL[name]
    probe, model, weights = probe_of(settings, averaging.matrix_grids(weights_of(settings), settings.quant))
    assert probe.qat_loss == probe.rounded_loss != probe.plain_loss
    assert len(probe.cosines) and "tok_emb.weight" not in set(probe.cosines["tensor"])
    assert probe.cosines["cosine"].between(-1.0001, 1.0001).all() and probe.cosines["cosine"].mean() > 0.5
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, weights[one]) for one, p in model.named_parameters())
    assert all(module.grid is None for module in model.modules() if hasattr(module, "grid"))
    bare, _, _ = probe_of(settings, {})
    assert bare.cosines.empty and bare.plain_loss == bare.qat_loss == bare.rounded_loss == probe.plain_loss


def test_cosines_compare_the_gradients_of_the_plain_and_the_rounded_network():
    settings = SMALL["small"]
    grids = averaging.matrix_grids(weights_of(settings), settings.quant)
    probe, model, weights = probe_of(settings, grids)
    inputs, targets = (torch.from_numpy(IDS[a : a + 64].astype(np.int64)).view(4, 16) for a in (0, 1))
    inside, gradients = set(probe.cosines["tensor"]), []
    back = {one: dequantise(*quantise_tensor(w, grids[one])) if one in inside else w for one, w in weights.items()}
    for state in (weights, back):
        model.load_state_dict(state)
        model.zero_grad()
        model(inputs, targets).backward()
        gradients.append(model.get_parameter(FC).grad.flatten().clone())
    expected = torch.nn.functional.cosine_similarity(*gradients, dim=0).item()
    assert probe.cosines.set_index("tensor").loc[FC, "cosine"] == pytest.approx(expected, abs=1e-5)


def test_the_qat_probe_never_has_the_logits_of_more_than_one_sequence(monkeypatch: pytest.MonkeyPatch):
    forward, rows = GPT.forward, []
    monkeypatch.setattr(GPT, "forward", lambda *given: rows.append(len(given[1])) or forward(*given))
    probe_of(SMALL["small"], {})
    assert rows == [1] * 12, "three passes over four"
