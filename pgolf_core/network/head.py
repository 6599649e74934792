"""The head's loss and its gradient in one pass over the logits, for compiled training on CPUs (papers/techniques).

Legend: N targets, C model width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNKS = 8
"""Logits are held of an eighth of the targets at a time: at `local`'s shape most of them stay in the caches."""


class CappedLoss(torch.autograd.Function):
    """Mean cross-entropy, in nats, of soft-capped logits cap tanh(z table^T / cap); linear in the incoming gradient.

    z [N, C], table float32 [V, C], targets int64 [N]. Gradients for z, in its dtype, and for the table are computed
    with the loss. With s = sigmoid(2 l / cap) of a logit l the loss is log sum exp(2 cap (s - s_target)), no exponent
    of which can overflow, and its gradient is 4 s (1 - s) (p - 1 at the target). A row's sum is known after its last
    logit, so 1 / sum goes to the rows of z and of its gradient, and no logit is looked at again. The target's part is
    added apart, in float32: where p is near 1, p - 1 would be rounding.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, table: Tensor, targets: Tensor, cap: float) -> Tensor:
        """The loss, 0-d float32."""
        weight, by = table.to(z.dtype), 4 / len(z)
        dtable, parts = torch.zeros(()), []
        for some, wanted in zip(z.chunk(CHUNKS), targets.chunk(CHUNKS), strict=True):
            places = wanted[:, None]
            s = torch.sigmoid(2 / cap * F.linear(some, weight).float())
            s_target = s.gather(1, places)
            powers = torch.exp(2 * cap * (s - s_target))
            total = powers.sum(1, keepdim=True)
            slopes = (powers * s * (1 - s)).to(z.dtype).scatter(1, places, 0)
            of_target = by * s_target * (1 - s_target) * (1 / total - 1)
            dz = by / total * (slopes @ weight).float() + of_target * weight[wanted].float()
            dtable = dtable + (slopes.T @ (by / total * some.float()).to(z.dtype)).float()
            parts.append((total.log(), dz, of_target * some.float()))
        losses, dz, at_targets = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(dz.to(z.dtype), dtable, targets, at_targets)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for z and table."""
        (by,), (dz, dtable, targets, at_targets) = gradients, ctx.saved_tensors
        return (by * dz).to(dz.dtype), (by * dtable).index_add_(0, targets, by * at_targets), None, None
