"""What notebook 02 looks at: where parameters and bytes go, and what each part does to real tensors before training.

Shapes: B sequences, T positions, C model width, H query heads, K kv heads, D head width, R rotary dimensions.
"""

import copy
import dataclasses
import math
import re
from collections import defaultdict
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from pgolf_core.network.attention import causal_attention, exclude_self, rotary_base, rotate
from pgolf_core.network.choice import grid_names_for
from pgolf_core.network.grid import GRIDS, Grid
from pgolf_core.network.model import BIGRAM_HASH, GPT, Block, layer_order, num_parameters, parameter_shapes, rms_norm
from pgolf_core.recipes import recipe

KINDS = (
    (r"tok_emb\.", "token embedding"), (r"bigram\.embed\.", "bigram table"), (r"bigram\.proj\.", "bigram projection"),
    (r"ve\.(embed|proj)\.", "value embedding"),
    (r".*\.attn\.c_q\.", "attention: query"), (r".*\.attn\.c_k\.", "attention: key"),
    (r".*\.attn\.c_v\.", "attention: value"), (r".*\.attn\.proj\.", "attention: output"),
    (r".*\.mlp\.fc\.", "MLP: up"), (r".*\.mlp\.proj\.", "MLP: down"), (r"", "gains, gates, scales"),
)  # fmt: skip
"""Pattern of a parameter's name and its kind; the first match wins."""


def tensor_kind(name: str) -> str:
    """The kind of a parameter by its name in the state dict."""
    return next(kind for pattern, kind in KINDS if re.match(pattern, name))


def parameter_budget(config: recipe.Model) -> pd.DataFrame:
    """Tensors, parameters and their share by kind, in the order of KINDS; kinds the network lacks are left out."""
    shapes = parameter_shapes(config)
    table = pd.DataFrame({"kind": map(tensor_kind, shapes), "parameters": map(math.prod, shapes.values())})
    budget = table.groupby("kind")["parameters"].agg(tensors="size", parameters="sum")
    budget = budget.reindex([kind for _, kind in KINDS if kind in budget.index])
    return budget.assign(share=budget["parameters"] / budget["parameters"].sum())


def parameter_formula(config: recipe.Model) -> int:
    """The number of parameters in closed form, from the shape alone: the formula that notebook 02 explains."""
    width, layers = config.model_dim, config.num_layers
    kv_width = config.num_kv_heads * (width // config.num_heads)
    block = 2 * width**2 + 2 * width * kv_width + 2 * width * config.mlp_hidden + 4 * width + config.num_heads
    smear = {"off": 0, "window": config.gate_window + 1}.get(config.smear, width)
    gates = layers * config.num_heads * config.gate_window * (config.attn_gate != "off")
    gates += 6 * layers * (config.lanes == 2) + 2 * (config.softcaps != "one")
    bigram = (config.bigram_rows + width) * config.bigram_dim + 1 if config.bigram_rows else 0
    values = (config.vocab_size + kv_width) * config.ve_dim + layers if config.ve_dim else 0
    skips = len(layer_order(config)[0]) * width * (2 if config.skip_gates else 1)
    return config.vocab_size * width + skips + layers * block + smear + gates + bigram + values


def shape_of(config: recipe.Model, num_tokens: int) -> dict[str, str]:
    """The shape of a network that trains on sequences of `num_tokens`, as text for a table."""
    layers, head = config.num_layers, config.model_dim // config.num_heads
    loop = f"{config.loop_start} to {config.loop_end}, {config.num_loops + 1} times"
    parallel = list(range(layers))[config.parallel_start :] if config.parallel_start >= 0 else []
    return {
        "layers (encoder + decoder)": f"{layers} ({layers // 2} + {layers - layers // 2})",
        "layers in a loop": loop if config.num_loops else "none",
        "layers in parallel": ", ".join(map(str, parallel)) or "none",
        "skips": "blended by a gate" if config.skip_gates else "added",
        "slope of the MLP below 0": f"{config.negative_slope:g}",
        "width C": f"{config.model_dim}",
        "query heads H / kv heads K": f"{config.num_heads} / {config.num_kv_heads}",
        "head width D": f"{head}",
        "MLP hidden F": f"{config.mlp_hidden}",
        "vocabulary V": f"{config.vocab_size}",
        "rotary dims R of D": f"{config.rope_dims} of {head}",
        "training length T": f"{num_tokens}",
        "rotary base in force at T": f"{base_in_force(config, num_tokens):,.0f}",
        "bigram rows × width": f"{config.bigram_rows} × {config.bigram_dim}" if config.bigram_rows else "none",
        "smear gate": config.smear,
        "gate of each head": config.attn_gate,
        "residual lanes": f"2 from block {config.parallel_start} on" if config.lanes == 2 else "1",
        "LN scale": "1/sqrt(l+1)" if config.ln_scale else "1",
        "layers with XSA": ", ".join(map(str, range(layers - config.xsa_last_n, layers))) or "none",
        "value embedding": f"{config.ve_dim} in {list(config.ve_layers)}" if config.ve_dim else "none",
        "matrices at the start": config.init,
        "norm epsilon": f"2^{math.log2(config.norm_eps):g}" if config.norm_eps else "0",
        "parameters": f"{num_parameters(config):,}",
    }


def wiring(config: recipe.Model) -> pd.DataFrame:
    """What each layer receives and which switches it has, in the order in which they run, those of a loop several
    times: half, skip_from (which row's output, counted from 0; -1 for none), ln_scale, xsa."""
    first, second = layer_order(config)
    layers, places, encoder = np.array(first + second), np.arange(len(first + second)), len(first)
    source = 2 * encoder - 1 - places  # last in, first out: decoder row j pops encoder row E - 1 - j
    return pd.DataFrame({
        "half": np.where(places < encoder, "encoder", "decoder"),
        "skip_from": np.where((places >= encoder) & (source >= 0), source, -1),
        "ln_scale": 1 / np.sqrt(layers + 1) if config.ln_scale else np.ones(len(layers)),
        "xsa": layers >= config.num_layers - config.xsa_last_n,
    }, index=layers).rename_axis("layer")  # fmt: skip


def on_grids(quant: recipe.Quant) -> recipe.Quant:
    """The same settings with quant.kind = grid: what named grids would do where a recipe has steps."""
    return dataclasses.replace(quant, kind="grid", target_bytes=0)


def size_estimate(config: recipe.Model, quant: recipe.Quant) -> dict[str, int]:
    """Bytes by grid family, and of the row scales, if every code took log2(number of codes) bits: a bound for the
    packed file, as far as trained codes are unevenly used. Gradient allocation counts as six bits."""
    shapes, sizes = parameter_shapes(config), defaultdict[str, float](float)
    for name, grid_name in grid_names_for(shapes, on_grids(quant), bits={}).items():
        grid, shape = GRIDS.get(grid_name), shapes[name]
        if grid:
            sizes["scales"] += 2 * shape[0]
        bits = math.log2(len(codes_of(grid))) if grid else 16
        sizes[grid_name.split("_")[0]] += math.prod(shape) * bits / 8
    return {family: math.ceil(size) for family, size in sizes.items()}


def codes_of(grid: Grid) -> np.ndarray:
    """The codes a grid can use, int64, ascending: all of its range, or the multiples of its step and the ends."""
    codes = np.arange(grid.qmin, grid.qmax + 1)
    return np.union1d(codes[codes % grid.step == 0], [grid.qmin, grid.qmax])


def size_alternatives(config: recipe.Model, quant: recipe.Quant) -> dict[str, dict[str, int]]:
    """`size_estimate` of the recipe's grids, and of every matrix above the size threshold at fp16, int8 and int6,
    without exceptions. Every row has all parts, in one order: int5, int6, …, scales."""
    plain = dataclasses.replace(quant, allocation="fixed", exceptions=())
    rows = {}
    for label, grid in (("all fp16", "fp16"), ("matrices int8", "int8_row_clip"), ("matrices int6", "int6_row")):
        every = dataclasses.replace(plain, attention=grid, mlp=grid, tok_emb=grid, other=grid)
        rows[label] = size_estimate(config, every)
    rows["this recipe"] = size_estimate(config, quant)
    parts = sorted({part for row in rows.values() for part in row}, key=lambda part: (not part.startswith("int"), part))
    return {label: {part: row.get(part, 0) for part in parts} for label, row in rows.items()}


def initial_sizes(config: recipe.Model) -> dict[str, float]:
    """Root mean squares at initialisation, in expectation: the first stream, and the last state after its norm.

    A norm maps a vector of mean square m to one of m / (m + eps): to nearly one while eps is small against m, which for
    embeddings of variance 2.5e-5 it is at 2^-23 and is not at the 2^-7 of torch 2.4 with bfloat16. A smear gate at one
    half mixes two unrelated vectors and halves the mean square.
    """
    embedded, eps = config.embed_init_std**2 / (2 if config.smear == "before" else 1), config.norm_eps
    first = embedded / (embedded + eps) / (2 if config.smear == "after" else 1)
    skips = 0 if config.skip_gates else len(layer_order(config)[0])  # a gate blends equal streams
    last = (1 + skips) ** 2 * first  # every skip adds the same stream once more
    return {"first stream": math.sqrt(first), "last state": math.sqrt(last / (last + eps))}


def expected_initial_loss(config: recipe.Model) -> float:
    """Nats per token at initialisation, to first order, for targets unrelated to what went in.

    Every block adds zero then: the last state is the normalised embedding, under a smear gate of this token and the one
    before in equal parts. Its root mean square f is one but for the norm's epsilon (`initial_sizes`). Those tokens'
    tied rows get the logit a = f s C / sqrt(2) (or f s C), s the embedding's standard deviation; all others are N(0,
    f^2 s^2 C). Holds for s^2 C << 1."""
    mixed = 2 if config.smear in ("before", "after") else 1  # the window's lambda starts at zero
    spread = initial_sizes(config)["last state"] * config.embed_init_std
    own = spread * config.model_dim / math.sqrt(mixed)
    own = config.logit_softcap * math.tanh(own / config.logit_softcap)
    others = (config.vocab_size - mixed) * math.exp(spread**2 * config.model_dim / 2)
    return math.log(others + mixed * math.exp(own))


@torch.no_grad()
def woken(model: GPT) -> GPT:
    """A copy whose zero matrices are filled, so that attention and MLP reach the output: output projections orthogonal,
    the bigram table with N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    model = copy.deepcopy(model)
    for block in blocks_of(model):
        for weight in (block.attn.proj.weight, block.mlp.proj.weight):
            weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape), generator=generator))
    if model.bigram is not None:
        table = model.bigram.embed.weight
        table.copy_(torch.randn(table.shape, generator=generator))
    return model


@torch.no_grad()
def matched(model: GPT) -> GPT:
    """A copy whose query projections are their group's key projections, so that a token seeks its like: before training
    the two are unrelated, and distance has nothing to weaken."""
    model = copy.deepcopy(model)
    for attn in (block.attn for block in blocks_of(model)):
        keys = attn.c_k.weight.unflatten(0, (attn.kv_heads, -1))
        attn.c_q.weight.copy_(keys.repeat_interleave(attn.heads // attn.kv_heads, dim=0).flatten(0, 1))
    return model


def blocks_of(model: GPT) -> list[Block]:
    """The network's blocks, for what reads types."""
    return [cast(Block, block) for block in model.blocks]


def _inputs_of(model: GPT, ids: Tensor, layer: int) -> tuple[Block, Tensor]:
    """A layer and what its attention reads, [B, T, C]; of a layer in a loop, in its first pass."""
    block, (first, second) = blocks_of(model)[layer], layer_order(model.config, model.looping)
    return block, block.normed(block.mix(*model.trunk(ids, stop=(first + second).index(layer))))


def bigram_collisions(tokens: np.ndarray, rows: int) -> dict[str, float]:
    """How pairs of neighbouring tokens share the hashed table: distinct pairs, rows used, pairs per used row, and the
    share of occurrences whose pair is the most frequent one of its row."""
    pairs, counts = np.unique(tokens[:-1].astype(np.int64) << 32 | tokens[1:], return_counts=True)
    hashed = ((BIGRAM_HASH[0] * (pairs & 0xFFFFFFFF)) ^ (BIGRAM_HASH[1] * (pairs >> 32))) % (rows - 1)
    largest = pd.Series(counts).groupby(hashed).max()
    return {
        "distinct pairs": len(pairs),
        "rows used": len(largest),
        "pairs per used row": len(pairs) / len(largest),
        "share of its row's most frequent pair": float(largest.sum() / counts.sum()),
    }


@torch.no_grad()
def first_changed_position(model: GPT, ids: Tensor, position: int) -> int:
    """The first position at which any bit of any logit changes (T if none does) when token `position` of ids [B, T]
    does; a causal model gives `position`."""
    other = ids.clone()
    other[:, position] = (other[:, position] + 1) % model.config.vocab_size
    changed = (model.logits(ids) != model.logits(other)).any(-1).any(0).nonzero()
    return int(changed[0]) if len(changed) else ids.size(1)


@torch.no_grad()
def attention_maps(model: GPT, ids: Tensor, layer: int, gain: float | None = None, rotary: bool = True) -> Tensor:
    """Softmax weights [B, H, T, T] of one layer, float32, the future NaN; of one `gain` for all heads, or unrotated."""
    block, inputs = _inputs_of(model, ids, layer)
    cos, sin = model.rotary(ids.size(1), ids.device)
    if not rotary:
        cos, sin = torch.ones_like(cos), torch.zeros_like(sin)
    q, k = block.attn.queries_and_keys(inputs, cos, sin)
    if gain is not None:
        plain = rms_norm(block.attn.c_q(inputs).unflatten(-1, (block.attn.heads, -1)), block.attn.eps)
        q = gain * rotate(plain, cos, sin)
    k = k.repeat_interleave(q.size(2) // k.size(2), dim=2)
    scores = torch.einsum("bthd,bshd->bhts", q.float(), k.float()) / math.sqrt(q.size(-1))
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1).masked_fill(future, math.nan)


def attention_statistics(maps: Tensor) -> dict[str, float]:
    """Means over sequences, heads and the second half of the positions of maps [B, H, T, T], T at least 2: the
    effective number of positions attended to (exp of the entropy in nats), the weight on the position itself and on the
    one before, and the distance looked back, in tokens."""
    length = maps.size(-1)
    late = maps.nan_to_num(0.0)[:, :, length // 2 :]
    row = torch.arange(len(late[0, 0]), device=maps.device)
    query = row + length // 2
    back = (query[:, None] - torch.arange(length, device=maps.device)).clamp(min=0)
    return {
        "effective positions": torch.special.entr(late).sum(-1).exp().mean().item(),
        "weight on itself": late[..., row, query].mean().item(),
        "weight on the one before": late[..., row, query - 1].mean().item(),
        "tokens looked back": (late * back).sum(-1).mean().item(),
    }


@torch.no_grad()
def attended(model: GPT, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """What a layer's heads read, y [B, T, H, D] before any exclusion, and the values v [B, T, K, D]."""
    block, inputs = _inputs_of(model, ids, layer)
    v = block.attn.c_v(inputs)
    if model.ve is not None and layer in model.config.ve_layers:
        v = v + model.ve_scales[layer] * model.ve(ids, v.dtype)
    v = v.unflatten(-1, (block.attn.kv_heads, -1))
    q, k = block.attn.queries_and_keys(inputs, *model.rotary(ids.size(1), ids.device))
    return causal_attention(q, k, v), v


def exclusion_table(y: Tensor, v: Tensor) -> pd.DataFrame:
    """Exclusive self-attention on y [B, T, H, D], v [B, T, K, D]: a head's output along its own value, before and
    after, and the norm left, relative to the norm before; means over sequences, heads and bands of positions."""
    unit = F.normalize(v.float(), dim=-1, eps=1e-12).repeat_interleave(y.size(2) // v.size(2), dim=2)
    before, after = y.float(), exclude_self(y, v).float()
    sizes = {
        "along own value, before": (before * unit).sum(-1).abs(),
        "along own value, after": (after * unit).sum(-1).abs(),
        "norm left": after.norm(dim=-1),
    }
    whole = before.norm(dim=-1).clamp(min=1e-12)
    table = pd.DataFrame({name: (size / whole).mean((0, 2)).cpu().numpy() for name, size in sizes.items()})
    labels = ["first position", "1 to 7", "8 to 63", "64 and on"]
    bands = pd.cut(table.index, [-1, 0, 7, 63, math.inf], labels=labels)
    return table.groupby(bands, observed=True).mean().rename_axis("positions")


@torch.no_grad()
def residual_profile(model: GPT, ids: Tensor) -> pd.DataFrame:
    """Root mean squares on ids [B, T], by place in the order in which blocks run (a loop's more than once): the stream
    that enters (skip added), what attention and MLP add to it, and the stream that leaves. Of two lanes attention's
    enters, and the mean of both leaves the last block; NaN leaves the others."""
    seen: dict[nn.Module, list[tuple[Any, Any]]] = defaultdict(list)
    with register_module_forward_hook(lambda module, inputs, output: seen[module].append((inputs, output))):
        last, _ = model.trunk(ids)
    rows, (first, second) = [], layer_order(model.config, model.looping)
    for place, layer in enumerate(first + second):
        block, enters = blocks_of(model)[layer], model.trunk(ids, stop=place)[0]
        leaves = (
            seen[block].pop(0)[1] if seen[block] else last if block is model.blocks[-1] else enters.new_tensor(math.nan)
        )
        added = block.attn_scale * seen[block.attn].pop(0)[1], block.mlp_scale * seen[block.mlp].pop(0)[1]
        rows.append([x.float().square().mean().sqrt().item() for x in (enters, *added, leaves)])
    table = pd.DataFrame(rows, columns=["enters", "attention adds", "MLP adds", "leaves"])
    return table.rename_axis("place")


def base_in_force(config: recipe.Model, num_tokens: int) -> float:
    """The rotary base of a network in sequences of this length, stretched where the recipe says so."""
    return rotary_base(num_tokens, config.rope_dims, config.rope_base, config.rope_reference_tokens)


def wavelengths(config: recipe.Model, num_tokens: int) -> np.ndarray:
    """Tokens per full turn of each rotated pair, float64 [R/2], in sequences of this length: 2 pi base^(2j/R)."""
    base = base_in_force(config, num_tokens)
    return 2 * math.pi * base ** (np.arange(0, config.rope_dims, 2) / config.rope_dims)


def distance_kernel(config: recipe.Model, num_tokens: int, distances: np.ndarray) -> np.ndarray:
    """What distance alone does to a score: the mean cosine between a vector of equal entries and itself rotated by so
    many positions, float64. Unrotated dimensions add their share at any distance: 1 is no effect at all."""
    head_dim = config.model_dim // config.num_heads
    angles = 2 * math.pi * np.asarray(distances)[:, None] / wavelengths(config, num_tokens)
    return (2 * np.cos(angles).sum(1) + head_dim - config.rope_dims) / head_dim
