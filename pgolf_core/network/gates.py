"""What only some networks have: gates that read a few channels, two residual lanes, a soft cap for each sign.

A network of network/model that `Model.gated` says has any of it gets its parameters here, by their canonical names, and
calls what it has. Legend as there; sources: papers/techniques.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgolf_core.network.attention import later
from pgolf_core.recipes.recipe import Model
from pgolf_core.text.tokenizer import BOS


def add_gates(network: Any, config: Model) -> None:
    """Give a GPT the parameters, as they start."""
    window, layers = config.gate_window, config.num_layers
    if config.smear == "window":
        network.smear_gate = nn.Module()
        network.smear_gate.weight = nn.Parameter(torch.zeros(1, window))
        network.smear_lambda = nn.Parameter(torch.zeros(1))
    if config.attn_gate != "off":
        for block in network.blocks:
            block.attn.attn_gate_w = nn.Parameter(torch.zeros(config.num_heads, window))
    if config.lanes == 2:
        network.parallel_post_lambdas = nn.Parameter(torch.ones(layers, 2, 2))
        network.parallel_resid_lambdas = nn.Parameter(torch.full((layers, 2), 1.1))
    if config.softcaps != "one":
        network.softcap_pos = nn.Parameter(torch.tensor(config.logit_softcap))
        network.softcap_neg = nn.Parameter(torch.tensor(config.logit_softcap))


def window_gate(x: Tensor, weight: Tensor, scale: float = 1.0) -> Tensor:
    """sigmoid(scale W x) of the first w channels of x: [..., C] and W [n, w] -> [..., n] in x's dtype (PR 1855)."""
    return torch.sigmoid(scale * F.linear(x[..., : weight.size(1)], weight.to(x.dtype)))


def smear_window(network: Any, x: Tensor, ids: Tensor) -> Tensor:
    """x_t + lambda g_t x_{t-1} of embeddings x [B, T, C], one gate g_t for all channels of a position (PR 1855).

    Where the recipe masks it, the first token of a document takes nothing from the one before it.
    """
    gate = network.smear_lambda.to(x.dtype) * window_gate(x[:, 1:], network.smear_gate.weight)
    if network.config.smear_bos_mask:
        gate = gate * (ids[:, 1:, None] != BOS)
    return torch.cat((x[:, :1], x[:, 1:] + gate * x[:, :-1]), dim=1)


def gated_heads(y: Tensor, x: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Each head's output y [B, T, H, D] times its gate, which reads the attention's input x [B, T, C] (PR 1855)."""
    return y * window_gate(x, weight, scale).unsqueeze(-1)


def in_lanes(
    network: Any, layer: int, lanes: tuple[Tensor, Tensor], first: int, x0: Tensor, *where: Any
) -> list[Tensor]:
    """Both residual lanes [B, T, C] after a block: attention reads the first, the MLP the second (PR 1855).

    Lane i becomes resid[i] times itself plus post[0, i] times what attention adds and post[1, i] times what the MLP
    does; post [2, 2] and resid [2] are the block's own and learned. `where` is what attention takes further.
    Returns the lanes from position `first` on.
    """
    block, dtype = network.blocks[layer], x0.dtype
    post, resid = network.parallel_post_lambdas[layer].to(dtype), network.parallel_resid_lambdas[layer].to(dtype)
    heads = block.attended(block.mix(lanes[0], x0), *where, first=first)
    lanes = (later(lanes[0], first), later(lanes[1], first))
    mlp = block.thought(lanes[1])
    return [resid[i] * lanes[i] + post[0, i] * heads + post[1, i] * mlp for i in (0, 1)]


def signed_caps(network: Any, logits: Tensor) -> Tensor:
    """The learned soft cap of each logit, another one for each sign; float32 of any shape (PR 2135)."""
    return torch.where(logits > 0, network.softcap_pos, network.softcap_neg)
