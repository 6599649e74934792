"""Training on 1, 2 and 4 real gloo ranks: equal curves, weights, clocks and scores; stopping and going on."""

import contextlib
import itertools
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranks import on_ranks
from refused import refused
from small import column, small_data, small_recipe, weights_of

from pgolf_core.base import parallel
from pgolf_core.base.files import read_json, sha256_bytes, write_json
from pgolf_core.base.names import AVERAGED_WEIGHTS, CHECKPOINT, RAW_WEIGHTS, SENSITIVITY, TRAIN_LOG
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.model import build_model
from pgolf_core.network.score import score
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.batches import micro_batches, open_stream
from pgolf_core.text.shards import load_tokens, step_batch
from pgolf_core.training.average import build_average
from pgolf_core.training.checkpoint import load_tensors, text_of_first
from pgolf_core.training.loop import Trainer
from pgolf_core.training.optim import Optimizers, clip_gradients, muon_momentum, newton_schulz

SPANS = {"spans_per_step": 8, "micro_batch_seqs": 3}


def train_ranks(world: World, settings: Recipe, data, folder: Path, stop_at: int | None = None, slow=0.0) -> None:
    """Train; the last rank may get SIGTERM in a step, or be slow. Every rank notes how it ended."""
    trainer = Trainer(settings, 3, data, folder, world=world)
    step, last = trainer._step, world.rank == world.size - 1

    def watched():
        if last and trainer.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(slow if last else 0.0)
        return step()

    trainer._step = watched
    with contextlib.nullcontext() if stop_at is None else pytest.raises(KeyboardInterrupt, match=f"{stop_at + 1}"):
        trainer.run()
    weights = sha256_bytes(b"".join(p.detach().numpy().tobytes() for p in trainer.model.parameters()))
    write_json(folder / f"rank{world.rank}.json", [trainer.step, trainer.ledger.seconds["train"], weights])


def notes_of(folder: Path, size: int) -> list[list]:
    """Steps, seconds of training and hash of the weights of every rank."""
    return [read_json(folder / f"rank{rank}.json") for rank in range(size)]


def exchange(world: World, lacks: str = "") -> None:
    """Every exchange against what it must give; runs on each rank. `lacks` is what an older torch has not."""
    rank, size = world.rank, world.size
    torch.distributed.__dict__.pop(lacks, None)
    parallel.BUCKET_ELEMENTS = 10  # several buckets, one tensor larger than a bucket
    tensors = [torch.full(shape, float(rank + index)) for index, shape in enumerate([(2, 3), (), (4, 5), (7,), (2,)])]
    world.mean_(tensors)
    assert all((tensor == (size - 1) / 2 + index).all() for index, tensor in enumerate(tensors))
    assert world.largest(float(rank), -rank, rank == 1) == (size - 1, 0.0, 1.0)
    world.meet()
    assert text_of_first(world, f"é from {rank}") == "é from 0" and text_of_first(world, "") == ""
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


@pytest.mark.parametrize(("size", "lacks"), [(2, ""), (4, ""), (2, "all_gather_single")])
def test_exchanges_give_every_rank_the_same_true_values(size: int, lacks: str) -> None:
    on_ranks(size, exchange, lacks)  # torch 2.11 and 2.12 gather by another name


def test_alone_nothing_is_copied_joined_or_changed(monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with parallel.join() as world:
        assert world is ALONE and world.first and not torch.distributed.is_initialized()
    tensor, values = torch.full((3,), torch.nan), (0.1, 2, True)
    for change in (world.mean_, world.copy_first_):
        change([tensor])
    world.fill_(tensor)
    assert tensor.isnan().all() and world.largest(*values) == values and text_of_first(world, "a") == "a"
    finish = world.shared_out(lambda stack: stack, tensor)
    assert finish() is tensor
    parallel.leave(world)  # alone it does nothing


def test_a_step_sends_its_gradients_together_and_its_matrices_by_shape(tmp_path: Path, monkeypatch) -> None:
    """What a step sends does not grow with the number of tensors; all of it is on its way before any is waited for."""
    order: list[str] = []

    def sent(name: str):
        order.append(name)
        return SimpleNamespace(wait=lambda: order.append(f"waited for {name}"))

    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: None)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat, async_op: sent("gradients"))
    gather = lambda whole, part, async_op: (whole.zero_(), sent("matrices"))[1]  # noqa: E731
    monkeypatch.setattr(torch.distributed, "all_gather_single", gather)
    trainer = Trainer(small_recipe(), 0, small_data(tmp_path / "data"), tmp_path / "run", world=World(0, 2))
    trainer.average = build_average(trainer.model, trainer.recipe.average)
    shapes = len(trainer.optimizers.muon.shapes)
    trainer._step()
    sends = ["gradients", "waited for gradients", *["matrices"] * shapes, *["waited for matrices"] * shapes]
    assert order == sends and len(trainer.optimizers.trained) > 30 > shapes
    order.clear()
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
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda how, **more: calls.append((how, more)))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append("left"))
    with parallel.join() as world:
        assert world == World(5, 8) and world.backend == ("nccl" if cuda else "gloo")
    device = torch.device("cuda:1") if cuda else None
    group = ("cpu:gloo,cuda:nccl" if cuda else "gloo", {"timeout": parallel.PATIENCE, "device_id": device})
    assert calls == [*([device] if cuda else []), group, "left"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    if cuda:
        with refused("more processes than this machine's 2 CUDA devices"), parallel.join():
            pass


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "first"}, "RANK, WORLD_SIZE, LOCAL_RANK: .*'first'; unset what torchrun did not set"),
        ({"LOCAL_RANK": ""}, "''; unset what torchrun did not set"),
        ({"WORLD_SIZE": "8"}, r"WORLD_SIZE is 8: .*RANK|WORLD_SIZE is 8: .*MASTER_ADDR"),
    ],
)
def test_variables_of_ranks_that_torchrun_did_not_set_are_told_in_a_line(monkeypatch, variables, message) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with refused(message), parallel.join():
        pass


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 5e-3)])
def test_one_two_and_four_ranks_give_one_loss_curve(tmp_path: Path, dtype: str, tolerance: float) -> None:
    schedule = {"iterations": 20, "warmdown_iters": 12, "val_every_steps": 10}
    settings = small_recipe(data=SPANS, schedule=schedule, optim={"newton_schulz_dtype": dtype})
    data, alone = small_data(tmp_path / "data"), tmp_path / "1"
    for size in (1, 2, 4):
        folder = tmp_path / str(size)
        on_ranks(size, train_ranks, settings, data, folder)
        assert len({weights for _, _, weights in notes_of(folder, size)}) == 1  # bit for bit on every rank
        assert column(folder, "step", "val") == [0, 10, 20] and len(column(folder, "loss")) == 20
        for kind in ("train", "val"):
            many, one = (column(of, "loss", kind) for of in (folder, alone))
            np.testing.assert_allclose(many, one, atol=tolerance, rtol=0)
        counted = [read_json(of / SENSITIVITY)["steps"] for of in (folder, alone)]
        assert counted[0] == counted[1] > 0
        log = (folder / TRAIN_LOG).read_text()
        assert f"world_size:{size} grad_accum_steps:" in log and (f"ranks: {size}, gloo" in log) == (size > 1)


def test_ranks_that_clip_alone_step_by_the_mean_of_what_is_left_of_their_gradients(tmp_path: Path) -> None:
    settings = small_recipe(
        data={**SPANS, "order": "packed"}, optim={"clip_each_rank": True, "grad_clip_norm": 0.3, "muon_wd": 0.0},
        schedule={"iterations": 1, "warmdown_iters": 0},
    )  # fmt: skip
    data, norms, clipped = small_data(tmp_path / "data"), [], {}
    on_ranks(2, train_ranks, settings, data, tmp_path / "2")
    assert len({weights for _, _, weights in notes_of(tmp_path / "2", 2)}) == 1
    model = build_model(settings.model, 3)
    optimizers = Optimizers(model, settings.optim)
    for rank in range(2):
        stream = open_stream(settings.data, data.train_paths, data.vocab_size, 3)
        for x, y, starts in micro_batches(*step_batch(stream, settings.data, rank, 2), settings.data):
            (model(x, y, starts, settings.data.seq_len) * len(x) / 4).backward()
        norms.append(clip_gradients(optimizers.trained, 0.3))
        for name, parameter in model.named_parameters():
            clipped[name] = clipped.get(name, 0.0) + parameter.grad / 2
            parameter.grad = None
    assert min(norms) > 0.3 and column(tmp_path / "2", "grad_norm") == pytest.approx([np.mean(norms)], rel=1e-5)
    for name, parameter in model.named_parameters():
        parameter.grad = clipped[name]
    optimizers.step(1.0, muon_momentum(0, settings.optim))
    for name, weight in weights_of(tmp_path / "2", RAW_WEIGHTS).items():
        torch.testing.assert_close(weight, model.get_parameter(name).detach(), atol=1e-5, rtol=1e-4)


def test_one_ranks_signal_stops_all_at_one_step_and_another_number_of_ranks_goes_on(tmp_path: Path) -> None:
    settings = small_recipe(
        data=SPANS, schedule={"iterations": 20, "val_every_steps": 10}, average={"kind": "swa", "swa_every_steps": 2}
    )
    data = small_data(tmp_path / "data")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    on_ranks(1, train_ranks, settings, data, whole)
    on_ranks(2, train_ranks, settings, data, parts, 6)
    assert [steps for steps, *_ in notes_of(parts, 2)] == [7, 7]
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
    on_ranks(2, train_ranks, settings, small_data(tmp_path / "data"), tmp_path, None, 0.05)
    first, second = notes_of(tmp_path, 2)
    assert first == second and first[0] <= 20 and column(tmp_path, "seconds")[-1] == first[1] > 0.5


def score_ranks(world: World, settings: Recipe, data, tokens: np.ndarray, folder: Path) -> None:
    model = build_model(settings.model, 0)
    for stride, limit in itertools.product((4, 16), (0, 40)):  # with 40 targets some ranks have no window
        found = score(model, tokens, data.token_bytes, 16, stride, 3, max_targets=limit, world=world)
        told = {**found.to_dict(), "seconds": 0.0, "nats of each": found.per_token_nats.tolist()}
        write_json(folder / f"{stride}-{limit}-of-{world.size}-{world.rank}", told)
    with torch.no_grad():
        model.tok_emb.weight.fill_(torch.nan)
    with refused("the score is not finite"):
        score(model, tokens, data.token_bytes, 16, 16, 3, world=world)


def test_a_score_shared_by_ranks_is_one_ranks_score_target_by_target(tmp_path: Path) -> None:
    data = small_data(tmp_path / "data")  # 301 tokens for validation: the last windows are cut
    for size in (1, 3):
        on_ranks(size, score_ranks, small_recipe(), data, load_tokens(data.val_paths), tmp_path)
    for name, targets in (("4-0", 300), ("4-40", 40), ("16-0", 300), ("16-40", 40)):
        alone, *shared = (read_json(tmp_path / f"{name}-of-{rank}") for rank in ("1-0", "3-0", "3-1", "3-2"))
        assert shared == [alone] * 3 and len(alone["nats of each"]) == targets
