"""The loss that computes its gradient in one pass is the plain one: against float64, and inside the network."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small import small_recipe
from torch import Tensor

from pgolf_core.network import head
from pgolf_core.network.head import CappedLoss
from pgolf_core.network.model import GPT, build_model

CAP = 30.0


def plain(z: Tensor, table: Tensor, targets: Tensor, cap: float) -> Tensor:
    return F.cross_entropy(cap * torch.tanh(F.linear(z, table) / cap), targets)


def answers(loss_of, z: Tensor, table: Tensor, targets: Tensor, cap: float, by: float = 1.0) -> tuple[Tensor, ...]:
    """Loss, and the gradients of `by` times it."""
    z, table = z.detach().clone().requires_grad_(), table.detach().clone().requires_grad_()
    loss = loss_of(z, table, targets, cap)
    (by * loss).backward()
    assert z.grad is not None and table.grad is not None and z.grad.dtype == z.dtype
    return loss.detach().double(), z.grad.double(), table.grad.double()


def inputs(scale: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    table = scale * torch.randn(37, 16, generator=random)
    return torch.randn(50, 16, generator=random).to(dtype), table, torch.randint(37, (50,), generator=random)


@pytest.mark.parametrize("chunks", [1, 8, 50])
@pytest.mark.parametrize("cap", [2.0, 15.0, CAP])
@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 300.0])
def test_loss_and_gradients_are_those_of_float64(cap: float, scale: float, chunks: int, monkeypatch) -> None:
    monkeypatch.setattr(head, "CHUNKS", chunks)
    z, table, targets = inputs(scale)
    found = answers(CappedLoss.apply, z, table, targets, cap, by=0.25)
    wanted = answers(plain, z.double(), table.double(), targets, cap, by=0.25)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-6)


def test_in_bfloat16_it_is_as_near_to_float64_as_the_plain_loss() -> None:
    z, table, targets = inputs(0.5, torch.bfloat16)
    rounded = table.bfloat16().double()
    exact = answers(plain, z.double(), rounded, targets, CAP)
    found = answers(CappedLoss.apply, z, table, targets, CAP)
    usual = answers(plain_in_halves, z, table, targets, CAP)
    for mine, theirs, wanted in zip(found, usual, exact, strict=True):
        assert (mine - wanted).norm() <= 1.2 * (theirs - wanted).norm() + 1e-6


def plain_in_halves(z: Tensor, table: Tensor, targets: Tensor, cap: float) -> Tensor:
    logits = F.linear(z, table.to(z.dtype)).float()
    return F.cross_entropy(cap * torch.tanh(logits / cap), targets)


def test_what_is_left_to_learn_of_a_sure_target_is_not_lost_in_rounding() -> None:
    table = torch.eye(8)[:6] * 12.0
    z = torch.eye(8)[:6].bfloat16()
    found = answers(CappedLoss.apply, z, table, torch.arange(6), CAP)
    wanted = answers(plain, z.double(), table.double(), torch.arange(6), CAP)
    assert 0 < wanted[0] < 1e-4, "p of each target is above 0.9999"
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() < 0.01 * other.norm()


@pytest.mark.parametrize("changes", [{}, {"logit_softcap": 31.0}, {"softcaps": "two"}])
def test_a_compiled_networks_loss_and_gradients_are_the_eager_ones(changes: dict) -> None:
    used: list[bool] = []

    def look(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        used.append(any("autograd_function" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    model: GPT = build_model(small_recipe(model=changes).model, 1)
    ids = torch.randint(model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1))
    told = []
    for loss_of in (torch.compile(model, backend=look), model):
        model.zero_grad()
        loss = loss_of(ids[:, :-1], ids[:, 1:])
        loss.backward()
        told.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert used == [not changes]
    for one, other in zip(*told, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
