"""Attention inside documents that lie packed in a row: on CUDA by the varlen kernel that torch has, else one by one."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from pgolf_core.network.attention import causal_attention

VARLEN_MAX_HEAD_WIDTH = 256


def document_attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int = 0) -> Tensor:
    """Causal attention in which a position sees its own document alone.

    q [B, T, H, D], k and v [B, T, K, D], one dtype -> [B, T, H, D]. `starts`, int32 on their device, has where every
    document starts among the B x T positions, rising, a start of each row included, and B x T at the end, once or
    more. `longest` is at least the longest document's number of tokens; 0 stands for T.
    """
    flat = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    longest = longest or q.size(1)
    if q.is_cuda and q.dtype is torch.bfloat16 and q.size(-1) % 8 == 0 and q.size(-1) <= VARLEN_MAX_HEAD_WIDTH:
        grouped = q.size(2) != k.size(2)
        y = varlen_attn(*flat, starts, starts, longest, longest, window_size=(-1, 0), enable_gqa=grouped)
        assert isinstance(y, Tensor)
    elif torch.compiler.is_compiling():  # a graph cannot depend on where documents start
        return _masked(q, k, v, starts)
    else:
        bounds = itertools.pairwise(starts.tolist())
        parts = [[tensor[None, a:b] for tensor in flat] for a, b in bounds if b > a]
        y = torch.cat([causal_attention(*part) for part in parts], dim=1)
    return y.view_as(q)


def _masked(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
    """Over whole rows, all but the own document masked."""
    places = torch.arange(q.size(0) * q.size(1), dtype=starts.dtype, device=q.device)
    document = torch.searchsorted(starts, places, right=True).view(q.size(0), 1, q.size(1))
    mask = (document[..., None] == document[..., None, :]).tril()
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    grouped = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).transpose(1, 2)
