"""`pgolf lab`: JupyterLab on the notebooks, in this Python. tests/whole/test_jupyterlab.py starts it."""

import importlib.util
import os
import sys

import pytest
from refused import refused

from pgolf_core.lab import cli
from pgolf_core.lab.shared.places import find_root


def test_lab_becomes_jupyterlab_in_this_python_with_the_notebooks_open(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: called.append((program, command)))
    options = cli.parse(["lab", "--no-browser", "--port=1234"])
    options.run(options)
    ((program, command),) = called
    assert program == sys.executable and command[1:3] == ["-m", "jupyterlab"]
    assert f"--ServerApp.preferred_dir={find_root() / 'notebooks'}" in command
    assert command[-2:] == ["--no-browser", "--port=1234"]


def test_without_jupyterlab_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    options = cli.parse(["lab"])
    with refused("`make lab` installs it"):
        options.run(options)
