"""Correction of rounding: against sequential least squares, its edges, its clock, and what a run keeps of it.

pytest tests/packing/test_correction.py
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupt import _Interrupt
from ranks import on_ranks
from small import small_data, small_recipe
from tiny_artifact import MODEL, tiny_state
from tiny_steps import gaussian, tiny_groups, uneven

from pgolf_core.base import device
from pgolf_core.base.files import UserError
from pgolf_core.base.names import HESSIANS
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.grid import GRIDS, choose_scale, dequantise, quantise_tensor
from pgolf_core.network.model import build_model
from pgolf_core.packing import allocation, correction
from pgolf_core.packing.correction import Hessians, InputMeter, corrections, feedback_of, gather, round_in_turn
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import groups_of
from pgolf_core.packing.steps import read_steps
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes import recipe
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.training.checkpoint import load_tensors
from pgolf_core.training.loop import Trainer, train
from pgolf_core.training.runlog import training_curve

DAMPING = 0.01
ON = {"correction": "hessian", "correction_tokens": 200}


def inputs(tokens: int, width: int, seed: int = 0) -> np.ndarray:
    """Correlated inputs [tokens, width], as a residual stream has them, of differing sizes."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((tokens, width)) @ random.standard_normal((width, width)) / math.sqrt(width)
    return (mixed + 2 * random.standard_normal((tokens, 1))) * np.exp2(random.uniform(-2, 2, width))


def mean_product(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.T @ x / len(x)).float()


def nearest(column: np.ndarray, _: int) -> np.ndarray:
    return np.rint(column)


def slowly(row: np.ndarray, hessian: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Codes of one row by the definition: round a column, then solve for all later ones what is best for the output."""
    w, q = row.copy(), np.zeros(len(row))
    for j in range(len(row)):
        q[j] = np.rint(w[j] / step[j])
        later = slice(j + 1, None)
        error = row[: j + 1] - q[: j + 1] * step[: j + 1]
        w[later] = row[later] + np.linalg.solve(hessian[later, later], hessian[later, : j + 1] @ error)
    return q


def output_error(change: np.ndarray, x: np.ndarray) -> float:
    return float(np.square(x @ change.T).mean())


# ---------------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize("width", [1, 7, 150])  # the last crosses a block
def test_codes_are_those_of_sequential_least_squares(width: int):
    x, w = inputs(4 * width, width), gaussian(5, width, 3).astype(np.float64) * 50
    hessian = mean_product(x)
    feedback, used = feedback_of(hessian, DAMPING)
    damped = hessian.double().numpy() + used * float(hessian.diagonal().double().mean()) * np.eye(width)
    codes = round_in_turn(w, feedback, nearest)
    assert used == DAMPING
    assert (codes == np.stack([slowly(row, damped, np.ones(width)) for row in w])).all()
    assert width == 1 or (codes != np.rint(w)).any()


def test_on_steps_of_rows_and_columns_codes_are_those_of_sequential_least_squares():
    rows, width = 6, 48
    w, groups, hessian = gaussian(rows, width, 4), uneven(rows, width, 5), mean_product(inputs(300, width))
    plain = allocation.plan(w, groups)
    found = corrections(Hessians({"w": hessian}, 300), {"w": w.shape}, DAMPING)
    made = allocation.corrected({"w": plain}, found)["w"]
    multiplier, _ = allocation.fit({"w": plain}, 3.0 * w.size)
    item = made.rounded(multiplier)
    row_steps, col_steps = (v.astype(np.float64) for v in item.steps(multiplier))
    damped = hessian.double().numpy() + DAMPING * float(hessian.diagonal().double().mean()) * np.eye(width)
    step = row_steps * col_steps
    expected = np.stack([slowly(row, damped, s) for row, s in zip(w.astype(np.float64), step, strict=True)])
    assert (item.col_steps != 0).any() and (item.row_steps != 0).any()
    assert (item.codes == expected).all() and (item.codes != plain.rounded(multiplier).codes).any()


@pytest.mark.parametrize("name", ["int6_row", "int5_row_clip", "int6_clip_search", "int8_clip_search_step4"])
def test_on_a_grid_codes_are_those_of_sequential_least_squares_within_its_limits(name: str):
    grid, width = GRIDS[name], 40
    w = torch.from_numpy(gaussian(6, width, 6)) * 8
    hessian = mean_product(inputs(200, width, 1))
    feedback, used = feedback_of(hessian, DAMPING)
    codes, scales = correction.quantise_in_turn(w, grid, feedback)
    plain, plain_scales = quantise_tensor(w, grid)
    assert torch.equal(scales, plain_scales) and not torch.equal(codes, plain)
    assert codes.min() >= grid.qmin and codes.max() <= grid.qmax
    assert set(np.unique(codes.numpy() % grid.step)) <= {0, *(np.array([grid.qmin, grid.qmax]) % grid.step)}
    errors = [dequantise(q, scales).numpy() - w.numpy() for q in (codes, plain)]
    damped = hessian.double().numpy() + used * float(hessian.diagonal().mean()) * np.eye(width)
    lost = [float(np.einsum("ij,jk,ik->", e, damped, e)) for e in errors]
    assert lost[0] < lost[1]


def test_inputs_that_have_nothing_in_common_change_nothing():
    w, groups = gaussian(32, 48), uneven(32, 48)
    for scale in (torch.ones(48), torch.exp2(torch.arange(48.0) % 7)):
        found = corrections(Hessians({"w": torch.diag(scale)}, 1), {"w": w.shape}, DAMPING)
        assert not found.feedback["w"].any()
        plain = allocation.plan(w, groups)
        made = allocation.corrected({"w": plain}, found)["w"]
        for multiplier in (2.0**-6, 1.0, 7.3):
            assert (made.rounded(multiplier).codes == plain.rounded(multiplier).codes).all()
    for name in ("int6_row", "int8_clip_search_step4", "int5_row_nofloor"):
        codes, _ = correction.quantise_in_turn(torch.from_numpy(w), GRIDS[name], found.feedback["w"])
        assert torch.equal(codes, quantise_tensor(torch.from_numpy(w), GRIDS[name])[0])


@pytest.mark.parametrize("seed", range(8))
def test_outputs_on_the_inputs_it_saw_are_never_worse_than_by_plain_rounding(seed: int):
    random = np.random.default_rng(seed)
    rows, width, tokens = int(random.integers(1, 40)), int(random.integers(2, 200)), int(random.integers(1, 600))
    x, w = inputs(tokens, width, seed), random.standard_normal((rows, width)) * np.exp2(random.uniform(-2, 4))
    feedback, _ = feedback_of(mean_product(x), DAMPING)
    corrected, plain = (output_error(codes - w, x) for codes in (round_in_turn(w, feedback, nearest), np.rint(w)))
    assert corrected <= 1.02 * plain
    if rows * width > 2000:
        assert corrected < 0.8 * plain


def test_the_finest_steps_move_columns_and_their_feedback_together():
    w, groups = gaussian(16, 24), uneven(16, 24, octaves=9)
    hessian = mean_product(inputs(100, 24))
    made = allocation.corrected(
        {"w": allocation.plan(w, groups)}, corrections(Hessians({"w": hessian}, 100), {"w": w.shape}, DAMPING)
    )["w"]
    multiplier = allocation.fit({"w": made}, 4.0 * w.size)[0] * 2.0**-10
    item = made.rounded(multiplier)
    assert (item.col_steps != made.shape.col_steps).any() or (item.row_steps != made.shape.row_steps).any()
    damped = hessian.double().numpy() + DAMPING * float(hessian.diagonal().double().mean()) * np.eye(24)
    step = np.multiply(*(v.astype(np.float64) for v in item.steps(multiplier)))
    expected = np.stack([slowly(row, damped, s) for row, s in zip(w.astype(np.float64), step, strict=True)])
    assert np.abs(item.codes - expected).max() <= 1  # codes of thousands: single precision of the scaled weights
    assert (item.codes == expected).mean() > 0.9


@pytest.mark.parametrize("bits", [1.0, 2.5, 5.0])
def test_the_search_ends_at_the_budget_with_the_corrected_codes(bits: float):
    weights = {name: gaussian(160, 192, seed) for seed, name in enumerate("ab")}
    groups = {name: uneven(160, 192, seed + 7) for seed, name in enumerate("ab")}
    means = {name: mean_product(inputs(500, 192, seed)) for seed, name in enumerate("ab")}
    found = corrections(Hessians(means, 500), {name: w.shape for name, w in weights.items()}, DAMPING)
    budget = round(bits * 2 * 160 * 192 / 8)
    payload, rows, told = allocation.spend(weights, groups, budget, correction=found)
    assert 0.998 * budget <= len(payload) <= budget and told["tries"] <= 15
    plain, plain_rows, _ = allocation.spend(weights, groups, budget)
    assert plain != payload and [row["name"] for row in rows] == [row["name"] for row in plain_rows]
    shapes = {name: w.shape for name, w in weights.items()}
    x = {name: torch.linalg.cholesky(mean.double() + 1e-9 * torch.eye(192)).T.numpy() for name, mean in means.items()}
    lost = [
        sum(output_error((state[name] - weights[name]) / groups[name].mean ** -0.5, x[name]) for name in weights)
        for state in (read_steps(payload, shapes), read_steps(plain, shapes))
    ]
    assert lost[0] < lost[1]


# ---------------------------------------------------------------------- statistics that are of no use


def test_one_token_is_enough_and_no_input_at_all_is_named_and_rounded_plainly(tmp_path: Path):
    one = mean_product(inputs(1, 30))  # of rank one: damping alone makes it invertible
    feedback, used = feedback_of(one, DAMPING)
    assert used == DAMPING and np.isfinite(feedback).all()
    broken = torch.full((30, 30), math.nan)
    assert feedback_of(torch.zeros(30, 30), DAMPING) is None and feedback_of(broken, DAMPING) is None
    state, name = tiny_state(), "blocks.0.mlp.fc.weight"
    width = state[name].shape[1]
    quant = recipe.Quant(kind="steps", small_tensor_elements=100, correction="hessian")
    options = {"sensitivity": tiny_groups(), "code_bytes": 1000, "cap_bytes": 5000}
    zero = Hessians({name: torch.zeros(width, width)}, 0)
    ledger = pack(tiny_state(), MODEL, quant, tmp_path / "zero", hessians=zero, **options)
    assert ledger.correction["plain"] == [name] and ledger.correction["matrices"] == 0
    pack(tiny_state(), MODEL, dataclasses.replace(quant, correction="off"), tmp_path / "off", **options)
    assert (tmp_path / "zero").read_bytes() == (tmp_path / "off").read_bytes()
    assert f"plain:{name}" in correction.in_words(ledger.correction)


def test_damping_is_raised_where_it_must_be_and_the_log_says_how_far():
    width = 20
    h = mean_product(inputs(100, width)).double()
    h -= 0.05 * h.diagonal().mean() * torch.eye(width)  # the smallest eigenvalue is now below zero
    assert torch.linalg.eigvalsh(h)[0] < -DAMPING * h.diagonal().mean()
    found = corrections(Hessians({"w": h.float()}, 100), {"w": (3, width)}, DAMPING)
    assert found.told["raised"] == {"w": pytest.approx(0.1)} and found.told["matrices"] == 1
    assert "raised:w=0.1 plain:none" in correction.in_words(found.told)
    hopeless = corrections(Hessians({"w": h.float() - 1e9 * torch.ones(width, width)}, 1), {"w": (3, width)}, DAMPING)
    assert hopeless.told["plain"] == ["w"] and not hopeless.feedback


def test_statistics_of_another_shape_and_none_at_all_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"w have statistics of shape .*another run's: train"):
        corrections(Hessians({"w": torch.eye(4)}, 1), {"w": (3, 5)}, DAMPING)
    quant = recipe.Quant(kind="steps", small_tensor_elements=100, correction="hessian")
    with pytest.raises(UserError, match="needs the run's inputs; train"):
        pack(tiny_state(), MODEL, quant, tmp_path / "m", sensitivity=tiny_groups(), code_bytes=0, cap_bytes=5000)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"correction": "gptq"}, "quant.correction = 'gptq'; allowed: off, hessian"),
        ({"correction_damping": 0.0}, "quant.correction_damping = 0.0; must be at least 1e-06"),
        ({"correction_tokens": 0}, "quant.correction_tokens = 0; must be at least 1"),
        ({"correction_tokens": 2**30}, "must be at most"),
    ],
)
def test_a_recipe_whose_correction_cannot_be_is_refused(changes: dict, why: str):
    with pytest.raises(UserError, match=re.escape(why)):
        recipe.from_dict({"quant": changes})
    with pytest.raises(UserError, match=r"9000 inputs are over .* take quant.correction = off"):
        recipe.from_dict({"model": {"mlp_hidden": 9000}, "quant": {"correction": "hessian"}})


def test_recipes_without_a_correction_have_the_fingerprint_that_they_had_before_there_was_one():
    plain = load_recipe("pr315")
    assert plain.fingerprint == "a68d3ee2050fd323f453c1cc6d39199ab0030fec0105dc2ad81535e8850708cd"
    assert load_recipe("pr315", ["quant.correction_damping=0.1"]).fingerprint == plain.fingerprint
    on = [load_recipe("pr315", ["quant.correction=hessian", f"quant.correction_damping={d}"]) for d in (0.1, 0.2)]
    assert len({plain.fingerprint, *(r.fingerprint for r in on)}) == 3


# ---------------------------------------------------------------------- gathering


def test_the_meter_sums_what_every_linear_map_is_given():
    settings = small_recipe(model={"ve_dim": 8, "ve_layers": [1]})
    network, seen = build_model(settings.model, 0), {}
    meter = InputMeter(network)
    for name, module in network.named_modules():
        if type(module).__name__ == "Linear":
            module.register_forward_hook(lambda m, x, y, name=name: seen.setdefault(f"{name}.weight", []).append(x[0]))
    for seed in range(2):
        network.trunk(torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(seed)))
    found = Hessians(meter.sums, 96)
    assert len(seen) == 3 * 6 + 2
    for name, parts in seen.items():
        x = torch.cat([part.detach().flatten(0, 1) for part in parts]).double()
        torch.testing.assert_close(found.of(name).double(), x.T @ x, rtol=1e-5, atol=1e-5)
    assert found.of("tok_emb.weight") is None and found.of("bigram.embed.weight") is None


def gathered(world: World, out: Path, seconds: float = math.inf) -> Hessians:
    settings = small_recipe(quant=ON)
    network = build_model(settings.model, 0)
    torch.nn.init.normal_(network.blocks[0].mlp.proj.weight, generator=torch.Generator().manual_seed(0))
    windows = torch.randint(64, (13, 16), generator=torch.Generator().manual_seed(1))
    found = gather(settings, dict(network.named_parameters()), windows, device.pick_device(), world, seconds)
    torch.save({"tokens": found.tokens, "means": found.means}, out / f"rank{world.rank}")
    return found


def in_ranks(world: World, out: str) -> None:
    gathered(world, Path(out))


def test_ranks_share_the_windows_and_all_of_them_have_the_sum(tmp_path: Path):
    torch.set_num_threads(1)
    on_ranks(2, in_ranks, str(tmp_path))
    both = [torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in (0, 1)]
    alone = gathered(ALONE, tmp_path)
    assert both[0]["tokens"] == both[1]["tokens"] == alone.tokens == 13 * 16
    for name, mean in alone.means.items():
        assert torch.equal(both[0]["means"][name], both[1]["means"][name])
        torch.testing.assert_close(both[0]["means"][name], mean, rtol=1e-5, atol=1e-6)


def test_no_batch_is_begun_that_would_end_after_the_time_given(tmp_path: Path, monkeypatch):
    assert gathered(ALONE, tmp_path, seconds=-1.0).tokens == 0
    clock = iter(range(1000))
    monkeypatch.setattr(correction.time, "perf_counter", lambda: float(next(clock)))
    found = gathered(ALONE, tmp_path, seconds=4.0)  # a batch of 4 windows ends a second after it began
    assert found.tokens == 2 * 4 * 16
    monkeypatch.undo()
    assert all(torch.isfinite(mean).all() for mean in found.means.values())


# ---------------------------------------------------------------------- runs


@pytest.fixture
def data(tmp_path: Path):
    return small_data(tmp_path / "data")


def packed(settings: recipe.Recipe, folder: Path, cap_bytes: int = 40_000) -> tuple[bytes, dict]:
    """The file of a trained folder, and its ledger's word on the correction."""
    means, about = load_tensors(folder / HESSIANS)
    ledger = pack(
        load_tensors(folder / "weights-averaged.safetensors")[0], settings.model, settings.quant, folder / "m",
        sensitivity=groups_of(load_tensors(folder / "sensitivity.safetensors")[0]),
        hessians=Hessians(means, about["tokens"]), code_bytes=0, cap_bytes=cap_bytes,
    )  # fmt: skip
    return (folder / "m").read_bytes(), ledger.correction


STEPPED = {"kind": "steps", **ON}
LONGER = {"iterations": 24, "warmdown_iters": 20}


def test_a_run_keeps_what_the_correction_needs_and_says_so_and_the_weights_stay_the_same(data, tmp_path: Path):
    settings = small_recipe(quant=STEPPED, schedule=LONGER)
    for name in ("a", "b"):
        train(settings, 1, data, tmp_path / name)
    train(small_recipe(quant={"kind": "steps"}, schedule=LONGER), 1, data, tmp_path / "off")
    weights = [load_tensors(tmp_path / n / "weights-averaged.safetensors")[0] for n in ("a", "off")]
    assert all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())
    assert not (tmp_path / "off" / HESSIANS).exists()
    log = (tmp_path / "a" / "train.log").read_text()
    assert "correction:hessian damping:0.01 tokens:208 inputs:13 " in log  # 13 windows of 16; 3 x 4 inputs, the bigram
    files = [packed(settings, tmp_path / name) for name in ("a", "b")]
    assert files[0] == files[1] and files[0][1]["tokens"] == 208
    assert files[0][1]["matrices"] + len(files[0][1]["plain"]) == 3 * 6 + 1
    curve = training_curve(tmp_path / "a")
    assert curve[-1]["kind"] == "correction" and curve[-1]["seconds"] > curve[-2]["seconds"]


def test_a_run_spends_its_target_with_corrected_codes(data, tmp_path: Path):
    settings = small_recipe(quant={**STEPPED, "target_bytes": 9000}, schedule=LONGER)
    train(settings, 1, data, tmp_path / "run")
    file, told = packed(settings, tmp_path / "run")
    assert told["matrices"] > 0 and 9000 - 60 <= len(file) <= 9000  # so small a file has steps of several bytes
    weights = load_tensors(tmp_path / "run" / "weights-averaged.safetensors")[0]
    groups = groups_of(load_tensors(tmp_path / "run" / "sensitivity.safetensors")[0])
    off = dataclasses.replace(settings.quant, correction="off")
    pack(weights, settings.model, off, tmp_path / "off", sensitivity=groups, code_bytes=0, cap_bytes=40_000)
    states = [unpack(path)[1] for path in (tmp_path / "run" / "m", tmp_path / "off")]
    assert any(not torch.equal(w, states[1][name]) for name, w in states[0].items())


def test_the_weights_on_plain_grids_are_corrected_too(data, tmp_path: Path):
    settings = small_recipe(quant=ON, schedule=LONGER)
    train(settings, 1, data, tmp_path / "run")
    _, told = packed(settings, tmp_path / "run", 10**6)
    state, name = unpack(tmp_path / "run" / "m")[1], "blocks.2.mlp.fc.weight"
    w = load_tensors(tmp_path / "run" / "weights-averaged.safetensors")[0][name]
    plain = dequantise(*quantise_tensor(w, GRIDS["int6_row"]))
    scale = choose_scale(w, GRIDS["int6_row"]).stored[:, None]
    assert not torch.equal(state[name], plain) and told["matrices"] > 0
    torch.testing.assert_close((state[name] / scale).round() * scale, state[name])


def test_going_on_after_the_last_step_gathers_the_same(data, tmp_path: Path):
    settings = small_recipe(quant=STEPPED, schedule=LONGER, data={"order": "shuffled"})
    train(settings, 3, data, tmp_path / "whole")
    for stop in (5, 24):
        with pytest.raises(KeyboardInterrupt):
            train(settings, 3, data, tmp_path / "parts", progress=_Interrupt(stop))
    train(settings, 3, data, tmp_path / "parts")
    assert packed(settings, tmp_path / "whole") == packed(settings, tmp_path / "parts")
    assert [x["kind"] for x in training_curve(tmp_path / "parts")].count("correction") == 1


def test_the_clock_holds_with_the_gathering_in_it_and_steps_leave_room_for_it(data, tmp_path: Path, monkeypatch):
    original = correction.gather

    def slow(*arguments):
        time.sleep(0.4)
        return original(*arguments)

    monkeypatch.setattr(correction, "gather", slow)
    settings = small_recipe(quant=ON, schedule={"iterations": 10**6, "max_seconds": 1.5, "warmdown_iters": 10})
    trainer = Trainer(settings, 0, data, tmp_path / "run")
    result = trainer.run()
    curve = [line for line in training_curve(tmp_path / "run") if line["kind"] == "train"]
    assert result.stopped_by == "clock" and trainer.gathering.reserved_seconds >= 0.4
    assert curve[-1]["seconds"] <= 1.1 and result.seconds["train"] >= curve[-1]["seconds"] + 0.4
    assert result.seconds["train"] <= 1.5 and trainer.gathering.found.tokens == 208
    assert (
        json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
        == (result.seconds["train"])
    )
