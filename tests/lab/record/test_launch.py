"""How the training stage starts several processes, follows them and ends them.

pytest tests/lab/record/test_launch.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ranks import FAULTY, ended, free_port, start_process, wait_until
from small import small_data, small_recipe

from pgolf_core import main as train_main
from pgolf_core.base.files import UserError, write_json
from pgolf_core.lab.data.build import train_tokenizer
from pgolf_core.lab.record import launch
from pgolf_core.lab.record.launch import last_step, processes_of, set_processes, torchrun_command, train_with_torchrun
from pgolf_core.lab.record.torchrun import in_order
from pgolf_core.main import main, read_recipe
from pgolf_core.recipes.recipe import to_dict
from pgolf_core.training.checkpoint import load_tensors

ROOT = Path(__file__).resolve().parents[3]
PIECES = 330
TEXT = "The state of the Union is strong.\n\nThe people of the States are free; the courts are open.\n" * 8


def small_run(folder: Path, iterations: int = 12, spans: int = 8) -> SimpleNamespace:
    """As much of a run as training needs, in a folder whose name is a pattern too."""
    folder = folder / "seed[3]"
    settings = small_recipe(
        model={"vocab_size": PIECES}, data={"spans_per_step": spans}, schedule={"iterations": iterations}
    )
    data = small_data(folder / "data", vocab=PIECES)
    (folder / "small.model").write_bytes(train_tokenizer([TEXT], PIECES))
    write_json(folder / "recipe.json", {**to_dict(settings), "fingerprint": settings.fingerprint})
    dataset = SimpleNamespace(
        train_paths=data.train_paths, val_paths=data.val_paths, tokenizer_path=folder / "small.model",
        manifest_sha256="small",
    )  # fmt: skip
    return SimpleNamespace(folder=folder, seed=3, recipe=settings, dataset=dataset)


def test_the_number_of_processes_is_kept_in_the_seeds_folder(tmp_path: Path) -> None:
    run = SimpleNamespace(folder=tmp_path)
    assert processes_of(run) == 1
    set_processes(run, 8)
    assert processes_of(run) == 8
    set_processes(run, 1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / launch.SETTINGS).write_text('{"nproc": "8"}')
    with pytest.raises(UserError, match=r"launch\.json: nproc = '8' is no number of processes"):
        processes_of(run)


def test_the_command_stands_alone_unless_torchruns_own_variables_say_where_to_meet(tmp_path, monkeypatch) -> None:
    run = small_run(tmp_path)
    monkeypatch.delenv("PET_NNODES", raising=False)
    command = torchrun_command(run, 8)
    assert "--standalone" in command and "--nproc_per_node=8" in command
    assert command[command.index("--train") + 1 : command.index("--val")] == list(map(str, run.dataset.train_paths))
    monkeypatch.setenv("PET_NNODES", "2")
    assert "--standalone" not in torchrun_command(run, 8) and "--nproc_per_node=8" in torchrun_command(run, 8)


def test_progress_is_the_last_whole_training_line(tmp_path: Path) -> None:
    recipe, path = small_recipe(), tmp_path / "metrics.jsonl"
    assert last_step(path, recipe) is None
    line = {"kind": "train", "step": 3, "loss": 2.5, "seconds": 6.0, "tokens_per_second": 64.0}
    lines = [json.dumps({**line, "step": step, "padding": "x" * 100}) for step in range(1, 100)]
    path.write_text("\n".join([*lines, json.dumps(line), json.dumps({**line, "kind": "val"}), '{"kind": "tra']))
    now = last_step(path, recipe)
    assert (now.step, now.loss, now.tokens_per_second) == (3, 2.5, 64.0)
    assert now.fraction == 3 / 12 and now.seconds_left == pytest.approx(18.0)
    assert last_step(path, recipe, since=path.stat().st_mtime + 1) is None


def test_two_processes_train_a_run_and_its_steps_are_told(tmp_path: Path) -> None:
    run, told = small_run(tmp_path), []
    result = train_with_torchrun(run, 2, told.append)
    assert result.steps == 12 and result.path.endswith("ranks: 2, gloo")
    assert told[-1].step == 12 and told[-1].fraction == 1.0
    assert (run.folder / "weights-averaged.safetensors").exists()


def test_a_refusal_comes_back_as_its_one_line_without_any_traceback(tmp_path: Path, capsys) -> None:
    run = small_run(tmp_path, spans=1)
    with pytest.raises(UserError, match=r"^2 processes do not divide data\.spans_per_step = 1; use --nproc of 1$"):
        train_with_torchrun(run, 2)
    assert "Traceback" not in (run.folder / launch.LOG).read_text() and capsys.readouterr().out == ""


def test_a_launcher_that_cannot_begin_names_the_log(tmp_path: Path, monkeypatch, capsys) -> None:
    crash = [sys.executable, "-c", "raise ValueError('deep inside')"]
    monkeypatch.setattr(launch, "torchrun_command", lambda run, processes: crash)
    with pytest.raises(UserError, match=r"training in 2 processes failed .*torchrun\.log says why"):
        train_with_torchrun(small_run(tmp_path), 2)
    assert "ValueError: deep inside" in capsys.readouterr().out


def with_fault(monkeypatch, folder: Path, fault: str) -> None:
    """From now on the second rank of a launched training does this in its sixth step."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faulty.py").write_text(FAULTY.format(fault=fault))

    def command(run, processes: int) -> list[str]:
        words = torchrun_command(run, processes)
        at = words.index("pgolf_core.main")
        return [*words[: at - 1], str(folder / "faulty.py"), *words[at + 1 :]]

    monkeypatch.setattr(launch, "torchrun_command", command)


NOT_FINITE = "self.loss_of = lambda x, y, loss_of=self.loss_of: loss_of(x, y) * float('nan')"


@pytest.mark.parametrize(
    ("fault", "said", "shown"),
    [
        ("raise ValueError('the fault')", r"^rank 1 of 2 failed: ValueError: the fault; \S+torchrun\.log", "in faulty"),
        ("os.kill(os.getpid(), 9)", r"^rank 1 of 2 was killed by SIGKILL \(out of memory\?\); \S+torchrun\.log", ""),
        pytest.param(
            NOT_FINITE,
            r"^step 6: gradient of \S+ .*is not finite \(loss nan\); lower optim\.matrix_lr",
            "",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_rank_that_fails_ends_all_within_a_minute_and_is_named(
    tmp_path: Path, monkeypatch, capsys, fault: str, said: str, shown: str
) -> None:
    run = small_run(tmp_path, iterations=100_000)
    with_fault(monkeypatch, run.folder, fault)
    with pytest.raises(UserError, match=said) as error:
        train_with_torchrun(run, 2)
    assert time.time() - (run.folder.parent / "reached1").stat().st_mtime < 60 and "\n" not in str(error.value)
    assert all(ended(int((run.folder.parent / f"pid{rank}").read_text())) for rank in (0, 1))
    printed = capsys.readouterr().out
    assert shown in printed and ("Traceback" in printed) == bool(shown), "the traceback of the rank that failed, alone"
    assert not (run.folder / "train-result.json").exists()


def test_a_rank_that_was_killed_is_named_before_those_that_lost_it() -> None:
    def failed(code: int, second: int) -> SimpleNamespace:
        return SimpleNamespace(exitcode=code, timestamp=second, error_file_data={"message": "old form"})

    ranks = in_order({0: failed(1, 5), 1: failed(-9, 6), 2: failed(-15, 4), 3: failed(1, 4)})
    assert [failure.rank for failure in ranks] == [1, 3, 0, 2]
    assert [failure.signal for failure in ranks] == ["SIGKILL", "", "", "SIGTERM"]
    assert ranks[1].reason == "ended with status 1"


def test_ranks_whose_launching_process_is_killed_save_and_leave(tmp_path: Path, monkeypatch) -> None:
    """As when pgolf and with it the notebook's kernel are gone: nobody may train on in the folder."""
    run = small_run(tmp_path, iterations=100_000)
    process = start_process(train_slowly, run)
    wait_until((run.folder.parent / "reached0").exists, "the sixth step")
    os.kill(process.pid, signal.SIGKILL)
    pids = [int((run.folder.parent / f"pid{rank}").read_text()) for rank in (0, 1)]
    wait_until(lambda: all(map(ended, pids)), "the ranks' end")
    assert load_tensors(run.folder / "checkpoint.safetensors")[1]["step"] >= 5


def train_slowly(run: SimpleNamespace) -> None:
    with pytest.MonkeyPatch.context() as patch:
        with_fault(patch, run.folder, "pass")
        train_with_torchrun(run, 2)


def test_a_folder_that_another_training_holds_is_refused_after_a_while(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(train_main, "LOCK_SECONDS", 0.2)
    with (
        train_main._alone_in(tmp_path),
        pytest.raises(UserError, match="another training is at work in"),
        train_main._alone_in(tmp_path),
    ):
        pass
    with train_main._alone_in(tmp_path):
        pass


# ---------------------------------------------------------------------- several hosts


def other_host(run: SimpleNamespace, port: int, seed: int) -> subprocess.Popen:
    """The second of two hosts: plain torchrun, as the help tells, with files of its own."""
    words = torchrun_command(run, 1)
    arguments = words[words.index("pgolf_core.main") + 1 :]
    arguments[arguments.index("--seed") + 1] = str(seed)
    arguments[-1] = str(run.folder / "elsewhere")
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--node_rank=1", "--nproc_per_node=1"]
    command += ["--master_addr=127.0.0.1", f"--master_port={port}", "-m", "pgolf_core.main", *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PET_")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("seed", [3, 4])
def test_two_hosts_meet_and_train_one_run_unless_they_disagree(tmp_path: Path, monkeypatch, seed: int) -> None:
    run, port = small_run(tmp_path), free_port()
    here = {"PET_NNODES": "2", "PET_NODE_RANK": "0", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    other = other_host(run, port, seed)
    try:
        if seed == run.seed:
            result = train_with_torchrun(run, 1)
            assert result.steps == 12 and result.path.endswith("ranks: 2, gloo")
            assert (run.folder / "weights-averaged.safetensors").exists()
        else:
            with pytest.raises(UserError, match="another host has another recipe, seed or dataset than rank 0"):
                train_with_torchrun(run, 1)
    finally:
        said, _ = other.communicate()
    assert (other.returncode == 0) == (seed == run.seed), said
    assert seed == run.seed or "seed is 4 here and 3 at rank 0; give every host the same arguments" in said
    assert not list((run.folder / "elsewhere").glob("*.safetensors"))


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("2", 2), ("2:2", 2), ("1:4", 0), ("two", 0), ("0", 0)])
def test_the_number_of_hosts_is_torchruns_own_variable_and_cannot_change(monkeypatch, text: str, count: int) -> None:
    monkeypatch.setenv("PET_NNODES", text)
    if count:
        assert launch.hosts() == count
    else:
        with pytest.raises(UserError, match=f"PET_NNODES={text}: give the number of hosts"):
            launch.hosts()


def test_an_interrupt_lets_the_ranks_save_before_it_goes_on(tmp_path: Path, monkeypatch) -> None:
    run, children = small_run(tmp_path, iterations=100_000), []
    start = subprocess.Popen

    def interrupt(now) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.subprocess, "Popen", lambda *a, **k: children.append(start(*a, **k)) or children[-1])
    with pytest.raises(KeyboardInterrupt):
        train_with_torchrun(run, 2, interrupt)
    assert children[0].poll() is not None
    assert load_tensors(run.folder / "checkpoint.safetensors")[1]["step"] > 0


def test_the_entry_point_trains_alone_too_and_names_what_is_missing(tmp_path: Path, monkeypatch, capsys) -> None:
    run = small_run(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    command = torchrun_command(run, 1)
    arguments = command[command.index("pgolf_core.main") :]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    assert "step:12/12 train_loss:" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*arguments, "--val", "nothing*.bin"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1 and "pgolf: no shard fits 'nothing*.bin'" in capsys.readouterr().err
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="holds no recipe"):
        read_recipe(str(tmp_path / "list.json"))
