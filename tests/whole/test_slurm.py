"""`pgolf record --on slurm` on a real Slurm that these tests start: two nodes, and all that can end a job early.

pytest tests/whole/test_slurm.py -m slow (with --need-slurm a Slurm that cannot start is a failure, else a skip)
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, running, why_not
from toy_notebooks import write_toys

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "tests" / "helpers" / "toy_pgolf.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Slurm; where it cannot start the tests are skipped, or with --need-slurm fail."""
    if reason := why_not():
        (pytest.fail if request.config.getoption("--need-slurm") else pytest.skip)(reason)
    with running(tmp_path_factory.mktemp("slurm")) as started:
        started.environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        yield started


class Toy:
    """A toy recipe whose jobs run on the cluster."""

    def __init__(self, cluster: Cluster, place: Path, training: str):
        write_toys(place)
        (place / "training.txt").write_text(training)
        self.cluster, self.place = cluster, place
        self.folder = place / "runs" / "local_10min_1mb" / "toy"

    def pgolf(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of pgolf's, here."""
        done = subprocess.run(
            [sys.executable, TOY, self.place, *words], env=self.cluster.environment, capture_output=True, text=True
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    def submit(self, seeds: str = "1", options: str = "") -> tuple[str, str]:
        """Record on Slurm; the ids of the seeds' job and the report's."""
        runs = ("--runs", str(self.place / "runs"), "--slurm", options)
        self.pgolf("record", str(self.place / "toy.toml"), "--seeds", seeds, "--on", "slurm", *runs)
        jobs = json.loads((self.folder / "slurm-jobs.json").read_text())
        return jobs["job"], jobs["last"]

    def steps(self, seed: int = 1) -> list[list[str]]:
        """What the attempts at training a seed have told: began, saved or ended; step, process, node."""
        path = self.folder / f"seed{seed}" / "steps.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_step(self, step: int) -> tuple[int, int, str]:
        """Wait until training has come so far; step, process and node now."""
        path = self.folder / "seed1" / "now.txt"
        self.cluster.wait(lambda: path.exists() and int(path.read_text().split()[0]) >= step, f"step {step}")
        now, pid, node = path.read_text().split()
        return int(now), int(pid), node

    def runner(self) -> int:
        """Process id of the pgolf that is at work on the seed."""
        return json.loads((self.folder / "seed1" / ".holder").read_text())["pid"]

    def wait_for_attempt(self, number: int, seconds: float = 120) -> None:
        """Wait until training has begun for the given time, counted from 1."""
        began = lambda: sum(words[0] == "began" for words in self.steps()) >= number  # noqa: E731
        self.cluster.wait(began, f"attempt {number}", seconds)

    def finish(self, *jobs: str) -> None:
        """Let training come to its end, wait for the jobs, and see that all stages are done and no step was lost."""
        (self.folder / "go").touch()
        self.cluster.wait_for_end(*jobs)
        assert (self.folder / "seed1" / "stages" / "06_sliding_eval.json").exists(), self.logs()
        assert (self.folder / "report.html").exists(), self.logs()
        assert self.steps()[-1][0] == "ended"

    def logs(self) -> str:
        """What the jobs have said."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("slurm/*.log")))


@pytest.fixture
def toy(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Toy]:
    """Toys whose training does what the test's parameter says: see toy_pgolf. No job outlives its test."""
    toy = Toy(cluster, tmp_path, getattr(request, "param", "waits"))
    yield toy
    toy.folder.mkdir(parents=True, exist_ok=True)
    (toy.folder / "go").touch()  # what Slurm has lost sight of ends by this
    cluster.call("scancel", "--me")
    cluster.wait(lambda: not cluster.call("squeue", "-h"), "the end of all jobs")


# ---------------------------------------------------------------------- to the end


@pytest.mark.parametrize("toy", [""], indirect=True)
def test_an_array_of_two_runs_side_by_side_and_the_report_comes_after_both(toy: Toy) -> None:
    job, report = toy.submit("1,2")
    toy.cluster.wait_for_end(job, report)
    executed = (toy.folder / "executed.txt").read_text().splitlines()
    assert executed[:2] == ["toy 01_data_and_metric", "toy 02_architecture"] and executed[-1] == "toy 07_report"
    assert sorted(executed[2:-1]) == sorted(
        f"seed{seed} {stage}" for seed in (1, 2)
        for stage in ("03_train", "04_average_and_qat", "05_quantize", "06_sliding_eval")
    )  # fmt: skip
    assert json.loads((toy.folder / "stages" / "07_report.json").read_text())["seeds"] == [1, 2]
    assert set(toy.cluster.states(job).values()) == set(toy.cluster.states(report).values()) == {"COMPLETED"}


@pytest.mark.parametrize("toy", ["fails"], indirect=True)
def test_a_seed_that_fails_is_named_by_the_report_which_has_the_others(toy: Toy) -> None:
    job, report = toy.submit("1,2")
    toy.cluster.wait_for_end(job, report)
    assert toy.cluster.states(job) == {"0": "COMPLETED", "1": "FAILED"}
    assert set(toy.cluster.states(report).values()) == {"FAILED"}
    assert "missing in this report, since not finished: seeds 2" in toy.logs()
    assert json.loads((toy.folder / "stages" / "07_report.json").read_text())["seeds"] == [1]


# ---------------------------------------------------------------------- ended early


def test_a_job_that_is_told_to_save_goes_on_from_there(toy: Toy) -> None:
    """As before a time limit: the batch shell alone gets the signal."""
    jobs = toy.submit()
    toy.wait_for_step(25)
    toy.cluster.call("scancel", "--batch", "--signal=USR1", jobs[0])
    toy.wait_for_attempt(2)
    toy.finish(*jobs)
    (_, first, *_), (said, saved, *_), (_, again, *_), *_ = toy.steps()
    assert said == "saved" and int(first) == 0 and again == saved and int(saved) >= 25


def test_a_job_that_is_killed_goes_on_from_its_last_checkpoint(toy: Toy) -> None:
    jobs = toy.submit()
    step, *_ = toy.wait_for_step(25)
    os.kill(toy.runner(), signal.SIGKILL)
    toy.wait_for_attempt(2)
    toy.finish(*jobs)
    assert [words[0] for words in toy.steps()] == ["began", "began", "ended"]
    assert int(toy.steps()[1][1]) >= step // 10 * 10 > 0


@pytest.mark.parametrize("toy", ["dies"], indirect=True)
def test_a_restart_that_moves_nothing_is_the_last(toy: Toy) -> None:
    job, report = toy.submit()
    toy.cluster.wait_for_end(job, report)
    assert toy.cluster.states(job) == {"0": "FAILED"}
    assert f"seed1: restart 1 of job {job} moved nothing (0 stages finished, step 0 saved)" in toy.logs()
    assert (toy.folder / "executed.txt").read_text().count("seed1 03_train") == 2


def test_a_job_of_a_higher_partition_gets_the_nodes_and_the_first_goes_on_after_it(toy: Toy) -> None:
    jobs = toy.submit()
    toy.wait_for_step(25)
    toy.cluster.call(
        "sbatch", "--partition=high", "--nodes=2", "--exclusive", "--wait", "--wrap=sleep 1", "-o/dev/null"
    )
    toy.wait_for_attempt(2)
    toy.finish(*jobs)
    assert [words[0] for words in toy.steps()] == ["began", "saved", "began", "ended"]
    assert toy.steps()[1][1] == toy.steps()[2][1]


def test_a_job_whose_node_goes_down_is_queued_again_and_goes_on(toy: Toy) -> None:
    jobs = toy.submit()
    *_, node = toy.wait_for_step(25)
    toy.cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        toy.wait_for_attempt(2)
        toy.finish(*jobs)
    finally:
        toy.cluster.call("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
    assert toy.steps()[-1][0] == "ended" and int(toy.steps()[-2][1]) >= 20


def test_the_leftover_of_a_lost_node_keeps_its_seed_until_it_ends(toy: Toy) -> None:
    """Slurm takes the node for dead, its processes live on: the job that is started again may not write beside them."""
    jobs = toy.submit()
    _, pid, node = toy.wait_for_step(25)
    os.kill(toy.cluster.pid_of(f"slurmd.{node}"), signal.SIGKILL)
    toy.cluster.wait(lambda: "another pgolf is working in" in toy.logs(), "the second job's refusal", 180)
    assert len(toy.steps()) == 1 and int((toy.folder / "seed1" / "now.txt").read_text().split()[1]) == pid
    os.kill(toy.runner(), signal.SIGTERM)
    toy.wait_for_attempt(2)
    toy.cluster.start_node(node)
    toy.finish(*jobs)
    assert [words[0] for words in toy.steps()] == ["began", "saved", "began", "ended"]


def test_a_cancelled_job_saves_and_is_not_started_again(toy: Toy) -> None:
    job, report = toy.submit()
    toy.wait_for_step(25)
    toy.cluster.call("scancel", job)
    toy.cluster.wait_for_end(job, report)
    time.sleep(8)  # longer than a job waits before it is started again
    assert toy.cluster.states(job) == {"0": "CANCELLED"} and [words[0] for words in toy.steps()] == ["began", "saved"]
    assert "none of the seeds 1 is finished" in toy.logs()


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--partition=nosuch", "pgolf: error: sbatch: invalid partition specified: nosuch"),
        ("--gres=gpu:8", "pgolf: error: sbatch: Invalid generic resource (gres) specification"),
        ("--nonsense", "pgolf: error: sbatch: "),
    ],
)
def test_what_slurm_refuses_is_a_line_before_anything_runs(toy: Toy, options: str, said: str) -> None:
    words = ("record", str(toy.place / "toy.toml"), "--seeds", "1", "--runs", str(toy.place / "runs"))
    done = toy.pgolf(*words, "--on", "slurm", "--slurm", options, check=False)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1
    assert not toy.folder.exists() and toy.cluster.call("squeue", "-h") == ""


# ---------------------------------------------------------------------- a real recipe

TINY = ROOT / "tests" / "helpers" / "tiny.toml"
CHANGES = ("schedule.iterations=300", "schedule.checkpoint_every_seconds=1", "schedule.val_every_steps=0")


def test_a_real_recipe_that_is_stopped_in_training_ends_with_the_bytes_of_one_that_was_not(
    cluster: Cluster, sotu, tmp_path: Path
) -> None:
    place = ("--runs", str(tmp_path), "--cache", str(sotu.folder.parent.parent))
    changes = [word for change in CHANGES for word in ("--set", change)]
    command = [sys.executable, "-m", "pgolf_core.lab.cli", "record", TINY, *place, *changes]
    cluster.call(*command, "--seeds", "1,2", "--name", "stopped", "--on", "slurm", seconds=300)
    (run,) = tmp_path.glob("*/stopped")
    jobs = json.loads((run / "slurm-jobs.json").read_text())
    metrics = run / "seed1" / "metrics.jsonl"
    cluster.wait(lambda: metrics.exists() and metrics.read_text().count("\n") >= 60, "sixty steps", 300)
    cluster.call("scancel", "--batch", "--signal=USR1", f"{jobs['job']}_0")
    cluster.wait_for_end(jobs["job"], jobs["last"], seconds=800)
    logs = "\n".join(path.read_text() for path in sorted(run.glob("slurm/*.log")))
    assert set(cluster.states(jobs["last"]).values()) == {"COMPLETED"}, logs
    assert json.loads((run / "summary.json").read_text())["seeds"] == [1, 2]

    cluster.call(*command, "--seeds", "1", "--name", "whole", "--no-report", seconds=600)
    stopped, whole = (run.parent / name / "seed1" for name in ("stopped", "whole"))
    assert (stopped / "model.pgolf").read_bytes() == (whole / "model.pgolf").read_bytes()
    results = [json.loads((folder / "result.json").read_text()) for folder in (stopped, whole)]
    assert 60 <= results[0]["resumed_at_steps"][0] < 300 and not results[1]["resumed_at_steps"], logs
    assert results[0]["sliding_bpb"] == results[1]["sliding_bpb"]


def test_a_sweep_is_one_array_whose_runs_and_table_are_those_of_one_machine(
    cluster: Cluster, sotu, tmp_path: Path
) -> None:
    place = ("--runs", tmp_path, "--cache", sotu.folder.parent.parent)
    command = [sys.executable, "-m", "pgolf_core.lab.cli"]
    arms = ("--arm", "base", "--arm", "fast:optim.matrix_lr=0.03", "--seeds", "1,2")
    said = cluster.call(*command, "sweep", TINY, *place, *arms, "--on", "slurm", seconds=300)
    (base,), (fast,) = tmp_path.glob("*/tiny.base"), tmp_path.glob("*/tiny.fast")
    jobs = [json.loads((folder / "slurm-jobs.json").read_text()) for folder in (base, fast)]
    assert jobs[0]["job"] == jobs[1]["job"] and f"submitted: job {jobs[0]['job']} for 4 seeds" in said
    cluster.wait_for_end(jobs[0]["job"], jobs[0]["last"], seconds=900)
    logs = "\n".join(path.read_text() for path in sorted(base.glob("slurm/*.log")))
    assert set(cluster.states(jobs[0]["last"]).values()) == {"COMPLETED"}, logs
    first = [json.loads((folder / "stages" / "01_data_and_metric.json").read_text()) for folder in (base, fast)]
    assert "made_in" not in first[0] and first[1]["made_in"].endswith("tiny.base"), "the data's notebook ran once"
    assert all((folder / "report.html").is_file() for folder in (base, fast))
    table = (base / "sweep.txt").read_text()
    cluster.call(*command, "sweep", TINY, *place, *arms, "--finish", seconds=300)
    assert (base / "sweep.txt").read_text() == table and "tiny.fast against tiny.base" in table

    change = ("--set", "optim.matrix_lr=0.03", "--seeds", "2", "--name", "alone", "--no-report")
    cluster.call(*command, "record", TINY, *place, *change, seconds=600)
    there, here = fast / "seed2", fast.parent / "alone" / "seed2"
    for name in ("model.pgolf", "scores.npz"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
