"""Kernels that are forked: what they find imported, where and in which environment they run, how they end."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ranks import ended
from refused import refused

from pgolf_core.lab.record import kernels

pytestmark = pytest.mark.skipif(not kernels.CAN_FORK, reason="kernels are forked on Linux alone")
RUNNER = """
import asyncio, os, psutil, tempfile
from pathlib import Path
from pgolf_core.lab.record import kernels

CODE = '''
import multiprocessing, os, sys
print(os.getcwd(), os.environ.get("ONLY_HERE"), "torch" in sys.modules, "pgolf_core.network" in sys.modules,
      multiprocessing.get_start_method(), os.getpid() == os.getpgid(0), os.getpid())
'''

async def main():
    with tempfile.TemporaryDirectory() as scratch:
        manager = kernels.kernel_manager(Path(scratch))
        await manager.start_kernel(
            env={**os.environ, "ONLY_HERE": "yes"}, cwd=scratch, extra_arguments=["--log-level=50"]
        )
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=120)
        await client.execute_interactive(CODE, timeout=60)
        print("scratch", os.path.realpath(scratch), flush=True)
        await manager.shutdown_kernel(now=True)
        print("alive", await manager.is_alive())

with kernels.prepared():
    asyncio.run(main())
print("children", len(psutil.Process().children()))
"""


def test_a_forked_kernel_has_the_large_imports_alone_its_folder_and_environment_and_ends_when_told(tmp_path: Path):
    """Under a job's folder for temporary files whose name is too long for a socket."""
    (long := tmp_path / ("a" * 100)).mkdir()
    environment = {**os.environ, "TMPDIR": str(long)}
    done = subprocess.run([sys.executable, "-c", RUNNER], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    folder, only_here, torch, package, method, leads, pid = said[:7]
    assert (only_here, torch, package, method, leads) == ("yes", "True", "False", "fork", "True")
    assert folder == said[8] and said[9:] == ["alive", "False", "children", "0"]
    assert ended(int(pid)) and "leaked" not in done.stderr


def test_where_no_folder_serves_sockets_a_line_names_tmpdir(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels.tempfile, "tempdir", "/somewhere/" + "a" * 100)
    monkeypatch.setattr(kernels.os, "access", lambda path, mode: False)
    with (
        refused(r"^TMPDIR=/somewhere/a+ is longer than the 70 bytes that sockets in it allow"),
        kernels.prepared(),
    ):
        pass


def test_where_the_folder_for_temporary_files_is_full_a_line_says_so(monkeypatch: pytest.MonkeyPatch):
    """A kernel died of it, with a traceback."""
    monkeypatch.setattr(kernels.tempfile, "tempdir", "/tmp")
    monkeypatch.setattr(kernels.shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
    with refused(r"^/\S+ has 4,096 bytes left for temporary files; free some, .*TMPDIR"), kernels.prepared():
        pass
