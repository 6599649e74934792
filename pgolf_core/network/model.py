"""The GPT of the records, for any shape, and its initialisation.

Legend: B sequences, T positions, C model width, H query heads, K kv heads, D head width, V vocabulary.
State-dict keys are canonical: `tok_emb.weight`, `blocks.<l>.attn.c_q.weight`, and so on (papers/machinery.md).
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgolf_core.base.device import compute_dtype, one_thread
from pgolf_core.network.attention import causal_attention, exclude_self, later, rotary_tables, rotate
from pgolf_core.network.documents import document_attention
from pgolf_core.network.gates import add_gates, gated_heads, in_lanes, signed_caps, smear_window
from pgolf_core.network.grid import Grid, fake_quantise
from pgolf_core.network.head import CappedLoss
from pgolf_core.recipes.recipe import Model

BIGRAM_HASH = (36313, 27191)
Documents = tuple[Tensor, int] | None
"""Where documents start in the flattened batch, and the longest one's tokens at most; None: each row is one."""


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dim, no weight, in x's dtype (torch 2.12+ returns float32 on CUDA)."""
    return F.rms_norm(x, (x.size(-1),), eps=eps).to(x.dtype)


class Linear(nn.Module):
    """x W^T without bias; W [out, in] is float32 and is cast to x's dtype. `grid` turns on fake quantisation."""

    def __init__(self, out_features: int, in_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.grid: Grid | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        weight = self.weight if self.grid is None or not self.training else fake_quantise(self.weight, self.grid)
        return F.linear(x, weight.to(x.dtype))


class SmearGate(nn.Module):
    """Mix each position with its predecessor, per dimension: (1-g) x_t + g x_{t-1}, g = sigmoid(gate) (PR 194)."""

    def __init__(self, model_dim: int):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(model_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> [B, T, C]; the first position's predecessor is zero."""
        g = torch.sigmoid(self.gate).to(x.dtype)
        previous = F.pad(x[:, :-1], (0, 0, 1, 0))
        return (1 - g) * x + g * previous


class Table(nn.Embedding):
    """An embedding, left unfilled on the meta device: to fill one there, torch imports its compiler for a second."""

    def reset_parameters(self) -> None:
        """Fill the rows as torch does."""
        if not self.weight.is_meta:
            super().reset_parameters()


class ProjectedTable(nn.Module):
    """A narrow table, projected to a width; by token, it is the value embedding of a few layers (PR 534)."""

    def __init__(self, rows: int, dim: int, width: int):
        super().__init__()
        self.embed = Table(rows, dim)
        self.proj = Linear(width, dim)

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """ids [B, T] -> [B, T, width] in `dtype`."""
        return self.proj(self.embed(ids).to(dtype))


class BigramEmbedding(ProjectedTable):
    """Hashed table of token pairs, projected to the model width (PR 315)."""

    def __init__(self, rows: int, dim: int, model_dim: int):
        super().__init__(rows, dim, model_dim)
        self.scale = nn.Parameter(torch.tensor(0.05))

    def index(self, ids: Tensor) -> Tensor:
        """Row of each pair (t-1, t), int64 [B, T]; the first position has the last row to itself."""
        rows = self.embed.num_embeddings
        current, previous = ids[:, 1:].long(), ids[:, :-1].long()
        hashed = ((BIGRAM_HASH[0] * current) ^ (BIGRAM_HASH[1] * previous)) % (rows - 1)
        return F.pad(hashed, (1, 0), value=rows - 1)

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """ids [B, T] -> [B, T, C] in `dtype`."""
        return self.scale.to(dtype) * super().forward(self.index(ids), dtype)


class Attention(nn.Module):
    """Grouped-query causal attention with normalised q and k, per-head query gain, optional XSA."""

    def __init__(self, config: Model, exclusive: bool):
        super().__init__()
        head_dim = config.model_dim // config.num_heads
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.eps, self.exclusive = config.norm_eps, exclusive
        self.c_q = Linear(config.model_dim, config.model_dim)
        self.c_k = Linear(config.num_kv_heads * head_dim, config.model_dim)
        self.c_v = Linear(config.num_kv_heads * head_dim, config.model_dim)
        self.proj = Linear(config.model_dim, config.model_dim)
        self.q_gain = nn.Parameter(torch.full((config.num_heads,), config.qk_gain_init))
        self.attn_gate_w: Tensor | None = None
        self.gate_scale = config.attn_gate_scale

    def queries_and_keys(self, x: Tensor, cos: Tensor, sin: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """x [B, T, C] -> q [B, T-first, H, D], k [B, T, K, D]: normalised, rotated, q scaled by its gain."""
        q = self.c_q(later(x, first)).unflatten(-1, (self.heads, -1))
        k = self.c_k(x).unflatten(-1, (self.kv_heads, -1))
        q = rotate(rms_norm(q, self.eps), later(cos, first, 0), later(sin, first, 0)) * self.q_gain.to(x.dtype)[:, None]
        return q, rotate(rms_norm(k, self.eps), cos, sin)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, value: Tensor | None, documents: Documents = None, first: int = 0
    ) -> Tensor:
        """x [B, T, C], optional value embedding [B, T, K*D] added to v -> [B, T-first, C], of positions `first`.. ."""
        q, k = self.queries_and_keys(x, cos, sin, first)
        v = self.c_v(x)
        v = (v if value is None else v + value).unflatten(-1, (self.kv_heads, -1))
        y = causal_attention(q, k, v) if documents is None else document_attention(q, k, v, *documents)
        if self.exclusive:
            y = exclude_self(y, later(v, first))
        if self.attn_gate_w is not None:
            y = gated_heads(y, later(x, first), self.attn_gate_w, self.gate_scale)
        return self.proj(y.flatten(2))


class MLP(nn.Module):
    """proj(relu(fc(x))^2), or of a leaky ReLU (PR 1493): the square loses the sign, a negative h gives slope^2 h^2."""

    def __init__(self, config: Model):
        super().__init__()
        self.slope = config.negative_slope
        self.fc = Linear(config.mlp_hidden, config.model_dim)
        self.proj = Linear(config.model_dim, config.mlp_hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> [B, T, C]."""
        hidden = F.leaky_relu(self.fc(x), self.slope) if self.slope else F.relu(self.fc(x))
        return self.proj(hidden * hidden)  # CUDA's autocast would compute square() in float32, and keep that


class Block(nn.Module):
    """Residual mix with the input stream, then attention and MLP, each scaled per dimension."""

    def __init__(self, config: Model, layer: int):
        super().__init__()
        dim = config.model_dim
        self.eps = config.norm_eps
        self.input_scale = 1 / math.sqrt(layer + 1) if config.ln_scale else 1.0
        self.parallel = 0 <= config.parallel_start <= layer
        self.attn = Attention(config, exclusive=layer >= config.num_layers - config.xsa_last_n)
        self.mlp = MLP(config)
        self.attn_scale = nn.Parameter(torch.ones(dim))
        self.mlp_scale = nn.Parameter(torch.ones(dim))
        self.resid_mix = nn.Parameter(torch.ones(2, dim))
        self.resid_mix.data.narrow(0, 1, 1).zero_()  # no indexing: a tensor without data has none on CUDA

    def mix(self, x: Tensor, x0: Tensor) -> Tensor:
        """The block's input: learned per-dimension mixture of the stream and the first embedding."""
        a, b = self.resid_mix.to(x.dtype)
        return a * x + b * x0

    def normed(self, x: Tensor) -> Tensor:
        """Normalised, layer-scaled input of a sub-layer (LN scale, PR 315)."""
        return rms_norm(x, self.eps) * self.input_scale

    def attended(self, mixed: Tensor, *where: Tensor | Documents, first: int = 0) -> Tensor:
        """What attention adds to a stream [B, T, C] that it reads `mixed`."""
        return self.attn_scale.to(mixed.dtype) * self.attn(self.normed(mixed), *where, first=first)

    def thought(self, x: Tensor) -> Tensor:
        """What the MLP adds to a stream [B, T, C] that it reads."""
        return self.mlp_scale.to(x.dtype) * self.mlp(self.normed(x))

    def forward(self, x: Tensor, x0: Tensor, *where: Tensor | Documents, first: int = 0) -> Tensor:
        """x, x0 [B, T, C] -> [B, T-first, C]; a parallel block's MLP reads what its attention read (PR 1493).

        `where` is what attention takes further: rotary tables, value embedding, documents.
        """
        mixed = self.mix(x, x0)
        attended = self.attended(mixed, *where, first=first)
        mixed = later(mixed, first)
        x = mixed + attended
        return x + self.thought(mixed if self.parallel else x)


def layer_order(config: Model, looping: bool = True) -> tuple[list[int], list[int]]:
    """0-based blocks in the order in which they run: (encoder, decoder), the encoder's outputs being the skips.

    The blocks of the loop stand there num_loops + 1 times in a row if it is on, and the whole is cut in half (PR 1493).
    """
    order = list(range(config.num_layers))
    start = config.loop_start
    order[start:start] = order[start : config.loop_end + 1] * config.num_loops * looping
    half = len(order) // 2
    return order[:half], order[half:]


class GPT(nn.Module):
    """Tied-embedding decoder whose second half receives the first half's outputs as skips (U-Net wiring).

    `looping` says whether the recipe's loop is on. It always is, but in the first part of a training run.
    """

    def __init__(self, config: Model):
        super().__init__()
        self.config = config
        self.looping = True
        dim, layers = config.model_dim, config.num_layers
        self.tok_emb = Table(config.vocab_size, dim)
        self.bigram = BigramEmbedding(config.bigram_rows, config.bigram_dim, dim) if config.bigram_rows else None
        self.smear = SmearGate(dim) if config.smear in ("before", "after") else None
        rows = len(layer_order(config)[0])
        self.skip_weights = nn.Parameter(torch.ones(rows, dim))
        if config.skip_gates:
            self.skip_gates = nn.Parameter(torch.zeros(rows, dim))
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(layers))
        if config.gated:
            add_gates(self, config)
        self.ve: ProjectedTable | None = None
        if config.ve_dim:
            self.ve = ProjectedTable(config.vocab_size, config.ve_dim, config.num_kv_heads * (dim // config.num_heads))
            self.ve_scales = nn.Parameter(torch.full((layers,), 0.1))

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> the first residual stream [B, T, C]: tokens, bigrams, norm and smear in the recipe's order."""
        x = self.tok_emb(ids)
        x = x.to(compute_dtype(x))
        if self.bigram is not None:
            x = x + self.dropped(self.bigram(ids, x.dtype))
        if self.config.smear == "window":
            x = smear_window(self, x, ids)
        if self.smear is None:
            return rms_norm(x, self.config.norm_eps)
        if self.config.smear == "before":
            return rms_norm(self.smear(x), self.config.norm_eps)
        return self.smear(rms_norm(x, self.config.norm_eps))

    def dropped(self, x: Tensor) -> Tensor:
        """A table's part of the stream [B, T, C]: in training table_dropout of the positions get nothing of it."""
        share = self.config.table_dropout
        return F.dropout1d(x, share, self.training) if share else x

    def rotary(self, num_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotary tables for sequences of this length."""
        config = self.config
        return rotary_tables(num_tokens, config.rope_dims, config.rope_base, config.rope_reference_tokens, device)

    def trunk(
        self, ids: Tensor, stop: int | None = None, documents: Documents = None, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Run the first `stop` blocks of the order (all by default): the stream after them, the next one's skip added.

        Returns (x, x0), both [B, T, C]. Of two lanes x is attention's, and after all blocks the mean of both. After all
        blocks x is of positions `first`.. alone: the last block has no other queries, and no MLP elsewhere.
        """
        x = x0 = self.embed(ids)
        cos, sin = self.rotary(ids.size(1), ids.device)
        value = self.dropped(self.ve(ids, x.dtype)) if self.ve is not None else None
        encoder, decoder = layer_order(self.config, self.looping)
        skips: list[Tensor] = []
        second: Tensor | None = None
        for place, layer in enumerate(encoder + decoder):
            row = place - len(encoder)
            if self.config.lanes == 2 and layer == self.config.parallel_start:
                second = x  # the MLP's lane
            if row >= 0 and skips:
                skip = self.skip_weights[row].to(x.dtype) * skips.pop()
                gated = self.config.skip_gates  # a gate of 1 leaves x alone
                x = torch.lerp(skip, x, self.skip_gates[row].sigmoid().to(x.dtype)) if gated else x + skip
            if place == stop:
                return x, x0
            added = None
            if value is not None and layer in self.config.ve_layers:
                added = self.ve_scales[layer].to(x.dtype) * value
            from_here = first if place + 1 == len(encoder + decoder) and documents is None else 0
            if second is None:
                x = self.blocks[layer](x, x0, cos, sin, added, documents, first=from_here)
            else:
                x, second = in_lanes(self, layer, (x, second), from_here, x0, cos, sin, added, documents)
            if row < 0:
                skips.append(x)
        x = x if second is None else (x + second) / 2
        return later(x, x.size(1) - ids.size(1) + first), x0

    def logits(self, ids: Tensor, first: int = 0, segments: Tensor | None = None, longest: int = 0) -> Tensor:
        """Soft-capped float32 logits [B, T-first, V] of positions `first`.. ; earlier ones cost no head or last block.

        With `segments` attention stays inside documents: where each starts in the flattened batch, and `longest`, as
        network.documents takes them; each row's start is one of them.
        """
        return self.read(self.head_input(ids, first, segments, longest), self.tok_emb.weight)

    def read(self, z: Tensor, table: Tensor) -> Tensor:
        """Soft-capped float32 logits [..., V] of normed rows z [..., C]."""
        return self.capped(F.linear(z, table.to(z.dtype)).float())

    def head_input(self, ids: Tensor, first: int = 0, segments: Tensor | None = None, longest: int = 0) -> Tensor:
        """What the head reads, normed [B, T-first, C], of positions and documents as `logits` takes them."""
        x, _ = self.trunk(ids, documents=None if segments is None else (segments, longest), first=first)
        return rms_norm(x, self.config.norm_eps)

    def capped(self, logits: Tensor) -> Tensor:
        """c tanh(logits / c), float32 of any shape; by the sigmoid, for which compilers have shorter code on CPUs."""
        c = signed_caps(self, logits) if self.config.softcaps == "two" else self.config.logit_softcap
        return 2 * c * torch.sigmoid(2 / c * logits) - c

    def token_losses(
        self, ids: Tensor, targets: Tensor, first: int = 0, segments: Tensor | None = None, longest: int = 0
    ) -> Tensor:
        """Nats of each target from position `first` on, float32 [B, T-first]; targets [B, T-first]."""
        z = self.head_input(ids, first, segments, longest).flatten(0, 1)
        rows = 64 if z.device.type == "cpu" else len(z)  # float32 logits that stay in a core's own caches
        table, parts = self.tok_emb.weight.to(z.dtype), zip(z.split(rows), targets.flatten().split(rows), strict=True)
        losses = [F.cross_entropy(self.read(some, table), wanted, reduction="none") for some, wanted in parts]
        return torch.cat(losses).view(targets.shape)

    def forward(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None, longest: int = 0) -> Tensor:
        """Mean cross-entropy in nats (0-d float32) of targets [B, T]; documents as `logits` takes them."""
        if not (torch.compiler.is_compiling() and in_one_pass(self.config, ids.device.type)):
            return F.cross_entropy(self.logits(ids, 0, segments, longest).flatten(0, 1), targets.flatten())
        z = self.head_input(ids, 0, segments, longest).flatten(0, 1)
        loss: Tensor = CappedLoss.apply(z, self.tok_emb.weight, targets.flatten(), self.config.logit_softcap)
        return loss

    def set_fake_grids(self, grids: dict[str, Grid]) -> int:
        """Put each named weight's grid into the training forward pass (QAT); returns how many tensors it covers."""
        covered = 0
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                module.grid = grids.get(f"{name}.weight")
                covered += module.grid is not None
        return covered


def in_one_pass(config: Model, device_type: str) -> bool:
    """Whether a compiled training loss computes its gradient in the same pass over the logits (network/head.py).

    Up to a cap of 30 exp of twice it, and the sum over any vocabulary, are far inside float32 and bfloat16.
    """
    return device_type == "cpu" and config.softcaps == "one" and config.logit_softcap <= 30


def num_parameters(config: Model) -> int:
    """Exact number of parameters, without allocating them."""
    return sum(map(math.prod, parameter_shapes(config).values()))


def parameter_shapes(config: Model) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, without allocating them."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in GPT(config).named_parameters()}


def network_with(config: Model, weights: Mapping[str, Tensor]) -> GPT:
    """A network that holds these very tensors, by name: no initialisation, no copy. Names and shapes must fit."""
    with torch.device("meta"):
        model = GPT(config)
    model.load_state_dict(dict(weights), strict=True, assign=True)
    return model


@torch.no_grad()
def initialise(model: GPT) -> None:
    """Fill the weights from torch's CPU generator: output projections zero, other matrices orthogonal."""
    config = model.config
    nn.init.normal_(model.tok_emb.weight, std=config.embed_init_std)
    for block in model.blocks:
        assert isinstance(block, Block)
        for linear in (block.attn.c_q, block.attn.c_k, block.attn.c_v, block.mlp.fc):
            _init_matrix(linear.weight, config.init)
        for linear in (block.attn.proj, block.mlp.proj):
            nn.init.zeros_(linear.weight)
    if model.bigram is not None:
        nn.init.zeros_(model.bigram.embed.weight)
        _init_matrix(model.bigram.proj.weight, config.init)
        if config.init == "orthogonal":
            model.bigram.proj.weight.mul_(1 / math.sqrt(2 * config.num_layers))
    if model.ve is not None:
        nn.init.normal_(model.ve.embed.weight)
        _init_matrix(model.ve.proj.weight, "uniform")


def _init_matrix(weight: Tensor, kind: str) -> None:
    if kind == "orthogonal":
        nn.init.orthogonal_(weight)
    else:  # torch.nn.Linear's default
        nn.init.uniform_(weight, -1 / math.sqrt(weight.size(1)), 1 / math.sqrt(weight.size(1)))


def build_model(config: Model, seed: int) -> GPT:
    """A freshly initialised float32 model on the CPU; the same seed gives the same weights, with any number of threads.

    One thread fills it: with two, a matrix made orthogonal has other last bits (and takes longer).
    """
    with one_thread(), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = GPT(config)
        initialise(model)
    return model
