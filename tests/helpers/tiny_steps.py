"""Matrices and statistics for packing on steps."""

import numpy as np
from tiny_artifact import tiny_state

from pgolf_core.packing.sensitivity import Groups
from pgolf_core.recipes import recipe

QUANT = recipe.Quant(kind="steps", small_tensor_elements=100)
CAP = {"code_bytes": 1000, "cap_bytes": 5000}


def gaussian(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Weights whose rows and columns differ in size by several octaves."""
    random = np.random.default_rng(seed)
    sizes = np.exp2(random.uniform(-3, 3, (rows, 1)) + random.uniform(-1, 1, (1, cols)))
    return (0.01 * sizes * random.standard_normal((rows, cols))).astype(np.float32)


def uneven(rows: int, cols: int, seed: int = 1, scale: float = 1e-6, octaves: float = 6) -> Groups:
    """Sensitivities that differ by up to `octaves` either way."""
    random = np.random.default_rng(seed)
    r, c = (np.exp2(random.uniform(-octaves, octaves, size)) for size in (rows, cols))
    return Groups(*(scale * values / values.mean() for values in (r, c)))


def tiny_groups() -> dict[str, Groups]:
    """Sensitivities of `tiny_state`'s matrices from integer arithmetic; the first matrix never had a gradient."""
    groups = {}
    for tag, (name, w) in enumerate(tiny_state().items()):
        if w.ndim == 2:
            r, c = (2.0 ** -(10 + np.arange(size) * (tag + 3) % 7) for size in w.shape)
            groups[name] = Groups(r * 0 if tag == 0 else r, c * 0 if tag == 0 else c)
    return groups
