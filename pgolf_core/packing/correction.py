"""Rounding in turn: the columns of a matrix still to come make good the error of each one that is rounded (GPTQ).

A linear map x W^T whose weights change by E changes its outputs by sum tr(E H E^T) in all, H = X^T X of its inputs. For
a rounded column that sum is least where the columns after it move as a Cholesky factor of H says (Frantar et al. 2022,
arXiv 2210.17323, by the inverse's factor). Only whole numbers come out otherwise: the file and its reader know nothing.
The head is such a map too, by the token embedding.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pgolf_core.base.device import autocasting, one_thread, to_device
from pgolf_core.base.files import UserError
from pgolf_core.base.parallel import World
from pgolf_core.network.grid import Grid, Scale, choose_scale, dequantise, quantise
from pgolf_core.network.model import Linear, network_with, rms_norm
from pgolf_core.recipes.recipe import Quant, Recipe
from pgolf_core.text.shards import TokenStream

RAISES, RAISE = 4, 10.0
"""A matrix that cannot be factorised is damped this much more, so many times, before it is rounded plainly."""
BLOCK = 128
"""Columns whose errors reach the ones beyond them in one product."""


@dataclass(frozen=True)
class Hessians:
    """Mean x x^T of the inputs x of linear maps: float32 [in, in] by weight's name, from so many tokens."""

    means: dict[str, Tensor]
    tokens: int

    def of(self, name: str) -> Tensor | None:
        """The mean for a weight, None for one that none was gathered for. Keys and values have the queries' input."""
        return self.means.get(re.sub(r"\.attn\.c_[kv]\.", ".attn.c_q.", name))


class InputMeter:
    """Adds up x x^T over all that passes through a network's linear maps: one [in, in] float32 for each, no more.

    A map that a loop runs several times has the sum over its runs (PR 1493)."""

    def __init__(self, network: nn.Module, head: bool = False):
        self.sums: dict[str, Tensor] = {}
        for name, module in network.named_modules():
            linear = isinstance(module, Linear) and not name.endswith((".attn.c_k", ".attn.c_v"))
            if not (linear or (head and name == "tok_emb")):
                continue
            key, weight = f"{name}.weight", module.weight
            size = weight.size(1)
            self.sums[key] = torch.zeros(size, size, dtype=torch.float32, device=weight.device)
            if linear:
                module.register_forward_pre_hook(lambda module, inputs, key=key: self.add(key, inputs[0]))

    @torch.no_grad()
    def add(self, key: str, x: Tensor) -> None:
        """Count inputs x [..., in]. Of bfloat16 inputs the products are exact, in TF32 too."""
        rows = x.detach().reshape(-1, x.size(-1)).float()
        with torch.autocast(x.device.type, enabled=False):
            self.sums[key].addmm_(rows.T, rows)


class Gathering:
    """Gathers Hessians for a run, and knows beforehand how many seconds of the clock to leave for it."""

    def __init__(self, settings: Recipe, device: torch.device, world: World):
        self.settings, self.device, self.world = settings, device, world
        self.found = Hessians({}, 0)
        self.reserved_seconds = 0.0
        """What the rehearsal took, and a quarter more; the same on every rank."""
        self.length = settings.data.final_seq_len or settings.data.seq_len
        self.windows = math.ceil(settings.quant.correction_tokens / self.length)

    def rehearse(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Gather from synthetic tokens, before the clock starts."""
        ids = torch.randint(self.settings.model.vocab_size, (self.windows, self.length), generator=generator)
        t_start = time.perf_counter()
        gather(self.settings, weights, ids, self.device, self.world)
        (self.reserved_seconds,) = self.world.largest(1.25 * (time.perf_counter() - t_start))

    def gather(self, weights: Mapping[str, Tensor], stream: TokenStream, seconds: float) -> Hessians:
        """Gather from windows all over the split, the same on every rank; see `gather`."""
        t_end = time.perf_counter() + seconds
        tokens = torch.from_numpy(stream.take_shuffled(self.windows, self.length)[:, :-1].astype(np.int64))
        self.found = gather(self.settings, weights, tokens, self.device, self.world, t_end - time.perf_counter())
        return self.found


@torch.no_grad()
def gather(
    settings: Recipe, weights: Mapping[str, Tensor], windows: Tensor, device: torch.device, world: World,
    seconds: float = math.inf,
) -> Hessians:  # fmt: skip
    """Means over windows of tokens (int64 [n, T], the same on every rank) under these weights; equal on all ranks.

    Every rank runs its share of the windows, and the shares are added up. A rank begins no batch that would end later
    than `seconds` from now if it took as long as the longest before it.
    """
    t_start, longest, rows = time.perf_counter(), 0.0, 0
    network = network_with(settings.model, dict(weights)).eval()
    head = settings.quant.correct_tok_emb
    meter = InputMeter(network, head)
    mine, length = windows[world.rank :: world.size], windows.size(1)
    size = max(settings.data.micro_batch_seqs * settings.data.seq_len // length, 1)
    for first in range(0, len(mine), size):
        t_batch = time.perf_counter()
        if t_batch - t_start + longest > seconds:
            break
        batch = mine[first : first + size]
        with autocasting(device, settings.schedule.autocast):
            x, _ = network.trunk(to_device(batch, device))
        if head:
            meter.add("tok_emb.weight", rms_norm(x, settings.model.norm_eps))
        if device.type == "cuda":
            torch.cuda.synchronize()  # else the clock would see the order, not the work
        rows += len(batch)
        longest = max(longest, time.perf_counter() - t_batch)
    count = torch.full((1,), float(rows), device=device)
    world.mean_([*meter.sums.values(), count])
    tokens = round(float(count) * world.size) * length
    scale = world.size / max(tokens, 1)
    return Hessians({name: total * scale for name, total in meter.sums.items()}, tokens)


@dataclass(frozen=True)
class Feedback:
    """How the columns of one matrix make good each other's errors."""

    order: Tensor
    """Column numbers in the order in which they are rounded, int64 [in]."""
    earlier: Tensor
    """Column i, above the diagonal: by how much of the error of each one before it the i-th moves; float32 [in, in]."""
    live: Tensor
    """bool [in]: columns that are not taken as zero."""


@one_thread()
def feedback_of(
    hessian: Tensor, damping: float, order: str = "natural", unseen: float = 1.0
) -> tuple[Feedback, float] | None:
    """(feedback, the damping it took) of a mean x x^T; None where no input was ever seen, or nothing helps.

    By activation, columns whose inputs were always zero are taken as zero: nothing depends on them. In the damping each
    counts as `unseen` (PR 1493: 1, in sums over 98,304 tokens).
    """
    h = hessian.detach().cpu()
    diagonal, columns = h.diagonal().double(), torch.arange(len(h))
    live = torch.ones(len(h), dtype=torch.bool)
    if not torch.isfinite(h.sum(dtype=torch.float64)) or diagonal.mean() <= 0:
        return None
    if order == "activation":
        live = diagonal != 0
        diagonal[~live] = unseen
        columns = diagonal.argsort(descending=True, stable=True)
    backwards = columns.flip(0)
    h, diagonal = h[backwards][:, backwards].float(), diagonal[backwards]
    for attempt in range(RAISES + 1):
        used = damping * RAISE**attempt
        h.diagonal().copy_(diagonal + used * diagonal.mean())
        # H = R R^T with R upper triangular is Cholesky's from the last row and column on. tr(E H E^T) = |E R|^2, whose
        # i-th column has errors up to the i-th alone, which can make it least: no inverse, and the codes of GPTQ
        factor, failed = torch.linalg.cholesky_ex(h)
        if not failed:
            earlier = (factor / factor.diagonal()).flip(0, 1)
            return Feedback(columns, earlier, live), used
    return None


@dataclass(frozen=True)
class Correction:
    """What correcting the matrices of one file takes, and what it did."""

    feedback: dict[str, Feedback]
    """By name, of every matrix that can be corrected."""
    told: dict[str, Any]
    """damping, tokens, matrices (how many are corrected), raised (name: damping, where it took more), plain (names of
    linear maps that are rounded plainly after all)."""


def corrections(hessians: Hessians, shapes: Mapping[str, tuple[int, ...]], quant: Quant) -> Correction:
    """The correction of the matrices of these names and shapes; tables among them stay out, but for the token embedding
    where the recipe corrects it.

    Raises UserError for a mean that is not of its matrix's inputs, and for an embedding's that was not gathered.
    """
    feedback, raised, plain, damping = {}, {}, [], quant.correction_damping
    known: dict[int, tuple[Feedback, float] | None] = {}
    for name, shape in shapes.items():
        hessian = hessians.of(name)
        if name == "tok_emb.weight":
            if not quant.correct_tok_emb:
                continue
            if hessian is None:
                raise UserError("quant.correct_tok_emb needs the head's inputs; train with this recipe first")
        if hessian is None:
            continue
        if tuple(hessian.shape) != (shape[1], shape[1]):
            raise UserError(
                f"the inputs of {name} have statistics of shape {list(hessian.shape)}, the matrix has {shape[1]} "
                "columns; they are another run's: train with this recipe again"
            )
        if id(hessian) not in known:  # queries, keys and values have one
            known[id(hessian)] = feedback_of(hessian, damping, quant.correction_order, 1 / (hessians.tokens or 1))
        found = known[id(hessian)]
        if found is None:
            plain.append(name)
            continue
        feedback[name], used = found
        if used > damping:
            raised[name] = used
    told = {"damping": damping, "tokens": hessians.tokens, "matrices": len(feedback), "raised": raised, "plain": plain}
    return Correction(feedback, told)


def in_words(told: Mapping[str, Any]) -> str:
    """A Correction's `told` as a line of the log."""
    raised = ",".join(f"{name}={used:g}" for name, used in told["raised"].items())
    return (
        f"damping:{told['damping']:g} tokens:{told['tokens']} matrices:{told['matrices']} "
        f"raised:{raised or 'none'} plain:{','.join(told['plain']) or 'none'}"
    )


@one_thread()
def round_in_turn(
    values: Sequence[Tensor], feedback: Sequence[Feedback], rounded: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Matrices of one shape [rows, cols] after rounding column by column: float32 [n, rows, cols] in their unit.

    `rounded` makes of their i-th columns in order, [n, rows], what they become; the columns after it make good the
    difference.
    """
    each = torch.arange(len(feedback))[:, None]
    order, earlier = (torch.stack([getattr(f, name) for f in feedback]) for name in ("order", "earlier"))
    taken = [(w * f.live).T[f.order] for w, f in zip(values, feedback, strict=True)]  # a column is a row here
    given = torch.stack(taken).float()
    moved, done, errors = given.clone(), torch.empty_like(given), torch.empty_like(given)
    for start in range(0, given.size(1), BLOCK):
        stop = min(start + BLOCK, given.size(1))
        for i in range(start, stop):
            found = moved[:, i, None].baddbmm(earlier[:, start:i, i, None].mT, errors[:, start:i])
            done[:, i] = rounded(found[:, 0], i)
            torch.sub(given[:, i], done[:, i], out=errors[:, i])
        moved[:, stop:].baddbmm_(earlier[:, start:stop, stop:].mT, errors[:, start:stop])
    given[each, order] = done
    return given.mT


def quantise_in_turn(
    weights: Sequence[Tensor], grid: Grid, feedback: Sequence[Feedback]
) -> list[tuple[Tensor, Tensor]]:
    """grid.quantise_tensor of matrices of one shape with correction: of each its codes int8 [rows, cols], and its
    scales float16 [rows] as without it."""
    scales = [choose_scale(w, grid) for w in weights]
    whole = Scale(*map(torch.cat, zip(*scales, strict=True)))
    rows, cols = weights[0].shape
    taken = torch.empty(cols, len(weights), rows, dtype=torch.int8)  # in each one's order

    def rounded(columns: Tensor, i: int) -> Tensor:
        codes = quantise(columns.reshape(-1, 1), whole, grid)
        taken[i] = codes.view_as(columns)
        return dequantise(codes, whole.stored).view_as(columns)

    round_in_turn(weights, feedback, rounded)
    matrices = zip(taken.unbind(1), feedback, scales, strict=True)
    return [(codes[f.order.argsort()].T.contiguous(), scale.stored.half()) for codes, f, scale in matrices]


@one_thread()
def all_in_turn(
    weights: Mapping[str, Tensor], grids: Mapping[str, Grid], feedback: Mapping[str, Feedback]
) -> dict[str, tuple[Tensor, Tensor]]:
    """quantise_in_turn by name, those of one shape and grid at once."""
    alike: dict[tuple[torch.Size, Grid], list[str]] = {}
    for name, w in weights.items():
        alike.setdefault((w.shape, grids[name]), []).append(name)
    results: dict[str, tuple[Tensor, Tensor]] = {}
    for (_, grid), names in alike.items():
        found = quantise_in_turn([weights[n] for n in names], grid, [feedback[n] for n in names])
        results |= dict(zip(names, found, strict=True))
    return results
