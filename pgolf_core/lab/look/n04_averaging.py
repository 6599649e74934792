"""What notebook 04 looks at: how an average weighs the steps, how far it is from the last weights, what rounding does.

`weights` are the parameters of a network by name, float32 tensors on the CPU. Nothing here changes a run.
"""

import copy
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from pgolf_core.base import device as machine
from pgolf_core.lab.look.n02_network import on_grids, tensor_kind
from pgolf_core.network.choice import grid_names_for
from pgolf_core.network.grid import GRIDS, Grid, dequantise, fake_quantise, grid_of, quantise_tensor
from pgolf_core.network.model import GPT
from pgolf_core.network.score import Score, batches_of, bits_per_byte, nats_in_parts
from pgolf_core.recipes import recipe
from pgolf_core.text.tokenizer import TokenBytes

Weights = Mapping[str, Tensor]
SCORING_FLOPS = {"cpu": 1.2e12, "cuda": 4e15}
"""Work that one score may cost: some ten seconds on two CPU cores and on one H100 (the FineWeb split whole)."""
FLOPS_PER_LOGIT = 1600
"""What a logit costs beside its product (soft cap, exponential, memory) in operations of a matrix product, on a CPU."""


def affordable_targets(num_targets: int, parameters: int, vocab_size: int, seq_len: int, device_type: str) -> int:
    """How many targets to score, from the split's start: all, or the whole windows that SCORING_FLOPS pays for. A rule
    of sizes, not of measured time: two machines of a kind score the same targets."""
    flops_per_target = 2 * parameters + FLOPS_PER_LOGIT * vocab_size
    windows = int(SCORING_FLOPS[device_type] / (flops_per_target * seq_len))
    return min(num_targets, max(windows, 1) * seq_len)


def bpb_of_first(score: Score, tokens: np.ndarray, token_bytes: TokenBytes, num_targets: int) -> float:
    """bpb of a score's first targets alone. A standard score's windows do not overlap, so if `num_targets` ends at one
    of them this is exactly what scoring that part would give."""
    nats = float(score.per_token_nats[:num_targets].sum(dtype=np.float64))
    return bits_per_byte(nats, token_bytes.total(tokens[: num_targets + 1]))


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some windows of the standard score, evenly spread: what many sets of weights are compared on."""

    windows: np.ndarray
    """Numbers of the windows, int64 [n]."""
    tokens: Tensor
    """int64 [n, length + 1]: a window's inputs are its first `length` tokens, its targets the last."""
    num_bytes: int
    """Bytes of all targets."""

    @property
    def num_targets(self) -> int:
        """Targets in all windows."""
        return len(self.windows) * (self.tokens.size(1) - 1)

    def bpb_of_score(self, score: Score) -> float:
        """The sample's bpb taken out of a standard score that covers it."""
        length = self.tokens.size(1) - 1
        places = self.windows[:, None] * score.seq_len + np.arange(length)
        return bits_per_byte(float(score.per_token_nats[places].sum(dtype=np.float64)), self.num_bytes)

    def bpb_of_model(self, model: GPT, batch_seqs: int, autocast: str, document_mask: bool) -> float:
        """The sample's bpb by running `model` over it, in eval mode; with the mask inside documents."""
        model.eval()
        starts = np.arange(len(self.windows)) * self.tokens.size(1)
        plan = np.stack((starts, starts, starts + self.tokens.size(1) - 1), axis=1)
        stream = self.tokens.flatten().to(next(model.parameters()).device)
        found = nats_in_parts(model, stream, batches_of(plan, batch_seqs), autocast, document_mask)
        return bits_per_byte(sum(float(nats.double().sum()) for _, nats in found), self.num_bytes)


def spread_sample(tokens: np.ndarray, token_bytes: TokenBytes, num_targets: int, seq_len: int, share: float) -> Sample:
    """About a `share` of the whole windows among the first `num_targets` targets, at least one."""
    length = min(seq_len, num_targets)
    whole = num_targets // length
    windows = np.unique(np.linspace(0, whole - 1, max(round(share * whole), 1)).round().astype(np.int64))
    rows = np.stack([tokens[start : start + length + 1] for start in windows * length]).astype(np.int64)
    sizes = token_bytes.count(tokens[:-1], tokens[1:])
    num_bytes = sum(int(sizes[start : start + length].sum()) for start in windows * length)
    return Sample(windows, torch.from_numpy(rows), num_bytes)


def paired_difference(one: Score, other: Score) -> tuple[float, float]:
    """(bpb of `one` - bpb of `other`, its standard error) on the same targets. The error is over the text, with windows
    as independent draws; it says nothing about other seeds."""
    assert (one.tokens, one.bytes, one.stride, one.seq_len) == (other.tokens, other.bytes, other.stride, other.seq_len)
    starts = np.arange(0, one.tokens, one.stride)
    nats = np.add.reduceat((one.per_token_nats - other.per_token_nats).astype(np.float64), starts)
    error = math.sqrt(len(starts)) * float(nats.std(ddof=1)) if len(starts) > 1 else math.nan
    return one.bpb - other.bpb, bits_per_byte(error, one.bytes)


def qat_since(qat: recipe.QAT, rates: Sequence[float]) -> int | None:
    """The first step (1, 2, ...) that was taken with rounding in the forward pass, or None, by the logged multipliers:
    late QAT's factor in them is at most one, so the first below the threshold is the schedule's own crossing."""
    threshold = {"always": math.inf, "late": qat.threshold}.get(qat.kind, -math.inf)
    return next((step for step, rate in enumerate(rates, 1) if rate < threshold), None)


def schedule_multipliers(qat: recipe.QAT, rates: Sequence[float]) -> np.ndarray:
    """The schedule's own multipliers of steps 1, 2, ..., by which SWA goes: logged rates without late QAT's factor."""
    multipliers, since = np.array(rates, dtype=float), qat_since(qat, rates)
    if since is not None and qat.kind == "late" and qat.lr_factor > 0:
        multipliers[since - 1 :] /= qat.lr_factor
    return multipliers


def step_weights(average: recipe.Average, multipliers: Sequence[float]) -> pd.DataFrame:
    """Columns step, weight: how much the weights after each step (0: the initial ones) count in the average; they sum
    to one. `multipliers` are the schedule's learning-rate multipliers of steps 1, 2, ..."""
    last = len(multipliers)
    steps = np.arange(last + 1)
    if average.kind == "ema":
        counts = (1 - average.ema_decay) * average.ema_decay ** (last - steps).astype(float)
        counts[0] = average.ema_decay**last
    else:
        low = np.array([False, *(rate < average.swa_start for rate in multipliers)])
        counts = low & (steps % average.swa_every_steps == 0) if average.kind == "swa" else steps == last
        counts = counts if counts.any() else steps == last  # no snapshot: the live weights are packed
        counts = counts / counts.sum()
    return pd.DataFrame({"step": steps, "weight": counts})


def average_numbers(weights: pd.DataFrame) -> dict[str, float]:
    """What a row of step weights amounts to; the effective number of steps is 1 / sum of squared weights."""
    step, weight = weights["step"].to_numpy(), weights["weight"].to_numpy()
    last = max(int(step[-1]), 1)
    age, effective = float((weight * (step[-1] - step)).sum()), float(1 / (weight**2).sum())
    return {
        "mean age (steps)": age,
        "mean age (share of the run)": age / last,
        "effective number of steps": effective,
        "weight of the initial weights": float(weight[0]),
        "weight of the last tenth of the steps": float(weight[step > 0.9 * step[-1]].sum()),
    }


def blend(raw: Weights, averaged: Weights, place: float) -> dict[str, Tensor]:
    """Weights on the line through both: raw at place 0, averaged at 1, and beyond."""
    return {name: torch.lerp(tensor, averaged[name], place) for name, tensor in raw.items()}


def distance_table(raw: Weights, averaged: Weights, column: str = "relative") -> pd.DataFrame:
    """Columns tensor, kind, layer (-1 outside the blocks), is_matrix, elements, and the distance of each tensor from
    the averaged one, relative to its own norm (NaN where that is zero)."""
    rows = []
    for name, tensor in raw.items():
        apart, norm = (averaged[name] - tensor).norm().item(), tensor.norm().item()
        rows.append(_about(name, tensor) | {column: apart / norm if norm else math.nan})
    return pd.DataFrame(rows)


def total_distance(raw: Weights, averaged: Weights) -> float:
    """Norm of the difference of all weights together, over the norm of the raw ones."""
    apart = sum((averaged[name] - tensor).double().square().sum().item() for name, tensor in raw.items())
    return math.sqrt(apart / sum(tensor.double().square().sum().item() for tensor in raw.values()))


def lines_by_layer(table: pd.DataFrame, column: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{kind: (layers, values)} of the blocks' matrices that have a value, for a figure over layers."""
    inside = table[(table["layer"] >= 0) & table["is_matrix"]].dropna(subset=column)
    return {
        kind: (rows["layer"].to_numpy(), rows[column].to_numpy())
        for kind, rows in inside.sort_values("layer").groupby("kind", sort=False)
    }


def _about(name: str, tensor: Tensor) -> dict[str, object]:
    layer = re.match(r"blocks\.(\d+)\.", name)
    return {
        "tensor": name,
        "kind": tensor_kind(name),
        "layer": int(layer[1]) if layer else -1,
        "is_matrix": _is_matrix(name, tensor),
        "elements": tensor.numel(),
    }


def _is_matrix(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and name.endswith(".weight")  # skip_weights and resid_mix are stacks of vectors


def matrix_grids(weights: Weights, quant: recipe.Quant) -> dict[str, Grid]:
    """The recipe's fixed grid for every matrix, also for those that are small enough to be stored as fp16."""
    every = dataclasses.replace(on_grids(quant), small_tensor_elements=0, allocation="fixed")
    grids = grid_names_for({name: tuple(w.shape) for name, w in weights.items()}, every).items()
    return {
        name: grid_of(name, grid, quant) for name, grid in grids if _is_matrix(name, weights[name]) and grid in GRIDS
    }


def on_grid(w: Tensor, grid: Grid) -> Tensor:
    """`w` [rows, cols] rounded to a grid, also to one whose scales are never float16 and that no artifact can hold."""
    return dequantise(*quantise_tensor(w, grid)) if grid.packable else fake_quantise(w.detach(), grid)


def grid_gap(
    weights: Weights, trained: Mapping[str, Grid], packed: Mapping[str, str], quant: recipe.Quant
) -> pd.DataFrame:
    """How far QAT's rounding is from the packer's, one row per kind of linear matrix and pair of grids: columns kind,
    trained on, packed on, matrices, other (share of weights that come back more than half a packed step away from where
    training saw them), distance (norm of the difference over the norm of the weights). Matrices that both round alike
    are left out, and so are tables, which QAT never rounds."""
    rows = []
    for name, grid in trained.items():
        w = weights[name]
        own = grid_of(name, packed[name], quant) if packed[name] in GRIDS else None
        if own is None or own == grid or name in _NEVER_FAKED:
            continue
        codes, scales = quantise_tensor(w, own)
        apart = on_grid(w, grid) - dequantise(codes, scales)
        other = int((apart.abs() > scales.float()[:, None] * own.step / 2).sum())
        squares = [float(x.double().square().sum()) for x in (apart, w)]
        rows.append((tensor_kind(name), grid.name, own.name, 1, w.numel(), other, *squares))
    keys = ["kind", "trained on", "packed on"]
    table = pd.DataFrame(rows, columns=[*keys, "matrices", "weights", "other", "apart", "norm"])
    sums = table.groupby(keys, sort=False).sum()
    shares = {"other": sums["other"] / sums["weights"], "distance": (sums["apart"] / sums["norm"]) ** 0.5}
    return sums[["matrices"]].assign(**shares).reset_index()


_NEVER_FAKED = ("tok_emb.weight", "bigram.embed.weight", "ve.embed.weight")


def rounded(weights: Weights, grid_names: Mapping[str, str], quant: recipe.Quant) -> dict[str, Tensor]:
    """The weights as they come back from the artifact: through their grid's codes and scales, or through fp16."""
    return {
        name: on_grid(w, grid_of(name, grid, quant)) if (grid := grid_names[name]) in GRIDS else w.half().float()
        for name, w in weights.items()
    }


def rounding_table(weights: Weights, grid_names: Mapping[str, str], quant: recipe.Quant) -> pd.DataFrame:
    """`distance_table` of the weights and what comes back of them: the distance is called error, beside the grid."""
    table = distance_table(weights, rounded(weights, grid_names, quant), "error")
    table.insert(table.columns.get_loc("error"), "grid", table["tensor"].map(grid_names))
    return table


def fake_differs_from_packed(weights: Weights, grids: Mapping[str, Grid]) -> list[str]:
    """Names of the matrices whose fake-quantised form is not, number for number, what comes back from the artifact."""
    packed = {name: dequantise(*quantise_tensor(weights[name], grid)) for name, grid in grids.items()}
    return [name for name, grid in grids.items() if not torch.equal(fake_quantise(weights[name], grid), packed[name])]


@dataclasses.dataclass(frozen=True)
class QatProbe:
    """One batch through the network in training mode, with and without rounding in the forward pass."""

    plain_loss: float
    """Nats per token of the weights as they are."""
    qat_loss: float
    """Nats per token with the grids in the forward pass."""
    rounded_loss: float
    """Nats per token of weights that were rounded beforehand; equal to qat_loss."""
    cosines: pd.DataFrame
    """Columns tensor, kind, layer, is_matrix, elements, cosine (between the gradients with and without rounding): a row
    for every tensor that is rounded in the forward pass."""


def probe_qat(
    model: GPT, grids: Mapping[str, Grid], tokens: np.ndarray, rows: int, seq_len: int, autocast: str
) -> QatProbe:
    """Run the stream's first `rows` sequences (fewer, if it is short) three ways through a copy of `model`."""
    rows = max(min(rows, (len(tokens) - 1) // seq_len), 1)
    span = torch.from_numpy(tokens[: rows * seq_len + 1].astype(np.int64)).to(next(model.parameters()).device)
    batch, model = (span[:-1].view(rows, -1), span[1:].view(rows, -1)), copy.deepcopy(model).train()
    plain_loss, plain = _loss_and_gradients(model, *batch, autocast)
    model.set_fake_grids(dict(grids))
    qat_loss, through = _loss_and_gradients(model, *batch, autocast)
    modules = model.named_modules()
    inside = {f"{name}.weight": part.weight for name, part in modules if getattr(part, "grid", None) is not None}
    model.set_fake_grids({})
    with torch.no_grad():
        for name, weight in inside.items():
            weight.copy_(on_grid(weight, grids[name]))
    rounded_loss, _ = _loss_and_gradients(model, *batch, autocast)
    cosines = [F.cosine_similarity(plain[name].flatten(), through[name].flatten(), dim=0).item() for name in inside]
    table = pd.DataFrame([_about(name, weight) for name, weight in inside.items()]).assign(cosine=cosines)
    return QatProbe(plain_loss, qat_loss, rounded_loss, table)


def _loss_and_gradients(model: GPT, inputs: Tensor, targets: Tensor, autocast: str) -> tuple[float, dict[str, Tensor]]:
    torch.manual_seed(0)  # table_dropout takes the same positions in every pass
    total = 0.0
    for row, wanted in zip(inputs.split(1), targets.split(1), strict=True):  # all logits at once: 0.5 GB of `local`
        with machine.autocasting(inputs.device, autocast):
            loss = model(row, wanted) / len(inputs)
        loss.backward()
        total += loss.item()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return total, gradients
