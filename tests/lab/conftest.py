"""One trained toy run for all tests of the lab that need files of a finished seed; tests damage copies of it."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from toy_run import finished_run


@pytest.fixture(scope="session")
def honest(of_all_workers: Path) -> Path:
    """A recipe's folder with two seeds; nobody changes it."""
    made = of_all_workers / "honest"
    with FileLock(f"{made}.lock"):
        last = next(made.glob("runs/*/*/summary.json"), None)
        return last.parent if last else finished_run(made)


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return shutil.copytree(honest, tmp_path / honest.name)
