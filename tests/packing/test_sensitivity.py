"""Gradient statistics against a direct computation."""

import math

import numpy as np
import pytest
import torch
from refused import refused
from torch import nn

from pgolf_core.packing.sensitivity import GroupMeter, groups_of

SHAPES = {"a": (64, 8), "b": (70, 64), "short": (63, 70), "gain": (70,), "idle": (64, 4)}  # "idle" never has a gradient


def net_of() -> nn.ParameterDict:
    generator = torch.Generator().manual_seed(0)
    return nn.ParameterDict({name: torch.randn(shape, generator=generator) / 8 for name, shape in SHAPES.items()})


def loss_of(net: nn.ParameterDict, x: torch.Tensor) -> torch.Tensor:
    return ((x @ net.a.T @ net.b.T) * net.gain @ net.short.T).square().mean()


def run(steps: int, meters: bool = True) -> tuple[nn.ParameterDict, GroupMeter, dict[str, torch.Tensor]]:
    """Train a net for some steps; also the sums of squared gradients, float64."""
    net, generator = net_of(), torch.Generator().manual_seed(7)
    named, optimizer = dict(net.named_parameters()), torch.optim.SGD(net.parameters(), lr=1e-3)
    meter = GroupMeter(named)
    squares = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in named.items()}
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(net, torch.randn(5, 8, generator=generator)).backward()
        if meters:
            meter.add(named)
        for name, p in named.items():
            squares[name] += 0 if p.grad is None else p.grad.double().square()
        optimizer.step()
    return net, meter, squares


def test_the_meter_gives_the_mean_squared_gradient_of_rows_columns_and_every_ranked_matrix():
    _, meter, squares = run(3)
    assert list(meter.mean_squares()) == ["a", "b", "idle"] and meter.steps == 3
    groups = groups_of(meter.sums)
    assert set(groups) == {"a", "b", "short", "idle"} and groups["idle"].mean == 0
    for name, found in groups.items():
        np.testing.assert_allclose(found.rows, squares[name].mean(1), rtol=1e-6)
        np.testing.assert_allclose(found.cols, squares[name].mean(0), rtol=1e-6)
        assert found.mean == pytest.approx(float(squares[name].mean()), rel=1e-6)
    for name, value in meter.mean_squares().items():
        assert value == pytest.approx(float(squares[name].mean()) / 3, rel=1e-6)


def test_adding_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch):
    """And it leaves training bitwise unchanged."""
    (measured, meter, _), (plain, *_) = (run(4, meters) for meters in (True, False))
    assert all(torch.equal(x, y) for x, y in zip(measured.parameters(), plain.parameters(), strict=True))
    for name in ("item", "tolist", "__float__", "__int__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("a number was asked for"))
    meter.add(dict(measured.named_parameters()))


def test_a_matrix_that_gets_its_first_gradient_late_is_divided_by_all_steps_and_an_empty_meter_has_no_result():
    net = net_of()
    named = dict(net.named_parameters())
    meter = GroupMeter(named)
    assert meter.mean_squares() == {}
    net.a.grad = torch.full_like(net.a, 2.0)
    meter.add(named)
    net.b.grad = torch.full_like(net.b, 1.0)
    meter.add(named)
    assert meter.mean_squares() == {"a": 4.0, "b": 0.5, "idle": 0.0}


def test_sums_that_say_nothing_are_refused():
    with refused("rows/w is not finite"):
        groups_of({"rows/w": torch.tensor([1.0, math.nan]), "cols/w": torch.ones(3)})
    with refused("no gradient statistics"):
        groups_of({"rows/w": torch.zeros(2), "cols/w": torch.zeros(3)})
