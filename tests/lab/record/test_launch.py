"""How the training stage starts several processes, follows them and ends them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from launched import core_arguments, ranks_of, small_run, with_fault
from ranks import ended, free_port, start_process, wait_until
from refused import refused

from pgolf_core.lab.record import launch
from pgolf_core.lab.record.launch import processes_of, set_processes, torchrun_command, train_with_torchrun
from pgolf_core.training.checkpoint import load_tensors
from pgolf_core.training.progress import training_curve

ROOT = Path(__file__).resolve().parents[3]


def nobody(progress: object) -> None:
    """Who does not look at the progress."""


def test_the_number_of_processes_is_kept_in_the_seeds_folder(tmp_path: Path) -> None:
    run = SimpleNamespace(folder=tmp_path)
    assert processes_of(run) == 1
    set_processes(run, 8)
    assert processes_of(run) == 8
    set_processes(run, 1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / launch.SETTINGS).write_text("[8]")
    with refused(r"launch\.json does not hold a JSON object; delete it"):
        processes_of(run)
    (tmp_path / launch.SETTINGS).write_text('{"nproc": "8"}')
    with refused(r"launch\.json: nproc = '8' is no number of processes"):
        processes_of(run)


def test_the_number_of_hosts_is_torchruns_own_variable_and_cannot_change(monkeypatch) -> None:
    for text in ("1", "2", "2:2"):
        monkeypatch.setenv("PET_NNODES", text)
        assert launch.hosts() == int(text[0])
    for text in ("1:4", "two", "0", "9" * 5000):
        monkeypatch.setenv("PET_NNODES", text)
        with refused(f"PET_NNODES={text:.40}: give the number of hosts"):
            launch.hosts()


def test_the_command_stands_alone_unless_torchruns_own_variables_say_where_to_meet(tmp_path, monkeypatch) -> None:
    run = small_run(tmp_path)
    monkeypatch.delenv("PET_NNODES", raising=False)
    command = torchrun_command(run, 8)
    assert "--standalone" in command and "--nproc_per_node=8" in command
    assert "--local-addr=localhost" in command, "else ranks meet at this machine's name, which nothing may resolve"
    assert command[command.index("--train") + 1 : command.index("--val")] == list(map(str, run.dataset.train_paths))
    monkeypatch.setenv("PET_NNODES", "2")
    command = torchrun_command(run, 8)
    assert "--nproc_per_node=8" in command and not {"--standalone", "--local-addr=localhost"} & set(command)


def test_two_processes_train_a_run_its_steps_are_told_and_each_line_is_said_once(tmp_path: Path) -> None:
    run, told = small_run(tmp_path), []
    result = train_with_torchrun(run, 2, told.append)
    assert (result.steps, result.stopped_by, result.tokens) == (12, "iterations", 12 * 128)
    assert told[-1].step == 12 and told[-1].fraction == 1.0
    assert load_tensors(run.folder / "weights-averaged.safetensors")[1] == {"step": 12}
    assert [x["step"] for x in training_curve(run.folder) if x["kind"] == "train"] == list(range(1, 13))
    said = (run.folder / launch.LOG).read_text()
    assert result.path.endswith("ranks: 2, gloo") and said.count(result.path) == 1
    assert said.count("step:12/12 train_loss:") == 1 == said.count("step:12/12 val_loss:")


def test_a_refusal_comes_back_as_its_one_line_without_any_traceback(tmp_path: Path, capsys) -> None:
    run = small_run(tmp_path, spans=1)
    with refused(r"^2 processes do not divide data\.spans_per_step = 1; use --nproc of 1$"):
        train_with_torchrun(run, 2, nobody)
    said = (run.folder / launch.LOG).read_text()
    assert "Traceback" not in said and "pgolf, rank " in said and capsys.readouterr().out == ""


def test_a_launcher_that_cannot_begin_names_the_log(tmp_path: Path, monkeypatch, capsys) -> None:
    crash = [sys.executable, "-c", "raise ValueError('deep inside')"]
    monkeypatch.setattr(launch, "torchrun_command", lambda run, processes: crash)
    with refused(r"training in 2 processes failed .*torchrun\.log says why"):
        train_with_torchrun(small_run(tmp_path), 2, nobody)
    assert "ValueError: deep inside" in capsys.readouterr().out


NOT_FINITE = "self.loss_of = lambda x, y, loss_of=self.loss_of: loss_of(x, y) * float('nan')"
ONE_LAUNCH_MORE = pytest.mark.slow  # some seconds each; the killed rank stands for all


@pytest.mark.parametrize(
    ("fault", "said", "shown"),
    [
        ("os.kill(os.getpid(), 9)", r"^rank 1 of 2 was killed by SIGKILL \(out of memory\?\); \S+torchrun\.log", ""),
        pytest.param(
            "raise ValueError('the fault')", r"^rank 1 of 2 failed: ValueError: the fault; \S+torchrun\.log",
            "in faulty", marks=ONE_LAUNCH_MORE,
        ),
        pytest.param(
            NOT_FINITE, r"^step 6: gradient of \S+ .*is not finite \(loss nan\); lower optim\.matrix_lr", "",
            marks=ONE_LAUNCH_MORE,
        ),
    ],
)  # fmt: skip
def test_a_rank_that_fails_ends_all_within_a_minute_and_is_named(
    tmp_path: Path, monkeypatch, capsys, fault: str, said: str, shown: str
) -> None:
    run = small_run(tmp_path, iterations=100_000)
    with_fault(monkeypatch, run.folder, fault)
    with refused(said):
        train_with_torchrun(run, 2, nobody)
    assert time.time() - (run.folder.parent / "reached1").stat().st_mtime < 60
    assert all(map(ended, ranks_of(run)))
    printed = capsys.readouterr().out
    assert shown in printed and ("Traceback" in printed) == bool(shown), "the traceback of the rank that failed, alone"
    assert not (run.folder / "train-result.json").exists()


def test_a_rank_that_was_killed_is_named_before_those_that_lost_it() -> None:
    def failed(code: int, second: int, message: object = "old form") -> SimpleNamespace:
        return SimpleNamespace(exitcode=code, timestamp=second, error_file_data={"message": message})

    told = {"message": "ValueError: x", "extraInfo": {"py_callstack": "Traceback"}}
    failures = {0: failed(1, 5, told), 1: failed(-9, 6), 2: failed(-15, 4), 3: failed(1, 4)}
    failures, found = {**failures, 4: failed(-6, 3, told), 5: failed(-6, 7)}, []
    while failures:
        found.append(launch.first_failure(failures))
        del failures[found[-1]["rank"]]
    assert [(one["rank"], one["reason"]) for one in found] == [
        (1, "was killed by SIGKILL (out of memory?)"), (4, "failed: ValueError: x"), (3, "ended with status 1"),
        (0, "failed: ValueError: x"), (5, "was killed by SIGABRT"), (2, "was killed by SIGTERM"),
    ]  # fmt: skip
    assert found[1]["message"] == "ValueError: x" and found[1]["traceback"] == "Traceback"


def test_ranks_whose_launching_process_is_killed_save_and_leave(tmp_path: Path) -> None:
    """As when pgolf and with it the notebook's kernel are gone: nobody may train on in the folder."""
    run = small_run(tmp_path, iterations=100_000)
    process = start_process(train_slowly, run)
    wait_until((run.folder.parent / "reached0").exists, "the sixth step")
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: all(map(ended, ranks_of(run))), "the ranks' end")
    assert load_tensors(run.folder / "checkpoint.safetensors")[1]["step"] >= 5


def train_slowly(run: SimpleNamespace) -> None:
    with pytest.MonkeyPatch.context() as patch:
        with_fault(patch, run.folder, "pass")
        train_with_torchrun(run, 2, nobody)


def test_an_interrupt_lets_the_ranks_save_before_it_goes_on(tmp_path: Path, monkeypatch) -> None:
    run = small_run(tmp_path, iterations=100_000)
    with_fault(monkeypatch, run.folder, "pass")  # none, but the ranks' processes are known

    def interrupt(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_with_torchrun(run, 2, interrupt)
    assert all(map(ended, ranks_of(run)))
    assert load_tensors(run.folder / "checkpoint.safetensors")[1]["step"] > 0


@pytest.mark.slow  # two launchers, which wait for one another; test_rank.py has hosts that disagree
def test_two_hosts_meet_and_train_one_run(tmp_path: Path, monkeypatch) -> None:
    """The second is plain torchrun, as the help tells, with files of its own."""
    run, port = small_run(tmp_path), free_port()
    there = [*core_arguments(run)[:-1], str(run.folder / "elsewhere")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--node_rank=1", "--nproc_per_node=1"]
    command += ["--master_addr=127.0.0.1", f"--master_port={port}", "-m", "pgolf_core.lab.record.rank", *there]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    here = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in here.items():
        monkeypatch.setenv(f"PET_{name}", value)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as other:
        result = train_with_torchrun(run, 1, nobody)
        said, _ = other.communicate()
    assert result.steps == 12 and result.path.endswith("ranks: 2, gloo") and other.returncode == 0, said
    assert (run.folder / "weights-averaged.safetensors").exists()
    assert not list((run.folder / "elsewhere").glob("*.safetensors"))
