"""A mixture of the model's probability of each target with those of n-grams of the targets before it.

From the context of one token to the longest, wherever a context has been seen before:

    p(y)  <-  (1 - s) p(y) + s (max(c(y) - D, 0) + D kinds p(y)) / n

c(y) counts how often y followed the context, of n times and so many kinds; p is the model's at first. Each p sums to
one over the vocabulary. Counts and the share s are of earlier targets alone: a target is counted, and the bucket that
its share is of learns, after it has been scored.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgolf_core.adapting.told import adapted_lines, rescored, write_trace
from pgolf_core.base.parallel import World
from pgolf_core.network.score import Score
from pgolf_core.recipes.recipe import Recipe

SHARES = np.array([0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 0.9])
"""What a bucket's share is a mean of, each weighted by how likely it has made the bucket's targets so far."""
MOST_DOUBLINGS = MOST_KINDS = 8
"""A bucket is a context's n by doublings and its kinds, each up to so many."""


def mix(tokens: np.ndarray, nats: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """(p of every target, float64 [targets]; shares of the contexts of 1, 2, ... tokens, 0 where one is new, float64
    [mix_order - 1, targets]), from tokens, uint16 [targets + 1], and the model's -log p of the targets."""
    size, discount = recipe.model.vocab_size + 1, recipe.adapt.mix_discount
    targets, before = tokens[1:].astype(np.int64), tokens[:-1].astype(np.int64)
    context, p = np.zeros_like(targets), np.exp(-nats.astype(np.float64))
    shares = np.zeros((recipe.adapt.mix_order - 1, len(p)))
    for length, share in enumerate(shares, 1):
        context = np.unique(context * size + before, return_inverse=True)[1]
        before = np.roll(before, 1)
        before[:length] = size - 1  # before the text
        count = _so_far(np.unique(context * size + targets, return_inverse=True)[1], np.ones_like(targets))
        total, kinds = _so_far(context, np.ones_like(targets)), _so_far(context, (count == 0).astype(np.int64))
        at = np.flatnonzero(total)
        ngram_p = (np.maximum(count[at] - discount, 0) + discount * kinds[at] * p[at]) / total[at]
        doublings = np.minimum(np.log2(total[at]).astype(np.int64), MOST_DOUBLINGS)
        share[at] = _shares(p[at], ngram_p, doublings * (MOST_KINDS + 1) + np.minimum(kinds[at], MOST_KINDS))
        p[at] += share[at] * (ngram_p - p[at])
    return p, shares


def _so_far(groups: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The sum of `counted` over the earlier members of each one's group: all int64 [n]."""
    order = np.argsort(groups, kind="stable")
    sums = np.cumsum(counted[order]) - counted[order]
    begins = np.diff(groups[order], prepend=-1) != 0
    found = np.empty_like(sums)
    found[order] = sums - np.maximum.accumulate(np.where(begins, sums, 0))
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
class Mixed:
    """The mixed score, and what is kept of how it came about."""

    score: Score
    """Its seconds are those of adapting the weights, where they were, and of mixing."""
    seconds: float
    """Of mixing alone."""
    adapted: Any = None
    """The `trace.Adapted` of the weights whose scores were mixed; None: the packed ones, as they are."""

    @property
    def earlier_seconds(self) -> float:
        """How many of the score's belong to attempts that ended early."""
        return self.adapted.earlier_seconds if self.adapted else 0.0

    def write(self, folder: Path) -> dict[str, Any]:
        """Write adapt.npz, and return what result.json says of it.

        Arrays: `mixed` (float64 [windows], as the sliding score's plan has them) and `mix_seconds` (float64 [1]), after
        those of the adapted weights, where there are any.
        """
        own = {"mixed": self.score.window_nats, "mix_seconds": np.array([self.seconds])}
        return write_trace(folder, self.score, (self.adapted.arrays if self.adapted else {}) | own)

    def lines(self, scoring_seconds: float) -> list[str]:
        """How train.log tells it; `scoring_seconds` is what the scores of the file's own weights took."""
        return adapted_lines(self.score, scoring_seconds, "mixed")


def mix_score(recipe: Recipe, tokens: np.ndarray, score: Score, adapted: Any = None) -> Mixed:
    """Mix a score of a whole stream (uint16 [n], targets are tokens 1..n-1) as the recipe says.

    `adapted` is the Adapted that the score is of, where the weights learned.
    """
    t_start = time.perf_counter()
    per_token = mixed_nats(tokens, score.per_token_nats, recipe)
    seconds = time.perf_counter() - t_start
    mixed = rescored(score, per_token, seconds + (score.seconds if adapted else 0.0))
    return Mixed(mixed, seconds, adapted)


def mix_seed(
    path: Path, recipe: Recipe, tokens: np.ndarray, frozen: Score, seconds: dict[str, float], lines: list[str],
    world: World,
) -> dict[str, Any]:  # fmt: skip
    """What a script does after its sliding score, `frozen`: mixes it, adds to the log's `lines` and to the `seconds` by
    part, writes the trace beside the file; returns what result.json says of it."""
    if not world.first:
        return {}
    mixed = mix_score(recipe, tokens, frozen)
    lines += mixed.lines(seconds["scoring"])
    seconds["adapting"] = mixed.seconds
    return mixed.write(path.parent)
