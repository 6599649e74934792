"""Files of tensors, and the checkpoint that a run goes on from."""

import math
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from refused import refused

from pgolf_core.base.names import CHECKPOINT
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.training.checkpoint import Checkpoint, keep_until, load_tensors, restore, save_tensors
from pgolf_core.training.progress import training_curve
from pgolf_core.training.runlog import RunLog

SAVING = """
import resource, sys, torch
from pgolf_core.base.files import UserError
from pgolf_core.training.checkpoint import save_tensors
big = torch.ones(2, 2**24)
save_tensors(sys.argv[1], {"small": big[0, :9]})
before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_tensors(sys.argv[1], {"a": big[0], "b": big[1]})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 32 * 1024)
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_tensors(sys.argv[1], {"a": big[0] * 2})
except UserError as error:
    print(error)
"""
MADE_OF = {"recipe": "r", "seed": 3, "data": "d"}


def state() -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([[1.0, 2.0, 3.0]]).T, "n": torch.tensor(7), "half": torch.ones(2).bfloat16()}


def test_saving_copies_no_tensor_in_memory_and_a_full_disk_is_one_line_that_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    done = subprocess.run([sys.executable, "-c", SAVING, str(path)], capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"True\ncannot write {path}: .*File too large.*; free space .*\n", done.stdout)
    assert load_tensors(path)[0]["b"].sum() == 2**24 and list(tmp_path.iterdir()) == [path]


def test_tensors_of_any_layout_and_dtype_come_back_with_what_is_told_of_them(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", state(), {"step": 3, "names": ["é"]})
    tensors, about = load_tensors(tmp_path / "a")
    assert about == {"step": 3, "names": ["é"]} and tensors.keys() == state().keys()
    assert all(torch.equal(tensors[name], w) and tensors[name].dtype is w.dtype for name, w in state().items())
    assert load_tensors(tmp_path / "a", only_about=True) == ({}, about)


@pytest.mark.parametrize("payload", [None, b"", b"\0" * 100, b"\xff" * 7])
def test_a_missing_or_damaged_file_is_one_clear_line(tmp_path: Path, payload: bytes | None) -> None:
    if payload is not None:
        (tmp_path / "a").write_bytes(payload)
    with refused(r"^[^\n]*a (does not exist|is not a readable safetensors file)[^\n]*$"):
        load_tensors(tmp_path / "a")


def test_tensors_that_do_not_fit_are_refused_by_name() -> None:
    live = {"w": torch.zeros(3)}
    for saved in ({}, {"w": torch.ones(2)}, {"w": torch.ones(3), "v": torch.ones(1)}):
        with refused(r"place: tensor '[wv]' does not fit this recipe"):
            restore(live, saved, "place")
    restore(live, {"w": torch.ones(3)}, "place")
    assert torch.equal(live["w"], torch.ones(3))


def test_a_checkpoint_fills_the_live_state_and_knows_its_step(tmp_path: Path) -> None:
    live, checkpoint = state(), Checkpoint(tmp_path, MADE_OF, 0.0, ALONE)
    assert checkpoint.read_about() is None and checkpoint.load(live) is None and checkpoint.saved_step == -1
    checkpoint.save(state(), {"step": 5})
    (tmp_path / f".{CHECKPOINT}.abc123").write_bytes(b"cut by a kill")
    for tensor in live.values():
        tensor.zero_()
    other = Checkpoint(tmp_path, MADE_OF, 0.0, ALONE)
    assert other.read_about()["step"] == other.load(live)["step"] == other.saved_step == 5
    assert all(torch.equal(live[name], w) for name, w in state().items())
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


@pytest.mark.parametrize("key", MADE_OF)
def test_a_checkpoint_of_another_recipe_seed_or_dataset_is_refused(tmp_path: Path, key: str) -> None:
    Checkpoint(tmp_path, MADE_OF, 0.0, ALONE).save(state(), {"step": 5})
    with refused(f"made with another {key}; delete it, or use --fresh"):
        Checkpoint(tmp_path, {**MADE_OF, key: "other"}, 0.0, ALONE).read_about()


def test_what_is_not_finite_never_replaces_a_good_checkpoint_and_only_the_first_rank_writes(tmp_path: Path) -> None:
    Checkpoint(tmp_path, MADE_OF, 0.0, World(1, 2)).save(state(), {"step": 1})
    assert not list(tmp_path.iterdir())
    checkpoint = Checkpoint(tmp_path, MADE_OF, 0.0, ALONE)
    checkpoint.save(state(), {"step": 5})
    with refused(r"step 6 left w \(and 0 more\) not finite and was not saved; lower"):
        checkpoint.save({**state(), "w": torch.tensor(math.nan)}, {"step": 6})
    assert checkpoint.read_about()["step"] == 5


def test_a_checkpoint_is_due_when_the_last_is_older_than_the_cadence(tmp_path: Path) -> None:
    often, never = (Checkpoint(tmp_path, MADE_OF, seconds, ALONE) for seconds in (1e-9, 0.0))
    time.sleep(0.001)
    assert often.is_due() and not never.is_due() and not Checkpoint(tmp_path, MADE_OF, 60.0, ALONE).is_due()


def test_what_will_be_done_again_is_dropped_and_so_are_cut_lines(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        for step in range(4):
            log.metric(kind="val", step=step)
            log.metric(kind="train", step=step + 1)
        log.metric(kind="correction", step=4)
        log.metrics.write('{"kind": "tra')
        log.metrics.flush()
        keep_until(log, step=3, val_step=1)
        log.metric(kind="train", step=4)
    kept = [(line["kind"], line["step"]) for line in training_curve(tmp_path)]
    assert kept == [("val", 0), ("train", 1), ("val", 1), ("train", 2), ("train", 3), ("train", 4)]
