"""Turns, seconds of calls, what neighbours take, peak memory, and a process that dies."""

import os
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from refused import refused

from pgolf_core.lab.bench.clock import Effort, count_calls, in_child, in_turns, others_share, peak_during, spread

CPU = torch.device("cpu")


def test_arms_take_turns_and_the_budget_ends_them_after_the_least_number() -> None:
    order: list[str] = []
    arms = {name: lambda name=name: order.append(name) or {"whole": 1.0} for name in ("a", "b")}
    found, others = in_turns(arms, Effort(warmups=1, least=3, most=9, budget_seconds=0.0), "test")
    assert 0 <= others <= 1 and order == ["a", "b"] * 4 and [len(turns) for turns in found.values()] == [3, 3]
    assert len(in_turns(arms, Effort(warmups=0, least=1, most=2), "test")[0]["a"]) == 2


def test_seconds_of_calls_are_counted_by_part() -> None:
    class Worker:
        def work(self, seconds: float) -> str:
            time.sleep(seconds)
            return "done"

    worker, spent = Worker(), {}
    count_calls(worker, "work", spent, "part", CPU)
    assert worker.work(0.02) == worker.work(0.03) == "done"
    assert 0.05 <= spent["part"] < 5.0


def test_a_spread_is_median_quartiles_and_ends() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == {
        "median": 3.0, "quartile_1": 2.0, "quartile_3": 4.0, "min": 1.0, "max": 5.0, "turns": 5,
    }  # fmt: skip


def test_what_others_take_of_the_processors_is_what_is_busy_and_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 50.0)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil.Process, "cpu_percent", lambda self: 120.0)  # of one processor
    assert others_share(psutil.Process()) == pytest.approx(0.5 - 1.2 / 4)


def peaks(megabytes: int) -> list[dict]:
    """Peak memory while a large array comes and goes, and after it has; run in a process of its own."""
    return [peak_during(lambda n=n: np.ones(n * 2**20, np.uint8).sum(), CPU) for n in (megabytes, 1)]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux alone")
def test_peak_memory_is_that_since_the_reset_and_of_the_child_alone() -> None:
    large, small = in_child(peaks, 256)
    assert large["peak_bytes"] - large["before_bytes"] > 250 * 2**20 and "VmHWM" in large["method"]
    assert large["peak_bytes"] - small["peak_bytes"] > 200 * 2**20


def test_a_process_that_dies_while_measuring_is_told_in_a_line() -> None:
    with refused(r"ended, most likely for want of memory; .*--recipes"):
        in_child(os._exit, 9)
