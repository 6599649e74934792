"""Where the seconds of a run go: a ledger that adds up to the wall time of all attempts, and how far along a run is."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pgolf_core.base.files import read_json, write_json
from pgolf_core.base.names import CHECKPOINT, METRICS, TRAIN_LOG
from pgolf_core.recipes.recipe import Recipe

PARTS = ("data", "warmup", "train", "validation", "averaging", "checkpoints", "lost", "rest")
"""data: reading shards. warmup: the network's making, compilation, warm-up (rolled back). train: steps, the only part
on the clock. averaging: the final average. checkpoints: writing and reading them and the weights. lost: what earlier
attempts did after their last checkpoint. rest: logs, progress bars and what lies between the others."""
ATTEMPT = "attempt.json"
"""In a folder that is being trained in: when that attempt began, and with what. A finished run has none."""
SIGNS_OF_LIFE = (METRICS, TRAIN_LOG, CHECKPOINT)


class SecondsLedger:
    """Seconds by part, from now on and from earlier attempts."""

    def __init__(self) -> None:
        self.began, self.t_start = time.time(), time.perf_counter()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.earlier = 0.0
        """How many of the seconds are earlier attempts'."""

    @contextlib.contextmanager
    def spend(self, part: str) -> Iterator[None]:
        """Count the time inside under `part`."""
        t_start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - t_start

    def settled(self) -> dict[str, float]:
        """The parts as they stand: what none of them has had goes to `rest`, so that they add up to the wall time."""
        wall = self.earlier + time.perf_counter() - self.t_start
        self.seconds["rest"] += wall - sum(self.seconds.values())
        return dict(self.seconds)

    def go_on(self, saved: dict[str, float], folder: Path) -> None:
        """Count earlier attempts: what a checkpoint has `saved` (empty without one), and what was lost beyond it.

        Notes in the folder that this attempt has begun. Call it before anything else is written there.
        """
        earlier = {part: spent for part, spent in saved.items() if part != "lost"}
        kept, signs = sum(earlier.values()), [folder / name for name in SIGNS_OF_LIFE]
        earlier["lost"] = lost_seconds(folder / ATTEMPT, signs, kept)
        for part, spent in earlier.items():
            self.seconds[part] += spent
        self.earlier = sum(earlier.values())
        write_json(folder / ATTEMPT, {"began": self.began, "kept": kept, "lost": earlier["lost"]})


def lost_seconds(note: Path, signs: Iterable[Path], kept: float = 0.0) -> float:
    """Seconds of earlier attempts that have to be spent again: what is `kept` of them is not lost.

    The `note` says when the last attempt began, the newest of the files `signs` how long it lived.
    """
    if not note.exists():
        return 0.0
    last = read_json(note)
    wall = max((path.stat().st_mtime for path in signs if path.exists()), default=last["began"]) - last["began"]
    return last["lost"] + max(wall - max(kept - last["kept"], 0.0), 0.0)


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
