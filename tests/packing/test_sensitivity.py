"""Gradient statistics against a direct computation, and PR 332's allocation rule row by row.

pytest tests/packing/test_sensitivity.py
"""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from torch import nn

from pgolf_core.base.files import UserError
from pgolf_core.packing.sensitivity import SensitivityMeter, allocate_bits


class Net(nn.Module):
    """Two ranked matrices, one too short, one vector, one that never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in {"a": (64, 8), "b": (70, 64), "short": (63, 70), "gain": (70,), "idle": (64, 4)}.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator) / 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = (x @ self.a.T @ self.b.T) * self.gain
        return (hidden @ self.short.T).square().mean()


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(5, 8, generator=generator) for _ in range(count)]


def run(steps: int, meter: SensitivityMeter | None, net: Net, start: int = 0) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for batch in batches(steps)[start:]:
        optimizer.zero_grad()
        net(batch).backward()
        if meter is not None:
            meter.add(net)
        optimizer.step()


def test_the_meter_gives_the_mean_squared_gradient_of_every_ranked_matrix():
    net, meter, expected = Net(), SensitivityMeter(), {"a": 0.0, "b": 0.0}
    for batch in batches(3):
        net.zero_grad()
        net(batch).backward()
        meter.add(net)
        for name in expected:
            expected[name] += float(getattr(net, name).grad.double().square().mean()) / 3
    assert list(meter.result()) == ["a", "b"] and meter.steps == 3
    for name, value in meter.result().items():
        assert value == pytest.approx(expected[name], rel=1e-6)


def test_adding_leaves_training_bitwise_unchanged():
    measured, plain = Net(), Net()
    run(4, SensitivityMeter(), measured)
    run(4, None, plain)
    assert all(torch.equal(x, y) for x, y in zip(measured.parameters(), plain.parameters(), strict=True))


def test_adding_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch):
    net, meter = Net(), SensitivityMeter()
    net(batches(1)[0]).backward()

    def wait(*args: object) -> None:
        raise AssertionError("a number was asked for")

    for name in ("item", "tolist", "__float__", "__int__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, wait)
    meter.add(net)
    meter.add(net)


def test_a_meter_restored_from_a_checkpoint_ends_exactly_where_an_uninterrupted_one_does():
    whole, first = SensitivityMeter(), SensitivityMeter()
    run(6, whole, Net())
    net = Net()
    run(2, first, net)
    second = SensitivityMeter()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run(6, second, net, start=2)
    assert second.result() == whole.result() and second.steps == 6


def test_a_matrix_that_gets_its_first_gradient_late_is_divided_by_all_steps():
    net, meter = Net(), SensitivityMeter()
    net.a.grad = torch.full_like(net.a, 2.0)
    meter.add(net)
    net.b.grad = torch.full_like(net.b, 1.0)
    meter.add(net)
    assert meter.result() == {"a": 4.0, "b": 0.5}


def test_an_empty_meter_has_no_result():
    assert SensitivityMeter().result() == {}


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([1, 2, 3, 4], [6, 6, 6, 6]),  # fewer than five: no fifth to take
        ([0, 2, 3, 4], [5, 6, 6, 6]),
        ([1, 2, 3, 4, 5], [5, 5, 6, 6, 7]),
        ([5, 4, 3, 2, 1], [7, 6, 6, 5, 5]),
        (list(range(1, 11)), [5, 5, 5, 6, 6, 6, 6, 6, 6, 7]),
        ([1, 1, 1, 1, 1, 9], [5, 5, 5, 5, 5, 7]),  # a tie with the threshold shares its bits
        ([3, 3, 3, 3, 3], [7, 7, 7, 7, 7]),  # seven is asked first
        ([], []),
    ],
)
def test_the_rule_gives_these_bits(values: list[float], bits: list[int]):
    names = [f"t{i}" for i in range(len(values))]
    assert list(allocate_bits(dict(zip(names, values, strict=True))).values()) == bits


def test_the_full_size_record_gets_eight_sevens_and_sixteen_fives_of_75():
    bits = list(allocate_bits({f"t{i}": random.Random(i).random() for i in range(75)}).values())
    assert [bits.count(b) for b in (5, 6, 7)] == [16, 51, 8]


def test_bits_never_fall_with_sensitivity_and_do_not_depend_on_order():
    sensitivity = {f"t{i}": random.Random(i).lognormvariate(0, 2) for i in range(40)}
    bits = allocate_bits(sensitivity)
    by_value = [bits[name] for name in sorted(sensitivity, key=sensitivity.get)]
    assert by_value == sorted(by_value)
    shuffled = random.Random(0).sample(list(sensitivity.items()), 40)
    assert allocate_bits(dict(shuffled)) == bits


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_sensitivity_that_is_no_finite_number_is_refused_by_name(value: float):
    with pytest.raises(UserError, match=r"blocks\.3"):
        allocate_bits({"blocks.3": value, "b": 1.0})
