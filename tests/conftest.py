"""Shared options and fixtures: where the goldens are, a count of those that ran, and small helpers."""

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
GOLDEN_TESTS: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "folder of numbers that the published records' own code computed"
    parser.addoption(
        "--need-slurm", action="store_true", help="a Slurm that cannot start fails its tests, else skips them"
    )
    parser.addoption("--goldens", default=str(ROOT.parent / "shared" / "goldens"), help=about)


@pytest.fixture(scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """The folder of goldens; the test is skipped, with the reason, where it is absent."""
    folder = Path(request.config.getoption("--goldens"))
    if not folder.is_dir():
        pytest.skip(f"goldens folder {folder} is absent (pass --goldens DIR)")
    return folder


@pytest.fixture(scope="session")
def of_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of the tests, for what one worker makes under a lock and the others find there."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def sotu(of_all_workers: Path):
    """The real corpus, prepared once in a cache folder of its own."""
    from pgolf_core.lab.data.sotu import prepare_sotu

    return prepare_sotu(cache_dir=of_all_workers / "cache", progress=False)


@pytest.fixture(autouse=True)
def _settings_of_the_process() -> None:
    """What another test, or a library in it, may have left otherwise.

    Small tensors gain nothing from a second thread, and wait for it where the machine is busy. torch.compile raises
    the limit of recursion for good, by which text that Python will not read becomes text that it reads.
    """
    torch.set_num_threads(1)
    sys.setrecursionlimit(1000)


def pytest_configure() -> None:
    """Give children Ctrl-C back where it is ignored (`nohup make test &`): tests that send it would wait for ever."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported stays: nobody need look through it for garbage each time that a test asks to."""
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Folders backwards: whole/ has the longest file, and what is begun last leaves other workers without work."""
    items.sort(key=lambda item: str(item.path), reverse=True)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):  # not item.keywords: they hold the names of folders, too
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Mark goldens for the count; a skipped one is a failure where the goldens are present."""
    report = yield
    if "goldens" in getattr(item, "fixturenames", ()):
        if report.skipped and Path(item.config.getoption("--goldens")).is_dir():
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: a golden was skipped although the goldens are present"
        report.user_properties.append(("golden", True))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count goldens where reports come together: with several workers, in the process that started them."""
    if "golden" in dict(report.user_properties) and (report.when == "call" or report.outcome != "passed"):
        GOLDEN_TESTS[report.nodeid] = report.outcome


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Say how many goldens ran."""
    passed, skipped = (list(GOLDEN_TESTS.values()).count(outcome) for outcome in ("passed", "skipped"))
    state = "present" if Path(config.getoption("--goldens")).is_dir() else "absent"
    said = f"{passed} of {len(GOLDEN_TESTS)} golden tests ran and passed, {skipped} skipped (folder {state})"
    terminalreporter.write_line(f"goldens: {said}")
