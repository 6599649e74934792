"""The plan by documents: every target scored once, before it is learned from, and phases on scored documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgolf_core.adapting.documents import (
    DocumentScore,
    DocumentUpdate,
    PhaseUpdate,
    documents_in,
    groups_in,
    plan_documents,
)
from pgolf_core.adapting.plan import places_of, targets_done, unlawful
from pgolf_core.recipes.adapt import Adapt
from pgolf_core.recipes.recipe import Eval


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=150), st.data())
def test_every_target_is_scored_once_and_learned_from_only_afterwards(tokens: list[int], data) -> None:
    """By hand, document after document: nothing of `unlawful` is used."""
    size, window = data.draw(st.integers(1, 8)), data.draw(st.integers(8, 30))
    number, phases = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 3))
    adapt = Adapt(
        "lora", chunk_tokens=window, lora_tokens=size, batch_documents=number, phases=phases, phase_documents=7
    )
    events = plan_documents(np.array(tokens), Eval(window, window), adapt)
    starts = [0, *(i for i, token in enumerate(tokens) if token == 1 and i > 0)]
    end_of = dict(zip(starts, [*starts[1:], len(tokens) - 1], strict=True))
    begin_of = {target: start for start, end in end_of.items() for target in range(start, end)}
    scored: list[int] = []
    for event in events:
        if isinstance(event, DocumentScore):
            assert len(event.windows) == len(event.rows) <= event.group_size <= number
            for start, first, end in event.windows.tolist():
                begin = begin_of[first]
                assert first == begin + event.chunk * size and end == min(first + size, end_of[begin])
                assert start == max(begin, end - window) and end - start <= event.width <= window
                assert set(range(begin, first)) <= set(scored), "its context has been scored"
                scored += range(first, end)
        elif isinstance(event, DocumentUpdate):
            for _, first, end in event.scored.windows[event.learns].tolist():
                assert set(range(first, end)) <= set(scored) and end - first == size
                assert end < end_of[begin_of[first]], "the last chunk is never learned from"
            assert (event.rate, event.for_all) == (1e-4, False)
        else:
            for first, end in event.documents.tolist():
                assert set(range(first, end)) <= set(scored) and end == end_of[first]
            assert len({int(d) for d in event.documents[:, 0]}) == len(event.documents) <= 7
            assert event.sequences.max() < (event.documents[:, 1] - event.documents[:, 0] + 1).sum()
    assert sorted(scored) == list(range(len(tokens) - 1)) and len(scored) == len(tokens) - 1
    assert unlawful(events, len(tokens) - 1) == "" and targets_done(events)[-1] == len(tokens) - 1


LENGTHS = (4, 9, 2, 7, 3, 5)
TOKENS = np.array([token for length in LENGTHS for token in (1, *range(2, length + 1))] + [1])
PLAN = Adapt("lora", lr=1.0, chunk_tokens=6, lora_tokens=3, batch_documents=2, phases=2, phase_documents=4)


def test_groups_run_longest_first_and_a_phase_takes_the_shorter_of_the_scored() -> None:
    documents = documents_in(TOKENS)
    assert (documents[:, 1] - documents[:, 0]).tolist() == list(LENGTHS)
    assert [group.tolist() for group in groups_in(documents, PLAN)] == [[2, 4], [0, 5], [3, 1]]
    events = plan_documents(TOKENS, Eval(6, 6), PLAN)
    anew = [event.windows[:, 1].tolist() for event in events if isinstance(event, DocumentScore) and event.anew]
    assert anew == [[15, 4], [0, 25], [13, 22]], "by 9 and 7 tokens, then 5 and 4, then 3 and 2"
    phases = [event for event in events if isinstance(event, PhaseUpdate)]
    assert [len(event.documents) for event in phases if event.is_first] == [2, 4]
    assert [event.documents[:, 0].tolist() for event in phases if event.is_first] == [[15, 4], [0, 25, 15, 4]]
    assert [event.sequences.tolist() for event in phases][:2] == [[[0, 6]], [[6, 12]]]
    assert [event.rate for event in phases][:2] == pytest.approx([1.0, 0.5])
    assert phases[-1].rests and isinstance(events[-1], DocumentScore), "after the last group nothing is learned"


def test_a_window_ends_with_its_chunk_and_a_last_one_reaches_back_for_a_whole_window() -> None:
    tokens = np.array([1, *[2] * 60])
    adapt = Adapt("lora", lora_tokens=7, lora_window=20, phases=0)
    events = plan_documents(tokens, Eval(30, 30), adapt)
    windows = np.concatenate([event.windows for event in events if isinstance(event, DocumentScore)])
    assert windows[[0, 1, 2, 3, -1]].tolist() == [[0, 0, 7], [0, 7, 14], [1, 14, 21], [8, 21, 28], [40, 56, 60]]
    assert places_of(windows).tolist() == list(range(60))


def test_what_is_unlawful_is_named() -> None:
    events = plan_documents(TOKENS, Eval(6, 6), PLAN)
    targets = len(TOKENS) - 1
    exchanged = [events[1], events[0], *events[2:]]
    assert "event 0 learns from targets 15 to 17, not all of them scored before" in unlawful(exchanged, targets)
    phase = next(number for number, event in enumerate(events) if isinstance(event, PhaseUpdate))
    early = [events[phase], *events[:phase], *events[phase + 1 :]]
    assert "event 0 learns from targets 15 to 21" in unlawful(early, targets)
    assert "are no targets or were scored before" in unlawful([events[0], *events], targets)
    assert "never scored" in unlawful(events[:-1], targets)
