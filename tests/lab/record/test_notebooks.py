"""The runner, on real kernels and toy notebooks: what it refuses, skips and reports, and how it stops.

pytest tests/lab/record/test_notebooks.py
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from pgolf_core.base.files import UserError
from pgolf_core.lab.record import folder as runs
from pgolf_core.lab.record import notebooks as pipeline
from pgolf_core.lab.record.launch import processes_of

ROOT = Path(__file__).resolve().parents[3]
TOY_RECIPE = """
title = "A toy"
track = "local_10min_1mb"
[model]
vocab_size = 64
model_dim = 32
num_heads = 2
num_kv_heads = 1
num_layers = 2
rope_dims = 16
[data]
dataset = "toy-data"
seq_len = 16
batch_tokens = 128
"""
STAND_IN = '''
import sys
import types

def open_dataset(name="toy-data", cache_dir=None):
    """A dataset of 64 pieces that needs no files."""
    manifest = {"tokenizer": {"vocab_size": 64}}
    return types.SimpleNamespace(name=name, manifest=manifest, manifest_sha256="d" * 64)

corpus = types.ModuleType("pgolf_core.lab.data.sotu")
corpus.Dataset, corpus.open_dataset = object, open_dataset
sys.modules["pgolf_core.lab.data.sotu"] = corpus
'''
"""Run first in a process, this replaces the corpus room; it spares the tests a tokenizer and torch's import."""
PARAMETERS = """recipe: str = "toy"
overrides: list = []
seed: int = 1337
seeds: list = [1337]
data: str = ""
runs_dir: str = "runs"
name: str = ""
cache_dir: str = ""
"""
SETUP = f"""{STAND_IN}
import json, time
from pathlib import Path
from pgolf_core.lab import runs
runs.describe_environment = dict
stage = runs.stage_named(STAGE)
run = runs.open_run(recipe, overrides, seed if stage.per == "seed" else None, data, runs_dir, name, cache_dir)
with open(run.recipe_folder / "executed.txt", "a") as log:
    log.write(f"{{run.folder.name}} {{STAGE}}\\n")
"""
WORK = """numbers = {"seeds": {str(s): 1 for s in seeds}, "mean": 1, "std": None}
scores = [f"{kind}_bpb" for kind in ("raw", "averaged", "roundtrip", "sliding")]
sizes = [f"{part}_bytes" for part in ("artifact", "code", "total")]
summary = dict.fromkeys(["steps", *scores, *sizes], numbers) | {"seconds": {"train": numbers}, "whole_seconds": numbers}
summary["seeds"] = seeds
for file in (stage.result, "summary.json"):
    (run.folder / file).write_text(json.dumps(summary))
"""
FINISH = """runs.finish_stage(run, STAGE, **({"seeds": seeds} if stage.per == "report" else {}))
"""


def write_toys(folder: Path, work: dict[str, str] | None = None) -> Path:
    """Write recipe and notebooks into `folder`; `work` replaces the work cell of the stages it names."""
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    (folder / "toy.toml").write_text(TOY_RECIPE)
    for stage in runs.STAGES:
        sources = {
            "parameters": PARAMETERS,
            "setup": f"STAGE = {stage.name!r}\n{SETUP}",
            "work": (work or {}).get(stage.name, WORK),
            "finish": FINISH,
        }
        cells = [nbformat.v4.new_code_cell(source, id=name) for name, source in sources.items()]
        cells[0].metadata["tags"] = ["parameters"]
        spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata=spec), folder / "notebooks" / f"{stage.name}.ipynb"
        )
    return folder


FEW = ("01", "03", "05", "07")
"""Most tests run these stages alone: a kernel takes more than a second to start."""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Toy notebooks and recipe in tmp_path; `record` runs them; `executed` lists what has been executed so far."""
    write_toys(tmp_path)
    manifest = {"tokenizer": {"vocab_size": 64}}
    dataset = SimpleNamespace(name="toy-data", manifest=manifest, manifest_sha256="d" * 64)
    monkeypatch.setattr(runs, "open_dataset", lambda name, cache_dir=None: dataset)
    monkeypatch.setattr(pipeline, "STAGES", [stage for stage in runs.STAGES if stage.name[:2] in FEW])
    whole = tmp_path / "runs" / "local_10min_1mb" / "toy"

    def record(seeds, **options):
        options = {"runs_dir": str(tmp_path / "runs"), "notebooks_dir": tmp_path / "notebooks", **options}
        return pipeline.record(str(tmp_path / "toy.toml"), seeds, **options)

    def executed() -> list[str]:
        log = whole / "executed.txt"
        return log.read_text().splitlines() if log.exists() else []

    return SimpleNamespace(place=tmp_path, folder=whole, record=record, executed=executed)


def run_one(toy, stage: str, work: str, **parameters) -> Path:
    """Run one notebook whose work cell is `work`; returns the path of the executed notebook."""
    write_toys(toy.place, {stage: work})
    per = runs.stage_named(stage).per
    folder = toy.folder / "seed1337" if per == "seed" else toy.folder
    output = folder / "notebooks" / f"{stage}.ipynb"
    given = {"recipe": str(toy.place / "toy.toml"), "runs_dir": str(toy.place / "runs"), **parameters}
    pipeline.run_notebook(stage, given, output, notebooks_dir=toy.place / "notebooks")
    return output


# ---------------------------------------------------------------------- a whole record


def test_a_record_runs_every_stage_once_goes_on_after_a_failure_and_adds_seeds(toy, monkeypatch):
    bad = "if not Path(runs_dir, 'mended').exists():\n    raise ValueError('the grid\\nhas a hole')\n" + WORK
    write_toys(toy.place, {"05_quantize": bad})
    other = toy.place / "jupyter" / "kernels" / "python3"  # a python3 kernel of the user's, which is another Python
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(toy.place / "jupyter"))
    monkeypatch.chdir(toy.place)
    with pytest.raises(pipeline.RunFailed) as error:
        toy.record([1])
    shown = str(toy.folder / "seed1" / "notebooks" / "05_quantize.ipynb")
    assert str(error.value) == f"05_quantize failed in cell 'work' (number 4): ValueError: the grid; notebook: {shown}"
    first = ["toy 01_data_and_metric", "seed1 03_train"]
    assert toy.executed() == [*first, "seed1 05_quantize"]

    (toy.place / "runs" / "mended").touch()
    summary = toy.record([1])
    assert summary == toy.folder / "summary.json" and summary.is_file()
    assert toy.executed() == [*first, "seed1 05_quantize", "seed1 05_quantize", "toy 07_report"]
    assert (toy.folder / "report.ipynb").read_bytes() == (toy.folder / "notebooks/07_report.ipynb").read_bytes()

    toy.record([1])
    assert len(toy.executed()) == 5, "a finished record executes nothing"
    write_toys(toy.place)
    toy.record([2])
    assert toy.executed()[5:] == ["seed2 03_train", "seed2 05_quantize", "toy 07_report"]

    about = nbformat.read(toy.folder / "seed2/notebooks/03_train.ipynb", as_version=4).metadata.papermill
    assert about.parameters == {
        "recipe": str(toy.place / "toy.toml"), "overrides": [], "seed": 2, "seeds": [2], "data": "",
        "runs_dir": str(toy.place / "runs"), "name": "", "cache_dir": "",
    }  # fmt: skip


def test_a_changed_core_stops_a_record_before_any_notebook_runs(toy, monkeypatch):
    run = runs.locate_run(str(toy.place / "toy.toml"), seed=1, runs_dir=toy.place / "runs")
    runs.claim_run(run)
    (run.folder / "weights-averaged.safetensors").touch()
    runs.finish_stage(run, "03_train")
    monkeypatch.setattr(runs, "core_sha256", lambda: "c" * 64)
    with pytest.raises(UserError, match=r"seed1: the core .* changed since 03_train was run; --fresh"):
        toy.record([1])
    assert toy.executed() == []


# ---------------------------------------------------------------------- refusals


def test_an_unknown_parameter_is_refused_before_anything_runs(toy):
    with pytest.raises(UserError, match=r"03_train\.ipynb has no parameter 'sead'; it has: recipe, overrides, seed"):
        run_one(toy, "03_train", WORK, sead=1)
    path = toy.place / "notebooks" / "07_report.ipynb"
    path.write_text(path.read_text().replace("seeds: list", "seads: list"))
    with pytest.raises(UserError, match=r"07_report\.ipynb has no parameter 'seeds'"):
        toy.record([1])
    assert toy.executed() == []


def test_a_default_that_is_no_literal_and_a_broken_or_missing_notebook_are_refused(toy):
    path = toy.place / "notebooks" / "01_data_and_metric.ipynb"
    path.write_text(path.read_text().replace('name: str = \\"\\"', "name: str = str(1)"))
    with pytest.raises(UserError, match=r"01_data_and_metric.ipynb: parameter 'name' is no plain literal: str\(1\)"):
        toy.record([1])
    path.write_text("<<<<<<< a conflict")
    with pytest.raises(UserError, match=r"01_data_and_metric\.ipynb is no notebook that can be run"):
        toy.record([1])
    path.unlink()
    with pytest.raises(UserError, match=r"01_data_and_metric\.ipynb does not exist"):
        toy.record([1])


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_be_given_and_differ(toy, seeds):
    with pytest.raises(UserError, match="--seeds"):
        toy.record(seeds)


def test_processes_that_do_not_divide_a_steps_spans_are_refused_before_anything_is_written(toy):
    with pytest.raises(UserError, match=r"3 processes do not divide data\.spans_per_step"):
        toy.record([1], nproc=3)
    assert not (toy.place / "runs").exists()


@pytest.mark.slow
def test_the_number_of_processes_reaches_the_seeds_folder_and_one_leaves_no_note(toy):
    toy.record([1, 2], nproc=2)
    assert [processes_of(SimpleNamespace(folder=toy.folder / f"seed{seed}")) for seed in (1, 2)] == [2, 2]
    toy.record([1, 2])
    assert [processes_of(SimpleNamespace(folder=toy.folder / f"seed{seed}")) for seed in (1, 2)] == [1, 1]


# ---------------------------------------------------------------------- failing cells


def test_a_cell_that_exits_with_status_zero_is_a_failure(toy):
    with pytest.raises(pipeline.RunFailed, match=r"03_train ended without finish_stage \(did a cell call sys.exit"):
        run_one(toy, "03_train", "import sys\nsys.exit(0)")


def test_a_mark_of_an_earlier_execution_does_not_count(toy):
    write_toys(toy.place)
    mark = toy.folder / "seed1337" / "stages" / "03_train.json"
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    with pytest.raises(pipeline.RunFailed, match="03_train ended without finish_stage"):
        run_one(toy, "03_train", "import sys\nsys.exit(0)")
    assert not mark.exists()


def test_a_kernel_that_dies_is_reported_with_its_cell(toy):
    with pytest.raises(
        pipeline.RunFailed, match=r"03_train failed in cell 'work' \(number 4\): its Python process died"
    ):
        run_one(toy, "03_train", "import os\nos._exit(1)")


def test_a_users_mistake_found_in_a_notebook_comes_out_as_its_own_line(toy):
    with pytest.raises(pipeline.RunFailed) as error:
        run_one(toy, "01_data_and_metric", WORK, overrides=["model.num_layers=none"])
    assert "in cell 'setup' (number 3): toy.toml: model.num_layers must be of type int, not 'none'; notebook:" in str(
        error.value
    )


def test_a_notebook_runs_in_this_python_beside_its_notebook_and_its_output_is_kept_short(toy):
    work = "import os, sys\nprint(sys.executable, os.getcwd(), sep='|')\n"
    work += "for i in range(50):\n    print(f'\\rstep {i}', end='', file=sys.stderr, flush=True)\n" + WORK
    book = nbformat.read(run_one(toy, "03_train", work), as_version=4)
    outputs = {output.name: output.text for output in book.cells[3].outputs}
    assert outputs["stdout"].strip() == f"{sys.executable}|{toy.place / 'notebooks'}"
    assert outputs["stderr"].strip() == "step 49", "carriage returns are folded"


# ---------------------------------------------------------------------- stopping

DRIVER = (
    STAND_IN
    + """
import functools
from pathlib import Path
from pgolf_core.lab import cli, pipeline
pipeline.record = functools.partial(pipeline.record, notebooks_dir=Path(sys.argv[1]) / "notebooks")
pipeline.STAGES = [stage for stage in pipeline.STAGES if stage.name[:2] in ("01", "03", "07")]
pipeline.GRACE_SECONDS = float(sys.argv[2])
place = sys.argv[1]
sys.exit(cli.main(["record", place + "/toy.toml", "--seeds", "1", "--runs", place + "/runs", *sys.argv[3:]]))
"""
)
TRAINS_LONG = (
    """checkpoint = run.folder / "checkpoint"
if not checkpoint.exists():
    try:
        (run.folder / "training").touch()
        time.sleep(100)
    except KeyboardInterrupt:
        time.sleep(0.5)
        checkpoint.touch()
        raise
"""
    + WORK
)
NEVER_STOPS = """(run.folder / "training").touch()
while True:
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        (run.folder / "asked").touch()
"""


def drive(toy, grace: float = 20.0, *options: str) -> subprocess.Popen:
    """`pgolf record` on the toys, in a process of its own."""
    command = [sys.executable, "-c", DRIVER, str(toy.place), str(grace), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for(path: Path) -> None:
    t_end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < t_end, f"{path} was not written in time"
        time.sleep(0.1)


def kernels_of(toy) -> list[str]:
    """Command lines of processes that still run in the toys' folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "cwd") == str(toy.place / "notebooks"):
                found.append((process / "cmdline").read_text())
    return found


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_run_writes_its_checkpoint_says_how_to_go_on_and_does(toy, number, status):
    write_toys(toy.place, {"03_train": TRAINS_LONG})
    seed = toy.folder / "seed1"
    with drive(toy, 20.0, "--fresh") as process:
        wait_for(seed / "training")
        time.sleep(1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert (seed / "checkpoint").exists() and not (seed / "stages" / "03_train.json").exists()
    said = [line for line in errors.splitlines() if line.startswith("pgolf:")]
    assert said == [f"pgolf: stopped ({number.name}); the same command without --fresh goes on from here"]
    assert "Traceback" not in errors and not kernels_of(toy)
    if number == signal.SIGTERM:
        return
    with drive(toy) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert toy.executed().count("toy 01_data_and_metric") == 1 and toy.executed().count("seed1 03_train") == 2
    assert "01_data_and_metric: finished before, skipped" in errors
    assert output.splitlines()[-1].startswith("report: ") and "sliding" in output


@pytest.mark.parametrize("grace, again", [pytest.param(1.0, False, marks=pytest.mark.slow), (60.0, True)])
def test_a_cell_that_will_not_stop_is_ended_after_the_grace_or_a_second_signal(toy, grace, again):
    write_toys(toy.place, {"01_data_and_metric": NEVER_STOPS})
    with drive(toy, grace) as process:
        wait_for(toy.folder / "training")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        if again:
            wait_for(toy.folder / "asked")
            time.sleep(1.2)  # sooner, it would count as the same Ctrl-C arriving twice
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and not kernels_of(toy)


def test_a_killed_runner_leaves_no_kernel_behind(toy):
    write_toys(toy.place, {"01_data_and_metric": NEVER_STOPS})
    with drive(toy) as process:
        wait_for(toy.folder / "training")
        process.kill()
        process.communicate(timeout=120)
    t_end = time.monotonic() + 15
    while kernels_of(toy) and time.monotonic() < t_end:
        time.sleep(0.2)
    assert not kernels_of(toy)
