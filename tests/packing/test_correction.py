"""Correction of rounding: against sequential least squares, its edges, its clock, and what a run keeps of it."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import on_ranks
from refused import refused
from small import assert_same_bits, noisy_model, small_data, small_recipe, weights_of
from tiny_artifact import MODEL, tiny_state
from tiny_steps import CAP, QUANT, gaussian, tiny_groups, uneven

from pgolf_core.base.names import GROUP_SENSITIVITY, HESSIANS, TRAIN_LOG
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.grid import GRIDS, choose_scale, dequantise, quantise_tensor
from pgolf_core.network.model import build_model, rms_norm
from pgolf_core.packing import allocation, correction
from pgolf_core.packing.correction import Hessians, InputMeter, corrections, feedback_of, gather, round_in_turn
from pgolf_core.packing.ledger import Ledger
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import Groups, groups_of
from pgolf_core.packing.steps import read_steps
from pgolf_core.packing.unpack import unpack
from pgolf_core.training.checkpoint import load_tensors, save_tensors
from pgolf_core.training.loop import train
from pgolf_core.training.progress import training_curve

DAMPING = 0.01
ON = {"correction": "hessian", "correction_tokens": 200}


def inputs(tokens: int, width: int, seed: int = 0) -> np.ndarray:
    """Correlated inputs [tokens, width], as a residual stream has them, of differing sizes."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((tokens, width)) @ random.standard_normal((width, width)) / math.sqrt(width)
    return (mixed + 2 * random.standard_normal((tokens, 1))) * np.exp2(random.uniform(-2, 2, width))


def mean_product(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.T @ x / len(x)).float()


def slowly(row: np.ndarray, hessian: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Codes of one row by the definition: round a column, then solve for all later ones what is best for the output."""
    w, q = row.copy(), np.zeros(len(row))
    for j in range(len(row)):
        q[j] = np.rint(w[j] / step[j])
        later = slice(j + 1, None)
        error = row[: j + 1] - q[: j + 1] * step[: j + 1]
        w[later] = row[later] + np.linalg.solve(hessian[later, later], hessian[later, : j + 1] @ error)
    return q


def damped(hessian: torch.Tensor) -> np.ndarray:
    h = hessian.double().numpy()
    return h + DAMPING * h.diagonal().mean() * np.eye(len(h))


def plans(w: np.ndarray, groups: Groups, hessian: torch.Tensor) -> tuple[allocation.Plan, allocation.Plan]:
    """A matrix's plan, and the corrected one."""
    found = corrections(Hessians({"w": hessian}, 100), {"w": w.shape}, QUANT)
    return allocation.plan(w, groups), allocation.plan(w, groups, found.feedback.get("w"))


def output_error(change: np.ndarray, x: np.ndarray) -> float:
    return float(np.square(x @ change.T).mean())


@pytest.mark.parametrize("width", [1, 7, 150])  # the last crosses a block
def test_codes_are_those_of_sequential_least_squares_and_outputs_are_better_than_by_plain_rounding(width: int):
    x, w = inputs(4 * width, width), gaussian(5, width, 3).astype(np.float64) * 50
    hessian = mean_product(x)
    feedback, used = feedback_of(hessian, DAMPING)
    codes = round_in_turn([torch.from_numpy(w)], [feedback], lambda columns, _: columns.round())[0].double().numpy()
    assert used == DAMPING
    assert (codes == np.stack([slowly(row, damped(hessian), np.ones(width)) for row in w])).all()
    assert width == 1 or output_error(codes - w, x) < 0.9 * output_error(np.rint(w) - w, x)


def test_by_activation_the_largest_inputs_come_first_and_what_was_never_seen_is_zero():
    x, w = inputs(600, 150), gaussian(5, 150, 3).astype(np.float64) * 50
    x[:, [3, 40]] = 0
    hessian = mean_product(x)
    feedback, _ = feedback_of(hessian, DAMPING, "activation", 2.0)
    order, seen = feedback.order.numpy(), np.delete(np.arange(150), [3, 40])
    assert set(np.flatnonzero(~feedback.live.numpy())) == {3, 40}
    h = hessian.double().numpy()
    h[[3, 40], [3, 40]] = 2.0
    assert (np.diff(h.diagonal()[order]) <= 0).all() and sorted(order) == list(range(150))
    codes = round_in_turn([torch.from_numpy(w)] * 2, [feedback] * 2, lambda columns, _: columns.round()).double()
    assert torch.equal(codes[0], codes[1]) and not codes[0][:, [3, 40]].any()
    w[:, [3, 40]] = 0
    h += DAMPING * h.diagonal().mean() * np.eye(150)
    h = h[order][:, order]
    assert (codes[0].numpy()[:, order] == np.stack([slowly(row, h, np.ones(150)) for row in w[:, order]])).all()
    natural, _ = feedback_of(hessian, DAMPING)
    plain = round_in_turn([torch.from_numpy(w)], [natural], lambda columns, _: columns.round())[0].double().numpy()
    assert (plain != codes[0].numpy())[:, seen].any()


def test_the_head_is_corrected_where_the_recipe_says_so_and_needs_its_inputs(tmp_path: Path):
    weights = dict(noisy_model().named_parameters())
    ids = torch.randint(64, (13, 16), generator=torch.Generator().manual_seed(1))
    settings = small_recipe(quant={**ON, "correct_tok_emb": True})
    found = gather(settings, weights, ids, torch.device("cpu"), ALONE)
    network = noisy_model().eval()
    with torch.no_grad():
        z = rms_norm(network.trunk(ids)[0], settings.model.norm_eps).flatten(0, 1).double()
    torch.testing.assert_close(found.of("tok_emb.weight").double(), z.T @ z / len(z), rtol=1e-5, atol=1e-5)
    state = {name: w.detach() for name, w in weights.items()}
    told = []
    for head in (True, False):
        quant = dataclasses.replace(settings.quant, correct_tok_emb=head)
        ledger = pack(state, settings.model, quant, tmp_path / f"{head}", hessians=found, code_bytes=0, cap_bytes=10**6)
        told.append(ledger.correction["matrices"])
    assert told[0] == told[1] + 1
    name = "tok_emb.weight"
    assert not torch.equal(*(unpack(tmp_path / which)[1][name] for which in ("True", "False")))
    without = Hessians({key: mean for key, mean in found.means.items() if key != name}, 208)
    with refused(r"correct_tok_emb needs the head's inputs; train"):
        pack(state, settings.model, settings.quant, tmp_path / "m", hessians=without, code_bytes=0, cap_bytes=10**6)


@pytest.mark.parametrize("finer", [1.0, 2.0**-10])  # the finest steps move columns and their feedback together
def test_on_steps_of_rows_and_columns_codes_are_those_of_sequential_least_squares(finer: float):
    w, hessian = gaussian(16, 24), mean_product(inputs(100, 24))
    plain, made = plans(w, uneven(16, 24, octaves=9), hessian)
    multiplier = allocation.fit({"w": plain}, 4.0 * w.size)[0] * finer
    item = made.rounded(multiplier)
    moved = (item.col_steps != made.shape.col_steps).any() or (item.row_steps != made.shape.row_steps).any()
    assert moved == (finer < 1) and (item.col_steps != 0).any() and (item.row_steps != 0).any()
    step = np.multiply(*(v.astype(np.float64) for v in item.steps(multiplier)))
    expected = np.stack([slowly(row, damped(hessian), s) for row, s in zip(w.astype(float), step, strict=True)])
    assert np.abs(item.codes - expected).max() <= (finer < 1)  # codes of thousands: single precision of the weights
    assert (item.codes == expected).mean() > 0.9 and (item.codes != plain.rounded(multiplier).codes).any()


@pytest.mark.parametrize("name", ["int6_row", "int5_row_clip", "int6_clip_search", "int8_clip_search_step4"])
def test_on_a_grid_codes_are_those_of_sequential_least_squares_within_its_limits(name: str):
    grid, width = GRIDS[name], 40
    w = torch.from_numpy(gaussian(6, width, 6)) * 8
    hessian = mean_product(inputs(200, width, 1))
    feedback, _ = feedback_of(hessian, DAMPING)
    ((codes, scales),) = correction.quantise_in_turn([w], grid, [feedback])
    plain, plain_scales = quantise_tensor(w, grid)
    assert torch.equal(scales, plain_scales) and not torch.equal(codes, plain)
    assert codes.min() >= grid.qmin and codes.max() <= grid.qmax
    assert set(np.unique(codes.numpy() % grid.step)) <= {0, *(np.array([grid.qmin, grid.qmax]) % grid.step)}
    errors = [dequantise(q, scales).numpy() - w.numpy() for q in (codes, plain)]
    lost = [float(np.einsum("ij,jk,ik->", e, damped(hessian), e)) for e in errors]
    assert lost[0] < lost[1]


def test_inputs_that_have_nothing_in_common_change_nothing():
    w = gaussian(32, 48)
    for scale in (torch.ones(48), torch.exp2(torch.arange(48.0) % 7)):
        plain, made = plans(w, uneven(32, 48), torch.diag(scale))
        for multiplier in (2.0**-6, 1.0, 7.3):
            assert (made.rounded(multiplier).codes == plain.rounded(multiplier).codes).all()
        for name in ("int6_row", "int8_clip_search_step4", "int5_row_nofloor"):
            ((codes, _),) = correction.quantise_in_turn([torch.from_numpy(w)], GRIDS[name], [made.feedback])
            assert torch.equal(codes, quantise_tensor(torch.from_numpy(w), GRIDS[name])[0])


@pytest.mark.parametrize("bits", [1.0, 2.5, 5.0])
def test_the_search_ends_at_the_budget_with_the_corrected_codes(bits: float):
    weights, groups = {"w": gaussian(320, 192)}, {"w": uneven(320, 192)}
    mean = mean_product(inputs(500, 192))
    found = corrections(Hessians({"w": mean}, 500), {"w": (320, 192)}, QUANT)
    budget = round(bits * 320 * 192 / 8)
    payload, _, told = allocation.spend(weights, groups, budget, correction=found)
    assert 0.998 * budget <= len(payload) <= budget and told["tries"] <= 15
    plain, _, _ = allocation.spend(weights, groups, budget)
    x = torch.linalg.cholesky(mean.double() + 1e-9 * torch.eye(192)).T.numpy()
    read = (read_steps(stream, {"w": (320, 192)})["w"] for stream in (payload, plain))
    corrected, uncorrected = (output_error(w - weights["w"], x) for w in read)
    assert corrected < uncorrected


def test_one_token_is_enough_and_no_input_at_all_is_named_and_rounded_plainly(on_steps: Path, tmp_path: Path):
    feedback, used = feedback_of(mean_product(inputs(1, 30)), DAMPING)  # of rank one: damping makes it invertible
    assert used == DAMPING and torch.isfinite(feedback.earlier).all()
    assert feedback_of(torch.zeros(30, 30), DAMPING) is feedback_of(torch.full((30, 30), math.nan), DAMPING) is None
    name = "blocks.0.mlp.fc.weight"
    zero = Hessians({name: torch.zeros(16, 16)}, 0)
    quant, options = dataclasses.replace(QUANT, correction="hessian"), {"sensitivity": tiny_groups(), **CAP}
    ledger = pack(tiny_state(), MODEL, quant, tmp_path / "zero", hessians=zero, **options)
    assert ledger.correction["plain"] == [name] and ledger.correction["matrices"] == 0
    assert (tmp_path / "zero").read_bytes() == on_steps.read_bytes()


def test_damping_is_raised_where_it_must_be_and_statistics_of_another_shape_are_refused():
    width = 20
    h = mean_product(inputs(100, width)).double()
    h -= 0.05 * h.diagonal().mean() * torch.eye(width)  # the smallest eigenvalue is now below zero
    assert torch.linalg.eigvalsh(h)[0] < -DAMPING * h.diagonal().mean()
    found = corrections(Hessians({"w": h.float()}, 100), {"w": (3, width)}, QUANT)
    assert found.told["raised"] == {"w": pytest.approx(0.1)} and found.told["matrices"] == 1
    hopeless = corrections(Hessians({"w": h.float() - 1e9 * torch.ones(width, width)}, 1), {"w": (3, width)}, QUANT)
    assert hopeless.told["plain"] == ["w"] and not hopeless.feedback
    with refused(r"w have statistics of shape .*another run's: train"):
        corrections(Hessians({"w": torch.eye(4)}, 1), {"w": (3, 5)}, QUANT)


def test_the_meter_sums_what_every_linear_map_is_given():
    network, seen = build_model(small_recipe(model={"ve_dim": 8, "ve_layers": [1]}).model, 0), {}
    meter = InputMeter(network)
    for name, module in network.named_modules():
        if type(module).__name__ == "Linear":
            module.register_forward_hook(lambda m, x, y, name=name: seen.setdefault(f"{name}.weight", []).append(x[0]))
    for seed in range(2):
        network.trunk(torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(seed)))
    found = Hessians(meter.sums, 96)
    assert len(seen) == 3 * 6 + 2 and found.of("tok_emb.weight") is found.of("bigram.embed.weight") is None
    for name, parts in seen.items():
        x = torch.cat([part.detach().flatten(0, 1) for part in parts]).double()
        torch.testing.assert_close(found.of(name).double(), x.T @ x, rtol=1e-5, atol=1e-5)


def gathered(world: World, out: Path, seconds: float = math.inf) -> Hessians:
    parameters = dict(noisy_model().named_parameters())
    windows = torch.randint(64, (13, 16), generator=torch.Generator().manual_seed(1))
    found = gather(small_recipe(quant=ON), parameters, windows, torch.device("cpu"), world, seconds)
    save_tensors(out / f"rank{world.rank}", found.means, {"tokens": found.tokens})
    return found


def test_ranks_share_the_windows_and_all_of_them_have_the_sum(tmp_path: Path):
    on_ranks(2, gathered, tmp_path)
    (means, about), (others, _) = (load_tensors(tmp_path / f"rank{rank}") for rank in (0, 1))
    alone = gathered(ALONE, tmp_path)
    assert about["tokens"] == alone.tokens == 13 * 16
    assert all(torch.equal(mean, others[name]) for name, mean in means.items())
    torch.testing.assert_close(means, alone.means, rtol=1e-5, atol=1e-6)


def test_no_batch_is_begun_that_would_end_after_the_time_given(tmp_path: Path, monkeypatch):
    assert gathered(ALONE, tmp_path, seconds=-1.0).tokens == 0
    clock = iter(range(1000))
    monkeypatch.setattr(correction.time, "perf_counter", lambda: float(next(clock)))
    found = gathered(ALONE, tmp_path, seconds=4.0)  # a batch of 4 windows ends a second after it began
    assert found.tokens == 2 * 4 * 16
    monkeypatch.undo()
    assert all(torch.isfinite(mean).all() for mean in found.means.values())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same small training with the correction and without."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("on", "off")}
    data, schedule = small_data(folders["on"] / "data"), {"iterations": 24, "warmdown_iters": 20}
    for name, changes in (("on", ON), ("off", {})):
        train(small_recipe(quant={"kind": "steps", **changes}, schedule=schedule), 1, data, folders[name])
    return folders


def packed(folder: Path, path: Path, **changes: object) -> Ledger:
    """The ledger of a trained folder's file under a changed recipe; training asks only whether to gather."""
    settings = small_recipe(quant={"kind": "steps", **ON, **changes})
    means, about = load_tensors(folder / HESSIANS)
    return pack(
        weights_of(folder), settings.model, settings.quant, path,
        sensitivity=groups_of(weights_of(folder, GROUP_SENSITIVITY)), hessians=Hessians(means, about["tokens"]),
        code_bytes=0, cap_bytes=40_000,
    )  # fmt: skip


def test_a_run_keeps_what_the_correction_needs_and_says_so_and_the_weights_stay_the_same(runs, tmp_path: Path):
    assert_same_bits(runs["on"], runs["off"])
    assert (runs["on"] / HESSIANS).exists() and not (runs["off"] / HESSIANS).exists()
    log = (runs["on"] / TRAIN_LOG).read_text()
    assert "correction:hessian damping:0.01 tokens:208 inputs:13 " in log  # 13 windows of 16; 3 x 4 inputs, the bigram
    told = packed(runs["on"], tmp_path / "m").correction
    assert told["tokens"] == 208 and told["matrices"] + len(told["plain"]) == 3 * 6 + 1
    curve = training_curve(runs["on"])
    assert curve[-1]["kind"] == "correction" and curve[-1]["seconds"] > curve[-2]["seconds"]


def test_a_run_spends_its_target_with_corrected_codes_and_plain_grids_are_corrected_too(runs, tmp_path: Path):
    told = packed(runs["on"], tmp_path / "on", target_bytes=9000).correction
    size = (tmp_path / "on").stat().st_size
    assert told["matrices"] > 0 and 9000 - 60 <= size <= 9000  # so small a file has steps of several bytes
    assert packed(runs["on"], tmp_path / "off", target_bytes=9000, correction="off").correction is None
    assert packed(runs["on"], tmp_path / "grid", kind="grid").correction["matrices"] > 0
    name, grid = "blocks.2.mlp.fc.weight", GRIDS["int6_row"]
    on, off, found = (unpack(tmp_path / path)[1][name] for path in ("on", "off", "grid"))
    w = weights_of(runs["on"])[name]
    scale = choose_scale(w, grid).stored[:, None]
    assert not torch.equal(on, off) and not torch.equal(found, dequantise(*quantise_tensor(w, grid)))
    torch.testing.assert_close((found / scale).round() * scale, found)
