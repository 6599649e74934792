"""Real ranks for tests: a function run in several gloo processes on this machine."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pgolf_core.base.parallel import join

_processes = multiprocessing.get_context("forkserver")  # one server imports torch, its forks start in no time
_processes.set_forkserver_preload(["pytest", "torch._dynamo", "pgolf_core.training.loop"])


def on_ranks(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call work(world, *arguments) in `size` processes that have joined; any that fails fails the test."""
    port = free_port()
    ranks = [_processes.Process(target=_rank, args=(rank, size, port, work, arguments)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * size


def _rank(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with join() as world:
        assert (world.rank, world.size) == (rank, size)
        work(world, *arguments)


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_process(work: Callable[..., Any], *arguments: Any) -> multiprocessing.Process:
    """Call work(*arguments) in a process of its own that may be killed."""
    process = _processes.Process(target=work, args=arguments)
    process.start()
    return process


def ended(pid: int) -> bool:
    """Whether the process is gone, or dead and only not yet collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(is_true: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    """Poll; AssertionError after so many seconds."""
    t_end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < t_end, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
