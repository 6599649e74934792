"""The plan of score-first adaptation: every target scored once, before anything is learned from it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgolf_core.adapting.plan import ScoreEvent, UpdateEvent, plan_chunks, unlawful
from pgolf_core.network.score import plan_windows
from pgolf_core.recipes.adapt import Adapt
from pgolf_core.recipes.recipe import Eval


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 700), st.integers(1, 40), st.data())
def test_every_target_is_scored_once_and_learned_from_only_afterwards(num_targets: int, length: int, data) -> None:
    """By hand, target after target: nothing of `unlawful` is used."""
    stride, size = data.draw(st.integers(1, length)), data.draw(st.integers(length, 4 * length))
    events = plan_chunks(num_targets, Eval(length, stride), Adapt("sgd", chunk_tokens=size))
    scored: list[int] = []
    learned: set[int] = set()
    rates: list[float] = []
    for event in events:
        if isinstance(event, ScoreEvent):
            for start, first, end in event.windows.tolist():
                assert start <= first < end <= start + length
                scored += range(first, end)
                assert learned <= set(range(first)), "the weights have learned from what is scored only now"
        else:
            inside = [target for start, end in event.sequences.tolist() for target in range(start, end)]
            assert inside and len(inside) % length == 0 and size - length < len(inside) <= size
            chunk = inside[0] // size
            assert inside == list(range(chunk * size, chunk * size + len(inside)))
            assert chunk < (num_targets - 1) // size, "the last chunk is never learned from"
            assert set(inside) <= set(scored)
            learned |= set(inside)
            rates.append(event.rate)
    assert scored == list(range(num_targets)) and rates == sorted(rates, reverse=True) and min(rates, default=1) > 0
    assert unlawful(events, num_targets) == ""
    windows = np.concatenate([event.windows for event in events if isinstance(event, ScoreEvent)])
    assert np.array_equal(windows, plan_windows(num_targets, length, stride)), "the sliding score's own windows"


def test_a_window_belongs_to_the_chunk_of_its_first_scored_target_and_a_chunk_without_any_is_left_out() -> None:
    events = plan_chunks(50, Eval(20, 15), Adapt("sgd", lr=1.0, chunk_tokens=22))  # windows score from 0, 20, 35
    assert [event.targets for event in events] == [(0, 35), (0, 20), (35, 50), (22, 42)]
    assert [event.rate for event in events if isinstance(event, UpdateEvent)] == pytest.approx([1.0, 0.5])
    few = plan_chunks(41, Eval(10, 10), Adapt("sgd", chunk_tokens=10))
    assert [event.targets for event in few] == [(a, a + 10) for a in (0, 0, 10, 10, 20, 20, 30, 30)] + [(40, 41)]


def test_the_numbers_of_pr_1493() -> None:
    """40,540,160 targets: 1,238 chunks of which the last has 6,144, windows by chunk, steps, rates."""
    adapt = Adapt("sgd")
    events = plan_chunks(40_540_160, Eval(2048, 64), adapt)
    scores = [event for event in events if isinstance(event, ScoreEvent)]
    updates = [event for event in events if isinstance(event, UpdateEvent)]
    assert (len(scores), len(updates), sum(len(event.windows) for event in scores)) == (1238, 1237, 633_409)
    assert len(scores[0].windows) == 481 and {len(event.windows) for event in scores[1:-1]} == {512}
    assert scores[-1].targets == (40_534_016, 40_540_160)
    steps = [adapt.epochs * math.ceil(len(event.sequences) / adapt.batch_seqs) for event in updates]
    assert sum(steps) == 3711 and {len(event.sequences) for event in updates} == {16}
    assert updates[0].rate == 0.005 and updates[-1].rate == pytest.approx(8e-9, rel=0.01)


LAWFUL = plan_chunks(60, Eval(10, 10), Adapt("sgd", chunk_tokens=20))


def test_what_is_unlawful_is_named() -> None:
    score, update, second = LAWFUL[0], LAWFUL[1], LAWFUL[2]
    later = UpdateEvent(np.array([[20, 31]]), 0.1)
    for events, words in (
        ([update, score, second], "event 0 learns from targets 0 to 9, not all of them scored before"),
        ([score, later, second], "event 1 learns from targets 19 to 30"),
        ([score, score, second], "event 1 scores targets 0 to 9, which are no targets or were scored before"),
        ([score, update], "20 targets are never scored, the first of them 20"),
        ([score, second, ScoreEvent(np.array([[38, 40, 41]]))], "event 2 scores targets 40 to 40, which are no"),
    ):
        assert words in unlawful(events, 40)
    assert unlawful([score, update, second], 40) == ""
