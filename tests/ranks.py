"""Real ranks for tests: a function run in several gloo processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from pgolf_core.parallel import join

_processes = multiprocessing.get_context("forkserver")  # one server imports torch, its forks start in no time
_processes.set_forkserver_preload(["pgolf_core.train"])


def on_ranks(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call work(world, *arguments) in `size` processes that have joined; any that fails fails the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
