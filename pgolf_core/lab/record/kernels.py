"""Kernels that run this very Python, forked from one process that has imported what notebooks need (`preload`).

Started anew, as where forking is not safe (not on Linux), a kernel spends 3 to 4 seconds of a core on these imports.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from pgolf_core.base.files import UserError

CAN_FORK = sys.platform == "linux"
MAX_FOLDER = 70
"""Characters of a folder for temporary files: a socket's path may have 107, and names under it take up to 36."""

LEAST_BYTES = 1_000_000
"""Free in that folder: what a kernel puts there, and a little more."""


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Start importing what kernels need, beside whatever is done before the first of them, and end it all afterwards.

    Where the folder for temporary files has too long a name for sockets, this process uses /tmp from now on; UserError
    if that cannot be written, or is full.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > MAX_FOLDER:
        if not os.access("/tmp", os.W_OK | os.X_OK):
            raise UserError(
                f"TMPDIR={folder} is longer than the {MAX_FOLDER} bytes that sockets in it allow; name another"
            )
        tempfile.tempdir = "/tmp"
    if (free := shutil.disk_usage(folder := tempfile.gettempdir()).free) < LEAST_BYTES:
        raise UserError(f"{folder} has {free:,} bytes left for temporary files; free some, or name another in TMPDIR")
    if not CAN_FORK:
        yield
        return
    forkserver.set_forkserver_preload(["pgolf_core.lab.record.preload"])
    forkserver.ensure_running()
    try:
        yield
    finally:  # of themselves these two would outlive this process by a second; Python's own tests end them so
        server: Any = forkserver._forkserver  # type: ignore[attr-defined]
        os.kill(server._forkserver_pid, signal.SIGTERM)  # it may still be importing
        server._stop()
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def kernel_manager(scratch: Path) -> AsyncKernelManager:
    """What starts one kernel in this interpreter, with its sockets in the private folder `scratch`.

    No folder is searched for kernels: a python3 kernel of the user's may be another Python.
    """
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    manager.connection_file = str(scratch / "kernel.json")
    manager.transport, manager.ip = "ipc", str(scratch / "kernel")
    if CAN_FORK:
        manager.provisioner = _Forking(kernel_id="", kernel_spec=manager.kernel_spec, parent=manager)
    return manager


class _Forking(LocalProvisioner):
    process: Any

    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        self.process = process = _Forked(target=_be_kernel, args=(arguments, options["env"], options["cwd"]))
        process.start()
        self.pid = self.pgid = process.pid
        return self.connection_info


class _Forked(ForkServerProcess):
    """A process with what a provisioner asks of a Popen besides."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, signum: int) -> None:
        assert self.pid is not None
        os.kill(self.pid, signum)


def _be_kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """In the forked process: a kernel like one that was started in `folder`, gone as soon as its runner is."""
    from ipykernel.kernelapp import IPKernelApp

    multiprocessing.set_start_method(None, force=True)  # a cell's own processes start as they do in any kernel
    os.setsid()  # signals go to the kernel and its children together
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threading.Thread(target=_end_with_runner, daemon=True).start()
    IPKernelApp.launch_instance(argv=arguments)


def _end_with_runner() -> None:
    runner = multiprocessing.parent_process()
    assert runner is not None
    runner.join()
    os._exit(1)
