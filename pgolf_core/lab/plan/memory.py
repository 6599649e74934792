"""Memory of one rank while it trains: what autograd keeps of a forward pass on fake tensors, and the state.

The pass is traced as training runs it, which takes no memory and, of a record that is compiled, ten seconds: compiled,
the partitioner decides what is recomputed. Not counted: what an operation holds for a moment beyond the head's
gradient, libraries, the allocator's slack, the process. Against the published peaks: 3 to 6 % above PR 315, 332 and
534; 19 % below PR 194, which ran torch 2.4.1 and expanded its key/value heads by hand.
"""

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor, UntypedStorage
from torch._functorch.aot_autograd import aot_function
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode

from pgolf_core.base.device import autocast_dtype
from pgolf_core.lab.compare.records import Published
from pgolf_core.lab.shared.tables import so_many
from pgolf_core.lab.shared.texts import FINEWEB_TRACK
from pgolf_core.lab.shared.usage import UsageError
from pgolf_core.network import attention
from pgolf_core.network.attention import kernel_name
from pgolf_core.network.choice import qat_grids
from pgolf_core.network.head import CHUNKS
from pgolf_core.network.model import GPT, in_one_pass, layer_order, parameter_shapes
from pgolf_core.recipes.recipe import Model, Recipe
from pgolf_core.training.optim import parameter_groups

RECORD_RANKS = 8
"""Ranks of the record track where nobody says, and of its published runs; one on any other."""
Row = tuple[str, int | float | None, str, str]
"""A line of the plan: quantity, value (None where it cannot be told), unit, note."""


@dataclass(frozen=True)
class Execution:
    """How a step runs, as far as memory goes."""

    compiled: bool
    bfloat16: bool
    blocked: bool
    """Attention in query blocks, which keeps its weights; fused kernels keep one number a query and head."""
    one_pass: bool = False
    """The head's gradient is computed with its loss (network/head.py): compiled on CPUs."""

    def __str__(self) -> str:
        attention = "attention in query blocks" if self.blocked else "fused attention"
        how, dtype = "compiled" if self.compiled else "eager", "bfloat16" if self.bfloat16 else "float32"
        return f"{how}, {dtype}, {attention}" + (", head in one pass" if self.one_pass else "")


def assumed_execution(recipe: Recipe) -> Execution:
    """On the record track a CUDA device with bfloat16 and a compiler, on any other this machine's CPU.

    A compiler that is there is believed to work: to try it takes seconds.
    """
    schedule = recipe.schedule
    if recipe.track == FINEWEB_TRACK:
        return Execution(schedule.compile == "auto", schedule.autocast == "auto", blocked=False)
    cpu = torch.device("cpu")
    bfloat16 = autocast_dtype(cpu, schedule.autocast) is torch.bfloat16
    compiled = schedule.compile == "auto" and any(map(shutil.which, filter(None, torch._inductor.config.cpp.cxx)))
    blocked = kernel_name("cpu", bfloat16) == "query blocks"
    return Execution(compiled, bfloat16, blocked, one_pass=compiled and in_one_pass(recipe.model, "cpu"))


def ranks_of(recipe: Recipe, ranks: int | None) -> int:
    """`ranks`, or as many of the track's usual number as share a step's spans equally; UsageError where they do not."""
    spans = recipe.data.spans_per_step
    if ranks is None:
        return math.gcd(RECORD_RANKS if recipe.track == FINEWEB_TRACK else 1, spans)
    if ranks < 1 or spans % ranks:
        fitting = ", ".join(str(n) for n in range(1, spans + 1) if spans % n == 0)
        raise UsageError(f"{ranks} processes do not divide data.spans_per_step = {spans}; use --nproc of {fitting}")
    return ranks


def micro_batch(recipe: Recipe, ranks: int) -> tuple[int, int]:
    """(sequences of the largest forward pass of a rank, forward passes of a step on a rank)."""
    sequences = recipe.data.batch_tokens // recipe.data.seq_len // ranks
    size = min(recipe.data.micro_batch_seqs, sequences)
    return size, math.ceil(sequences / size)


def runs(model: Model) -> list[int]:
    """The blocks that one forward pass runs with its loop on, in order: those of a loop several times."""
    return [layer for half in layer_order(model) for layer in half]


def kept_bytes(recipe: Recipe, how: Execution, sequences: int) -> int:
    """Bytes that autograd keeps of a forward pass over so many sequences, parameters left out: activations, logits, and
    the matrices as the products take them. The loop is on, and in float32 so is fake quantisation, where a recipe has
    them."""
    kept: dict[int, UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage)  # which lives on, so that no address is used again
        return tensor

    kernel = ("query blocks" if how.blocked else "SDPA", "")
    with FakeTensorMode(), mock.patch.object(attention, "choose_kernel", lambda *_: kernel):
        model = GPT(recipe.model)
        if recipe.qat.kind != "off" and not how.bfloat16:  # else there are copies anyway, and minutes go by
            model.set_fake_grids(qat_grids(parameter_shapes(recipe.model), recipe.quant, recipe.qat))
        named = dict(model.named_parameters())

        def loss(ids: Tensor, *weights: Tensor) -> Tensor:
            return torch.func.functional_call(model, dict(zip(named, weights, strict=True)), (ids, ids))

        if how.compiled:
            cut, table = min_cut_rematerialization_partition, select_decomp_table()
            loss = aot_function(loss, lambda graph, _: graph, partition_fn=cut, decompositions=table)
        with (
            mock.patch.object(torch.compiler, "is_compiling", lambda: how.one_pass),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=how.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        ):
            loss(torch.zeros(sequences, recipe.data.seq_len, dtype=torch.int64), *named.values())
    own = {parameter.untyped_storage()._cdata for parameter in named.values()}
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


def head_gradient_bytes(model: Model, how: Execution, tokens: int) -> int:
    """Held besides, while the loss's gradient is formed: compiled one of the V logits a token in float32, eager two.

    In one pass logits are held a chunk of the targets at a time.
    """
    if how.one_pass:
        return (4 if how.bfloat16 else 8) * math.ceil(tokens / CHUNKS) * model.vocab_size
    return (4 if how.compiled else 8) * model.vocab_size * tokens


def memory_parts(recipe: Recipe, ranks: int) -> dict[str, tuple[int, str]]:
    """Bytes and note of each part on one rank; their sum is the peak, early in the last backward pass of a step."""
    how, model, shapes = assumed_execution(recipe), recipe.model, parameter_shapes(recipe.model)
    counts: Counter[str] = Counter()
    for group in parameter_groups(shapes, recipe.optim):
        counts[group.optimizer] += sum(math.prod(shapes[name]) for name in group.parameters)
    weights, average = 4 * counts.total(), recipe.average.kind
    sequences = micro_batch(recipe, ranks)[0]
    tokens, kept = sequences * recipe.data.seq_len, kept_bytes(recipe, how, sequences)
    return {
        "weights": (weights, "float32"),
        "gradients": (weights - 4 * counts["frozen"], "float32, as if all were there at the peak"),
        "optimiser": (4 * counts["muon"] + 8 * counts["adamw"], "float32, a moment a Muon weight, two an AdamW one"),
        "average": (0 if average == "none" else weights, f"float32, average.kind = {average}"),
        "kept for the backward": (kept, f"{kept / tokens / 1000:,.1f} kB a token of the micro-batch; {how}"),
        "logits' gradient": (head_gradient_bytes(model, how, tokens), "formed first, while all of that is there"),
    }


def memory_rows(recipe: Recipe, ranks: int, record: Published | None) -> Iterator[Row]:
    """Rows of the plan. `record`: who ran this very step on as many ranks, if anyone."""
    sequences, passes = micro_batch(recipe, ranks)
    step = recipe.data.batch_tokens // recipe.data.seq_len // ranks
    yield "ranks", ranks, "", "they split the tokens of a step; all else is whole on each" if ranks > 1 else ""
    note = f"{sequences:,} of {so_many(step, 'sequence')} that a rank has in a step"
    yield "micro-batch of a rank", sequences * recipe.data.seq_len, "tokens", note
    yield "micro-batches of a step", passes, "", "gradients are accumulated over them" if passes > 1 else ""
    parts = memory_parts(recipe, ranks)
    for what, (size, note) in parts.items():
        yield f"memory: {what}", size, "bytes", note
    total, note = sum(size for size, _ in parts.values()), "peak of a step, tensors alone"
    if record is not None and record.peak_memory_mib is not None:
        off = total / 2**20 / record.peak_memory_mib - 1
        side = f"{abs(off):.0%} {'above' if off > 0 else 'below'}"
        note += f", {side} the published {record.peak_memory_mib:,.0f} MiB (torch {record.torch})"
    yield "memory: together", total, "bytes", note
