"""How the goldens are read."""

import json
from pathlib import Path

import numpy as np
import torch


def load(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """A file's arrays, and its config."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays.pop("config", "{}")))


def section(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    """The arrays whose names begin so, without that."""
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
