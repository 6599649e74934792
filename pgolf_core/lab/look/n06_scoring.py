"""What notebooks 06 and 07 look at: where a score comes from, what proves it, and the almost-right ways to take it.

Legend: target i of a stream is its token i+1, as in network/score; nats and bytes are arrays [targets] in that
order. Windows are rows (start, first scored, end).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit

from pgolf_core.base import device as machine
from pgolf_core.lab.look.n01_data import sums_by_document
from pgolf_core.network.model import GPT
from pgolf_core.network.score import Score, bits_per_byte, plan_windows
from pgolf_core.text.tokenizer import TokenBytes

READ, SCORED = 0.0, 1.0

# ---------------------------------------------------------------------- windows


def window_map(num_targets: int, seq_len: int, stride: int) -> np.ndarray:
    """Picture of a plan, float [windows, targets]: 1 scored, 0 only read as context, NaN outside the window."""
    windows = plan_windows(num_targets, seq_len, stride)
    picture = np.full((len(windows), num_targets), np.nan)
    for row, (start, first, end) in zip(picture, windows, strict=True):
        row[start:first], row[first:end] = READ, SCORED
    return picture


def times_scored(windows: np.ndarray, num_targets: int) -> np.ndarray:
    """How often each target is scored, int64 [targets]."""
    edges = np.zeros(num_targets + 1, dtype=np.int64)
    np.add.at(edges, windows[:, 1], 1)
    np.add.at(edges, windows[:, 2], -1)
    return edges[:-1].cumsum()


def context_lengths(windows: np.ndarray, num_targets: int) -> np.ndarray:
    """Tokens that the model has read when it predicts each target, int64 [targets]; 1 at a window's first position."""
    starts = np.repeat(windows[:, 0], windows[:, 2] - windows[:, 1])
    assert len(starts) == num_targets, "every target once"
    return np.arange(num_targets) - starts + 1


def context_counts(windows: np.ndarray) -> np.ndarray:
    """How many targets a plan scores with each number of tokens of context, int64 [longest context + 1].

    `context_lengths` counted, in time and memory of the windows instead of the targets.
    """
    begins, ends = (windows[:, column] - windows[:, 0] + 1 for column in (1, 2))
    longest = int(ends.max(initial=1))
    return (np.bincount(begins, minlength=longest + 1) - np.bincount(ends, minlength=longest + 1)).cumsum()[:longest]


def bpb_by_context(nats: np.ndarray, target_bytes: np.ndarray, contexts: np.ndarray) -> pd.DataFrame:
    """bpb of the targets with 1, 2, 3-4, 5-8, … tokens of context; columns first, last, middle, targets, bpb, share.

    middle is the geometric mean of first and last; share is the bin's part of all nats.
    """
    bins = np.ceil(np.log2(contexts)).astype(np.int64)
    rows = []
    for number in np.unique(bins):
        inside = bins == number
        total = int(target_bytes[inside].sum())
        first, last = 2 ** (number - 1) + 1 if number else 1, int(contexts[inside].max())
        rows.append({
            "first": int(first), "last": last, "middle": math.sqrt(first * last), "targets": int(inside.sum()),
            "bpb": _sum(nats[inside]) / (math.log(2) * total) if total else math.nan,
            "share": _sum(nats[inside]) / _sum(nats),
        })  # fmt: skip
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------- documents


def score_by_document(
    documents: pd.DataFrame, tokens: np.ndarray, nats: np.ndarray, target_bytes: np.ndarray, bos_id: int
) -> pd.DataFrame:
    """`documents` (one row each, in the stream's order) with columns nats, bytes and bpb: their shares of one score.

    A document's BOS is a target of its own document; the stream's first BOS is no target and counts nothing.
    """
    table = documents.reset_index(drop=True).copy()
    for name, values in (("nats", nats.astype(np.float64)), ("bytes", target_bytes)):
        table[name] = sums_by_document(np.concatenate((np.zeros(1, values.dtype), values)), tokens, bos_id)
    table["bpb"] = table["nats"] / (math.log(2) * table["bytes"].where(table["bytes"] > 0))
    return table


# ---------------------------------------------------------------------- proofs on the model


@torch.inference_mode()
def plain_nats(model: GPT, tokens: np.ndarray, seq_len: int, stride: int) -> np.ndarray:
    """Nats of every target, float32 [targets], the plain way: one window at a time, all logits, then cut."""
    device = next(model.parameters()).device
    stream = torch.from_numpy(np.asarray(tokens).astype(np.int64)).to(device)
    nats = np.full(len(tokens) - 1, np.nan, dtype=np.float32)
    for start, first, end in plan_windows(len(nats), seq_len, stride).tolist():
        log_p = model.logits(stream[None, start:end])[0].log_softmax(-1)
        losses = -log_p.gather(1, stream[start + 1 : end + 1, None])[:, 0]
        nats[first:end] = losses[first - start :].cpu().numpy()
    return nats


@torch.inference_mode()
def leak_from_the_future(model: GPT, ids: torch.Tensor, position: int) -> tuple[float, float]:
    """Largest change of the logits (before `position`, from it on) when every token from it on is another one."""
    changed = ids.clone()
    changed[:, position:] = (changed[:, position:] + 1) % model.config.vocab_size
    change = (model.logits(ids) - model.logits(changed)).abs()
    return float(change[:, :position].max()), float(change[:, position:].max())


@torch.inference_mode()
def probability_error(model: GPT, ids: torch.Tensor) -> float:
    """Largest distance from 1 of a sum of next-token probabilities, each exp(log-softmax) as the score takes it."""
    sums = model.logits(ids).log_softmax(-1).double().exp().sum(-1)
    return float((sums - 1).abs().max())


# ---------------------------------------------------------------------- the almost-right ways


def published_windows(num_targets: int, seq_len: int, stride: int) -> np.ndarray:
    """The records' sliding plan: a window at every multiple of the stride, each scoring its last `stride`.

    The windows that the stream's end cuts short all score its last targets again.
    """
    starts = np.arange(0, num_targets, stride, dtype=np.int64)
    ends = np.minimum(starts + seq_len, num_targets)
    first = np.where(starts == 0, 0, np.maximum(ends - stride, starts))
    return np.stack((starts, first, ends), axis=1)


def tail_dropped(nats: np.ndarray, target_bytes: np.ndarray, seq_len: int) -> tuple[float, int]:
    """(bpb, targets) of the records' standard score, which leaves out what does not fill a window; NaN if nothing does.

    `nats` are those of the standard score.
    """
    kept = len(nats) // seq_len * seq_len
    total = int(target_bytes[:kept].sum())
    return (bits_per_byte(_sum(nats[:kept]), total) if total else math.nan), kept


@torch.inference_mode()
def tail_scored_again(
    model: GPT, tokens: np.ndarray, token_bytes: TokenBytes, sliding: Score, autocast: str
) -> tuple[float, int]:
    """(bpb, targets counted) of the records' sliding score. Windows that `sliding` scored too are taken from it."""
    own = {tuple(row) for row in plan_windows(sliding.tokens, sliding.seq_len, sliding.stride).tolist()}
    device = next(model.parameters()).device
    stream = torch.from_numpy(np.asarray(tokens).astype(np.int64)).to(device)
    target_bytes = token_bytes.count(tokens[:-1], tokens[1:])
    nats, counted, num_bytes = 0.0, 0, 0
    for start, first, end in published_windows(sliding.tokens, sliding.seq_len, sliding.stride).tolist():
        if (start, first, end) in own:
            nats += _sum(sliding.per_token_nats[first:end])
        else:
            with machine.autocasting(device, autocast):
                inputs, targets = stream[None, start:end], stream[None, first + 1 : end + 1]
                nats += float(model.token_losses(inputs, targets, first - start).double().sum())
        counted, num_bytes = counted + end - first, num_bytes + int(target_bytes[first:end].sum())
    return bits_per_byte(nats, num_bytes), counted


# ---------------------------------------------------------------------- the report


def opening_of(text: str, num_bytes: int) -> str:
    """The beginning of a text: whole words of at most `num_bytes` UTF-8 bytes (a cut word only if it is the first)."""
    if len(text.encode("utf-8")) <= num_bytes:
        return text
    head = text.encode("utf-8")[:num_bytes].decode("utf-8", errors="ignore")
    cut = max(head.rfind(" "), head.rfind("\n"))
    return head[:cut] if cut > 0 else head


def half_widths(std: float, counts: Iterable[int], confidence: float = 0.95) -> pd.DataFrame:
    """Half the t interval of a mean over n seeds, would they spread by `std`: columns seeds, t, half_width."""
    rows = []
    for n in counts:
        t = float(stdtrit(n - 1, (1 + confidence) / 2))
        rows.append({"seeds": n, "t": t, "half_width": t * std / math.sqrt(n)})
    return pd.DataFrame(rows)


def reference_points(data: Mapping[str, Any]) -> dict[str, float]:
    """{name: bpb} of the reference points that notebook 01 left in data.json, highest first; empty if it left none."""
    found = {}
    for key, value in data.items():
        if key.endswith("_bpb"):
            found |= value if isinstance(value, dict) else {key.removesuffix("_bpb"): value}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _sum(nats: np.ndarray) -> float:
    return float(nats.sum(dtype=np.float64))
