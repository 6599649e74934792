"""Where the repository is, and how paths inside it are shown."""

import os
from pathlib import Path

import pytest
from refused import refused

from pgolf_core.lab.shared import places
from pgolf_core.lab.shared.places import find_root, short_path


def test_paths_inside_the_repository_are_shown_relative_to_it_whatever_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (find_root() / "pyproject.toml").is_file()
    assert short_path(find_root() / "runs" / "x") == os.path.join("runs", "x")
    assert short_path(tmp_path) == str(tmp_path)


def test_a_package_outside_of_it_knows_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CORE_DIR", tmp_path)
    with refused("no repository"):
        find_root()
