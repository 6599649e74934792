"""`pgolf record` as a user starts it: its options, how it is stopped and goes on, and two ranks that are killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import wait_until
from toy_notebooks import DATASET, STAND_IN, WORK, write_toys

from pgolf_core.lab import cli
from pgolf_core.lab.record import notebooks
from pgolf_core.lab.record.folder import RunRequest

ROOT = Path(__file__).resolve().parents[3]


def test_the_options_become_one_request_and_table_and_report_are_named(capsys, monkeypatch, tmp_path) -> None:
    given = []

    def record(*arguments: object, parts: tuple[str, ...]) -> Path:
        given.append((*arguments, parts))
        (tmp_path / "summary.json").write_text("{}")
        return tmp_path / "summary.json"

    monkeypatch.setattr("pgolf_core.lab.record.notebooks.record", record)
    monkeypatch.setattr("pgolf_core.lab.report.seeds.read_summary", lambda folder: {})
    monkeypatch.setattr("pgolf_core.lab.report.seeds.seeds_table_text", lambda summary: "the table")
    monkeypatch.chdir(tmp_path)
    changes = ("model.num_layers=3", "data.spans_per_step=2")
    arguments = ["record", "local-smoke", "--seeds", "1,2", *(word for change in changes for word in ("--set", change))]
    assert cli.main([*arguments, "--data", "d", "--runs", "out", "--name", "n", "--fresh", "--nproc", "2"]) == 0
    request = RunRequest(
        "local-smoke", changes, data="d", runs_dir=str(tmp_path / "out"), name="n", fresh=True, processes=2
    )
    assert given == [(request, [1, 2], notebooks.PARTS)]
    assert capsys.readouterr().out == f"the table\nreport: {tmp_path / 'report.html'}\n"


def test_the_report_can_be_left_out_or_be_all_and_names_what_is_missing(capsys, monkeypatch, tmp_path) -> None:
    given = []
    (tmp_path / "summary.json").write_text("{}")
    record = lambda request, seeds, parts: given.append((seeds, parts)) or tmp_path / "summary.json"  # noqa: E731
    monkeypatch.setattr(notebooks, "record", record)
    monkeypatch.setattr("pgolf_core.lab.record.kernels.prepared", contextlib.nullcontext)
    monkeypatch.setattr(notebooks, "finished_seeds", lambda request, seeds: [seed for seed in seeds if seed > 1])
    monkeypatch.setattr("pgolf_core.lab.report.seeds.read_summary", lambda folder: {})
    monkeypatch.setattr("pgolf_core.lab.report.seeds.seeds_table_text", lambda summary: "the table")
    assert cli.main(["record", "local-smoke", "--seeds", "1,2", "--no-report"]) == 0
    assert capsys.readouterr().out == "" and given.pop() == ([1, 2], ("recipe", "seed"))
    assert cli.main(["record", "local-smoke", "--seeds", "1,2", "--report-only"]) == 1
    said = capsys.readouterr()
    assert given.pop() == ([2], ("report",)) and said.out.startswith("the table\nreport: ")
    assert said.err == "pgolf: error: missing in this report, since not finished: seeds 1\n"
    monkeypatch.undo()
    monkeypatch.setattr(notebooks, "record", record)
    monkeypatch.setattr("pgolf_core.lab.record.kernels.prepared", contextlib.nullcontext)
    for text in ("[]", "{}", '{"seeds": [[2]]}'):
        (tmp_path / "summary.json").write_text(text)
        assert cli.main(["record", "local-smoke", "--seeds", "2"]) == 1
        assert "summary.json " in (said := capsys.readouterr().err) and "; delete it" in said
    given.clear()
    monkeypatch.setattr(notebooks, "finished_seeds", lambda request, seeds: [seed for seed in seeds if seed > 1])
    assert cli.main(["record", "local-smoke", "--seeds", "1", "--report-only"]) == 1
    assert "none of the seeds 1 is finished" in capsys.readouterr().err and not given


@pytest.mark.parametrize("option", ["--no-report", "--report-only"])
def test_a_part_of_a_record_is_not_submitted_as_the_whole(option: str, capsys) -> None:
    assert cli.main(["record", "local-smoke", option, "--on", "slurm", "--dry-run"]) == 2
    assert "do their work here; leave --on slurm out" in capsys.readouterr().err


def test_a_report_of_what_would_be_deleted_first_is_refused(capsys, monkeypatch) -> None:
    monkeypatch.setattr(notebooks, "record", None)
    assert cli.main(["record", "local-smoke", "--report-only", "--fresh"]) == 2
    assert "--fresh deletes the results that --report-only reports; leave one" in capsys.readouterr().err


def test_a_dry_run_prints_both_scripts_and_leaves_nothing(capsys, monkeypatch, tmp_path) -> None:
    write_toys(tmp_path)
    monkeypatch.setattr("pgolf_core.lab.record.folder.open_dataset", lambda name, cache_dir=None: DATASET)
    words = ["record", str(tmp_path / "toy.toml"), "--seeds", "1,2", "--runs", str(tmp_path / "runs"), "--name", "a"]
    changes = ["--set", "model.num_layers=3", "--cache", str(tmp_path / "c"), "--nproc", "2", "--fresh"]
    assert cli.main([*words, *changes, "--on", "slurm", "--dry-run", "--slurm", "--gres=gpu:8"]) == 0
    said = capsys.readouterr().out
    same = f"--runs {tmp_path}/runs --nproc 2 --set model.num_layers=3 --cache {tmp_path}/c --name a"
    for task, (seeds, what) in enumerate((("1", "--no-report"), ("2", "--no-report"))):
        assert f"{task}) set -- record {tmp_path}/toy.toml --seeds {seeds} {same} {what};;" in said
    assert f"0) set -- record {tmp_path}/toy.toml --seeds 1,2 {same} --report-only;;" in said
    assert said.count("#SBATCH --gres=gpu:8") == 2 and not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------- stopping

DRIVER = (
    STAND_IN
    + """
seeds = types.ModuleType("seeds")
seeds.read_summary = seeds.seeds_table_text = lambda *arguments: None
shards = types.ModuleType("shards")
shards.check_ranks = lambda *arguments: None
sys.modules |= {"pgolf_core.text.shards": shards, "pgolf_core.lab.report.seeds": seeds}  # they import torch
import functools
from pathlib import Path
from pgolf_core.lab import cli
from pgolf_core.lab.record import notebooks
place, grace, *options = sys.argv[1:]
notebooks.record = functools.partial(notebooks.record, notebooks_dir=Path(place) / "notebooks")
notebooks.STAGES = notebooks.STAGES[:1]
notebooks.GRACE_SECONDS = float(grace)
sys.exit(cli.main(["record", place + "/toy.toml", "--seeds", "1", "--runs", place + "/runs", *options]))
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


def ignore_ctrl_c() -> None:
    """What a shell does for `command &` in a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def drive(place: Path, *options: str, grace: float = 20.0, background: bool = False) -> subprocess.Popen:
    """`pgolf record` on the first of the toys, in a process of its own."""
    command = [sys.executable, "-c", DRIVER, str(place), str(grace), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, preexec_fn=ignore_ctrl_c if background else None,
    )  # fmt: skip


def run_folder(place: Path) -> Path:
    return place / "runs" / "local_10min_1mb" / "toy"


def wait_for(path: Path, process: subprocess.Popen) -> None:
    wait_until(lambda: path.exists() or process.poll() is not None, path.name, 120)
    assert path.exists(), process.communicate()[1]


def kernels_of(place: Path) -> list[str]:
    """Command lines of processes that still run in the toys' folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "cwd") == str(place / "notebooks"):
                found.append((process / "cmdline").read_text())
    return found


def test_a_stopped_run_writes_its_checkpoint_says_how_to_go_on_and_does(tmp_path: Path, monkeypatch) -> None:
    write_toys(tmp_path, {"01_data_and_metric": TRAINS_LONG})
    folder = run_folder(tmp_path)
    with drive(tmp_path, "--fresh") as process:
        wait_for(folder / "training", process)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert (folder / "checkpoint").exists() and not (folder / "stages" / "01_data_and_metric.json").exists()
    said = [line for line in errors.splitlines() if line.startswith("pgolf:")]
    assert said == ["pgolf: stopped (SIGINT); the same command without --fresh goes on from here"]
    assert "Traceback" not in errors and not kernels_of(tmp_path)
    monkeypatch.setattr("pgolf_core.lab.record.folder.open_dataset", lambda name, cache_dir=None: DATASET)
    monkeypatch.setattr(notebooks, "STAGES", [*notebooks.STAGES[:1], notebooks.STAGES[-1]])
    request = RunRequest(str(tmp_path / "toy.toml"), runs_dir=tmp_path / "runs")
    notebooks.record(request, [1], notebooks_dir=tmp_path / "notebooks")
    assert (folder / "executed.txt").read_text() == 2 * "toy 01_data_and_metric\n" + "toy 07_report\n"


@pytest.mark.parametrize(
    ("number", "background"),
    [(signal.SIGTERM, True), pytest.param(signal.SIGINT, False, marks=pytest.mark.slow)],  # the second waits longer
)
def test_a_cell_that_will_not_stop_is_ended_by_a_second_signal_or_after_the_grace(tmp_path, number, background) -> None:
    """The first in the background, where Ctrl-C is ignored, as under nohup or in a script."""
    write_toys(tmp_path, {"01_data_and_metric": NEVER_STOPS})
    with drive(tmp_path, grace=60.0 if background else 1.0, background=background) as process:
        wait_for(run_folder(tmp_path) / "training", process)
        time.sleep(1)
        if background:
            process.send_signal(signal.SIGINT)  # has no effect
        process.send_signal(number)
        wait_for(run_folder(tmp_path) / "asked", process)
        if background:
            time.sleep(1.2)  # sooner, it would count as the same signal arriving twice
            process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert (f"Ctrl-C is ignored in the background; `kill {process.pid}` stops alike" in errors) == background
    assert f"pgolf: stopped ({number.name})" in errors and "Traceback" not in errors and not kernels_of(tmp_path)


def test_a_killed_runner_leaves_no_kernel_behind(tmp_path: Path) -> None:
    write_toys(tmp_path, {"01_data_and_metric": NEVER_STOPS})
    with drive(tmp_path) as process:
        wait_for(run_folder(tmp_path) / "training", process)
        process.kill()
        process.communicate(timeout=120)
    wait_until(lambda: not kernels_of(tmp_path), "the kernel's end", 15)


# ---------------------------------------------------------------------- two ranks, killed and started again

STEPS = 300


def start(runs: Path, cache: Path, name: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pgolf_core.lab.cli", "record", str(ROOT / "tests" / "helpers" / "tiny.toml")]
    command += ["--seeds", "1", "--nproc", "2", "--runs", str(runs), "--cache", str(cache), "--name", name]
    schedule = (f"iterations={STEPS}", "checkpoint_every_seconds=1", "val_every_steps=0", "warmdown_iters=100")
    changes = ["data.spans_per_step=2", "data.micro_batch_seqs=8", *(f"schedule.{change}" for change in schedule)]
    command += [word for change in changes for word in ("--set", change)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (runs / f"{name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def steps_done(seed: Path) -> int:
    """The last step that the run has told of; its last line may be half written."""
    path = seed / "metrics.jsonl"
    return max(map(int, re.findall(r'"step": ?(\d+),', path.read_text())), default=0) if path.exists() else 0


@pytest.mark.slow  # two records of a tiny recipe on the real corpus, about three minutes
@pytest.mark.timeout(1800)
def test_a_record_of_two_ranks_that_is_killed_and_started_again_ends_with_the_same_bytes(sotu, tmp_path: Path) -> None:
    cache = sotu.folder.parent.parent
    whole = start(tmp_path, cache, "whole")
    assert whole.wait() == 0, (tmp_path / "whole.log").read_text()

    killed = start(tmp_path, cache, "killed")
    (seed,) = (path.parent / "killed" / "seed1" for path in tmp_path.glob("*/whole"))
    while not ((seed / "checkpoint.safetensors").exists() and steps_done(seed) > STEPS // 5):
        assert killed.poll() is None, (tmp_path / "killed.log").read_text()
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert steps_done(seed) < STEPS, "it was over before it could be killed"
    again = start(tmp_path, cache, "killed")
    assert again.wait() == 0, (tmp_path / "killed.log").read_text()

    other = seed.parent.parent / "whole" / "seed1"
    assert (seed / "model.pgolf").read_bytes() == (other / "model.pgolf").read_bytes()
    results = [json.loads((folder / "result.json").read_text()) for folder in (seed, other)]
    (went_on,) = results[0]["resumed_at_steps"]
    assert 0 < went_on < STEPS and not results[1]["resumed_at_steps"]
    assert results[0]["sliding_bpb"] == results[1]["sliding_bpb"]
    assert "ranks: 2, gloo" in (seed / "train.log").read_text()
    for result in results:
        parts = {key: seconds for key, seconds in result["seconds"].items() if key != "total"}
        assert sum(parts.values()) == pytest.approx(result["seconds"]["total"]) and min(parts.values()) >= 0
    assert results[0]["seconds"]["lost"] > 0 == results[1]["seconds"]["lost"]
