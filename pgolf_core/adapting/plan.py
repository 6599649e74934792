"""Score-first adaptation as a plan of events: what is scored, and what is learned from, in which order.

A plan is a pure function of lengths and settings. An event is all that a state of the weights is asked for: windows to
score, or sequences to be trained on by what follows. Target i of a stream is its token i+1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgolf_core.network.score import plan_windows
from pgolf_core.recipes.adapt import Adapt
from pgolf_core.recipes.recipe import Eval


@dataclass(frozen=True, eq=False)
class ScoreEvent:
    """Windows that are scored under the weights as they are."""

    windows: np.ndarray
    """Rows (start, first scored, end) of `plan_windows`, int64 [windows, 3]; neighbours."""
    rests: bool = False
    """Whether a run that is ended after it may go on from there."""
    anew: bool = False
    """Whether what was learned for other targets alone is laid aside before it."""

    @property
    def targets(self) -> tuple[int, int]:
        """The first target that is scored, and the end."""
        return int(self.windows[:, 1].min()), int(self.windows[:, 2].max())

    @property
    def stretch(self) -> tuple[int, int]:
        """A first target and an end, all between scored by this event."""
        return self.targets


@dataclass(frozen=True, eq=False)
class UpdateEvent:
    """Sequences that the weights learn from."""

    sequences: np.ndarray
    """Rows (start, end), int64 [sequences, 2]: inputs start..end-1, and the target of each."""
    rate: float
    """Learning rate."""
    rests: bool = True
    """As of a ScoreEvent."""
    for_all: bool = True
    """Whether all targets that are scored later are scored by what it changes."""

    @property
    def targets(self) -> tuple[int, int]:
        """The first target that is learned from, and the end."""
        return int(self.sequences[:, 0].min()), int(self.sequences[:, 1].max())

    @property
    def known(self) -> np.ndarray:
        """Rows (first, end) of targets that must have been scored, int64: token i is known once target i-1 is."""
        return np.maximum(self.sequences - [1, 0], 0)


Event = ScoreEvent | UpdateEvent


def plan_chunks(num_targets: int, evaluation: Eval, adapt: Adapt) -> list[Event]:
    """Score chunk 0, learn from it, score chunk 1, and so on; the last chunk is scored alone (PR 1493).

    A window belongs to the chunk of its first scored target. A chunk is learned from by whole sequences from its start,
    without the rest that is shorter than one; a chunk that no window begins to score in is left out.
    """
    windows = plan_windows(num_targets, evaluation.seq_len, evaluation.stride)
    size, length, events = adapt.chunk_tokens, evaluation.seq_len, list[Event]()
    last = (num_targets - 1) // size
    borders = np.searchsorted(windows[:, 1], np.arange(last + 2) * size)
    for chunk in range(last + 1):
        if borders[chunk] == borders[chunk + 1]:
            continue
        events.append(ScoreEvent(windows[borders[chunk] : borders[chunk + 1]]))
        if chunk < last and adapt.kind != "frozen":
            events.append(UpdateEvent(sequences_of(chunk, size, length), rate_of(chunk, last, adapt)))
    return events


def sequences_of(chunk: int, size: int, length: int) -> np.ndarray:
    """Rows (start, end) of the whole sequences in a chunk of `size` targets, int64 [sequences, 2]."""
    starts = chunk * size + np.arange(size // length) * length
    return np.stack((starts, starts + length), axis=1)


def rate_of(chunk: int, last: int, adapt: Adapt) -> float:
    """Learning rate of a chunk of which there are `last` + 1."""
    return adapt.lr * (1 + math.cos(math.pi * chunk / last)) / 2


def places_of(windows: np.ndarray) -> np.ndarray:
    """The targets that windows score, window after window: int64 [targets]."""
    counts = windows[:, 2] - windows[:, 1]
    return np.repeat(windows[:, 1] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def targets_done(events: Sequence[Event]) -> np.ndarray:
    """How many targets have been scored by the end of each event, int64 [events]."""
    scored = [np.diff(event.windows[:, 1:]).sum() if isinstance(event, ScoreEvent) else 0 for event in events]
    return np.cumsum(scored, dtype=np.int64)


def unlawful(events: Sequence[Event], num_targets: int) -> str:
    """Why a plan is none: a target that is not scored exactly once, or learned from before it is; empty if it is one.

    What is learned from must have been scored whole, inputs too.
    """
    scored = np.zeros(num_targets, bool)
    for number, event in enumerate(events):
        if isinstance(event, UpdateEvent):
            for first, end in event.known.tolist():
                if end > num_targets or not scored[first:end].all():
                    return f"event {number} learns from targets {first} to {end - 1}, not all of them scored before"
            continue
        for start, first, end in event.windows.tolist():
            if not 0 <= start <= first < end <= num_targets or scored[first:end].any():
                return f"event {number} scores targets {first} to {end - 1}, which are no targets or were scored before"
            scored[first:end] = True
    missing = np.flatnonzero(~scored)
    return f"{len(missing)} targets are never scored, the first of them {missing[0]}" if len(missing) else ""
