"""What notebook 05 looks at: which grid each tensor gets, what rounding costs, and where the bytes of the file go.

Pure functions over weights by name (float32 [rows, cols] matrices and smaller tensors) and the packer's ledger.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pgolf_core.base.names import ARTIFACT
from pgolf_core.lab.look.n01_data import entropy_bits
from pgolf_core.lab.look.n02_network import on_grids, tensor_kind
from pgolf_core.lab.report.figures import stored_and_scales
from pgolf_core.network.grid import GRIDS, STEPS, Grid, dequantise, grid_names_for, quantise_tensor
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing import allocation
from pgolf_core.packing.correction import Correction, Hessians, corrections, quantise_in_turn
from pgolf_core.packing.ledger import Ledger
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import Groups, allocate_bits
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes import recipe

NO_FLOOR = 1e-12
UNCAPPED_BYTES = 2**40
MOST_DRAWN = 400_000
"""Weights of one part that a histogram needs; more of them change no pixel."""

# ---------------------------------------------------------------------- grids


def part_of(name: str) -> str:
    """The part of the network that a tensor belongs to, as the packer tells them apart: all of attention is one."""
    return tensor_kind(name).split(":")[0]


def grid_table(shapes: Mapping[str, tuple[int, ...]], grids: Mapping[str, str]) -> pd.DataFrame:
    """One row per part and grid: tensors, weights, codes (how many a weight can take) and floor (its smallest step)."""
    rows = [
        {"part": part_of(name), "grid": grids[name], "tensors": 1, "weights": int(np.prod(shape))}
        for name, shape in shapes.items()
    ]
    table = pd.DataFrame(rows).groupby(["part", "grid"], as_index=False, sort=False).sum()
    known = [GRIDS.get(name) for name in table["grid"]]
    table["codes"] = pd.array([len(_codes_of(grid)) if grid else None for grid in known], dtype="Int64")
    table["floor"] = [grid.scale_floor if grid else np.nan for grid in known]
    return table


def weights_by_part(weights: Mapping[str, Tensor], grids: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Weights of every part that has tensors on a grid, flat, thinned evenly to about MOST_DRAWN."""
    flat: dict[str, list[Tensor]] = {}
    for name in _gridded(grids):
        flat.setdefault(part_of(name), []).append(weights[name].flatten())
    joined = {part: torch.cat(pieces).numpy() for part, pieces in flat.items()}
    return {part: values[:: max(1, len(values) // MOST_DRAWN)] for part, values in joined.items()}


def grid_lines(weights: Mapping[str, Tensor], grids: Mapping[str, str], part: str) -> np.ndarray:
    """Values of the grid under a part's weights, at the scale of its median row, as far as the weights reach.

    `grids` must hold one grid for all of the part's tensors that are on any.
    """
    names = [name for name in _gridded(grids) if part_of(name) == part]
    (grid,) = {grids[name] for name in names}
    scales = torch.cat([quantise_tensor(weights[name], GRIDS[grid])[1] for name in names]).float()
    values = _codes_of(GRIDS[grid]) * float(scales.median())
    apart = GRIDS[grid].step * float(scales.median())
    reach = max(apart, *(float(weights[name].abs().max()) for name in names))
    return values[np.abs(values) < reach + apart / 2]


def floor_effect(weights: Mapping[str, Tensor], grids: Mapping[str, str]) -> pd.DataFrame:
    """What the floor under the scales does, one row per part: its tensors on their grid, with the floor and without.

    Columns: rows_at_floor (share of rows whose clip / levels lies below the floor), step (of the median row, weight
    units), codes_used (most that one tensor uses), bits and bits_without (order-0 entropy per weight), rms and
    rms_without (rounding error, weight units).
    """
    rows = []
    for name in _gridded(grids):
        grid, w = GRIDS[grids[name]], weights[name]
        q, scale = quantise_tensor(w, grid)
        free_q, free_scale = quantise_tensor(w, dataclasses.replace(grid, scale_floor=NO_FLOOR))
        held = {"at_floor": int((scale > free_scale).sum()), "rows": len(scale), "codes_used": len(q.unique())}
        for suffix, codes, step in (("", q, scale), ("_without", free_q, free_scale)):
            held["bits" + suffix] = q.numel() * entropy_bits(np.unique(codes, return_counts=True)[1])
            held["squares" + suffix] = float((dequantise(codes, step) - w).double().square().sum())
        step = float(scale.float().median())
        rows.append({"part": part_of(name), "grid": grids[name], "weights": w.numel(), "step": step, **held})
    if not rows:
        return pd.DataFrame()
    groups = pd.DataFrame(rows).groupby(["part", "grid"], sort=False)
    sums = groups.sum()
    return pd.DataFrame({
        "rows_at_floor": sums["at_floor"] / sums["rows"],
        "step": groups["step"].median(),
        "codes_used": groups["codes_used"].max(),
        "bits": sums["bits"] / sums["weights"],
        "bits_without": sums["bits_without"] / sums["weights"],
        "rms": np.sqrt(sums["squares"] / sums["weights"]),
        "rms_without": np.sqrt(sums["squares_without"] / sums["weights"]),
    }).reset_index()  # fmt: skip


def code_shares(weights: Mapping[str, Tensor], grids: Mapping[str, str], part: str) -> dict[str, tuple]:
    """{grid: (codes, share of the part's weights with that code)} over the codes in use and all between them."""
    counts: dict[str, np.ndarray] = {}
    for name in _gridded(grids):
        if part_of(name) == part:
            q, _ = quantise_tensor(weights[name], GRIDS[grids[name]])
            found = np.bincount(q.flatten().numpy().astype(np.int64) + 128, minlength=256)
            counts[grids[name]] = counts.get(grids[name], 0) + found
    shares = {}
    for grid, found in counts.items():
        used = np.flatnonzero(found)
        places = np.arange(used[0], used[-1] + 1)
        shares[grid] = (places - 128, found[places] / found.sum())
    return shares


def grids_beside(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`grid_table`s of several networks as one: rows part and grid, its codes and floor, then tensors and the share of
    the weights in each network (0 where it has none such)."""
    known = pd.concat(tables.values()).drop_duplicates(["part", "grid"]).set_index(["part", "grid"])
    columns = {("grid", "codes"): known["codes"], ("grid", "floor"): known["floor"]}
    for label, table in tables.items():
        counts = table.set_index(["part", "grid"])
        columns[label, "tensors"] = counts["tensors"].reindex(known.index).fillna(0).astype(int)
        columns[label, "weights"] = (counts["weights"] / counts["weights"].sum()).reindex(known.index).fillna(0)
    return pd.DataFrame(columns).sort_index(level="part", sort_remaining=False, kind="stable")


def published_grid_table(settings: recipe.Recipe) -> pd.DataFrame:
    """`grid_table` of a recipe without weights. Which matrix got which bits by gradient was never published, so all of
    those count under one name, without codes or floor."""
    shapes = parameter_shapes(settings.model)
    six, five = (grid_names_for(shapes, settings.quant, bits=dict.fromkeys(shapes, bits)) for bits in (6, 5))
    grids = {name: grid if grid == five[name] else "5, 6 or 7 bits" for name, grid in six.items()}
    return grid_table(shapes, grids)


def exception_table(shapes: Mapping[str, tuple[int, ...]], quant: recipe.Quant) -> pd.DataFrame:
    """One row per entry of quant.exceptions: pattern, grid, and how many tensors and weights it decides."""
    taken: set[str] = set()
    rows = []
    for entry in quant.exceptions:
        pattern, _, grid = entry.rpartition("=")
        names = [name for name in shapes if fnmatchcase(name, pattern) and name not in taken]
        taken |= set(names)
        rows.append({"pattern": pattern, "grid": grid, "tensors": len(names), "weights": _count(shapes, names)})
    return pd.DataFrame(rows, columns=["pattern", "grid", "tensors", "weights"])


def _count(shapes: Mapping[str, tuple[int, ...]], names: Iterable[str]) -> int:
    return sum(math.prod(shapes[name]) for name in names)


# ---------------------------------------------------------------------- the ledger


def tensor_table(ledger: Ledger) -> pd.DataFrame:
    """One row per tensor, most bytes first: name, part, grid, shape, weights, stored and scales (bytes), share, bits.

    `bits` is stored bits per weight, scales included.
    """
    table = pd.DataFrame(ledger.tensors)
    table["stored"], table["scales"] = stored_and_scales(table, ledger.fp16_bytes, ledger.scales_bytes)
    table["part"] = table["name"].map(part_of)
    whole = table["stored"] + table["scales"]
    table["share"], table["bits"] = whole / ledger.file_bytes, 8 * whole / table["elements"]
    table = table.rename(columns={"elements": "weights"}).loc[whole.sort_values(ascending=False, kind="stable").index]
    columns = ["name", "part", "grid", "shape", "weights", "stored", "scales", "share", "bits"]
    return table[columns].reset_index(drop=True)


def coder_table(ledger: Ledger) -> pd.DataFrame:
    """One row per grid: weights, raw, entropy and stored bytes, bits per weight, and the coder's loss.

    entropy is what an ideal coder needs that knows how often each tensor uses each code (order 0); loss is what zstd
    takes above it. Below zero means that zstd found more than frequencies.
    """
    table = pd.DataFrame(ledger.tensors)
    table["tensors"] = 1
    sums = table.groupby("grid")[["tensors", "elements", "raw_bytes", "entropy_bytes"]].sum()
    stored = table.dropna(subset="compressed_bytes").groupby("grid")["compressed_bytes"].sum()
    sums["stored_bytes"] = stored.reindex(sums.index).fillna(ledger.fp16_bytes).astype(np.int64)
    sums["bits_per_weight"] = 8 * sums["stored_bytes"] / sums["elements"]
    sums["loss"] = sums["stored_bytes"] / sums["entropy_bytes"] - 1
    return sums.rename(columns={"elements": "weights"}).reset_index()


def promised_bits(groups: Mapping[str, Groups], names: Iterable[str]) -> pd.DataFrame:
    """Bits a weight that steps by sensitivity save by the theory, mean of each part: rows and columns against one step
    for the matrix. `attrs["whole"]` is all of it, differences between matrices included, against one step for all.

    Half the log of the arithmetic over the geometric mean, with the floor that the allocation has.
    """
    rows, logs, values, counts = [], 0.0, 0.0, 0
    for name in names:
        if groups[name].mean <= 0:
            continue
        floored = [np.maximum(v / v.mean(), allocation.FLOOR) for v in (groups[name].rows, groups[name].cols)]
        saved = [0.5 * float(np.log2(v.mean()) - np.log2(v).mean()) for v in floored]
        size, mean = len(floored[0]) * len(floored[1]), groups[name].mean * float(floored[0].mean() * floored[1].mean())
        rows.append({"part": part_of(name), "rows": saved[0], "columns": saved[1]})
        logs, values, counts = logs + size * (math.log2(mean) - 2 * sum(saved)), values + size * mean, counts + size
    table = pd.DataFrame(rows, columns=["part", "rows", "columns"]).groupby("part", sort=False).mean()
    table.attrs["whole"] = 0.5 * (math.log2(values / counts) - logs / counts) if counts else 0.0
    return table


def correction_of(
    weights: Mapping[str, Tensor], grids: Mapping[str, str], quant: recipe.Quant, hessians: Hessians | None
) -> Correction | None:
    """What corrects the rounding of this run's matrices, worked out again; None where the recipe rounds plainly."""
    if quant.correction == "off" or hessians is None:
        return None
    return corrections(
        hessians, {name: tuple(weights[name].shape) for name in _gridded(grids)}, quant.correction_damping
    )


def stepped_weights(
    weights: Mapping[str, Tensor], grids: Mapping[str, str], sensitivity: Mapping[str, Groups], multiplier: float,
    correction: Correction | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """What matrices on steps come back as, worked out again from the weights and the file's one multiplier."""
    matrices = {name: weights[name].numpy() for name in sorted(weights) if grids[name] == STEPS}
    made = allocation.plans(matrices, sensitivity)
    if correction is not None:
        made = allocation.corrected(made, correction)
    return {name: torch.from_numpy(plan.rounded(multiplier).weights(multiplier)) for name, plan in made.items()}


def unpack_mismatches(
    weights: Mapping[str, Tensor], grids: Mapping[str, str], unpacked: Mapping[str, Tensor],
    stepped: Mapping[str, Tensor] | None = None, correction: Correction | None = None,
) -> list[str]:  # fmt: skip
    """Names whose unpacked values are not bit for bit the dequantised weights; empty is what must hold.

    `stepped` has what is expected of matrices on steps; `correction` is that of matrices on grids.
    """
    wrong = sorted(set(weights) ^ set(unpacked))
    for name in sorted(set(weights) & set(unpacked)):
        w = weights[name].float()
        if grids[name] == STEPS:
            expected = (stepped or {})[name]
        else:
            feedback = correction.feedback.get(name) if correction else None
            if grids[name] == "fp16":
                expected = w.half().float()
            elif feedback is None:
                expected = dequantise(*quantise_tensor(w, GRIDS[grids[name]]))
            else:
                expected = dequantise(*quantise_in_turn(w, GRIDS[grids[name]], feedback))
        if not torch.equal(expected, unpacked[name]):
            wrong.append(name)
    return wrong


# ---------------------------------------------------------------------- sensitivity, rate and distortion


def bits_by_sensitivity(sensitivity: Mapping[str, float]) -> pd.DataFrame:
    """PR 332's rule on a run's own gradients, least sensitive first: name, part, sensitivity, bits; index = rank."""
    bits = allocate_bits(dict(sensitivity))
    rows = [
        {"name": name, "part": part_of(name), "sensitivity": value, "bits": bits[name]}
        for name, value in sensitivity.items()
    ]
    table = pd.DataFrame(rows, columns=["name", "part", "sensitivity", "bits"])
    table = table.sort_values("sensitivity", kind="stable", ignore_index=True)
    return table.set_index(pd.RangeIndex(1, len(table) + 1, name="rank"))


Choice = tuple[recipe.Quant, dict[str, int] | None]


def packing_choices(
    quant: recipe.Quant, bits: dict[str, int] | None, sensitivity: Mapping[str, float], file_bytes: int = 0
) -> dict[str, Choice]:
    """{label: (settings, bits)}: the recipe's own packing, 5 to 8 bits for attention and MLP, and PR 332's rule.

    Embeddings keep the recipe's grid, so that the rows differ in one thing; the recipe's exceptions are left out of all
    rows but its own. A correction of rounding is in all rows but one, "rounded plainly". With `file_bytes`, those of
    this recipe's file, steps by gradient fill as many (a recipe that has steps is this row itself).
    """
    fixed = dataclasses.replace(on_grids(quant), allocation="fixed", exceptions=())
    names = [*(f"int{bits}_row_clip" for bits in (5, 6, 7, 8)), "int5_row_nofloor"]
    by_steps = dataclasses.replace(fixed, kind="steps", target_bytes=file_bytes)
    own = dataclasses.replace(by_steps, exceptions=quant.exceptions) if quant.kind == "steps" else quant
    choices: dict[str, Choice] = {"this recipe": (own, bits)}
    if quant.correction != "off":
        choices["rounded plainly"] = (dataclasses.replace(own, correction="off"), bits)
    if file_bytes and quant.kind != "steps":
        choices["steps, as many bytes"] = (by_steps, None)
    choices |= {name: (dataclasses.replace(fixed, attention=name, mlp=name), None) for name in names}
    if sensitivity:
        by_gradient = dataclasses.replace(on_grids(quant), allocation="gradient", exceptions=())
        choices["5/6/7 by gradient"] = (by_gradient, allocate_bits(dict(sensitivity)))
    return choices


def rate_distortion(
    weights: Mapping[str, Tensor],
    model: recipe.Model,
    choices: Mapping[str, Choice],
    bpb_of: Callable[[dict[str, Tensor]], float],
    groups: Mapping[str, Groups] | None = None,
    hessians: Hessians | None = None,
) -> pd.DataFrame:
    """Pack the same weights in every way: real file bytes, bits per weight, rounding error and bpb of what comes back.

    bits and rms (root mean square rounding error, relative to the weights' own rms) are over attention and MLP matrices
    on a grid; NaN where there are none. `bpb_of` scores weights; the first row is the unrounded ones.
    """
    unrounded = bpb_of({**weights})
    rows = [{"packing": "float32, not packed", "file_bytes": np.nan, "bits": 32.0, "rms": 0.0, "bpb": unrounded}]
    with tempfile.TemporaryDirectory(prefix="pgolf-") as folder:
        path = Path(folder) / ARTIFACT
        for label, (quant, bits) in choices.items():
            ledger = pack(
                {**weights}, model, quant, path, bits=bits, sensitivity=groups, hessians=hessians, code_bytes=0,
                cap_bytes=UNCAPPED_BYTES,
            )  # fmt: skip
            _, state = unpack(path)
            blocks = [row for row in ledger.tensors if row["grid"] != "fp16" and ".blocks." in f".{row['name']}"]
            stored, count = (sum(row[key] for row in blocks) for key in ("compressed_bytes", "elements"))
            errors = [(state[row["name"]] - weights[row["name"]]).double().square().sum() for row in blocks]
            squares = [weights[row["name"]].double().square().sum() for row in blocks]
            rows.append({
                "packing": label,
                "file_bytes": ledger.file_bytes,
                "bits": 8 * stored / count if count else np.nan,
                "rms": float((sum(errors) / sum(squares)) ** 0.5) if count else np.nan,
                "bpb": bpb_of(state),
            })  # fmt: skip
    table = pd.DataFrame(rows)
    table["bpb_lost"] = table["bpb"] - unrounded
    return table


def _gridded(grids: Mapping[str, str]) -> list[str]:
    return [name for name, grid in grids.items() if grid != "fp16"]


def _codes_of(grid: Grid) -> np.ndarray:
    """The codes a grid can use: all of its range, or the multiples of its step and the ends."""
    codes = np.arange(grid.qmin, grid.qmax + 1)
    return np.unique(np.clip(np.round(codes / grid.step) * grid.step, grid.qmin, grid.qmax).astype(np.int64))
