"""Runs that are killed, stopped or go wrong: what is kept, what is lost, what is refused, and where the seconds go."""

import itertools
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import on_ranks, start_process
from refused import refused
from small import assert_same_bits, column, small_data, small_recipe

from pgolf_core.base.files import read_json
from pgolf_core.base.names import CHECKPOINT, RAW_WEIGHTS, TRAIN_LOG
from pgolf_core.base.parallel import World
from pgolf_core.network.score import score
from pgolf_core.training import loop
from pgolf_core.training.checkpoint import load_tensors
from pgolf_core.training.loop import LOOK_BACK_STEPS, Trainer, train
from pgolf_core.training.progress import ATTEMPT, training_curve
from pgolf_core.training.runlog import PARTS


@pytest.fixture
def data(tmp_path: Path):
    return small_data(tmp_path / "data")


def before_updates(trainer: Trainer, act: Callable[[Trainer], object]) -> Trainer:
    """The trainer, that does this in the middle of every step, before it updates the weights; in its warm-up too."""
    update = trainer.optimizers.step
    trainer.optimizers.step = lambda *how: (act(trainer), update(*how))[1]
    return trainer


def signal_at(step: int, number: signal.Signals = signal.SIGTERM) -> Callable[[Trainer], object]:
    return lambda trainer: trainer.step == step and os.kill(os.getpid(), number)


def saved_step(folder: Path) -> int:
    return load_tensors(folder / CHECKPOINT)[1]["step"]


def train_until_killed(folder: Path, data, kill_at: int, changes: dict, pause: float) -> None:
    torch.set_num_threads(1)
    kill = signal_at(kill_at, signal.SIGKILL)
    trainer = Trainer(small_recipe(**changes), 3, data, folder)
    before_updates(trainer, lambda trainer: (kill(trainer), time.sleep(pause))).run()


def run_killed(folder: Path, data, kill_at: int, changes: dict, pause: float = 0.0) -> float:
    """Train in a process that SIGKILL ends in the middle of a step; returns the seconds it lived."""
    t_start = time.monotonic()
    process = start_process(train_until_killed, folder, data, kill_at, changes, pause)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return time.monotonic() - t_start


def test_killed_twice_a_run_ends_with_the_same_bits_and_says_where_it_went_on(data, tmp_path: Path) -> None:
    """A checkpoint after every step, so that each kill loses the step it falls into and no more."""
    changes = {"schedule": {"iterations": 14, "checkpoint_every_seconds": 1e-9, "val_every_steps": 5}}
    whole = train(small_recipe(**changes), 3, data, tmp_path / "whole")
    for kill_at in (4, 9):
        run_killed(tmp_path / "run", data, kill_at, changes)
        assert saved_step(tmp_path / "run") == kill_at
    (tmp_path / "run" / f".{CHECKPOINT}.abc123").write_bytes(b"cut by a kill")
    result = train(small_recipe(**changes), 3, data, tmp_path / "run")
    assert result.resumed_at_steps == [4, 9] and whole.resumed_at_steps == []
    assert_same_bits(tmp_path / "run", tmp_path / "whole")
    curves = [[(x["kind"], x["step"], x["loss"]) for x in training_curve(tmp_path / f)] for f in ("run", "whole")]
    assert curves[0] == curves[1]
    assert not list((tmp_path / "run").glob(".checkpoint*")) and not (tmp_path / "run" / ATTEMPT).exists()


def test_the_seconds_of_all_attempts_add_up_and_name_what_a_kill_lost(data, tmp_path: Path) -> None:
    """Killed without a checkpoint, so that all eight steps are lost; then stopped in order, which loses nothing."""
    changes = {"schedule": {"iterations": 12, "checkpoint_every_seconds": 0.0}}
    assert run_killed(tmp_path, data, 8, changes, pause=0.1) > 0.8
    trainer = before_updates(Trainer(small_recipe(**changes), 3, data, tmp_path), signal_at(6))
    t_start = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="stopped at step 7"):
        before_updates(trainer, lambda _: time.sleep(0.05)).run()
    stopped = time.monotonic() - t_start
    result = train(small_recipe(**changes), 3, data, tmp_path)
    wall, seconds = time.monotonic() - t_start, result.seconds
    assert seconds.keys() == set(PARTS) and result.resumed_at_steps == [7] and seconds["train"] > 7 * 0.05
    assert seconds["lost"] > 0.8 and result.earlier_seconds - seconds["lost"] == pytest.approx(stopped, abs=0.5)
    assert sum(seconds.values()) - seconds["lost"] == pytest.approx(wall, abs=1.0)


def test_a_signal_in_a_long_validation_saves_and_stops_there(data, tmp_path: Path, monkeypatch) -> None:
    recipe, batches = small_recipe(schedule={"val_every_steps": 4}, eval={"batch_seqs": 1}), []
    trainer = Trainer(recipe, 3, data, tmp_path)

    def watched(*arguments, progress, **options):
        def after_batch(*done: int) -> None:
            batches.append(trainer.step)
            if batches.count(4) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            progress(*done)

        return score(*arguments, progress=after_batch, **options)

    monkeypatch.setattr(loop, "score", watched)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 4"):
        trainer.run()
    assert batches.count(4) == 2 < batches.count(0) and saved_step(tmp_path) == 4
    monkeypatch.undo()
    train(recipe, 3, data, tmp_path)
    assert column(tmp_path, "step", "val") == [0, 4, 8, 12]


def test_a_signal_in_the_warm_up_stops_before_the_data_is_touched_and_keeps_a_checkpoint(data, tmp_path: Path) -> None:
    """tests/training/test_loop.py has a warm-up that ends: it leaves every bit of the run as it was."""
    recipe = small_recipe(schedule={"warmup_steps": 3, "checkpoint_every_seconds": 1e-9})
    for step in (0, 5):
        trainer = before_updates(Trainer(recipe, 3, data, tmp_path), signal_at(0, signal.SIGINT))
        trainer.stream.take = None  # the warm-up's tokens are synthetic
        onward = "goes on from" if step else "begins it again"
        with pytest.raises(KeyboardInterrupt, match=f"stopped in its warm-up; the same command {onward}"):
            trainer.run()
        assert (saved_step(tmp_path) if (tmp_path / CHECKPOINT).exists() else 0) == step
        if step == 0:
            with pytest.raises(KeyboardInterrupt):
                before_updates(Trainer(recipe, 3, data, tmp_path), signal_at(4, signal.SIGINT)).run()


def test_a_steps_draws_are_set_by_seed_and_step_so_that_no_checkpoint_need_hold_the_generator(data, tmp_path: Path):
    torch.manual_seed(99)
    result = train(small_recipe(), 3, data, tmp_path)
    after = torch.get_rng_state()
    torch.manual_seed(3 + result.steps - 1)
    assert torch.equal(torch.get_rng_state(), after), "the last step's, and a recipe without dropout draws nothing"


def test_no_step_is_begun_that_would_end_after_the_cap_if_it_took_as_long_as_those_before(data, tmp_path: Path) -> None:
    cap, warming = 0.5, iter([0.3, 0.3])  # the warm-up is outside the cap, however long
    recipe = small_recipe(schedule={"iterations": 10**6, "max_seconds": cap, "warmup_steps": 2})
    result = before_updates(Trainer(recipe, 0, data, tmp_path), lambda _: time.sleep(next(warming, 0.02))).run()
    ends = [0.0, *column(tmp_path, "seconds")]
    took = [after - before for before, after in itertools.pairwise(ends)]
    longest = [max(took[max(0, k - LOOK_BACK_STEPS) : k], default=0.0) for k in range(len(took) + 1)]
    assert all(end + most <= cap for end, most in zip(ends[:-1], longest[:-1], strict=True))
    assert ends[-1] + longest[-1] > cap and result.stopped_by == "clock"
    assert result.seconds["train"] == ends[-1] and result.seconds["warmup"] > 0.6
    assert "stopping_early: wallclock_cap" in (tmp_path / TRAIN_LOG).read_text()


def test_gathering_sensitivity_is_on_the_clock(data, tmp_path: Path) -> None:
    trainer = Trainer(small_recipe(schedule={"warmdown_iters": 12}), 0, data, tmp_path)
    add = trainer.meter.add
    trainer.meter.add = lambda model: (time.sleep(0.2), add(model))
    result = trainer.run()
    assert result.sensitivity_steps >= 1 and result.seconds["train"] > 0.2 * result.sensitivity_steps


def diverge_on_one_rank(world: World, folder: Path, data) -> None:
    settings = small_recipe(data={"spans_per_step": 8}, schedule={"checkpoint_every_seconds": 1e-9})
    trainer = Trainer(settings, 3, data, folder, world=world)
    loss_of = trainer.loss_of
    trainer.loss_of = lambda x, y: loss_of(x, y) * (math.inf if trainer.step == 5 and world.rank == 1 else 1.0)
    with refused(r"^step 6: gradient of \S+ .*is not finite \(loss inf\); lower optim.*$"):
        trainer.run()
    (folder / f"refused{world.rank}").touch()


def test_what_one_rank_alone_finds_not_finite_stops_all_ranks_at_that_step(data, tmp_path: Path) -> None:
    on_ranks(2, diverge_on_one_rank, tmp_path, data)
    assert all((tmp_path / f"refused{rank}").exists() for rank in (0, 1))
    tensors, about = load_tensors(tmp_path / CHECKPOINT)
    assert about["step"] == 5 and all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_real_run_at_an_absurd_rate_names_step_tensor_and_remedy(data, tmp_path: Path) -> None:
    recipe = small_recipe(optim={"matrix_lr": 1e30, "embed_lr": 1e30}, schedule={"checkpoint_every_seconds": 1e-9})
    with refused(r"^step \d+: gradient of \S+ .*is not finite .*; lower optim\.matrix_lr"):
        train(recipe, 0, data, tmp_path)
    kept = tmp_path / CHECKPOINT
    assert not kept.exists() or all(tensor.isfinite().all() for tensor in load_tensors(kept)[0].values())
    assert read_json(tmp_path / ATTEMPT)["lost"] == 0.0 and not (tmp_path / RAW_WEIGHTS).exists()
