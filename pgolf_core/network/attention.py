"""Rotary embedding, the choice of attention kernel, and exclusive self-attention.

Shapes: B sequences, T positions, H query heads, K key/value heads, D head width, R rotary dimensions.
Tensors are [B, T, heads, D] throughout, the layout FlashAttention takes.
"""

import functools
import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor


def rotary_base(num_tokens: int, rope_dims: int, base: float, reference_tokens: int) -> float:
    """The base in force at this length: rescaled by (T/reference)^(R/(R-2)) above the reference (PR 315, 332)."""
    if not reference_tokens or num_tokens <= reference_tokens:
        return base
    return base * (num_tokens / reference_tokens) ** (rope_dims / (rope_dims - 2))


def rotary_tables(
    num_tokens: int, rope_dims: int, base: float, reference_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, 1, R/2] in float32 (RoFormer, arXiv 2104.09864; exponents use R, not the head width)."""
    base = rotary_base(num_tokens, rope_dims, base, reference_tokens)
    exponents = torch.arange(0, rope_dims, 2, dtype=torch.float32, device=device) / rope_dims
    frequencies = 1.0 / (base**exponents)
    angles = torch.outer(torch.arange(num_tokens, dtype=torch.float32, device=device), frequencies)
    return angles.cos()[:, None, :], angles.sin()[:, None, :]


def later(x: Tensor, first: int, dim: int = 1) -> Tensor:
    """Positions `first`.. of x, along `dim`; from 0 on x itself, so that a training graph has no slice to keep."""
    return x.narrow(dim, first, x.size(dim) - first) if first else x


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R dims of each head, half-split, and pass the rest (partial RoPE, PR 315); keeps x's dtype."""
    half = cos.size(-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    x1, x2, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin, rest), dim=-1)


def exclude_self(y: Tensor, v: Tensor) -> Tensor:
    """Exclusive self-attention: remove from each head's output its component along the position's own value.

    y [B, T, H, D], v [B, T, K, D] (the value that was attended to) -> [B, T, H, D] in y's dtype (PR 315).
    """
    batch, length, num_heads, width = y.shape
    kv_heads = v.size(2)
    grouped = y.float().view(batch, length, kv_heads, num_heads // kv_heads, width)
    unit = F.normalize(v.float(), dim=-1, eps=1e-12).unsqueeze(3)
    return (grouped - (grouped * unit).sum(-1, keepdim=True) * unit).view_as(y).to(y.dtype)


def sdpa(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Torch's own attention: causal, or to what `seen` (bool [..., queries, keys]) says that a query sees."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    rows, keys = q.size(2), k.size(2)
    if seen is None and rows < keys:
        seen = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
    grouped = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, seen, is_causal=seen is None, enable_gqa=grouped).transpose(1, 2)


def _blocked(q: Tensor, k: Tensor, v: Tensor, block: int = 128) -> Tensor:
    """Causal attention by blocks of queries, each against the keys up to its end: matrix products that a CPU does in
    bfloat16 hardware, where torch's own CPU kernel takes about twice as long at these lengths."""
    batch, length, heads, width = q.shape
    kv_heads, before = k.size(2), k.size(1) - length
    group = heads // kv_heads
    q = (q * width**-0.5).view(batch, length, kv_heads, group, width).permute(0, 2, 3, 1, 4)  # [B, K, H/K, T, D]
    k, v = k.permute(0, 2, 3, 1), v.transpose(1, 2)  # [B, K, D, T], [B, K, T, D]
    outputs = []
    for start in range(0, length, block):
        rows = min(block, length - start)
        end = before + start + rows
        scores = q[:, :, :, start : start + rows].reshape(batch, kv_heads, group * rows, width) @ k[..., :end]
        scores = scores.view(batch, kv_heads, group, rows, end)
        future = torch.full((rows, end), -torch.inf, dtype=q.dtype, device=q.device).triu(end - rows + 1)
        weights = (scores + future).softmax(-1).view(batch, kv_heads, group * rows, end)
        outputs.append((weights @ v[:, :, :end]).view(batch, kv_heads, group, rows, width))
    return torch.cat(outputs, dim=3).permute(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


FLASH = (
    ("FlashAttention-3", "flash_attn_interface", "flash_attn_3", (9,)),
    ("FlashAttention-2", "flash_attn", "flash_attn", (8, 9, 10, 12)),
)
"""Name, module, namespace of its operators, GPUs by major compute capability (9 is Hopper): the fastest first."""
MAX_HEAD_WIDTH = 256
"""Of FlashAttention, and of torch's own kernel for documents."""
flash_modules: dict[str, ModuleType] = {}
"""Those that were imported, by name."""


@functools.cache
def _flash_fault(name: str, module: str, namespace: str) -> str | None:
    """Import one FlashAttention. None: it can be called; empty: it is not installed; else what is wrong with it."""
    try:
        flash_modules[name] = found = importlib.import_module(module)
        assert found.flash_attn_func
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # built for another torch, CUDA or Python
        absent = isinstance(error, ModuleNotFoundError) and error.name == module
        return "" if absent else f"{module} does not import: {str(error).partition(chr(10))[0]}"
    # Kernels that are not operators of torch cannot be traced: every layer would break the compiled graph.
    known = hasattr(getattr(torch.ops, namespace), "_flash_attn_forward")
    return None if known else f"{module} is too old for torch.compile"


def choose_kernel(device_type: str, bfloat16: bool, head_width: int = 64) -> tuple[str, str]:
    """Which kernel attends, and why one that is installed and faster does not (empty where there is none).

    In bfloat16: FlashAttention-3, then 2, on CUDA, and query blocks on a CPU. Otherwise SDPA.
    """
    if not bfloat16 or device_type != "cuda":
        return "query blocks" if bfloat16 and device_type == "cpu" else "SDPA", ""
    faults: list[str] = []
    major, minor = torch.cuda.get_device_capability()
    for name, module, namespace, majors in FLASH:
        fault = _flash_fault(name, module, namespace)
        if fault is None and major not in majors:
            fault = f"{name} does not run on compute capability {major}.{minor}"
        elif fault is None and (head_width % 8 or head_width > MAX_HEAD_WIDTH):
            fault = f"{name} takes head widths of 8, 16 … {MAX_HEAD_WIDTH}, not {head_width}"
        if fault is None:
            return name, "; ".join(faults)
        faults += [fault] if fault else []
    return "SDPA", "; ".join(faults)


# What torch.compiler.assume_constant_result does: a compiled graph takes the answer and never sees the imports.
choose_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


def kernel_name(device_type: str, bfloat16: bool, head_width: int = 64) -> str:
    """The kernel that attends, for logs: followed by why a faster one that is installed does not, if so."""
    name, why = choose_kernel(device_type, bfloat16, head_width)
    return f"{name} ({why})" if why else name


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v under a causal mask, query head h using kv head h // (H/K).

    q [B, Q, H, D], k and v [B, T, K, D], one dtype -> [B, Q, H, D]; the queries are those of the last Q positions.
    """
    name, _ = choose_kernel(q.device.type, q.dtype is torch.bfloat16, q.size(-1))
    if name in flash_modules:
        output = flash_modules[name].flash_attn_func(q, k, v, causal=True)
        return output[0] if isinstance(output, tuple) else output  # some FlashAttention-3 builds return (out, lse)
    return (_blocked if name == "query blocks" else sdpa)(q, k, v)
