"""`pgolf status`: every state of a seed, from files alone, and quickly."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from run_folder import BYTES, TARGETS, change, write_run

from pgolf_core.lab import cli, slurm, status
from pgolf_core.lab.record.lock import HOLDER_NAME, Holder
from pgolf_core.lab.shared.places import RECIPE_FILE
from pgolf_core.lab.slurm import Queued

ROOT = Path(__file__).resolve().parents[2]
STEP = {"kind": "train", "step": 40, "loss": 2.5, "seconds": 8.5, "tokens_per_second": 64.0}
VAL = {"kind": "val", "step": 30, "loss": 2.0, "bpb": 1.75, "targets": 9, "seconds": 7.0}


def add_seed(run: Path, seed: int, **holder: object) -> Path:
    """A seed in training; with `holder`, somebody is at work on it."""
    place = run / f"seed{seed}"
    (place / "notebooks").mkdir(parents=True)
    (place / "notebooks" / "03_train.ipynb").write_text("{}")
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (VAL, STEP)) + '{"kind": "tr')
    if holder:
        (place / HOLDER_NAME).write_text(json.dumps(asdict(replace(Holder.here(), **holder))))
    return place


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a seed in every state."""
    run = write_run(tmp_path / "smoke", {1: 1.5})
    add_seed(run, 2, node="n2", job="12")
    add_seed(run, 3)
    add_seed(run, 4, host="elsewhere", beat=time.time() - 3600)
    tasks = {str(seed): seed - 1 for seed in range(1, 7)}
    (run / slurm.JOBS).write_text(json.dumps({"job": "12", "tasks": tasks, "last": "13"}))
    return run


def test_each_state_of_a_seed_is_told(run: Path) -> None:
    queued = {("12", "4"): Queued("PENDING", "", "Resources"), ("12", "3"): Queued("COMPLETING", "n1", "None")}
    found = {one.seed: one for one in status.statuses(run, queued)}
    assert [one.state for one in found.values()] == [
        "finished", "03_train", "stopped", "completing", "queued", "not begun",
    ]  # fmt: skip
    assert (found[1].bpb, found[1].step, found[1].seconds_left) == (1.5, 401, None)
    assert (found[2].where, found[2].step, found[2].bpb) == ("n2, job 12", 40, 1.75)
    assert found[2].seconds_left == pytest.approx(85 - 8.5)
    assert (found[3].step, found[3].seconds_left, found[4].where, found[5].where) == (40, None, "n1", "Resources")
    assert status.status_text([found[1]]).endswith("\n\n1 seed: 1 finished")


def test_the_table_names_runs_seeds_and_counts_and_json_has_the_same(run: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(slurm, "queue", dict)
    assert cli.main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert "smoke  2     03_train   n2, job 12    40  1.7500  1:16" in said
    assert said.splitlines()[-1] == "6 seeds: 1 finished, 1 03_train, 2 stopped, 2 not begun"
    assert cli.main(["status", str(run), "--json"]) == 0
    assert [one["seed"] for one in json.loads(capsys.readouterr().out)] == [1, 2, 3, 4, 5, 6]


def test_watching_redraws_until_nothing_is_at_work(run: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(slurm, "queue", dict)
    monkeypatch.setattr(status.time, "sleep", lambda seconds: (run / "seed2" / HOLDER_NAME).unlink())
    assert cli.main(["status", str(run), "--watch"]) == 0
    said = capsys.readouterr().out
    assert said.count("seeds:") == 2 and said.splitlines()[-1] == "6 seeds: 1 finished, 3 stopped, 2 not begun"


def test_what_is_no_run_and_a_queue_that_does_not_answer_are_lines(run: Path, capsys, monkeypatch) -> None:
    assert cli.main(["status", str(run.parent)]) == 1
    assert "is no run's folder: it has no recipe.json" in capsys.readouterr().err
    (run / "seed1" / RECIPE_FILE).write_text("{}")
    assert cli.main(["status", str(run / "seed1")]) == 1
    assert capsys.readouterr().err.endswith(f"seed1 is a seed's folder; name its run's, {run}\n")
    noted = (run / slurm.JOBS).read_text()
    (run / slurm.JOBS).write_text('{"job": "12", "tasks": [1]}')
    assert cli.main(["status", str(run)]) == 0
    assert capsys.readouterr().err.endswith("slurm-jobs.json: tasks must be a table, not [1]\n")
    (run / slurm.JOBS).write_text(noted)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: "/bin/false")
    failed = subprocess.CompletedProcess([], 1, "", "no controller")
    monkeypatch.setattr(slurm.subprocess, "run", lambda *arguments, **options: failed)
    assert cli.main(["status", str(run)]) == 0
    said = capsys.readouterr()
    assert said.err == "note: what waits in Slurm's queue is not known: squeue: no controller\n"
    assert "6 seeds" in said.out


@pytest.mark.parametrize(
    ("file", "payload", "told"),
    [
        ("seed1/result.json", '{"steps": 4, "sliding', "is not valid JSON"),
        ("seed1/result.json", "[1]", "must be a table"),
        ("seed1/result.json", '{"steps": 4}', "key 'recipe' is missing"),
        ("seed1/result.json", {"sliding_bpb": 1.2}, "sliding_bpb does not follow from sliding_loss"),
        (slurm.JOBS, "[1]", "which jobs were submitted is not known"),
        (slurm.JOBS, '{"job": "12", "tasks": {"2": "x"}}', "tasks.2 must be of type int"),
        ("seed2/metrics.jsonl", '{"kind": "val"}\n[1]\n', ""),
        ("seed2/metrics.jsonl", '{"kind": "val", "bpb": "low"}\n{"kind": "train", "step": "x"}\n', ""),
        ("seed2/metrics.jsonl", '{"kind": "val", cut\n', ""),
    ],
)
def test_a_damaged_file_is_a_note_and_hides_no_other_seed(run: Path, capsys, monkeypatch, file, payload, told) -> None:
    monkeypatch.setattr(slurm, "queue", dict)
    change(run / file, **payload) if isinstance(payload, dict) else (run / file).write_text(payload)
    assert cli.main(["status", str(run), "--json"]) == 0
    said = capsys.readouterr()
    found = {one["seed"]: one for one in json.loads(said.out)}
    assert set(found) >= {1, 2, 3, 4} and found[3]["bpb"] == 1.75 and told in said.err
    assert said.err.count("\n") == bool(told)
    damaged = found[1 if "seed1" in file else 2]
    assert damaged["bpb"] is None or "seed" not in file
    assert (damaged["state"] == "damaged") is ("seed1" in file)


def test_a_recipe_that_is_no_object_is_one_line_and_an_adapted_seed_is_known_by_its_adapted_score(run: Path, capsys):
    loss = 1.4 * math.log(2) * BYTES / TARGETS
    change(run / "seed1" / "result.json", adapted_bpb=1.4, adapted_loss=loss)
    assert next(iter(status.statuses(run, {}))).bpb == 1.4
    (run / "recipe.json").write_text("[1]")
    assert cli.main(["status", str(run)]) == 1
    said = capsys.readouterr().err
    assert "recipe.json does not hold a JSON object" in said and said.splitlines()[-1].startswith("pgolf: error: ")


def test_a_hundred_seeds_take_less_than_a_second_of_work_and_no_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "many", {1: 1.5})
    for seed in range(2, 101):
        add_seed(run, seed, node="n2", job="12")
    program = (
        "import sys, time; from pgolf_core.lab import cli; assert cli.main(['status', sys.argv[1]]) == 0; "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(time.process_time())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, run], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "100 seeds: 1 finished, 99 03_train" in done.stdout
    assert float(done.stdout.splitlines()[-1]) < 1.0, "seconds of the processor, so that a busy machine changes nothing"


@pytest.mark.parametrize("bpb", ["NaN", "9" * 400, "null", '"1.5"x'])
def test_a_score_or_a_step_that_is_none_is_not_told(run: Path, bpb: str) -> None:
    step = json.dumps(STEP).replace('"step": 40', '"step": "40"')
    text = f'{{"kind": "val", "bpb": {bpb}}}\n{step}\n'
    (run / "seed3" / "metrics.jsonl").write_text(text)
    found = {one.seed: one for one in status.statuses(run, {})}[3]
    assert (found.state, found.step, found.bpb) == ("stopped", None, None)
    (run / "seed3" / "metrics.jsonl").write_text(text.replace('"40"', "9" * 400))
    assert {one.seed: one for one in status.statuses(run, {})}[3].step is None
