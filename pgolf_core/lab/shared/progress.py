"""Progress: bars for terminals and notebooks over the core's plain callbacks, and the step that a log has reached."""

import contextlib
import json
import math
import operator
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pgolf_core.recipes.recipe import Recipe
from pgolf_core.training.progress import TrainProgress, progress_at


def _bar(enabled: bool, **look: Any) -> tqdm:
    """A notebook shows what goes to standard error on red; a command's standard output is its result."""
    shown_on = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    return tqdm(mininterval=1.0, disable=not enabled, file=shown_on, **look)


@contextlib.contextmanager
def training_bar(recipe: Recipe, enabled: bool = True) -> Iterator[Callable[[TrainProgress], None]]:
    """A bar over the budget (seconds or iterations) with step, loss, tokens/s and the time left."""
    layout = "{desc}: {percentage:3.0f}%|{bar:24}| {postfix}"
    with _bar(enabled, total=100.0, desc="train", bar_format=layout) as bar:

        def update(now: TrainProgress) -> None:
            left = f"{now.seconds_left:.0f} s left" if math.isfinite(now.seconds_left) else ""
            said = f"step {now.step}, loss {now.loss:.3f}, {now.tokens_per_second:,.0f} tokens/s, {left}"
            bar.set_postfix_str(said, refresh=False)
            bar.update(100 * now.fraction - bar.n)

        yield update


@contextlib.contextmanager
def score_bar(label: str, enabled: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar over scored targets."""
    with _bar(enabled, desc=label, unit="target", unit_scale=True) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def last_step(path: Path, recipe: Recipe, since: float = 0.0) -> TrainProgress | None:
    """The newest whole training step in a metrics file, if that was written since `since`."""
    if not path.exists() or path.stat().st_mtime < since:
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().split(b"\n")[:-1]  # what follows the last newline is still being written
    for line in reversed(lines):
        try:
            values = json.loads(line)
            if values["kind"] == "train":
                step, *numbers = (values[key] for key in ("step", "loss", "seconds", "tokens_per_second"))
                return progress_at(recipe, operator.index(step), *map(float, numbers))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None  # the first line of what was read, cut, or a damaged one
    return None
