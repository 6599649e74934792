"""A plan of adaptation carried out on the small network, alone and on ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ranks import on_ranks
from small import noisy_model

from pgolf_core.adapting.lora import DocumentLoRA
from pgolf_core.adapting.plan import ScoreEvent
from pgolf_core.adapting.sgd import ChunkSGD
from pgolf_core.adapting.trace import plan_of
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.recipes.recipe import Recipe

CHUNKS: dict[str, Any] = {"kind": "sgd", "lr": 0.05, "epochs": 2, "chunk_tokens": 70, "batch_seqs": 3}
LORA: dict[str, Any] = {
    "kind": "lora", "lr": 0.05, "epochs": 1, "chunk_tokens": 32, "batch_seqs": 2, "phase_rows": 2, "lora_rank": 3,
    "lora_lr": 0.02, "lora_tokens": 5, "batch_documents": 4, "phases": 2, "phase_documents": 9,
}  # fmt: skip


def carried_out(recipe: Recipe, tokens: np.ndarray, world: World = ALONE, until: int | None = None):
    """The small network after the plan on a stream (uint16 [n]), or its events up to `until`.

    (learner, nats of every target, loss and norm of every step of all weights, what each update left).
    """
    kind = DocumentLoRA if recipe.adapt.kind == "lora" else ChunkSGD
    learner, losses, steps, states = kind(noisy_model().eval(), recipe, world), torch.zeros(len(tokens) - 1), [], []
    stream = torch.from_numpy(tokens.astype(np.int64))
    for event in plan_of(tokens, recipe)[:until]:
        if isinstance(event, ScoreEvent):
            learner.score(event, stream, losses)
        else:
            steps += learner.update(event, stream)
            states.append(learner.snapshot())
    return learner, losses, steps, states


def assert_ranks_agree(ranks: int, recipe: Recipe, tokens: np.ndarray, folder: Path, **tolerance: float) -> None:
    """That ranks have the same nats and adapters, and all else as one rank alone but for the order of a sum."""
    on_ranks(ranks, _leave_what_came_of_it, recipe, tokens, folder)
    learner, losses, steps, states = carried_out(recipe, tokens)
    found = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    for one in found:
        assert torch.equal(one["losses"], found[0]["losses"]) and len(one["states"]) == len(states)
        assert all(torch.equal(a["adapters"], b["adapters"])
                   for a, b in zip(one["states"], found[0]["states"], strict=True) if "adapters" in a)  # fmt: skip
        torch.testing.assert_close(one["losses"], losses, **tolerance)
        np.testing.assert_allclose(one["steps"], steps, rtol=1e-4)
        for name, weight in learner.named.items():
            torch.testing.assert_close(one["weights"][name], weight.detach(), atol=1e-5, rtol=1e-3)


def _leave_what_came_of_it(world: World, recipe: Recipe, tokens: np.ndarray, folder: Path) -> None:
    learner, losses, steps, states = carried_out(recipe, tokens, world)
    weights = {name: p.detach() for name, p in learner.named.items()}
    told = {"losses": losses, "steps": steps, "states": states, "weights": weights}
    torch.save(told, folder / f"{world.rank}.pt")
