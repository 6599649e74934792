"""The training loop: clock, warm-up with rollback, steps, validation, averages, checkpoints, logs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgolf_core import device as machine
from pgolf_core.attention import kernel_name
from pgolf_core.average import build_average
from pgolf_core.checkpoint import load_tensors, restore, save_tensors
from pgolf_core.data import TokenStream, check_enough, check_ranks, load_tokens, step_batch
from pgolf_core.evaluate import score
from pgolf_core.files import UserError, write_json
from pgolf_core.grid import Grid, qat_grids
from pgolf_core.model import build_model
from pgolf_core.optim import (
    Optimizers,
    check_finite,
    clip_gradients,
    multiplier_by_clock,
    multiplier_by_iterations,
    muon_momentum,
)
from pgolf_core.parallel import ALONE, World
from pgolf_core.recipe import Recipe
from pgolf_core.runlog import NoLog, RunLog
from pgolf_core.sensitivity import SENSITIVITY_BELOW, GroupMeter, SensitivityMeter
from pgolf_core.tokenizer import TokenBytes, check_vocab


@dataclass(frozen=True)
class TrainData:
    """Where the tokens are: shards of both splits, and the bytes of every token id."""

    train_paths: Sequence[Path]
    val_paths: Sequence[Path]
    token_bytes: TokenBytes
    vocab_size: int
    sha256: str
    """Hash of the dataset's manifest: a checkpoint made on other data is refused."""


@dataclass(frozen=True)
class TrainProgress:
    """What a progress bar needs after a step."""

    step: int
    fraction: float
    """Share of the budget (clock or iterations) that is used, in [0, 1]."""
    loss: float
    tokens_per_second: float
    seconds_left: float


def progress_at(recipe: Recipe, step: int, loss: float, clock: float, tokens_per_second: float) -> TrainProgress:
    """How far `step` steps in `clock` seconds are, by whichever of the recipe's two limits is nearer."""
    schedule = recipe.schedule
    by_clock = clock / schedule.max_seconds if schedule.max_seconds else 0.0
    fraction = min(max(by_clock, step / schedule.iterations), 1.0)
    left = clock * (1 / fraction - 1) if fraction else math.inf
    return TrainProgress(step, fraction, loss, tokens_per_second, left)


@dataclass(frozen=True)
class TrainResult:
    """What training says about itself; weights and metrics are in the run folder."""

    steps: int
    tokens: int
    parameters: int
    stopped_by: str
    seconds: dict[str, float]
    """train (inside the cap), warmup, validation, checkpoints: seconds of wall time."""
    resumed_at_steps: list[int]
    sensitivity_steps: int
    path: str
    """The line that says which device, dtype, graph and attention kernel ran."""


class _Stop:
    """Notes SIGINT and SIGTERM so that a step is never cut in half."""

    def __init__(self, launched: bool) -> None:
        self.signal: int | None = None
        self.launcher = os.getppid() if launched else None

    def wanted(self) -> bool:
        """Whether a signal came, or the launcher of several ranks is gone: nobody would end them any more."""
        return self.signal is not None or self.launcher not in (None, os.getppid())

    @contextlib.contextmanager
    def watching(self) -> Iterator[_Stop]:
        """Take over both signals while inside; outside the main thread signals cannot be watched and go their way."""
        previous: dict[int, Any] = {}
        with contextlib.suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, self._note)
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number


class Trainer:
    """One seed of one recipe in one folder. `run` trains, or goes on from the folder's checkpoint.

    With several ranks, each has a Trainer of its own; their steps are the same, and the first alone writes and speaks.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        data: TrainData,
        folder: Path,
        progress: Callable[[TrainProgress], None] | None = None,
        say: Callable[[str], None] | None = None,
        world: World = ALONE,
    ):
        check_vocab(data.vocab_size, recipe.model.vocab_size)
        check_ranks(world.size, recipe.data)
        self.recipe, self.seed, self.data, self.folder = recipe, seed, data, Path(folder)
        self.world = world
        self.progress = progress if world.first else None
        self.log = RunLog(self.folder, say) if world.first else NoLog(self.folder)
        self.device = machine.pick_device()
        self.stream = TokenStream(data.train_paths, data.vocab_size)
        check_enough(self.stream.total_tokens, recipe.data, "training split")
        self.val_tokens = load_tokens(data.val_paths, data.vocab_size)
        self.model = build_model(recipe.model, seed).to(self.device)
        world.copy_first_(self.model.parameters())  # other machines may round the initialisation otherwise
        self.optimizers = Optimizers(self.model, recipe.optim, world)
        self.named = dict(self.model.named_parameters())
        shapes = {name: tuple(p.shape) for name, p in self.named.items()}
        self.qat_grids: dict[str, Grid] = qat_grids(shapes, recipe.quant, recipe.qat)  # refuses bad exceptions
        self.meter = SensitivityMeter()
        self.group_meter = GroupMeter(self.named)
        self.qat_on = False
        self.step, self.val_step = 0, -1
        self.seconds = {"train": 0.0, "warmup": 0.0, "validation": 0.0, "checkpoints": 0.0}
        self.resumed_at: list[int] = []
        self.path_line = machine.describe(
            self.device,
            recipe.schedule.autocast,
            recipe.schedule.compile,
            kernel_name(
                self.device.type, machine.autocast_dtype(self.device, recipe.schedule.autocast) is torch.bfloat16
            ),
        ) + (f" | ranks: {world.size}, {world.backend}" if world.size > 1 else "")
        compiled = recipe.schedule.compile == "auto" and not machine.why_not_compile(self.device)
        self.loss_of = torch.compile(self.model, dynamic=False) if compiled else self.model

    # ------------------------------------------------------------------ the run

    def run(self) -> TrainResult:
        """Train to the cap or the last iteration, then write weights, averages and statistics."""
        with _Stop(launched=self.world.size > 1).watching() as stop, self.log:
            self._announce()
            self._warm_up()
            self.average = build_average(self.model, self.recipe.average)
            self._resume()
            self._loop(stop)
            return self._finish()

    def _loop(self, stop: _Stop) -> None:
        schedule, alone = self.recipe.schedule, self.world.size == 1
        t_saved, meeting = time.perf_counter(), 0.0
        while True:
            last = self._is_over()
            due = schedule.val_every_steps and self.step % schedule.val_every_steps == 0
            if (last or due) and self.val_step != self.step:
                self._validate(last)
            if last:
                return
            t_start = time.perf_counter()
            record = self._step()
            now = time.perf_counter()
            due = now - t_saved > schedule.checkpoint_every_seconds > 0
            self.seconds["train"], stopped, due = self.world.largest(  # one clock, and all stop or save at one step
                self.seconds["train"] + (now - t_start) + meeting, stop.wanted(), due
            )
            meeting = time.perf_counter() - now  # belongs to training too: counted with the next step
            self._log_step(record)
            if stopped or (alone and stop.wanted()):  # alone, a signal that came while logging counts at once
                self._save_checkpoint()
                raise KeyboardInterrupt(
                    f"training stopped at step {self.step}; the same command goes on from {self._checkpoint_path}"
                )
            if due:
                self._save_checkpoint()
                t_saved = time.perf_counter()

    def _is_over(self) -> bool:
        schedule = self.recipe.schedule
        out_of_time = schedule.max_seconds > 0 and self.seconds["train"] >= schedule.max_seconds
        return out_of_time or self.step >= schedule.iterations

    def _multiplier(self) -> float:
        schedule = self.recipe.schedule
        if schedule.max_seconds > 0:
            return multiplier_by_clock(
                self.seconds["train"], self.step, schedule.max_seconds, schedule.warmdown_iters
            )  # fmt: skip
        return multiplier_by_iterations(self.step, schedule.iterations, schedule.warmdown_iters)

    def _step(self) -> dict[str, float]:
        """One optimiser step on the stream's next batch; returns what the log needs."""
        multiplier, momentum = self._multiplier(), muon_momentum(self.step, self.recipe.optim)
        self._update_qat(multiplier)
        loss = self._forward_backward(*step_batch(self.stream, self.recipe.data, self.world.rank, self.world.size))
        if 0 < multiplier < SENSITIVITY_BELOW:
            self.meter.add(self.model)
        if 0 < multiplier < SENSITIVITY_BELOW:  # not in the same block: a script has at most one of the two
            self.group_meter.add(self.named)
        norm = clip_gradients(self.optimizers.trained, self.recipe.optim.grad_clip_norm)
        check_finite(loss, norm, self.named.items(), self.step)
        rate = multiplier * (self.recipe.qat.lr_factor if self.qat_on else 1.0)
        self.optimizers.step(rate, momentum)
        self.step += 1
        self.average.update(self.model, self.step, multiplier)
        return {"loss": loss, "grad_norm": norm, "lr_multiplier": rate, "momentum": momentum}

    def _forward_backward(self, inputs: Tensor, targets: Tensor) -> float:
        """Accumulate the gradient of the mean loss over all ranks' rows, a micro-batch at a time; returns that loss."""
        total = 0.0
        size = self.recipe.data.micro_batch_seqs
        for start in range(0, len(inputs), size):
            x, y = (part[start : start + size].to(self.device, non_blocking=True) for part in (inputs, targets))
            with machine.autocast(self.device, self.recipe.schedule.autocast):
                loss = self.loss_of(x, y) * (len(x) / len(inputs))
            loss.backward()
            total += loss.detach()
        self.world.mean_([*(p.grad for p in self.optimizers.trained if p.grad is not None), total])
        return float(total)

    # ------------------------------------------------------------------ quantisation-aware training

    def _update_qat(self, multiplier: float) -> None:
        qat = self.recipe.qat
        if self.qat_on or qat.kind == "off" or (qat.kind == "late" and multiplier >= qat.threshold):
            return
        covered = self.model.set_fake_grids(self.qat_grids)
        self.qat_on = True
        self.log.line(f"qat:enabled step:{self.step} scale:{multiplier:.4f} tensors:{covered} grid:{qat.grid}")

    # ------------------------------------------------------------------ warm-up, validation

    def _warm_up(self) -> None:
        """Prime compilation and memory on synthetic tokens, then put weights and optimiser states back."""
        t_start = time.perf_counter()
        data, steps = self.recipe.data, self.recipe.schedule.warmup_steps
        before = {name: p.detach().clone() for name, p in self.named.items()}
        generator = torch.Generator().manual_seed(self.seed)
        rows = data.batch_tokens // data.seq_len // self.world.size
        for index in range(steps):
            if index == steps - 1 and self.recipe.qat.kind != "off":
                self.model.set_fake_grids(self.qat_grids)  # so that QAT's graph is compiled before the clock
            ids = torch.randint(self.recipe.model.vocab_size, (rows, data.seq_len + 1), generator=generator)
            self._forward_backward(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            self.optimizers.step(1.0, self.recipe.optim.muon_momentum)
            self.log.line(f"warmup_step:{index + 1}/{steps}", quiet=True)
        self.model.set_fake_grids({})
        restore(self.named, before, "warm-up")
        self.optimizers.reset()
        self.seconds["warmup"] = time.perf_counter() - t_start

    def _validate(self, last: bool) -> None:
        t_start = time.perf_counter()
        recipe, limit = self.recipe, self.recipe.schedule.val_tokens
        result = score(
            self.model, self.val_tokens, self.data.token_bytes, recipe.eval.seq_len, recipe.eval.seq_len,
            recipe.eval.batch_seqs, autocast=recipe.schedule.autocast, max_targets=limit, world=self.world,
        )  # fmt: skip
        self.val_step = self.step
        self.seconds["validation"] += time.perf_counter() - t_start
        clock = self.seconds["train"]
        self.log.metric(
            kind="val", step=self.step, loss=result.loss_nats_per_token, bpb=result.bpb, targets=result.tokens,
            seconds=clock,
        )  # fmt: skip
        self.log.line(
            f"step:{self.step}/{recipe.schedule.iterations} val_loss:{result.loss_nats_per_token:.4f} "
            f"val_bpb:{result.bpb:.4f} {self._timing()}"
        )
        if last and self.step < recipe.schedule.iterations:
            place = f"step:{self.step}/{recipe.schedule.iterations}"
            self.log.line(f"stopping_early: wallclock_cap train_time:{clock * 1000:.0f}ms {place}")

    # ------------------------------------------------------------------ checkpoints

    @property
    def _checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _state(self) -> dict[str, Tensor]:
        parts = {
            "model": self.named,
            "optim": self.optimizers.tensors(),
            "average": self.average.tensors(),
            "groups": self.group_meter.sums,
        }
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _save_checkpoint(self) -> None:
        t_start = time.perf_counter()
        about = {
            "step": self.step, "val_step": self.val_step, "position": self.stream.position, "seconds": self.seconds,
            "resumed_at": self.resumed_at, "qat_on": self.qat_on, "sensitivity": self.meter.state_dict(),
            "recipe": self.recipe.fingerprint, "seed": self.seed, "data": self.data.sha256,
        }  # fmt: skip
        if self.world.first:
            save_tensors(self._checkpoint_path, self._state(), about)
        self.world.meet()  # the others wait here, outside the clock
        self.seconds["checkpoints"] += time.perf_counter() - t_start

    def _resume(self) -> None:
        """Go on from the checkpoint of this recipe, seed and data that the first rank finds in the folder, if any."""
        path = self._checkpoint_path
        found = self.world.first and path.exists()
        tensors, about = load_tensors(path) if found else ({}, None)
        about = json.loads(self.world.text_of_first(json.dumps(about)))
        if about is None:
            self.log.keep_until(-1, -1)
            return
        for key, mine in (("recipe", self.recipe.fingerprint), ("seed", self.seed), ("data", self.data.sha256)):
            if about.get(key) != mine:
                raise UserError(f"{path} was made with another {key}; delete it, or use --fresh to train again")
        self.meter.load_state_dict(about["sensitivity"], self.device)
        self.qat_on = about["qat_on"]
        self.model.set_fake_grids(self.qat_grids if self.qat_on else {})
        if self.world.first:
            restore(self._state(), tensors, path)
        self.world.copy_first_(self._state().values())
        self.step, self.val_step, self.stream.position = about["step"], about["val_step"], about["position"]
        warmup = self.seconds["warmup"]
        self.seconds = about["seconds"]
        self.seconds["warmup"] += warmup
        self.resumed_at = [*about["resumed_at"], self.step]
        self.log.keep_until(self.step, self.val_step)
        self.log.line(f"resumed step:{self.step} train_time:{self.seconds['train'] * 1000:.0f}ms")

    # ------------------------------------------------------------------ logs

    def _timing(self) -> str:
        milliseconds = self.seconds["train"] * 1000
        return f"train_time:{milliseconds:.0f}ms step_avg:{milliseconds / max(self.step, 1):.2f}ms"

    def _announce(self) -> None:
        data, schedule, optim = self.recipe.data, self.recipe.schedule, self.recipe.optim
        for line in (
            self.path_line,
            f"model_params:{sum(p.numel() for p in self.named.values())}",
            f"world_size:{self.world.size} grad_accum_steps:{self._micro_steps()}",
            f"attention_mode:gqa num_heads:{self.recipe.model.num_heads} num_kv_heads:{self.recipe.model.num_kv_heads}",
            f"tie_embeddings:True embed_lr:{optim.embed_lr} matrix_lr:{optim.matrix_lr} scalar_lr:{optim.scalar_lr}",
            f"train_batch_tokens:{data.batch_tokens} train_seq_len:{data.seq_len} iterations:{schedule.iterations} "
            f"warmup_steps:{schedule.warmup_steps} max_wallclock_seconds:{schedule.max_seconds:.3f}",
            f"seed:{self.seed}",
        ):
            self.log.line(line)

    def _micro_steps(self) -> int:
        data = self.recipe.data
        return math.ceil(data.batch_tokens // data.seq_len // self.world.size / data.micro_batch_seqs)

    def _log_step(self, record: dict[str, float]) -> None:
        schedule, step, clock = self.recipe.schedule, self.step, self.seconds["train"]
        tokens = step * self.recipe.data.batch_tokens
        rate = tokens / max(clock, 1e-9)
        self.log.metric(kind="train", step=step, **record, tokens=tokens, seconds=clock, tokens_per_second=rate)
        if step <= 10 or step % schedule.log_every_steps == 0:
            self.log.line(f"step:{step}/{schedule.iterations} train_loss:{record['loss']:.4f} {self._timing()}")
        if self.progress is not None:
            self.progress(progress_at(self.recipe, step, record["loss"], clock, rate))

    # ------------------------------------------------------------------ the end

    def _finish(self) -> TrainResult:
        """Write averaged and raw weights and the gradient statistics; then the checkpoint has done its work."""
        if self.world.first:
            about, averaged = {"step": self.step}, self.average.result(self.model)
            save_tensors(self.folder / "weights-raw.safetensors", dict(self.named), about)
            save_tensors(self.folder / "weights-averaged.safetensors", averaged, about)
            write_json(
                self.folder / "sensitivity.json",
                {"mean_squared_gradient": self.meter.result(), "steps": self.meter.steps, "weights": "live"},
            )
            save_tensors(self.folder / "sensitivity.safetensors", self.group_meter.sums, {"steps": self.meter.steps})
            self._checkpoint_path.unlink(missing_ok=True)
        return TrainResult(
            steps=self.step,
            tokens=self.step * self.recipe.data.batch_tokens,
            parameters=sum(p.numel() for p in self.named.values()),
            stopped_by="clock" if self.step < self.recipe.schedule.iterations else "iterations",
            seconds=dict(self.seconds),
            resumed_at_steps=self.resumed_at,
            sensitivity_steps=self.meter.steps,
            path=self.path_line,
        )


def train(recipe: Recipe, seed: int, data: TrainData, folder: Path, **callbacks: Any) -> TrainResult:
    """Train one seed into `folder` (see Trainer): metrics.jsonl, train.log, both weight files, sensitivity.json."""
    return Trainer(recipe, seed, data, folder, **callbacks).run()
