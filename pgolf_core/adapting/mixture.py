"""A mixture of the model's probability of each target with those of n-grams of the targets before it.

Contexts are counted in the target's document first, then in all of the text, from one token to the longest. Wherever
one has been seen before:

    p(y)  <-  (1 - s) p(y) + s (max(c(y) - D, 0) + D kinds p(y)) / n

c(y) counts how often y followed the context, of n times and so many kinds; p is the model's at first. Each p sums to
one over the vocabulary. Counts and the share s are of earlier targets alone: a target is counted, and the bucket that
its share is of learns, after it has been scored.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgolf_core.adapting.told import Learned, rescored
from pgolf_core.network.score import Score
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.tokenizer import BOS

SHARES = np.array([0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 0.9])
"""What a bucket's share is a mean of, each weighted by how likely it has made the bucket's targets so far."""
MOST = 4
"""A bucket is a context's n by doublings and its kinds, each up to so many, and its age by factors of 16."""


def mix(tokens: np.ndarray, nats: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """(p of every target, float64 [targets]; shares of the contexts in their order, 0 where one is new, float64
    [contexts, targets]), from tokens, uint16 [targets + 1], and the model's -log p of the targets."""
    discount, size = recipe.adapt.mix_discount, recipe.model.vocab_size + 1
    before, targets = tokens[:-1].astype(np.int64), tokens[1:].astype(np.int64)
    p, ones, found = np.exp(-nats.astype(np.float64)), np.ones_like(targets), []
    for context in contexts(before, size, recipe):
        _, count = _so_far(context * size + targets, ones)
        last, total, kinds = _so_far(context, ones, (count == 0).astype(np.int64))
        at = np.flatnonzero(total)
        ngram_p = (np.maximum(count[at] - discount, 0) + discount * kinds[at] * p[at]) / total[at]
        doublings = np.minimum(_doublings(total[at]), MOST)
        age = _doublings(at - last[at]) // 4
        share = np.zeros(len(p))
        share[at] = _shares(p[at], ngram_p, (age * (MOST + 1) + doublings) * (MOST + 1) + np.minimum(kinds[at], MOST))
        p[at] += share[at] * (ngram_p - p[at])
        found.append(share)
    return p, np.array(found).reshape(-1, len(p))


def contexts(before: np.ndarray, size: int, recipe: Recipe) -> Iterator[np.ndarray]:
    """Every target's context by number, int64 [targets], for each kind of context in the order of mixing.

    Those of 1, 2, ... tokens in the target's document, then those in all of the text. `before` holds the token before
    each target, int64 [targets], all below `size` - 1.
    """
    adapt = recipe.adapt
    for start, order in (
        (np.cumsum(before == BOS), adapt.mix_document_order),
        (np.zeros_like(before), adapt.mix_order),
    ):
        context = start
        for back in range(order - 1):
            past = np.roll(before, back)
            past[:back] = size - 1  # before the text
            context = np.unique(context * size + past, return_inverse=True)[1]
            yield context


def _doublings(counts: np.ndarray) -> np.ndarray:
    """How often 1 can be doubled within each count from 1 on: int64, exact on every machine."""
    return np.frexp(counts)[1].astype(np.int64) - 1


def _so_far(groups: np.ndarray, *counted: np.ndarray) -> np.ndarray:
    """The last of the earlier members of each one's group, any where there is none, then the sum of each `counted` over
    them: int64 [1 + counted, n]."""
    order = np.argsort(groups, kind="stable")
    begins = np.diff(groups[order], prepend=-1) != 0
    found = np.empty((1 + len(counted), len(groups)), np.int64)
    found[0, order] = np.roll(order, 1)
    for row, values in enumerate(counted, 1):
        sums = np.cumsum(values[order]) - values[order]
        found[row, order] = sums - np.maximum.accumulate(np.where(begins, sums, 0))
    return found


def _shares(p: np.ndarray, ngram_p: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """The n-grams' share of each target, float64 [n], by what the earlier targets of its bucket were."""
    found = np.empty_like(p)
    for bucket in np.unique(buckets):
        at = np.flatnonzero(buckets == bucket)
        nats = -np.log(np.outer(p[at], 1 - SHARES) + np.outer(ngram_p[at], SHARES))
        so_far = np.cumsum(nats, axis=0) - nats
        weights = np.exp(so_far.min(axis=1, keepdims=True) - so_far)
        found[at] = (weights * SHARES).sum(axis=1) / weights.sum(axis=1)
    return found


def in_nats(p: np.ndarray) -> np.ndarray:
    """-log p as a score keeps it, float32."""
    return -np.log(p).astype(np.float32)


def mixed_nats(tokens: np.ndarray, nats: np.ndarray, recipe: Recipe) -> np.ndarray:
    """-log of p as `mix` makes it, float32 [targets]."""
    return in_nats(mix(tokens, nats, recipe)[0])


@dataclass(frozen=True)
class Mixed(Learned):
    """The mixed score. `arrays`: `mixed` (float64 [windows], as the sliding score's plan has them) and `mix_seconds`
    (float64 [1]), after those of the adapted weights, where there are any."""

    seconds: float
    """Of mixing alone."""
    adapted: Any
    """The `trace.Adapted` of the weights whose scores were mixed; None: the packed ones, as they are."""


def mix_score(recipe: Recipe, tokens: np.ndarray, frozen: Score, adapted: Any = None) -> Mixed:
    """Mix a score of a whole stream (uint16 [n], targets are tokens 1..n-1) as the recipe says.

    It is that of the Adapted where the weights learned, else `frozen`.
    """
    t_start = time.perf_counter()
    score = adapted.score if adapted else frozen
    per_token = mixed_nats(tokens, score.per_token_nats, recipe)
    seconds = time.perf_counter() - t_start
    mixed = rescored(score, per_token, seconds + (score.seconds if adapted else 0.0))
    own = {"mixed": mixed.window_nats, "mix_seconds": np.array([seconds])}
    before, earlier_seconds = (adapted.arrays, adapted.earlier_seconds) if adapted else ({}, 0.0)
    return Mixed(mixed, "mixed", before | own, earlier_seconds, seconds, adapted)
