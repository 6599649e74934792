"""Submissions of the trained toy run, for all tests of the verifier; tests damage copies of them.

Scores are taken in this process, once for each artifact: starting a fresh one takes seconds. That one itself is tested
in evidence/test_process.py.
"""

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
from reviewing import ask_here, the_toy_is_the_track

from pgolf_core.base.files import sha256_file
from pgolf_core.lab import export
from pgolf_core.lab.data.dataset import Dataset, open_dataset
from pgolf_core.lab.submission.folder import write_submission
from pgolf_core.lab.verify.code import bytetable, shipped
from pgolf_core.lab.verify.evidence import score

KEPT: dict[str, dict] = {}
"""Answers by artifact and way of scoring."""
UNWRAPPED, TABLES = functools.cache(export.unwrapped), functools.cache(bytetable.tables_in)


@pytest.fixture(scope="session")
def written(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both seeds' submission."""
    return write_submission(honest, "A toy", "Ann", "ann", tmp_path_factory.mktemp("submissions") / "two")


@pytest.fixture(scope="session")
def alone(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The submission of a run of one seed, whose artifact confirms every number."""
    run = shutil.copytree(honest, tmp_path_factory.mktemp("one") / "runs" / honest.name)
    shutil.rmtree(run / "seed2")
    (run / "summary.json").unlink()  # as if the other seed had never been reported
    return write_submission(run, "A toy", "Ann", "ann", tmp_path_factory.mktemp("submissions") / "one")


@pytest.fixture
def dataset(honest: Path) -> Dataset:
    """What the run was trained and scored on."""
    return open_dataset("toy-sp1024", honest.parents[2])


@pytest.fixture
def submission(alone: Path, tmp_path: Path) -> Path:
    """A copy of the submission of one seed that a test may damage."""
    return shutil.copytree(alone, tmp_path / "submission")


@pytest.fixture
def cache(honest: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the toy dataset lies; its text is the track's, and scores are taken here."""

    def ask(job: dict, tell: Any) -> dict:
        if job["script"] or job["budget_seconds"] is not None:
            return ask_here(job, tell)
        key = sha256_file(job["artifact"]) + repr(job["way"])
        return KEPT.get(key) or KEPT.setdefault(key, ask_here(job, tell))

    monkeypatch.setattr(score, "ask", ask)
    monkeypatch.setattr(shipped, "unwrapped", UNWRAPPED)
    monkeypatch.setattr(bytetable, "tables_in", lambda codes: TABLES(tuple(codes)))
    the_toy_is_the_track(monkeypatch, honest.parents[2])
    return honest.parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a folder of the record track may be made."""
    return tmp_path / "track_10min_16mb" / "one"


@pytest.fixture
def scored_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that changes the model's own code."""
    monkeypatch.setattr(score, "ask", ask_here)
