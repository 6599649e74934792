"""The whole training step, fast against plain: both arms of the benchmark, and what their seconds mean."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgolf_core.lab.bench.clock import Seconds, Turns, count_calls, counted, spread
from pgolf_core.lab.bench.goals import MUON_TOKENS
from pgolf_core.lab.bench.plain import PlainStep
from pgolf_core.lab.data.build import write_shard
from pgolf_core.lab.shared.texts import FINEWEB_TRACK
from pgolf_core.network.model import num_parameters
from pgolf_core.recipes.recipe import QAT, Recipe
from pgolf_core.text.shards import TokenStream
from pgolf_core.text.tokenizer import TokenBytes
from pgolf_core.training.average import build_average
from pgolf_core.training.loop import TrainData, Trainer

SEED = 1337
STEP_TOKENS = (MUON_TOKENS, 786_432)
"""Tokens of a step whose shares are computed: one rank's of PR 315's eight, and all of them."""
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16_384}
"""A record's micro-batch is cut to this: the plain arm keeps every score of attention, and whole it fits on no card."""


def one_micro_batch(recipe: Recipe, device: torch.device, seqs: int = 0, parts_of: int = 0) -> Recipe:
    """The recipe with steps of one micro-batch of `seqs` sequences, no QAT or dropout, no end or warm-down, read in
    order, a loop on.

    Without `seqs` it is the recipe's own, a record's cut to what both arms hold. `parts_of` cuts the same tokens.
    """
    data = dataclasses.replace(recipe.data, spans_per_step=1, order="sequential")
    size = seqs or min(data.micro_batch_seqs, data.batch_tokens // data.seq_len)
    if not seqs and recipe.track == FINEWEB_TRACK:
        size = min(size, max(MICRO_BATCH_TOKENS[device.type] // data.seq_len, 1))
    endless: dict[str, Any] = {"iterations": 2**40, "max_seconds": 0.0, "reserve_seconds": 0.0, "warmdown_iters": 0}
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, table_dropout=0.0),  # both arms compute the same numbers
        data=dataclasses.replace(data, batch_tokens=size * data.seq_len, micro_batch_seqs=parts_of or size),
        schedule=dataclasses.replace(recipe.schedule, **endless),
        qat=QAT(),
    )


def random_data(recipe: Recipe, folder: Path) -> TrainData:
    """Random tokens, enough for eight steps: what they are changes neither time nor memory."""
    vocab, tokens = recipe.model.vocab_size, 8 * (recipe.data.batch_tokens + recipe.data.spans_per_step)
    ids = np.random.default_rng(SEED).integers(vocab, size=tokens, dtype=np.uint16)
    write_shard(folder / "train.bin", ids)
    write_shard(folder / "val.bin", ids[: recipe.data.seq_len + 1])
    return TrainData([folder / "train.bin"], [folder / "val.bin"], one_byte_a_token(vocab), vocab, sha256="random")


def one_byte_a_token(vocab_size: int) -> TokenBytes:
    """A stand-in for a tokenizer's table."""
    none = np.zeros(vocab_size, bool)
    return TokenBytes(np.ones(vocab_size, np.int16), none, none)


class StepArm:
    """A step of one micro-batch that can be taken again and again; `answer` is the first step's loss in nats.

    Both arms begin at the same weights and take the same tokens.
    """

    def __init__(self, recipe: Recipe, device: torch.device, fast: bool):
        self.recipe, self.device, self.losses = recipe, device, list[float]()
        self.spent: Seconds = {}
        self._folder = tempfile.TemporaryDirectory()
        data = random_data(recipe, Path(self._folder.name))
        if fast:
            self.trainer = trainer = Trainer(recipe, SEED, data, Path(self._folder.name))
            trainer.model.looping = True
            trainer.average = build_average(trainer.model, recipe.average)
            count_calls(trainer, "_forward_backward", self.spent, "micro_batch", device)
            count_calls(trainer.optimizers.muon, "step", self.spent, "muon", device)
            self.weights: dict[str, Tensor] = dict(trainer.named)
            self.path = trainer.path_line
            self._step = lambda: trainer._step()["loss"]
        else:
            plain = PlainStep(recipe, SEED, TokenStream(data.train_paths), device)
            count_calls(plain, "forward_backward", self.spent, "micro_batch", device)
            count_calls(plain, "muon_step", self.spent, "muon", device)
            self.weights, self.path = plain.weights, "eager, explicit softmax, one matrix and one tensor at a time"
            self._step = plain.step

    def run(self) -> Seconds:
        """One step: seconds of `micro_batch` (forward and backward), `update` (the rest), its part `muon`."""
        self.spent.clear()
        with counted(self.spent, "whole", self.device):
            self.losses.append(self._step())
        self.spent["update"] = self.spent.pop("whole") - self.spent["micro_batch"]
        self.answer = self.losses[0]
        return dict(self.spent)


def step_values(step_tokens: int, arms: dict[str, StepArm], turns: Turns) -> dict[str, Any]:
    """The measure's own numbers, and per size of a step (the recipe's first) tokens/s, speed-up and Muon's share."""
    micro = arms["fast"].recipe
    sizes = dict.fromkeys((step_tokens, *STEP_TOKENS))
    return {
        "parameters": num_parameters(micro.model), "path": {name: arm.path for name, arm in arms.items()},
        "micro_batch_tokens": micro.data.batch_tokens, "micro_batch_sequences": micro.data.micro_batch_seqs,
        "losses_nats": {name: [arm.losses[0], arm.losses[-1]] for name, arm in arms.items()},
        "steps": [_of_size(size, size / micro.data.batch_tokens, turns) for size in sizes],
    }  # fmt: skip


def _of_size(tokens: int, micro_batches: float, turns: Turns) -> dict[str, Any]:
    """A step of so many tokens, composed of one update and as many micro-batches as it takes."""
    seconds = {name: micro_batches * table["micro_batch"] + table["update"] for name, table in turns.items()}
    return {
        "step_tokens": tokens, "micro_batches": micro_batches,
        "speedup_ratio": spread(seconds["plain"] / seconds["fast"]),
        "tokens_per_second": {name: spread(tokens / seconds[name]) for name in turns},
        "muon_share": {name: spread(table["muon"] / seconds[name]) for name, table in turns.items()},
    }  # fmt: skip
