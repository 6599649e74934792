"""The training loop on small real runs: learning, determinism, resuming, stopping, refusing, reporting."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from interrupt import _Interrupt
from small import small_data, small_recipe

from pgolf_core.base import device
from pgolf_core.base.files import UserError
from pgolf_core.packing.pack import pack
from pgolf_core.training.checkpoint import load_tensors, save_tensors
from pgolf_core.training.loop import Trainer, train
from pgolf_core.training.runlog import training_curve

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path):
    return small_data(tmp_path / "data")


def packed(recipe, folder: Path) -> bytes:
    weights, _ = load_tensors(folder / "weights-averaged.safetensors")
    pack(weights, recipe.model, recipe.quant, folder / "m.pgolf", code_bytes=0, cap_bytes=10**6)
    return (folder / "m.pgolf").read_bytes()


def test_training_learns_and_leaves_what_the_next_stage_reads(data, tmp_path: Path) -> None:
    recipe = small_recipe(schedule={"iterations": 60, "warmdown_iters": 20, "val_every_steps": 20})
    result = train(recipe, 0, data, tmp_path / "run")
    curve = training_curve(tmp_path / "run")
    losses = [line["loss"] for line in curve if line["kind"] == "train"]
    assert [line["step"] for line in curve if line["kind"] == "train"] == list(range(1, 61))
    assert [line["step"] for line in curve if line["kind"] == "val"] == [0, 20, 40, 60]
    assert abs(losses[0] - math.log(64)) < 0.1 and losses[-1] < 0.6 * losses[0]
    assert (result.steps, result.tokens, result.stopped_by) == (60, 60 * 128, "iterations")
    raw, _ = load_tensors(tmp_path / "run" / "weights-raw.safetensors")
    averaged, _ = load_tensors(tmp_path / "run" / "weights-averaged.safetensors")
    assert raw.keys() == averaged.keys() and not torch.equal(raw["tok_emb.weight"], averaged["tok_emb.weight"])
    sensitivity = json.loads((tmp_path / "run" / "sensitivity.json").read_text())
    assert sensitivity["steps"] == result.sensitivity_steps > 0 and sensitivity["mean_squared_gradient"]
    log = (tmp_path / "run" / "train.log").read_text()
    assert "model_params:" in log and "step:60/60 val_loss:" in log
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_the_same_seed_gives_a_byte_identical_artifact_and_another_does_not(data, tmp_path: Path) -> None:
    recipe = small_recipe(schedule={"autocast": "auto"})
    for seed, name in ((7, "a"), (7, "b"), (8, "c")):
        train(recipe, seed, data, tmp_path / name)
    a, b, c = (packed(recipe, tmp_path / name) for name in "abc")
    assert a == b and a != c


def test_warm_up_leaves_no_trace_in_the_weights(data, tmp_path: Path) -> None:
    for steps in (0, 3):
        train(small_recipe(schedule={"warmup_steps": steps}), 1, data, tmp_path / str(steps))
    without, with_ = (load_tensors(tmp_path / name / "weights-averaged.safetensors")[0] for name in ("0", "3"))
    assert all(torch.equal(without[name], with_[name]) for name in without)


def test_micro_batches_change_nothing_but_rounding(data, tmp_path: Path) -> None:
    for rows in (3, 8):
        train(small_recipe(data={"micro_batch_seqs": rows}), 1, data, tmp_path / str(rows))
    a, b = (training_curve(tmp_path / name) for name in ("3", "8"))
    for x, y in zip(a, b, strict=True):
        assert abs(x["loss"] - y["loss"]) < 1e-3


@pytest.mark.parametrize("kind", ["ema", pytest.param("swa", marks=pytest.mark.slow)])
def test_going_on_after_ctrl_c_gives_the_same_bits_as_never_stopping(data, tmp_path: Path, kind: str) -> None:
    mixed = {"order": "shuffled", "final_seq_len": 32, "final_fraction": 0.4}
    recipe = small_recipe(
        data=mixed if kind == "swa" else {},
        average={"kind": kind, "swa_start": 0.9, "swa_every_steps": 1},
        qat={"kind": "late" if kind == "swa" else "off", "threshold": 0.9},
        schedule={"iterations": 20, "warmdown_iters": 20, "val_every_steps": 5},
    )
    train(recipe, 3, data, tmp_path / "whole")
    for stop in (4, 19):
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {stop}; the same command goes on"):
            train(recipe, 3, data, tmp_path / "parts", progress=_Interrupt(stop))
        assert (tmp_path / "parts" / "checkpoint.safetensors").exists()
    result = train(recipe, 3, data, tmp_path / "parts")
    assert result.resumed_at_steps == [4, 19]
    for name in ("weights-raw.safetensors", "weights-averaged.safetensors", "sensitivity.safetensors"):
        whole, parts = (load_tensors(tmp_path / folder / name)[0] for folder in ("whole", "parts"))
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
    whole, parts = (training_curve(tmp_path / folder) for folder in ("whole", "parts"))
    keys = ("kind", "step", "loss")
    assert [[line[k] for k in keys] for line in whole] == [[line[k] for k in keys] for line in parts]
    files = [json.loads((tmp_path / f / "sensitivity.json").read_text()) for f in ("whole", "parts")]
    assert files[0] == files[1]


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from small import small_data, small_recipe
from pgolf_core.training.loop import train
recipe = small_recipe(schedule={{"iterations": 100_000, "warmdown_iters": 10, "checkpoint_every_seconds": 0.05}})
train(recipe, 3, small_data(Path({data!r})), Path({run!r}))
"""


def test_a_killed_process_loses_at_most_one_cadence(tmp_path: Path) -> None:
    paths = [str(ROOT), str(ROOT / "tests")]
    script = SCRIPT.format(paths=paths, data=str(tmp_path / "data"), run=str(tmp_path / "run"))
    process = subprocess.Popen([sys.executable, "-c", script])
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = load_tensors(checkpoint)[1]["step"]
    assert saved > 0
    reached = training_curve(tmp_path / "run")
    recipe = small_recipe(schedule={"iterations": 100_000, "warmdown_iters": 10, "checkpoint_every_seconds": 0.05})
    trainer = Trainer(recipe, 3, small_data(tmp_path / "data"), tmp_path / "run", progress=_Interrupt(saved + 5))
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    steps = [line["step"] for line in training_curve(tmp_path / "run") if line["kind"] == "train"]
    assert steps == list(range(1, saved + 6)) and len(reached) >= saved


def test_a_checkpoint_of_another_recipe_seed_or_dataset_is_refused(data, tmp_path: Path) -> None:
    recipe = small_recipe()
    with pytest.raises(KeyboardInterrupt):
        train(recipe, 3, data, tmp_path / "run", progress=_Interrupt(4))
    with pytest.raises(UserError, match="made with another seed"):
        train(recipe, 4, data, tmp_path / "run")
    with pytest.raises(UserError, match="made with another recipe"):
        train(small_recipe(optim={"matrix_lr": 0.01}), 3, data, tmp_path / "run")


def test_a_damaged_checkpoint_is_one_clear_line(data, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="not a readable safetensors file"):
        train(small_recipe(), 3, data, tmp_path / "run")


def test_the_wall_clock_ends_training_and_the_log_says_so(data, tmp_path: Path) -> None:
    recipe = small_recipe(schedule={"iterations": 10**6, "max_seconds": 0.5})
    result = train(recipe, 0, data, tmp_path / "run")
    curve = [line for line in training_curve(tmp_path / "run") if line["kind"] == "train"]
    assert result.stopped_by == "clock" and result.seconds["train"] == curve[-1]["seconds"]
    assert all(line["seconds"] < 0.5 for line in curve[:-1])  # tests/whole/test_interruptions.py has the last step
    assert "stopping_early: wallclock_cap" in (tmp_path / "run" / "train.log").read_text()


def test_late_qat_comes_on_below_its_threshold_says_so_and_changes_the_weights(data, tmp_path: Path) -> None:
    changes = {"off": {}, "late": {"kind": "late", "threshold": 0.5}, "always": {"kind": "always"}}
    for name, qat in changes.items():
        train(small_recipe(qat=qat), 0, data, tmp_path / name)
    logs = {name: (tmp_path / name / "train.log").read_text() for name in changes}
    covered = 3 * 6 + 1  # the block matrices and the bigram projection: every linear map that is packed on a grid
    assert "qat:enabled" not in logs["off"]
    assert f"qat:enabled step:10 scale:0.3333 tensors:{covered}" in logs["late"]
    assert f"qat:enabled step:0 scale:1.0000 tensors:{covered}" in logs["always"]
    curves = {name: [x["loss"] for x in training_curve(tmp_path / name) if x["kind"] == "train"] for name in changes}
    assert curves["late"][:10] == curves["off"][:10] and curves["late"][10] != curves["off"][10]
    assert curves["always"][1] != curves["off"][1]


def test_late_qat_on_a_named_grid_lowers_the_rate_by_its_factor_and_survives_a_restart(data, tmp_path: Path) -> None:
    qat = {"kind": "late", "threshold": 0.5, "grid": "int6_fake_pr534", "lr_factor": 0.5}
    curves = {}
    for name, factor in (("half", qat), ("full", {**qat, "lr_factor": 1.0})):
        train(small_recipe(qat=factor), 0, data, tmp_path / name)
        curves[name] = [x for x in training_curve(tmp_path / name) if x["kind"] == "train"]
    assert "tensors:19 grid:int6_fake_pr534" in (tmp_path / "half" / "train.log").read_text()
    ratio = [a["lr_multiplier"] / b["lr_multiplier"] for a, b in zip(*curves.values(), strict=True)]
    assert ratio == [1.0] * 10 + [0.5] * 2
    trainer = Trainer(small_recipe(qat=qat), 0, data, tmp_path / "stopped")
    original = trainer._step
    trainer._step = lambda: (os.kill(os.getpid(), signal.SIGINT) if trainer.step == 10 else None, original())[1]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    train(small_recipe(qat=qat), 0, data, tmp_path / "stopped")
    again = [x for x in training_curve(tmp_path / "stopped") if x["kind"] == "train"]
    assert [x["loss"] for x in again] == [x["loss"] for x in curves["half"]]
    assert again[-1]["lr_multiplier"] == curves["half"][-1]["lr_multiplier"]


def test_an_exception_for_no_tensor_is_refused_before_training(data, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tensor is called 'blocks\.9"):
        train(small_recipe(quant={"exceptions": ["blocks.9.*=fp16"]}), 0, data, tmp_path / "run")


def test_divergence_stops_at_its_step_and_keeps_the_last_checkpoint(data, tmp_path: Path) -> None:
    trainer = Trainer(small_recipe(), 0, data, tmp_path / "run")
    original = trainer._forward_backward

    def poisoned(*batch):
        loss = original(*batch)
        if trainer.step == 5:
            trainer._save_checkpoint()
            trainer.named["skip_weights"].grad.fill_(math.inf)
        return loss

    trainer._forward_backward = poisoned
    with pytest.raises(UserError, match="step 6: gradient of skip_weights"):
        trainer.run()
    assert load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] == 5


def test_a_vocabulary_that_is_not_the_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.vocab_size = 64.*65"):
        train(small_recipe(), 0, small_data(tmp_path / "data", vocab=65), tmp_path / "run")


def test_a_corpus_too_short_for_one_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training split"):
        train(small_recipe(), 0, small_data(tmp_path / "data", train_tokens=100), tmp_path / "run")


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path: Path) -> None:
    """A real limit on the size of files, in a process of its own: the write fails, the old file stays whole."""
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"w": torch.ones(4)})
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from pgolf_core.training.checkpoint import save_tensors
from pgolf_core.base.files import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_tensors({str(path)!r}, {{"w": torch.zeros(100_000)}})
except UserError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.startswith(f"cannot write {path}") and "free space" in output and output.count("\n") == 1
    assert torch.equal(load_tensors(path)[0]["w"], torch.ones(4)) and len(list(tmp_path.iterdir())) == 1


def test_without_a_compiler_training_runs_eagerly_and_says_so(data, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    result = train(small_recipe(schedule={"compile": "auto"}), 0, data, tmp_path / "run")
    assert "graph: eager (no C++ compiler found)" in result.path
    assert result.path in (tmp_path / "run" / "train.log").read_text().splitlines()


@pytest.mark.slow
def test_compiled_training_follows_eager_training(data, tmp_path: Path) -> None:
    for mode in ("off", "auto"):
        train(
            small_recipe(schedule={"compile": mode}, qat={"kind": "late", "threshold": 0.5}), 0, data, tmp_path / mode
        )
    off, auto = (training_curve(tmp_path / mode) for mode in ("off", "auto"))
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(off, auto, strict=True)) < 2e-3
