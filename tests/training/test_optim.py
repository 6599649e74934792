"""Optimisers and schedules: Muon against a plain loop, AdamW against its formula, schedules row by row."""

import math

import pytest
import torch
from small import small_recipe

from pgolf_core.network.model import build_model
from pgolf_core.recipes import recipe
from pgolf_core.training.optim import (
    NEWTON_SCHULZ_COEFFICIENTS,
    AdamW,
    Group,
    Muon,
    Optimizers,
    clip_gradients,
    muon_momentum,
    newton_schulz,
    parameter_groups,
    rate_multiplier,
)  # fmt: skip
from pgolf_core.training.polar import POLAR_EXPRESS


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (96, 24)])
def test_newton_schulz_pushes_singular_values_into_a_band_around_one(shape: tuple[int, int]) -> None:
    gradient = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    found = newton_schulz(gradient, 5, torch.float32)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.25
    a, b, c = 3.4445, -4.7750, 2.0315
    s = s / s.norm()
    for _ in range(5):  # the same quintic on the singular values alone, by an SVD
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(found, u @ torch.diag(s) @ vh, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("kept", "coefficients"), [("float32", "quintic"), ("bfloat16", "polar_express")])
@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("order", ["before", "after"])
def test_batched_muon_equals_one_matrix_at_a_time(order: str, by_rows: bool, kept: str, coefficients: str) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = {n: torch.randn(s, generator=generator) for n, s in enumerate([(8, 8), (24, 8), (8, 8), (8, 24)])}
    dtype = getattr(torch, kept)
    buffers = {name: torch.zeros_like(w, dtype=dtype) for name, w in plain.items()}
    parameters = {name: torch.nn.Parameter(w.clone()) for name, w in plain.items()}
    optim = recipe.Optim(
        newton_schulz_dtype="float32", newton_schulz_steps=6, muon_wd_order=order, muon_row_normalise=by_rows,
        muon_dtype=kept, muon_coefficients=coefficients,
    )  # fmt: skip
    each = [NEWTON_SCHULZ_COEFFICIENTS] * 6 if kept == "float32" else [*POLAR_EXPRESS, POLAR_EXPRESS[-1]]
    muon = Muon(parameters, lr=0.1, weight_decay=0.3, optim=optim)
    for step in range(3):
        momentum, multiplier = 0.9 + 0.01 * step, 1.0 - 0.2 * step
        for name, parameter in parameters.items():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            parameter.grad[0] *= 0.0 if name % 2 else 100.0
            buffers[name] = momentum * buffers[name] + parameter.grad.to(dtype)
            nesterov = parameter.grad.to(dtype) + momentum * buffers[name]
            if by_rows:  # the rows, one after another; of a row without gradient nothing is left
                nesterov = torch.stack([row / max(row.float().norm().item(), 1e-7) for row in nesterov])
            update = newton_schulz(nesterov, 6, torch.float32, each)
            rows, cols = parameter.shape
            change, kept = 0.1 * multiplier * update * math.sqrt(max(1, rows / cols)), 1 - 0.1 * multiplier * 0.3
            plain[name] = plain[name] * kept - change if order == "before" else (plain[name] - change) * kept
        muon.step(multiplier, momentum)
    for name, parameter in parameters.items():
        tolerance = 1e-5 if kept == "float32" else 5e-3
        torch.testing.assert_close(parameter.detach(), plain[name], atol=tolerance, rtol=tolerance)
    assert {tensor.dtype for tensor in muon.tensors().values()} == {dtype}


def test_adamw_follows_the_published_formula() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    adamw = AdamW([(Group("g", "adamw", ("w",), 0.1, (0.9, 0.95), 0.04), {"w": weight})], eps=1e-8)
    expected, m, v = weight.detach().clone(), torch.zeros(2), torch.zeros(2)
    for t in range(1, 4):
        gradient = torch.tensor([0.3, -0.1]) * t
        weight.grad = gradient.clone()
        adamw.step(0.5)
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
        expected = expected * (1 - 0.05 * 0.04) - 0.05 * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize(("decay", "expected"), [(-1.0, 0.04), (0.0, 0.0), (0.085, 0.085)])
def test_the_token_embedding_may_have_a_decay_of_its_own_and_nothing_else_shares_it(decay: float, expected) -> None:
    names = ["tok_emb.weight", "bigram.embed.weight", "ve.embed.weight", "skip_weights", "skip_gates"]
    groups = parameter_groups(names, recipe.Optim(embed_wd=decay))
    decays = {name: group.weight_decay for group in groups for name in group.parameters}
    assert decays == {**dict.fromkeys(names, 0.04), "tok_emb.weight": expected}


def test_a_frozen_value_embedding_is_named_frozen_and_does_not_move() -> None:
    changed = small_recipe(model={"ve_dim": 8, "ve_layers": [1]}, optim={"ve_frozen": True})
    model = build_model(changed.model, 0)
    optimizers = Optimizers(model, changed.optim)
    frozen = [n for g in optimizers.groups if g.optimizer == "frozen" for n in g.parameters]
    assert frozen == ["ve.embed.weight", "ve.proj.weight"]
    before = model.ve.embed.weight.detach().clone()
    ids = torch.randint(64, (2, 17))
    model(ids[:, :-1], ids[:, 1:]).backward()
    optimizers.step(1.0, 0.9)
    assert torch.equal(before, model.ve.embed.weight) and model.ve.embed.weight.grad is None


def test_clipping_scales_the_global_norm_and_reports_it_before() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 2)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    assert abs(clip_gradients(parameters, 0.3) - math.sqrt(20)) < 1e-5
    assert abs(clip_gradients(parameters, 0.0) - 0.3) < 1e-4  # the norm that was left; 0 clips nothing
    assert abs(clip_gradients(parameters, 0.0) - 0.3) < 1e-4


BY_SHARE = {"max_seconds": 600.0, "iterations": 1000, "warmdown_fraction": 0.25}


@pytest.mark.parametrize(
    ("schedule", "rows"),
    [
        # at 0.1 s a step, the last 300 s
        ({"max_seconds": 600.0, "iterations": 10**6, "warmdown_iters": 3000},
         [(0.0, 0, 1.0), (100.0, 1000, 1.0), (299.9, 3000, 1.0), (400.0, 4000, 2 / 3), (600.0, 6000, 0.0),
          (700.0, 7000, 0.0)]),
        ({"max_seconds": 0.0, "iterations": 24, "warmdown_iters": 10},
         [(400.0, *row) for row in ((0, 1.0), (13, 1.0), (14, 1.0), (15, 0.9), (23, 0.1), (24, 0.0), (30, 0.0))]),
        # the last quarter of the nearer limit: in the fourth row the iterations end the run before the clock does
        (BY_SHARE, [(0.0, 0, 1.0), (450.0, 10, 1.0), (525.0, 10, 0.5), (525.0, 950, 0.2), (660.0, 10, 0.0)]),
        ({**BY_SHARE, "max_seconds": 0.0}, [(525.0, 750, 1.0), (0.0, 1000, 0.0)]),
        ({"max_seconds": 600.0, "iterations": 10, "warmdown_iters": 0}, [(599.0, 9, 1.0)]),
        # PR 1493: constant for 28 % of 588 s, then linear to 0 or to a floor
        ({"max_seconds": 600.0, "reserve_seconds": 12.0, "warmdown_fraction": 0.72},
         [(0.0, 0, 1.0), (164.0, 1600, 1.0), (376.32, 3000, 0.5), (588.0, 4550, 0.0), (600.0, 4600, 0.0)]),
        ({"max_seconds": 600.0, "warmdown_fraction": 0.5, "min_lr": 0.1},
         [(300.0, 0, 1.0), (450.0, 0, 0.5), (570.0, 0, 0.1), (600.0, 0, 0.1)]),
        ({"max_seconds": 0.0, "iterations": 24, "warmdown_iters": 10, "min_lr": 0.25},
         [(0.0, 14, 1.0), (0.0, 19, 0.5), (0.0, 22, 0.25), (0.0, 24, 0.25)]),
        ({"max_seconds": 600.0, "reserve_seconds": 100.0, "iterations": 10**6, "warmdown_iters": 3000, "min_lr": 0.2},
         [(199.9, 2000, 1.0), (400.0, 4000, 1 / 3), (490.0, 4900, 0.2)]),
    ],
)  # fmt: skip
def test_the_rate_falls_as_the_schedule_says_row_by_row(schedule: dict, rows: list) -> None:
    """Of seconds, step and multiplier: papers/machinery.md, "Schedule"."""
    for elapsed, step, expected in rows:
        assert abs(rate_multiplier(recipe.Schedule(**schedule), step, elapsed) - expected) < 1e-9, (elapsed, step)


def test_momentum_rises_linearly_and_stays() -> None:
    optim = recipe.Optim(muon_momentum_start=0.92, muon_momentum=0.99, muon_momentum_warmup_steps=1500)
    assert [round(muon_momentum(step, optim), 6) for step in (0, 750, 1500, 9000)] == [0.92, 0.955, 0.99, 0.99]
