"""A run's logs: train.log for people (the field's line formats, papers/machinery.md), metrics.jsonl for programs."""

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, explain_os_errors, read_json, write_text
from pgolf_core.base.names import METRICS, TRAIN_LOG, TRAIN_RESULT
from pgolf_core.base.strict import build
from pgolf_core.recipes.recipe import Recipe


class RunLog:
    """Appends to both files, a line at a time, each line flushed; a context manager that closes them."""

    def __init__(self, folder: Path, say: Callable[[str], None] | None = None):
        self.folder, self.say = folder, say

    def __enter__(self) -> "RunLog":
        with explain_os_errors(f"cannot write logs in {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.text = open(self.folder / TRAIN_LOG, "a", encoding="utf-8", buffering=1)
            self.metrics = open(self.folder / METRICS, "a", encoding="utf-8", buffering=1)
        return self

    def __exit__(self, *exception: object) -> None:
        self.text.close()
        self.metrics.close()

    def keep_until(self, step: int, val_step: int) -> None:
        """Drop what will be done again after a kill: steps after `step`, validations after `val_step`, cut lines."""
        kept = []
        for line in (self.folder / METRICS).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError):
                values = json.loads(line)
                if values["step"] <= {"train": step, "val": val_step}.get(values["kind"], -1):
                    kept.append(line + "\n")
        self.metrics.close()
        write_text(self.folder / METRICS, "".join(kept))
        self.metrics = open(self.folder / METRICS, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

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


class NoLog(RunLog):
    """Writes and says nothing: the log of every rank but the first."""

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, *exception: object) -> None: ...

    def keep_until(self, step: int, val_step: int) -> None: ...

    def metric(self, **values: Any) -> None: ...

    def line(self, text: str, quiet: bool = False) -> None: ...


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


def training_curve(folder: Path | str) -> list[dict[str, Any]]:
    """The parsed lines of a run's metrics.jsonl, in order; UserError if there is none."""
    path = Path(folder) / METRICS
    if not path.is_file():
        raise UserError(f"{path} does not exist; run the training stage first")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


@dataclass(frozen=True)
class TrainResult:
    """What training says about itself; weights and metrics are in the run folder."""

    steps: int
    tokens: int
    parameters: int
    stopped_by: str
    seconds: dict[str, float]
    """Wall time of all attempts by part (clock.PARTS), of which `train` alone is inside the cap."""
    earlier_seconds: float
    """How many of them belong to attempts before the one that came to the end."""
    resumed_at_steps: list[int]
    sensitivity_steps: int
    path: str
    """The line that says which device, dtype, graph and attention kernel ran."""


def read_result(folder: Path | str) -> TrainResult:
    """What a finished training wrote about itself; UserError if there is none."""
    path = Path(folder) / TRAIN_RESULT
    return build(TrainResult, read_json(path), str(path))
