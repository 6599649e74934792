"""What notebook 03 looks at: Newton-Schulz on a real gradient, who updates which tensor, the plan and the log of a run.

Singular values are those of the matrix divided by its Frobenius norm, as the iteration begins, the largest first.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from pgolf_core.base import device as machine
from pgolf_core.base.files import UserError
from pgolf_core.network.model import build_model
from pgolf_core.recipes import recipe
from pgolf_core.text.batches import micro_batches, open_stream
from pgolf_core.text.shards import step_batch
from pgolf_core.training.optim import (
    Optimizers,
    clip_gradients,
    coefficients_of,
    muon_momentum,
    newton_schulz,
    parameter_groups,
    rate_multiplier,
)

PROBE_TOKENS = 8192
"""Tokens of a batch that is only looked at: seconds on a CPU for every recipe, a whole step of the local ones."""
PROBE_STEPS = 2
"""Steps before the gradient that is looked at: output projections start at zero, so the first one of everything behind
them is exactly zero; after two steps every matrix has one."""


@dataclass(frozen=True)
class Probe:
    """Gradients of a network that has just begun to learn."""

    gradients: dict[str, Tensor]
    """Of every matrix that Muon updates: float32 on the CPU, before clipping."""
    losses: list[float]
    """Nats per token of each batch, the first of them at the initial weights."""
    batch_tokens: int
    silent: list[str]
    """Muon's matrices whose gradient at the initial weights is exactly zero."""


def probe_gradients(
    settings: recipe.Recipe, seed: int, train_paths: Sequence[Path], max_tokens: int = PROBE_TOKENS
) -> Probe:
    """Take PROBE_STEPS of the recipe's own steps from the seed's initial weights, then one more gradient. Batches are
    the first of the training stream, cut to `max_tokens` (at least one sequence). Nothing is kept."""
    rows = max(1, min(settings.data.batch_tokens, max_tokens) // settings.data.seq_len)
    data = dataclasses.replace(
        settings.data, batch_tokens=rows * settings.data.seq_len, spans_per_step=1, micro_batch_seqs=1
    )  # one sequence at a time: eager, a large vocabulary's logits of all would be the most memory of a record
    device = machine.pick_device()
    model = build_model(settings.model, seed).to(device)
    model.looping = settings.schedule.loop_at <= 0
    optimizers = Optimizers(model, settings.optim)
    matrices = {name: p for members in optimizers.muon.shapes.values() for name, p in members.items()}
    stream = open_stream(data, train_paths, settings.model.vocab_size, seed)
    losses, silent = [], []
    torch.manual_seed(seed)  # for what table_dropout draws
    for step in range(PROBE_STEPS + 1):
        losses.append(0.0)
        for batch in micro_batches(*step_batch(stream, data), data):
            inputs, targets, *starts = (part.to(device) for part in batch)
            share = inputs.numel() / data.batch_tokens
            with machine.autocasting(device, settings.schedule.autocast):
                loss = model(inputs, targets, *starts, *(data.seq_len for _ in starts)) * share
            loss.backward()
            losses[-1] += loss.item()
        gradients = {name: p.grad for name, p in matrices.items() if p.grad is not None}
        if step == 0:
            silent = [name for name, gradient in gradients.items() if not gradient.any()]
        if step < PROBE_STEPS:
            clip_gradients(optimizers.trained, settings.optim.grad_clip_norm)
            optimizers.step(1.0, muon_momentum(step, settings.optim))
    return Probe({name: one.float().cpu() for name, one in gradients.items()}, losses, data.batch_tokens, silent)


def of_layer(gradients: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The matrices of one block, and those that belong to no block."""
    return {name: one for name, one in gradients.items() if re.match(rf"(?!blocks\.)|blocks\.{layer}\.", name)}


def singular_values(matrix: Tensor) -> np.ndarray:
    """Singular values [min(rows, cols)] of a matrix as it is, largest first, float64."""
    return torch.linalg.svdvals(matrix.double()).numpy()


def orthogonalised(matrix: Tensor, optim: recipe.Optim, steps: int) -> Tensor:
    """A matrix after so many of the recipe's iterations."""
    return newton_schulz(matrix, steps, getattr(torch, optim.newton_schulz_dtype), coefficients_of(optim))


def newton_schulz_path(matrix: Tensor, optim: recipe.Optim) -> list[np.ndarray]:
    """Singular values after 0, 1, .. all of the recipe's iterations: an array [min(rows, cols)] of each."""
    return [singular_values(orthogonalised(matrix, optim, done)) for done in range(optim.newton_schulz_steps + 1)]


def coefficients_by_step(optim: recipe.Optim) -> list[tuple[float, float, float]]:
    """(a, b, c) of each of the recipe's iterations; the last of a list hold for all beyond it."""
    given, steps = coefficients_of(optim), optim.newton_schulz_steps
    return [*given[:steps], *[given[-1]] * (steps - len(given))]


def scalar_map(optim: recipe.Optim, points: int = 400) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """What each iteration has done to a singular value x in [0, 1] so far: {iterations: (x, value)}. The quintic acts
    on singular values alone: U S V^T becomes U (aS + bS^3 + cS^5) V^T."""
    x = np.linspace(0.0, 1.0, points)
    each = coefficients_by_step(optim)
    values = itertools.accumulate(each, lambda y, abc: abc[0] * y + abc[1] * y**3 + abc[2] * y**5, initial=x)
    return {done: (x, y) for done, y in enumerate(values)}


def stable_rank(values: np.ndarray) -> float:
    """Sum of squared singular values over the largest squared: how many directions carry the matrix; 0 for zeros."""
    return float((values**2).sum() / values.max() ** 2) if values.max() > 0 else 0.0


def orthogonalisation_table(gradients: Mapping[str, Tensor], optim: recipe.Optim) -> pd.DataFrame:
    """Each matrix before and after Newton-Schulz: shape, largest, median and smallest singular value, stable rank, and
    the cosine between the gradient and its update; above zero the update still goes downhill."""
    rows = []
    for name, matrix in gradients.items():
        update = orthogonalised(matrix, optim, optim.newton_schulz_steps).float()
        before, after = singular_values(newton_schulz(matrix, 0, torch.float32)), singular_values(update)
        row = {"matrix": name.removesuffix(".weight"), "rows": matrix.shape[0], "columns": matrix.shape[1]}
        for when, one in (("before", before), ("after", after)):
            row |= {f"largest {when}": one.max(), f"median {when}": np.median(one), f"smallest {when}": one.min()}
        row |= {"rank before": stable_rank(before), "rank after": stable_rank(after)}
        rows.append(row | {"cosine": F.cosine_similarity(matrix.flatten(), update.flatten(), dim=0).item()})
    return pd.DataFrame(rows)


def optimizer_table(shapes: Mapping[str, tuple[int, ...]], optim: recipe.Optim) -> pd.DataFrame:
    """One row per group of `parameter_groups`: its members (layer numbers left out), optimiser, rates (none of what is
    frozen), on which side of the update decay falls, sizes. `beta1` of Muon is its final momentum."""
    rows = []
    for group in parameter_groups(shapes, optim):
        is_muon = group.optimizer == "muon"
        side = optim.muon_wd_order if is_muon else "before"  # torch's AdamW shrinks the weights, then steps
        betas = (optim.muon_momentum, math.nan) if is_muon else group.betas
        rates = (group.lr, *betas, group.weight_decay) if group.optimizer != "frozen" else (math.nan,) * 4
        tensors = ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in group.parameters))
        sizes = [math.prod(shapes[name]) for name in group.parameters]
        how = side if group.weight_decay else "-"
        rows.append((group.name, tensors, group.optimizer, *rates, how, len(sizes), sum(sizes)))
    rates_of = ["learning rate", "beta1", "beta2", "weight decay", "decay is applied"]
    table = pd.DataFrame(rows, columns=["group", "tensors", "optimiser", *rates_of, "count", "parameters"])
    return table.assign(share=table["parameters"] / table["parameters"].sum())


def training_settings(settings: recipe.Recipe) -> dict[str, str]:
    """What decides a training run apart from the network, in words with units, as text for a table."""
    schedule, optim, data = settings.schedule, settings.optim, settings.data
    every, targets, share = schedule.val_every_steps, schedule.val_tokens, schedule.warmdown_fraction
    late = f"late, below a multiplier of {settings.qat.threshold:g}, rates × {settings.qat.lr_factor:g}"
    return {
        "wall-clock cap (s)": f"{schedule.max_seconds:g}" if schedule.max_seconds > 0 else "none",
        "iterations at most": f"{schedule.iterations:,}",
        "warm-down": f"the last {share:.0%}" if share else f"{schedule.warmdown_iters:,} steps",
        "warm-up, rolled back (steps)": f"{schedule.warmup_steps:,}",
        "tokens of a step": f"{data.batch_tokens:,}",
        "sequence length (tokens)": f"{data.seq_len:,}",
        "learning rates: tables, matrices, scalars": f"{optim.embed_lr:g}, {optim.matrix_lr:g}, {optim.scalar_lr:g}",
        "weight decay: Muon, AdamW": f"{optim.muon_wd:g} {optim.muon_wd_order} the update, {optim.adam_wd:g}",
        "Muon's momentum": f"{optim.muon_momentum_start:g} to {optim.muon_momentum:g}",
        "momentum rises over (steps)": f"{optim.muon_momentum_warmup_steps:,}",
        "clipping norm": f"{optim.grad_clip_norm:g}" if optim.grad_clip_norm > 0 else "none",
        "validation every (steps)": f"{every:,}" if every else "at the end",
        "validation targets": f"{targets:,}" if targets else "all",
        "checkpoint every (s)": f"{schedule.checkpoint_every_seconds:g}",
        "averaging": settings.average.kind,
        "quantisation-aware training": late if settings.qat.kind == "late" else settings.qat.kind,
    }


def planned_schedule(settings: recipe.Recipe, num_steps: int) -> pd.DataFrame:
    """Columns step, share (of the budget used when it begins), multiplier (late QAT's factor included), momentum of a
    run in which `num_steps` equal steps fill the budget: the clock, or the iterations where there is no cap."""
    schedule = settings.schedule
    steps = np.arange(num_steps)
    step_seconds = schedule.max_seconds / num_steps
    if schedule.max_seconds <= 0:
        schedule = dataclasses.replace(schedule, iterations=num_steps)
    multipliers = np.array([rate_multiplier(schedule, int(step), step * step_seconds) for step in steps])
    if settings.qat.kind == "late":
        begun = np.minimum.accumulate(multipliers) < settings.qat.threshold
        multipliers[begun] *= settings.qat.lr_factor
    momenta = [muon_momentum(int(step), settings.optim) for step in steps]
    return pd.DataFrame({"step": steps, "share": steps / num_steps, "multiplier": multipliers, "momentum": momenta})


def planned_lengths(schedule: recipe.Schedule) -> list[int]:
    """Numbers of steps worth drawing: half, twice and eight times the warm-down, or just the iterations."""
    if schedule.max_seconds <= 0 or schedule.warmdown_fraction > 0:
        return [schedule.iterations]
    warmdown = max(schedule.warmdown_iters, 2)
    return sorted({min(max(round(warmdown * times), 1), schedule.iterations) for times in (0.5, 2, 8)})


def metrics_tables(records: Iterable[Mapping[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training steps, validations) from the lines of metrics.jsonl, in order. Of several validations at one step (a
    run that was killed just after one does it again) the last counts."""
    table = pd.DataFrame(list(records))
    train, val = (table[table["kind"] == kind].dropna(axis="columns", how="all") for kind in ("train", "val"))
    return train.reset_index(drop=True), val.drop_duplicates("step", keep="last").reset_index(drop=True)


def run_numbers(train: pd.DataFrame, parameters: int, corpus_tokens: int, clip_norm: float) -> dict[str, float]:
    """Amounts of data and speed of a training run, and how often gradients were clipped. Seconds of single steps are
    differences of the clock, so the first one is left out."""
    tokens, seconds = int(train["tokens"].iloc[-1]), float(train["seconds"].iloc[-1])
    step_seconds = np.diff(train["seconds"]) if len(train) > 1 else train["seconds"].to_numpy()
    return {
        "passes over the training split": tokens / corpus_tokens,
        "tokens per parameter": tokens / parameters,
        "median step (s)": float(np.median(step_seconds)),
        "slowest step (s)": float(np.max(step_seconds)),
        "tokens per second": tokens / seconds,
        "clipped steps (share)": float((train["grad_norm"] > clip_norm).mean()) if clip_norm > 0 else 0.0,
    }


def seconds_table(seconds: Mapping[str, float], notebook_seconds: float, earlier_seconds: float) -> pd.DataFrame:
    """Where the wall time went, training's own ledger of all attempts (`runlog.PARTS`); the last row is what this
    notebook has spent outside training. `earlier_seconds` of the ledger were spent in other notebooks than this."""
    words = {
        "train": "training steps", "data": "reading shards", "warmup": "compilation and warm-up, rolled back",
        "validation": "validation", "averaging": "final average", "checkpoints": "checkpoints and weights",
        "lost": "lost in attempts that were killed", "rest": "logs and progress bar",
    }  # fmt: skip
    rest = max(notebook_seconds - (sum(seconds.values()) - earlier_seconds), 0.0)
    rows = [(word, "yes" if key == "train" else "no", seconds[key]) for key, word in words.items()]
    rows.append(("the rest of this notebook", "no", rest))
    table = pd.DataFrame(rows, columns=["part", "on the clock", "seconds"])
    return table.assign(share=table["seconds"] / table["seconds"].sum())


def overshoot_seconds(train: pd.DataFrame, cap_seconds: float) -> float:
    """Seconds by which the clock passed the cap, 0 without one. Only the last step may do that: it began before."""
    if cap_seconds <= 0:
        return 0.0
    clock = [0.0, *train["seconds"]]
    assert clock[-2] < cap_seconds, f"a step began at {clock[-2]:.3f} s, after the cap of {cap_seconds:g} s"
    return max(clock[-1] - cap_seconds, 0.0)


def refuse_worse(train: pd.DataFrame, val: pd.DataFrame) -> None:
    """UserError where ten steps or more left validation no better than the first loss was."""
    first = (val if len(val) > 1 else train)["loss"].iloc[0]
    last, steps = val["loss"].iloc[-1], val["step"].iloc[-1]
    if steps >= 10 and not last < first:
        raise UserError(
            f"{steps} steps left validation at {last:.3f} nats per token, from {first:.3f}: too few, as on a busy "
            "machine (--fresh, or --set schedule.max_seconds=…), or too large ones (--set optim.matrix_lr=…)"
        )
