"""A plan carried out on a packed file, and the trace of it: which targets were scored under which state of the weights.

A state is the SHA-256 of all weights. State 0 is the file's own; each update makes the next.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgolf_core.adapting.mixture import Mixed, mix_score
from pgolf_core.adapting.plan import Event, ScoreEvent, UpdateEvent, plan_chunks, unlawful
from pgolf_core.adapting.sgd import ChunkSGD
from pgolf_core.base.files import sha256_file, write_bytes
from pgolf_core.base.names import ADAPT_TRACE
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.score import EVALUATION_SECONDS, Progress, Score, bits_per_byte
from pgolf_core.packing.unpack import load_model
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Adapted:
    """The score of weights that learned from each chunk after it was scored, and the trace of that."""

    score: Score
    """Its seconds are those of the events, updates included."""
    states: list[str]
    """SHA-256 of the weights, hexadecimal: the file's own, then after each update."""
    rows: np.ndarray
    """`event_rows` of the plan."""
    event_seconds: list[float]
    """Wall time of each event."""
    earlier_seconds: float
    """How many of them belong to attempts that ended early."""

    def write(self, folder: Path) -> dict[str, Any]:
        """Write adapt.npz, and return what result.json says of it.

        Arrays: `events` (`event_rows`), `states` (uint8 [states, 32]), `nats` (float64 [windows], as the sliding
        score's plan has them) and `seconds` (float64 [events]).
        """
        file, score = io.BytesIO(), self.score
        states = np.array([list(bytes.fromhex(state)) for state in self.states], np.uint8)
        np.savez(file, events=self.rows, states=states, nats=score.window_nats, seconds=np.array(self.event_seconds))
        write_bytes(folder / ADAPT_TRACE, file.getvalue())
        digest = sha256_file(folder / ADAPT_TRACE)
        return {"adapted_bpb": score.bpb, "adapted_loss": score.loss_nats_per_token, "adapt_sha256": digest}

    def lines(self, scoring_seconds: float) -> list[str]:
        """How train.log tells it; `scoring_seconds` is what the scores of the file's own weights took."""
        score, spent = self.score, scoring_seconds + self.score.seconds
        loss, bpb = score.loss_nats_per_token, score.bpb
        window = f"stride:{score.stride} seq_len:{score.seq_len} eval_time:{score.seconds * 1000:.0f}ms"
        if spent > EVALUATION_SECONDS:
            window += f" over_the_cap:{spent * 1000:.0f}ms of {EVALUATION_SECONDS * 1000:.0f}ms does not count"
        return [
            f"final_adapted val_loss:{loss:.4f} val_bpb:{bpb:.4f} updates:{len(self.states) - 1} {window}",
            f"final_adapted_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}",
        ]


def event_rows(events: Sequence[Event]) -> np.ndarray:
    """(1 for an update, first target, end, state before, state after) of every event, int64 [events, 5]."""
    rows: list[tuple[int, ...]] = []
    state = 0
    for event in events:
        is_update = int(isinstance(event, UpdateEvent))
        rows.append((is_update, *event.targets, state, state + is_update))
        state += is_update
    return np.array(rows, np.int64)


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
    events = plan_chunks(frozen.tokens, recipe.eval, recipe.adapt)
    fault = unlawful(events, frozen.tokens)
    assert not fault, fault
    learner = ChunkSGD(load_model(path), recipe, world)
    device = next(iter(learner.named.values())).device
    stream, losses = torch.from_numpy(tokens.astype(np.int64)).to(device), torch.zeros(frozen.tokens, device=device)
    live = {**learner.tensors(), "losses": losses}
    about = checkpoint.load(live) if checkpoint else None
    about = about or {"step": 0, "states": [], "seconds": []}
    states, seconds = about["states"], about["seconds"]
    earlier_seconds = sum(seconds)
    pending: list[Future[str]] = []
    with ThreadPoolExecutor(1) as hashing:

        def note_state() -> None:
            """Hash a copy beside the next event; the one before it must be done, so that copies do not pile up."""
            states.extend(one.result() for one in pending)
            copies = {name: p.detach().to("cpu", copy=True) for name, p in learner.named.items()}
            pending[:] = [hashing.submit(weights_sha256, copies)]

        if not states:
            note_state()
        for number in range(about["step"], len(events)):
            event, t_start = events[number], time.perf_counter()
            if isinstance(event, ScoreEvent):
                learner.score(event, stream, losses)
                if progress is not None:
                    progress(event.targets[1], frozen.tokens)
            else:
                learner.update(event, stream)
                note_state()
            seconds.append(time.perf_counter() - t_start)
            if checkpoint and checkpoint.is_due() and isinstance(event, UpdateEvent):
                made = [*states, *(one.result() for one in pending)]
                checkpoint.save(live, {"step": number + 1, "states": made, "seconds": seconds})
        states.extend(one.result() for one in pending)
    score = _scored(frozen, losses.cpu().numpy(), sum(seconds))
    return Adapted(score, states, event_rows(events), seconds, earlier_seconds)


def _scored(frozen: Score, per_token: np.ndarray, seconds: float) -> Score:
    """The same windows and targets with other nats."""
    nats = float(per_token.sum(dtype=np.float64))
    return dataclasses.replace(
        frozen, bpb=bits_per_byte(nats, frozen.bytes), loss_nats_per_token=nats / frozen.tokens, nats=nats,
        seconds=seconds, per_token_nats=per_token,
    )  # fmt: skip


def adapt_seed(
    path: Path, recipe: Recipe, tokens: np.ndarray, frozen: Score, seconds: dict[str, float], lines: list[str],
    world: World,
) -> dict[str, Any]:  # fmt: skip
    """What a script does after its sliding score, `frozen`: adapts the file, adds to the log's `lines` and to the
    `seconds` by part, writes the trace beside the file; returns what result.json says of it."""
    adapted: Adapted | Mixed = adapt_artifact(path, recipe, tokens, frozen, world=world)
    if recipe.adapt.mix != "off" and world.first:
        adapted = mix_score(recipe, tokens, adapted.score, adapted)
    lines += adapted.lines(seconds["scoring"])
    seconds["adapting"] = adapted.score.seconds
    return adapted.write(path.parent) if world.first else {}
