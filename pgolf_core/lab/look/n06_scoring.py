"""What notebooks 06 and 07 look at: where a score comes from, what proves it, and the almost-right ways to take it.

Target i of a stream is its token i+1; nats and bytes are arrays [targets]. Windows are rows (start, first scored, end).
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from pgolf_core.adapting.mixture import Mixed
from pgolf_core.adapting.trace import Adapted
from pgolf_core.base import device as machine
from pgolf_core.lab.look.n01_data import sums_by_document
from pgolf_core.network.model import GPT
from pgolf_core.network.score import Score, batches_of, bits_per_byte, nats_in_parts, plan_windows
from pgolf_core.text.tokenizer import TokenBytes

MIXED_STRETCHES = 32


def window_map(num_targets: int, seq_len: int, stride: int) -> np.ndarray:
    """Picture of a plan, float [windows, targets]: 1 scored, 0 only read as context, NaN outside the window."""
    windows = plan_windows(num_targets, seq_len, stride)
    picture = np.full((len(windows), num_targets), np.nan)
    for row, (start, first, end) in zip(picture, windows, strict=True):
        row[start:first], row[first:end] = 0, 1
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


def context_shares(windows: np.ndarray) -> pd.DataFrame:
    """Share of a plan's targets with 1, 2, 3-4, 5-8, … tokens of context; columns first, last, share."""
    begins, ends = windows[:, 1] - windows[:, 0], windows[:, 2] - windows[:, 0]
    last = 2 ** np.arange(int(ends.max() - 1).bit_length() + 1)
    reached = np.array([np.clip(np.minimum(ends, context) - begins, 0, None).sum() for context in last])
    return pd.DataFrame({"first": last // 2 + 1, "last": last, "share": np.diff(reached, prepend=0) / reached[-1]})


def bpb_by_context(nats: np.ndarray, target_bytes: np.ndarray, contexts: np.ndarray) -> pd.DataFrame:
    """bpb of the targets with 1, 2, 3-4, 5-8, … tokens of context; columns first, last, middle (their geometric mean),
    targets, bpb, share (of all nats)."""
    bins = np.ceil(np.log2(contexts)).astype(np.int64)
    rows = []
    for number in np.unique(bins):
        inside = bins == number
        taken, total = _sum(nats[inside]), int(target_bytes[inside].sum())
        first, last = int(2**number // 2 + 1), int(contexts[inside].max())
        rows.append({
            "first": first, "last": last, "middle": math.sqrt(first * last), "targets": int(inside.sum()),
            "bpb": taken / (math.log(2) * total) if total else math.nan, "share": taken / _sum(nats),
        })  # fmt: skip
    return pd.DataFrame(rows)


def by_chunk(frozen: Score, adapted: Adapted | Mixed, target_bytes: np.ndarray) -> pd.DataFrame:
    """Of every chunk of the text, or document, in the order in which they were scored before they were learned from (of
    a mixture alone: of MIXED_STRETCHES equal stretches): first, end (targets), done (targets scored by its end), frozen
    and adapted (bpb), gain (adapted less frozen), and so_far: the gain over all targets scored by its end."""
    learned = adapted.adapted if isinstance(adapted, Mixed) else adapted
    borders = np.unique(np.linspace(0, frozen.tokens, MIXED_STRETCHES + 1).astype(np.int64))
    pieces = np.stack((borders[:-1], borders[1:]), axis=1) if learned is None else learned.pieces
    first, end = pieces.T
    places = np.concatenate([np.arange(a, b) for a, b in pieces.tolist()])
    done = (end - first).cumsum()
    nats = {"frozen": frozen.per_token_nats, "adapted": adapted.score.per_token_nats}
    starts = done - (end - first)
    sums = {name: np.add.reduceat(values[places], starts, dtype=np.float64) for name, values in nats.items()}
    bits = pd.Series(math.log(2) * np.add.reduceat(target_bytes[places], starts, dtype=np.int64))
    of_each, so_far = (sizes.where(sizes > 0) for sizes in (bits, bits.cumsum()))  # an empty document has no bpb
    table = pd.DataFrame({"first": first, "end": end, "done": done, **{name: sums[name] / of_each for name in sums}})
    table["gain"] = table["adapted"] - table["frozen"]
    table["so_far"] = (sums["adapted"] - sums["frozen"]).cumsum() / so_far
    return table


def score_by_document(
    documents: pd.DataFrame, tokens: np.ndarray, nats: np.ndarray, target_bytes: np.ndarray, bos_id: int
) -> pd.DataFrame:
    """`documents` (one row each, in the stream's order) with columns nats, bytes and bpb: their shares of one score. A
    BOS is a target of its own document; the stream's first BOS is no target and counts nothing."""
    table = documents.reset_index(drop=True)
    for name, values in (("nats", nats.astype(np.float64)), ("bytes", target_bytes)):
        table[name] = sums_by_document(np.concatenate((np.zeros(1, values.dtype), values)), tokens, bos_id)
    table["bpb"] = table["nats"] / (math.log(2) * table["bytes"].where(table["bytes"] > 0))
    return table


@torch.inference_mode()
def plain_nats(
    model: GPT, tokens: np.ndarray, seq_len: int, stride: int, batch_seqs: int = 1, autocast: str = "off"
) -> np.ndarray:
    """Nats of every target, float32 [targets], the plain and published way: all logits of every window, of whose
    losses those before the first scored target are thrown away. A batch has windows of one length."""
    stream, windows = _stream_for(model, tokens), plan_windows(len(tokens) - 1, seq_len, stride)
    nats = torch.full((len(tokens) - 1,), math.nan, device=stream.device)
    for batch in np.split(windows, range(batch_seqs, len(windows), batch_seqs)):
        inputs, targets = (torch.stack([stream[a + i : b + i] for a, _, b in batch.tolist()]) for i in (0, 1))
        with machine.autocasting(stream.device, autocast):
            losses = F.cross_entropy(model.logits(inputs).flatten(0, 1), targets.flatten(), reduction="none")
        for (start, first, end), window in zip(batch.tolist(), losses.view(targets.shape), strict=True):
            nats[first:end] = window[first - start :]
    return nats.cpu().numpy()


def _stream_for(model: GPT, tokens: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(tokens).astype(np.int64)).to(next(model.parameters()).device)


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


def published_windows(num_targets: int, seq_len: int, stride: int) -> np.ndarray:
    """The records' sliding plan: a window at every multiple of the stride, each scoring its last `stride`, those too
    that the stream's end cuts short: they score its last targets again."""
    starts = np.arange(0, num_targets, stride, dtype=np.int64)
    ends = np.minimum(starts + seq_len, num_targets)
    first = np.where(starts == 0, 0, np.maximum(ends - stride, starts))
    return np.stack((starts, first, ends), axis=1)


def tail_dropped(nats: np.ndarray, target_bytes: np.ndarray, seq_len: int) -> tuple[float, int]:
    """(bpb, targets) of the records' standard score: without what does not fill a window; NaN if nothing does."""
    kept = len(nats) // seq_len * seq_len
    total = int(target_bytes[:kept].sum())
    return (bits_per_byte(_sum(nats[:kept]), total) if total else math.nan), kept


def tail_scored_again(
    model: GPT, tokens: np.ndarray, token_bytes: TokenBytes, sliding: Score, autocast: str, document_mask: bool
) -> tuple[float, int]:
    """(bpb, targets counted) of the records' sliding score. Windows that `sliding` scored too are taken from it.

    `autocast` and `document_mask` are those of `sliding`.
    """
    plan = (sliding.tokens, sliding.seq_len, sliding.stride)
    own, windows = set(map(tuple, plan_windows(*plan).tolist())), published_windows(*plan)
    taken = np.array([tuple(window) in own for window in windows.tolist()])
    again = nats_in_parts(model, _stream_for(model, tokens), batches_of(windows[~taken], 1), autocast, document_mask)
    nats = sum(_sum(sliding.per_token_nats[first:end]) for _, first, end in windows[taken].tolist())
    nats += sum(float(part.double().sum()) for _, part in again)
    sizes = np.concatenate(([0], token_bytes.count(tokens[:-1], tokens[1:]).cumsum(dtype=np.int64)))
    _, first, end = windows.T
    return bits_per_byte(nats, int((sizes[end] - sizes[first]).sum())), int((end - first).sum())


def opening_of(text: str, num_bytes: int) -> str:
    """The beginning of a text: whole words of at most `num_bytes` UTF-8 bytes (a cut word only if it is the first)."""
    if len(text.encode("utf-8")) <= num_bytes:
        return text
    head = text.encode("utf-8")[:num_bytes].decode("utf-8", errors="ignore")
    cut = max(head.rfind(" "), head.rfind("\n"))
    return head[:cut] if cut > 0 else head


def half_widths(std: float, counts: Iterable[int]) -> pd.DataFrame:
    """Half the 95 % t interval of a mean over n seeds, would they spread by `std`: columns seeds, t, half_width."""
    from scipy.special import stdtrit  # here: the benchmark, which has `plain_nats`, may run where scipy is not

    n = np.array(list(counts))
    t = stdtrit(n - 1, 0.975)
    return pd.DataFrame({"seeds": n, "t": t, "half_width": t * std / np.sqrt(n)})


def reference_points(data: Mapping[str, Any]) -> dict[str, float]:
    """{name: bpb} of the reference points that notebook 01 left in data.json, highest first; empty if it left none."""
    found: dict[str, float] = {}
    for key, value in data.items():
        if key.endswith("_bpb"):
            found |= value if isinstance(value, dict) else {key.removesuffix("_bpb"): value}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _sum(nats: np.ndarray) -> float:
    return float(nats.sum(dtype=np.float64))
