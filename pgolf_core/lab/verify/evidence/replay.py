"""What the fresh process of `pgolf verify` does with a trace of adaptation: carry the plan out anew, blindfold.

Before each event every token that it has no business with, each one after its last target, is replaced by another.
Numbers that then equal those of the run, which read the true text, to the last bit cannot depend on later tokens.
Updates cannot be left out, since each makes the next state; scores can, and are where time is short.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgolf_core.adapting.plan import Event, ScoreEvent, UpdateEvent, plan_chunks
from pgolf_core.adapting.sgd import ChunkSGD
from pgolf_core.adapting.trace import weights_sha256
from pgolf_core.lab.verify.evidence.measure import Tell, arrays_of
from pgolf_core.packing.unpack import load_model
from pgolf_core.recipes.recipe import Recipe

PLACES = 8
"""About so many events are scored once more with everything after a place inside them replaced, too."""
SHORT_OF_TIME = 4
"""With a budget one score event of so many is replayed."""


class Replay:
    """One pass over the plan from the file; afterwards `nats` {event: float64 [windows]} and `states`."""

    def __init__(self, path: Path | str, tokens: np.ndarray, recipe: Recipe, veiled: bool):
        self.learner = ChunkSGD(load_model(path), recipe)
        weight = next(iter(self.learner.named.values()))
        self.true = torch.from_numpy(np.asarray(tokens).astype(np.int64)).to(weight.device)
        self.stream = (self.true + 1) % self.learner.model.config.vocab_size if veiled else self.true.clone()
        self.losses = torch.zeros(len(tokens) - 1, device=weight.device)
        self.nats: dict[int, np.ndarray] = {}
        self.states = [self._state()]
        self.changed = self.compared = self.later_changed = 0

    def _state(self) -> str:
        return weights_sha256({name: p.detach().cpu() for name, p in self.learner.named.items()})

    def _show(self, last_token: int) -> None:
        """Let the text be known up to a token."""
        self.stream[: last_token + 1] = self.true[: last_token + 1]

    def _score(self, event: ScoreEvent) -> Tensor:
        self.learner.score(event, self.stream, self.losses)
        return self.losses[slice(*event.targets)].clone()

    def carry_out(self, number: int, event: Event, is_drawn: bool, place: int | None) -> None:
        """One event; all after token `place`, inside it, are replaced for a score before the one that counts."""
        if isinstance(event, UpdateEvent):
            self.learner.update(event, self.stream)
            self.states.append(self._state())
            return
        first, end = event.targets
        early = None
        if place is not None and is_drawn:
            self._show(place)
            early = self._score(event)
        self._show(end)  # a chunk is known once its turn has come, whether its score is replayed or not
        if not is_drawn:
            return
        found = self._score(event)
        if early is not None and place is not None:  # target i is token i+1
            same = early.view(torch.int32) == found.view(torch.int32)
            self.changed += int((~same[: place - first]).sum())
            self.later_changed += int((~same[place - first :]).sum())
            self.compared += place - first
        begins = event.windows[:, 1] - first
        self.nats[number] = np.add.reduceat(found.cpu().numpy(), begins, dtype=np.float64)

    def differing(self, other: Replay) -> int:
        """How many scores of events, and states, are not the same bits in both."""
        scores = sum(not np.array_equal(nats, other.nats[number]) for number, nats in self.nats.items())
        return scores + sum(here != there for here, there in zip(self.states, other.states, strict=True))


def trace_of(path: Path | str, events: Sequence[Event]) -> dict[str, np.ndarray]:
    """adapt.npz of a plan of these events: `events`, `states`, `nats`, `seconds`; UserError for anything else."""
    windows = sum(len(event.windows) for event in events if isinstance(event, ScoreEvent))
    states = 1 + sum(isinstance(event, UpdateEvent) for event in events)
    forms: dict[str, tuple[type, tuple[int, ...]]] = {
        "events": (np.int64, (len(events), 5)), "states": (np.uint8, (states, 32)), "nats": (np.float64, (windows,)),
        "seconds": (np.float64, (len(events),)),
    }  # fmt: skip
    return arrays_of(path, forms, "trace", f"{len(events):,} events")


def replay(
    path: Path | str, tokens: np.ndarray, recipe: Recipe, trace_path: Path | str, budget_seconds: float | None,
    sample_seed: int, tell: Tell,
) -> dict[str, Any]:  # fmt: skip
    """Hold a trace against the plan carried out anew from the file, whole or as far as a budget of seconds reaches.

    {"events", "of"}: replayed events, and all. {"windows", "differ", "apart"}: windows held against the trace, how many
    differ in any bit, by how many nats at most. {"mean_nats"} of a window. {"states", "states_differ"}: hashes
    likewise, "file_differs" of the file's own. {"compared", "changed", "later_changed"}: targets before a replaced
    token inside an event, and how many before and after it change. {"leaks"}: where the trace cannot show it, how many
    scores and states differ between this pass and one with the true text, else None; {"unsteady"}: and between two
    such, where any did. {"seconds"}. {"per_token"}: nats of all targets, float32, or None.
    """
    t_start = time.monotonic()
    events = plan_chunks(len(tokens) - 1, recipe.eval, recipe.adapt)
    kept = trace_of(trace_path, events)
    draw = np.random.default_rng(sample_seed)
    scores = [number for number, event in enumerate(events) if isinstance(event, ScoreEvent)]
    drawn = set(scores) if budget_seconds is None else {0, *(n for n in scores if draw.random() < 1 / SHORT_OF_TIME)}
    inside = {n: (events[n].targets[0] + 1, events[n].targets[1]) for n in scores}
    places = {n: int(draw.integers(*inside[n])) for n in scores
              if inside[n][0] < inside[n][1] and (n == 0 or draw.random() < PLACES / len(scores))}  # fmt: skip
    blind = Replay(path, tokens, recipe, veiled=True)
    reached = 0
    while reached < len(events):
        blind.carry_out(reached, events[reached], reached in drawn, places.get(reached))
        reached += 1
        tell(events[reached - 1].targets[1], len(tokens) - 1)
        if budget_seconds is not None and time.monotonic() - t_start > budget_seconds:
            break
    sizes = [len(event.windows) if isinstance(event, ScoreEvent) else 0 for event in events]
    first = np.concatenate(([0], np.cumsum(sizes)))
    told = {n: kept["nats"][first[n] : first[n + 1]] for n in blind.nats}
    states = [bytes(row).hex() for row in kept["states"][: len(blind.states)]]
    apart = np.concatenate([np.abs(nats - told[n]) for n, nats in blind.nats.items()])
    wrong = sum(here != there for here, there in zip(blind.states[1:], states[1:], strict=True))
    leaks, unsteady = None, 0
    if apart.any() or wrong:

        def with_true_text() -> Replay:
            one = Replay(path, tokens, recipe, veiled=False)
            for number in range(reached):
                one.carry_out(number, events[number], number in blind.nats, None)
            return one

        sighted = with_true_text()
        leaks = blind.differing(sighted)
        unsteady = with_true_text().differing(sighted) if leaks else 0
    return {
        "events": reached, "of": len(events), "windows": len(apart), "differ": int((apart != 0).sum()),
        "apart": float(apart.max()), "mean_nats": float(kept["nats"].mean()), "mean_apart": float(apart.mean()),
        "file_differs": blind.states[0] != states[0], "states": len(states) - 1, "states_differ": wrong,
        "compared": blind.compared, "changed": blind.changed, "later_changed": blind.later_changed,
        "leaks": leaks, "unsteady": unsteady,
        "sample_seed": sample_seed, "seconds": time.monotonic() - t_start, "whole": budget_seconds is None,
        "per_token": blind.losses.cpu().numpy() if len(apart) == len(kept["nats"]) else None,
    }  # fmt: skip
