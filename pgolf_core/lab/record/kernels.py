"""Kernels that run this very Python, forked from one process that has imported what notebooks need.

So a kernel starts in a tenth of a second and imports nothing large. Where forking is not safe (not on Linux) each is
started anew.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from multiprocessing import forkserver
from typing import Any
from unittest import mock

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import default

CAN_FORK = sys.platform == "linux"
PRELOADED = ["pgolf_core.lab.record.preload"]


def prepare() -> None:
    """Start importing what kernels need, beside whatever is done before the first of them."""
    if CAN_FORK:
        forkserver.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()


class OwnKernelManager(AsyncKernelManager):
    """Whatever kernel a notebook names, it runs in this interpreter: a python3 kernel of the user's may be another."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        if CAN_FORK:
            self.provisioner = _Forking(kernel_id="", kernel_spec=self.kernel_spec, parent=self)

    @default("kernel_spec_manager")
    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return _OwnPython()


class _OwnPython(KernelSpecManager):
    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "--log-level=50", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="pgolf", language="python", resource_dir="")


class _Forking(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        self.process = _Forked(cmd[3:], options["env"], options["cwd"])  # without python -m ipykernel_launcher
        self.pid = self.pgid = self.process.pid
        self.cwd = options["cwd"]
        return self.connection_info


class _Forked:
    """What a provisioner asks of a Popen."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: str):
        context, given = multiprocessing.get_context("forkserver"), (arguments, environment, folder)
        self._process = context.Process(target=_be_kernel, args=given)
        with mock.patch.dict(sys.modules, {"__main__": types.ModuleType("__main__")}):
            self._process.start()  # else the kernel would run this process's main program again, up to its guard
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


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
    multiprocessing.parent_process().join()
    os._exit(1)
