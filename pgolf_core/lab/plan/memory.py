"""Memory of one rank while it trains: what is kept for the backward pass, counted tensor by tensor, and the state.

The counts are those of this network's autograd graph, found by listing what it saves for every switch of the model;
its test holds them against such lists. Three ways to run differ: compiled (the partitioner recomputes
what is cheap), eager under bfloat16 autocast (norms keep their inputs in float32) and eager in float32. Not counted:
what an operation holds for a moment beyond the head's gradient, the workspace of libraries, the allocator's slack, and
the process itself. Against the published peaks: 3 to 6 % above PR 315, 332 and 534; 19 % below PR 194, which ran torch
2.4.1 and expanded its key/value heads by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pgolf_core.base import device as machine
from pgolf_core.base.files import UserError
from pgolf_core.lab.compare.records import Published
from pgolf_core.network.attention import kernel_name
from pgolf_core.network.model import parameter_shapes
from pgolf_core.recipes.recipe import Model, Recipe
from pgolf_core.training.optim import parameter_groups

RECORD_TRACK = "10min_16mb"
RANKS = {RECORD_TRACK: 8}
"""Ranks of a track where nobody says; one on any other."""
QUERY_BLOCK = 128
"""Queries of a block in pgolf_core.network.attention's own CPU kernel."""


@dataclass(frozen=True)
class Execution:
    """How a step runs, as far as memory goes."""

    compiled: bool
    bfloat16: bool
    blocked: bool
    """Attention in query blocks, which keeps its weights; fused kernels keep one number a query and head."""

    def __str__(self) -> str:
        attention = "attention in query blocks" if self.blocked else "fused attention"
        dtype = "bfloat16" if self.bfloat16 else "float32"
        return f"{'compiled' if self.compiled else 'eager'}, {dtype}, {attention}"


def assumed_execution(recipe: Recipe) -> Execution:
    """On the record track a CUDA device with bfloat16 and a compiler, on any other this machine's CPU."""
    schedule = recipe.schedule
    if recipe.track == RECORD_TRACK:
        return Execution(schedule.compile == "auto", schedule.autocast == "auto", blocked=False)
    cpu = torch.device("cpu")
    bfloat16 = machine.autocast_dtype(cpu, schedule.autocast) is torch.bfloat16
    compiled = schedule.compile == "auto" and not machine.why_not_compile(cpu)
    return Execution(compiled, bfloat16, kernel_name("cpu", bfloat16) == "query blocks")


def ranks_of(recipe: Recipe, ranks: int | None) -> int:
    """`ranks`, or as many of the track's usual number as share a step's spans equally; UserError where they do not."""
    spans = recipe.data.spans_per_step
    if ranks is None:
        return math.gcd(RANKS.get(recipe.track, 1), spans)
    if ranks < 1 or spans % ranks:
        raise UserError(f"{ranks} ranks (--nproc) must divide data.spans_per_step = {spans}, the spans of a step")
    return ranks


def micro_batch(recipe: Recipe, ranks: int) -> tuple[int, int]:
    """(sequences of the largest forward pass of a rank, forward passes of a step on a rank)."""
    sequences = recipe.data.batch_tokens // recipe.data.seq_len // ranks
    size = min(recipe.data.micro_batch_seqs, sequences)
    return size, math.ceil(sequences / size)


# ---------------------------------------------------------------------- what the backward pass needs


def kept_bytes_per_token(model: Model, seq_len: int, how: Execution) -> float:
    """Bytes that the network keeps for the backward pass, for each token of a micro-batch; the head's logits apart.

    A block keeps 11 tensors of the model's width (the stream before and after its mix and after attention, both normed
    inputs, queries before their norm, before and after their gain, the attention's output, what both learned scales
    multiply), 3 of the key/value width (keys before their norm and after rotation, values) and 2 of the MLP's.
    """
    layers, exclusive, width = model.num_layers, model.xsa_last_n, model.model_dim
    kv_width = model.num_kv_heads * (width // model.num_heads)
    heads = model.num_heads + model.num_kv_heads
    size = 2 if how.bfloat16 else 4
    upcast = how.bfloat16 and not how.compiled  # eager norms and XSA compute, and so keep, float32
    ends, score_elements = _attention_blocks(seq_len) if how.blocked else (1.0, 0.0)

    outside = (1 if how.compiled else 4) + 2 * (model.smear != "off") + bool(model.bigram_rows)
    in_c = size * (11 * layers + outside + exclusive)
    in_k = size * (layers + 2 * layers * ends + bool(model.ve_layers)) + 4 * exclusive
    if upcast:
        in_c += 2 * (3 * layers + 2) + (4 - size * how.blocked) * exclusive
        in_k += 2 * layers + 4 * exclusive
    in_f = size * 2 * layers
    numbers = 2 * layers + 2 + (layers + exclusive) * heads + (0 if how.blocked else layers * model.num_heads)
    numbers += 0 if how.compiled else exclusive * model.num_kv_heads
    tables = size * (model.bigram_dim * bool(model.bigram_rows) + model.ve_dim)
    scores = size * layers * model.num_heads * score_elements
    indices = 8 * (2 + bool(model.bigram_rows))  # tokens, targets, rows of the bigram table
    return in_c * width + in_k * kv_width + in_f * model.mlp_hidden + 4 * numbers + tables + scores + indices


def _attention_blocks(seq_len: int) -> tuple[float, float]:
    """(mean end of a query block over seq_len, summed: how often keys are copied; attention weights of a query)."""
    ends = [min(start + QUERY_BLOCK, seq_len) for start in range(0, seq_len, QUERY_BLOCK)]
    weights = sum((end - start) * end for start, end in zip([0, *ends], ends, strict=False))
    return sum(ends) / seq_len, weights / seq_len


def head_bytes_per_token(model: Model, how: Execution) -> tuple[int, int]:
    """(kept for the backward pass, needed besides while the loss's gradient is formed): V logits a token.

    Compiled, the logits are kept as they come and one float32 gradient is formed; eager, the soft-capped logits and
    their log-softmax are kept, and as much again is formed.
    """
    if how.compiled:
        return (2 if how.bfloat16 else 4) * model.vocab_size + 8, 4 * model.vocab_size
    return 8 * model.vocab_size, 8 * model.vocab_size


def weight_copy_bytes(recipe: Recipe, how: Execution) -> int:
    """Bytes of the matrices as the products take them: bfloat16 copies, or fake-quantised ones in float32."""
    shapes = parameter_shapes(recipe.model)
    linear = sum(math.prod(shape) for name, shape in shapes.items() if _is_linear(name))
    if how.bfloat16:
        return 2 * (linear + math.prod(shapes["tok_emb.weight"]))
    return 4 * linear if recipe.qat.kind != "off" else 0


def _is_linear(name: str) -> bool:
    return name.endswith(".weight") and "embed." not in name and not name.startswith("tok_emb.")


# ---------------------------------------------------------------------- the state, and all of it together


def memory_parts(recipe: Recipe, ranks: int) -> dict[str, tuple[int, str]]:
    """Bytes and note of each part on one rank; their sum is the peak, early in the last backward pass of a step."""
    how, model = assumed_execution(recipe), recipe.model
    shapes = parameter_shapes(model)
    counts = dict.fromkeys(("muon", "adamw", "frozen"), 0)
    for group in parameter_groups(shapes, recipe.optim):
        counts[group.optimizer] += sum(math.prod(shapes[name]) for name in group.parameters)
    weights = 4 * sum(counts.values())
    tokens = micro_batch(recipe, ranks)[0] * recipe.data.seq_len
    kept = kept_bytes_per_token(model, recipe.data.seq_len, how)
    head = head_bytes_per_token(model, how)
    copies = weight_copy_bytes(recipe, how)
    return {
        "weights": (weights, "float32"),
        "gradients": (weights - 4 * counts["frozen"], "float32, counted as if all were there at the peak"),
        "optimiser": (4 * counts["muon"] + 8 * counts["adamw"],
                      "float32, one moment a Muon weight, two an AdamW weight"),
        "average": (0 if recipe.average.kind == "none" else weights,
                    f"float32, average.kind = {recipe.average.kind}"),
        "weight copies": (copies, _copies_note(how, copies)),
        "activations": (math.ceil(kept * tokens), f"{kept / 1000:,.1f} kB a token of the micro-batch; {how}"),
        "logits": (sum(head) * tokens, f"{sum(head) / 1000:,.1f} kB a token, gradient included"),
    }  # fmt: skip


def _copies_note(how: Execution, copies: int) -> str:
    if how.bfloat16:
        return "matrices in bfloat16, kept for the backward pass"
    return "matrices fake-quantised in float32" if copies else "none in float32 without QAT"


def memory_rows(recipe: Recipe, ranks: int, record: Published | None) -> Iterator[tuple[str, int, str, str]]:
    """Rows of the plan: quantity, value, unit, note. `record`: who ran this very step on as many ranks, if anyone."""
    sequences, passes = micro_batch(recipe, ranks)
    step = f"{recipe.data.batch_tokens // recipe.data.seq_len // ranks:,}"
    yield (
        "ranks",
        ranks,
        "",
        "the tokens of a step are split over them; everything else is whole on each" if ranks > 1 else "",
    )
    yield (
        "micro-batch of a rank", sequences * recipe.data.seq_len, "tokens",
        f"{sequences:,} of the {step} sequences that a rank has in a step",
    )  # fmt: skip
    yield "micro-batches of a step", passes, "", "gradients are accumulated over them" if passes > 1 else ""
    parts = memory_parts(recipe, ranks)
    for what, (size, note) in parts.items():
        yield f"memory: {what}", size, "bytes", note
    total = sum(size for size, _ in parts.values())
    note = "peak of a step, tensors alone"
    if record is not None and record.peak_memory_mib is not None:
        off = total / 2**20 / record.peak_memory_mib - 1
        side = f"{abs(off):.0%} {'above' if off > 0 else 'below'}"
        note += f", {side} the published {record.peak_memory_mib:,.0f} MiB (torch {record.torch})"
    yield "memory: together", total, "bytes", note
