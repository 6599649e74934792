"""What a recipe will take before anything runs: parameters, bytes of the artifact, work of a step, memory, steps.

Bytes are predicted from how far training lets weights drift. Successive gradients are taken as independent, so a weight
is a random walk: each step its decay pulls it to zero and an update of known size, correlated with earlier ones through
the optimiser's momentum, moves it (`walk_variance`). Weights of that standard deviation, taken as Gaussian, give each
grid's codes their frequencies, and those the entropy that the coder comes close to (`bits_per_weight`).

One number is fitted: MUON_SHARE, to the mean size of PR 315's three published files, 15,525,821 bytes (SEEDS 5.6).
What that rests on: one recipe, packed by its own zstd call. The same number gives the files of PR 194, 332 and 531
within 3 %, PR 534's within 7 % (its outer layers' finer grid left out), and those of three local runs of 150 to 580
steps within 9 %, so it is no more than that: a prediction to choose grids and widths by, not the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from pgolf_core.artifact import code_bytes, grid_names_for
from pgolf_core.files import UserError
from pgolf_core.grid import GRIDS, Grid
from pgolf_core.lab.analysis_model import parameter_budget
from pgolf_core.model import parameter_shapes
from pgolf_core.optim import Group, multiplier_by_iterations, muon_momentum, parameter_groups
from pgolf_core.recipe import Model, Recipe

MUON_SHARE = 0.82
"""Size of a Muon update that acts, relative to an orthogonal matrix: what successive gradients take back, and what
Newton-Schulz leaves below 1."""
CODER_LOSS = 0.013
"""What zstd takes above the order-0 entropy (measured in pgolf_core.artifact)."""
MAX_WALK_STEPS = 20_000
"""Longer runs are taken as this long; decay forgets in about 1 / (lr wd) steps, a thousand in the records."""
HEADER_BYTES = 1000
"""Compressed header; 663 bytes at 63 tensors, 1.1 kB at the records' size."""
BACKWARD = 2
"""Work of the backward pass relative to the forward pass: one product for the inputs, one for the weights."""
COLUMNS = ["quantity", "value", "unit", "note"]
Row = tuple[str, int | float | None, str, str]


def plan_table(recipe: Recipe, step_ms: float | None = None) -> pd.DataFrame:
    """Columns quantity, value, unit, note (value NaN where it cannot be told). Nothing is allocated or trained.

    `step_ms`, the milliseconds of one optimiser step on the machine in mind, turns the clock into steps. Without it a
    recipe that a clock ends is taken to reach its last iteration, which overstates the drift of the weights and so the
    bytes. Raises UserError for a step_ms that is not a positive number.
    """
    if step_ms is not None and not (math.isfinite(step_ms) and step_ms > 0):
        raise UserError(f"--step-ms {step_ms} must be a positive number of milliseconds")
    steps, why = planned_steps(recipe, step_ms)
    rows = [*_parameter_rows(recipe.model), *_byte_rows(recipe, steps or recipe.schedule.iterations, steps is not None)]
    rows += [*_work_rows(recipe, steps, why), *_memory_rows(recipe)]
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object).fillna(math.nan)


def planned_steps(recipe: Recipe, step_ms: float | None) -> tuple[int | None, str]:
    """(steps until clock or iterations end the training, what ends it); None where the clock does and step_ms is."""
    schedule = recipe.schedule
    if schedule.max_seconds <= 0:
        return schedule.iterations, "schedule.iterations; no clock"
    if step_ms is None:
        return None, f"needs --step-ms: {schedule.max_seconds:g} s of training end at the clock"
    by_clock = math.ceil(schedule.max_seconds * 1000 / step_ms)
    if by_clock < schedule.iterations:
        return by_clock, f"{schedule.max_seconds:g} s at {step_ms:g} ms"
    return schedule.iterations, f"schedule.iterations; the clock would allow {by_clock:,}"


# ---------------------------------------------------------------------- parameters


def _parameter_rows(model: Model) -> Iterator[Row]:
    budget = parameter_budget(model)
    yield "parameters", int(budget["parameters"].sum()), "weights", ""
    for kind, row in budget.iterrows():
        note = f"{row['tensors']:.0f} tensors, {row['share']:.1%}"
        yield f"parameters: {kind}", int(row["parameters"]), "weights", note


# ---------------------------------------------------------------------- bytes


def walk_variance(steps: int, group: Group, recipe: Recipe, start: float, update: float) -> float:
    """Variance of one weight after `steps`: W <- (1 - lr wd) W - lr U, with U of variance `update`, correlated over k
    steps by momentum^k; exact for independent gradients.

    With c = E[W U] it needs only Var(W) <- (1 - a)^2 Var(W) - 2 (1 - a) lr c + lr^2 update, a = lr wd, and
    c <- momentum ((1 - a) c - lr update). `start` is Var(W) at the beginning.
    """
    steps = min(steps, MAX_WALK_STEPS)
    variance, covariance = start, 0.0
    for step in range(steps):
        lr = group.lr * multiplier_by_iterations(step, steps, recipe.schedule.warmdown_iters)
        kept = 1 - lr * group.weight_decay
        momentum = muon_momentum(step, recipe.optim) if group.optimizer == "muon" else group.betas[0]
        variance = kept**2 * variance - 2 * kept * lr * covariance + lr**2 * update
        covariance = momentum * (kept * covariance - lr * update)
    return variance


def predicted_std(recipe: Recipe, steps: int) -> dict[str, float]:
    """Standard deviation of every matrix's weights after `steps`, by name."""
    shapes = {name: shape for name, shape in parameter_shapes(recipe.model).items() if len(shape) == 2}
    groups = {name: group for group in parameter_groups(shapes, recipe.optim) for name in group.parameters}
    known: dict[tuple, float] = {}
    result = {}
    for name, (rows, cols) in shapes.items():
        group, start = groups[name], _start_variance(name, rows, cols, recipe.model)
        # Muon: singular values 1, times sqrt(max(1, rows / cols)), are 1 / cols for any shape. AdamW: a running mean of
        # gradients, relative to their own size.
        beta = group.betas[0]
        update = MUON_SHARE**2 / cols if group.optimizer == "muon" else (1 - beta) / (1 + beta)
        key = (group.name, start, update)
        if key not in known:
            frozen = group.optimizer == "frozen"
            known[key] = start if frozen else walk_variance(steps, group, recipe, start, update)
        result[name] = math.sqrt(known[key])
    return result


def _start_variance(name: str, rows: int, cols: int, model: Model) -> float:
    """Variance at initialisation (SEEDS 2.10); 0 for what starts at zero."""
    if name == "tok_emb.weight":
        return model.embed_init_std**2
    if name == "ve.embed.weight":
        return 1.0
    if name == "ve.proj.weight" or (model.init == "uniform" and not name.endswith((".proj.weight", "embed.weight"))):
        return 1 / (3 * cols)
    if name.startswith("blocks.") and ".proj." not in name:
        return 1 / max(rows, cols)
    return 0.0


def bits_per_weight(std: float, cols: int, grid: Grid) -> tuple[float, bool]:
    """(order-0 entropy of the codes of Gaussian weights, in bits; whether the rows' scales lie on the grid's floor).

    The clip is the median of the largest of `cols` magnitudes, whatever quantile the grid takes.
    """
    if std <= 0:
        return 0.0, True
    clip = std * float(ndtri((1 + 0.5 ** (1 / cols)) / 2))
    scale = max(clip / grid.levels, grid.scale_floor)
    codes = np.arange(grid.qmin, grid.qmax + 1)
    borders = np.concatenate(([-np.inf], (codes[:-1] + 0.5) * scale / std, [np.inf]))
    _, kept = np.unique(np.clip(np.round(codes / grid.step) * grid.step, grid.qmin, grid.qmax), return_inverse=True)
    shares = np.bincount(kept, np.diff(ndtr(borders)))  # rounded twice, as the grid does it: to a code, then its step
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum()), scale == grid.scale_floor


def predicted_bytes(recipe: Recipe, steps: int) -> pd.DataFrame:
    """One row per grid, then scales and header: index part; columns bytes, weights, bits (per weight), std (text)."""
    shapes = parameter_shapes(recipe.model)
    stds = predicted_std(recipe, steps)
    parts: dict[str, dict[str, Any]] = {}
    scales = 0
    for name, grid in grid_names_for(shapes, recipe.quant, bits={}).items():
        count, bits = math.prod(shapes[name]), 16.0
        part = parts.setdefault(grid, {"weights": 0, "bits": 0.0, "stds": set()})
        if grid != "fp16":
            bits, on_floor = bits_per_weight(stds[name], shapes[name][1], GRIDS[grid])
            bits *= 1 + CODER_LOSS
            scales += 0 if on_floor else 2 * shapes[name][0]  # equal scales compress to almost nothing
            part["stds"].add(round(stds[name], 3))
        part["weights"] += count
        part["bits"] += bits * count
    rows = [
        {"part": grid, "bytes": math.ceil(part["bits"] / 8), "weights": part["weights"],
         "bits": part["bits"] / part["weights"], "std": " to ".join(map(str, _ends(part["stds"])))}
        for grid, part in sorted(parts.items())
    ]  # fmt: skip
    rows.append({"part": "scales", "bytes": scales, "weights": 0, "bits": math.nan, "std": ""})
    rows.append({"part": "header", "bytes": HEADER_BYTES, "weights": 0, "bits": math.nan, "std": ""})
    return pd.DataFrame(rows).set_index("part")


def _ends(values: set[float]) -> list[float]:
    return sorted({min(values), max(values)}) if values else []


def _byte_rows(recipe: Recipe, steps: int, is_known: bool) -> Iterator[Row]:
    sizes = predicted_bytes(recipe, steps)
    for part, row in sizes.iterrows():
        note = ""
        if part == "fp16":
            note = f"{row['weights']:,} weights at 2 bytes"
        elif row["weights"]:
            note = f"{row['weights']:,} Gaussian weights of std {row['std']}: {row['bits']:.2f} bits each"
        yield f"predicted bytes: {part}", int(row["bytes"]), "bytes", note
    file, code = int(sizes["bytes"].sum()), code_bytes()
    note = "" if is_known else " (schedule.iterations; the clock may end it sooner)"
    yield "predicted bytes: artifact", file, "bytes", f"weights after {steps:,} steps{note}"
    yield "code", code, "bytes", "pgolf_core/*.py"
    yield "predicted bytes: total", file + code, "bytes", ""
    yield "cap", recipe.cap_bytes, "bytes", f"track {recipe.track}"
    left = recipe.cap_bytes - file - code
    yield "predicted bytes left", left, "bytes", "" if left >= 0 else "over the cap: coarser grids or fewer weights"


# ---------------------------------------------------------------------- work and memory


def forward_flops_per_token(model: Model, seq_len: int) -> int:
    """Multiply-adds count two: matrix products of blocks, bigram and head, and the unmasked half of attention.

    A token attends to (seq_len + 1) / 2 positions on average, with one product of width C for the scores and one for
    the values. Norms, rotary embedding, exclusions and the softmax are left out.
    """
    products = sum(
        math.prod(shape)
        for name, shape in parameter_shapes(model).items()
        if name == "tok_emb.weight" or (name.endswith(".weight") and ".embed." not in name)
    )
    return 2 * products + model.num_layers * 2 * model.model_dim * (seq_len + 1)


def muon_flops_per_step(recipe: Recipe) -> int:
    """Newton-Schulz over all of Muon's matrices [m, n], m <= n: each iteration 2 (2 m^2 n + m^3)."""
    shapes, total = parameter_shapes(recipe.model), 0
    for group in parameter_groups(shapes, recipe.optim):
        for name in group.parameters if group.optimizer == "muon" else ():
            m, n = sorted(shapes[name])
            total += 2 * (2 * m * m * n + m**3)
    return total * recipe.optim.newton_schulz_steps


def _work_rows(recipe: Recipe, steps: int | None, why: str) -> Iterator[Row]:
    data = recipe.data
    tokens = data.batch_tokens
    forward = forward_flops_per_token(recipe.model, data.seq_len)
    flops = (1 + BACKWARD) * forward * tokens
    muon = muon_flops_per_step(recipe)
    yield "tokens of a step", tokens, "tokens", f"{tokens // data.seq_len:,} sequences of {data.seq_len:,}"
    yield "forward pass of a token", forward, "FLOP", "matrix products and causal attention"
    yield "forward and backward of a step", flops, "FLOP", f"{1 + BACKWARD} x forward x tokens"
    yield "Newton-Schulz of a step", muon, "FLOP", f"{muon / flops:.1%} of forward and backward"
    yield "steps in the budget", steps, "steps", why
    yield "tokens in the budget", steps and steps * tokens, "tokens", "" if steps else why
    yield "work in the budget", steps and steps * (flops + muon), "FLOP", "" if steps else why


def _memory_rows(recipe: Recipe) -> Iterator[Row]:
    shapes = parameter_shapes(recipe.model)
    counts = dict.fromkeys(("muon", "adamw", "frozen"), 0)
    for group in parameter_groups(shapes, recipe.optim):
        counts[group.optimizer] += sum(math.prod(shapes[name]) for name in group.parameters)
    weights = 4 * sum(counts.values())
    sizes = {
        "weights": (weights, "float32"),
        "gradients": (weights - 4 * counts["frozen"], "float32"),
        "optimiser": (4 * counts["muon"] + 8 * counts["adamw"], "one moment a Muon weight, two an AdamW weight"),
        "average": (0 if recipe.average.kind == "none" else weights, f"average.kind = {recipe.average.kind}, float32"),
    }
    for what, (size, note) in sizes.items():
        yield f"memory: {what}", size, "bytes", note
    total = sum(size for size, _ in sizes.values())
    yield "memory: together", total, "bytes", "activations not counted"
