"""Muon for matrices, AdamW for the rest: groups, updates, and the schedules as pure functions."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pgolf_core.base.files import UserError
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.recipes.recipe import Optim, Schedule
from pgolf_core.training.polar import POLAR_EXPRESS

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def newton_schulz(
    gradient: Tensor,
    steps: int = 5,
    dtype: torch.dtype = torch.bfloat16,
    coefficients: Sequence[tuple[float, float, float]] = (NEWTON_SCHULZ_COEFFICIENTS,),
) -> Tensor:
    """Approximately orthogonalise matrices [..., rows, cols]: singular values are pushed towards 1.

    Quintic iteration X <- aX + (bA + cA^2)X with A = XX^T (Jordan et al., Muon, 2024); batched over leading dims. Of
    the `coefficients` (a, b, c) each step takes the next, and where there are no more the last. Returns `dtype`, same
    shape.
    """
    x = gradient.to(dtype).reshape(-1, *gradient.shape[-2:])
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).to(dtype) + 1e-7)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    for step in range(steps):
        a, b, c = coefficients[min(step, len(coefficients) - 1)]
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(gradient.shape)


def coefficients_of(optim: Optim) -> Sequence[tuple[float, float, float]]:
    """What the recipe's `newton_schulz` takes."""
    return POLAR_EXPRESS if optim.muon_coefficients == "polar_express" else (NEWTON_SCHULZ_COEFFICIENTS,)


@dataclass(frozen=True)
class Group:
    """Parameters that share one optimiser and its settings."""

    name: str
    optimizer: str
    """muon, adamw or frozen."""
    parameters: tuple[str, ...]
    lr: float = 0.0
    """Base learning rate, before the schedule's multiplier."""
    betas: tuple[float, float] = (0.0, 0.0)
    weight_decay: float = 0.0


def parameter_groups(names: Iterable[str], optim: Optim) -> list[Group]:
    """Sort every parameter name into exactly one group: ordered patterns, first match wins (papers/machinery.md)."""
    betas = optim.adam_betas
    split = optim.bigram_optimizer == "split"
    scalar = dict(optimizer="adamw", lr=optim.scalar_lr, betas=betas, weight_decay=optim.adam_wd)
    embed = {**scalar, "lr": optim.embed_lr}
    token_decay = optim.embed_wd if optim.embed_wd >= 0 else optim.adam_wd
    muon = dict(optimizer="muon", lr=optim.matrix_lr, weight_decay=optim.muon_wd)
    frozen = dict(optimizer="frozen")
    table: list[tuple[str, str, dict]] = [
        ("token embedding", r"tok_emb\.weight", {**embed, "weight_decay": token_decay}),
        ("bigram table", r"bigram\.embed\.weight", embed if split else scalar),
        ("bigram projection", r"bigram\.proj\.weight", muon if split else scalar),
        ("value embedding", r"ve\.embed\.weight", frozen if optim.ve_frozen else embed),
        ("value projection", r"ve\.proj\.weight", frozen if optim.ve_frozen else muon),
        ("smear gate", r"smear\.gate", {**scalar, "betas": (betas[0], optim.smear_beta2)}),
        ("block matrices", r"blocks\.\d+\.(attn|mlp)\.\w+\.weight", muon),
        ("scalars", r"(blocks\.\d+\.(attn\.)?)?\w+|bigram\.scale|smear_gate\.weight", scalar),
    ]  # fmt: skip
    members: dict[str, list[str]] = {name: [] for name, _, _ in table}
    for parameter in names:
        group = next((name for name, pattern, _ in table if re.fullmatch(pattern, parameter)), None)
        assert group is not None, f"no optimiser group takes {parameter}"
        members[group].append(parameter)
    return [Group(name, parameters=tuple(members[name]), **how) for name, _, how in table if members[name]]


class Muon:
    """Momentum, orthogonalised by Newton-Schulz, batched over matrices of one shape (papers/techniques/muon.md).

    `parameters` maps names to 2-D float32 tensors with gradients; gradient and momentum are kept in the recipe's
    muon_dtype. Weight decay is decoupled, before or after. Every rank keeps all momentum and orthogonalises its share
    of each stack, while the shares of the last one travel.
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], lr: float, weight_decay: float, optim: Optim, world: World = ALONE
    ):
        self.world = world
        self.base_lr, self.weight_decay, self.order = lr, weight_decay, optim.muon_wd_order
        self.steps, self.dtype = optim.newton_schulz_steps, getattr(torch, optim.newton_schulz_dtype)
        self.kept_dtype = getattr(torch, optim.muon_dtype)
        self.coefficients = coefficients_of(optim)
        self.by_rows = optim.muon_row_normalise
        self.shapes: dict[tuple[int, ...], dict[str, nn.Parameter]] = {}
        for name, parameter in parameters.items():
            self.shapes.setdefault(tuple(parameter.shape), {})[name] = parameter
        self.orthogonalise = newton_schulz
        self.reset()

    def reset(self) -> None:
        """Forget all momentum."""
        self.buffers = {
            shape: torch.zeros(len(members), *shape, dtype=self.kept_dtype, device=next(iter(members.values())).device)
            for shape, members in self.shapes.items()
        }

    @torch.no_grad()
    def step(self, multiplier: float, momentum: float) -> None:
        """One update with learning rate base x multiplier; Nesterov momentum."""
        lr, updates = self.base_lr * multiplier, []
        for shape, members in self.shapes.items():
            gradients = torch.stack([weight.grad for weight in members.values() if weight.grad is not None])
            gradients = gradients.to(self.kept_dtype)
            buffer = self.buffers[shape].mul_(momentum).add_(gradients)
            updates.append(self.world.shared_out(self._orthogonal, gradients.add_(buffer, alpha=momentum)))
        for (shape, members), update in zip(self.shapes.items(), updates, strict=True):
            weights: list[Tensor] = list(members.values())
            scale = math.sqrt(max(1.0, shape[0] / shape[1]))
            if self.order == "before":
                torch._foreach_mul_(weights, 1 - lr * self.weight_decay)
            torch._foreach_add_(weights, list(update().to(weights[0].dtype).unbind()), alpha=-lr * scale)
            if self.order == "after":
                torch._foreach_mul_(weights, 1 - lr * self.weight_decay)

    def _orthogonal(self, stack: Tensor) -> Tensor:
        if self.by_rows:  # MuonEq-R: every row asks for the same (PR 1493)
            norms = torch.linalg.vector_norm(stack, dim=-1, keepdim=True, dtype=torch.float32)
            stack = stack / norms.clamp_min(1e-7).to(stack.dtype)
        return self.orthogonalise(stack, self.steps, self.dtype, self.coefficients)

    def tensors(self) -> dict[str, Tensor]:
        """Momentum by parameter name, as views: for checkpoints, in both directions."""
        return {
            f"{name}.momentum": self.buffers[shape][index]
            for shape, members in self.shapes.items()
            for index, name in enumerate(members)
        }


class AdamW:
    """torch's fused AdamW over several groups, with tensors that a checkpoint can hold by name."""

    def __init__(self, groups: list[tuple[Group, dict[str, nn.Parameter]]], eps: float):
        self.groups, self.eps = groups, eps
        self.named = {name: parameter for _, members in groups for name, parameter in members.items()}
        self.reset()

    def reset(self) -> None:
        """Forget both moments and the step count."""
        self.inner = torch.optim.AdamW(
            [{"params": list(members.values()), "lr": group.lr, "base_lr": group.lr, "betas": group.betas,
              "weight_decay": group.weight_decay} for group, members in self.groups],
            eps=self.eps, fused=True,
        )  # fmt: skip
        for parameter in self.named.values():
            self.inner.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def step(self, multiplier: float) -> None:
        """One update with every group's learning rate at base x multiplier."""
        for group in self.inner.param_groups:
            group["lr"] = group["base_lr"] * multiplier
        self.inner.step()

    def tensors(self) -> dict[str, Tensor]:
        """step, exp_avg and exp_avg_sq by parameter name."""
        return {
            f"{name}.{key}": tensor
            for name, parameter in self.named.items()
            for key, tensor in self.inner.state[parameter].items()
        }


class Optimizers:
    """All of a model's optimisers behind one step, one reset and one dictionary of state tensors."""

    def __init__(self, model: nn.Module, optim: Optim, world: World = ALONE):
        named = dict(model.named_parameters())
        self.groups = parameter_groups(named, optim)
        chosen = [(group, {name: named[name] for name in group.parameters}) for group in self.groups]
        for group, members in chosen:
            for parameter in members.values():
                parameter.requires_grad_(group.optimizer != "frozen")
        self.trained = [p for group, members in chosen for p in members.values() if group.optimizer != "frozen"]
        muon = {name: p for group, members in chosen if group.optimizer == "muon" for name, p in members.items()}
        self.muon = Muon(muon, optim.matrix_lr, optim.muon_wd, optim, world)
        self.adamw = AdamW([pair for pair in chosen if pair[0].optimizer == "adamw"], optim.adam_eps)

    def step(self, multiplier: float, momentum: float) -> None:
        """Update every trained parameter from its .grad, then drop the gradients."""
        self.muon.step(multiplier, momentum)
        self.adamw.step(multiplier)
        for parameter in self.trained:
            parameter.grad = None

    def reset(self) -> None:
        """Forget all state (after the warm-up that is rolled back)."""
        self.muon.reset()
        self.adamw.reset()

    def tensors(self) -> dict[str, Tensor]:
        """Every state tensor by parameter and kind; writing into them restores a checkpoint."""
        return {**self.muon.tensors(), **self.adamw.tensors()}


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> float:
    """Scale gradients so that their global L2 norm is at most max_norm (0: only measure); returns the norm before."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm.item()


def check_finite(loss: float, grad_norm: float, named: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Raise UserError at the first step whose loss or gradient is not finite, naming a tensor."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    bad = [name for name, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]
    where = f"gradient of {bad[0]} (and {len(bad) - 1} more)" if bad else "loss"
    raise UserError(
        f"step {step}: {where} is not finite (loss {loss}); lower optim.matrix_lr, optim.embed_lr or optim.scalar_lr"
    )


def rate_multiplier(schedule: Schedule, step: int, elapsed_seconds: float) -> float:
    """Learning-rate multiplier of step number `step`: 1, in the end linear to 0 or its floor (papers/machinery.md).

    It falls over the last share of the budget where the recipe names one, which needs no guess of how many steps a
    machine manages; else over the last `warmdown_iters` steps, under a clock by the mean step time so far.
    """
    iters, cap = schedule.warmdown_iters, schedule.max_seconds - schedule.reserve_seconds
    if schedule.warmdown_fraction > 0:
        falling = (1 - schedule.used(step, elapsed_seconds)) / schedule.warmdown_fraction
    elif iters <= 0:
        return 1.0
    elif cap > 0:
        falling = (cap - elapsed_seconds) / max(iters * elapsed_seconds / max(step, 1), 1e-12)
    else:
        falling = (schedule.iterations - step) / iters
    return min(max(falling, schedule.min_lr), 1.0)


def muon_momentum(step: int, optim: Optim) -> float:
    """Muon's momentum, rising linearly over its warm-up steps."""
    fraction = min(step / max(optim.muon_momentum_warmup_steps, 1), 1.0)
    return (1 - fraction) * optim.muon_momentum_start + fraction * optim.muon_momentum
