"""How many bytes a recipe's artifact will take, from how far training lets its weights drift.

Successive gradients are taken as independent, so a weight is a random walk: each step its decay pulls it to zero and an
update of known size, correlated with earlier ones through the optimiser's momentum, moves it (`walk_variance`). Weights
of that standard deviation, taken as Gaussian, give each grid's codes their frequencies, and those the entropy that the
coder comes close to (`bits_per_weight`).

One number is fitted: MUON_SHARE, to the mean of PR 315's three published files, 15,525,821 bytes. It gives all 18
files of the seven other records within ERROR, and three local runs of 150 to 580 steps within 9 %: a prediction to
choose grids and widths by, not the ledger.
"""

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import entr, ndtr, ndtri

from pgolf_core.base.bits import allocate_bits
from pgolf_core.base.grouping import is_sorted, kinds_of
from pgolf_core.lab.export import code_bytes_of
from pgolf_core.network.choice import STEPS, grid_names_for
from pgolf_core.network.extras import LEFT, RIGHT
from pgolf_core.network.grid import Grid, grid_of
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing.sensitivity import MIN_ROWS
from pgolf_core.recipes.recipe import Model, Recipe
from pgolf_core.training.optim import Group, muon_momentum, parameter_groups, rate_multiplier

ERROR = 0.03
"""Largest relative error over the 21 published files of the records (tests/lab/plan/test_bytes.py)."""
MUON_SHARE = 0.82
"""Size of a Muon update that acts, relative to an orthogonal matrix: what successive gradients take back, and what
Newton-Schulz leaves below 1."""
CODER_LOSS = {"zstd": 0.013, "brotli": 0.0128}
"""What a compressor takes above the order-0 entropy: zstd as pgolf_core.packing.coder measured it; brotli 15,867,892
bytes for 35.9 million Gaussian codes of 15,667,000 on PR 1493's two grids."""
SCALE_BYTES = 1.0
"""Of a row's two, where rows differ: their high bytes are alike (52,000 bytes for 53,248 Gaussian rows)."""
MAX_WALK_STEPS = 20_000
"""Longer runs are taken as this long; decay forgets in about 1 / (lr wd) steps, a thousand in the records."""
HEADER_BYTES = 1000
"""Compressed header; 663 bytes at 63 tensors, 1.1 kB at the records' size."""
BY_GRADIENT = "int5, 6 or 7 by gradient"


def walk_variance(steps: int, group: Group, recipe: Recipe, start: float, update: float) -> float:
    """Variance of one weight after `steps`: W <- (1 - lr wd) W - lr U, with U of variance `update`, correlated over k
    steps by momentum^k; exact for independent gradients.

    With c = E[W U] it needs only Var(W) <- (1 - a)^2 Var(W) - 2 (1 - a) lr c + lr^2 update, a = lr wd, and
    c <- momentum ((1 - a) c - lr update). `start` is Var(W) at the beginning.
    """
    steps = min(steps, MAX_WALK_STEPS)
    schedule = dataclasses.replace(recipe.schedule, iterations=steps, max_seconds=0.0)
    variance, covariance = start, 0.0
    for step in range(steps):
        multiplier = rate_multiplier(schedule, step, 0.0)
        late = recipe.qat.kind == "late" and multiplier < recipe.qat.threshold
        lr = group.lr * multiplier * (recipe.qat.lr_factor if late else 1.0)
        kept = 1 - lr * group.weight_decay
        momentum = muon_momentum(step, recipe.optim) if group.optimizer == "muon" else group.betas[0]
        variance = kept**2 * variance - 2 * kept * lr * covariance + lr**2 * update
        covariance = momentum * (kept * covariance - lr * update)
    return variance


def predicted_std(recipe: Recipe, steps: int) -> dict[str, float]:
    """Standard deviation of every matrix's weights after `steps`, by name."""
    shapes = {name: shape for name, shape in parameter_shapes(recipe.model).items() if len(shape) == 2}
    known: dict[tuple[str, float, float], float] = {}
    result = {}
    for group in parameter_groups(shapes, recipe.optim):
        for name in group.parameters:
            # Muon: singular values 1, times sqrt(max(1, rows / cols)), are 1 / cols for any shape. AdamW: a running
            # mean of gradients, relative to their own size.
            beta, start = group.betas[0], _start_variance(name, shapes[name], recipe.model)
            update = MUON_SHARE**2 / shapes[name][1] if group.optimizer == "muon" else (1 - beta) / (1 + beta)
            key = (group.name, start, update)
            if key not in known:
                still = group.optimizer == "frozen"
                known[key] = start if still else walk_variance(steps, group, recipe, start, update)
            result[name] = math.sqrt(known[key])
    return result


def _start_variance(name: str, shape: tuple[int, ...], model: Model) -> float:
    """Variance at initialisation (pgolf_core.network.model.initialise); 0 for what starts at zero."""
    if name in ("tok_emb.weight", "ve.embed.weight"):
        return model.embed_init_std**2 if name == "tok_emb.weight" else 1.0
    if name == "ve.proj.weight" or (model.init == "uniform" and not name.endswith((".proj.weight", "embed.weight"))):
        return 1 / (3 * shape[1])
    return 1 / max(shape) if name.startswith("blocks.") and ".proj." not in name else 0.0


def bits_per_weight(std: float, cols: int, grid: Grid) -> tuple[float, bool]:
    """(order-0 entropy of the codes of Gaussian weights, in bits; whether the rows' scales lie on the grid's floor).

    The clip is the median of the largest of `cols` magnitudes, whatever quantile the grid takes, or so many standard
    deviations as it says.
    """
    if std <= 0:
        return 0.0, True
    clip = std * (grid.clip_sigmas or _largest(cols))
    scale = max(clip / grid.levels, grid.scale_floor)
    return _gaussian_bits(scale / std, grid.qmin, grid.qmax, grid.step), scale == grid.scale_floor


def _gaussian_bits(scale: float, qmin: int, qmax: int, step: int = 1) -> float:
    """Entropy of a Gaussian's codes, its deviation 1: rounded twice, as a grid does it, to a code, then its step."""
    codes = np.arange(qmin, qmax + 1)
    borders = np.concatenate(([-np.inf], (codes[:-1] + 0.5) * scale, [np.inf]))
    _, kept = np.unique(np.clip(np.round(codes / step) * step, qmin, qmax), return_inverse=True)
    shares = np.bincount(kept, np.diff(ndtr(borders)))
    return float(entr(shares[shares > 0]).sum()) / math.log(2)


def _largest(count: int) -> float:
    """Median of the largest magnitude among so many Gaussian numbers, in deviations."""
    return float(ndtri((1 + 0.5 ** (1 / count)) / 2))


def grid_shares(recipe: Recipe) -> dict[str, dict[str, float]]:
    """Grids that each tensor may be packed on, with the chance of each: one, or three where gradients will choose.

    Those get the rule's shares of all ranked tensors, whatever their size: which one gains a bit shows in training.
    """
    shapes = parameter_shapes(recipe.model)
    ranked = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] >= MIN_ROWS]
    counts = Counter(allocate_bits({name: place for place, name in enumerate(ranked, 1)}).values()) or {6: 1}
    by_bits = {bits: grid_names_for(shapes, recipe.quant, dict.fromkeys(shapes, bits)) for bits in counts}
    found: dict[str, Counter[str]] = {name: Counter() for name in shapes}
    for bits, names in by_bits.items():
        for name, grid in names.items():
            found[name][grid] += counts[bits]
    return {name: {grid: n / grids.total() for grid, n in grids.items()} for name, grids in found.items()}


def low_rank_bytes(recipe: Recipe, stds: dict[str, float]) -> tuple[float, int]:
    """(bytes, numbers) of the low-rank corrections, their factors taken as Gaussian and coded at their entropy.

    They go to the matrices whose rounding errors, evenly spread over a step, have the largest norms.
    """
    shapes, quant = parameter_shapes(recipe.model), recipe.quant
    norms = {}
    for name, chances in grid_shares(recipe).items():
        if quant.low_rank and stds.get(name) and chances.keys().isdisjoint(("fp16", STEPS, quant.gates)):
            grid = grid_of(name, max(chances, key=lambda grid: chances[grid]), quant)
            clip = stds[name] * (grid.clip_sigmas or _largest(shapes[name][1]))
            norms[name] = max(clip / grid.levels, grid.scale_floor) * math.sqrt(math.prod(shapes[name]))
    found, numbers = 0.0, 0
    for name in sorted(norms, key=lambda name: -norms[name])[: quant.low_rank_top]:
        for size, count, (qmin, qmax, divisor) in (
            (shapes[name][0] * quant.low_rank, shapes[name][0] * quant.low_rank, LEFT),
            (quant.low_rank_group, shapes[name][1] * quant.low_rank, RIGHT),
        ):
            found += count * _gaussian_bits(_largest(size) / divisor, qmin, qmax) / 8 + 2 * count / size
            numbers += count
    return found, numbers


def order_bytes(recipe: Recipe) -> float:
    """Bytes of the orders of sorted rows, where each is as likely as any other."""
    if recipe.quant.grouping == "off":
        return 0.0
    shapes = parameter_shapes(recipe.model)
    gridded = [name for name, grids in grid_shares(recipe).items() if grids.keys().isdisjoint(("fp16", STEPS))]
    kinds = [names for kind, names in kinds_of(gridded).items() if is_sorted(kind, recipe.quant.grouping)]
    return sum(math.lgamma(shapes[name][0] + 1) for names in kinds for name in names) / math.log(2) / 8


def predicted_bytes(recipe: Recipe, steps: int) -> pd.DataFrame:
    """One row per grid, then low-rank corrections, orders of rows, scales and header: index part; columns bytes,
    weights, bits (per weight), std (text)."""
    shapes, std_of = parameter_shapes(recipe.model), predicted_std(recipe, steps)
    parts: dict[str, dict[str, Any]] = {}
    scales = 0.0
    for name, chances in grid_shares(recipe).items():
        count = math.prod(shapes[name])
        label = BY_GRADIENT if len(chances) > 1 else next(iter(chances))
        part = parts.setdefault(label, {"weights": 0, "bits": 0.0, "stds": set()})
        part["weights"] += count
        part["bits"] += 16.0 * count * chances.get("fp16", 0)
        for grid, chance in chances.items() if chances.keys().isdisjoint(("fp16", STEPS)) else ():
            bits, on_floor = bits_per_weight(std_of[name], shapes[name][1], grid_of(name, grid, recipe.quant))
            part["bits"] += chance * bits * (1 + CODER_LOSS[recipe.quant.compressor]) * count
            part["stds"].add(round(std_of[name], 3))
            if not on_floor:  # equal scales compress to almost nothing
                scales += chance * SCALE_BYTES * shapes[name][0]
    if STEPS in parts:  # as fine as the target allows: the rest of it
        target = recipe.quant.target_bytes or recipe.cap_bytes - recipe.cap_bytes // 1000
        taken = [*(part["bits"] for part in parts.values()), 8 * scales]
        others = sum(math.ceil(size / 8) for size in taken) + HEADER_BYTES + code_bytes_of(recipe)
        parts[STEPS]["bits"] = 8.0 * max(0, target - others)
    rows = {}
    for grid, part in sorted(parts.items()):
        stds = sorted(part["stds"])
        ends = " to ".join(map(str, dict.fromkeys(stds[:1] + stds[-1:])))
        rows[grid] = (math.ceil(part["bits"] / 8), part["weights"], part["bits"] / part["weights"], ends)
    low_rank, numbers = low_rank_bytes(recipe, std_of)
    if low_rank:
        rows["low rank"] = (math.ceil(low_rank), numbers, 8 * low_rank / numbers, "")
    if orders := order_bytes(recipe):
        rows["orders of rows"] = (math.ceil(orders), 0, math.nan, "")
    rows |= {"scales": (math.ceil(scales), 0, math.nan, ""), "header": (HEADER_BYTES, 0, math.nan, "")}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["bytes", "weights", "bits", "std"])
    return table.rename_axis("part")
