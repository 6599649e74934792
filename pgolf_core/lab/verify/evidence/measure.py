"""What the fresh process of `pgolf verify` measures on a model: probabilities, causality, and scores, whole or sampled.

Legend: a window is a row (start, first scored, end) of `plan_windows`; target i is token i+1 of the stream.
"""

import copy
import dataclasses
import math
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgolf_core.base.device import autocasting
from pgolf_core.base.files import UserError
from pgolf_core.lab.verify.evidence.checks import Broken, hold
from pgolf_core.lab.verify.evidence.text import Way
from pgolf_core.network.model import GPT
from pgolf_core.network.score import Progress, batches_of, bits_per_byte, nats_in_parts, plan_windows, score
from pgolf_core.text.tokenizer import TokenBytes

NOISE_WINDOWS = 16
"""On so many windows this arithmetic is held against float64."""
LEAST_WINDOWS = 30
"""A t interval of fewer drawn windows is not given."""
SAMPLE_BATCH = 8
"""Windows scored at once while sampling: small, so that the clock is looked at often."""
CONFIDENCE = 0.95
"""Of the interval in which a sampled score is believed."""
DOUBT = 1 - 1e-6
"""Of the wider one, outside of which a claim is false; between the two it is doubtful."""


def stream_of(model: GPT, tokens: np.ndarray) -> torch.Tensor:
    """Tokens as int64 [T], on the model's device."""
    return torch.from_numpy(np.asarray(tokens).astype(np.int64)).to(next(model.parameters()).device)


@torch.inference_mode()
def probabilities(model: GPT, tokens: np.ndarray, way: Way) -> dict[str, Any]:
    """Of the losses as the score takes them: the sum of exp(-loss) over every next token, at some positions.

    {"sums": […], "vocabulary": V}
    """
    sums = []
    for length in sorted({2, min(8, way.seq_len), min(64, way.seq_len)}):
        ids = stream_of(model, tokens[:-1][:length])[None]
        every = torch.arange(model.config.vocab_size, device=ids.device)[:, None]
        with autocasting(ids.device, way.autocast):
            losses = [model.token_losses(ids.expand(len(t), -1), t, ids.size(1) - 1) for t in every.split(256)]
        sums.append(float(torch.cat(losses).double().neg().exp().sum()))
    return {"sums": sums, "vocabulary": model.config.vocab_size}


@torch.inference_mode()
def causality(model: GPT, tokens: np.ndarray, way: Way) -> dict[str, Any]:
    """Replace every token from a place on: how many logits and scores before it change in any bit.

    {"places": […], "changed": n, "later_changed": n, "compared": n}; `later_changed` shows that the test can see.
    """
    ids = stream_of(model, tokens[:-1][: way.seq_len])[None]
    length = ids.size(1)
    places = sorted({1, length // 3, length // 2, length - 1} - {0})
    targets = ids.roll(-1, 1)
    changed = later = 0
    with autocasting(ids.device, way.autocast):
        logits, losses = model.logits(ids), model.token_losses(ids, targets, 0)
        for place in places:
            other = ids.clone()
            other[:, place:] = (other[:, place:] + 1) % model.config.vocab_size
            same = (_bits(model.logits(other)) == _bits(logits)).all(-1)
            same &= _bits(model.token_losses(other, targets, 0)) == _bits(losses)
            changed += int((~same[:, :place]).sum())
            later += int((~same[:, place:]).sum())
    return {"places": places, "changed": changed, "later_changed": later, "compared": sum(places)}


def _bits(values: torch.Tensor) -> torch.Tensor:
    """The numbers' own bits, so that equal means equal, for NaN and zeros too."""
    return values.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()])


# ---------------------------------------------------------------------- whole or sampled


def arrays_of(path: Path | str, what: str, plan: str, **forms: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Finite arrays of an .npz by name, each of its form (dtype, *shape); Broken where the file holds something else.

    Nothing larger than that is read, and nothing is unpickled. Errors say `what` it is of a `plan` ("4 windows").
    """
    name, found = Path(path).name, {}
    for key, (dtype, *shape) in forms.items():
        try:
            with zipfile.ZipFile(path) as file, file.open(f"{key}.npy") as member:
                size = file.getinfo(f"{key}.npy").file_size
                is_small = size <= np.dtype(dtype).itemsize * math.prod(shape) + 1024
                array = np.lib.format.read_array(member, allow_pickle=False) if is_small else np.zeros(0)
        except Exception as error:  # a damaged archive breaks in ways that nobody lists
            raise Broken(f"{name} does not open as the {what} of {plan.split()[1]}: {error}") from None
        hold(is_small, f"{name}: {key} is larger than the {what} of {plan}")
        is_of_form = array.dtype == dtype and list(array.shape) == shape and bool(np.isfinite(array).all())
        hold(is_of_form, f"{name}: {key} has {array.dtype} {list(array.shape)}, and the plan {plan}")
        found[key] = array
    return found


def score_or_sample(
    model: GPT, tokens: np.ndarray, token_bytes: TokenBytes, way: Way, budget_seconds: float | None, sample_seed: int,
    tell: Progress, kept: np.ndarray | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The score of the whole stream, or of windows drawn at random where the whole would not fit into the budget.

    Both have bpb, loss, tokens, bytes, windows. A sample has also n, of (windows that could be drawn), low and high: a
    Student t interval of the bpb, with the finite population's correction, and a wider one's end, highest.
    UserError where the budget allows too few windows for one. Where the run `kept` every window's nats (float64, by
    plan), the drawn ones are held against them one by one: `apart` is the largest difference in nats, `noise` the
    largest of the same windows' between this arithmetic and float64.
    """
    ids, windows = stream_of(model, tokens), plan_windows(len(tokens) - 1, way.seq_len, way.stride)
    common, odd = split_by_shape(windows)
    order = np.random.default_rng(sample_seed).permutation(len(common))
    found = _drawn(model, ids, common[order], len(windows), way, budget_seconds, tell)
    if found is None:
        whole = score(model, tokens, token_bytes, way.seq_len, way.stride, way.batch_seqs, autocast=way.autocast,
                      document_mask=way.document_mask, progress=tell)  # fmt: skip
        about = whole.to_dict() | {"loss": whole.loss_nats_per_token, "per_token": whole.per_token_nats}
        if kept is None:
            return about
        return about | against_kept(model, ids, way, windows, whole.window_nats, kept, common[:NOISE_WINDOWS])
    if len(found) < min(least := LEAST_WINDOWS if kept is None else 1, len(common)):
        raise UserError(
            f"{len(found)} of {len(windows):,} windows fit into the budget of {budget_seconds:g} s, and {least} "
            "are needed; give a larger --budget-seconds"
        )
    num_targets, num_bytes = len(tokens) - 1, token_bytes.total(tokens)
    about = {"tokens": num_targets, "bytes": num_bytes, "windows": len(windows), "n": len(found), "of": len(common),
             "sample_seed": sample_seed}  # fmt: skip
    if kept is not None:
        drawn = common[order[: len(found)]]
        held = against_kept(model, ids, way, drawn, np.array(found), kept, drawn[:NOISE_WINDOWS])
        nats = held["kept_nats"]
        return {**about, **held, "bpb": bits_per_byte(nats, num_bytes), "loss": nats / num_targets}
    estimate, half, most = total_with_interval(np.array(found), len(common))
    estimate += sum(float(window_nats(model, ids, row[None], way).sum()) for row in odd)
    names = {"bpb": 0.0, "low": -half, "high": half, "highest": most}
    bpb = {name: bits_per_byte(estimate + shift, num_bytes) for name, shift in names.items()}
    return {**about, **bpb, "loss": estimate / num_targets}


def _drawn(
    model: GPT, ids: torch.Tensor, windows: np.ndarray, count: int, way: Way, budget_seconds: float | None,
    tell: Progress,
) -> list[float] | None:  # fmt: skip
    """Nats of the first windows, as many as fit into the budget; None where it is none, and as soon as the speed shows
    that all `count` fit into what is left of it."""
    if budget_seconds is None:
        return None
    t_start = t_first = time.monotonic()
    found: list[float] = []
    while len(found) < len(windows) and (elapsed := time.monotonic() - t_start) < budget_seconds:
        if len(found) >= 2 * SAMPLE_BATCH:  # the first batch is slow, and so is not what is gone by
            rate = (time.monotonic() - t_first) / (len(found) - SAMPLE_BATCH)
            if elapsed + rate * count <= budget_seconds:
                return None
        batch = windows[len(found) : len(found) + min(SAMPLE_BATCH, way.batch_seqs)]
        found += window_nats(model, ids, batch, way).tolist()
        if len(found) <= SAMPLE_BATCH:
            t_first = time.monotonic()
        tell(len(found) * way.stride, len(ids) - 1)
    return found


def against_kept(
    model: GPT, ids: torch.Tensor, way: Way, windows: np.ndarray, found: np.ndarray, kept: np.ndarray, some: np.ndarray
) -> dict[str, float]:
    """`apart`, `shift`: by how many nats the `found` ones of these windows differ from the kept, at most and in mean.

    `noise`, `bias`: by how many they differ, on `some` of the windows that are alike in shape, from float64; `noise` is
    at least what float32 rounds a soft-capped logit by, which both have in common.
    """
    here = window_nats(model, ids, some, way)
    exact = window_nats(copy.deepcopy(model).double(), ids, some, dataclasses.replace(way, autocast="off"))
    apart, noise = found - kept[windows[:, 0] // way.stride], (here - exact).numpy()
    least = model.config.logit_softcap * float(np.finfo(np.float32).eps)
    return {
        "apart": float(np.abs(apart).max()), "shift": abs(float(apart.mean())), "bias": abs(float(noise.mean())),
        "noise": max(float(np.abs(noise).max()), least), "kept_nats": float(kept.sum()),
    }  # fmt: skip


def split_by_shape(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The windows of the most frequent length and scored length, which are drawn from, and the others, all taken."""
    alike = batches_of(windows, len(windows))  # one of each shape, the shortest last
    common = max(alike[::-1], key=len)
    return common, np.concatenate([windows[:0], *(others for others in alike if others is not common)])


def window_nats(model: GPT, ids: torch.Tensor, windows: np.ndarray, way: Way) -> torch.Tensor:
    """Nats of the scored targets of each window of a stream, float64 [windows]; the windows are alike in shape."""
    parts = nats_in_parts(model, ids, [windows], way.autocast, way.document_mask)
    return torch.cat([nats.double().sum(1) for _, nats in parts]).cpu()


def total_with_interval(drawn: np.ndarray, population: int) -> tuple[float, float, float]:
    """(estimated sum over the population, half its 95 % interval, half the wider one), drawn without replacement."""
    from scipy import stats

    n = len(drawn)
    if n == population:
        return float(drawn.sum()), 0.0, 0.0
    error = population * float(drawn.std(ddof=1)) / math.sqrt(n) * math.sqrt(1 - n / population)
    half, most = (error * float(stats.t.ppf((1 + share) / 2, n - 1)) for share in (CONFIDENCE, DOUBT))
    return population * float(drawn.mean()), half, most
