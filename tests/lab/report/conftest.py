"""A complete run folder to change, and the files of one that nobody changes."""

import pytest
from report_run import RUN_SEEDS, report_run

from pgolf_core.lab.report.report import write_report

SAMPLE = {
    "document": "Lincoln-1862", "opening": "Fellow-Citizens:\n\nSince", "continuation": " the last session", "seed": 7,
    "temperature": 0.8, "artifact": "/home/me/runs/seed1337/model.pgolf",
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run folder to change."""
    return report_run(tmp_path)


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The paths of one untouched run's report, for tests that only read."""
    return write_report(report_run(tmp_path_factory.mktemp("runs")), RUN_SEEDS, SAMPLE)


@pytest.fixture
def sample():
    """A sampled continuation to change."""
    return dict(SAMPLE)
