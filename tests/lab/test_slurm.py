"""Batch scripts, their options and what squeue says; tests/whole/test_slurm.py runs them on a real Slurm."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from refused import refused

from pgolf_core.lab import cli, slurm
from pgolf_core.lab.slurm import Asked, Queued

GIVEN = Asked(30, "--partition=gpu --gres=gpu:8")


def fake(folder: Path, name: str, text: str) -> None:
    """A command of Slurm's that does what a shell script says."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which commands are looked for first."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "bin"


def test_a_script_has_a_task_for_each_command_whatever_its_words_hold(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(slurm, "PROGRAM", ("printf", "<%s>"))
    words = ["record", "a b", "x='1'", "$HOME", "ö%A", "two\n\nlines"]
    text = slurm.script("seeds", [["first"], words], tmp_path / "50% off", GIVEN)
    head = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--array=0-1", "--time=30", "--requeue", "--signal=B:USR1@90", GIVEN.options} <= set(head)
    assert f'--output="{tmp_path}/50%% off/seeds-%A_%a.log"' in head
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "".join(f"<{word}>" for word in words)), done.stderr


@pytest.mark.parametrize(
    ("status", "restarts", "asked_for"),
    [(0, 0, ""), (1, 0, ""), (75, 0, "7"), (137, 3, "7"), (143, 0, "7"), (143, 100, "")],
)
def test_only_a_job_that_can_go_on_is_queued_again(
    commands: Path, tmp_path: Path, monkeypatch, status: int, restarts: int, asked_for: str
) -> None:
    fake(commands, "scontrol", f'echo "$2" > {tmp_path}/requeued; exit 1')
    monkeypatch.setattr(slurm, "PROGRAM", ("bash", "-c", f"exit {status}"))
    text = slurm.script("seeds", [[]], tmp_path, GIVEN)
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    assert subprocess.run(["bash"], input=text, text=True, env=environment).returncode == status
    found = (tmp_path / "requeued").read_text().strip() if (tmp_path / "requeued").exists() else ""
    assert found == asked_for


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slurm", "--gres=gpu:8"], "--slurm goes with --on slurm"),
        (["--dry-run"], "--dry-run goes with --on slurm"),
        (["--time", "30"], "--time goes with --on slurm"),
        (["--on", "slurm", "--time", "1"], "--time 1: give at least 5 minutes"),
        (["--on", "slurm", "--time", "x"], "'x' is not a whole number"),
        (["--on", "slurm", "--slurm", "--array=0-3"], "--slurm '--array=0-3': pgolf sets that itself"),
        (["--on", "slurm", "--slurm", "--arr 3"], "pgolf sets that itself"),
        (["--on", "slurm", "--slurm", "-t 30"], "--slurm '-t': pgolf sets that itself"),
        (["--on", "slurm", "--slurm", "--comment='a"], "No closing quotation"),
        (["--on", "slurm", "--slurm", "--comment='a\nb'"], "pgolf sets that itself"),
        (["--on", "pbs"], "invalid choice: 'pbs'"),
        (["--on", "slurm", "--seeds", "1,1"], "'1,1' has a seed twice"),
        (["--no-report", "--report-only"], "not allowed with argument"),
    ],
)
def test_options_that_cannot_be_meant_are_a_line(capsys, words: list[str], said: str) -> None:
    assert cli.main(["record", "local-smoke", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.startswith("pgolf: error: ")


def test_without_slurm_there_is_a_line_and_an_empty_queue(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    assert cli.main(["record", "local-smoke", "--on", "slurm"]) == 1
    assert capsys.readouterr().err.startswith("pgolf: error: sbatch is not installed here; ")
    assert slurm.queue() == {}


def test_jobs_follow_each_other_and_a_refusal_cancels_the_ones_before(commands: Path, tmp_path: Path, capsys) -> None:
    fake(commands, "sbatch", f'echo "$@" >> {tmp_path}/calls; wc -l < {tmp_path}/calls')
    fake(commands, "scancel", f'echo cancel "$@" >> {tmp_path}/calls')
    steps = {"seeds": [["a"], ["b"]], "report": [["c"]]}
    assert slurm.chain(tmp_path / "run", steps, GIVEN) == ["1", "2"]
    scripts = [tmp_path / "run" / "slurm" / f"{name}.sbatch" for name in steps]
    expected = [f"--parsable {scripts[0]}", f"--parsable --dependency=afterany:1 {scripts[1]}"]
    assert (tmp_path / "calls").read_text().splitlines() == expected
    assert "0) set -- a;;\n1) set -- b;;" in scripts[0].read_text()
    fake(commands, "sbatch", 'case "$*" in *dependency*) echo "sbatch: error: no more" >&2; exit 1;; esac; echo 5')
    with refused("sbatch: no more"):
        slurm.chain(tmp_path / "run", steps, GIVEN)
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "cancel 5"
    capsys.readouterr()
    assert slurm.chain(tmp_path / "dry", steps, Asked(30, "", dry_run=True)) == []
    said = capsys.readouterr().out
    assert said.count("#!/bin/bash") == 2 and "set -- a" in said and not (tmp_path / "dry").exists()


def test_the_queue_is_read_by_job_and_task(commands: Path) -> None:
    lines = "12|0|RUNNING|n1|None\\n12|1|PENDING||(Resources|a)\\n13|N/A|PENDING||Dependency\\n"
    fake(commands, "squeue", f"printf '{lines}'")
    found = slurm.queue()
    assert found[("12", "0")] == Queued("RUNNING", "n1", "None")
    assert found[("12", "1")] == Queued("PENDING", "", "(Resources|a)") and len(found) == 3
    fake(commands, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with refused("squeue: Unable to contact slurm controller"):
        slurm.queue()


def test_the_words_of_the_script_are_those_that_were_given(tmp_path: Path) -> None:
    text = slurm.script("seeds", [["record", "x"]], tmp_path, Asked(30, ""))
    assert f'{shlex.join(slurm.PROGRAM)} "$@" &' in text and "\n\n" not in text
