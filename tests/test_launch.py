"""How the training stage starts several processes, follows them and ends them.

pytest tests/test_launch.py
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from small import small_data, small_recipe

from pgolf_core.checkpoint import load_tensors
from pgolf_core.files import UserError, write_json
from pgolf_core.lab import launch
from pgolf_core.lab.corpus import train_tokenizer
from pgolf_core.lab.launch import last_step, processes_of, set_processes, torchrun_command, train_with_torchrun
from pgolf_core.recipe import to_dict
from pgolf_core.train_main import main, read_recipe

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
    assert "--standalone" not in torchrun_command(run, 8)


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


def test_a_refusal_comes_back_as_its_one_line_and_a_crash_names_the_log(tmp_path: Path, monkeypatch, capsys) -> None:
    with pytest.raises(UserError, match=r"^2 processes do not divide data\.spans_per_step = 1; use --nproc of 1$"):
        train_with_torchrun(small_run(tmp_path / "spans", spans=1), 2)
    crash = ["python", "-c", "raise ValueError('deep inside')"]
    monkeypatch.setattr(launch, "torchrun_command", lambda run, processes: crash)
    with pytest.raises(UserError, match=r"training in 2 processes failed .*torchrun\.log says why"):
        train_with_torchrun(small_run(tmp_path / "crash"), 2)
    assert "ValueError: deep inside" in capsys.readouterr().out


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
    arguments = command[command.index("pgolf_core.train_main") :]
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
