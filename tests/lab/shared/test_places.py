"""Where the repository is, and how paths inside it are shown."""

import contextlib
import os
from pathlib import Path

import pytest
from refused import refused

from pgolf_core.lab.shared import places
from pgolf_core.lab.shared.places import find_root, short_path, whole_folder


def test_paths_inside_the_repository_are_shown_relative_to_it_whatever_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (find_root() / "pyproject.toml").is_file()
    assert short_path(find_root() / "runs" / "x") == os.path.join("runs", "x")
    assert short_path(tmp_path) == str(tmp_path)


def test_a_package_outside_of_it_knows_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CORE_DIR", tmp_path)
    with refused("no repository"):
        find_root()


@pytest.mark.parametrize("replaces", [True, False])
def test_a_folder_that_came_to_be_there_meanwhile_is_replaced_only_where_that_is_meant(tmp_path: Path, replaces: bool):
    target = tmp_path / "made"
    outcome = contextlib.nullcontext() if replaces else refused("cannot write .*made: Directory not empty")
    with outcome, whole_folder(target, replaces) as made:
        (made / "new").touch()
        target.mkdir()
        (target / "other").touch()
    assert os.listdir(tmp_path) == ["made"] and os.listdir(target) == ["new" if replaces else "other"]
