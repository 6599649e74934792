"""Checkpoints and weight files: safetensors, written atomically, never pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pgolf_core.files import UserError, write_bytes


def save_tensors(path: Path | str, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    """Write named tensors and a JSON-able dictionary into one safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(plain, metadata={"about": json.dumps(about or {}, sort_keys=True)}))


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back (tensors on the CPU, about); UserError for a missing or damaged file."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; run the training stage first")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
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
