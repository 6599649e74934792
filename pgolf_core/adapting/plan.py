"""Score-first adaptation as a plan of events: what is scored, and what is learned from, in which order.

A plan is a pure function of lengths and settings. An event is all that a state of the weights is asked for: windows to
score, or sequences to be trained on by what follows. Target i of a stream is its token i+1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgolf_core.network.score import plan_windows
from pgolf_core.recipes.recipe import Adapt, Eval


@dataclass(frozen=True, eq=False)
class ScoreEvent:
    """Windows that are scored under the weights as they are."""

    windows: np.ndarray
    """Rows (start, first scored, end) of `plan_windows`, int64 [windows, 3]; neighbours."""

    @property
    def targets(self) -> tuple[int, int]:
        """The first target that is scored, and the end."""
        return int(self.windows[0, 1]), int(self.windows[-1, 2])


@dataclass(frozen=True, eq=False)
class UpdateEvent:
    """Sequences that the weights learn from."""

    sequences: np.ndarray
    """Rows (start, end), int64 [sequences, 2]: inputs start..end-1, and the target of each."""
    rate: float
    """Learning rate."""

    @property
    def targets(self) -> tuple[int, int]:
        """The first target that is learned from, and the end."""
        return int(self.sequences[0, 0]), int(self.sequences[-1, 1])


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
        if chunk < last:
            starts = chunk * size + np.arange(size // length) * length
            rate = adapt.lr * (1 + math.cos(math.pi * chunk / last)) / 2
            events.append(UpdateEvent(np.stack((starts, starts + length), axis=1), rate))
    return events


def unlawful(events: Sequence[Event], num_targets: int) -> str:
    """Why a plan is none: a target that is not scored exactly once, or learned from before it is; empty if it is one.

    What is learned from must have been scored whole, inputs too: token i is known once target i-1 is.
    """
    scored = np.zeros(num_targets, bool)
    for number, event in enumerate(events):
        if isinstance(event, UpdateEvent):
            for start, end in event.sequences.tolist():
                if end > num_targets or not scored[max(start - 1, 0) : end].all():
                    return f"event {number} learns from targets {start} to {end - 1}, not all of them scored before"
            continue
        for start, first, end in event.windows.tolist():
            if not 0 <= start <= first < end <= num_targets or scored[first:end].any():
                return f"event {number} scores targets {first} to {end - 1}, which are no targets or were scored before"
            scored[first:end] = True
    missing = np.flatnonzero(~scored)
    return f"{len(missing)} targets are never scored, the first of them {missing[0]}" if len(missing) else ""
