"""What the benchmark measures, each in a process of its own: the step, Newton-Schulz, the sliding score, packing."""

from __future__ import annotations

import dataclasses
import gc
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgolf_core.base import device as machine
from pgolf_core.base.names import ARTIFACT
from pgolf_core.lab.bench.clock import (
    Effort,
    Seconds,
    counted,
    in_turns,
    peak_memory_bytes,
    reset_peak_memory,
    spread,
    synchronise,
)
from pgolf_core.lab.bench.plain import plain_newton_schulz, plain_sliding_nats
from pgolf_core.lab.bench.step import (
    RECORD_TRACK,
    SEED,
    StepArm,
    check_same_loss,
    compute_dtype_name,
    one_byte_a_token,
    step_arms,
    step_values,
)
from pgolf_core.network import score as evaluate
from pgolf_core.network.model import GPT, build_model, num_parameters, parameter_shapes
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import Groups
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.training.optim import Optimizers

TRAINED_STD = 0.2
"""Standard deviation of a trained record's matrices: on the PR 315 grid it gives the published 4.7 bits a weight."""
NOISE_STD = 0.05
"""Added to the weights that are scored: a fresh network says the same at every position and would hide a wrong one."""
SLIDING_FLOPS, LEAST_WINDOWS, MOST_WINDOWS = 6e11, 8, 256
"""Windows of the sliding measure: as many as these operations pay for, between the bounds."""


@dataclass(frozen=True)
class Task:
    """One measure of one recipe, as its process gets it."""

    measure: str
    recipe: str
    overrides: tuple[str, ...]
    effort: Effort
    threads: int
    micro_batch_seqs: int = 0
    """Sequences of a micro-batch; 0: as bench_step.one_micro_batch chooses."""
    progress: bool = False

    def load(self) -> Recipe:
        """The recipe with the overrides."""
        return load_recipe(self.recipe, self.overrides)

    @property
    def label(self) -> str:
        """What is measured, for people."""
        return f"{self.measure.replace('_', '-')} of {Path(self.recipe).stem}"


class NewtonSchulzArm:
    """Orthogonalise one random gradient for every matrix of Muon's: stacks of one shape, or one after another."""

    def __init__(self, recipe: Recipe, device: torch.device, fast: bool):
        with torch.device(device):
            self.muon = Optimizers(GPT(recipe.model), recipe.optim).muon
            torch.manual_seed(SEED)
            self.stacks = [torch.randn(len(members), *shape) for shape, members in self.muon.shapes.items()]
        self.device, self.fast = device, fast

    @torch.no_grad()
    def run(self) -> Seconds:
        """Seconds of each shape and of all."""
        spent: Seconds = {}
        for stack in self.stacks:
            count, rows, cols = stack.shape
            with counted(spent, f"{count} of {rows}x{cols}", self.device):
                self.orthogonalise(stack)
        return {**spent, "whole": sum(spent.values())}

    def orthogonalise(self, stack: Tensor) -> Tensor | list[Tensor]:
        """A stack [n, rows, cols] by this arm's way."""
        steps, dtype = self.muon.steps, self.muon.dtype
        if self.fast:
            return self.muon.orthogonalise(stack, steps, dtype)
        return [plain_newton_schulz(matrix, steps, dtype) for matrix in stack]


class SlidingArm:
    """Score a bounded number of windows with weights that are no fresh start's; `bpb` holds the last score."""

    def __init__(self, recipe: Recipe, device: torch.device, fast: bool):
        self.recipe, self.device, self.fast = recipe, device, fast
        generator = torch.Generator().manual_seed(SEED)
        self.model = build_model(recipe.model, SEED)
        for parameter in self.model.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=NOISE_STD)
        self.model.to(device).eval()
        self.windows = sliding_windows(recipe)
        evaluation, vocab = recipe.eval, recipe.model.vocab_size
        count = evaluation.seq_len + (self.windows - 1) * evaluation.stride + 1
        self.tokens = np.random.default_rng(SEED).integers(vocab, size=count, dtype=np.uint16)
        self.bytes = one_byte_a_token(vocab)

    def run(self) -> Seconds:
        """Seconds of the whole score."""
        evaluation, autocast, spent = self.recipe.eval, self.recipe.schedule.autocast, {}
        how = (evaluation.seq_len, evaluation.stride, evaluation.batch_seqs)
        with counted(spent, "whole", self.device):
            if self.fast:
                self.bpb = evaluate.score(self.model, self.tokens, self.bytes, *how, autocast=autocast).bpb
            else:
                stream = torch.from_numpy(self.tokens.astype(np.int64)).to(self.device)
                nats = plain_sliding_nats(self.model, stream, *how, autocast)
                num_bytes = int(self.bytes.count(self.tokens[:-1], self.tokens[1:]).sum())
                self.bpb = evaluate.bits_per_byte(float(nats.double().sum()), num_bytes)
        return spent


def sliding_windows(recipe: Recipe) -> int:
    """Windows that the sliding measure scores."""
    flops = 2 * num_parameters(recipe.model) * recipe.eval.seq_len
    return min(max(int(SLIDING_FLOPS / flops), LEAST_WINDOWS), MOST_WINDOWS)


class PackingArm:
    """Pack and unpack normal weights of a trained network's size. There is no plain way to compare with."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        generator = torch.Generator().manual_seed(SEED)
        self.state = {
            name: torch.randn(shape, generator=generator) * (TRAINED_STD if len(shape) > 1 else 1.0)
            for name, shape in parameter_shapes(recipe.model).items()
        }
        self.bits: dict[str, int] | None = {}
        self.sensitivity, self.cap_bytes = None, 2**62
        if recipe.quant.kind == "steps":  # gradients differ from row to row; the budget is searched as for a real file
            matrices = {name: w.shape for name, w in self.state.items() if w.dim() == 2}
            self.sensitivity = {name: _uneven(shape, generator) for name, shape in matrices.items()}
            self.bits, self.cap_bytes = None, recipe.cap_bytes
        self._folder = tempfile.TemporaryDirectory()
        self.file = Path(self._folder.name) / ARTIFACT

    def run(self) -> Seconds:
        """Seconds of `pack` and `unpack`."""
        spent: Seconds = {}
        recipe, cpu = self.recipe, torch.device("cpu")
        with counted(spent, "pack", cpu):
            pack(
                self.state, recipe.model, recipe.quant, self.file, bits=self.bits, sensitivity=self.sensitivity,
                code_bytes=0, cap_bytes=self.cap_bytes,
            )  # fmt: skip
        with counted(spent, "unpack", cpu):
            _, state = unpack(self.file)
        assert {name: w.shape for name, w in state.items()} == {name: w.shape for name, w in self.state.items()}
        return {**spent, "whole": sum(spent.values())}


def _uneven(shape: torch.Size, generator: torch.Generator) -> Groups:
    rows, cols = (torch.randn(size, generator=generator).exp().numpy() for size in shape)
    return Groups(rows * cols.mean(), cols * rows.mean())


# ---------------------------------------------------------------------- arms and values of a measure

Arms = dict[str, Callable[[], Any]]
Turns = dict[str, list[Seconds]]


def _pairs(make: Callable[..., Any], recipe: Recipe, device: torch.device) -> Arms:
    return {"plain": lambda: make(recipe, device, fast=False), "fast": lambda: make(recipe, device, fast=True)}


def _ratios(turns: Turns) -> dict[str, Any]:
    """Plain seconds over fast seconds of every part, and the seconds."""
    parts = turns["fast"][0]
    return {
        "seconds": {name: {part: spread([t[part] for t in found]) for part in parts} for name, found in turns.items()},
        "ratio": {
            part: spread([slow[part] / fast[part] for slow, fast in zip(turns["plain"], turns["fast"], strict=True)])
            for part in parts
        },
    }


def _arms(task: Task, recipe: Recipe, device: torch.device) -> Arms:
    if task.measure == "step":
        return step_arms(recipe, device, task.micro_batch_seqs)
    if task.measure == "newton_schulz":
        return _pairs(NewtonSchulzArm, recipe, device)
    if task.measure == "sliding":
        return _pairs(SlidingArm, recipe, device)
    return {"fast": lambda: PackingArm(recipe)}


def _step(task: Task, recipe: Recipe, device: torch.device, arms: dict[str, StepArm], turns: Turns) -> dict[str, Any]:
    check_same_loss(arms)
    return step_values(recipe, device, task.micro_batch_seqs, arms, turns)


def _newton_schulz(task: Task, recipe: Recipe, device: torch.device, arms: Any, turns: Turns) -> dict[str, Any]:
    muon = arms["fast"].muon
    return {"iterations": muon.steps, "compute_dtype": str(muon.dtype).removeprefix("torch."), **_ratios(turns)}


def _sliding(task: Task, recipe: Recipe, device: torch.device, arms: Any, turns: Turns) -> dict[str, Any]:
    bpb = {name: arm.bpb for name, arm in arms.items()}
    assert math.isclose(bpb["plain"], bpb["fast"], rel_tol=1e-3), f"the two ways score differently: {bpb}"
    evaluation = recipe.eval
    return {
        "windows": arms["fast"].windows, "window_tokens": evaluation.seq_len, "stride_tokens": evaluation.stride,
        "batch_windows": evaluation.batch_seqs, "bpb": bpb, **_ratios(turns),
    }  # fmt: skip


def _packing(task: Task, recipe: Recipe, device: torch.device, arms: Any, turns: Turns) -> dict[str, Any]:
    parameters, size = num_parameters(recipe.model), arms["fast"].file.stat().st_size
    found = turns["fast"]
    return {
        "parameters": parameters, "file_bytes": size, "bits_per_weight": 8 * size / parameters,
        "seconds": {"fast": {part: spread([turn[part] for turn in found]) for part in ("pack", "unpack")}},
    }  # fmt: skip


MEASURES = {"step": _step, "newton_schulz": _newton_schulz, "sliding": _sliding, "packing": _packing}


def takes_part(measure: str, recipe: Recipe, device: torch.device) -> bool:
    """Whether a measure is taken of a recipe: a record's windows are scored on a GPU alone, a CPU takes minutes."""
    return measure != "sliding" or device.type == "cuda" or recipe.track != RECORD_TRACK


# ---------------------------------------------------------------------- what a process does


def measure(task: Task) -> dict[str, Any]:
    """Time the arms of one measure in turns; plain values for JSON."""
    torch.set_num_threads(task.threads)
    recipe, device = task.load(), machine.pick_device()
    arms = {name: build() for name, build in _arms(task, recipe, device).items()}
    effort = task.effort
    if task.measure == "packing":  # tens of seconds a turn, nothing to warm up, no other arm to compare with
        effort = dataclasses.replace(effort, warmups=0, least=min(effort.least, 3), most=min(effort.most, 3))
    turns, others = in_turns({name: arm.run for name, arm in arms.items()}, effort, task.label, task.progress)
    return {
        "measure": task.measure,
        "recipe": recipe.name,
        "fingerprint": recipe.fingerprint,
        "track": recipe.track,
        "overrides": list(task.overrides),
        "compute_dtype": compute_dtype_name(recipe, device),
        "others_processor_share": others,
        **MEASURES[task.measure](task, recipe, device, arms, turns),
    }


def peak_memory(task: Task, arm: str) -> dict[str, Any]:
    """Peak memory of one arm alone: one run to warm up, then one run that counts."""
    torch.set_num_threads(task.threads)
    recipe, device = task.load(), machine.pick_device()
    ready = _arms(task, recipe, device)[arm]()
    ready.run()
    gc.collect()
    synchronise(device)
    how = reset_peak_memory(device)
    at_rest = peak_memory_bytes(device)
    ready.run()
    return {"peak_bytes": peak_memory_bytes(device), "before_bytes": at_rest, "method": how}


def arm_names(measure_name: str) -> tuple[str, ...]:
    """The arms of a measure."""
    return ("fast",) if measure_name == "packing" else ("plain", "fast")
