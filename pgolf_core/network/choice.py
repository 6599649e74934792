"""Which grid each tensor is packed on, and trained on. Sources: papers/records, papers/techniques."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

from pgolf_core.base.files import UserError
from pgolf_core.network.grid import Grid, grid_of, part_of
from pgolf_core.recipes.recipe import GRID_NAMES, QAT, Quant

STEPS = "steps"
"""No grid of this room: whole numbers times steps of rows and columns (packing/steps); quant.kind = steps."""
PACKABLE = (*GRID_NAMES, STEPS)
"""What a tensor of an artifact may be stored as."""


def grid_names_for(
    shapes: Mapping[str, tuple[int, ...]], quant: Quant, bits: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Grid of every tensor, or 'fp16': quant.exceptions, then size, then the part of the network.

    Where quant.allocation is gradient, `bits` (5 to 7 a tensor, from base.bits) rules attention, MLP
    and bigram; a matrix it does not name gets 6 (PR 332), and without `bits` all do. Raises UserError for an
    exception that no tensor matches, and for a grid that cannot hold its tensor.
    """
    exceptions = [tuple(entry.rsplit("=", 1)) for entry in quant.exceptions]
    for pattern, grid in exceptions:
        if not any(fnmatchcase(name, pattern) for name in shapes):
            some = ", ".join(list(shapes)[:4])
            raise UserError(f"quant.exceptions: no tensor is called '{pattern}' (={grid}); tensors: {some}, ...")
    names = {}
    for name, shape in shapes.items():
        named = next((grid for pattern, grid in exceptions if fnmatchcase(name, pattern)), None)
        names[name] = grid = named or _grid_by_rule(name, shape, quant, bits or {})
        if grid not in PACKABLE:
            raise UserError(f"{name} cannot be packed on grid {grid}; packable: {', '.join(PACKABLE)}")
        if grid != "fp16" and len(shape) != 2:
            raise UserError(f"quant.exceptions: {name} of shape {list(shape)} is no matrix and has no grid; use fp16")
    return names


def qat_grids(shapes: Mapping[str, tuple[int, ...]], quant: Quant, qat: QAT) -> dict[str, Grid]:
    """The grid under which QAT trains every tensor that will be packed on one: that grid, or the one qat.grid names."""
    packed = {name: grid for name, grid in grid_names_for(shapes, quant).items() if grid != "fp16"}
    trained = {name: grid if qat.grid == "packed" else qat.grid for name, grid in packed.items()}
    return {name: grid_of(name, grid, quant) for name, grid in trained.items() if grid != STEPS}


def _grid_by_rule(name: str, shape: tuple[int, ...], quant: Quant, bits: Mapping[str, int]) -> str:
    size = math.prod(shape)
    if quant.gates == "int8_row" and name.endswith(".attn_gate_w") and 32 <= size <= 8192:
        return quant.gates
    if size <= quant.small_tensor_elements or len(shape) != 2:
        return "fp16"
    if quant.kind == "steps":
        return STEPS
    part = part_of(name)  # of a grid: a script on steps has no grids, and does not come here
    if quant.allocation == "gradient" and part in ("attn", "mlp", "bigram"):
        return f"int{bits.get(name, 6)}_row_clip"
    return {"attn": quant.attention, "mlp": quant.mlp, "tok_emb": quant.tok_emb}.get(part, quant.other)
