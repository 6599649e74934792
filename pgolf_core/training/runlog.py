"""A run's logs, and where its seconds go: a ledger that adds up to the wall time of all attempts.

train.log is for people (the field's line formats, papers/machinery.md), metrics.jsonl for programs.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgolf_core.base.files import explain_os_errors
from pgolf_core.base.names import METRICS, TRAIN_LOG
from pgolf_core.recipes.recipe import Recipe

PARTS = ("data", "warmup", "train", "validation", "averaging", "checkpoints", "lost", "rest")
"""data: reading shards. warmup: the network's making, compilation, warm-up (rolled back). train: steps, the only part
on the clock. averaging: the final average. checkpoints: writing and reading them and the weights. lost: what earlier
attempts did after their last checkpoint. rest: logs, progress bars and what lies between the others."""


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


class RunLog:
    """Appends to both files, a line at a time, each line flushed; a context manager that closes them.

    Any rank but the first writes and says nothing.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] | None = None, is_first: bool = True):
        self.folder, self.say, self.is_first = folder, say if is_first else None, is_first

    def __enter__(self) -> "RunLog":
        with explain_os_errors(f"cannot write logs in {self.folder}"):
            if self.is_first:
                self.folder.mkdir(parents=True, exist_ok=True)
            paths = [self.folder / name if self.is_first else os.devnull for name in (TRAIN_LOG, METRICS)]
            self.text = open(paths[0], "a", encoding="utf-8", buffering=1)
            self.metrics = open(paths[1], "a", encoding="utf-8", buffering=1)
        return self

    def __exit__(self, *exception: object) -> None:
        self.text.close()
        self.metrics.close()

    def metric(self, **values: Any) -> None:
        """One JSON object a line."""
        with explain_os_errors(f"cannot write logs in {self.folder}"):
            self.metrics.write(json.dumps(values) + "\n")

    def line(self, text: str, quiet: bool = False) -> None:
        """One line of train.log, also said aloud unless quiet."""
        with explain_os_errors(f"cannot write logs in {self.folder}"):
            self.text.write(text + "\n")
        if self.say is not None and not quiet:
            self.say(text)


def opening_lines(recipe: Recipe, seed: int, parameters: int, ranks: int) -> list[str]:
    """What train.log says before the first step, in the words of the field's scripts."""
    data, schedule, optim = recipe.data, recipe.schedule, recipe.optim
    micro_steps = math.ceil(data.batch_tokens // data.seq_len // ranks / data.micro_batch_seqs)
    return [
        f"model_params:{parameters}",
        f"world_size:{ranks} grad_accum_steps:{micro_steps}",
        f"attention_mode:gqa num_heads:{recipe.model.num_heads} num_kv_heads:{recipe.model.num_kv_heads}",
        f"tie_embeddings:True embed_lr:{optim.embed_lr} matrix_lr:{optim.matrix_lr} scalar_lr:{optim.scalar_lr}",
        f"train_batch_tokens:{data.batch_tokens} train_seq_len:{data.seq_len} iterations:{schedule.iterations} "
        f"warmup_steps:{schedule.warmup_steps} max_wallclock_seconds:{schedule.max_seconds:.3f}",
        f"seed:{seed}",
    ]


@dataclass(frozen=True)
class TrainResult:
    """What training says about itself; weights and metrics are in the run folder."""

    steps: int
    tokens: int
    parameters: int
    stopped_by: str
    seconds: dict[str, float]
    """Wall time of all attempts by part (PARTS), of which `train` alone is inside the cap."""
    earlier_seconds: float
    """How many of them belong to attempts before the one that came to the end."""
    resumed_at_steps: list[int]
    sensitivity_steps: int
    path: str
    """The line that says which device, dtype, graph and attention kernel ran."""
