"""`pgolf lab`: JupyterLab on the notebooks."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from pgolf_core.lab.shared.places import find_root


def add(parser: argparse.ArgumentParser) -> None:
    """No options of its own; what is left over is JupyterLab's."""


def run(options: argparse.Namespace) -> NoReturn:
    """Become JupyterLab, so that Ctrl-C is its own affair."""
    root = find_root()
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}"]
    command.append(f"--ServerApp.preferred_dir={root / 'notebooks'}")
    if os.geteuid() == 0:
        command.append("--allow-root")  # the server listens on this machine alone and asks for its token
    os.execv(sys.executable, [*command, *options.further])
