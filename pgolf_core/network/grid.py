"""Quantisation grids: choose a scale per row, quantise, dequantise, and the fake-quantiser made of the same three.

Shapes: w [rows, cols] float32, q [rows, cols] int8, scales and clips [rows]. Every function is pure, works on any
device, never waits for it, and compiles without graph breaks. Sources: papers/records, papers/techniques.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgolf_core.recipes.recipe import SIGMA_BITS, Quant


@dataclass(frozen=True)
class Grid:
    """How one matrix becomes int8 codes and one scale per row; a code q stands for the weight q * scale."""

    name: str
    qmin: int
    """Smallest code; -31 or -32 at six bits. With the clip at the row's maximum no weight reaches -32."""
    qmax: int
    levels: int
    """The scale is clip / levels: the code that the clip value itself gets."""
    scale_floor: float
    """No scale is smaller than this, in weight units; 1/levels in most records.

    It is the constant that makes their files small: trained rows rarely reach |w| = 1, so every row has this one step,
    and few codes are in use (papers/techniques/int6-rows-with-a-floor.md)."""
    clip_quantiles: tuple[float, ...] = (1.0,)
    """Row quantile of |w| that becomes the clip; 1.0 is the maximum. Of several, the one with the smallest mean squared
    error over the whole matrix is kept, the first among equals."""
    clip_weights: bool = False
    """Cut the weights to the clip before rounding (PR 194, 332, 534); without it only the codes are limited, and a
    weight below the clip can reach the extra code -32 (PR 531)."""
    scale_rounding: str = "before"
    """When the scale becomes float16: before the weights are rounded (PR 315, 531), after (PR 194, 332, 534, and int8
    of PR 315), so that codes and stored scale disagree by up to 2^-11, or never (training only; cannot be packed)."""
    step: int = 1
    """Only multiples of this code (and the ends) are used. The clip is chosen before this rounding (PR 534)."""
    clip_sigmas: float = 0.0
    """The clip is this many standard deviations of the row instead of a quantile (PR 1493); 0: it is not. A recipe's
    own number comes in by `grid_of`. The floor is then void: rows of scale 0 read back as zeros."""

    @property
    def packable(self) -> bool:
        """Whether the artifact can hold it: its scales are float16 numbers."""
        return self.scale_rounding != "never"


NEAR_MAX = 0.9999984
"""Quantile of the published percentile clips: for 512 columns, the maximum less 0.0008 of its lead."""


def _row_clip(bits: int) -> Grid:
    levels = 2 ** (bits - 1) - 1
    return Grid(f"int{bits}_row_clip", -levels, levels, levels, 1 / levels, (NEAR_MAX,), True, "after")


def _sigma(bits: int) -> Grid:
    levels = 2 ** (bits - 1) - 1
    return Grid(f"int{bits}_sigma", -levels, levels, levels, 1e-10, clip_sigmas=Quant.clip_sigmas)


_SEARCH_6 = (0.9990, 0.9995, 0.9999, 0.99999, 1.0)
_SEARCH_8 = (0.9999, 0.99999, 0.999999, NEAR_MAX, 1.0)

GRIDS: dict[str, Grid] = {
    grid.name: grid
    for grid in (
        Grid("int6_row", -32, 31, 31, 1 / 31),  # PR 315, attention and MLP
        _row_clip(5),  # PR 332
        _row_clip(6),  # PR 332, and everything of PR 194
        _row_clip(7),  # PR 332
        _row_clip(8),  # PR 315, 332: embeddings
        Grid("int5_row_nofloor", -16, 15, 15, 1e-12),  # PR 531, MLP
        Grid("int6_clip_search", -32, 31, 31, 1 / 31, _SEARCH_6),  # PR 531, attention
        Grid("int8_clip_search", -127, 127, 127, 1 / 127, _SEARCH_8, True, "after"),  # PR 534, outer blocks
        Grid("int8_clip_search_step4", -127, 127, 127, 1 / 127, _SEARCH_8, True, "after", step=4),  # PR 534, blocks 1-9
        *(_sigma(bits) for bits in SIGMA_BITS),  # PR 1493: six, and eight for the embedding
        Grid("int8_row", -127, 127, 127, 1e-10 / 127),  # PR 1855, attention's gates
        Grid("int6_fake_pr194", -31, 31, 31, 1 / 31, scale_rounding="never"),  # what PR 194 trained with
        Grid("int6_fake_pr534", -31, 31, 31, 1e-8 / 31, scale_rounding="never"),  # what PR 534's one QAT step used
    )
}


class Scale(NamedTuple):
    """The numbers of one matrix, each [rows] float32."""

    divisor: Tensor
    """Weights are divided by this before rounding."""
    stored: Tensor
    """Codes are multiplied by this; exactly a float16 number unless the grid's scale_rounding is never."""
    clip: Tensor
    """Row clip in weight units."""


def round_to_float16(x: Tensor) -> Tensor:
    """The float16 number nearest to each non-negative float32, ties to even, returned as float32.

    Not x.half().float(): Inductor fuses that pair away, so a compiled fake-quantiser would round its weights on another
    grid than the one that is packed. Integer arithmetic on the bits survives every compiler.
    """
    bits = x.view(torch.int32)
    normal = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    subnormal = (x * 2.0**24).round() * 2.0**-24
    return torch.where(x < 2.0**-14, subnormal, normal)


def row_quantile(magnitudes: Tensor, quantile: float) -> Tensor:
    """Row quantile [rows] of a non-negative matrix [rows, cols], linearly interpolated.

    Bitwise torch.quantile, without its sort of every row and its limit of 16 million elements.
    """
    if quantile == 1.0:
        return magnitudes.amax(dim=1)
    count, weight = _rank_from_top(quantile, magnitudes.shape[1])
    largest = magnitudes.topk(count, dim=1).values
    return torch.lerp(largest[:, -1], largest[:, max(count - 2, 0)], weight)


def choose_scale(w: Tensor, grid: Grid) -> Scale:
    """The row scales of `w` on `grid`, its clip searched if the grid names several quantiles."""
    if grid.clip_sigmas:
        # in double precision: summed in another order, by a compiler or a device, it gives the same single one
        spread = w.double().std(1, correction=min(w.size(1) - 1, 1)).float()
        return _scale_for_clip(grid.clip_sigmas * spread, grid)
    magnitudes = w.abs()
    best, *others = (_scale_for_clip(row_quantile(magnitudes, quantile), grid) for quantile in grid.clip_quantiles)
    best_error = _search_error(w, best, grid) if others else torch.zeros(())
    for candidate in others:
        error = _search_error(w, candidate, grid)
        better = error < best_error  # stays on the device: torch.where instead of an if
        best = Scale(*(torch.where(better, new, old) for new, old in zip(candidate, best, strict=True)))
        best_error = torch.where(better, error, best_error)
    return best


def quantise(w: Tensor, scale: Scale, grid: Grid) -> Tensor:
    """Codes int8 [rows, cols] of float32 weights, rounded half to even."""
    codes = _codes(w, scale, grid)
    if grid.step > 1:
        codes = ((codes / grid.step).round() * grid.step).clamp(grid.qmin, grid.qmax)
    return codes.to(torch.int8)


def dequantise(q: Tensor, stored: Tensor) -> Tensor:
    """Weights float32 [rows, cols]: codes times the stored row scales ([rows], float16 or float32)."""
    return q.to(torch.float32) * stored.to(torch.float32)[:, None]


def fake_quantise(w: Tensor, grid: Grid) -> Tensor:
    """`w` as it will be after packing, with the gradient of the identity (straight through): QAT's forward pass."""
    with torch.no_grad():
        scale = choose_scale(w, grid)
        rounded = dequantise(quantise(w, scale, grid), scale.stored)
    return rounded + (w - w.detach())  # adds exact zeros; the usual w + (rounded - w).detach() is off by an ulp


def quantise_tensor(w: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """What the artifact stores for `w`: codes int8 [rows, cols] and scales float16 [rows]."""
    assert grid.packable, f"{grid.name} has no float16 scales"
    w = w.detach().to(torch.float32)
    scale = choose_scale(w, grid)
    return quantise(w, scale, grid), scale.stored.to(torch.float16)


def part_of(tensor: str) -> str:
    """The part of the network that a tensor belongs to: attn, mlp, or the first word of its name."""
    return next((part for part in ("attn", "mlp") if f".{part}." in tensor), tensor.split(".")[0])


def grid_of(tensor: str, grid_name: str, quant: Quant) -> Grid:
    """The Grid of a tensor from its grid's name: with the recipe's own clip where that is in standard deviations."""
    grid = GRIDS[grid_name]
    if not grid.clip_sigmas:
        return grid
    own = {"tok_emb": quant.embed_clip_sigmas, "mlp": quant.mlp_clip_sigmas, "attn": quant.attention_clip_sigmas}
    return replace(grid, clip_sigmas=own.get(part_of(tensor)) or quant.clip_sigmas)


def _rank_from_top(quantile: float, cols: int) -> tuple[int, float]:
    """How many of the largest entries reach down to the quantile, and its place between the last two of them."""
    rank = np.float32(quantile) * np.float32(cols - 1)  # single precision, as torch computes it
    below = int(rank)
    return cols - below, float(rank - np.float32(below))


# What torch.compiler.assume_constant_result does, without importing the whole compiler wherever a grid is used.
_rank_from_top._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _scale_for_clip(clip: Tensor, grid: Grid) -> Scale:
    exact = (clip / grid.levels).clamp_min(grid.scale_floor)
    rounded = exact if grid.scale_rounding == "never" else round_to_float16(exact)
    return Scale(rounded if grid.scale_rounding == "before" else exact, rounded, clip)


def _codes(w: Tensor, scale: Scale, grid: Grid) -> Tensor:
    if grid.clip_weights:
        w = torch.maximum(torch.minimum(w, scale.clip[:, None]), -scale.clip[:, None])
    codes = (w / scale.divisor[:, None]).round().clamp(grid.qmin, grid.qmax)
    return torch.nan_to_num(codes)  # a row of zeros without a floor has scale zero: 0/0 is code 0


def _search_error(w: Tensor, scale: Scale, grid: Grid) -> Tensor:
    return (_codes(w, scale, grid) * scale.divisor[:, None] - w).square().mean()
