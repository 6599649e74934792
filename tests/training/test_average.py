"""Averages of weights: EMA and SWA against their definitions (test_loop.py has runs that go on with theirs)."""

import torch
from torch import nn

from pgolf_core.recipes import recipe
from pgolf_core.training.average import EMA, SWA, build_average


def walk(model: nn.Module, average, steps: int, multiplier=lambda step: 1.0) -> list[torch.Tensor]:
    """Move the weight randomly, updating the average; returns the weight after each step."""
    generator = torch.Generator().manual_seed(0)
    seen = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.weight.add_(torch.randn(model.weight.shape, generator=generator))
        average.update(model, step, multiplier(step))
        seen.append(model.weight.detach().clone())
    return seen


def test_ema_is_the_weighted_sum_of_all_weights_with_the_initial_ones() -> None:
    model = nn.Linear(3, 2, bias=False)
    start = model.weight.detach().clone()
    average = EMA(model, 0.9)
    seen = walk(model, average, 6)
    expected = 0.9**6 * start + sum(0.1 * 0.9 ** (6 - i) * w for i, w in enumerate(seen, 1))
    torch.testing.assert_close(average.result(model)["weight"], expected)


def test_swa_means_the_snapshots_below_its_start_on_its_cadence() -> None:
    model = nn.Linear(3, 2, bias=False)
    average = SWA(model, start=0.5, every_steps=2)
    seen = walk(model, average, 10, multiplier=lambda step: 1 - step / 10)
    torch.testing.assert_close(average.result(model)["weight"], torch.stack([seen[5], seen[7], seen[9]]).mean(0))


def test_without_a_snapshot_without_decay_and_without_an_average_the_weights_are_the_live_ones() -> None:
    model = nn.Linear(3, 2, bias=False)
    for average in (SWA(model, 0.5, 2), EMA(model, 0.0), build_average(model, recipe.Average(kind="none"))):
        assert torch.equal(walk(model, average, 3)[-1], average.result(model)["weight"])
