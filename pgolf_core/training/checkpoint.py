"""Checkpoints and weight files: safetensors, written atomically, never pickled."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgolf_core.base.files import UserError, write_bytes
from pgolf_core.base.names import CHECKPOINT
from pgolf_core.base.parallel import World


def save_tensors(path: Path | str, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    """Write named tensors and a JSON-able dictionary into one safetensors file, atomically."""
    import safetensors.torch  # here, so that a script, which keeps nothing, runs where it is not installed

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(plain, metadata={"about": json.dumps(about or {}, sort_keys=True)}))


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


class Checkpoint:
    """The file that a stopped or killed run goes on from: written whole or not at all, by the first rank alone."""

    def __init__(self, folder: Path, made_of: dict[str, Any], every_seconds: float, world: World):
        """`made_of` is what a run must have in common with a checkpoint; `every_seconds` is the cadence, 0 for none."""
        self.path = folder / CHECKPOINT
        self.made_of, self.every_seconds, self.world = made_of, every_seconds, world
        self.t_saved = time.perf_counter()
        self.saved_step = -1

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

        No step draws from torch's generators: what is random follows from the seed and the position alone.
        """
        found = self.world.first and self.path.exists()
        tensors, about = load_tensors(self.path) if found else ({}, None)
        about = json.loads(self.world.text_of_first(json.dumps(about)))
        self.t_saved = time.perf_counter()
        if about is None:
            return None
        if self.world.first:
            restore(state, tensors, self.path)
        self.world.copy_first_(state.values())
        self.saved_step = about["step"]
        return about
