"""Hints: a dictionary of counts beside them, tokens to come, and the distribution that they tilt."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgolf_core.adapting.tilt import hints_of, tilted
from pgolf_core.recipes.adapt import Adapt


def plain_hints(text: list[int], order: int, threshold: float) -> list[int]:
    """One target after another: look up, then count; the first to reach a count keeps its place."""
    counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    top: dict[tuple[int, ...], int] = {}
    history, hints = text[:1], []
    for token in text:
        context, hint = tuple(history[len(history) - (order - 1) :]), -1
        if len(history) >= order - 1:
            seen = counts[context]
            if seen and np.float32(seen[top[context]]) / np.float32(seen.total()) >= np.float32(threshold):
                hint = top[context]
            seen[token] += 1
            if context not in top or seen[token] > seen[top[context]]:
                top[context] = token
        hints.append(hint)
        history.append(token)
    return hints


TEXTS = st.lists(st.integers(0, 3), max_size=200)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS, st.integers(2, 9), st.sampled_from([0.0, 0.5, 0.8, 1.0]), st.data())
def test_hints_are_those_of_a_dictionary_and_read_no_later_token(text, order: int, threshold: float, data) -> None:
    adapt = Adapt(tilt_order=order, tilt_threshold=threshold)
    hints = hints_of(np.array(text, np.uint16), adapt)
    assert hints.dtype == np.int64 and hints.tolist() == plain_hints(text, order, threshold)
    if text:
        place = data.draw(st.integers(0, len(text) - 1))
        other = text[:place] + data.draw(st.lists(st.integers(0, 3), max_size=50))
        found = hints_of(np.array([*other, 0], np.uint16), adapt)
        assert found[: place + 1].tolist() == hints[: place + 1].tolist(), "a token's own hint comes of those before it"


def test_a_repeated_text_is_foretold_from_its_second_time_on() -> None:
    phrase = np.arange(5, 45)
    hints = hints_of(np.concatenate([phrase] * 3), Adapt())
    assert (hints[:55] == -1).all() and np.array_equal(hints[55:], np.concatenate([phrase] * 3)[55:])


@pytest.mark.parametrize("boost", [0.0, 1.0, 2.625])
def test_a_tilted_distribution_sums_to_one_and_multiplies_the_hints_odds(boost: float) -> None:
    p = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log().log_softmax(0).exp()
    hint = 7
    found = tilted(-p.log(), -p[hint].log(), torch.arange(50) == hint, boost).neg().exp()
    assert float(found.sum()) == pytest.approx(1, abs=1e-14)
    odds = [float(q[hint] / (1 - q[hint])) for q in (p, found)]
    assert odds[1] / odds[0] == pytest.approx(math.exp(boost))
    others = found[torch.arange(50) != hint] / p[torch.arange(50) != hint]
    assert torch.allclose(others, others[:1])
