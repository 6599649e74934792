"""The whole training step, fast against plain: both arms of the benchmark, and what their seconds mean."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgolf_core.base import device as machine
from pgolf_core.lab.bench.clock import Seconds, count_calls, counted, spread
from pgolf_core.lab.bench.plain import PlainStep
from pgolf_core.network.model import num_parameters
from pgolf_core.recipes import recipe
from pgolf_core.text.shards import TokenStream, write_shard
from pgolf_core.text.tokenizer import TokenBytes
from pgolf_core.training.average import build_average
from pgolf_core.training.loop import TrainData, Trainer

SEED = 1337
STEP_TOKENS = (98_304, 786_432)
"""Tokens of a step whose shares are computed: one rank's of PR 315's eight, and all of them."""
RECORD_TRACK = "10min_16mb"
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16_384}
"""A record's micro-batch is cut to this: whole, it fills 80 GB in the fast arm, and the plain one keeps every score."""


def one_micro_batch(settings: recipe.Recipe, device: torch.device, seqs: int = 0) -> recipe.Recipe:
    """The recipe with steps of one micro-batch of `seqs` sequences, no QAT, and no end or warm-down.

    Without `seqs` it is the recipe's own, a record's cut to what both arms hold.
    """
    data = settings.data
    size = seqs or min(data.micro_batch_seqs, data.batch_tokens // data.seq_len)
    if not seqs and settings.track == RECORD_TRACK:
        size = min(size, max(MICRO_BATCH_TOKENS[device.type] // data.seq_len, 1))
    return dataclasses.replace(
        settings,
        data=dataclasses.replace(
            data, batch_tokens=size * data.seq_len, spans_per_step=1, micro_batch_seqs=size
        ),
        schedule=dataclasses.replace(settings.schedule, iterations=2**40, max_seconds=0.0, warmdown_iters=0),
        qat=recipe.QAT(),
    )  # fmt: skip


def random_data(settings: recipe.Recipe, folder: Path) -> TrainData:
    """Random tokens, enough for eight steps: what they are changes neither time nor memory."""
    vocab, tokens = settings.model.vocab_size, 8 * (settings.data.batch_tokens + settings.data.spans_per_step)
    ids = np.random.default_rng(SEED).integers(vocab, size=tokens, dtype=np.uint16)
    write_shard(folder / "train.bin", ids)
    write_shard(folder / "val.bin", ids[: settings.data.seq_len + 1])
    return TrainData([folder / "train.bin"], [folder / "val.bin"], one_byte_a_token(vocab), vocab, sha256="random")


def one_byte_a_token(vocab_size: int) -> TokenBytes:
    """A stand-in for a tokenizer's table."""
    none = np.zeros(vocab_size, bool)
    return TokenBytes(np.ones(vocab_size, np.int16), none, none)


class StepArm:
    """A step that can be taken again and again: `run()` gives the seconds of its parts."""

    def __init__(self, settings: recipe.Recipe, device: torch.device, fast: bool):
        self.device, self.spent = device, {}
        self.losses: list[float] = []
        self._folder = tempfile.TemporaryDirectory()
        data = random_data(settings, Path(self._folder.name))
        if fast:
            trainer = Trainer(settings, SEED, data, Path(self._folder.name))
            trainer.average = build_average(trainer.model, settings.average)
            count_calls(trainer, "_forward_backward", self.spent, "micro_batch", device)
            count_calls(trainer.optimizers.muon, "step", self.spent, "muon", device)
            self.weights, self.path = trainer.named, trainer.path_line
            self._step = lambda: trainer._step()["loss"]
        else:
            plain = PlainStep(settings, SEED, TokenStream(data.train_paths), device)
            count_calls(plain, "forward_backward", self.spent, "micro_batch", device)
            count_calls(plain, "muon_step", self.spent, "muon", device)
            self.weights, self.path = plain.weights, "eager, explicit softmax, one matrix and one tensor at a time"
            self._step = plain.step

    def run(self) -> Seconds:
        """One step: seconds of `whole`, `micro_batch` (forward and backward), `update` (the rest), its part `muon`."""
        self.spent.clear()
        with counted(self.spent, "whole", self.device):
            self.losses.append(self._step())
        return {**self.spent, "update": self.spent["whole"] - self.spent["micro_batch"]}


def step_arms(settings: recipe.Recipe, device: torch.device, seqs: int = 0) -> dict[str, Any]:
    """What builds each arm."""
    settings = one_micro_batch(settings, device, seqs)
    return {
        "plain": lambda: StepArm(settings, device, fast=False),
        "fast": lambda: StepArm(settings, device, fast=True),
    }


def step_values(
    settings: recipe.Recipe, device: torch.device, seqs: int, arms: dict[str, StepArm], turns: dict[str, list[Seconds]]
) -> dict[str, Any]:
    """The measure's numbers: seconds of the parts, and per size of a step tokens/s, speed-up and Muon's share."""
    micro = one_micro_batch(settings, device, seqs).data
    parts = ("micro_batch", "update", "muon")
    sizes = dict.fromkeys((settings.data.batch_tokens, *STEP_TOKENS))
    return {
        "parameters": num_parameters(settings.model),
        "path": {name: arm.path for name, arm in arms.items()},
        "micro_batch_tokens": micro.batch_tokens,
        "micro_batch_sequences": micro.micro_batch_seqs,
        "losses_nats": {name: [arm.losses[0], arm.losses[-1]] for name, arm in arms.items()},
        "seconds": {
            name: {part: spread([turn[part] for turn in found]) for part in parts} for name, found in turns.items()
        },
        "ratio": {
            part: spread([slow[part] / fast[part] for slow, fast in zip(turns["plain"], turns["fast"], strict=True)])
            for part in parts
        },
        "steps": [_of_size(size, size / micro.batch_tokens, turns) for size in sizes],
    }


def _of_size(tokens: int, micro_batches: float, turns: dict[str, list[Seconds]]) -> dict[str, Any]:
    """A step of so many tokens, composed of one update and as many micro-batches as it takes."""

    def seconds(turn: Seconds) -> float:
        return micro_batches * turn["micro_batch"] + turn["update"]

    def each(of: Any, name: str) -> dict[str, float | int]:
        return spread([of(turn) for turn in turns[name]])

    pairs: Sequence[tuple[Seconds, Seconds]] = list(zip(turns["plain"], turns["fast"], strict=True))
    return {
        "step_tokens": tokens,
        "micro_batches": micro_batches,
        "speedup_ratio": spread([seconds(slow) / seconds(fast) for slow, fast in pairs]),
        "tokens_per_second": {name: each(lambda turn: tokens / seconds(turn), name) for name in turns},
        "muon_share": {name: each(lambda turn: turn["muon"] / seconds(turn), name) for name in turns},
    }


def check_same_loss(arms: dict[str, StepArm]) -> None:
    """The first step's losses agree: both arms began at the same weights and took the same tokens."""
    first = {name: arm.losses[0] for name, arm in arms.items()}
    assert abs(first["plain"] - first["fast"]) < 0.01, f"the arms' first losses differ: {first}"


def compute_dtype_name(settings: recipe.Recipe, device: torch.device) -> str:
    """bfloat16 or float32: what both arms multiply in."""
    return str(machine.autocast_dtype(device, settings.schedule.autocast)).removeprefix("torch.")
