"""A tilt of the model's distribution toward the token that followed the same context before (PR 2135).

p'(y) = p(y) e^(b [y = h]) / (1 + p(h) (e^b - 1)) for a hint h and a boost b: it sums to one over all y. Hints are read
from the text that comes before, in the order in which the targets are scored.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pgolf_core.recipes.adapt import Adapt


def hints_of(text: np.ndarray, adapt: Adapt) -> np.ndarray:
    """The hint of each target, int64 [targets], -1 for none: `text` has their tokens in the order of their scores.

    A target's context is the tilt_order - 1 tokens before it (the first token stands twice at the beginning, as
    published), compared whole. Its hint is the token that has followed it most often so far, if in a share of at least
    tilt_threshold. A target is counted after it has been looked up, and only a token that has become strictly more
    frequent takes the hint's place.
    """
    text = np.asarray(text).astype(np.int64)
    length = adapt.tilt_order - 1
    hints, places = np.full(len(text), -1), np.arange(length - 1, len(text))  # these have a whole context
    if not len(places):
        return hints
    contexts = _ranks_of_contexts(np.concatenate((text[:1], text)), length)[: len(places)]
    order = np.argsort(contexts, kind="stable")  # context after context, each from its first target on
    followed, context = text[places[order]], contexts[order]
    seen, count = _times_so_far(context), _times_so_far(context * (followed.max() + 1) + followed)
    begins = seen == 1
    most = np.maximum.accumulate(context * (len(order) + 1) + count) - context * (len(order) + 1)
    is_more = begins | (most > np.concatenate(([0], most[:-1])))
    top = followed[np.maximum.accumulate(np.where(is_more, np.arange(len(order)), 0))]
    share = most.astype(np.float32) / seen.astype(np.float32)
    sure = np.flatnonzero((share >= np.float32(adapt.tilt_threshold))[:-1] & ~begins[1:])
    hints[places[order[sure + 1]]] = top[sure]
    return hints


def _ranks_of_contexts(text: np.ndarray, length: int) -> np.ndarray:
    """A number for every `length` neighbouring tokens, equal where they are: int64 [tokens - length + 1], from 0 on."""
    ranks, reach = np.unique(text, return_inverse=True)[1], 1
    while reach < length:
        step = min(reach, length - reach)  # two stretches, side by side or overlapping
        pairs = ranks[: len(ranks) - step] * np.int64(len(text)) + ranks[step:]
        ranks, reach = np.unique(pairs, return_inverse=True)[1], reach + step
    return ranks


def _times_so_far(numbers: np.ndarray) -> np.ndarray:
    """How often each number (int64, from 0 on) has stood there so far, this time too: int64."""
    order, at = np.argsort(numbers, kind="stable"), np.arange(len(numbers))
    begins = np.diff(numbers[order], prepend=-1) != 0
    count = np.empty_like(at)
    count[order] = at - np.maximum.accumulate(np.where(begins, at, 0)) + 1
    return count


def tilted(nats: Tensor, hint_nats: Tensor, is_hint: Tensor, boost: float) -> Tensor:
    """-log p'(y) of targets from -log p(y), -log p(h) and whether y is h: float tensors and bool of one shape."""
    return nats - boost * is_hint + torch.log1p(hint_nats.neg().exp() * math.expm1(boost))
