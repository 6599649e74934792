"""Runs that are killed, stopped or go wrong: what is kept, what is lost, what is refused, and where the seconds go."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from ranks import on_ranks, start_process
from small import small_data, small_recipe

from pgolf_core.base.files import UserError
from pgolf_core.base.parallel import World
from pgolf_core.training import loop as train
from pgolf_core.training.checkpoint import load_tensors
from pgolf_core.training.clock import ATTEMPT, PARTS
from pgolf_core.training.loop import LOOK_BACK_STEPS, Trainer
from pgolf_core.training.runlog import training_curve


@pytest.fixture
def data(tmp_path: Path):
    return small_data(tmp_path / "data")


def train_until_killed(folder: Path, data, kill_at: int, changes: dict, pause: float) -> None:
    torch.set_num_threads(1)
    trainer = Trainer(small_recipe(**changes), 3, data, folder)
    step = trainer._step

    def slow() -> dict[str, float]:
        if trainer.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(pause)
        return step()

    trainer._step = slow
    trainer.run()


def run_killed(folder: Path, data, kill_at: int, changes: dict, pause: float = 0.0) -> float:
    """Train in a process that SIGKILL ends in the middle of a step; returns the seconds it lived."""
    t_start = time.monotonic()
    process = start_process(train_until_killed, folder, data, kill_at, changes, pause)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return time.monotonic() - t_start


def weights(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_tensors(folder / f"weights-{kind}.safetensors")[0] for kind in ("raw", "averaged")]


def assert_same_bits(folder: Path, other: Path) -> None:
    for ours, theirs in zip(weights(folder), weights(other), strict=True):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_killed_twice_a_run_ends_with_the_same_bits_and_says_where_it_went_on(data, tmp_path: Path) -> None:
    """A checkpoint after every step, so that each kill loses the step it falls into and no more."""
    changes = {"schedule": {"iterations": 14, "checkpoint_every_seconds": 1e-9, "val_every_steps": 5}}
    whole = train.train(small_recipe(**changes), 3, data, tmp_path / "whole")
    for kill_at in (4, 9):
        run_killed(tmp_path / "run", data, kill_at, changes)
        assert load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] == kill_at
    (tmp_path / "run" / ".checkpoint.safetensors.abc123").write_bytes(b"cut by a kill")
    result = train.train(small_recipe(**changes), 3, data, tmp_path / "run")
    assert result.resumed_at_steps == [4, 9] and whole.resumed_at_steps == []
    assert_same_bits(tmp_path / "run", tmp_path / "whole")
    curves = [[(x["kind"], x["step"], x["loss"]) for x in training_curve(tmp_path / f)] for f in ("run", "whole")]
    assert curves[0] == curves[1]
    assert not list((tmp_path / "run").glob(".checkpoint*")) and not (tmp_path / "run" / ATTEMPT).exists()


def test_the_seconds_of_all_attempts_add_up_and_name_what_a_kill_lost(data, tmp_path: Path) -> None:
    changes = {"schedule": {"iterations": 12, "checkpoint_every_seconds": 0.0}}
    assert run_killed(tmp_path / "run", data, 8, changes, pause=0.1) > 0.8  # no checkpoint: all eight steps are lost
    t_start = time.monotonic()
    result = train.train(small_recipe(**changes), 3, data, tmp_path / "run")
    wall = time.monotonic() - t_start
    assert result.seconds.keys() == set(PARTS) and result.resumed_at_steps == []
    assert result.earlier_seconds == result.seconds["lost"] > 0.8
    assert sum(result.seconds.values()) - result.earlier_seconds == pytest.approx(wall, abs=1.0)


def test_after_an_orderly_stop_nothing_is_lost_and_the_seconds_are_carried_on(data, tmp_path: Path) -> None:
    trainer = Trainer(small_recipe(), 3, data, tmp_path / "run")
    step = trainer._step
    trainer._step = lambda: (trainer.step == 6 and os.kill(os.getpid(), signal.SIGTERM), time.sleep(0.05), step())[2]
    t_start = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="stopped at step 7"):
        trainer.run()
    first = time.monotonic() - t_start
    t_start = time.monotonic()
    result = train.train(small_recipe(), 3, data, tmp_path / "run")
    second = time.monotonic() - t_start
    assert result.seconds["train"] > 7 * 0.05 and result.seconds["lost"] < 0.5
    assert result.earlier_seconds == pytest.approx(first, abs=1.0)
    assert sum(result.seconds.values()) == pytest.approx(first + second, abs=1.0)


def test_a_signal_in_a_long_validation_saves_and_stops_there(data, tmp_path: Path, monkeypatch) -> None:
    recipe = small_recipe(schedule={"val_every_steps": 4}, eval={"batch_seqs": 1})
    trainer, batches = Trainer(recipe, 3, data, tmp_path / "run"), []
    asked = trainer._save_in_validation

    def watched() -> None:
        batches.append(trainer.step)
        if batches.count(4) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        asked()

    monkeypatch.setattr(trainer, "_save_in_validation", watched)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 4"):
        trainer.run()
    assert batches.count(4) == 2 < batches.count(0)
    assert load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] == 4
    train.train(recipe, 3, data, tmp_path / "run")
    assert [x["step"] for x in training_curve(tmp_path / "run") if x["kind"] == "val"] == [0, 4, 8, 12]


def test_a_signal_in_the_warm_up_stops_before_the_first_step_and_keeps_a_checkpoint(data, tmp_path: Path) -> None:
    recipe = small_recipe(schedule={"warmup_steps": 3, "checkpoint_every_seconds": 1e-9})
    for step in (0, 5):
        trainer = Trainer(recipe, 3, data, tmp_path / "run")
        leave, taken = trainer._leave_if_asked, trainer._step
        trainer._leave_if_asked = lambda: (os.kill(os.getpid(), signal.SIGINT), leave())[1]  # noqa: B023
        with pytest.raises(KeyboardInterrupt, match="stopped in its warm-up"):
            trainer.run()
        kept = tmp_path / "run" / "checkpoint.safetensors"
        assert (load_tensors(kept)[1]["step"] if kept.exists() else 0) == step
        trainer = Trainer(recipe, 3, data, tmp_path / "run")
        taken = trainer._step
        trainer._step = lambda: (trainer.step == 4 and os.kill(os.getpid(), signal.SIGINT), taken())[1]  # noqa: B023
        if step == 0:
            with pytest.raises(KeyboardInterrupt):
                trainer.run()


def test_no_step_draws_from_torchs_generator_so_that_no_checkpoint_need_hold_it(data, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    trainer = Trainer(small_recipe(), 3, data, tmp_path / "run")
    torch.manual_seed(1)
    during = torch.get_rng_state()
    trainer.run()
    assert torch.equal(torch.get_rng_state(), during)
    torch.set_rng_state(before)


def test_no_step_is_begun_that_would_end_after_the_cap_if_it_took_as_long_as_those_before(data, tmp_path: Path) -> None:
    cap = 0.5
    recipe = small_recipe(schedule={"iterations": 10**6, "max_seconds": cap, "warmup_steps": 2})
    trainer = Trainer(recipe, 0, data, tmp_path / "run")
    warm_up, step = trainer._warm_up, trainer._step
    trainer._warm_up = lambda: (time.sleep(0.6), warm_up())  # outside the cap, however long
    trainer._step = lambda: (time.sleep(0.02), step())[1]
    result = trainer.run()
    ends = [0.0, *(x["seconds"] for x in training_curve(tmp_path / "run") if x["kind"] == "train")]
    took = [after - before for before, after in itertools.pairwise(ends)]
    longest = [max(took[max(0, k - LOOK_BACK_STEPS) : k], default=0.0) for k in range(len(took) + 1)]
    assert all(end + most <= cap for end, most in zip(ends[:-1], longest[:-1], strict=True))
    assert ends[-1] + longest[-1] > cap and result.stopped_by == "clock"
    assert result.seconds["train"] == ends[-1] and result.seconds["warmup"] > 0.6


def test_gathering_sensitivity_and_averaging_are_on_the_clock(data, tmp_path: Path) -> None:
    trainer = Trainer(small_recipe(schedule={"iterations": 12, "warmdown_iters": 12}), 0, data, tmp_path / "run")
    add = trainer.meter.add
    trainer.meter.add = lambda model: (time.sleep(0.2), add(model))
    result = trainer.run()
    assert result.sensitivity_steps >= 1 and result.seconds["train"] > 0.2 * result.sensitivity_steps


def test_warm_up_sees_synthetic_tokens_alone_and_leaves_weights_states_and_stream_as_they_were(data, tmp_path) -> None:
    trainer = Trainer(small_recipe(schedule={"warmup_steps": 3}), 0, data, tmp_path / "run")
    before = {name: parameter.detach().clone() for name, parameter in trainer.named.items()}
    seen: list[torch.Tensor] = []
    inside = trainer._forward_backward
    trainer._forward_backward = lambda x, y: (seen.append(x), inside(x, y))[1]
    trainer.stream.take = None  # any use of the training data would fail
    with trainer.log:
        trainer._warm_up()
    assert len(seen) == 3 and trainer.stream.position == 0 and trainer.ledger.seconds["train"] == 0.0
    assert all(torch.equal(before[name], trainer.named[name]) for name in before)
    assert not any(tensor.any() for tensor in trainer.optimizers.tensors().values())


def diverge_on_one_rank(world: World, folder: Path, data) -> None:
    settings = small_recipe(data={"spans_per_step": 8}, schedule={"checkpoint_every_seconds": 1e-9})
    trainer = Trainer(settings, 3, data, folder, world=world)
    loss_of = trainer.loss_of

    def poisoned(x, y):
        return loss_of(x, y) * (math.inf if trainer.step == 5 and world.rank == 1 else 1.0)

    trainer.loss_of = poisoned
    with pytest.raises(UserError, match=r"step 6: gradient of \S+ .*is not finite \(loss inf\); lower optim") as error:
        trainer.run()
    assert "\n" not in str(error.value)
    (folder / f"refused{world.rank}").touch()


def test_what_one_rank_alone_finds_not_finite_stops_all_ranks_at_that_step(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    on_ranks(2, diverge_on_one_rank, tmp_path / "run", small_data(tmp_path / "data"))
    assert all((tmp_path / "run" / f"refused{rank}").exists() for rank in (0, 1))
    tensors, about = load_tensors(tmp_path / "run" / "checkpoint.safetensors")
    assert about["step"] == 5 and all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_state_that_is_not_finite_never_replaces_a_good_checkpoint(data, tmp_path: Path) -> None:
    trainer = Trainer(small_recipe(schedule={"checkpoint_every_seconds": 1e-9}), 0, data, tmp_path / "run")
    update = trainer.optimizers.step

    def poisoned(rate: float, momentum: float) -> None:
        update(rate, momentum)
        if trainer.step == 5:
            trainer.optimizers.tensors()["skip_weights.exp_avg"].fill_(math.nan)

    trainer.optimizers.step = poisoned
    with pytest.raises(
        UserError, match=r"step 6 left optim/skip_weights.exp_avg .*not finite, so it was not saved; lower"
    ):
        trainer.run()
    assert load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] == 5


def test_a_real_run_at_an_absurd_rate_names_step_tensor_and_remedy(data, tmp_path: Path) -> None:
    recipe = small_recipe(optim={"matrix_lr": 1e30, "embed_lr": 1e30}, schedule={"checkpoint_every_seconds": 1e-9})
    with pytest.raises(UserError, match=r"^step \d+: gradient of \S+ .*is not finite .*; lower optim\.matrix_lr"):
        train.train(recipe, 0, data, tmp_path / "run")
    kept = tmp_path / "run" / "checkpoint.safetensors"
    assert not kept.exists() or all(tensor.isfinite().all() for tensor in load_tensors(kept)[0].values())
    assert json.loads((tmp_path / "run" / ATTEMPT).read_text())["lost"] == 0.0
    assert not (tmp_path / "run" / "weights-raw.safetensors").exists()
