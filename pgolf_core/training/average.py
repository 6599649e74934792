"""Averages of the weights along training: EMA and SWA, both in float32 whatever the weights are."""

import torch
from torch import Tensor, nn

from pgolf_core.recipes.recipe import Average


class NoAverage:
    """The live weights are packed; also what every average can do."""

    def update(self, model: nn.Module, step: int, multiplier: float) -> None:
        """After every optimiser step: `step` steps are done, the last at this learning-rate multiplier."""

    def result(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights to be packed by name, float32."""
        return {name: p.detach().float().clone() for name, p in model.named_parameters()}

    def tensors(self) -> dict[str, Tensor]:
        """State for checkpoints; writing into these tensors restores it."""
        return {}


class EMA(NoAverage):
    """Exponential moving average from the initial weights on, no bias correction (PR 315)."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = super().result(model)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, multiplier: float) -> None:
        """average <- decay x average + (1 - decay) x weights."""
        live = [p.detach().float() for p in model.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), live, 1 - self.decay)

    def result(self, model: nn.Module) -> dict[str, Tensor]:
        return self.weights

    def tensors(self) -> dict[str, Tensor]:
        return self.weights


class SWA(NoAverage):
    """Plain mean of snapshots taken every few steps while the learning-rate multiplier is low (PR 194, 531, 534).

    The live weights where training was too short for any.
    """

    def __init__(self, model: nn.Module, start: float, every_steps: int):
        self.start, self.every_steps = start, every_steps
        self.sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in model.named_parameters()}
        self.count = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, multiplier: float) -> None:
        if multiplier < self.start and step % self.every_steps == 0:
            torch._foreach_add_(list(self.sums.values()), [p.detach().float() for p in model.parameters()])
            self.count += 1

    def result(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: total / self.count for name, total in self.sums.items()} if self.count else super().result(model)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.sums, "snapshots": self.count}


def build_average(model: nn.Module, average: Average) -> NoAverage:
    """The average that the recipe names, starting from the model's present weights."""
    if average.kind == "ema":
        return EMA(model, average.ema_decay)
    if average.kind == "swa":
        return SWA(model, average.swa_start, average.swa_every_steps)
    return NoAverage()
