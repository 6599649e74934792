"""Training on 1, 2 and 4 real gloo ranks: equal curves, weights, clocks and scores; stopping and going on.

pytest tests/base/test_parallel.py (tests/lab/record has the launcher, and ranks that fail)
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranks import on_ranks
from small import column, small_data, small_recipe, weights_of

from pgolf_core.base import parallel
from pgolf_core.base.files import UserError, sha256_bytes
from pgolf_core.base.names import AVERAGED_WEIGHTS, CHECKPOINT, RAW_WEIGHTS, SENSITIVITY, TRAIN_LOG
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.model import build_model
from pgolf_core.network.score import score
from pgolf_core.recipes import recipe
from pgolf_core.training.average import build_average
from pgolf_core.training.checkpoint import load_tensors
from pgolf_core.training.loop import Trainer
from pgolf_core.training.optim import newton_schulz

SPANS = {"spans_per_step": 8, "micro_batch_seqs": 3}


def train_ranks(
    world: World, settings: recipe.Recipe, data, folder: Path, stop_at: int | None = None, slow: float = 0.0
) -> None:
    """Train; the last rank may get SIGTERM in a step, or be slow. Every rank notes how it ended."""
    trainer = Trainer(settings, 3, data, folder, world=world)
    step, last = trainer._step, world.rank == world.size - 1

    def watched():
        if last and trainer.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(slow if last else 0.0)
        return step()

    trainer._step = watched
    ends = contextlib.nullcontext() if stop_at is None else pytest.raises(KeyboardInterrupt, match=f"{stop_at + 1}")
    with ends:
        trainer.run()
    weights = sha256_bytes(b"".join(p.detach().numpy().tobytes() for p in trainer.model.parameters()))
    notes = {"steps": trainer.step, "seconds": trainer.ledger.seconds["train"], "weights": weights}
    (folder / f"rank{world.rank}.json").write_text(json.dumps(notes))


def notes_of(folder: Path, size: int) -> list[dict]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(size)]


# ---------------------------------------------------------------------- exchanges


def exchange(world: World) -> None:
    """Every exchange against what it must give; runs on each rank."""
    rank, size = world.rank, world.size
    parallel.BUCKET_ELEMENTS = 10  # several buckets, one tensor larger than a bucket
    tensors = [torch.full(shape, float(rank + index)) for index, shape in enumerate([(2, 3), (), (4, 5), (7,), (2,)])]
    world.mean_(tensors)
    for index, tensor in enumerate(tensors):
        assert torch.equal(tensor, torch.full_like(tensor, (size - 1) / 2 + index))
    assert world.largest(float(rank), -rank, rank == 1) == (size - 1, 0.0, 1.0)
    world.meet()
    assert world.text_of_first(f"é from {rank}") == "é from 0" and world.text_of_first("") == ""
    copied = [torch.full((3,), float(rank)), torch.tensor(rank), torch.full((2, 3), float(rank)).T]
    world.copy_first_(copied)
    assert not any(tensor.any() for tensor in copied)
    places = torch.full((9,), torch.nan)
    places[rank::size] = -1.0 - rank
    places[8] = torch.nan
    world.fill_(places)
    assert places.tolist() == [-1.0 - place % size for place in range(8)] + [-torch.inf]
    for count in (1, size - 1, size, size + 1, 2 * size + 1):  # also numbers that the ranks do not divide
        for shape, dtype in (((4, 6), torch.float32), ((6, 4), torch.float32), ((5, 5), torch.bfloat16)):
            stack = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
            shared = world.shared_out(lambda part, dtype=dtype: newton_schulz(part, 5, dtype), stack)()
            torch.testing.assert_close(shared, newton_schulz(stack, 5, dtype), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_exchanges_give_every_rank_the_same_true_values(size: int) -> None:
    on_ranks(size, exchange)


def test_alone_nothing_is_copied_joined_or_changed(monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with parallel.join() as world:
        assert world is ALONE and world.first and not torch.distributed.is_initialized()
    tensor, values = torch.full((3,), torch.nan), (0.1, 2, True)
    before = tensor.clone()
    world.mean_([tensor])
    world.fill_(tensor)
    world.copy_first_([tensor])
    assert torch.equal(tensor.view(torch.int32), before.view(torch.int32))
    assert world.largest(*values) == values and world.text_of_first("a") == "a"
    seen = []
    finish = world.shared_out(lambda stack: seen.append(stack) or stack + 1, tensor)
    assert seen[0] is tensor and finish() is finish()
    parallel.leave(world)  # alone it does nothing


def test_a_step_sends_its_gradients_together_its_matrices_by_shape_and_one_clock(tmp_path, monkeypatch) -> None:
    """What a step sends does not grow with the number of tensors; all of it is on its way before any is waited for."""
    order: list[str] = []

    def sent(name: str):
        order.append(name)
        return SimpleNamespace(wait=lambda: order.append(f"waited for {name}"))

    monkeypatch.setattr(parallel.dist, "broadcast", lambda tensor, src: None)
    monkeypatch.setattr(parallel.dist, "all_reduce", lambda flat, async_op=False, op=None: sent("gradients"))
    monkeypatch.setattr(
        parallel.dist, "all_gather_single", lambda whole, part, async_op: (whole.zero_(), sent("matrices"))[1]
    )
    trainer = Trainer(small_recipe(), 0, small_data(tmp_path / "data"), tmp_path / "run", world=World(0, 2))
    trainer.average = build_average(trainer.model, trainer.recipe.average)
    shapes = len(trainer.optimizers.muon.shapes)
    trainer._step()
    sends = ["gradients", "waited for gradients", *["matrices"] * shapes, *["waited for matrices"] * shapes]
    assert order == sends and len(trainer.optimizers.trained) > 30 > shapes
    order.clear()
    trainer.world.largest(1.0, True, False)  # the clock, a signal and a checkpoint that is due go together
    monkeypatch.setattr(parallel, "BUCKET_ELEMENTS", 4000)
    trainer._step()
    buckets = order.count("gradients")
    assert 3 <= buckets < 11 and order[:buckets] == ["gradients"] * buckets


@pytest.mark.parametrize("cuda", [False, True])
def test_joining_picks_the_backend_and_the_device_of_the_rank(monkeypatch, cuda: bool) -> None:
    calls = []
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(device))
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda *how, **more: calls.append((how, more)))
    monkeypatch.setattr(parallel.dist, "destroy_process_group", lambda: calls.append("left"))
    with parallel.join() as world:
        assert world == World(5, 8) and world.backend == ("nccl" if cuda else "gloo")
    device = torch.device("cuda:1") if cuda else None
    group = ((("cpu:gloo,cuda:nccl" if cuda else "gloo"),), {"timeout": parallel.PATIENCE, "device_id": device})
    assert calls == [*([device] if cuda else []), group, "left"]
    if cuda:
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(UserError, match="more processes than this machine's 2 CUDA devices"), parallel.join():
            pass


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 5e-3)])
def test_one_two_and_four_ranks_give_one_loss_curve(tmp_path: Path, dtype: str, tolerance: float) -> None:
    schedule = {"iterations": 20, "warmdown_iters": 12, "val_every_steps": 10}
    settings = small_recipe(data=SPANS, schedule=schedule, optim={"newton_schulz_dtype": dtype})
    data = small_data(tmp_path / "data")
    folders = {size: tmp_path / str(size) for size in (1, 2, 4)}
    for size, folder in folders.items():
        on_ranks(size, train_ranks, settings, data, folder)
        assert len({note["weights"] for note in notes_of(folder, size)}) == 1  # bit for bit on every rank
        assert len(column(folder, "loss")) == 20 and column(folder, "step", "val") == [0, 10, 20]
    counted = {size: json.loads((folder / SENSITIVITY).read_text())["steps"] for size, folder in folders.items()}
    assert len(set(counted.values())) == 1 and counted[1] > 0
    for size in (2, 4):
        for kind in ("train", "val"):
            one, many = (column(folders[n], "loss", kind) for n in (1, size))
            np.testing.assert_allclose(many, one, atol=tolerance, rtol=0)
        log = (folders[size] / TRAIN_LOG).read_text()
        assert f"ranks: {size}, gloo" in log.splitlines()[0] and f"world_size:{size} grad_accum_steps:" in log


def test_one_ranks_signal_stops_all_at_one_step_and_another_number_of_ranks_goes_on(tmp_path: Path) -> None:
    settings = small_recipe(
        data=SPANS, schedule={"iterations": 20, "val_every_steps": 10}, average={"kind": "swa", "swa_every_steps": 2}
    )
    data = small_data(tmp_path / "data")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    on_ranks(1, train_ranks, settings, data, whole)
    on_ranks(2, train_ranks, settings, data, parts, 6)
    assert [note["steps"] for note in notes_of(parts, 2)] == [7, 7]
    assert load_tensors(parts / CHECKPOINT)[1]["step"] == 7
    on_ranks(4, train_ranks, settings, data, parts, 13)
    on_ranks(1, train_ranks, settings, data, parts)
    assert "resumed step:14" in (parts / TRAIN_LOG).read_text() and not (parts / CHECKPOINT).exists()
    assert column(parts, "step") == list(range(1, 21))
    np.testing.assert_allclose(column(parts, "loss"), column(whole, "loss"), atol=1e-4, rtol=0)
    for name in (RAW_WEIGHTS, AVERAGED_WEIGHTS):
        torch.testing.assert_close(weights_of(parts, name), weights_of(whole, name), atol=1e-3, rtol=1e-3)


def test_the_slowest_ranks_clock_is_every_ranks_clock(tmp_path: Path) -> None:
    settings = small_recipe(data=SPANS, schedule={"iterations": 10**6, "max_seconds": 1.0})
    on_ranks(2, train_ranks, settings, small_data(tmp_path / "data"), tmp_path / "run", None, 0.05)
    first, second = notes_of(tmp_path / "run", 2)
    assert first == second and first["seconds"] > 0.5 and first["steps"] <= 20
    assert column(tmp_path / "run", "seconds")[-1] == first["seconds"]
    assert "stopping_early: wallclock_cap" in (tmp_path / "run" / TRAIN_LOG).read_text()


# ---------------------------------------------------------------------- validation


def score_ranks(world: World, settings: recipe.Recipe, data, tokens: np.ndarray, folder: Path) -> None:
    model = build_model(settings.model, 0)
    for stride in (4, 16):
        for limit in (0, 40):  # with 40 targets some ranks have no window
            found = score(model, tokens, data.token_bytes, 16, stride, 3, max_targets=limit, world=world)
            told = {**found.to_dict(), "seconds": 0.0, "nats of each": found.per_token_nats.tolist()}
            (folder / f"{stride}-{limit}-of-{world.size}-{world.rank}").write_text(json.dumps(told))
    with torch.no_grad():
        model.tok_emb.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="the score is not finite"):
        score(model, tokens, data.token_bytes, 16, 16, 3, world=world)


def test_a_score_shared_by_ranks_is_one_ranks_score_target_by_target(tmp_path: Path) -> None:
    settings, data = small_recipe(), small_data(tmp_path / "data")
    tokens = np.fromfile(data.val_paths[0], dtype="<u2")[512:]  # 301 tokens: the last windows are cut
    for size in (1, 3):
        on_ranks(size, score_ranks, settings, data, tokens, tmp_path)
    for name, targets in (("4-0", 300), ("4-40", 40), ("16-0", 300), ("16-40", 40)):
        alone, *shared = ((tmp_path / f"{name}-of-{rank}").read_text() for rank in ("1-0", "3-0", "3-1", "3-2"))
        assert shared == [alone] * 3 and len(json.loads(alone)["nats of each"]) == targets
