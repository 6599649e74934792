"""Attention that stays inside documents, which lie packed in rows or share a window: papers/techniques."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from pgolf_core.network.attention import MAX_HEAD_WIDTH, causal_attention, choose_kernel, flash_modules, sdpa
from pgolf_core.text.tokenizer import BOS


def own_documents(ids: Tensor) -> Tensor:
    """Where documents start in rows of token ids [B, T], as `document_attention` takes it: at BOS and in every row."""
    begins = ids == BOS
    begins[:, 0] = True
    return F.pad(begins.flatten().nonzero().flatten(), (0, 1), value=ids.numel()).int()


def document_attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int = 0) -> Tensor:
    """Causal attention in which a position sees its own document alone.

    q [B, T, H, D], k and v [B, T, K, D], one dtype -> [B, T, H, D]. `starts`, int32 on their device, has where every
    document starts among the B x T positions, rising, the start of each row included, and then B x T, once or more.
    `longest` is at least the longest document's number of tokens; 0 stands for T.
    """
    name, _ = choose_kernel(q.device.type, q.dtype is torch.bfloat16, q.size(-1))
    flat, longest = (q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)), longest or q.size(1)
    if name in flash_modules:
        y = flash_modules[name].flash_attn_varlen_func(*flat, starts, starts, longest, longest, causal=True)
        return (y[0] if isinstance(y, tuple) else y).view_as(q)
    width = q.size(-1)
    if q.is_cuda and q.dtype is torch.bfloat16 and not width % 8 and width <= MAX_HEAD_WIDTH:
        from torch.nn.attention.varlen import varlen_attn  # which imports torch's compiler: seconds

        grouped = q.size(2) != k.size(2)
        y = varlen_attn(*flat, starts, starts, longest, longest, window_size=(-1, 0), enable_gqa=grouped)
        assert isinstance(y, Tensor)
        return y.view_as(q)
    if torch.compiler.is_compiling():  # a graph cannot depend on where documents start
        return _masked(q, k, v, starts)
    parts = [[x[None, a:b] for x in flat] for a, b in itertools.pairwise(starts.tolist()) if b > a]
    return torch.cat([causal_attention(*part) for part in parts], dim=1).view_as(q)


def _masked(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
    """Over whole rows, all but the own document masked."""
    places = torch.arange(q.size(0) * q.size(1), dtype=starts.dtype, device=q.device)
    document = torch.searchsorted(starts, places, right=True).view(q.size(0), 1, q.size(1))
    return sdpa(q, k, v, (document[..., None] == document[..., None, :]).tril())
