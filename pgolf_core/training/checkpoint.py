"""Checkpoints and weight files: safetensors, written atomically, never pickled. A submission's script keeps neither."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgolf_core.base.files import UserError, replacing, write_json, write_text
from pgolf_core.base.names import (
    AVERAGED_WEIGHTS,
    CHECKPOINT,
    GROUP_SENSITIVITY,
    HESSIANS,
    METRICS,
    RAW_WEIGHTS,
    SENSITIVITY,
)
from pgolf_core.base.parallel import World
from pgolf_core.packing.pack import Statistics
from pgolf_core.training.progress import ATTEMPT, go_on
from pgolf_core.training.runlog import RunLog, SecondsLedger


def save_tensors(path: Path | str, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    """Write named tensors and a JSON-able dictionary into one safetensors file, atomically."""
    import safetensors.torch

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as part:  # straight from the tensors: no copy of them in memory
            safetensors.torch.save_file(plain, part, metadata={"about": json.dumps(about or {}, sort_keys=True)})
    except safetensors.SafetensorError as error:
        raise UserError(f"cannot write {path}: {error}; free space or choose a writable folder") from None


def load_tensors(path: Path | str, only_about: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back (tensors on the CPU, about); UserError for a missing or damaged file."""
    import safetensors

    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; run the training stage first")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            names = [] if only_about else file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            return tensors, json.loads((file.metadata() or {}).get("about", "{}"))
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); delete it and train again") from None


@torch.no_grad()
def restore(live: dict[str, Tensor], saved: dict[str, Tensor], path: Path | str) -> None:
    """Copy saved tensors into live ones of the same names and shapes; UserError names the first that differs."""
    for name in sorted(live.keys() | saved.keys()):
        if name not in live or name not in saved or live[name].shape != saved[name].shape:
            raise UserError(f"{path}: tensor '{name}' does not fit this recipe; delete the checkpoint or use --fresh")
        live[name].copy_(saved[name])


def text_of_first(world: World, text: str) -> str:
    """The first rank's text, on every rank."""
    if world.size == 1:
        return text
    told = [text]
    torch.distributed.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    return told[0]


class Checkpoint:
    """The file that a stopped or killed run goes on from: written whole or not at all, by the first rank alone."""

    def __init__(self, folder: Path, made_of: dict[str, Any], every_seconds: float, world: World):
        """`made_of` is what a run must have in common with a checkpoint; `every_seconds` is the cadence, 0 for none."""
        self.path = folder / CHECKPOINT
        self.made_of, self.every_seconds, self.world = made_of, every_seconds, world
        self.t_saved = time.perf_counter()
        self.saved_step = -1

    def begin(self, ledger: SecondsLedger) -> None:
        """Find a file that does not belong here before anything is done; count what earlier attempts took."""
        go_on(ledger, (self.read_about() or {"seconds": {}})["seconds"], self.path.parent)

    @property
    def onward(self) -> str:
        """What the same command does after a stop, for its message; other ranks' hosts need not see the file."""
        is_there = self.saved_step >= 0 or self.path.exists()
        return f"; the same command {f'goes on from {self.path}' if is_there else 'begins it again'}"

    def end(self) -> None:
        """Training is done: nothing is left to go on from."""
        self.path.unlink(missing_ok=True)
        (self.path.parent / ATTEMPT).unlink(missing_ok=True)

    def is_due(self) -> bool:
        """Whether the last one is older than the cadence."""
        return time.perf_counter() - self.t_saved > self.every_seconds > 0

    def read_about(self) -> dict[str, Any] | None:
        """What the file says, without its tensors; None if there is none, UserError if it is another run's."""
        for unfinished in self.path.parent.glob(f".{self.path.name}.*"):  # a kill came while it was written
            with contextlib.suppress(OSError):
                unfinished.unlink()
        if not self.path.exists():
            return None
        about = load_tensors(self.path, only_about=True)[1]
        for key, mine in self.made_of.items():
            if about.get(key) != mine:
                raise UserError(f"{self.path} was made with another {key}; delete it, or use --fresh to train again")
        return about

    def save(self, state: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Write state and `about` (with its step); UserError if a tensor is not finite."""
        finite = {name: tensor.isfinite().all() for name, tensor in state.items() if tensor.is_floating_point()}
        told = torch.stack(list(finite.values())).tolist()  # one wait for the device
        bad = [name for name, is_finite in zip(finite, told, strict=True) if not is_finite]
        if bad:
            raise UserError(
                f"step {about['step']} left {bad[0]} (and {len(bad) - 1} more) not finite and was not saved; "
                "lower optim.matrix_lr, optim.embed_lr or optim.scalar_lr"
            )
        if self.world.first:
            save_tensors(self.path, state, {**about, **self.made_of})
        self.t_saved, self.saved_step = time.perf_counter(), about["step"]

    def load(self, state: dict[str, Tensor]) -> dict[str, Any] | None:
        """Fill `state` on every rank from the first one's file; returns what it says.

        No state of a generator is kept: what a step draws follows from the seed, the step and the rank.
        """
        found = self.world.first and self.path.exists()
        tensors, about = load_tensors(self.path) if found else ({}, None)
        about = json.loads(text_of_first(self.world, json.dumps(about)))
        self.t_saved = time.perf_counter()
        if about is None:
            return None
        if self.world.first:
            restore(state, tensors, self.path)
        self.world.copy_first_(state.values())
        self.saved_step = about["step"]
        return about


# ---------------------------------------------------------------------- of a Trainer (training/loop.py)


def _state_of(trainer: Any) -> dict[str, Tensor]:
    parts = {"model": trainer.named, "optim": trainer.optimizers.tensors(), "average": trainer.average.tensors()}
    parts["groups"] = trainer.meter.sums
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def save_trainer(checkpoint: Checkpoint, trainer: Any) -> None:
    """Write all that `resume_trainer` needs."""
    with trainer.ledger.spend("checkpoints"):
        about = {
            "step": trainer.step, "val_step": trainer.val_step, "position": trainer.stream.position,
            "resumed_at": trainer.resumed_at, "qat_on": trainer.qat_on, "sensitivity_steps": trainer.meter.steps,
            "looping": trainer.model.looping, "seconds": trainer.ledger.settled(),
        }  # fmt: skip
        checkpoint.save(_state_of(trainer), about)


def write_weights(trainer: Any, gathered: Statistics) -> None:
    """What a finished training leaves for packing: both weight files, and what it gathered."""
    folder, about = trainer.folder, {"step": trainer.step}
    with trainer.ledger.spend("checkpoints"):
        save_tensors(folder / RAW_WEIGHTS, trainer.named, about)
        save_tensors(folder / AVERAGED_WEIGHTS, trainer.averaged, about)
        told = {"mean_squared_gradient": gathered.mean_squares, "steps": gathered.steps, "weights": "live"}
        write_json(folder / SENSITIVITY, told)
        save_tensors(folder / GROUP_SENSITIVITY, gathered.sums, {"steps": gathered.steps})
        if gathered.hessians is not None:
            save_tensors(folder / HESSIANS, gathered.hessians.means, {"tokens": gathered.hessians.tokens})


def keep_until(log: RunLog, step: int, val_step: int) -> None:
    """Drop from a log what will be done again after a kill: steps after `step`, validations after `val_step`, and
    lines that were cut."""
    kept = []
    for line in (log.folder / METRICS).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError):
            values = json.loads(line)
            if values["step"] <= {"train": step, "val": val_step}.get(values["kind"], -1):
                kept.append(line + "\n")
    log.metrics.close()
    write_text(log.folder / METRICS, "".join(kept))
    log.metrics = open(log.folder / METRICS, "a", encoding="utf-8", buffering=1)  # noqa: SIM115


def resume_trainer(checkpoint: Checkpoint, trainer: Any) -> None:
    """Go on from the checkpoint that the first rank finds, if any; its logs lose what will be done again."""
    with trainer.ledger.spend("checkpoints"):
        about = checkpoint.load(_state_of(trainer))
    if checkpoint.world.first:
        keep_until(trainer.log, *((about["step"], about["val_step"]) if about else (-1, -1)))
    if about is None:
        return
    trainer.meter.steps, trainer.qat_on = about["sensitivity_steps"], about["qat_on"]
    trainer.model.looping = about.get("looping", True)  # an older checkpoint knows of none
    trainer.model.set_fake_grids(trainer.qat_grids if trainer.qat_on else {})
    trainer.step, trainer.val_step, trainer.stream.position = about["step"], about["val_step"], about["position"]
    trainer.ledger.seconds["train"] = about["seconds"]["train"]
    trainer.resumed_at = [*about["resumed_at"], trainer.step]
    trainer.log.line(f"resumed step:{trainer.step} train_time:{about['seconds']['train'] * 1000:.0f}ms")
