"""Adaptation by documents (PR 1855): low-rank adapters of each document's own, and phases of SGD of all weights.

With several ranks each has the adapters of every so-manyth document of a group. A document's numbers depend on no
other's, so they are those of one rank but for what a kernel rounds otherwise in a smaller batch.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pgolf_core.adapting.documents import DocumentScore, DocumentUpdate, PhaseUpdate
from pgolf_core.adapting.plan import places_of
from pgolf_core.adapting.sgd import ChunkSGD
from pgolf_core.adapting.tilt import tilted
from pgolf_core.base.device import autocasting
from pgolf_core.base.files import UserError
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.model import GPT, Block, layer_order, rms_norm
from pgolf_core.recipes.recipe import Model, Recipe
from pgolf_core.text.packed import document_starts

LORA_EPS = 1e-10
"""Of the adapters' AdamW."""


def adapter_shapes(config: Model, targets: tuple[str, ...]) -> dict[str, tuple[int, int, int]]:
    """(how many, inputs, outputs) of a document's adapters by target: one for each block that runs, one of the head."""
    dim, blocks = config.model_dim, sum(map(len, layer_order(config)))
    keys = config.num_kv_heads * (dim // config.num_heads)
    outputs = {"q": dim, "k": keys, "v": keys, "o": dim, "mlp": dim, "lm_head": config.vocab_size}
    return {kind: (1 if kind == "lm_head" else blocks, dim, outputs[kind]) for kind in outputs if kind in targets}


def drawn_factors(shapes: dict[str, tuple[int, int, int]], rank: int, documents: int, number: int) -> dict[str, Tensor]:
    """The `number`-th first factors by target, float32 [adapters, documents, rank, inputs]: uniform, +-1/sqrt(inputs)
    at most."""
    generator, found = torch.Generator().manual_seed(number), {}
    for kind, (count, inputs, _) in shapes.items():
        bound = 1 / math.sqrt(inputs)
        found[kind] = torch.empty(count, documents, rank, inputs).uniform_(-bound, bound, generator=generator)
    return found


class Adapters:
    """Both factors of a group's adapters by target: `down` [adapters, documents, rank, inputs], and `up`, from zero on,
    [adapters, documents, outputs, rank]."""

    def __init__(self, down: dict[str, Tensor], shapes: dict[str, tuple[int, int, int]], recipe: Recipe):
        self.recipe, self.down = recipe, {kind: nn.Parameter(factor) for kind, factor in down.items()}
        self.up = {
            kind: nn.Parameter(down[kind].new_zeros(count, down[kind].size(1), outputs, down[kind].size(2)))
            for kind, (count, _, outputs) in shapes.items()
        }
        self.begin()

    def begin(self) -> None:
        """For new documents: nothing is added yet, `down` stays as it was left, and AdamW knows nothing."""
        adapt = self.recipe.adapt
        for factor in self.up.values():
            factor.data.zero_()
        every = [*self.down.values(), *self.up.values()]
        for factor in every:
            factor.grad = torch.zeros_like(factor)
        self.optimizer = torch.optim.AdamW(
            every, adapt.lora_lr, betas=adapt.lora_betas, eps=LORA_EPS, weight_decay=adapt.lora_wd
        )

    def added(self, kind: str, place: int, x: Tensor, rows: slice) -> Tensor:
        """What they add for inputs x [documents, T, inputs] of the documents `rows`: [documents, T, outputs]."""
        adapt = self.recipe.adapt
        down, up = (side[kind][place, rows].to(x.dtype) for side in (self.down, self.up))
        return (x @ down.mT) @ up.mT * (adapt.lora_alpha / adapt.lora_rank)

    def sums(self, documents: int, world: World) -> Tensor:
        """Of the bits of each factor a weighted sum modulo 2^64, int64 [factors]: the same however ranks share them."""
        found = []
        for factor in (*self.down.values(), *self.up.values()):
            bits = factor.detach().view(torch.int32).flatten(2).long()
            odd = 2 * torch.arange(bits.size(2), device=bits.device) + 1
            rows = world.rank + world.size * torch.arange(bits.size(1), device=bits.device)
            places = documents * torch.arange(bits.size(0), device=bits.device)[:, None] + rows
            found.append(((bits * odd).sum(2) * (2 * places + 1)).sum())
        total = torch.stack(found)
        if world.size > 1:
            dist.all_reduce(total)
        return total.cpu()


class PhaseSGD(ChunkSGD):
    """SGD of all weights on packed documents, each row's attention inside them."""

    def _losses(self, stream: Tensor, batch: np.ndarray) -> Iterator[tuple[Tensor, float]]:
        """As ChunkSGD's; the mean is one over rows, whose sequences are neighbours."""
        rows, length = self.recipe.adapt.phase_rows, self.recipe.eval.seq_len
        cuts = [len(batch) * row // rows for row in range(rows + 1)]
        packed = [batch[a:b] for a, b in itertools.pairwise(cuts) if b > a]
        for row in packed[self.world.rank :: self.world.size]:
            start, end = int(row[0, 0]), int(row[-1, 1])
            segments = document_starts(stream[None, start:end], length, multiple=1).to(stream.device)
            with autocasting(stream.device, self.recipe.schedule.autocast):
                loss = self.model(stream[None, start:end], stream[None, start + 1 : end + 1], segments, length)
            yield loss, self.world.size / len(packed)


class DocumentLoRA:
    """A network in eval mode that scores documents and learns from them, as the events of `plan_documents` ask.

    A group takes over the first factors that the group before it has left; one with fewer documents, and the first
    after a phase, gets fresh ones.
    """

    def __init__(self, model: GPT, recipe: Recipe, world: World = ALONE):
        self.model, self.recipe, self.world = model.requires_grad_(False), recipe, world
        self.named: dict[str, Tensor] = dict(model.named_parameters())
        self.hints: Tensor | None = None
        self.shapes = adapter_shapes(model.config, recipe.adapt.lora_targets)
        self.drawn = torch.zeros((), dtype=torch.int64)
        self.lasting = self.current = self._fresh(recipe.adapt.batch_documents)
        self.documents = 0  # of the group; none from a phase's first step to the next group
        self.kept: tuple[DocumentScore, Tensor] | None = None  # what the next update needs
        self.phase: PhaseSGD | None = None
        self.entered: DocumentScore | None = None
        self._place, self._rows = -1, slice(0)
        self._is_adapting = False
        for block in model.blocks:
            assert isinstance(block, Block)
            attn = block.attn
            attn.register_forward_pre_hook(self._next_block)
            adapted = {"q": attn.c_q, "k": attn.c_k, "v": attn.c_v, "o": attn, "mlp": block.mlp}
            for kind in self.shapes.keys() & adapted.keys():
                adapted[kind].register_forward_hook(functools.partial(self._add, kind))

    def _fresh(self, documents: int) -> Adapters:
        rank, device = self.recipe.adapt.lora_rank, next(iter(self.named.values())).device
        down = drawn_factors(self.shapes, rank, documents, int(self.drawn))
        self.drawn += 1
        mine = slice(self.world.rank, None, self.world.size)
        own = {kind: factor[:, mine].to(device).contiguous() for kind, factor in down.items()}
        return Adapters(own, self.shapes, self.recipe)

    def _next_block(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._place += 1

    def _add(self, kind: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """A hook: what a module gives, and what its adapter adds by the module's own input."""
        if not self._is_adapting:
            return output
        return output + self.current.added(kind, self._place, inputs[0], self._rows)

    def _logits(self, event: DocumentScore, stream: Tensor, mine: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Of this rank's documents: soft-capped float32 logits [documents, chunk, V], places of the targets in the
        stream [documents, chunk], and which of them there are."""
        start, first, end = torch.from_numpy(event.windows[mine]).to(stream.device).unsqueeze(-1).unbind(1)
        read = start + torch.arange(event.width, device=stream.device)
        ids = torch.where(read < end, stream[read.clamp(max=len(stream) - 1)], 0)
        places = first + torch.arange(int((end - first).max()), device=stream.device)
        local, config = event.rows[mine] // self.world.size, self.model.config
        self._place, self._rows, self._is_adapting = -1, slice(int(local[0]), int(local[-1]) + 1), True
        with autocasting(stream.device, self.recipe.schedule.autocast):
            x, _ = self.model.trunk(ids)
            self._is_adapting = False
            at = (places - start).clamp(max=event.width - 1)
            z = rms_norm(x.gather(1, at[..., None].expand(-1, -1, x.size(2))), config.norm_eps)
            logits = F.linear(z, self.model.tok_emb.weight.to(z.dtype))
            if "lm_head" in self.shapes:
                logits = logits + self.current.added("lm_head", 0, z, self._rows)
        return self.model.capped(logits.float()), places, places < end

    def _nats(self, event: DocumentScore, stream: Tensor, mine: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Of this rank's documents, all [documents, chunk]: nats that the adapters learn from, those that count, and
        which of them there are."""
        logits, places, there = self._logits(event, stream, mine)

        def of(targets: Tensor) -> Tensor:
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(places.shape)

        nats = of(stream[(places + 1).clamp(max=len(stream) - 1)])
        if self.hints is None:
            return nats, nats.detach(), there
        hints = self.hints[places.clamp(max=len(self.hints) - 1)]
        is_hint = hints == stream[(places + 1).clamp(max=len(stream) - 1)]
        tilt = tilted(nats, of(hints.clamp(min=0)), is_hint, self.recipe.adapt.tilt_boost)
        return nats, torch.where(hints >= 0, tilt, nats).detach(), there

    def enter(self, event: DocumentScore) -> None:
        """Make the adapters ready for an event, once, whether it is then scored or not."""
        if event.anew and event is not self.entered:
            is_full = event.group_size == self.recipe.adapt.batch_documents
            self.current = self.lasting if is_full else self._fresh(event.group_size)
            self.current.begin()
            self.documents, self.entered = event.group_size, event

    def score(self, event: DocumentScore, stream: Tensor, losses: Tensor) -> None:
        """Write nats of the event's targets into `losses` [targets]; `stream` is int64 [tokens] on the device."""
        self.enter(event)
        counts = event.windows[:, 2] - event.windows[:, 1]
        found = torch.full((len(counts), int(counts.max())), math.nan, device=stream.device)
        mine, self.kept = event.rows % self.world.size == self.world.rank, None
        if mine.any():
            with torch.set_grad_enabled(not event.rests):  # a last chunk is not learned from
                nats, counting, there = self._nats(event, stream, mine)
            part = torch.where(there, counting, math.nan)
            found[torch.from_numpy(np.flatnonzero(mine)).to(found.device), : part.size(1)] = part
            self.kept = None if event.rests else (event, nats)
        there = torch.arange(found.size(1)) < torch.from_numpy(counts)[:, None]
        flat = found[there.to(found.device)]
        self.world.fill_(flat)
        losses[torch.from_numpy(places_of(event.windows)).to(losses.device)] = flat
        if not math.isfinite(float(flat.sum())):
            first, end = event.targets
            raise UserError(f"adapting: a score of targets {first} to {end - 1} is not finite; lower adapt.lora_lr")

    def update(self, event: DocumentUpdate | PhaseUpdate, stream: Tensor) -> list[tuple[float, float]]:
        """A step of the adapters, or steps of all weights: (loss, gradient norm before the clip) of each of those."""
        if isinstance(event, PhaseUpdate):
            return self._learn_all(event, stream)
        scored = event.scored
        mine = scored.rows % self.world.size == self.world.rank
        learns = torch.from_numpy(event.learns[mine]).to(stream.device)
        if learns.any():
            nats = self.kept[1] if self.kept and self.kept[0] is scored else self._nats(scored, stream, mine)[0]
            (nats[learns].sum() / self.recipe.adapt.lora_tokens).backward()
        self.kept = None
        self.current.optimizer.step()
        self.current.optimizer.zero_grad(set_to_none=False)
        return []

    def _learn_all(self, event: PhaseUpdate, stream: Tensor) -> list[tuple[float, float]]:
        if event.is_first:
            self.documents = 0
            self.model.requires_grad_(True)
            self.text = torch.cat([stream[first : end + 1] for first, end in event.documents.tolist()])
            self.phase = PhaseSGD(self.model, self.recipe, self.world)
        assert self.phase is not None
        told = self.phase.update(event, self.text)
        if event.rests:
            self.phase = None
            self.model.requires_grad_(False)
            self.lasting = self.current = self._fresh(self.recipe.adapt.batch_documents)
        return told

    def log_probabilities(self, event: DocumentScore, stream: Tensor, target: int) -> Tensor:
        """ln p of every token in a target's place, float64 [V], the untilted one, under the adapters as they are."""
        row = int(np.flatnonzero((event.windows[:, 1] <= target) & (target < event.windows[:, 2]))[0])
        with torch.no_grad():
            logits = self._logits(event, stream, np.ones(len(event.rows), bool))[0]
        return logits[row, target - int(event.windows[row, 1])].double().log_softmax(-1)

    def snapshot(self) -> dict[str, Tensor]:
        """On the CPU, what tells one state from another: the adapters' sums, or in a phase all weights."""
        if self.documents:
            return {"adapters": self.current.sums(self.documents, self.world)}
        return {name: p.detach().to("cpu", copy=True) for name, p in self.named.items()}

    def tensors(self) -> dict[str, Tensor]:
        """As they live between groups: all weights, what the next group takes over, how often adapters were drawn."""
        return {**self.named, **{f"{kind}.down": p for kind, p in self.lasting.down.items()}, "drawn": self.drawn}
