"""The score: which windows, which targets, how many nats and bytes.

bpb = nats / (ln 2 x bytes). Every target is scored exactly once, by the first window that reaches it.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np
import torch

from pgolf_core.base.device import autocasting, pool_of
from pgolf_core.base.files import UserError
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.documents import own_documents
from pgolf_core.network.model import GPT
from pgolf_core.text.tokenizer import TokenBytes

Progress = Callable[[int, int], None]
"""Called with (targets scored, targets in all)."""


def plan_windows(num_targets: int, seq_len: int, stride: int) -> np.ndarray:
    """Rows (start, first scored, end), int64 [windows, 3]: a pure function of three lengths.

    Windows start at multiples of `stride`, are cut at the end of the stream, and score the targets in
    [first scored, end) that no earlier window scored; planning stops once the end is covered. stride = seq_len is the
    standard score, tail included. Target i is the token after input i.
    """
    assert 1 <= stride <= seq_len and num_targets >= 0
    later = max(0, math.ceil((num_targets - seq_len) / stride))
    starts = np.arange(later + 1 if num_targets else 0, dtype=np.int64) * stride
    ends = np.minimum(starts + seq_len, num_targets)
    first_scored = np.concatenate((starts[:1], ends[:-1]))
    return np.stack((starts, first_scored, ends), axis=1)


@dataclass(frozen=True)
class Score:
    """One score and what it was taken over."""

    bpb: float
    loss_nats_per_token: float
    nats: float
    tokens: int
    bytes: int
    windows: int
    seq_len: int
    stride: int
    seconds: float
    per_token_nats: np.ndarray = field(repr=False, compare=False)
    """float32 [tokens]: nats of target i."""

    @property
    def window_nats(self) -> np.ndarray:
        """float64 [windows]: nats of the targets that each window of the plan scored; they add up to `nats`."""
        first_scored = plan_windows(self.tokens, self.seq_len, self.stride)[:, 1]
        return np.add.reduceat(self.per_token_nats, first_scored, dtype=np.float64)

    def to_dict(self) -> dict[str, float | int]:
        """Everything but the per-token array, ready for JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "per_token_nats"}


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """bpb of a total; UserError if there are no bytes to divide by."""
    if num_bytes <= 0:
        raise UserError("the scored text has no bytes; choose a validation split that is not empty")
    return nats / (math.log(2) * num_bytes)


def batches_of(windows: np.ndarray, batch_seqs: int) -> list[np.ndarray]:
    """Split the plan into batches whose windows have one length and one scored length."""
    shape = np.stack((windows[:, 2] - windows[:, 0], windows[:, 2] - windows[:, 1]), axis=1)
    changes = np.flatnonzero((shape[1:] != shape[:-1]).any(axis=1)) + 1
    runs = np.split(windows, changes)
    return [run[i : i + batch_seqs] for run in runs for i in range(0, len(run), batch_seqs)]


Scored = tuple[torch.Tensor, torch.Tensor]
"""Places of targets in the stream, and their nats."""


def nats_in_parts(
    model: GPT, stream: torch.Tensor, batches: list[np.ndarray], autocast: str, document_mask: bool = False
) -> Generator[Scored, None, None]:
    """What is scored, in order. With `document_mask` a position sees its own document alone, as far as the window has
    it. On a CPU threads share each batch out, each with its share of torch's own threads.

    They need not wait for each other after every small operation, as torch's own do.
    """
    device, threads = stream.device, torch.get_num_threads()

    @torch.inference_mode()
    def compute(windows: np.ndarray) -> Scored:
        start, first = (torch.from_numpy(windows[:, column].copy()).to(device) for column in (0, 1))
        length, scored = int(windows[0, 2] - windows[0, 0]), int(windows[0, 2] - windows[0, 1])
        inputs = stream[start[:, None] + torch.arange(length, device=device)]
        places = first[:, None] + torch.arange(scored, device=device)
        documents = own_documents(inputs) if document_mask else None
        with autocasting(device, autocast):
            return places, model.token_losses(inputs, stream[places + 1], length - scored, documents)

    workers = min(threads, max(map(len, batches), default=1)) if device.type == "cpu" else 1
    if workers == 1:
        yield from map(compute, batches)
        return
    with pool_of(workers) as pool:
        parts = (part for batch in batches for part in np.array_split(batch, min(workers, len(batch))))
        yield from pool.map(compute, parts)


@torch.inference_mode()
def score(
    model: GPT,
    tokens: np.ndarray,
    token_bytes: TokenBytes,
    seq_len: int,
    stride: int,
    batch_seqs: int,
    *,
    autocast: str = "auto",
    document_mask: bool = False,
    max_targets: int = 0,
    progress: Progress | None = None,
    world: World = ALONE,
) -> Score:
    """Score a token stream (uint16 [n], targets are tokens 1..n-1) with a model in eval mode.

    Logits are computed only at scored positions. `max_targets` > 0 scores that many targets from the start. Ranks share
    the batches of windows out and exchange every target's nats, so that each has the whole, equal score.
    """
    if len(tokens) < 2:
        raise UserError(f"the validation stream has {len(tokens)} tokens; at least 2 are needed to score one")
    if max_targets:
        tokens = tokens[: max_targets + 1]
    t_start = time.perf_counter()
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    stream = torch.from_numpy(np.asarray(tokens).astype(np.int64)).to(device)
    num_targets = len(tokens) - 1
    windows = plan_windows(num_targets, seq_len, stride)
    losses = torch.full((num_targets,), math.nan, dtype=torch.float32, device=device)
    batches = batches_of(windows, batch_seqs)[world.rank :: world.size]
    done = 0
    with contextlib.closing(nats_in_parts(model, stream, batches, autocast, document_mask)) as found:
        for places, nats in found:
            losses[places] = nats
            done += nats.numel()
            if progress is not None:
                progress(done, num_targets)
    model.train(was_training)
    world.fill_(losses)
    per_token = losses.cpu().numpy()
    total = float(per_token.sum(dtype=np.float64))
    if not math.isfinite(total):
        raise UserError("the score is not finite: the weights are damaged or training diverged; train again")
    num_bytes = token_bytes.total(tokens)
    return Score(
        bpb=bits_per_byte(total, num_bytes),
        loss_nats_per_token=total / num_targets,
        nats=total,
        tokens=num_targets,
        bytes=num_bytes,
        windows=len(windows),
        seq_len=seq_len,
        stride=stride,
        seconds=time.perf_counter() - t_start,
        per_token_nats=per_token,
    )
