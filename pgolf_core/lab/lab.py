"""`pgolf lab`: JupyterLab on the notebooks."""

import argparse
import importlib.util
import os
import sys
from typing import NoReturn

from pgolf_core.base.files import UserError
from pgolf_core.lab.shared.places import find_root


def add(parser: argparse.ArgumentParser) -> None:
    """No options of its own; what is left over is JupyterLab's."""


def run(options: argparse.Namespace) -> NoReturn:
    """Become JupyterLab, so that Ctrl-C is its own affair. UserError where it is not installed."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise UserError("JupyterLab is not installed; `make lab` installs it, or pip install -e '.[jupyterlab]'")
    root = find_root()
    places = [f"--ServerApp.root_dir={root}", f"--ServerApp.preferred_dir={root / 'notebooks'}"]
    as_root = ["--allow-root"] if os.geteuid() == 0 else []  # it listens on this machine alone and asks for its token
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *places, *as_root, *options.further])
