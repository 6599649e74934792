"""Seconds of a seed's stages, also of those that a signal, a failure or a kill has ended.

The runner notes when it begins a stage; a stage that finishes takes the note away. One that is still there speaks of an
attempt that did not, and the newest file of the seed says how long that lived.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pgolf_core.base.files import read_json, write_json
from pgolf_core.training.clock import SIGNS_OF_LIFE

ATTEMPT = "stages/attempt.json"
STAGE_BEGAN = "PGOLF_STAGE_BEGAN"
"""The runner tells a stage's kernel since when its seconds count (the system's clock)."""


def begin_attempt(folder: Path) -> float:
    """Note that a stage of the seed in `folder` begins now; returns now, by the system's clock."""
    note = {"began": time.time(), "lost": lost_seconds(folder)}
    if (folder / ATTEMPT).exists():
        last = read_json(folder / ATTEMPT)
        note["lost"] += max(_last_sign_of_life(folder) - last["began"], 0.0)
    write_json(folder / ATTEMPT, note)
    return note["began"]


def lost_seconds(folder: Path) -> float:
    """Seconds of attempts that did not finish the stage which is being tried now."""
    return read_json(folder / ATTEMPT)["lost"] if (folder / ATTEMPT).exists() else 0.0


def end_attempt(folder: Path) -> None:
    """The stage is finished."""
    (folder / ATTEMPT).unlink(missing_ok=True)


def elapsed_seconds(t_start: float) -> float:
    """Seconds of this attempt: since the runner began it; in a notebook opened by hand since `t_start` (monotonic)."""
    began = os.environ.get(STAGE_BEGAN)
    return time.time() - float(began) if began else time.monotonic() - t_start


def _last_sign_of_life(folder: Path) -> float:
    paths = [*folder.glob("notebooks/*.ipynb"), *folder.glob("figures/*"), *(folder / name for name in SIGNS_OF_LIFE)]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
