"""What some networks alone have: gates by a few channels, two residual lanes, a cap for each sign of a logit.

Legend as in network/model. Sources: papers/techniques.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pgolf_core.text.tokenizer import BOS


def window_gate(x: Tensor, weight: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """sigmoid(scale (W x)) of the first w channels of x: [..., C] and W [n, w] -> [..., n] in x's dtype (PR 1855)."""
    return torch.sigmoid(scale * F.linear(x[..., : weight.size(1)], weight.to(x.dtype)))


def smear_window(x: Tensor, gate: Tensor, ids: Tensor | None) -> Tensor:
    """x_t + gate_t x_{t-1}: embeddings x [B, T, C] and a gate of all channels [B, T, 1] -> [B, T, C] (PR 1855).

    With `ids` [B, T] the first token of a document takes nothing from the one before it.
    """
    gate = gate[:, 1:]
    if ids is not None:
        gate = gate * (ids[:, 1:, None] != BOS)
    return torch.cat((x[:, :1], x[:, 1:] + gate * x[:, :-1]), dim=1)


def in_lanes(lanes: tuple[Tensor, Tensor], added: tuple[Tensor, Tensor], post: Tensor, resid: Tensor) -> list[Tensor]:
    """Both residual lanes [B, T, C] after a block (PR 1855).

    Lane i becomes resid[i] times itself plus post[0, i] times what attention added and post[1, i] times what the MLP
    did; post [2, 2] and resid [2] are learned.
    """
    post, resid = post.to(lanes[0].dtype), resid.to(lanes[0].dtype)
    return [resid[i] * lanes[i] + post[0, i] * added[0] + post[1, i] * added[1] for i in (0, 1)]


def soft_capped(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """c tanh(logits / c), the learned c another one for each sign; any shape, in the logits' dtype (PR 2135)."""
    cap = torch.where(logits > 0, positive, negative)
    return cap * torch.tanh(logits / cap)
