"""What notebook 05 looks at: which grid each tensor gets, what rounding costs, and where the bytes of the file go.

Pure functions over weights by name (float32 [rows, cols] matrices and smaller tensors) and the packer's ledger.
"""

import dataclasses
import fnmatch
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pgolf_core.base.bits import allocate_bits
from pgolf_core.base.device import pool_of
from pgolf_core.base.names import ARTIFACT
from pgolf_core.lab.look.n01_data import entropy_bits
from pgolf_core.lab.look.n02_network import codes_of, on_grids, tensor_kind
from pgolf_core.lab.look.n04_averaging import rounded
from pgolf_core.lab.report.figures import ledger_table, sums_by_grid
from pgolf_core.network.choice import STEPS, grid_names_for
from pgolf_core.network.extras import corrections_of
from pgolf_core.network.grid import GRIDS, dequantise, grid_of, quantise_tensor
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing import allocation
from pgolf_core.packing.correction import Hessians, all_in_turn, corrections
from pgolf_core.packing.ledger import Ledger
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import Groups
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes import recipe

NO_FLOOR = 1e-12
MOST_DRAWN = 400_000
"""Weights of one part that a histogram needs; more of them change no pixel."""


def part_of(name: str) -> str:
    """The part of the network that a tensor belongs to, as the packer tells them apart: all of attention is one."""
    return tensor_kind(name).split(":")[0]


def grid_table(shapes: Mapping[str, tuple[int, ...]], grids: Mapping[str, str]) -> pd.DataFrame:
    """One row per part and grid: tensors, weights, codes (how many a weight can take) and floor (its smallest step)."""
    rows = [(part_of(name), grids[name], 1, math.prod(shape)) for name, shape in shapes.items()]
    table = pd.DataFrame(rows, columns=["part", "grid", "tensors", "weights"])
    table = table.groupby(["part", "grid"], as_index=False, sort=False).sum()
    known = [GRIDS.get(name) for name in table["grid"]]
    table["codes"] = pd.array([len(codes_of(grid)) if grid else None for grid in known], dtype="Int64")
    table["floor"] = [grid.scale_floor if grid else np.nan for grid in known]
    return table


def weights_by_part(weights: Mapping[str, Tensor], grids: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Weights of every part that has tensors on a grid, flat, thinned evenly to about MOST_DRAWN."""
    flat = defaultdict(list)
    for name in _gridded(grids):
        flat[part_of(name)].append(weights[name].flatten())
    joined = {part: torch.cat(pieces).numpy() for part, pieces in flat.items()}
    return {part: values[:: max(1, len(values) // MOST_DRAWN)] for part, values in joined.items()}


def grid_lines(weights: Mapping[str, Tensor], grids: Mapping[str, str], part: str, quant: recipe.Quant) -> np.ndarray:
    """Values of the one grid that all of a part's tensors on any are on, at the scale of its median row, as far as the
    weights reach."""
    names = [name for name in _gridded(grids) if part_of(name) == part]
    (grid,) = {grid_of(name, grids[name], quant) for name in names}
    scale = float(torch.cat([quantise_tensor(weights[name], grid)[1] for name in names]).float().median())
    values, apart = codes_of(grid) * scale, grid.step * scale
    reach = max(apart, *(float(weights[name].abs().max()) for name in names))
    return values[np.abs(values) < reach + apart / 2]


def floor_effect(weights: Mapping[str, Tensor], grids: Mapping[str, str], quant: recipe.Quant) -> pd.DataFrame:
    """What the floor under the scales does, one row per part: its tensors on their grid, with the floor and without:
    rows_at_floor (share of rows whose clip / levels lies below the floor), step (of the median row, weight units),
    codes_used (most that one tensor uses), bits and bits_without (order-0 entropy per weight), rms and rms_without
    (rounding error, weight units)."""
    rows = []
    for name in _gridded(grids):
        grid, w = grid_of(name, grids[name], quant), weights[name]
        floored, free = (quantise_tensor(w, one) for one in (grid, dataclasses.replace(grid, scale_floor=NO_FLOOR)))
        row = {"part": part_of(name), "grid": grids[name], "weights": w.numel(), "rows": len(w)}
        row |= {"at_floor": int((floored[1] > free[1]).sum()), "step": float(floored[1].float().median())}
        row["codes_used"] = len(floored[0].unique())
        for suffix, (q, scale) in (("", floored), ("_without", free)):
            row["bits" + suffix] = q.numel() * entropy_bits(np.unique(q, return_counts=True)[1])
            row["rms" + suffix] = float((dequantise(q, scale) - w).double().square().sum())
        rows.append(row)
    if not rows:
        return pd.DataFrame()
    groups = pd.DataFrame(rows).groupby(["part", "grid"], sort=False)
    sums = groups.sum()
    per_weight = sums[["bits", "bits_without", "rms", "rms_without"]].div(sums["weights"], axis=0)
    per_weight[["rms", "rms_without"]] **= 0.5
    shares = pd.DataFrame({"rows_at_floor": sums["at_floor"] / sums["rows"], "step": groups["step"].median()})
    return shares.assign(codes_used=groups["codes_used"].max()).join(per_weight).reset_index()


def code_shares(
    weights: Mapping[str, Tensor], grids: Mapping[str, str], part: str, quant: recipe.Quant
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{grid: (codes, share of the part's weights with that code)} over the codes in use and all between them."""
    codes = defaultdict(list)
    for name in _gridded(grids):
        if part_of(name) == part:
            codes[grids[name]].append(quantise_tensor(weights[name], grid_of(name, grids[name], quant))[0].flatten())
    shares = {}
    for grid, found in codes.items():
        q = torch.cat(found).numpy().astype(np.int64)
        shares[grid] = np.arange(q.min(), q.max() + 1), np.bincount(q - q.min()) / len(q)
    return shares


def grids_beside(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`grid_table`s of several networks as one: rows part and grid, its codes and floor, then tensors and the share of
    the weights in each network (0 where it has none such)."""
    known = pd.concat(tables.values()).drop_duplicates(["part", "grid"]).set_index(["part", "grid"])
    columns = {("grid", column): known[column] for column in ("codes", "floor")}
    for label, table in tables.items():
        counts = table.set_index(["part", "grid"])[["tensors", "weights"]].reindex(known.index, fill_value=0)
        columns[label, "tensors"] = counts["tensors"]
        columns[label, "weights"] = counts["weights"] / counts["weights"].sum()
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
    left, rows = list(shapes), []
    for entry in quant.exceptions:
        pattern, _, grid = entry.rpartition("=")
        names = fnmatch.filter(left, pattern)
        left = [name for name in left if name not in names]
        rows.append((pattern, grid, len(names), sum(math.prod(shapes[name]) for name in names)))
    return pd.DataFrame(rows, columns=["pattern", "grid", "tensors", "weights"])


def tensor_table(ledger: Ledger) -> pd.DataFrame:
    """One row per tensor, most bytes first: name, part, grid, shape, weights, stored and scales (bytes), share of the
    file, and bits: stored ones per weight, scales included."""
    table = ledger_table(ledger).rename(columns={"elements": "weights"})
    table["part"], whole = table["name"].map(part_of), table["stored"] + table["scales"]
    table["share"], table["bits"] = whole / ledger.file_bytes, 8 * whole / table["weights"]
    columns = ["name", "part", "grid", "shape", "weights", "stored", "scales", "share", "bits"]
    return table.loc[whole.sort_values(ascending=False, kind="stable").index, columns].reset_index(drop=True)


def coder_table(ledger: Ledger) -> pd.DataFrame:
    """One row per grid: weights, raw, entropy (of an ideal coder that knows how often each tensor uses each code) and
    stored bytes, bits per weight, and what the coder takes above the entropy: below 0 it saw more than frequencies."""
    sums = sums_by_grid(ledger)
    sums["stored_bytes"] = ledger_table(ledger).groupby("grid")["stored"].sum().round().astype(np.int64)
    sums["bits_per_weight"] = 8 * sums["stored_bytes"] / sums["elements"]
    sums["loss"] = sums["stored_bytes"] / sums["entropy_bytes"] - 1
    return sums.rename(columns={"elements": "weights"}).reset_index()


def promised_bits(groups: Mapping[str, Groups], names: Iterable[str]) -> pd.DataFrame:
    """Bits a weight that steps by sensitivity save by the theory (half the log of the arithmetic over the geometric
    mean, with the allocation's floor), mean of each part: rows and columns against one step for the matrix.
    `attrs["whole"]` is all of it, differences between matrices included, against one step for all."""
    rows, logs, values, counts = [], 0.0, 0.0, 0
    for name in names:
        if (found := groups[name]).mean <= 0:
            continue
        r, c = (np.maximum(v / v.mean(), allocation.FLOOR) for v in (found.rows, found.cols))
        saved = [0.5 * float(np.log2(v.mean()) - np.log2(v).mean()) for v in (r, c)]
        size, mean = len(r) * len(c), found.mean * float(r.mean() * c.mean())
        rows.append({"part": part_of(name), "rows": saved[0], "columns": saved[1]})
        logs, values, counts = logs + size * (math.log2(mean) - 2 * sum(saved)), values + size * mean, counts + size
    table = pd.DataFrame(rows, columns=["part", "rows", "columns"]).groupby("part", sort=False).mean()
    table.attrs["whole"] = 0.5 * (math.log2(values / counts) - logs / counts) if counts else 0.0
    return table


def expected_weights(
    weights: Mapping[str, Tensor], grids: Mapping[str, str], quant: recipe.Quant, hessians: Hessians | None = None,
    sensitivity: Mapping[str, Groups] | None = None, multiplier: float = 0.0,
) -> dict[str, Tensor]:  # fmt: skip
    """What the file must give back, worked out again: from its one multiplier for matrices on steps, and with the
    recipe's correction of rounding, which `hessians` are for."""
    correction = None
    if hessians is not None and quant.correction != "off":
        shapes = {name: tuple(weights[name].shape) for name in _gridded(grids)}
        correction = corrections(hessians, shapes, quant)
    feedback = correction.feedback if correction else {}
    in_turn = {name: grid_of(name, grids[name], quant) for name in sorted(feedback) if grids[name] in GRIDS}
    corrected = all_in_turn({name: weights[name].float() for name in in_turn}, in_turn, feedback)
    on_steps = {name: weights[name].numpy() for name in sorted(weights) if grids[name] == STEPS}
    plans = allocation.plans(on_steps, sensitivity or {}, correction)
    expected = rounded(weights, grids, quant)
    expected |= {name: dequantise(*coded) for name, coded in corrected.items()}
    expected |= {name: torch.from_numpy(plan.rounded(multiplier).weights(multiplier)) for name, plan in plans.items()}
    if quant.low_rank:
        on_grid = [name for name in sorted(weights) if grids[name] in GRIDS and grids[name] != quant.gates]
        errors = {name: weights[name].float() - expected[name] for name in on_grid}
        found = corrections_of(errors, quant.low_rank, quant.low_rank_top, quant.low_rank_group)
        expected |= {name: expected[name] + factors.product() for name, factors in found.items()}
    return expected


def mismatches(expected: Mapping[str, Tensor], unpacked: Mapping[str, Tensor]) -> list[str]:
    """Names whose unpacked values are not bit for bit the expected ones; empty is what must hold."""
    both = expected.keys() & unpacked.keys()
    return sorted({n for n in both if not torch.equal(expected[n], unpacked[n])} | (expected.keys() ^ unpacked.keys()))


def bits_by_sensitivity(sensitivity: Mapping[str, float]) -> pd.DataFrame:
    """PR 332's rule on a run's own gradients, least sensitive first: name, part, sensitivity, bits; index = rank."""
    bits = allocate_bits(dict(sensitivity))
    rows = [(name, part_of(name), value, bits[name]) for name, value in sensitivity.items()]
    table = pd.DataFrame(rows, columns=["name", "part", "sensitivity", "bits"])
    table = table.sort_values("sensitivity", kind="stable", ignore_index=True)
    return table.set_index(pd.RangeIndex(1, len(table) + 1, name="rank"))


Choice = tuple[recipe.Quant, dict[str, int] | None]


def packing_choices(
    quant: recipe.Quant, bits: dict[str, int] | None, sensitivity: Mapping[str, float], file_bytes: int = 0
) -> dict[str, Choice]:
    """{label: (settings, bits)}: the recipe's own packing, 5 to 8 bits for attention and MLP, and PR 332's rule.

    Embeddings keep the recipe's grid, and its exceptions are in its own row alone. A correction of rounding is in all
    rows but "rounded plainly". With `file_bytes`, those of this recipe's file, steps by gradient fill as many.
    """
    fixed = dataclasses.replace(on_grids(quant), allocation="fixed", exceptions=())
    names = [*(f"int{bits}_row_clip" for bits in (5, 6, 7, 8)), "int5_row_nofloor"]
    by_steps = dataclasses.replace(
        fixed, kind="steps", compressor="zstd", target_bytes=file_bytes, low_rank=0, gates="float16", grouping="off"
    )
    own = dataclasses.replace(by_steps, exceptions=quant.exceptions) if quant.kind == "steps" else quant
    choices: dict[str, Choice] = {"this recipe": (own, bits)}
    plainer = {
        "rounded plainly": dataclasses.replace(own, correction="off"),
        "no low rank": dataclasses.replace(own, low_rank=0),
        "ungrouped": dataclasses.replace(own, grouping="off"),
    }
    choices |= {label: (one, bits) for label, one in plainer.items() if one != own}
    if file_bytes and quant.kind != "steps":
        choices["steps, as many bytes"] = (by_steps, None)
    choices |= {name: (dataclasses.replace(fixed, attention=name, mlp=name), None) for name in names}
    if sensitivity:
        by_gradient = dataclasses.replace(on_grids(quant), allocation="gradient", exceptions=())
        choices["5/6/7 by gradient"] = (by_gradient, allocate_bits(dict(sensitivity)))
    return choices


def rate_distortion(
    weights: Mapping[str, Tensor], model: recipe.Model, choices: Mapping[str, Choice],
    bpb_of: Callable[[dict[str, Tensor]], float], groups: Mapping[str, Groups] | None = None,
    hessians: Hessians | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Pack the same weights in every way: real file bytes, bits per weight, rounding error and bpb (by `bpb_of`) of
    what comes back; the first row is the unrounded ones. bits and rms (rounding error relative to the weights' own rms)
    are over attention and MLP matrices on a grid; NaN where there are none."""
    unrounded = bpb_of({**weights})

    def packed(path: Path, label: str) -> tuple[Any, ...]:
        quant, bits = choices[label]
        ledger = pack(
            {**weights}, model, quant, path, bits=bits, sensitivity=dict(groups) if groups else None,
            hessians=hessians, code_bytes=0, cap_bytes=2**40,
        )  # fmt: skip
        _, state = unpack(path)
        blocks = [row for row in ledger.tensors if row["grid"] != "fp16" and ".blocks." in f".{row['name']}"]
        stored, count = (sum(row[key] for row in blocks) for key in ("compressed_bytes", "elements"))
        errors = sum(float((state[row["name"]] - weights[row["name"]]).double().square().sum()) for row in blocks)
        squares = sum(float(weights[row["name"]].double().square().sum()) for row in blocks)
        measured = (8 * stored / count, (errors / squares) ** 0.5) if count else (np.nan, np.nan)
        return (label, ledger.file_bytes, *measured, bpb_of(state))

    with tempfile.TemporaryDirectory(prefix="pgolf-") as folder, pool_of(torch.get_num_threads()) as pool:
        paths = [Path(folder) / f"{number}{ARTIFACT}" for number in range(len(choices))]
        rows = [("float32, not packed", np.nan, 32.0, 0.0, unrounded), *pool.map(packed, paths, choices)]
    table = pd.DataFrame(rows, columns=["packing", "file_bytes", "bits", "rms", "bpb"])
    return table.assign(bpb_lost=table["bpb"] - unrounded)


def _gridded(grids: Mapping[str, str]) -> list[str]:
    return [name for name, grid in grids.items() if grid != "fp16"]
