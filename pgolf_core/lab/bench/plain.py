"""The plainest correct training step: what the fast code is measured against, and tested against.

Written from the papers alone (papers/records, papers/machinery.md), one operation after another: eager, attention as an
explicit softmax over the whole masked matrix, Newton-Schulz one matrix at a time, every optimiser a loop over tensors.
Only what is not measured is shared with the core: initial weights, the table of parameter groups, which tokens come
next.

Legend: B sequences, T positions, C model width, H query heads, K kv heads, D head width, V vocabulary.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pgolf_core.base.device import autocasting, compute_dtype
from pgolf_core.network.model import build_model
from pgolf_core.recipes.recipe import Model, Recipe
from pgolf_core.text.shards import TokenStream, step_batch
from pgolf_core.training.optim import muon_momentum, parameter_groups
from pgolf_core.training.polar import POLAR_EXPRESS

Weights = dict[str, Tensor]

# ---------------------------------------------------------------------- the network


def _norm(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), eps=eps).to(x.dtype)


def _before(x: Tensor) -> Tensor:
    """Each position's predecessor in x [B, T, C], zero for the first."""
    return torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), dim=1)


def _smear(x: Tensor, gate: Tensor) -> Tensor:
    g = torch.sigmoid(gate).to(x.dtype)
    return (1 - g) * x + g * _before(x)


def _gate(w: Weights, name: str, x: Tensor) -> Tensor:
    """What a gate's sigmoid is of: x [B, T, C] -> [B, T, gates], by its first channels."""
    weight = w[name].to(x.dtype)
    return F.linear(x[:, :, : weight.size(1)], weight)


def _first_stream(w: Weights, config: Model, ids: Tensor) -> Tensor:
    """ids [B, T] -> [B, T, C]: tokens, hashed pairs, norm and smear."""
    x = F.embedding(ids, w["tok_emb.weight"])
    dtype = compute_dtype(x)
    x = x.to(dtype)
    if config.bigram_rows:
        rows = torch.full_like(ids, config.bigram_rows - 1)
        rows[:, 1:] = ((36313 * ids[:, 1:]) ^ (27191 * ids[:, :-1])) % (config.bigram_rows - 1)
        pairs = F.linear(F.embedding(rows, w["bigram.embed.weight"]).to(dtype), w["bigram.proj.weight"].to(dtype))
        x = x + w["bigram.scale"].to(dtype) * pairs
    if config.smear == "window":
        gate = w["smear_lambda"].to(dtype) * torch.sigmoid(_gate(w, "smear_gate.weight", x))
        gate = torch.where((ids == 1)[:, :, None] & config.smear_bos_mask, 0.0, gate)
        x = x + gate * _before(x)
    if config.smear == "before":
        return _norm(_smear(x, w["smear.gate"]), config.norm_eps)
    x = _norm(x, config.norm_eps)
    return _smear(x, w["smear.gate"]) if config.smear == "after" else x


def _rotated(x: Tensor, config: Model) -> Tensor:
    """x [B, T, heads, D], its first rope_dims dimensions turned by position, half-split."""
    length, dims, base = x.size(1), config.rope_dims, config.rope_base
    if config.rope_reference_tokens and length > config.rope_reference_tokens:
        base *= (length / config.rope_reference_tokens) ** (dims / (dims - 2))
    frequencies = base ** (-torch.arange(0, dims, 2, device=x.device) / dims)
    angles = torch.arange(length, device=x.device)[:, None, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    x1, x2, rest = x[..., : dims // 2], x[..., dims // 2 : dims], x[..., dims:]
    return torch.cat((x1 * cos + x2 * sin, -x1 * sin + x2 * cos, rest), dim=-1)


def _hidden(ids: Tensor, starts: Tensor | None) -> Tensor:
    """What a position of ids [B, T] may not see, [B, 1, T, T]: what comes later, and what lies in another document.

    `starts` as network.documents takes them; None: each row is one document.
    """
    documents = torch.zeros_like(ids).flatten()
    for start in [] if starts is None else starts.tolist():
        documents[start:] += 1
    documents = documents.view_as(ids)
    others = documents[:, :, None] != documents[:, None, :]
    return (others | torch.ones_like(others).triu(1))[:, None]


def _attention(w: Weights, config: Model, layer: int, x: Tensor, value: Tensor | None, hidden: Tensor) -> Tensor:
    """x [B, T, C] -> [B, T, C], every query against every key, what it may not see masked."""
    own, heads, kv_heads = f"blocks.{layer}.attn.", config.num_heads, config.num_kv_heads
    q, k, v = (F.linear(x, w[f"{own}{name}.weight"].to(x.dtype)) for name in ("c_q", "c_k", "c_v"))
    if value is not None:
        v = v + value
    q, k, v = q.unflatten(-1, (heads, -1)), k.unflatten(-1, (kv_heads, -1)), v.unflatten(-1, (kv_heads, -1))
    q = _rotated(_norm(q, config.norm_eps), config) * w[f"{own}q_gain"].to(x.dtype)[:, None]
    k = _rotated(_norm(k, config.norm_eps), config)
    k, v = (tensor.repeat_interleave(heads // kv_heads, dim=2) for tensor in (k, v))
    q, k, heads_first_v = (tensor.transpose(1, 2) for tensor in (q, k, v))  # [B, H, T, D]
    scores = q @ k.mT / math.sqrt(q.size(-1))
    weights = scores.masked_fill(hidden, -math.inf).softmax(-1).to(x.dtype)
    y = (weights @ heads_first_v).transpose(1, 2)
    if layer >= config.num_layers - config.xsa_last_n:
        unit = v.float() / v.float().norm(dim=-1, keepdim=True).clamp_min(1e-12)
        y = (y.float() - (y.float() * unit).sum(-1, keepdim=True) * unit).to(x.dtype)
    if config.attn_gate == "sparse":
        y = y * torch.sigmoid(config.attn_gate_scale * _gate(w, f"{own}attn_gate_w", x))[..., None]
    return F.linear(y.flatten(2), w[f"{own}proj.weight"].to(x.dtype))


def _mlp(w: Weights, config: Model, layer: int, x: Tensor) -> Tensor:
    own, shrink = f"blocks.{layer}.", 1 / math.sqrt(layer + 1) if config.ln_scale else 1.0
    units = F.linear(shrink * _norm(x, config.norm_eps), w[f"{own}mlp.fc.weight"].to(x.dtype))
    units = torch.where(units < 0, config.negative_slope * units, units)
    return w[f"{own}mlp_scale"].to(x.dtype) * F.linear(units**2, w[f"{own}mlp.proj.weight"].to(x.dtype))


def _block(w: Weights, config: Model, layer: int, lanes: list[Tensor], x0: Tensor, *where: Any) -> list[Tensor]:
    """One residual stream, or two, after a block; `where`: what attention takes further."""
    own, x = f"blocks.{layer}.", lanes[0]
    shrink = 1 / math.sqrt(layer + 1) if config.ln_scale else 1.0
    mix = w[f"{own}resid_mix"].to(x.dtype)
    mixed = mix[0] * x + mix[1] * x0
    heads = _attention(w, config, layer, shrink * _norm(mixed, config.norm_eps), *where)
    heads = w[f"{own}attn_scale"].to(x.dtype) * heads
    if len(lanes) == 2:
        post, resid = w["parallel_post_lambdas"][layer].to(x.dtype), w["parallel_resid_lambdas"][layer].to(x.dtype)
        added = torch.stack((heads, _mlp(w, config, layer, lanes[1])))
        return [resid[lane] * lanes[lane] + torch.einsum("s,sbtc->btc", post[:, lane], added) for lane in (0, 1)]
    x = mixed + heads
    return [x + _mlp(w, config, layer, mixed if 0 <= config.parallel_start <= layer else x)]


def plain_logits(w: Weights, config: Model, ids: Tensor, starts: Tensor | None = None) -> Tensor:
    """Soft-capped float32 logits [B, T, V] of int64 ids [B, T]; `w` as GPT.named_parameters() names them.

    A loop is on. `starts` of documents, in which attention then stays, as network.documents takes them.
    """
    x0 = _first_stream(w, config, ids)
    lanes, hidden = [x0], _hidden(ids, starts)
    value = None
    if config.ve_dim:
        value = F.linear(F.embedding(ids, w["ve.embed.weight"]).to(x0.dtype), w["ve.proj.weight"].to(x0.dtype))
    looped = range(config.loop_start, config.loop_end + 1)
    order = [*range(looped.stop), *(list(looped) * config.num_loops), *range(looped.stop, config.num_layers)]
    encoder, kept = len(order) // 2, list[Tensor]()
    for place, layer in enumerate(order):
        if config.lanes == 2 and layer == config.parallel_start:
            lanes = [*lanes, *lanes]
        x = lanes[0]
        if place >= encoder and kept:
            skip = w["skip_weights"][place - encoder].to(x.dtype) * kept.pop()
            if config.skip_gates:
                gate = torch.sigmoid(w["skip_gates"][place - encoder]).to(x.dtype)
                x = gate * x + (1 - gate) * skip
            else:
                x = x + skip
        added = w["ve_scales"][layer].to(x.dtype) * value if value is not None and layer in config.ve_layers else None
        lanes = _block(w, config, layer, [x, *lanes[1:]], x0, added, hidden)
        if place < encoder:
            kept.append(lanes[0])
    x = torch.stack(lanes).mean(0)
    logits = F.linear(_norm(x, config.norm_eps), w["tok_emb.weight"].to(x.dtype)).float()
    cap = torch.tensor(config.logit_softcap)
    if config.softcaps == "two":
        cap = torch.where(logits < 0, w["softcap_neg"], w["softcap_pos"])
    return cap * torch.tanh(logits / cap)


# ---------------------------------------------------------------------- rounding


def plain_rounding_in_turn(w: Tensor, hessian: Tensor, scale: Tensor, top: int, damping: float) -> Tensor:
    """Codes int8 of w [rows, cols] as PR 1493 gets them: all in single precision, by the inverse's factor and in blocks
    of 128 columns, those of the largest inputs first. `scale` [rows] is float16, codes go up to `top`."""
    h, left, divisor = hessian.clone(), w.clone(), scale.float()
    dead = h.diagonal() == 0
    h[dead, dead] = 1
    left[:, dead] = 0
    h.diagonal().add_(damping * h.diagonal().mean())
    order = h.diagonal().argsort(descending=True)
    left, h = left[:, order], h[order][:, order]
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    codes = torch.zeros_like(left, dtype=torch.int8)
    for start in range(0, left.size(1), 128):
        block, here = left[:, start : start + 128].clone(), upper[start : start + 128, start : start + 128]
        errors = torch.zeros_like(block)
        for i in range(block.size(1)):
            code = (block[:, i] / divisor).round().clamp(-top, top)
            codes[:, start + i] = code.to(torch.int8)
            errors[:, i] = (block[:, i] - code * divisor) / here[i, i]
            block[:, i:] -= errors[:, i : i + 1] * here[i, i:]
        left[:, start + 128 :] -= errors @ upper[start : start + 128, start + 128 :]
    return codes[:, order.argsort()]


# ---------------------------------------------------------------------- the step


def plain_newton_schulz(gradient: Tensor, steps: int, dtype: torch.dtype, coefficients: str = "quintic") -> Tensor:
    """One matrix [rows, cols], orthogonalised as published: X <- aX + (bA + cA^2)X with A = XX^T, `steps` times."""
    each = [(3.4445, -4.7750, 2.0315)] * steps
    if coefficients == "polar_express":
        each = [*POLAR_EXPRESS[:steps], *POLAR_EXPRESS[-1:] * (steps - len(POLAR_EXPRESS))]
    x = gradient.to(dtype)
    x = x / (x.norm() + 1e-7)
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    for a, b, c in each:
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


class PlainStep:
    """A model's training step by step, at the full learning rate; `step()` is all micro-batches and one update.

    Starts from the same weights and takes the same tokens as a Trainer of the same recipe and seed. Late or constant
    QAT and SWA are left out: a benchmark needs neither.
    """

    def __init__(self, recipe: Recipe, seed: int, stream: TokenStream, device: torch.device):
        self.recipe, self.stream, self.device, self.steps = recipe, stream, device, 0
        model = build_model(recipe.model, seed)
        self.weights = {name: p.detach().clone().to(device) for name, p in model.named_parameters()}
        self.momenta: Weights = {}
        adamw, dtype = list[dict[str, Any]](), getattr(torch, recipe.optim.muon_dtype)
        for group in parameter_groups(self.weights, recipe.optim):
            own = {name: self.weights[name].requires_grad_(group.optimizer != "frozen") for name in group.parameters}
            if group.optimizer == "muon":
                self.momenta |= {name: torch.zeros_like(w, dtype=dtype) for name, w in own.items()}
            if group.optimizer == "adamw":
                rates = {"lr": group.lr, "betas": group.betas, "weight_decay": group.weight_decay}
                adamw.append({"params": list(own.values()), **rates})
        self.adamw = torch.optim.AdamW(adamw, eps=recipe.optim.adam_eps, foreach=False, fused=False)
        ema = recipe.average.kind == "ema"
        self.average = {name: w.detach().clone() for name, w in self.weights.items()} if ema else {}

    def step(self) -> float:
        """Forward and backward, then one update; returns the loss in nats."""
        loss = self.forward_backward(*step_batch(self.stream, self.recipe.data))
        if self.recipe.optim.grad_clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.optim.grad_clip_norm, foreach=False)
        self.muon_step(muon_momentum(self.steps, self.recipe.optim))
        self.adamw.step()
        for weight in self.weights.values():
            weight.grad = None
        for name, average in self.average.items():
            average.lerp_(self.weights[name].detach(), 1 - self.recipe.average.ema_decay)
        self.steps += 1
        return loss

    def forward_backward(self, inputs: Tensor, targets: Tensor) -> float:
        """Gradients of the mean loss over int64 [B, T], a micro-batch after another; returns that loss."""
        total, size = 0.0, self.recipe.data.micro_batch_seqs
        for x, y in zip(inputs.split(size), targets.split(size), strict=True):
            x, y = x.to(self.device), y.to(self.device)
            with autocasting(self.device, self.recipe.schedule.autocast):
                logits = plain_logits(self.weights, self.recipe.model, x)
                loss = F.cross_entropy(logits.flatten(0, 1), y.flatten()) * (len(x) / len(inputs))
            loss.backward()
            total += loss.item()
        return total

    @torch.no_grad()
    def muon_step(self, momentum: float) -> None:
        """Muon (papers/machinery.md), one matrix after another."""
        optim = self.recipe.optim
        dtype, lr = getattr(torch, optim.newton_schulz_dtype), optim.matrix_lr
        for name, buffer in self.momenta.items():
            weight = self.weights[name]
            assert weight.grad is not None
            gradient = weight.grad.to(buffer.dtype)
            buffer.mul_(momentum).add_(gradient)
            nesterov = gradient.add(buffer, alpha=momentum)
            if optim.muon_row_normalise:
                nesterov = nesterov / nesterov.float().norm(dim=1, keepdim=True).clamp_min(1e-7).to(nesterov.dtype)
            update = plain_newton_schulz(nesterov, optim.newton_schulz_steps, dtype, optim.muon_coefficients)
            if optim.muon_wd_order == "before":
                weight.mul_(1 - lr * optim.muon_wd)
            weight.sub_(lr * math.sqrt(max(1.0, weight.size(0) / weight.size(1))) * update.float())
            if optim.muon_wd_order == "after":
                weight.mul_(1 - lr * optim.muon_wd)
