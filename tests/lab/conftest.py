"""One trained toy run for all tests of the lab that need files of a finished seed; tests damage copies of it."""

import shutil
from pathlib import Path

import pytest
from toy_run import finished_run


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's folder with two seeds; nobody changes it."""
    return finished_run(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return shutil.copytree(honest, tmp_path / honest.name)
