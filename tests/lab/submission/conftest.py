"""Two trained toy seeds, the submission of them, and a copy to damage."""

import shutil
from pathlib import Path

import pytest
from toy_run import finished_run

from pgolf_core.lab.submission.folder import write_submission

WHO = {"name": "A toy of two layers", "author": "Ada Lovelace", "github_id": "ada"}


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder; nobody changes it."""
    return finished_run(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="session")
def written(honest: Path) -> Path:
    """Its submission; nobody changes it."""
    return write_submission(honest, **WHO)


@pytest.fixture
def copied(honest: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return shutil.copytree(honest, tmp_path / honest.name)
