"""Where things are, whatever folder a command is called from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pgolf_core.base.files import UserError
from pgolf_core.lab.shared import places
from pgolf_core.lab.shared.places import CORE_DIR, child_environment, core_sha256, find_root, short_path

ROOT = Path(__file__).resolve().parents[3]


def test_the_repository_is_found_from_anywhere_inside_it_and_missed_outside(tmp_path: Path) -> None:
    assert find_root() == find_root(ROOT / "tests" / "lab") == ROOT
    with pytest.raises(UserError, match="no repository with pyproject"):
        find_root(tmp_path)


def test_a_path_inside_the_repository_names_no_machine(tmp_path: Path) -> None:
    assert short_path(ROOT / "runs" / "x") == os.path.join("runs", "x")
    assert short_path(tmp_path) == str(tmp_path)


def test_a_child_imports_this_package_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "other")
    assert child_environment()["PYTHONPATH"].split(os.pathsep) == [str(CORE_DIR.parent), "other"]


def test_the_hash_of_the_core_changes_with_any_of_its_files_and_with_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "pgolf_core"
    shutil.copytree(CORE_DIR, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(places, "CORE_DIR", copy)
    before = core_sha256()
    (copy / "lab" / "cli.py").write_text("")
    assert core_sha256() == before
    (copy / "training" / "loop.py").write_text("")
    assert core_sha256() != before
