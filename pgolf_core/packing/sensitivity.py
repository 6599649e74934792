"""How much the loss cares about each matrix, row and column, from gradients."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pgolf_core.base.files import UserError

MIN_ROWS = 64
"""Matrices with fewer rows are not ranked; at the published width those are the gates and scales alone."""


@dataclass(frozen=True)
class Groups:
    """Mean squared gradient of each row and each column of one matrix, float32 arrays, up to a factor of the run."""

    rows: np.ndarray
    cols: np.ndarray

    @property
    def mean(self) -> float:
        """Of the whole matrix."""
        return float(self.rows.mean(dtype=np.float64))


class GroupMeter:
    """Sums over steps of the mean squared gradient of every row and column of every matrix: two vectors a matrix.

    It stays on the device, waits for nothing and only reads gradients, so training is bitwise unchanged. The published
    version asked the device for one number a tensor and step, and lost 15 ms of every step by it.
    """

    def __init__(self, named: Mapping[str, Tensor]):
        self.steps = 0
        self.sums = {
            f"{axis}/{name}": torch.zeros(size, dtype=torch.float32, device=tensor.device)
            for name, tensor in named.items() if tensor.ndim == 2
            for axis, size in zip(("rows", "cols"), tensor.shape, strict=True)
        }  # fmt: skip
        """`rows/<name>` and `cols/<name>`: what a checkpoint and a run's GROUP_SENSITIVITY file hold."""
        self.ranked = [name for name, p in named.items() if p.ndim == 2 and len(p) >= MIN_ROWS and p.requires_grad]
        """Matrices that PR 332's rule ranks."""

    @torch.no_grad()
    def add(self, named: Mapping[str, Tensor]) -> None:
        """Count one step: call it after the last backward pass and before gradients are clipped or cleared."""
        self.steps += 1
        for name, tensor in named.items():
            if tensor.ndim == 2 and tensor.grad is not None:
                squares = tensor.grad.to(torch.float32).square()
                self.sums[f"rows/{name}"] += squares.mean(1)
                self.sums[f"cols/{name}"] += squares.mean(0)

    def mean_squares(self) -> dict[str, float]:
        """Mean squared gradient of every ranked matrix, in (nats per weight unit)^2; empty if no step was added."""
        if not self.steps:
            return {}
        return {name: float(self.sums[f"rows/{name}"].double().mean()) / self.steps for name in self.ranked}


def groups_of(sums: Mapping[str, Tensor]) -> dict[str, Groups]:
    """Sums of a GroupMeter by matrix; raises UserError for what is no finite number, or if nothing was ever summed."""
    arrays = {key: tensor.cpu().numpy() for key, tensor in sums.items()}
    for key, values in arrays.items():
        if not np.isfinite(values).all():
            raise UserError(f"sensitivity of {key} is not finite; gradients must be: train again at a lower rate")
    if not any(values.any() for values in arrays.values()):
        raise UserError(
            "no gradient statistics: training ended before the last tenth of its warm-down; train longer or set "
            "quant.kind=grid"
        )
    names = [key.removeprefix("rows/") for key in arrays if key.startswith("rows/")]
    return {name: Groups(arrays[f"rows/{name}"], arrays[f"cols/{name}"]) for name in names}
