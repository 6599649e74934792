"""Memory of one rank while it trains: what is kept for the backward pass, counted tensor by tensor, and the state.

Its test holds the counts against what autograd saves of fake tensors, for every switch of the model and the records at
full size (which takes ten seconds for a compiled network). Three ways to run differ: compiled (the partitioner
recomputes what is cheap), eager under bfloat16 autocast (norms keep their inputs in float32), eager in float32. Not
counted: what an operation holds for a moment beyond the head's gradient, libraries, the allocator's slack, the process.
Against the published peaks: 3 to 6 % above PR 315, 332 and 534; 19 % below PR 194, which ran torch 2.4.1 and expanded
its key/value heads by hand.
"""

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pgolf_core.base.device import autocast_dtype
from pgolf_core.lab.compare.records import Published
from pgolf_core.lab.shared.texts import FINEWEB_TRACK
from pgolf_core.lab.shared.usage import UsageError
from pgolf_core.network.attention import kernel_name
from pgolf_core.network.head import CHUNKS
from pgolf_core.network.model import in_one_pass, layer_order, parameter_shapes
from pgolf_core.recipes.recipe import Model, Recipe
from pgolf_core.training.optim import parameter_groups

RECORD_RANKS = 8
"""Ranks of the record track where nobody says, and of its published runs; one on any other."""
QUERY_BLOCK = 128
"""Queries of a block in pgolf_core.network.attention's own CPU kernel."""
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

    A compiler that is there is believed to work: to try it takes longer than all of a plan.
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


def kept_bytes_per_token(model: Model, seq_len: int, how: Execution) -> float:
    """Bytes that the network keeps for the backward pass, for each token of a micro-batch; the head's logits apart.

    A block keeps 11 tensors of the model's width (the stream before and after its mix and after attention, both normed
    inputs, queries before their norm, before and after their gain, the attention's output, what both learned scales
    multiply), 3 of the key/value width (keys before their norm and after rotation, values) and 2 of the MLP's. A block
    in a loop keeps them in every pass. An eager leaky ReLU keeps its input besides; a gated skip keeps what it blends,
    the first of them what is there anyway; a parallel block's MLP norm finds its input there, and compiled its output.
    Two lanes keep what each of them adds up, gated heads what their gates multiply.
    """
    order = runs(model)
    layers, heads, kv_heads = len(order), model.num_heads, model.num_kv_heads
    exclusive = sum(layer >= model.num_layers - model.xsa_last_n for layer in order)
    parallel = sum(0 <= model.parallel_start <= layer for layer in order)
    gated = model.skip_gates * (layers // 2)
    size, bigram = 2 if how.bfloat16 else 4, bool(model.bigram_rows)
    ends, scores = 1.0, 0.0  # query blocks copy keys and values up to each block's end, and keep attention's weights
    if how.blocked:
        blocks = [(min(QUERY_BLOCK, seq_len - start), start) for start in range(0, seq_len, QUERY_BLOCK)]
        ends = sum(start + rows for rows, start in blocks) / seq_len
        scores = sum((start + rows) * rows for rows, start in blocks) / seq_len
    outside = (1 if how.compiled else 4) + {"off": 0, "window": 1}.get(model.smear, 2) + bigram
    of_width = size * (11 * layers + outside + exclusive)
    of_width += size * (max(gated - 1, 0) + (-2 * parallel if how.compiled else gated))
    if model.lanes == 2:
        first = model.skip_gates or layer_order(model)[1][0] == model.parallel_start  # has its stream kept anyway
        of_width += size * ((3 + how.compiled) * parallel - first)
    gates = (model.gate_window + 2) * (model.smear == "window")
    if model.attn_gate != "off":  # compiled, the exclusion and the gate are computed anew together
        of_width += size * (layers - how.compiled * exclusive)
        gates += layers * heads
    of_kv_width = size * (layers + 2 * layers * ends + bool(model.ve_layers)) + 4 * exclusive
    if not how.bfloat16 and not how.compiled:
        of_width -= size * parallel
    if how.bfloat16 and not how.compiled:  # norms and exclusion compute, and so keep, float32
        of_width += 2 * (3 * layers + 2) + (4 - size * how.blocked) * exclusive
        of_kv_width += 2 * layers + 4 * exclusive
    numbers = 2 * layers + 2 + (layers + exclusive) * (heads + kv_heads)  # of norms and of fused attention
    numbers += (0 if how.blocked else layers * heads) + (0 if how.compiled else exclusive * kv_heads)
    numbers -= parallel * how.compiled
    kv_width = kv_heads * (model.model_dim // heads)
    of_mlp = 3 if model.negative_slope and not how.compiled else 2
    others = model.mlp_hidden * of_mlp * layers + model.bigram_dim * bigram + model.ve_dim + layers * heads * scores
    others += gates
    indices = 8 * (2 + bigram)  # tokens, targets, rows of the bigram table
    return of_width * model.model_dim + of_kv_width * kv_width + size * others + 4 * numbers + indices


def matrix_passes(model: Model) -> tuple[dict[str, int], dict[str, int]]:
    """(weights, passes of a forward pass with the loop on) of every matrix and table, by name."""
    sizes = {n: math.prod(shape) for n, shape in parameter_shapes(model).items() if n.endswith(".weight")}
    times = Counter(f"blocks.{layer}" for layer in runs(model))
    return sizes, {name: times[".".join(name.split(".")[:2])] or 1 for name in sizes}


def head_bytes(model: Model, how: Execution, tokens: int) -> tuple[int, int]:
    """(kept for the backward pass, needed besides while the loss's gradient is formed): V logits a token.

    Compiled, the logits are kept as they come and one float32 gradient is formed; eager, the soft-capped logits and
    their log-softmax are kept, and as much again is formed; with two caps also the logits before, caps and their signs.
    In one pass the table's gradient is kept, with one number for each target; logits are held a chunk at a time.
    """
    vocab, size = model.vocab_size, 2 if how.bfloat16 else 4
    if how.one_pass:
        kept = (4 - 2 * how.bfloat16) * vocab * model.model_dim  # in place of the copy that the head's product keeps
        return 4 * tokens + kept, 2 * size * math.ceil(tokens / CHUNKS) * vocab
    if how.compiled:
        return (size * vocab + 8) * tokens, 4 * vocab * tokens
    return (25 if model.softcaps == "two" else 8) * vocab * tokens, 8 * vocab * tokens


def weight_copy_bytes(recipe: Recipe, how: Execution) -> int:
    """Bytes of the matrices as the products take them: bfloat16 copies, or fake-quantised ones in float32.

    Eager, every pass through a loop makes copies of its own.
    """
    sizes, passes = matrix_passes(recipe.model)
    linear = sum(size * (1 if how.compiled else passes[name]) for name, size in sizes.items() if "emb" not in name)
    if how.bfloat16:
        return 2 * (linear + sizes["tok_emb.weight"])
    return 4 * linear if recipe.qat.kind != "off" else 0


def memory_parts(recipe: Recipe, ranks: int) -> dict[str, tuple[int, str]]:
    """Bytes and note of each part on one rank; their sum is the peak, early in the last backward pass of a step."""
    how, model, shapes = assumed_execution(recipe), recipe.model, parameter_shapes(recipe.model)
    counts: Counter[str] = Counter()
    for group in parameter_groups(shapes, recipe.optim):
        counts[group.optimizer] += sum(math.prod(shapes[name]) for name in group.parameters)
    weights, average = 4 * counts.total(), recipe.average.kind
    tokens = micro_batch(recipe, ranks)[0] * recipe.data.seq_len
    kept, head = kept_bytes_per_token(model, recipe.data.seq_len, how), sum(head_bytes(model, how, tokens))
    copies = weight_copy_bytes(recipe, how)
    fake = "matrices fake-quantised in float32" if copies else "none in float32 without QAT"
    return {
        "weights": (weights, "float32"),
        "gradients": (weights - 4 * counts["frozen"], "float32, as if all were there at the peak"),
        "optimiser": (4 * counts["muon"] + 8 * counts["adamw"], "float32, a moment a Muon weight, two an AdamW one"),
        "average": (0 if average == "none" else weights, f"float32, average.kind = {average}"),
        "weight copies": (copies, "matrices in bfloat16, kept for the backward pass" if how.bfloat16 else fake),
        "activations": (math.ceil(kept * tokens), f"{kept / 1000:,.1f} kB a token of the micro-batch; {how}"),
        "logits": (head, f"{head / tokens / 1000:,.1f} kB a token, gradient included"),
    }


def memory_rows(recipe: Recipe, ranks: int, record: Published | None) -> Iterator[Row]:
    """Rows of the plan. `record`: who ran this very step on as many ranks, if anyone."""
    sequences, passes = micro_batch(recipe, ranks)
    step = recipe.data.batch_tokens // recipe.data.seq_len // ranks
    yield "ranks", ranks, "", "they split the tokens of a step; all else is whole on each" if ranks > 1 else ""
    note = f"{sequences:,} of the {step:,} sequences that a rank has in a step"
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
