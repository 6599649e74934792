"""The training loop: clock, warm-up with rollback, steps, validation, averages, checkpoints, logs."""

import dataclasses
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgolf_core.base.device import (
    autocast_dtype,
    autocasting,
    describe,
    give_back_freed_memory,
    peak_memory,
    pick_device,
    to_device,
    why_not_compile,
)
from pgolf_core.base.files import UserError, write_json
from pgolf_core.base.names import TRAIN_RESULT
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.base.squeeze import need_brotli
from pgolf_core.base.stop import Stop
from pgolf_core.network.attention import kernel_name
from pgolf_core.network.choice import qat_grids
from pgolf_core.network.grid import Grid
from pgolf_core.network.model import build_model
from pgolf_core.network.score import score
from pgolf_core.packing.correction import Gathering
from pgolf_core.packing.pack import Statistics
from pgolf_core.packing.sensitivity import GroupMeter
from pgolf_core.recipes.recipe import SENSITIVITY_BELOW, Recipe
from pgolf_core.text.batches import micro_batches, open_stream
from pgolf_core.text.shards import check_enough, check_ranks, load_tokens, seq_len_at, step_batch
from pgolf_core.text.tokenizer import TokenBytes, check_vocab
from pgolf_core.training.average import build_average
from pgolf_core.training.checkpoint import Checkpoint, resume_trainer, save_trainer, write_weights
from pgolf_core.training.optim import Optimizers, check_finite, clip_gradients, muon_momentum, rate_multiplier
from pgolf_core.training.progress import TrainProgress, progress_at
from pgolf_core.training.runlog import RunLog, SecondsLedger, TrainResult, opening_lines

LOOK_BACK_STEPS = 8
"""No step is begun that would end after the cap if it took as long as the longest of so many before it."""


@dataclass(frozen=True)
class TrainData:
    """Where the tokens are: shards of both splits, and the bytes of every token id."""

    train_paths: Sequence[Path]
    val_paths: Sequence[Path]
    token_bytes: TokenBytes
    vocab_size: int
    sha256: str
    """Hash of the dataset's manifest: a checkpoint made on other data is refused."""


class Trainer:
    """One seed of one recipe in one folder. `run` trains, or goes on from the folder's checkpoint.

    With `keep` off there are no checkpoints, and weights and statistics stay in memory: `averaged`, `statistics`.
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
        keep: bool = True,
    ):
        check_vocab(data.vocab_size, recipe.model.vocab_size)
        check_ranks(world.size, recipe.data)
        if recipe.quant.compressor == "brotli":
            need_brotli()
        self.recipe, self.seed, self.data, self.folder = recipe, seed, data, Path(folder)
        self.world, self.ledger = world, SecondsLedger()
        self.stop = Stop(launched=world.size > 1)
        self.progress = progress if world.first else None
        self.log = RunLog(self.folder, say, world.first)
        self.device = pick_device()
        with self.ledger.spend("data"):
            self.stream = open_stream(recipe.data, data.train_paths, data.vocab_size, seed)
            check_enough(self.stream.total_tokens, recipe.data, "training split")
            self.val_tokens = load_tokens(data.val_paths, data.vocab_size)
        with self.ledger.spend("warmup"):
            self.model = build_model(recipe.model, seed).to(self.device)
            world.copy_first_(self.model.parameters())  # other machines may round the initialisation otherwise
            self.optimizers = Optimizers(self.model, recipe.optim, world)
        self.named: dict[str, Tensor] = dict(self.model.named_parameters())
        self.parameters = sum(p.numel() for p in self.named.values())
        shapes = {name: tuple(p.shape) for name, p in self.named.items()}
        self.qat_grids: dict[str, Grid] = qat_grids(shapes, recipe.quant, recipe.qat)  # refuses bad exceptions
        self.meter = GroupMeter(self.named)
        self.gathering = Gathering(recipe, self.device, world) if recipe.quant.correction == "hessian" else None
        self.qat_on = False
        self.model.looping = not recipe.model.num_loops  # on from the start where there is nothing to be switched
        self.step, self.val_step = 0, -1
        self.step_seconds: deque[float] = deque(maxlen=LOOK_BACK_STEPS)
        self.checkpoint: Checkpoint | None = None
        if keep:
            made_of = {"recipe": recipe.fingerprint, "seed": seed, "data": data.sha256}
            self.checkpoint = Checkpoint(self.folder, made_of, recipe.schedule.checkpoint_every_seconds, world)
        self.resumed_at: list[int] = []
        half = autocast_dtype(self.device, recipe.schedule.autocast) is torch.bfloat16
        kernel = kernel_name(self.device.type, half, recipe.model.model_dim // recipe.model.num_heads)
        self.path_line = describe(self.device, recipe.schedule.autocast, recipe.schedule.compile, kernel)
        self.path_line += f" | ranks: {world.size}, {world.backend}" if world.size > 1 else ""
        compiled = recipe.schedule.compile == "auto" and not why_not_compile(self.device)
        if compiled:
            torch.compiler.reset()  # an earlier training's graphs count against the limit of 8, and one may need all
        self.loss_of = torch.compile(self.model, dynamic=False, fullgraph=True) if compiled else self.model

    def run(self) -> TrainResult:
        """Train to the cap or the last iteration, then write weights, averages and statistics."""
        with self.stop.watching(), self.log:
            if self.world.first:
                (self.folder / TRAIN_RESULT).unlink(missing_ok=True)
                if self.checkpoint:  # one that does not belong here is found before anything is done
                    self.checkpoint.begin(self.ledger)
            for line in (self.path_line, *opening_lines(self.recipe, self.seed, self.parameters, self.world.size)):
                self.log.line(line)
            with self.ledger.spend("warmup"):
                self._warm_up()
            self.average = build_average(self.model, self.recipe.average)
            if self.checkpoint:
                resume_trainer(self.checkpoint, self)
            self._loop()
            if self.gathering is not None:
                self._gather(self.gathering)
            return self._finish()

    def _loop(self) -> None:
        schedule, seconds = self.recipe.schedule, self.ledger.seconds
        if not self.step and self._is_over():
            raise UserError(
                f"schedule.max_seconds = {schedule.max_seconds:g} leaves no time for a step; raise it, "
                "or lower schedule.reserve_seconds and quant.correction_tokens"
            )
        meeting = 0.0
        while True:
            last = self._is_over()
            is_time = schedule.val_every_steps and self.step % schedule.val_every_steps == 0
            if (last or is_time) and self.val_step != self.step:
                with self.ledger.spend("validation"):
                    self._validate(last)
            if last:
                return
            t_start, before = time.perf_counter(), seconds["train"]
            record = self._step()
            now, is_due = time.perf_counter(), bool(self.checkpoint and self.checkpoint.is_due())
            clock = before + (now - t_start) + meeting
            seconds["train"], asked, due = self.world.largest(clock, self.stop.asked(), is_due)
            meeting = time.perf_counter() - now  # belongs to training too: counted with the next step
            self.step_seconds.append(seconds["train"] - before)
            self._log_step(record)
            self._save_if(asked, due)

    def _is_over(self) -> bool:
        """Whether the iterations are done, or the next step would end after the cap."""
        schedule = self.recipe.schedule
        needed = self.ledger.seconds["train"] + max(self.step_seconds, default=0.0)
        after = self.gathering.reserved_seconds if self.gathering is not None else 0.0
        needed += max(after, schedule.reserve_seconds)
        return self.step >= schedule.iterations or 0 < schedule.max_seconds < needed

    def _step(self) -> dict[str, float]:
        """One optimiser step on the stream's next batch; returns what the log needs."""
        schedule, clock = self.recipe.schedule, self.ledger.seconds["train"]
        multiplier = rate_multiplier(schedule, self.step, clock)
        momentum = muon_momentum(self.step, self.recipe.optim)
        self._update_qat(multiplier)
        data, world, used = self.recipe.data, self.world, schedule.used(self.step, clock)
        if used >= schedule.loop_at and not self.model.looping:
            self.model.looping = True
            self.log.line(f"loop:enabled step:{self.step} used:{used:.4f}")
        length = seq_len_at(data, used)
        torch.manual_seed(self.seed + self.step * world.size + world.rank)  # a step draws the same, resumed or not
        loss, norm = self._forward_backward(*step_batch(self.stream, data, world.rank, world.size, length))
        if 0 < multiplier < SENSITIVITY_BELOW:
            self.meter.add(self.named)
        if not self.recipe.optim.clip_each_rank:
            norm = clip_gradients(self.optimizers.trained, self.recipe.optim.grad_clip_norm)
        check_finite(loss, norm, self.named.items(), self.step + 1)
        rate = multiplier * (self.recipe.qat.lr_factor if self.qat_on else 1.0)
        self.optimizers.step(rate, momentum)
        self.step += 1
        self.average.update(self.model, self.step, multiplier)
        return {"loss": loss, "grad_norm": norm, "lr_multiplier": rate, "momentum": momentum}

    def _gather(self, gathering: Gathering) -> None:
        """What the averaged weights' matrices are multiplied by: for the correction of rounding, and on the clock."""
        seconds, cap = self.ledger.seconds, self.recipe.schedule.max_seconds
        t_start, before = time.perf_counter(), seconds["train"]
        averaged = self.average.result(self.model)
        left = cap - before - (time.perf_counter() - t_start) if cap > 0 else math.inf
        found = gathering.gather(averaged, self.stream, left)
        (seconds["train"],) = self.world.largest(before + time.perf_counter() - t_start)
        self.log.metric(kind="correction", step=self.step, tokens=found.tokens, seconds=seconds["train"])
        self.log.line(
            f"correction:hessian damping:{self.recipe.quant.correction_damping:g} tokens:{found.tokens} "
            f"inputs:{len(found.means)} {self._timing()} gather_time:{1000 * (seconds['train'] - before):.0f}ms"
        )

    def _forward_backward(self, inputs: Tensor, targets: Tensor) -> list[float]:
        """Accumulate the gradient of the mean loss over all ranks' rows, a micro-batch at a time; returns that loss.

        Beside it stands the mean norm of the ranks' own gradients where these are clipped, else 0.
        """
        told, data, optim = torch.zeros(2, device=self.device), self.recipe.data, self.recipe.optim
        for parts in micro_batches(inputs, targets, data):
            x, y, *starts = (to_device(part, self.device) for part in parts)
            with autocasting(self.device, self.recipe.schedule.autocast):
                loss = self.loss_of(x, y, *starts, *(data.seq_len for _ in starts)) * (len(x) / len(inputs))
            loss.backward()
            told[0] += loss.detach()
        if optim.clip_each_rank:
            told[1] = clip_gradients(self.optimizers.trained, optim.grad_clip_norm)
        self.world.mean_([*(p.grad for p in self.optimizers.trained if p.grad is not None), told])
        return told.tolist()

    def _update_qat(self, multiplier: float) -> None:
        qat = self.recipe.qat
        if self.qat_on or qat.kind == "off" or (qat.kind == "late" and multiplier >= qat.threshold):
            return
        covered = self.model.set_fake_grids(self.qat_grids)
        self.qat_on = True
        self.log.line(f"qat:enabled step:{self.step} scale:{multiplier:.4f} tensors:{covered} grid:{qat.grid}")

    def _warm_up(self) -> None:
        """Prime compilation and memory on synthetic tokens, then put weights and optimiser states back."""
        data, steps = self.recipe.data, self.recipe.schedule.warmup_steps
        before = {name: p.detach().clone() for name, p in self.named.items()}
        generator = torch.Generator().manual_seed(self.seed)
        lengths = sorted({seq_len_at(data, 0.0), seq_len_at(data, 1.0)})
        loops = sorted({self.model.looping, True})  # both graphs are compiled before the clock
        for index, length, self.model.looping in itertools.product(range(steps), lengths, loops):
            if index == steps - 1 and self.recipe.qat.kind != "off":
                self.model.set_fake_grids(self.qat_grids)  # so that QAT's graph is compiled before the clock
            rows = data.batch_tokens // length // self.world.size
            ids = torch.randint(self.recipe.model.vocab_size, (rows, length + 1), generator=generator)
            self._forward_backward(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            self.optimizers.step(1.0, self.recipe.optim.muon_momentum)
            if length == lengths[-1] and self.model.looping:
                self.log.line(f"warmup_step:{index + 1}/{steps}", quiet=True)
            (asked,) = self.world.largest(self.stop.asked())
            if asked:  # there is nothing to save yet, a checkpoint that is there stays
                raise self._stopped("in its warm-up")
        self.model.set_fake_grids({})
        self.model.looping = loops[0]
        if self.gathering is not None:
            self.gathering.rehearse(self.named, generator)
        with torch.no_grad():
            torch._foreach_copy_(list(self.named.values()), list(before.values()))
        self.optimizers.reset()

    def _validate(self, last: bool) -> None:
        recipe, limit = self.recipe, self.recipe.schedule.val_tokens
        give_back_freed_memory()  # what compiling and training needed, and below what threads did
        result = score(
            self.model, self.val_tokens, self.data.token_bytes, recipe.eval.seq_len, recipe.eval.seq_len,
            recipe.eval.batch_seqs, autocast=recipe.schedule.autocast, document_mask=recipe.eval.document_mask,
            max_targets=limit, world=self.world, progress=lambda *done: self._save_in_validation(),
        )  # fmt: skip
        give_back_freed_memory()
        self.val_step, clock = self.step, self.ledger.seconds["train"]
        self.log.metric(
            kind="val", step=self.step, loss=result.loss_nats_per_token, bpb=result.bpb, targets=result.tokens,
            seconds=clock,
        )  # fmt: skip
        place, loss = f"step:{self.step}/{recipe.schedule.iterations}", result.loss_nats_per_token
        self.log.line(f"{place} val_loss:{loss:.4f} val_bpb:{result.bpb:.4f} {self._timing()}")
        if last and self.step < recipe.schedule.iterations:
            self.log.line(f"stopping_early: wallclock_cap train_time:{clock * 1000:.0f}ms {place}")

    # ------------------------------------------------------------------ checkpoints

    def _save_checkpoint(self) -> None:
        if self.checkpoint:
            save_trainer(self.checkpoint, self)

    def _save_if(self, asked: bool | float, due: bool | float) -> None:
        """After a step: save and leave if any rank was asked to, else save if the cadence says so."""
        if asked or (self.world.size == 1 and self.stop.asked()):  # alone, a signal in the last moment counts at once
            self._save_checkpoint()
            raise self._stopped(f"at step {self.step}")
        if due:
            self._save_checkpoint()
            with self.ledger.spend("checkpoints"):
                self.world.meet()  # the others wait here, outside the clock

    def _save_in_validation(self) -> None:
        """Save at once when asked to; alone, leave too. Ranks leave together after the next step."""
        if not self.stop.asked():
            return
        if self.world.first and self.checkpoint and self.checkpoint.saved_step != self.step:
            self._save_checkpoint()
        if self.world.size == 1:
            raise self._stopped(f"at step {self.step}")

    def _stopped(self, where: str) -> KeyboardInterrupt:
        onward = self.checkpoint.onward if self.checkpoint else ""
        return KeyboardInterrupt(f"training stopped {where}{onward}")

    def _timing(self) -> str:
        milliseconds = self.ledger.seconds["train"] * 1000
        return f"train_time:{milliseconds:.0f}ms step_avg:{milliseconds / max(self.step, 1):.2f}ms"

    def _log_step(self, record: dict[str, float]) -> None:
        schedule, step, clock = self.recipe.schedule, self.step, self.ledger.seconds["train"]
        tokens = step * self.recipe.data.batch_tokens
        rate = tokens / max(clock, 1e-9)
        self.log.metric(kind="train", step=step, **record, tokens=tokens, seconds=clock, tokens_per_second=rate)
        if step <= 10 or step % schedule.log_every_steps == 0:
            self.log.line(f"step:{step}/{schedule.iterations} train_loss:{record['loss']:.4f} {self._timing()}")
        if self.progress is not None:
            self.progress(progress_at(self.recipe, step, record["loss"], clock, rate))

    # ------------------------------------------------------------------ the end

    def _finish(self) -> TrainResult:
        """Write averaged and raw weights, the gradient statistics, and what training says about itself."""
        schedule = self.recipe.schedule
        if memory := peak_memory(self.device):
            self.log.line(memory)
        with self.ledger.spend("averaging"):
            self.averaged = self.average.result(self.model)
        if self.world.first and self.checkpoint:
            write_weights(self, self.statistics())
        result = TrainResult(
            steps=self.step,
            tokens=self.step * self.recipe.data.batch_tokens,
            parameters=self.parameters,
            stopped_by="clock" if self.step < schedule.iterations else "iterations",
            seconds=self.ledger.settled(),
            earlier_seconds=self.ledger.earlier,
            resumed_at_steps=self.resumed_at,
            sensitivity_steps=self.meter.steps,
            path=self.path_line,
        )
        trained, cap = result.seconds["train"], schedule.max_seconds
        if schedule.over_cap_seconds(trained):
            self.log.line(f"over_the_cap: train_time:{trained * 1000:.0f}ms cap:{cap * 1000:.0f}ms does not count")
        if self.world.first:  # only with its result written the training is done, and its checkpoint goes
            write_json(self.folder / TRAIN_RESULT, dataclasses.asdict(result))
            if self.checkpoint:
                self.checkpoint.end()
        return result

    def statistics(self) -> Statistics:
        """What this training gathered for packing."""
        hessians = self.gathering.found if self.gathering is not None else None
        return Statistics(self.meter.mean_squares(), self.meter.steps, self.meter.sums, hessians)


def train(recipe: Recipe, seed: int, data: TrainData, folder: Path, **callbacks: Any) -> TrainResult:
    """Train one seed into `folder` (see Trainer): metrics.jsonl, train.log, both weight files, sensitivity.json."""
    return Trainer(recipe, seed, data, folder, **callbacks).run()
