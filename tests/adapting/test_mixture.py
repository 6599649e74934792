"""The mixture with n-grams against a plain one, token by token; what it may not see; what is kept of it."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from small import small_recipe

from pgolf_core.adapting.mixture import MOST, SHARES, mix_score, mixed_nats
from pgolf_core.adapting.told import Learned
from pgolf_core.network.score import Score
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.tokenizer import BOS

VOCAB = 6


def recipe_of(order: int, discount: float, document_order: int = 3) -> Recipe:
    adapt = {"mix": "ngram", "mix_order": order, "mix_discount": discount, "mix_document_order": document_order}
    return small_recipe(model={"vocab_size": VOCAB}, adapt=adapt)


def a_text(length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that repeat themselves, uint16 [length + 1], and a model's probabilities of all, float32 [length, V]."""
    draw = np.random.default_rng(seed)
    phrases = [draw.integers(0, VOCAB, n) for n in (3, 5, 8)]
    tokens = np.concatenate([phrases[n] for n in draw.integers(0, 3, length)])[: length + 1].astype(np.uint16)
    model = draw.dirichlet(np.ones(VOCAB), length)
    return tokens, model


def mixed_plainly(tokens: list[int], model: np.ndarray, recipe: Recipe) -> tuple[list[float], list[float]]:
    """(-log p of each target, sum of p over the vocabulary), by counting again for every target."""
    credit: dict[tuple[int | bool, ...], list[float]] = defaultdict(lambda: [0.0] * len(SHARES))
    adapt, nats, sums = recipe.adapt, [], []
    for target, p in enumerate(model.tolist()):
        y, lessons = tokens[target + 1], []
        begin = max((at for at in range(target + 1) if tokens[at] == BOS), default=0)
        kinds = [(True, length) for length in range(1, adapt.mix_document_order)]
        for within, length in kinds + [(False, length) for length in range(1, adapt.mix_order)]:
            if length > target + 1:
                continue
            context = tokens[target + 1 - length : target + 1]
            after = range(max(length, begin + 1 if within else 0), target + 1)
            places = [at for at in after if tokens[at - length : at] == context]
            counts = Counter(tokens[at] for at in places)
            if not places:
                continue
            n, age = len(places), target + 1 - places[-1]
            bucket = (within, length, min(int(math.log2(n)), MOST), min(len(counts), MOST), int(math.log2(age) / 4))
            weights = [math.exp(one - max(credit[bucket])) for one in credit[bucket]]
            share = sum(w * s for w, s in zip(weights, SHARES, strict=True)) / sum(weights)
            spared = adapt.mix_discount * len(counts)
            ngram_p = [(max(counts[v] - adapt.mix_discount, 0) + spared * p[v]) / n for v in range(VOCAB)]
            lessons.append((bucket, p[y], ngram_p[y]))
            p = [(1 - share) * one + share * other for one, other in zip(p, ngram_p, strict=True)]
        sums.append(sum(p))
        nats.append(-math.log(p[y]))
        for bucket, one, other in lessons:
            credit[bucket] = [
                c + math.log((1 - s) * one + s * other) for c, s in zip(credit[bucket], SHARES, strict=True)
            ]
    return nats, sums


@pytest.mark.parametrize(
    ("order", "discount", "document_order"),
    [(2, 0.5, 1), (3, 1.0, 3), (4, 0.0, 2), (5, 0.4, 3), (9, 0.75, 1), (5, 0.4, 6)],
)
def test_the_mixture_is_the_plain_one_and_sums_to_one_at_every_target(
    order: int, discount: float, document_order: int
) -> None:
    (tokens, model), recipe = a_text(400), recipe_of(order, discount, document_order)
    of_targets = model[np.arange(400), tokens[1:]]
    plain, sums = mixed_plainly(tokens.tolist(), model, recipe)
    found = mixed_nats(tokens, -np.log(of_targets), recipe)
    assert found.dtype == np.float32 and found.shape == (400,)
    np.testing.assert_allclose(found, plain, rtol=1e-6)
    np.testing.assert_allclose(sums, 1, atol=1e-12)
    if order > 2:
        assert found[200:].sum() < -np.log(of_targets[200:]).sum() * 0.6, "what repeats itself is learned"


@pytest.mark.parametrize("seed", range(20))
def test_no_later_token_or_score_changes_an_earlier_target_in_any_bit(seed: int) -> None:
    draw = np.random.default_rng(seed)
    length = int(draw.integers(1, 3000))
    tokens, nats = a_text(length, seed)[0], draw.exponential(2.0, length).astype(np.float32)
    recipe = recipe_of(int(draw.integers(2, 9)), float(draw.uniform(0, 1)), int(draw.integers(1, 5)))
    place = int(draw.integers(0, length))
    others, other_nats = tokens.copy(), nats.copy()
    others[place + 1 :] = draw.integers(0, VOCAB, length - place)
    other_nats[place:] = draw.exponential(1.0, length - place)
    found, changed, short = (
        mixed_nats(*text, recipe).view(np.int32)
        for text in ((tokens, nats), (others, other_nats), (tokens[: place + 2], nats[: place + 1]))
    )
    assert np.array_equal(found[:place], changed[:place]) and np.array_equal(found[: place + 1], short)


def a_score(nats: np.ndarray) -> Score:
    total = float(nats.sum(dtype=np.float64))
    sizes = {"tokens": len(nats), "bytes": 2 * len(nats), "windows": 0, "seq_len": 16, "stride": 4}
    return Score(total / math.log(2) / sizes["bytes"], total / len(nats), total, **sizes, seconds=2.0,
                 per_token_nats=nats)  # fmt: skip


@pytest.mark.parametrize("learns", [False, True])
def test_what_is_kept_of_it(learns: bool) -> None:
    (tokens, _), recipe, nats = a_text(400), recipe_of(4, 0.8), np.full(400, 1.5, np.float32)
    adapted = Learned(a_score(nats), "", {"events": np.arange(3)}, 0.5) if learns else None
    frozen = a_score(nats + learns)
    mixed = mix_score(recipe, tokens, frozen, adapted)
    expected = mixed_nats(tokens, nats, recipe)
    assert np.array_equal(mixed.score.per_token_nats, expected) and mixed.score.bpb < frozen.bpb
    assert mixed.score.nats == expected.sum(dtype=np.float64) == pytest.approx(400 * mixed.score.loss_nats_per_token)
    assert mixed.score.seconds == mixed.seconds + (2.0 if adapted else 0.0) and mixed.seconds > 0
    assert (mixed.about, mixed.earlier_seconds, mixed.adapted) == ("mixed", 0.5 if adapted else 0.0, adapted)
    assert mixed.arrays.keys() == {"mixed", "mix_seconds"} | ({"events"} if adapted else set())
    assert np.array_equal(mixed.arrays["mixed"], mixed.score.window_nats)
    assert mixed.arrays["mix_seconds"] == [mixed.seconds]
