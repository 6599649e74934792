"""Rounding in turn: the columns of a matrix still to come make good the error of each one that is rounded (GPTQ).

A linear map x W^T whose weights change by E changes its outputs by sum tr(E H E^T) in all, H = X^T X of its inputs. For
a rounded column that sum is least where the columns after it move by what the Cholesky factor of the inverse of H says
(Frantar et al. 2022, arXiv 2210.17323). Only whole numbers come out otherwise: the file and its reader know nothing.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pgolf_core.base.device import autocasting, to_device
from pgolf_core.base.files import UserError
from pgolf_core.base.parallel import World
from pgolf_core.network.grid import Grid, choose_scale, dequantise, quantise
from pgolf_core.network.model import Linear, network_with
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.shards import TokenStream, seq_len_at

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
        """The mean for a weight, None for one that is no linear map's. Keys and values have the queries' input."""
        return self.means.get(re.sub(r"\.attn\.c_[kv]\.", ".attn.c_q.", name))


class InputMeter:
    """Adds up x x^T over all that passes through a network's linear maps: one [in, in] float32 for each, no more."""

    def __init__(self, network: nn.Module):
        self.sums: dict[str, Tensor] = {}
        for name, module in network.named_modules():
            if isinstance(module, Linear) and not name.endswith((".attn.c_k", ".attn.c_v")):
                key, weight = f"{name}.weight", module.weight
                size = weight.size(1)
                self.sums[key] = torch.zeros(size, size, dtype=torch.float32, device=weight.device)
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
        self.length = seq_len_at(settings.data, 1.0)
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
    meter = InputMeter(network)
    mine, length = windows[world.rank :: world.size], windows.size(1)
    size = max(settings.data.micro_batch_seqs * settings.data.seq_len // length, 1)
    for first in range(0, len(mine), size):
        t_batch = time.perf_counter()
        if t_batch - t_start + longest > seconds:
            break
        batch = mine[first : first + size]
        with autocasting(device, settings.schedule.autocast):
            network.trunk(to_device(batch, device))
        if device.type == "cuda":
            torch.cuda.synchronize()  # else the clock would see the order, not the work
        rows += len(batch)
        longest = max(longest, time.perf_counter() - t_batch)
    count = torch.full((1,), float(rows), device=device)
    world.mean_([*meter.sums.values(), count])
    tokens = round(float(count) * world.size) * length
    scale = world.size / max(tokens, 1)
    return Hessians({name: total * scale for name, total in meter.sums.items()}, tokens)


def feedback_of(hessian: Tensor, damping: float) -> tuple[np.ndarray, float] | None:
    """(feedback [in, in], the damping it took) of a mean x x^T; None where no input was ever seen, or nothing helps.

    Row j of the feedback, beyond its diagonal, is how far the later columns move against an error of 1 in column j.
    """
    h = hessian.detach().to("cpu", torch.float64)
    level = float(h.diagonal().mean())
    if not torch.isfinite(h).all() or level <= 0:
        return None
    h = (h + h.T) / (2 * level)
    for attempt in range(RAISES + 1):
        used = damping * RAISE**attempt
        damped = h + used * torch.eye(len(h), dtype=torch.float64)
        # H = R R^T with R upper triangular is Cholesky's from the last row and column on; the inverse's factor is R^-1
        factor, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            eye = torch.eye(len(h), dtype=torch.float64)
            upper = torch.linalg.solve_triangular(factor.flip(0, 1), eye, upper=True)
            feedback = upper / upper.diagonal()[:, None]
            if torch.isfinite(feedback).all():
                return feedback.triu(1).numpy(), used
    return None


@dataclass(frozen=True)
class Correction:
    """What correcting the matrices of one file takes, and what it did."""

    feedback: dict[str, np.ndarray]
    """By name, of every matrix that can be corrected."""
    told: dict[str, Any]
    """damping, tokens, matrices (how many are corrected), raised (name: damping, where it took more), plain (names of
    linear maps that are rounded plainly after all)."""


def corrections(hessians: Hessians, shapes: Mapping[str, tuple[int, ...]], damping: float) -> Correction:
    """The correction of the matrices of these names and shapes; tables among them stay out.

    Raises UserError for a mean that is not of its matrix's inputs.
    """
    feedback, raised, plain = {}, {}, []
    for name, shape in shapes.items():
        hessian = hessians.of(name)
        if hessian is None:
            continue
        if tuple(hessian.shape) != (shape[1], shape[1]):
            raise UserError(
                f"the inputs of {name} have statistics of shape {list(hessian.shape)}, the matrix has {shape[1]} "
                "columns; they are another run's: train with this recipe again"
            )
        found = feedback_of(hessian, damping)
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


def round_in_turn(
    values: np.ndarray, feedback: np.ndarray, rounded: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """`values` [rows, cols] after rounding column by column, float64 in their unit.

    `rounded` makes of a column [rows] and its number what it becomes; the columns after it make good the difference.
    """
    work = np.ascontiguousarray(values.T, np.float64)  # a column is a row here: they are taken one by one
    done, errors = np.empty_like(work), np.empty_like(work)
    for start in range(0, len(work), BLOCK):
        stop = min(start + BLOCK, len(work))
        for j in range(start, stop):
            column = work[j] - feedback[start:j, j] @ errors[start:j]
            done[j] = rounded(column, j)
            errors[j] = column - done[j]
        work[stop:] -= feedback[start:stop, stop:].T @ errors[start:stop]
    return done.T


def quantise_in_turn(w: Tensor, grid: Grid, feedback: np.ndarray) -> tuple[Tensor, Tensor]:
    """grid.quantise_tensor with correction: codes int8 [rows, cols], scales float16 [rows] as without it."""
    scale, codes = choose_scale(w, grid), torch.empty_like(w, dtype=torch.int8)

    def rounded(column: np.ndarray, j: int) -> np.ndarray:
        code = quantise(torch.from_numpy(column.astype(np.float32))[:, None], scale, grid)
        codes[:, j : j + 1] = code
        return dequantise(code, scale.stored)[:, 0].numpy()

    round_in_turn(w.numpy(), feedback, rounded)
    return codes, scale.stored.to(torch.float16)
