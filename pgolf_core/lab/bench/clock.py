"""Timing two ways of doing one thing in turns, and the peak memory of a process.

A machine's speed drifts by more than what is measured, so the ways take turns and each turn gives one ratio.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pgolf_core.base.files import UserError

Seconds = dict[str, float]
"""Seconds by part; `whole` at least."""


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


FULL = Effort()
QUICK = Effort(warmups=1, least=2, most=2)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def counted(spent: Seconds, part: str, device: torch.device) -> Iterator[None]:
    """Add the seconds inside to spent[part]."""
    synchronise(device)
    t_start = time.perf_counter()
    yield
    synchronise(device)
    spent[part] = spent.get(part, 0.0) + time.perf_counter() - t_start


def count_calls(owner: Any, method: str, spent: Seconds, part: str, device: torch.device) -> None:
    """From now on every call of owner.method adds its seconds to spent[part]."""
    inner = getattr(owner, method)

    def call(*arguments: Any, **named: Any) -> Any:
        with counted(spent, part, device):
            return inner(*arguments, **named)

    setattr(owner, method, call)


class Neighbours:
    """How much of the machine's processors other processes take from now on."""

    def __init__(self) -> None:
        self._start = self._ticks()

    def share(self) -> float | None:
        """Share of all processor time since the start, in [0, 1]; None where the system does not tell (not Linux)."""
        now = self._ticks()
        if self._start is None or now is None or now[0] == self._start[0]:
            return None
        total, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return min(max((busy - own) / total, 0.0), 1.0)

    def _ticks(self) -> tuple[float, float, float] | None:
        """Clock ticks since the system's start: all, busy (stolen by other machines too), and this process's own."""
        try:
            user, nice, system, idle, waiting, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
        except (OSError, ValueError):
            return None
        busy = user + nice + system + sum(rest)
        return busy + idle + waiting, busy, sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")


def in_turns(
    arms: dict[str, Callable[[], Seconds]], effort: Effort, label: str, progress: bool = False
) -> tuple[dict[str, list[Seconds]], float | None]:
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
        neighbours, t_start, turns = Neighbours(), time.perf_counter(), 0
        while turns < effort.least or (
            turns < effort.most and time.perf_counter() - t_start < effort.budget_seconds
        ):  # fmt: skip
            for name, arm in arms.items():
                found[name].append(arm())
            turns += 1
            bar.update()
    return found, neighbours.share()


def spread(values: list[float]) -> dict[str, float | int]:
    """Median, quartiles, ends and number of the values of all turns."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {
        "median": statistics.median(values), "quartile_1": quartiles[0], "quartile_3": quartiles[2],
        "min": min(values), "max": max(values), "turns": len(values),
    }  # fmt: skip


# ---------------------------------------------------------------------- memory


def reset_peak_memory(device: torch.device) -> str:
    """Forget the peak so far; returns how `peak_memory_bytes` will know the next one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return "torch.cuda.max_memory_allocated, in a process of its own"
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return "ru_maxrss of a process of its own, its start included"
    return "VmHWM of a process of its own, reset after the warm-up"


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory since the reset: of the CUDA device, else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_child(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The result of function(*arguments) in a fresh process: its memory, threads and compiled code are its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments, **named).result()
        except (concurrent.futures.process.BrokenProcessPool, torch.OutOfMemoryError):
            what = getattr(arguments[0], "label", arguments[0]) if arguments else function.__name__
            raise UserError(
                f"the process that measured {what} ended, most likely for want of memory; "
                "free some, take a smaller --micro-batch-seqs, or leave that recipe out (--recipes)"
            ) from None
