"""Adaptation by plain SGD of all weights (PR 1493): what an event of the plan does to them."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pgolf_core.adapting.plan import Event, ScoreEvent, UpdateEvent
from pgolf_core.adapting.tilt import tilted
from pgolf_core.base.device import autocasting
from pgolf_core.base.files import UserError
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.documents import own_documents
from pgolf_core.network.model import GPT
from pgolf_core.network.score import batches_of, nats_in_parts
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.training.optim import clip_gradients


class ChunkSGD:
    """A network in eval mode that scores and learns; nothing is ever reset, and the momentum begins at zero.

    With several ranks each has one of these. They share out the windows of an event and the sequences of a step, by
    number, so the weights are those of one rank but for the order in which a gradient is summed.
    """

    def __init__(self, model: GPT, recipe: Recipe, world: World = ALONE):
        self.model, self.recipe, self.world = model, recipe, world
        self.named: dict[str, Tensor] = dict(model.named_parameters())
        self.hints: Tensor | None = None  # int64 [targets], -1 for none
        self.optimizer = torch.optim.SGD(model.parameters(), momentum=recipe.adapt.momentum)
        for parameter in self.named.values():
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def enter(self, event: ScoreEvent) -> None:
        """Nothing: an event's score changes no weight."""

    def score(self, event: ScoreEvent, stream: Tensor, losses: Tensor) -> None:
        """Write nats of the event's targets into `losses` [targets]; `stream` is int64 [tokens] on the device."""
        evaluation, schedule = self.recipe.eval, self.recipe.schedule
        found = losses[slice(*event.targets)].fill_(math.nan)
        batches = batches_of(event.windows, evaluation.batch_seqs)[self.world.rank :: self.world.size]
        for places, nats in nats_in_parts(self.model, stream, batches, schedule.autocast, evaluation.document_mask):
            losses[places] = nats
        for windows in batches if self.hints is not None else ():
            self._tilt(windows, stream, losses)
        self.world.fill_(found)
        if not math.isfinite(float(found.sum())):
            raise UserError(f"adapting: the score of {self._told(event)} is not finite; lower adapt.lr")

    @torch.inference_mode()
    def _tilt(self, windows: np.ndarray, stream: Tensor, losses: Tensor) -> None:
        """Tilt the nats of alike windows' targets where there is a hint: with its own nats, of a pass for it."""
        assert self.hints is not None
        start, first, end = torch.from_numpy(windows).to(stream.device).unsqueeze(-1).unbind(1)
        places = first + torch.arange(int(end[0] - first[0]), device=stream.device)
        foretold = (self.hints[places] >= 0).any(1)
        if not foretold.any():
            return
        start, first, end, places = start[foretold], first[foretold], end[foretold], places[foretold]
        hints, nats = self.hints[places], losses[places]
        with autocasting(stream.device, self.recipe.schedule.autocast):
            inputs = stream[start + torch.arange(int(end[0] - start[0]), device=stream.device)]
            first_scored, wanted = int(first[0] - start[0]), hints.clamp(min=0)
            hint_nats = self.model.token_losses(inputs, wanted, first_scored, self._documents(inputs))
        tilt = tilted(nats, hint_nats, hints == stream[places + 1], self.recipe.adapt.tilt_boost)
        losses[places] = torch.where(hints >= 0, tilt, nats)

    def log_probabilities(self, event: ScoreEvent, stream: Tensor, target: int) -> Tensor:
        """ln p of every token in a target's place, float64 [V], the untilted one, under the weights as they are."""
        start, _, end = next(row for row in event.windows.tolist() if row[1] <= target < row[2])
        with torch.inference_mode(), autocasting(stream.device, self.recipe.schedule.autocast):
            inputs = stream[None, start:end]
            logits = self.model.logits(inputs, target - start, self._documents(inputs))
        return logits[0, 0].double().log_softmax(-1)

    def update(self, event: UpdateEvent, stream: Tensor) -> list[tuple[float, float]]:
        """Every epoch and step on the event's sequences; returns (loss, gradient norm before the clip) of each step."""
        adapt, told = self.recipe.adapt, []
        self.optimizer.param_groups[0]["lr"] = event.rate
        for _ in range(adapt.epochs):
            for at in range(0, len(event.sequences), adapt.batch_seqs):
                loss = self._gradients(stream, event.sequences[at : at + adapt.batch_seqs])
                norm = clip_gradients(list(self.model.parameters()), adapt.grad_clip_norm)
                if not math.isfinite(norm + loss):
                    raise UserError(
                        f"adapting: the gradient on {self._told(event)} is not finite (loss {loss}); lower adapt.lr"
                    )
                self.optimizer.step()
                told.append((loss, norm))
        self.optimizer.zero_grad()
        return told

    def _gradients(self, stream: Tensor, batch: np.ndarray) -> float:
        """Fill .grad with that of the batch's mean loss, over all ranks; returns the loss."""
        for parameter in self.named.values():
            parameter.grad = torch.zeros_like(parameter)  # a rank without a sequence, too, has one to give
        total = torch.zeros((), device=stream.device)
        for loss, share in self._losses(stream, batch):
            (loss * share).backward()
            total += loss.detach() * share
        self.world.mean_([*(p.grad for p in self.named.values() if p.grad is not None), total])
        return float(total)

    def _losses(self, stream: Tensor, batch: np.ndarray) -> Iterator[tuple[Tensor, float]]:
        """Mean losses of parts of this rank's share, each with what it counts beside a rank's whole even share."""
        mine = np.array_split(batch, self.world.size)[self.world.rank]
        if len(mine):
            starts, length = torch.from_numpy(mine[:, 0].copy()).to(stream.device), int(mine[0, 1] - mine[0, 0])
            places = starts[:, None] + torch.arange(length, device=stream.device)
            with autocasting(stream.device, self.recipe.schedule.autocast):
                loss = self.model(stream[places], stream[places + 1], self._documents(stream[places]))
            yield loss, len(mine) * self.world.size / len(batch)

    def _documents(self, inputs: Tensor) -> Tensor | None:
        return own_documents(inputs) if self.recipe.eval.document_mask else None

    def _told(self, event: Event) -> str:
        return f"targets {event.targets[0]} to {event.targets[1] - 1}"

    def snapshot(self) -> dict[str, Tensor]:
        """All weights on the CPU, by which one state is told from another."""
        return {name: p.detach().to("cpu", copy=True) for name, p in self.named.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights and momentum by name, as they live: for a checkpoint, in both directions."""
        buffers = {name: self.optimizer.state[p]["momentum_buffer"] for name, p in self.named.items()}
        return {**self.named, **{f"{name}.momentum": buffer for name, buffer in buffers.items()}}
