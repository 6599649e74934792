"""What the fresh process of `pgolf verify` does with a trace of adaptation: carry the plan out anew, blindfold; and a
mixture with n-grams likewise, held against its definition.

Before each event every token that it has no business with, each one after its last target, is replaced by another.
Numbers that then equal those of the run, which read the true text, to the last bit cannot depend on later tokens.
Where documents begin stays in sight: a plan by documents is made of that.
Updates cannot be left out, since each makes the next state; scores can, and are where time is short.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgolf_core.adapting.mixture import in_nats, mix, mixed_nats
from pgolf_core.adapting.plan import Event, ScoreEvent, UpdateEvent, places_of, targets_done
from pgolf_core.adapting.tilt import hints_of, tilted
from pgolf_core.adapting.trace import learner_of, nats_of, pieces_of, plan_of, weights_sha256
from pgolf_core.base.files import UserError
from pgolf_core.base.parallel import ALONE
from pgolf_core.lab.verify.evidence.measure import arrays_of, stream_of
from pgolf_core.network.documents import own_documents
from pgolf_core.network.model import GPT
from pgolf_core.network.score import Progress, plan_windows
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.tokenizer import BOS

PLACES = 8
"""About so many events are scored once more with everything after a place inside them replaced, too."""
HINT_PLACES = 2
"""So many times the hints of a tilt are made again, with all tokens from some place on replaced."""
MIX_PLACES = 16
"""So many targets have all their next tokens' probabilities added up, as a mixture gives them."""
BLIND_PLACES = 3
"""After so many targets everything later is replaced, and the mixture carried out once more."""
SHORT_OF_TIME = 4
"""With a budget one score event of so many is replayed."""


class Replay:
    """One pass over the plan from the file; afterwards `nats` {event: float64 [windows]} and `states`."""

    def __init__(self, path: Path | str, tokens: np.ndarray, events: Sequence[Event], recipe: Recipe, veiled: bool):
        self.learner, self.recipe = learner_of(path, tokens, events, recipe, ALONE), recipe
        self.true = stream_of(self.learner.model, tokens)
        self.stream = self.true.clone()
        if veiled:
            self.stream = veil(self.true, self.learner.model.config.vocab_size, recipe.adapt.kind == "lora")
        self.sums: list[float] = []
        self.beside = 0.0
        self.losses = torch.zeros(len(tokens) - 1, device=self.true.device)
        self.nats: dict[int, np.ndarray] = {}
        self.states = [self._state()]
        self.changed = self.compared = self.later_changed = 0

    def _state(self) -> str:
        return weights_sha256(self.learner.snapshot())

    def _show(self, first: int, end: int) -> None:
        """Let some targets be known, and what they follow."""
        self.stream[first : end + 1] = self.true[first : end + 1]

    def _score(self, event: ScoreEvent) -> Tensor:
        self.learner.score(event, self.stream, self.losses)
        return self.losses[slice(*event.stretch)].clone()

    def _sum_up(self, event: ScoreEvent) -> None:
        """Sum the probabilities of all tokens in the place of one target, one with a hint if there is any, and note how
        far its own is from its score."""
        hints, target = self.learner.hints, event.stretch[0]
        if hints is not None:
            places = places_of(event.windows)
            hinted = places[(hints[places] >= 0).cpu().numpy()]
            target = int(hinted[0]) if len(hinted) else target
        nats = -self.learner.log_probabilities(event, self.stream, target)
        if hints is not None and (hint := int(hints[target])) >= 0:
            is_hint = torch.arange(len(nats), device=nats.device) == hint
            nats = tilted(nats, nats[hint], is_hint, self.recipe.adapt.tilt_boost)
        self.sums.append(float(nats.neg().exp().sum()))
        scored = float(self.losses[target])
        self.beside = max(self.beside, abs(float(nats[self.true[target + 1]]) - scored))

    def carry_out(self, number: int, event: Event, is_drawn: bool, place: int | None) -> None:
        """One event; all after token `place`, inside it, are replaced for a score before the one that counts."""
        if isinstance(event, UpdateEvent):
            self.learner.update(event, self.stream)
            self.states.append(self._state())
            return
        self.learner.enter(event)
        first, early = event.stretch[0], None
        if place is not None and is_drawn:
            self._show(first, place)
            early = self._score(event)
        for _, begin, end in event.windows.tolist():  # known once its turn has come, whether its score is replayed
            self._show(begin, end)
        if not is_drawn:
            return
        found = self._score(event)
        if early is not None and place is not None:  # target i is token i+1
            self._sum_up(event)
            same = early.view(torch.int32) == found.view(torch.int32)
            self.changed += int((~same[: place - first]).sum())
            self.later_changed += int((~same[place - first :]).sum())
            self.compared += place - first
        self.nats[number] = nats_of(event.windows, self.losses[places_of(event.windows)].cpu().numpy())

    def differing(self, other: "Replay") -> int:
        """How many scores of events, and states, are not the same bits in both."""
        scores = sum(not np.array_equal(nats, other.nats[number]) for number, nats in self.nats.items())
        return scores + sum(here != there for here, there in zip(self.states, other.states, strict=True))


def veil(true: Tensor, vocabulary: int, keeps_starts: bool) -> Tensor:
    """Another token for each; where documents begin only if these need not stay in sight. int64 [tokens]."""
    other = (true + 1) % vocabulary
    if not keeps_starts:
        return other
    other[other == BOS] = (BOS + 1) % vocabulary
    return torch.where(true == BOS, true, other)


def changed_hints(
    tokens: np.ndarray, events: Sequence[Event], recipe: Recipe, draw: np.random.Generator
) -> dict[str, int]:
    """{"hints": how many there are, "hints_compared", "hints_changed"}: up to some targets, when all tokens from each
    on, in the order of the scores, are others. {} where nothing is tilted."""
    if recipe.adapt.tilt == "off":
        return {}
    pieces = pieces_of(tokens, events).tolist()
    text = np.concatenate([tokens[first + 1 : end + 1] for first, end in pieces]).astype(np.int64)
    hints, found = hints_of(text, recipe.adapt), {"hints_compared": 0, "hints_changed": 0}
    for place in draw.integers(1, len(text), HINT_PLACES).tolist():
        other = np.concatenate((text[:place], (text[place:] + 1) % recipe.model.vocab_size))
        found["hints_changed"] += int((hints_of(other, recipe.adapt) != hints)[: place + 1].sum())
        found["hints_compared"] += place + 1
    return {"hints": int((hints >= 0).sum()), **found}


def trace_of(path: Path | str, events: Sequence[Event]) -> dict[str, np.ndarray]:
    """adapt.npz of a plan of these events: `events`, `states`, `nats`, `seconds`; Broken for anything else."""
    windows = sum(len(event.windows) for event in events if isinstance(event, ScoreEvent))
    states = 1 + sum(isinstance(event, UpdateEvent) for event in events)
    return arrays_of(
        path, "trace", f"{len(events):,} events", events=(np.int64, len(events), 5), states=(np.uint8, states, 32),
        nats=(np.float64, windows), seconds=(np.float64, len(events)),
    )  # fmt: skip


def replay(
    path: Path | str, tokens: np.ndarray, recipe: Recipe, trace_path: Path | str, budget_seconds: float | None,
    sample_seed: int, tell: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Hold a trace against the plan carried out anew from the file, whole or as far as a budget of seconds reaches.

    {"events", "of"}: replayed events, and all. {"windows", "differ", "apart"}: windows held against the trace, how many
    differ in any bit, by how many nats at most. {"mean_nats"} of a window. {"states", "states_differ"}: hashes
    likewise, "file_differs" of the file's own. {"compared", "changed", "later_changed"}: targets before a replaced
    token inside an event, and how many before and after it change. {"leaks"}: where the trace cannot show it, how many
    scores and states differ between this pass and one with the true text, else None; {"unsteady"}: and between two
    such, where any did. {"sums"} of probabilities over the vocabulary in some places, and by how many nats a target's
    own is {"beside"} its score at most. `changed_hints`. {"seconds"}. {"per_token"}: nats of all targets, float32, or
    None.
    """
    t_start = time.monotonic()
    events = plan_of(tokens, recipe)
    kept = trace_of(trace_path, events)
    draw = np.random.default_rng(sample_seed)
    scores = {number: event for number, event in enumerate(events) if isinstance(event, ScoreEvent)}
    drawn = set(scores) if budget_seconds is None else {0, *(n for n in scores if draw.random() < 1 / SHORT_OF_TIME)}
    inside = {n: (event.stretch[0] + 1, event.stretch[1]) for n, event in scores.items()}
    places = {n: int(draw.integers(*inside[n])) for n in scores
              if inside[n][0] < inside[n][1] and (n == 0 or draw.random() < PLACES / len(scores))}  # fmt: skip
    blind, done = Replay(path, tokens, events, recipe, veiled=True), targets_done(events)
    for reached, event in enumerate(events, 1):
        blind.carry_out(reached - 1, event, reached - 1 in drawn, places.get(reached - 1))
        tell(int(done[reached - 1]), len(tokens) - 1)
        if budget_seconds is not None and time.monotonic() - t_start > budget_seconds:
            break
    ends = np.cumsum([len(event.windows) for event in scores.values()])
    told = dict(zip(scores, np.split(kept["nats"], ends[:-1]), strict=True))
    states = [bytes(row).hex() for row in kept["states"][: len(blind.states)]]
    apart = np.concatenate([np.abs(nats - told[n]) for n, nats in blind.nats.items()])
    wrong = sum(here != there for here, there in zip(blind.states[1:], states[1:], strict=True))
    leaks, unsteady = None, 0
    if apart.any() or wrong:

        def with_true_text() -> Replay:
            one = Replay(path, tokens, events, recipe, veiled=False)
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
        "leaks": leaks, "unsteady": unsteady, "sums": blind.sums, "beside": blind.beside,
        **changed_hints(tokens, events, recipe, draw),
        "sample_seed": sample_seed, "seconds": time.monotonic() - t_start, "whole": budget_seconds is None,
        "per_token": blind.losses.cpu().numpy() if len(apart) == len(kept["nats"]) else None,
    }  # fmt: skip


# ---------------------------------------------------------------------- a mixture with n-grams


def mixed_windows(path: Path | str, windows: int) -> dict[str, np.ndarray]:
    """adapt.npz of a mixed score: `mixed` and `mix_seconds`; Broken for anything else."""
    plan = f"{windows:,} windows"
    return arrays_of(path, "mixture", plan, mixed=(np.float64, windows), mix_seconds=(np.float64, 1))


def whole_distribution(
    model_p: np.ndarray, tokens: np.ndarray, target: int, shares: np.ndarray, recipe: Recipe
) -> np.ndarray:
    """The mixture's probability of every token as a target, float64 [vocab_size], by the definition, slowly.

    Only tokens 0..target are read. `shares` [contexts] are the target's: of the document's n-grams, then of all.
    """
    known, discount, p = tokens[: target + 1].astype(np.int64), recipe.adapt.mix_discount, model_p
    document = np.cumsum(known == BOS)
    lengths = [(length, True) for length in range(1, recipe.adapt.mix_document_order)]
    lengths += [(length, False) for length in range(1, recipe.adapt.mix_order)]
    for (length, within), share in zip(lengths, shares.tolist(), strict=True):
        if length > target + 1:
            continue
        same = np.ones(len(known) - length, bool)  # whether the tokens before token length, length + 1, ... are these
        for back in range(1, length + 1):
            same &= known[length - back : len(known) - back] == known[-back]
        if within:
            same &= document[length - 1 : -1] == document[-1]
        counts = np.bincount(known[length:][same], minlength=len(p))
        if counts.any():
            spared = discount * np.count_nonzero(counts)
            p = (1 - share) * p + share * (np.maximum(counts - discount, 0) + spared * p) / counts.sum()
    return p


@torch.inference_mode()
def model_distribution(model: GPT, tokens: np.ndarray, target: int, recipe: Recipe) -> np.ndarray:
    """The model's probability of every token as a target, float64 [vocab_size], in the target's window."""
    windows = plan_windows(len(tokens) - 1, recipe.eval.seq_len, recipe.eval.stride)
    start = int(windows[np.searchsorted(windows[:, 2], target, side="right"), 0])
    ids = stream_of(model, tokens[start : target + 1])[None]
    documents = own_documents(ids) if recipe.eval.document_mask else None
    return model.logits(ids, segments=documents)[0, -1].log_softmax(-1).double().exp().cpu().numpy()


def remix(
    model: GPT, tokens: np.ndarray, recipe: Recipe, trace_path: Path | str, nats: np.ndarray | None, sample_seed: int
) -> dict[str, Any]:
    """Hold a trace's mixture against one of the model's `nats` taken anew (float32 [targets]), and that against itself.

    {"windows", "differ", "apart", "mean_nats"}: as of a replay. {"sums"}: of all next tokens' probability at drawn
    targets. {"definition"}: by how much, relatively, the probability of a drawn target differs from its definition, at
    most. {"compared", "changed", "later_changed"}: targets before and after a place from which on tokens and the
    model's nats were others. UserError where there are no nats of all targets.
    """
    if nats is None:
        raise UserError("the mixture needs the model's score of every target; give more --budget-seconds, or none")
    windows = plan_windows(len(nats), recipe.eval.seq_len, recipe.eval.stride)
    kept = mixed_windows(trace_path, len(windows))["mixed"]
    p, shares = mix(tokens, nats, recipe)
    found = in_nats(p)
    apart = np.abs(np.add.reduceat(found, windows[:, 1], dtype=np.float64) - kept)
    vocab_size, draw, sums, wrong = recipe.model.vocab_size, np.random.default_rng(sample_seed), [], []
    for target in draw.choice(len(nats), min(MIX_PLACES, len(nats)), replace=False).tolist():
        model_p, y = model_distribution(model, tokens, target, recipe), int(tokens[target + 1])
        sums.append(float(whole_distribution(model_p, tokens, target, shares[:, target], recipe).sum()))
        model_p[y] = np.exp(-np.float64(nats[target]))  # as it was scored
        mixed_p = whole_distribution(model_p, tokens, target, shares[:, target], recipe)
        wrong.append(abs(float(mixed_p[y] / p[target]) - 1))
    told = {"compared": 0, "changed": 0, "later_changed": 0}
    for place in draw.integers(0, len(nats), BLIND_PLACES).tolist():
        others, other_nats = tokens.copy(), nats.copy()
        others[place + 1 :] = (others[place + 1 :].astype(np.int64) * 7 + 1) % vocab_size
        other_nats[place:] += 1
        same = mixed_nats(others, other_nats, recipe).view(np.int32) == found.view(np.int32)
        told["compared"] += place
        told["changed"] += int((~same[:place]).sum())
        told["later_changed"] += int((~same[place:]).sum())
    return {
        "windows": len(windows), "differ": int((apart != 0).sum()), "apart": float(apart.max()),
        "mean_nats": float(kept.mean()), "sums": sums, "definition": max(wrong), "sample_seed": sample_seed, **told,
    }  # fmt: skip
