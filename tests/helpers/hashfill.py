"""Weights and tokens from an integer hash: full-size parity cases that need no files (papers/machinery.md)."""

import numpy as np
import torch

from pgolf_core.network.model import GPT
from pgolf_core.recipes import recipe

MASK = np.uint64(0xFFFFFFFF)


def hash32(index: np.ndarray, tag: int) -> np.ndarray:
    """32-bit hash of each index, as uint64."""
    h = (index.astype(np.uint64) * np.uint64(2654435761) + np.uint64(tag * 97531 + 12345)) & MASK
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        h = ((h ^ (h >> np.uint64(shift))) * np.uint64(factor)) & MASK
    return h ^ (h >> np.uint64(16))


def fill(shape: tuple[int, ...], scale: float, tag: int, offset: float = 0.0) -> torch.Tensor:
    """offset + scale x u, u in [-0.5, 0.5) by row-major index, float32."""
    u = hash32(np.arange(int(np.prod(shape)) if shape else 1), tag) / 2**32 - 0.5
    return torch.from_numpy((offset + scale * u).astype(np.float32).reshape(shape))


FILLS = {  # parameter, in the blocks' without their number: scale, tag, offset
    "tok_emb.weight": (0.2, 0), "bigram.embed.weight": (0.2, 1), "bigram.proj.weight": (0.1, 2), "smear.gate": (2.0, 3),
    "skip_weights": (0.2, 4, 1.0), "ve.embed.weight": (1.0, 5), "ve.proj.weight": (0.2, 6),
    "attn.c_q.weight": (0.1, 10), "attn.c_k.weight": (0.1, 11), "attn.c_v.weight": (0.1, 12),
    "skip_gates": (2.0, 7), "attn.proj.weight": (0.1, 13), "attn.q_gain": (0.2, 14), "mlp.fc.weight": (0.1, 15),
    "mlp.proj.weight": (0.1, 16), "attn_scale": (0.2, 17, 1.0), "mlp_scale": (0.2, 18, 1.0), "resid_mix": (0.2, 19),
    "smear_gate.weight": (2.0, 3), "smear_lambda": (0.0, 0, 0.5), "parallel_post_lambdas": (0.4, 7, 1.0),
    "parallel_resid_lambdas": (0.2, 8, 1.1), "attn.attn_gate_w": (2.0, 20),
}  # fmt: skip


def filled_model(config: recipe.Model) -> GPT:
    """The network with every parameter from the hash."""
    model = GPT(config).eval()
    for name, parameter in model.named_parameters():
        layer, _, inner = name.removeprefix("blocks.").partition(".")
        base = 1000 * (int(layer) + 1) if layer.isdigit() else 0
        if name == "bigram.scale":
            filled = torch.tensor(0.05)
        elif name == "ve_scales":
            filled = 0.1 + 0.01 * torch.arange(len(parameter), dtype=torch.float32)
        else:
            scale, tag, *offset = FILLS[inner if base else name]
            if name == "skip_gates" and config.lanes == 2:
                tag = 5
            filled = fill(tuple(parameter.shape), scale, base + tag, *offset)
        if inner == "resid_mix":
            filled[0] += 1
        if inner == "attn.q_gain":
            filled += 1.5 if config.lanes == 2 else config.qk_gain_init
        parameter.data.copy_(filled)
    return model


def tokens(batch: int, length: int, vocab_size: int = 1024) -> torch.Tensor:
    """Token ids [batch, length + 1]."""
    index = 4096 * np.arange(batch)[:, None] + np.arange(length + 1)
    return torch.from_numpy((hash32(index, 77) % np.uint64(vocab_size)).astype(np.int64))
