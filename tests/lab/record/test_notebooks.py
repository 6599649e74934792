"""The runner: what it refuses, skips and reports, and how its kernels run. Few tests start real ones."""

import contextlib
import json
import multiprocessing
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from papermill import engines
from papermill.exceptions import PapermillExecutionError
from refused import refused
from toy_notebooks import DATASET, WORK, write_toys

from pgolf_core.lab.record import folder as runs
from pgolf_core.lab.record import notebooks
from pgolf_core.lab.record.folder import RunRequest, finish_stage, locate_run, stage_named
from pgolf_core.lab.record.launch import processes_of
from pgolf_core.lab.record.lock import Busy, hold

SEED_STAGES = [stage.name for stage in runs.STAGES if stage.per == "seed"]
FIRST, LAST = ["toy 01_data_and_metric", "toy 02_architecture"], "toy 07_report"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Toy notebooks and recipe in tmp_path; `record` runs them; `executed` lists what has been executed so far."""
    write_toys(tmp_path)
    monkeypatch.setattr(runs, "open_dataset", lambda name, cache_dir=None: DATASET)
    monkeypatch.setattr(runs, "describe_environment", dict)
    request = RunRequest(str(tmp_path / "toy.toml"), runs_dir=tmp_path / "runs")
    folder = tmp_path / "runs" / "local_10min_1mb" / "toy"
    log = folder / "executed.txt"

    def record(seeds: list[int], parts: tuple[str, ...] = notebooks.PARTS, **changes: object) -> Path:
        asked = RunRequest(**(vars(request) | changes))
        return notebooks.record(asked, seeds, notebooks_dir=tmp_path / "notebooks", parts=parts)

    return SimpleNamespace(
        place=tmp_path, request=request, folder=folder, record=record,
        executed=lambda: log.read_text().splitlines() if log.exists() else [],
    )  # fmt: skip


@pytest.fixture
def in_no_time(toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Stages that are finished without a kernel, unless the dict that this returns has an error for them."""
    errors: dict[str, Exception] = {}

    def run_notebook(run: runs.Run, stage: str, parameters: dict, *options: object) -> None:
        with open(run.recipe_folder / "executed.txt", "a") as log:
            log.write(f"{run.folder.name} {stage}\n")
        (run.folder / "notebooks").mkdir(exist_ok=True)
        (run.folder / "notebooks" / f"{stage}.ipynb").write_text(json.dumps(parameters))
        if stage in errors:
            raise errors[stage]
        for name in (stage_named(stage).result, "summary.json"):
            (run.folder / name).write_text(json.dumps({"seeds": parameters["seeds"]}))
        finish_stage(run, stage, **({"seeds": parameters["seeds"]} if stage == "07_report" else {}))

    monkeypatch.setattr(notebooks, "run_notebook", run_notebook)
    return errors


def run_one(toy: SimpleNamespace, stage: str, work: str, **parameters: object) -> Path:
    """Run one notebook whose work cell is `work`; returns the path of the executed notebook."""
    write_toys(toy.place, {stage: work})
    run = locate_run(RunRequest(**(vars(toy.request) | {"seed": 1})))
    given = toy.request.parameters([1]) | parameters
    notebooks.run_notebook(run, stage, given, notebooks.StopRequest(), time.time(), toy.place / "notebooks")
    return run.folder / "notebooks" / f"{stage}.ipynb"


# ---------------------------------------------------------------------- a whole record


def test_a_record_runs_every_stage_once_goes_on_after_a_failure_and_adds_seeds(toy, in_no_time):
    in_no_time["05_quantize"] = notebooks.RunFailed("a hole")
    with pytest.raises(notebooks.RunFailed, match="a hole"):
        toy.record([1])
    assert toy.executed() == [*FIRST, *(f"seed1 {name}" for name in SEED_STAGES[:3])]
    in_no_time.clear()
    assert toy.record([1]) == toy.folder / "summary.json"
    assert toy.executed()[5:] == [*(f"seed1 {name}" for name in SEED_STAGES[2:]), LAST]
    assert (toy.folder / "report.ipynb").read_bytes() == (toy.folder / "notebooks/07_report.ipynb").read_bytes()
    toy.record([1])
    assert len(toy.executed()) == 8, "a finished record executes nothing"
    for text in ("", "[]", "{}"):
        (toy.folder / "summary.json").write_text(text)
        toy.record([1])
    (toy.folder / "summary.json").unlink()
    toy.record([1])
    assert toy.executed()[8:] == [LAST] * 4, "a damaged or missing summary is made again, and nothing else"
    toy.record([2])
    assert toy.executed()[12:] == [*(f"seed2 {name}" for name in SEED_STAGES), LAST]
    toy.record([1, 2])
    assert toy.executed()[17:] == [LAST], "of other seeds, it is another report"
    toy.record([2], fresh=True)
    assert toy.executed() == [*FIRST, *(f"seed2 {name}" for name in SEED_STAGES), LAST]


def test_seeds_that_somebody_else_is_at_work_on_are_left_to_him_and_the_last_one_reports(toy, in_no_time):
    with hold(toy.folder / "seed1"), pytest.raises(Busy, match=r"another pgolf is working in .*seed1"):
        toy.record([1, 2])
    assert toy.executed() == [*FIRST, *(f"seed2 {name}" for name in SEED_STAGES)], "no report of half the seeds"
    with hold(toy.folder / "seed2"):
        toy.record([1, 2])
    assert toy.executed()[6:] == [*(f"seed1 {name}" for name in SEED_STAGES), LAST], "who is done may still be there"


def test_a_record_that_waits_for_what_seeds_share_can_be_stopped(toy, in_no_time, monkeypatch):
    def stop(request: notebooks.StopRequest) -> None:
        raise notebooks.Stopped(signal.SIGINT)

    monkeypatch.setattr(notebooks.StopRequest, "check", stop)
    with contextlib.ExitStack() as other:
        other.enter_context(hold(toy.folder))
        ends = threading.Timer(5, other.close)
        ends.start()
        with pytest.raises(notebooks.Stopped):
            toy.record([1])
        assert ends.is_alive(), "and not only after the wait"
        ends.cancel()


def test_parts_of_a_record_are_run_alone_and_finished_seeds_are_known(toy, in_no_time):
    toy.record([1, 2], parts=("recipe",))
    assert toy.executed() == FIRST
    toy.record([2], parts=("recipe", "seed"))
    assert toy.executed()[2:] == [f"seed2 {name}" for name in SEED_STAGES]
    assert notebooks.finished_seeds(toy.request, [1, 2]) == [2]
    toy.record([2], parts=("report",))
    assert toy.executed()[6:] == [LAST]


def test_the_number_of_processes_reaches_the_seeds_folder_and_one_leaves_no_note(toy, in_no_time):
    for processes in (2, 1):
        toy.record([1, 2], processes=processes)
        found = [processes_of(SimpleNamespace(folder=toy.folder / f"seed{seed}")) for seed in (1, 2)]
        assert found == [processes] * 2


def test_a_changed_core_stops_a_record_before_any_notebook_runs(toy, in_no_time, monkeypatch):
    toy.record([1])
    count = len(toy.executed())
    for name in ("env.json", "seed1/env.json"):
        (toy.folder / name).unlink(missing_ok=True)
    monkeypatch.setattr(runs, "core_sha256", lambda: "c" * 64)
    with refused(r"toy: the core .* changed since 01_data_and_metric was run; --fresh"):
        toy.record([1])
    assert len(toy.executed()) == count


def test_a_stage_that_leaves_no_mark_or_no_summary_ends_the_record(toy, in_no_time, monkeypatch):
    monkeypatch.setattr(notebooks, "SUMMARY_FILE", "another.json")
    with pytest.raises(notebooks.RunFailed, match=r"07_report finished without writing .*another\.json"):
        toy.record([1])
    monkeypatch.setattr(notebooks, "run_notebook", lambda *arguments: None)
    with pytest.raises(notebooks.RunFailed, match=r"03_train ended without writing .*weights-averaged"):
        toy.record([2])


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("stage", "old", "new", "message"),
    [
        ("07_report", "seeds: list", "seads: list", r"07_report\.ipynb has no parameter 'seeds'; it has: recipe, over"),
        ("01_data_and_metric", 'name: str = \\"\\"', "name: str = str(1)", r"no plain literal: name: str = str\(1\)"),
        ("01_data_and_metric", "{", "<<<<<<< a conflict", r"01_data_and_metric\.ipynb is no notebook that can be run"),
        ("05_quantize", None, "", r"05_quantize\.ipynb does not exist; restore it from git"),
    ],
)
def test_a_notebook_that_cannot_be_run_as_asked_is_refused_before_anything_runs(toy, stage, old, new, message):
    path = toy.place / "notebooks" / f"{stage}.ipynb"
    if old is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace(old, new, 1))
    with refused(message):
        toy.record([1])
    assert toy.executed() == [] and not toy.folder.exists()


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_be_given_and_differ(toy, seeds):
    with refused("--seeds"):
        toy.record(seeds)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PapermillExecutionError(3, 4, "", "ValueError", "the grid\nhas a hole", []), "ValueError: the grid"),
        (PapermillExecutionError(3, 4, "", "UserError", "toy.toml: no key", []), "toy.toml: no key"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_failure_is_one_line_and_a_users_mistake_speaks_for_itself(error, line):
    assert notebooks._failure(error) == line


# ---------------------------------------------------------------------- real kernels


def test_a_notebook_runs_in_this_python_beside_its_notebook_and_tells_what_failed(toy, monkeypatch):
    other = toy.place / "jupyter" / "kernels" / "python3"  # a python3 kernel of the user's, which is another Python
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(toy.place / "jupyter"))
    monkeypatch.chdir(toy.place)
    work = "import os, sys\nprint(sys.executable, os.getcwd(), sep='|')\n"
    work += "for i in range(50):\n    print(f'\\rstep {i}', end='', file=sys.stderr, flush=True)\n" + WORK
    with pytest.raises(notebooks.RunFailed) as error:
        run_one(toy, "03_train", work + "raise ValueError('the grid\\nhas a hole')\n")
    path = toy.folder / "seed1" / "notebooks" / "03_train.ipynb"
    assert str(error.value) == f"03_train failed in cell 'work' (number 4): ValueError: the grid; notebook: {path}"
    book = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in book.cells if cell.id == "work")
    outputs = {output.name: output.text for output in cell.outputs if output.output_type == "stream"}
    assert outputs["stdout"].strip() == f"{sys.executable}|{toy.place / 'notebooks'}"
    assert outputs["stderr"].strip() == "step 49", "carriage returns are folded"
    assert book.metadata.papermill.parameters == {
        "recipe": str(toy.place / "toy.toml"), "overrides": [], "seed": 1, "seeds": [1], "data": "",
        "runs_dir": str(toy.place / "runs"), "name": "", "cache_dir": "",
    }  # fmt: skip


def test_a_notebook_is_saved_before_each_code_cell_with_all_that_came_before_it(toy, monkeypatch):
    saved: list[str] = []
    write = engines.write_ipynb
    monkeypatch.setattr(engines, "write_ipynb", lambda nb, path: (saved.append(nbformat.writes(nb)), write(nb, path)))
    path = run_one(toy, "03_train", "print('as far as this')\n" + WORK)
    cells = nbformat.read(path, as_version=4).cells
    number = sum(cell.cell_type == "code" for cell in cells)
    assert len(saved) == number + 2, "papermill would twice a cell, of text too; one at the start and one at the end"
    assert "as far as this" in saved[-1] and saved[-1] == path.read_text().rstrip("\n")


def test_a_cell_that_exits_with_status_zero_is_a_failure_whatever_an_earlier_mark_says(toy):
    mark = toy.folder / "seed1" / "stages" / "03_train.json"
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    with pytest.raises(notebooks.RunFailed, match=r"03_train ended without finish_stage \(did a cell call sys.exit"):
        run_one(toy, "03_train", "import sys\nsys.exit(0)")
    assert not mark.exists() and not multiprocessing.active_children(), "no kernel outlives its notebook"


def test_a_kernel_that_dies_is_reported_with_its_cell(toy):
    with pytest.raises(notebooks.RunFailed, match=r"in cell 'work' \(number 4\): its Python process died"):
        run_one(toy, "03_train", "import os\nos._exit(1)")
