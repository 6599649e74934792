"""A training step without data: the real Trainer on fake tensors (shapes and dtypes alone), as one rank of eight.

torch's fake process group answers every exchange at once; torch's fake tensors know what each operation returns.
"""

from __future__ import annotations

import math
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed._tools.fake_collectives  # tells fake tensors what exchanges return
from flash import MODULES, installed
from small import flat_bytes
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pgolf_core.base import device as machine
from pgolf_core.base.parallel import World
from pgolf_core.network import attention
from pgolf_core.network.model import GPT
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.shards import write_shard
from pgolf_core.training import loop as train

WORLD = World(rank=3, size=8)
STEP, MULTIPLIER = 49, 0.05
"""One step at which everything is on: late QAT, gradient statistics, SWA's snapshot every 50 steps."""


@dataclass
class Trace:
    """What one rank did in one step."""

    name: str
    trainer: train.Trainer
    record: dict[str, float]
    batches: list[tuple[int, ...]]
    """Shape of the token ids of every forward pass."""
    orthogonalised: list[tuple[int, ...]]
    """Shapes of the stacks that Newton-Schulz was given."""
    rss_bytes: int
    """By how much the process's peak memory grew."""
    reduced: list[torch.Size] = field(default_factory=list)
    gathered: list[tuple[torch.Size, torch.dtype]] = field(default_factory=list)
    attended: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)
    """q, k and v of every call of the attention kernel."""
    written: Counter = field(default_factory=Counter)
    """How often each tensor (by identity) was written by an optimiser's or an average's fused operation."""
    traced_bytes: int = 0
    """Bytes of all results, had they been real."""
    int8_results: int = 0
    real_results: int = 0


class _Watch(TorchDispatchMode):
    """Notes what matters of every operation, and lets the host read 1.0 where it asks for a number."""

    def __init__(self, trace: Trace):
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        trace, name = self.trace, str(func)
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        if name.startswith("c10d.allreduce_"):
            trace.reduced += [tensor.shape for tensor in args[0]]
        elif name.startswith("c10d._allgather_base_"):
            trace.gathered.append((args[0].shape, args[0].dtype))
        elif "._flash_attn_forward" in name:
            assert {x.dtype for x in args[:3]} == {torch.bfloat16}
            trace.attended.append(tuple(tuple(x.shape) for x in args[:3]))
        elif name.startswith(("aten._foreach_add_", "aten._foreach_lerp_", "aten._fused_adamw_")):
            trace.written.update(id(tensor) for tensor in args[0])
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                trace.real_results += not isinstance(tensor, FakeTensor)
                trace.traced_bytes += tensor.nbytes
                trace.int8_results += tensor.dtype is torch.int8
        return output


def token_files(recipe: Recipe, folder: Path) -> train.TrainData:
    """Just enough zeros for one step."""
    write_shard(folder / "t.bin", np.zeros(recipe.data.batch_tokens + recipe.data.spans_per_step, np.uint16))
    write_shard(folder / "v.bin", np.zeros(recipe.eval.seq_len + 1, np.uint16))
    vocab = recipe.model.vocab_size
    return train.TrainData([folder / "t.bin"], [folder / "v.bin"], flat_bytes(vocab), vocab, sha256="")


@contextmanager
def fake_process_group() -> Iterator[None]:
    """torch's process group that does nothing, as rank 3 of 8."""
    dist.init_process_group("fake", rank=WORLD.rank, world_size=WORLD.size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def trace_step(record: str, folder: Path) -> Trace:
    """Build a record's Trainer, and take one step, all on fake tensors."""
    recipe = load_recipe(record, ["schedule.compile=off"])
    data, kernel = token_files(recipe, folder), "FlashAttention-3"
    with pytest.MonkeyPatch.context() as patch, installed(patch, kernel), fake_process_group():
        assert attention._flash_fault(kernel, *MODULES[kernel]) is None
        patch.setattr(attention, "choose_kernel", lambda *_: (kernel, ""))
        patch.setattr(train, "rate_multiplier", lambda *_: MULTIPLIER)
        patch.setattr(machine, "has_bfloat16_hardware", lambda _: True)
        patch.setattr(machine, "pick_device", lambda: torch.device("cpu"))
        patch.setattr(GPT, "to", lambda self, *_: self)  # torch cannot move a module of fake tensors
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        batches, stacks = [], []
        with FakeTensorMode(allow_non_fake_inputs=True), _Watch(Trace(record, None, {}, batches, stacks, 0)) as watch:
            trainer = train.Trainer(recipe, 0, data, folder / "run", world=WORLD)
            trainer.average = train.build_average(trainer.model, recipe.average)
            model, orthogonalise = trainer.loss_of, trainer.optimizers.muon.orthogonalise
            trainer.loss_of = lambda x, y: batches.append(tuple(x.shape)) or model(x, y)
            trainer.optimizers.muon.orthogonalise = lambda x, *how: (
                stacks.append(tuple(x.shape)) or (orthogonalise(x, *how))
            )
            trainer.step = STEP
            trace = watch.trace
            trace.traced_bytes = trace.real_results = 0
            trace.trainer, trace.record = trainer, trainer._step()
        trace.rss_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return trace


def muon_shares(trainer: train.Trainer) -> dict[tuple[int, ...], int]:
    """How many matrices of each shape one rank of the eight should work on: an eighth, rounded up."""
    return {shape: math.ceil(len(members) / WORLD.size) for shape, members in trainer.optimizers.muon.shapes.items()}


class Indexing(TorchFunctionMode):
    """x[...] of a fake CUDA tensor by torch's own operators: Python's way asks for a CUDA driver, even for a fake."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.Tensor.__getitem__ or args[0].device.type != "cuda":
            return func(*args, **(kwargs or {}))
        x, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
        dim = 0
        for place, part in enumerate(index):
            if part is Ellipsis:
                dim = x.ndim - (len(index) - 1 - place)
            elif part is None:
                x, dim = x.unsqueeze(dim), dim + 1
            elif isinstance(part, slice):
                x, dim = torch.ops.aten.slice(x, dim, part.start, part.stop, part.step or 1), dim + 1
            else:
                x = x.select(dim, part)
        return x
