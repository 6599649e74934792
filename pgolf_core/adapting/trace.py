"""A plan carried out on a packed file, and the trace of it: which targets were scored under which state of the weights.

A state is the SHA-256 of what an update leaves: of all weights, or of the adapters that it changes. State 0 is the
file's own; each update makes the next.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgolf_core.adapting.documents import documents_in, plan_documents
from pgolf_core.adapting.lora import DocumentLoRA
from pgolf_core.adapting.plan import Event, ScoreEvent, UpdateEvent, places_of, plan_chunks, targets_done, unlawful
from pgolf_core.adapting.sgd import ChunkSGD
from pgolf_core.adapting.tilt import hints_of
from pgolf_core.adapting.told import Learned, rescored
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.score import Progress, Score
from pgolf_core.packing.unpack import load_model
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Adapted(Learned):
    """The score of weights that learned from each chunk after it was scored, and the trace of that.

    `arrays`: `events` (`event_rows`), `states` (uint8 [states, 32]), `nats` (float64 [windows]) and `seconds` (float64
    [events]), all in the plan's order.
    """

    states: list[str]
    """SHA-256 of the weights, hexadecimal: the file's own, then after each update."""
    pieces: np.ndarray
    """`pieces_of` the plan."""


def plan_of(tokens: np.ndarray, recipe: Recipe) -> list[Event]:
    """The recipe's plan for a stream (integers [n])."""
    if recipe.adapt.kind == "lora":
        return plan_documents(tokens, recipe.eval, recipe.adapt)
    return plan_chunks(len(tokens) - 1, recipe.eval, recipe.adapt)


def learner_of(path: Path | str, tokens: np.ndarray, events: Sequence[Event], recipe: Recipe, world: World) -> Any:
    """What carries the plan out, from a packed file's weights on: a ChunkSGD or a DocumentLoRA."""
    learner: Any = (DocumentLoRA if recipe.adapt.kind == "lora" else ChunkSGD)(load_model(path), recipe, world)
    if recipe.adapt.tilt != "off":
        order = np.concatenate([np.arange(first, end) for first, end in pieces_of(tokens, events).tolist()])
        hints = np.empty(len(order), np.int64)
        hints[order] = hints_of(tokens[1:][order], recipe.adapt)
        learner.hints = torch.from_numpy(hints).to(next(iter(learner.named.values())).device)
    return learner


def pieces_of(tokens: np.ndarray, events: Sequence[Event]) -> np.ndarray:
    """Rows (first target, end), int64 [pieces, 2], in the order in which they count as scored: chunks of the text, or
    documents, those side by side one after another, since none of a group learns from another."""
    scores = [event for event in events if isinstance(event, ScoreEvent)]
    if not scores[0].anew:
        return np.array([event.targets for event in scores])
    ends = dict(documents_in(tokens).tolist())
    begins = np.concatenate([event.windows[:, 1] for event in scores if event.anew])
    return np.stack((begins, [ends[begin] for begin in begins.tolist()]), axis=1)


def event_rows(events: Sequence[Event]) -> np.ndarray:
    """(1 for an update, first target, end, state before, state after) of every event, int64 [events, 5]."""
    rows: list[tuple[int, ...]] = []
    state = lasting = states = 0
    for event in events:
        is_update = isinstance(event, UpdateEvent)
        if event.for_all if isinstance(event, UpdateEvent) else event.anew:
            state = lasting
        states += is_update
        rows.append((int(is_update), *event.targets, state, states if is_update else state))
        state = rows[-1][-1]
        if isinstance(event, UpdateEvent) and event.for_all:
            lasting = state
    return np.array(rows, np.int64)


def scored_windows(events: Sequence[Event]) -> np.ndarray:
    """Rows (start, first scored, end) of all events, in their order: int64 [windows, 3]."""
    return np.concatenate([event.windows for event in events if isinstance(event, ScoreEvent)])


def nats_of(windows: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Nats of what each window scored, float64 [windows]; `scored` has those of `places_of` the windows, float32."""
    counts = windows[:, 2] - windows[:, 1]
    return np.add.reduceat(scored, np.cumsum(counts) - counts, dtype=np.float64)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 over names and bytes of CPU tensors, in their order."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def adapt_artifact(
    path: Path | str, recipe: Recipe, tokens: np.ndarray, frozen: Score, *, world: World = ALONE,
    checkpoint: Checkpoint | None = None, progress: Progress | None = None,
) -> Adapted:  # fmt: skip
    """Carry out the recipe's plan on a packed file and a token stream (uint16 [n], targets are tokens 1..n-1).

    `frozen` is the sliding score of the same file and stream. With a `checkpoint` (made of the file's hash) it goes on
    from the update that was saved last, to the same bits; seconds are of all attempts. UserError where a number is not
    finite.
    """
    t_start = time.perf_counter()
    events = plan_of(tokens, recipe)
    fault = unlawful(events, frozen.tokens)
    assert not fault, fault
    learner = learner_of(path, tokens, events, recipe, world)
    device = next(iter(learner.named.values())).device
    stream, losses = torch.from_numpy(tokens.astype(np.int64)).to(device), torch.zeros(frozen.tokens, device=device)
    about = checkpoint.load({**learner.tensors(), "losses": losses}) if checkpoint else None
    about = about or {"step": 0, "states": [], "seconds": []}
    states, seconds = about["states"], about["seconds"]
    earlier_seconds = sum(seconds)
    pending: list[Future[str]] = []
    with ThreadPoolExecutor(1) as hashing:

        def note_state() -> None:
            """Hash a copy beside the next event; the one before it must be done, so that copies do not pile up."""
            states.extend(one.result() for one in pending)
            pending[:] = [hashing.submit(weights_sha256, learner.snapshot())]

        if not states:
            note_state()
        done = targets_done(events)
        for number in range(about["step"], len(events)):
            event = events[number]
            if isinstance(event, ScoreEvent):
                learner.score(event, stream, losses)
                if progress is not None:
                    progress(int(done[number]), frozen.tokens)
            else:
                learner.update(event, stream)
                note_state()
            seconds.append(time.perf_counter() - t_start)
            if checkpoint and checkpoint.is_due() and event.rests:
                made = [*states, *(one.result() for one in pending)]
                live = {**learner.tensors(), "losses": losses}
                checkpoint.save(live, {"step": number + 1, "states": made, "seconds": seconds})
            t_start = time.perf_counter()
        states.extend(one.result() for one in pending)
    per_token, windows = losses.cpu().numpy(), scored_windows(events)
    score = rescored(
        frozen, per_token, sum(seconds), windows=len(windows), seq_len=int((windows[:, 2] - windows[:, 0]).max()),
        stride=int(np.median(windows[:, 2] - windows[:, 1])),
    )  # fmt: skip
    arrays = {
        "events": event_rows(events), "states": np.array([list(bytes.fromhex(state)) for state in states], np.uint8),
        "nats": nats_of(windows, per_token[places_of(windows)]), "seconds": np.array(seconds),
    }  # fmt: skip
    return Adapted(score, f"updates:{len(states) - 1}", arrays, earlier_seconds, states, pieces_of(tokens, events))
