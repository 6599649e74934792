"""What notebook 03 computes, against the core and against numbers worked out by hand."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from refused import refused
from small import small_data, small_recipe

from pgolf_core.lab.look import n03_training as training
from pgolf_core.network.model import GPT, build_model, parameter_shapes
from pgolf_core.recipes import recipe
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.rules import CHOICES
from pgolf_core.text.batches import open_stream
from pgolf_core.text.shards import step_batch
from pgolf_core.training.loop import train
from pgolf_core.training.optim import newton_schulz
from pgolf_core.training.progress import training_curve
from pgolf_core.training.runlog import PARTS

WITH_VALUES = {"model": {"ve_dim": 8, "ve_layers": [1]}}
RECIPES = {
    "small": small_recipe(),
    "value embedding": small_recipe(**WITH_VALUES),
    "packed documents": small_recipe(data={"order": "packed"}, optim={"muon_coefficients": "polar_express"}),
    "frozen value embedding": small_recipe(**WITH_VALUES, optim={"ve_frozen": True}),
    "plain": small_recipe(model={"bigram_rows": 0, "smear": "off", "num_layers": 1, "xsa_last_n": 0}),
    "local-smoke": load_recipe("local-smoke"),
    **{name: load_recipe(name) for name in ("pr194", "pr315", "pr332", "pr531", "pr534", "pr534-as-run")},
}
SMALL = [name for name in RECIPES if name != "local-smoke" and not name.startswith("pr")]


@pytest.mark.parametrize("name", SMALL)
def test_after_the_probe_steps_every_matrix_of_muons_has_a_gradient_and_at_first_those_behind_zeros_have_none(
    name: str, tmp_path: Path
):
    settings, paths = RECIPES[name], small_data(tmp_path).train_paths
    probe = training.probe_gradients(settings, 1337, paths, max_tokens=64)
    table = training.optimizer_table(parameter_shapes(settings.model), settings.optim)
    assert len(probe.gradients) == table.loc[table["optimiser"] == "muon", "count"].sum()
    assert all(matrix.any() and matrix.isfinite().all() for matrix in probe.gradients.values())
    outputs = {one for one in probe.gradients if one.endswith(".proj.weight") and one.startswith("blocks.")}
    behind = {one for one in probe.gradients if one.endswith((".c_q.weight", ".mlp.fc.weight"))}
    assert behind <= set(probe.silent) and not outputs & set(probe.silent)
    assert probe.batch_tokens == 64 and len(probe.losses) == training.PROBE_STEPS + 1
    assert abs(probe.losses[0] - math.log(64)) < 0.05, "it knows nothing yet"
    one, other = (training.probe_gradients(settings, 3, paths, max_tokens=1) for _ in range(2))
    assert one.batch_tokens == 16 and one.losses == other.losses, "one sequence is the smallest batch"
    assert all(torch.equal(matrix, other.gradients[name]) for name, matrix in one.gradients.items())


def test_the_probes_gradients_are_those_of_whole_batches_though_one_sequence_at_a_time_has_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings, rows, forward = RECIPES["small"], [], GPT.forward
    data = dataclasses.replace(settings.data, batch_tokens=64, spans_per_step=1)
    paths, whole = small_data(tmp_path).train_paths, build_model(settings.model, 7)
    loss = whole(*step_batch(open_stream(data, paths, settings.model.vocab_size, 7), data))
    loss.backward()
    monkeypatch.setattr(GPT, "forward", lambda *given: rows.append(len(given[1])) or forward(*given))
    monkeypatch.setattr(training, "PROBE_STEPS", 0)
    probe = training.probe_gradients(settings, 7, paths, max_tokens=64)
    assert rows == [1] * 4 and probe.losses == [pytest.approx(loss.item(), rel=1e-6)]
    for name, gradient in probe.gradients.items():
        torch.testing.assert_close(gradient, whole.get_parameter(name).grad, rtol=1e-4, atol=1e-7)


def test_a_layers_matrices_are_its_own_and_those_of_no_layer():
    names = ["blocks.1.a", "blocks.11.a", "blocks.2.a", "bigram.proj.weight"]
    assert list(training.of_layer(dict.fromkeys(names, torch.zeros(1)), 1)) == ["blocks.1.a", "bigram.proj.weight"]


@pytest.mark.parametrize("coefficients", CHOICES["optim.muon_coefficients"])
@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (8, 8)])
def test_newton_schulz_moves_singular_values_by_the_scalar_map(shape: tuple[int, int], coefficients: str):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    optim = recipe.Optim(newton_schulz_dtype="float32", newton_schulz_steps=6, muon_coefficients=coefficients)
    path = training.newton_schulz_path(matrix, optim)
    maps = training.scalar_map(optim, points=20_001)
    assert len(path) == len(maps) == 7
    for done, values in enumerate(path):
        expected = np.sort(np.interp(path[0], *maps[done]))[::-1]
        assert np.allclose(values, expected, atol=2e-3), done
    assert np.isclose(np.linalg.norm(path[0]), 1, atol=1e-5)
    assert all((np.diff(values) <= 0).all() for values in path)
    firsts = [a for a, _, _ in training.coefficients_by_step(optim)]
    for done, (x, y) in training.scalar_map(optim, points=1_000_001).items():  # the slope at zero
        assert y[0] == 0 and y[1] / x[1] == pytest.approx(math.prod(firsts[:done]), rel=1e-4)


def test_stable_rank_of_known_matrices():
    for matrix, rank in ((torch.eye(7), 7), (torch.ones(5, 3), 1), (torch.zeros(3, 3), 0)):
        assert training.stable_rank(training.singular_values(matrix)) == pytest.approx(rank)


def test_orthogonalisation_keeps_the_direction_downhill_and_raises_the_stable_rank():
    generator = torch.Generator().manual_seed(1)
    skewed = torch.randn(32, 16, generator=generator) * 2.0 ** -torch.arange(16)
    table = training.orthogonalisation_table({"a.weight": skewed, "zero": torch.zeros(4, 4)}, recipe.Optim())
    row = table.iloc[0]
    assert row["matrix"] == "a" and (row["rows"], row["columns"]) == (32, 16)
    assert row["rank after"] > 2 * row["rank before"] and row["cosine"] > 0
    update = newton_schulz(skewed, 5).float()
    assert row["largest after"] == pytest.approx(torch.linalg.matrix_norm(update, 2).item(), rel=1e-4)
    assert table.iloc[1]["largest after"] == 0 and table.iloc[1]["rank after"] == 0


@pytest.mark.parametrize("name", RECIPES)
def test_the_optimiser_table_holds_every_parameter_once_with_the_recipes_rates(name: str):
    settings = RECIPES[name]
    shapes = parameter_shapes(settings.model)
    table = training.optimizer_table(shapes, settings.optim).set_index("group")
    assert table["count"].sum() == len(shapes) and table["share"].sum() == pytest.approx(1)
    assert table["parameters"].sum() == sum(math.prod(shape) for shape in shapes.values())
    assert table.loc["block matrices", ["optimiser", "learning rate"]].tolist() == ["muon", settings.optim.matrix_lr]
    assert table.loc["token embedding", "learning rate"] == settings.optim.embed_lr
    frozen = table.loc[table["optimiser"] == "frozen", "tensors"].tolist()
    assert frozen == (["ve.embed.weight", "ve.proj.weight"] if settings.optim.ve_frozen else [])
    if frozen:
        row = table.loc["value embedding"]
        assert row[["optimiser", "decay is applied"]].tolist() == ["frozen", "-"]
        assert row[["learning rate", "beta1", "beta2", "weight decay"]].isna().all()


@pytest.mark.parametrize(
    ("name", "sides"),
    [("pr194", ["before", "-"]), ("pr315", ["before", "before"]), ("pr332", ["after", "before"]),
     ("pr534", ["after", "before"]), ("pr534-as-run", ["after", "-"])],
)  # fmt: skip
def test_the_optimiser_table_says_on_which_side_decay_falls_and_nothing_where_there_is_none(name: str, sides: list):
    table = training.optimizer_table(parameter_shapes(RECIPES[name].model), RECIPES[name].optim).set_index("group")
    assert table.loc[["block matrices", "scalars"], "decay is applied"].tolist() == sides


def test_training_settings_have_one_set_of_rows_for_every_recipe():
    tables = {name: training.training_settings(settings) for name, settings in RECIPES.items()}
    assert len({tuple(table) for table in tables.values()}) == 1
    assert tables["pr194"]["weight decay: Muon, AdamW"] == "0.038 before the update, 0"
    assert tables["pr534"]["quantisation-aware training"].endswith("rates × 0.5")
    assert tables["small"]["wall-clock cap (s)"] == "none"


def test_with_a_clock_the_rate_falls_over_the_last_warmdown_steps_and_from_the_start_if_too_few_fit():
    settings = small_recipe(schedule={"max_seconds": 50.0, "warmdown_iters": 100})
    plan = training.planned_schedule(settings, 400)
    assert (plan["multiplier"][:301] == 1).all() and (plan["multiplier"][302:] < 1).all()
    assert np.allclose(plan["multiplier"][301:], (400 - plan["step"][301:]) / 100)
    short = training.planned_schedule(settings, 50)
    assert np.allclose(short["multiplier"][1:], (50 - short["step"][1:]) / 100)


def test_without_a_clock_the_plan_is_the_iterations_and_late_qats_factor_holds_from_its_first_step_on():
    late = {"kind": "late", "threshold": 0.5, "lr_factor": 0.5}
    plan, halved = (training.planned_schedule(small_recipe(qat=qat), 12) for qat in ({}, late))
    assert plan["multiplier"].tolist() == pytest.approx([1] * 6 + [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert halved["multiplier"].tolist() == pytest.approx([m if m >= 0.5 else m / 2 for m in plan["multiplier"]])
    optim = RECIPES["small"].optim
    assert plan["momentum"].iloc[[0, -1]].tolist() == [optim.muon_momentum_start, optim.muon_momentum]


@pytest.mark.parametrize(
    ("changes", "lengths"),
    [({}, [40, 160, 640]), ({"warmdown_iters": 0}, [1, 4, 16]), ({"iterations": 12}, [12]),
     ({"max_seconds": 0.0}, [20_000]), ({"warmdown_fraction": 0.5}, [20_000])],
)  # fmt: skip
def test_lengths_worth_drawing_surround_the_warmdown_within_the_iterations(changes: dict, lengths: list[int]):
    schedule = recipe.Schedule(iterations=20_000, max_seconds=95.0, warmdown_iters=80)
    assert training.planned_lengths(dataclasses.replace(schedule, **changes)) == lengths


def test_the_log_of_a_real_run_gives_its_tables_and_numbers(tmp_path: Path):
    settings, data = small_recipe(schedule={"val_every_steps": 3}), small_data(tmp_path / "data")
    result = train(settings, 1337, data, tmp_path)
    steps, val = training.metrics_tables(training_curve(tmp_path))
    assert steps["step"].tolist() == list(range(1, 13)) and val["step"].tolist() == [0, 3, 6, 9, 12]
    assert "bpb" not in steps and "grad_norm" not in val
    numbers = training.run_numbers(steps, result.parameters, 1000, 0.3)
    assert numbers["passes over the training split"] == pytest.approx(12 * 128 / 1000)
    assert numbers["tokens per parameter"] == pytest.approx(result.tokens / result.parameters)
    assert numbers["median step (s)"] <= numbers["slowest step (s)"]
    assert numbers["clipped steps (share)"] == (steps["grad_norm"] > 0.3).mean()


def test_a_validation_that_a_killed_run_repeats_counts_once_and_a_run_may_have_one_step():
    seen = {"tokens": 64, "seconds": 2.0, "grad_norm": 0.1}
    lines = (("val", 0, 9.0, {}), ("train", 1, 5.0, seen), ("val", 0, 4.0, {}))
    steps, val = training.metrics_tables(
        {"kind": kind, "step": n, "loss": loss} | more for kind, n, loss, more in lines
    )
    assert val["loss"].tolist() == [4.0] and steps["loss"].tolist() == [5.0]
    numbers = training.run_numbers(steps, 8, 64, 0.0)
    assert numbers["median step (s)"] == 2.0 and numbers["clipped steps (share)"] == 0.0


def test_seconds_add_up_to_the_notebooks_and_what_earlier_ones_spent_in_training():
    seconds = {**dict.fromkeys(PARTS, 0.0), "train": 6.0, "warmup": 1.0, "validation": 2.0, "lost": 1.0}
    table = training.seconds_table(seconds, 12.0, 0.0)
    assert table["seconds"].sum() == 12 and table["share"].sum() == pytest.approx(1)
    assert table.loc[table["on the clock"] == "yes", "seconds"].tolist() == [6.0]
    assert training.seconds_table(seconds, 7.0, 4.0)["seconds"].sum() == 7 + 4
    assert len(table) == len(PARTS) + 1


def test_only_the_last_step_may_pass_the_cap():
    clock = pd.DataFrame({"seconds": [4.0, 8.0, 11.5]})
    assert training.overshoot_seconds(clock, 10.0) == 1.5
    assert training.overshoot_seconds(clock, 20.0) == training.overshoot_seconds(clock, 0.0) == 0
    with pytest.raises(AssertionError, match="began at 8"):
        training.overshoot_seconds(clock, 7.0)


def test_a_training_that_made_validation_worse_is_refused_with_both_losses_and_what_to_do():
    train = pd.DataFrame({"loss": [5.0]})
    for steps, losses in ((24, [5.0, 4.9]), (9, [5.0, 5.1]), (24, [4.9])):
        training.refuse_worse(train, pd.DataFrame({"loss": losses, "step": steps}))
    for losses in ([5.0, 5.125], [5.125], [5.0, math.nan]):
        with refused(rf"24 steps left validation at {losses[-1]:.3f} nats per token, from 5\.000: .*max_seconds"):
            training.refuse_worse(train, pd.DataFrame({"loss": losses, "step": 24}))
