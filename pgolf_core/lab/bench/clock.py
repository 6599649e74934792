"""Timing two ways of doing one thing in turns, and the peak memory of a process.

A machine's speed drifts by more than what is measured, so the ways take turns and each turn gives one ratio.
"""

import gc
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from tqdm import tqdm

from pgolf_core.base.files import UserError

Seconds = dict[str, float]
"""Seconds by part."""
Turns = dict[str, pd.DataFrame]
"""By arm, one row a turn, one column a part."""


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    warmups: int = 2
    """Untimed turns first: compilation, caches, the allocator."""
    least: int = 5
    """Timed turns at least."""
    most: int = 40
    budget_seconds: float = 60.0
    """Once `least` turns are done, no new one is begun after this."""
    sliding_flops: float = 6e11
    """The sliding measure has as many windows as these operations pay for."""


FULL = Effort()
QUICK = Effort(warmups=1, least=2, most=2, sliding_flops=0.0)


@contextmanager
def counted(spent: Seconds, part: str, device: torch.device) -> Iterator[None]:
    """Add the seconds inside to spent[part], the device having done what it was given before and inside."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    t_start = time.perf_counter()
    yield
    wait(device)
    spent[part] = spent.get(part, 0.0) + time.perf_counter() - t_start


def count_calls(owner: Any, method: str, spent: Seconds, part: str, device: torch.device) -> None:
    """From now on every call of owner.method adds its seconds to spent[part]."""
    inner = getattr(owner, method)

    def call(*arguments: Any, **named: Any) -> Any:
        with counted(spent, part, device):
            return inner(*arguments, **named)

    setattr(owner, method, call)


def others_share(own: psutil.Process) -> float:
    """Share of all processor time since the last call that other processes than `own` took, in [0, 1].

    Time stolen by other machines is in it.
    """
    percent = psutil.cpu_percent() - own.cpu_percent() / (psutil.cpu_count() or 1)
    return min(max(percent / 100, 0.0), 1.0)


def in_turns(
    arms: dict[str, Callable[[], Seconds]], effort: Effort, label: str, progress: bool = False
) -> tuple[Turns, float]:
    """Each arm's seconds, turn by turn: A B A B; and the share of the processors that others took meanwhile.

    Every arm says itself how long its parts took.
    """
    found: dict[str, list[Seconds]] = {name: [] for name in arms}
    with tqdm(desc=f"{label}: warm-up", unit="turn", disable=not progress, file=sys.stderr, leave=False) as bar:
        for _ in range(effort.warmups):
            for arm in arms.values():
                arm()
            bar.update()
        bar.set_description(f"{label}: timing")
        own, t_end = psutil.Process(), time.perf_counter() + effort.budget_seconds
        others_share(own)  # from now on
        for turn in range(effort.most):
            if turn >= effort.least and time.perf_counter() >= t_end:
                break
            for name, arm in arms.items():
                found[name].append(arm())
            bar.update()
    return {name: pd.DataFrame(turns) for name, turns in found.items()}, others_share(own)


def spread(values: list[float] | np.ndarray | pd.Series) -> dict[str, float | int]:
    """Ends, quartiles, median and number of the values of all turns."""
    names, ends = ("min", "quartile_1", "median", "quartile_3", "max"), np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    return {**dict(zip(names, ends.tolist(), strict=True)), "turns": np.size(values)}


def seconds_and_ratios(turns: Turns) -> dict[str, Any]:
    """`seconds` by arm and part and, where there is a plain arm, `ratio`: plain over fast seconds of every part."""
    seconds = {arm: {part: spread(table[part]) for part in table} for arm, table in turns.items()}
    found: dict[str, Any] = {"seconds": seconds}
    if "plain" in turns:
        found["ratio"] = {part: spread(ratio) for part, ratio in (turns["plain"] / turns["fast"]).items()}
    return found


def peak_during(work: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Largest memory of the CUDA device, else of this process's resident set, while work() runs; and that before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        method, peak = "torch.cuda.max_memory_allocated", lambda: torch.cuda.max_memory_allocated(device)
    elif (mark := Path("/proc/self/clear_refs")).exists():
        mark.write_text("5")
        status = Path("/proc/self/status")  # ru_maxrss begins at the parent's
        method = "VmHWM, reset after the warm-up"
        peak = lambda: int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) * 1024  # noqa: E731
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        method, peak = "ru_maxrss, its start included", lambda: getrusage(RUSAGE_SELF).ru_maxrss * unit
    before = peak()
    work()
    return {"peak_bytes": peak(), "before_bytes": before, "method": f"{method}, in a process of its own"}


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of function(*arguments) in a fresh process: its memory, threads and compiled code are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            raise UserError(
                f"the process that measured {getattr(arguments[0], 'label', arguments[0])} ended, most likely for want "
                "of memory; free some, take a smaller --micro-batch-seqs, or leave that recipe out (--recipes)"
            ) from None
