"""Stand-ins for what this machine lacks: FlashAttention's modules, and a CUDA device to choose kernels for."""

import contextlib
import itertools
import sys
import types
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pgolf_core.network import attention

MODULES = {name: (module, namespace) for name, module, namespace, _ in attention.FLASH}
SCHEMA = "_flash_attn_forward(Tensor q, Tensor k, Tensor v, bool causal) -> (Tensor, Tensor)"


def plain_attention(q: Tensor, k: Tensor, v: Tensor, starts: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """By plain formulas: the output [B, T, H, D], and the log-sum-exp of every row of scores.

    `starts`: where documents begin, counted through all rows; a row begins one anyway.
    """
    k, v = (x.repeat_interleave(q.size(2) // x.size(2), dim=2).float() for x in (k, v))
    places = torch.arange(q.size(0) * q.size(1)).view(q.shape[:2])
    document = sum((places >= start).int() for start in (0, *starts))
    hidden = (document[:, :, None] != document[:, None]) | (places[:, :, None] < places[:, None])
    scores = torch.einsum("bthd,bshd->bhts", q.float(), k) * q.size(-1) ** -0.5
    scores = scores.masked_fill(hidden[:, None], -torch.inf)
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).to(q.dtype), scores.logsumexp(-1)


def _forward(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    return plain_attention(q, k, v)


def _shapes(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.size(0), q.size(2), q.size(1), dtype=torch.float32)


def _remember(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3])


def _backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*(torch.ones_like(x) * gradient.mean() for x in ctx.saved_tensors), None)  # shapes and dtypes, not values


def _checked(namespace: str, returns_tuple: bool):
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Refuses what the real one refuses or would get wrong: layout [B, T, heads, D], half precision, causal."""
        assert q.ndim == k.ndim == v.ndim == 4 and k.shape == v.shape
        assert q.shape[:2] == k.shape[:2] and q.size(3) == k.size(3) and q.size(2) % k.size(2) == 0
        assert q.dtype == k.dtype == v.dtype and q.dtype in (torch.float16, torch.bfloat16)
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1 and q.size(3) % 8 == 0 and q.size(3) <= 256
        assert causal is True
        output = getattr(torch.ops, namespace)._flash_attn_forward(q, k, v, causal)
        return output if returns_tuple else output[0]

    def flash_attn_varlen_func(q, k, v, starts_q, starts_k, longest_q: int, longest_k: int, causal: bool = False):
        """Likewise: layout [tokens, heads, D], int32 bounds from 0 to the number of tokens, the longest as promised."""
        assert q.ndim == 3 and starts_q.dtype is starts_k.dtype is torch.int32
        bounds = starts_q.tolist()
        assert bounds == starts_k.tolist() == sorted(bounds) and (bounds[0], bounds[-1]) == (0, len(q))
        assert longest_q == longest_k >= max(b - a for a, b in itertools.pairwise(bounds))
        parts = [
            flash_attn_func(*(x[None, a:b] for x in (q, k, v)), causal=causal)
            for a, b in itertools.pairwise(bounds)
            if b > a
        ]
        outputs = torch.cat([part[0] if returns_tuple else part for part in parts], dim=1)[0]
        return (outputs, None) if returns_tuple else outputs

    return flash_attn_func, flash_attn_varlen_func


@contextlib.contextmanager
def installed(monkeypatch: pytest.MonkeyPatch, *names: str, returns_tuple: bool = False) -> Iterator[None]:
    """These kernels by name (FlashAttention-3, -2) as modules that can be imported, and no other."""
    attention._flash_fault.cache_clear()
    attention.flash_modules.clear()
    with contextlib.ExitStack() as stack:
        for name, (module, namespace) in MODULES.items():
            monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
            if name in names:
                library = stack.enter_context(torch.library._scoped_library(namespace, "FRAGMENT"))
                operator = f"{namespace}::_flash_attn_forward"
                library.define(SCHEMA)
                library.impl("_flash_attn_forward", _forward, "CPU")
                torch.library.register_fake(operator, _shapes, lib=library)
                torch.library.register_autograd(operator, _backward, setup_context=_remember, lib=library)
                stand_in = types.ModuleType(module)
                stand_in.flash_attn_func, stand_in.flash_attn_varlen_func = _checked(namespace, returns_tuple)
                monkeypatch.setitem(sys.modules, module, stand_in)
        yield
    attention._flash_fault.cache_clear()
    attention.flash_modules.clear()


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> None:
    """Let torch answer as if a CUDA device of this compute capability were there."""
    for name, answer in {
        "is_available": True, "is_bf16_supported": capability >= (8, 0), "current_device": 0, "device_count": 8,
        "get_device_capability": capability, "get_device_name": "NVIDIA pretended",
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
