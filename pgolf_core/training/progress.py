"""What a run's folder says: its curve, its result, how far it is, what its earlier attempts lost.

A submission's script has no use for it.
"""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.base.names import CHECKPOINT, METRICS, TRAIN_LOG, TRAIN_RESULT
from pgolf_core.base.strict import build
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.training.runlog import SecondsLedger, TrainResult

ATTEMPT = "attempt.json"
"""In a folder that is being trained in: when that attempt began, and with what. A finished run has none."""
SIGNS_OF_LIFE = (METRICS, TRAIN_LOG, CHECKPOINT)


@dataclass(frozen=True)
class Attempt:
    """What the note of an attempt says, in seconds; `began` by the system's clock."""

    began: float
    kept: float
    lost: float


def go_on(ledger: SecondsLedger, saved: dict[str, float], folder: Path) -> None:
    """Count earlier attempts: what a checkpoint has `saved` (empty without one), and what was lost beyond it.

    Notes in the folder that this attempt has begun. Call it before anything else is written there.
    """
    earlier = {part: spent for part, spent in saved.items() if part != "lost"}
    kept, signs = sum(earlier.values()), [folder / name for name in SIGNS_OF_LIFE]
    earlier["lost"] = lost_seconds(folder / ATTEMPT, signs, kept)
    for part, spent in earlier.items():
        ledger.seconds[part] += spent
    ledger.earlier = sum(earlier.values())
    write_json(folder / ATTEMPT, {"began": ledger.began, "kept": kept, "lost": earlier["lost"]})


def lost_seconds(note: Path, signs: Iterable[Path], kept: float = 0.0) -> float:
    """Seconds of earlier attempts that have to be spent again: what is `kept` of them is not lost.

    The `note` says when the last attempt began, the newest of the files `signs` how long it lived.
    """
    if not note.exists():
        return 0.0
    last, now = build(Attempt, read_json(note), str(note)), time.time()
    times = [path.stat().st_mtime for path in signs if path.exists()]
    wall = max((seen for seen in times if seen <= now), default=last.began) - last.began  # a clock may be set back
    return last.lost + max(wall - max(kept - last.kept, 0.0), 0.0)


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
    used = recipe.schedule.used(step, clock)
    return TrainProgress(step, used, loss, tokens_per_second, clock * (1 / used - 1) if used else math.inf)


def training_curve(folder: Path | str) -> list[dict[str, Any]]:
    """The parsed whole lines of a run's metrics.jsonl, in order; UserError if there is none, or one is damaged."""
    path = Path(folder) / METRICS
    if not path.is_file():
        raise UserError(f"{path} does not exist; run the training stage first")
    try:  # what follows the last newline is still being written, or was cut
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} has a line that is no JSON ({error}); train again with --fresh") from None
    if not all(isinstance(line, dict) for line in lines):
        raise UserError(f"{path} has a line that is no JSON object; train again with --fresh")
    return lines


def read_result(folder: Path | str) -> TrainResult:
    """What a finished training wrote about itself; UserError if there is none."""
    path = Path(folder) / TRAIN_RESULT
    return build(TrainResult, read_json(path), str(path))
