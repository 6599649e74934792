"""What the benchmark measures, each in a process of its own: the step, Newton-Schulz, the sliding score, rounding,
packing.

Each measure has arms: things whose `run()` does the work once and gives the seconds of its parts.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgolf_core.base.device import autocast_dtype, one_thread, pick_device
from pgolf_core.base.names import ARTIFACT
from pgolf_core.lab.bench.clock import Effort, Seconds, counted, in_turns, peak_during, seconds_and_ratios
from pgolf_core.lab.bench.plain import plain_newton_schulz, plain_rounding_in_turn
from pgolf_core.lab.bench.step import SEED, StepArm, one_byte_a_token, one_micro_batch, step_values
from pgolf_core.lab.look.n06_scoring import plain_nats
from pgolf_core.lab.shared.texts import FINEWEB_TRACK
from pgolf_core.network.choice import grid_names_for
from pgolf_core.network.grid import GRIDS, dequantise, grid_of, quantise_tensor
from pgolf_core.network.model import GPT, build_model, num_parameters, parameter_shapes
from pgolf_core.network.score import bits_per_byte, score
from pgolf_core.packing.correction import Hessians, all_in_turn, corrections
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
LEAST_WINDOWS, MOST_WINDOWS = 8, 256
"""Bounds of the sliding measure's windows."""
SAME_ANSWER = 2e-3
"""Largest relative difference between the answers of two arms, which round differently in bfloat16."""


@dataclass(frozen=True)
class Task:
    """One measure of one recipe, as its process gets it."""

    measure: str
    recipe: str
    overrides: tuple[str, ...]
    effort: Effort
    threads: int
    micro_batch_seqs: int = 0
    """Sequences of a micro-batch; 0: as bench.step.one_micro_batch chooses."""
    plain_micro_batch_seqs: int = 0
    """The plain arm takes that micro-batch in parts of so many; 0: whole."""
    progress: bool = False

    def begin(self) -> tuple[Recipe, torch.device, dict[str, Callable[[], Any]]]:
        """(recipe, device, what builds each arm), this process set to its threads."""
        torch.set_num_threads(self.threads)
        recipe, device = load_recipe(self.recipe, self.overrides), pick_device()
        if self.measure == "packing":  # there is no plain way to compare with
            return recipe, device, {"fast": lambda: PackingArm(recipe)}
        make: Callable[[bool], Any] = {
            "step": lambda fast: StepArm(
                one_micro_batch(recipe, device, self.micro_batch_seqs, 0 if fast else self.plain_micro_batch_seqs),
                device, fast,
            ),
            "newton_schulz": lambda fast: NewtonSchulzArm(recipe, device, fast),
            "rounding": lambda fast: RoundingArm(recipe, fast),
            "sliding": lambda fast: SlidingArm(recipe, device, fast, self.effort.sliding_flops),
        }[self.measure]  # fmt: skip
        return recipe, device, {"plain": lambda: make(False), "fast": lambda: make(True)}

    def takes_part(self) -> bool:
        """Whether the measure is taken: a record's windows are scored on a GPU alone, a CPU takes minutes; and rounding
        in turn is for recipes that correct it."""
        recipe = load_recipe(self.recipe, self.overrides)
        if self.measure == "rounding":
            return recipe.quant.correction == "hessian"
        return self.measure != "sliding" or torch.cuda.is_available() or recipe.track != FINEWEB_TRACK

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
        self.device, self.fast, self.named = device, fast, recipe.optim.muon_coefficients
        self.about = {"iterations": self.muon.steps, "compute_dtype": str(self.muon.dtype).removeprefix("torch.")}

    @torch.no_grad()
    def run(self) -> Seconds:
        """Seconds of each shape and of the whole."""
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
            return self.muon.orthogonalise(stack, steps, dtype, self.muon.coefficients)
        return [plain_newton_schulz(matrix, steps, dtype, self.named) for matrix in stack]


class SlidingArm:
    """Score a bounded number of windows with weights that are no fresh start's; `answer` is the last score in bpb."""

    def __init__(self, recipe: Recipe, device: torch.device, fast: bool, flops: float = 0.0, windows: int = 0):
        """As many windows as `flops` pay for, within bounds, or `windows`."""
        self.device, self.fast, self.autocast, self.answer = device, fast, recipe.schedule.autocast, math.nan
        generator = torch.Generator().manual_seed(SEED)
        self.model = build_model(recipe.model, SEED)
        for parameter in self.model.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=NOISE_STD)
        self.model.to(device).eval()
        self.how = (recipe.eval.seq_len, recipe.eval.stride, recipe.eval.batch_seqs)
        window, stride, batch = self.how
        affordable = int(flops / (2 * num_parameters(recipe.model) * window))
        windows = windows or min(max(affordable, LEAST_WINDOWS), MOST_WINDOWS)
        count, vocab = window + (windows - 1) * stride + 1, recipe.model.vocab_size
        self.tokens = np.random.default_rng(SEED).integers(vocab, size=count, dtype=np.uint16)
        self.bytes = one_byte_a_token(vocab)
        self.about = dict(windows=windows, window_tokens=window, stride_tokens=stride, batch_windows=batch)

    def run(self) -> Seconds:
        """Seconds of the whole score."""
        spent: Seconds = {}
        with counted(spent, "whole", self.device):
            if self.fast:
                self.answer = score(self.model, self.tokens, self.bytes, *self.how, autocast=self.autocast).bpb
            else:
                nats = plain_nats(self.model, self.tokens, *self.how, self.autocast)
                self.answer = bits_per_byte(float(nats.sum(dtype=np.float64)), self.bytes.total(self.tokens))
        return spent


class RoundingArm:
    """Round all matrices of a network in turn, for random inputs: as the core does, or as PR 1493 on one thread, which
    is what torchrun gives it. `answer` is the error of the outputs."""

    def __init__(self, recipe: Recipe, fast: bool):
        generator, self.fast = torch.Generator().manual_seed(SEED), fast
        shapes = parameter_shapes(recipe.model)
        names = grid_names_for(shapes, recipe.quant)
        self.grids = {name: grid_of(name, grid, recipe.quant) for name, grid in names.items() if grid in GRIDS}
        self.weights = {name: torch.randn(shapes[name], generator=generator) * TRAINED_STD for name in self.grids}
        self.inputs = _inputs(self.weights, recipe)
        self.quant = dataclasses.replace(recipe.quant, correction_order="activation")
        self.about = {"weights": sum(w.numel() for w in self.weights.values())}

    def run(self) -> Seconds:
        """Seconds from the inputs' products to the codes."""
        spent: Seconds = {}
        with counted(spent, "whole", torch.device("cpu")):
            rounded = self._fast() if self.fast else self._plain()
        self.answer = 0.0
        for name, (codes, scale) in rounded.items():
            error, hessian = dequantise(codes, scale) - self.weights[name], self.inputs.of(name)
            assert hessian is not None
            self.answer += float(((error @ hessian) * error).sum(dtype=torch.float64))
        return spent

    def _fast(self) -> dict[str, tuple[Tensor, Tensor]]:
        shapes = {name: tuple(w.shape) for name, w in self.weights.items()}
        feedback = corrections(self.inputs, shapes, self.quant).feedback
        return all_in_turn({name: self.weights[name] for name in feedback}, self.grids, feedback)

    @one_thread()
    def _plain(self) -> dict[str, tuple[Tensor, Tensor]]:
        rounded = {}
        for name, w in self.weights.items():
            if (hessian := self.inputs.of(name)) is not None:
                scale, top = quantise_tensor(w, self.grids[name])[1], self.grids[name].levels
                codes = plain_rounding_in_turn(w, hessian, scale, top, self.quant.correction_damping)
                rounded[name] = codes, scale
        return rounded


def _inputs(weights: Mapping[str, Tensor], recipe: Recipe) -> Hessians:
    """Products of random inputs of which each depends on all others, for every block's matrices and the head."""
    generator, by_width = torch.Generator().manual_seed(SEED), {}
    names = [name for name, w in weights.items() if w.dim() == 2 and ".weight" in name]
    roots = ("blocks.", "tok_emb.") if recipe.quant.correct_tok_emb else ("blocks.",)
    wanted = [name for name in names if name.startswith(roots)]
    for width in {weights[name].size(1) for name in wanted}:
        x = torch.randn(2 * width, width, generator=generator) @ torch.randn(width, width, generator=generator)
        by_width[width] = x.T @ x / x.square().sum() * width
    return Hessians({name: by_width[weights[name].size(1)].clone() for name in wanted}, recipe.quant.correction_tokens)


class PackingArm:
    """Pack and unpack normal weights of a trained network's size; `about` is of the last file."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        generator = torch.Generator().manual_seed(SEED)
        self.state = {
            name: torch.randn(shape, generator=generator) * (TRAINED_STD if len(shape) > 1 else 1.0)
            for name, shape in parameter_shapes(recipe.model).items()
        }
        self.options: dict[str, Any] = {"bits": {}, "cap_bytes": 2**62}
        if recipe.quant.kind == "steps":  # gradients differ from row to row; the budget is searched as for a real file
            uneven = {}
            for name, w in self.state.items():
                if w.dim() == 2:
                    rows, cols = (torch.randn(size, generator=generator).exp().numpy() for size in w.shape)
                    uneven[name] = Groups(rows * cols.mean(), cols * rows.mean())
            self.options = {"sensitivity": uneven, "cap_bytes": recipe.cap_bytes}
        if recipe.quant.correction == "hessian":
            self.options["hessians"] = _inputs(self.state, recipe)
        self._folder = tempfile.TemporaryDirectory()
        self.file = Path(self._folder.name) / ARTIFACT

    def run(self) -> Seconds:
        """Seconds of `pack` and `unpack`."""
        spent: Seconds = {}
        recipe, cpu = self.recipe, torch.device("cpu")
        with counted(spent, "pack", cpu):
            pack(self.state, recipe.model, recipe.quant, self.file, code_bytes=0, **self.options)
        with counted(spent, "unpack", cpu):
            _, state = unpack(self.file)
        assert {name: w.shape for name, w in state.items()} == {name: w.shape for name, w in self.state.items()}
        parameters, size = num_parameters(recipe.model), self.file.stat().st_size
        self.about = {"parameters": parameters, "file_bytes": size, "bits_per_weight": 8 * size / parameters}
        return spent


# ---------------------------------------------------------------------- what a process does


def measure(task: Task) -> dict[str, Any]:
    """Time the arms of one measure in turns; plain values for JSON."""
    recipe, device, makers = task.begin()
    return timed(task, recipe, device, {name: make() for name, make in makers.items()})


def timed(task: Task, recipe: Recipe, device: torch.device, arms: dict[str, Any]) -> dict[str, Any]:
    """As `measure`, of arms that are there."""
    effort = task.effort
    if task.measure == "packing":  # tens of seconds a turn, and nothing to warm up
        effort = dataclasses.replace(effort, warmups=0, least=min(effort.least, 3), most=min(effort.most, 3))
    turns, others = in_turns({name: arm.run for name, arm in arms.items()}, effort, task.label, task.progress)
    values = {
        "measure": task.measure, "recipe": recipe.name, "fingerprint": recipe.fingerprint, "track": recipe.track,
        "overrides": list(task.overrides), "others_processor_share": others,
        "compute_dtype": str(autocast_dtype(device, recipe.schedule.autocast)).removeprefix("torch."),
        **seconds_and_ratios(turns),
    }  # fmt: skip
    answers = {name: arm.answer for name, arm in arms.items() if hasattr(arm, "answer")}
    if answers:
        same = math.isclose(*answers.values(), rel_tol=SAME_ANSWER)
        assert same, f"{task.label}: the two ways have different answers: {answers}"
    if task.measure == "step":
        return values | step_values(recipe.data.batch_tokens, arms, turns)
    return values | arms["fast"].about | ({"bpb": answers} if answers else {})


def peak_memory(task: Task, arm: str) -> dict[str, Any]:
    """Peak memory of one arm alone: one run to warm up, then one run that counts."""
    _, device, makers = task.begin()
    ready = makers[arm]()
    ready.run()
    return peak_during(ready.run, device)
