"""Training as plain torchrun starts it: its result, its refusals, and ranks that lose their launcher.

pytest tests/test_main.py (tests/lab/record/test_launch.py has ranks that die or fail)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import FAULTY, ended
from small import small_data, small_recipe

from pgolf_core.base.files import write_json
from pgolf_core.lab.data.build import train_tokenizer
from pgolf_core.main import read_recipe
from pgolf_core.recipes.recipe import to_dict
from pgolf_core.training.checkpoint import load_tensors
from pgolf_core.training.runlog import read_result, training_curve

ROOT = Path(__file__).resolve().parents[1]
PIECES = 330
TEXT = "The state of the Union is strong.\n\nThe people of the States are free; the courts are open.\n" * 8


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "small.model"
    path.write_bytes(train_tokenizer([TEXT], PIECES))
    return path


def launch(folder: Path, tokenizer: Path, fault: str | None = None, ranks: int = 2, **changes) -> subprocess.Popen:
    """torchrun over the entry point, or over a script that has a fault in its second rank."""
    settings = small_recipe(
        model={"vocab_size": PIECES}, data={"spans_per_step": 8, **changes.get("data", {})},
        schedule={"iterations": 100_000 if fault else 12},
    )  # fmt: skip
    write_json(folder / "recipe.json", {**to_dict(settings), "fingerprint": settings.fingerprint})
    small_data(folder / "data", vocab=PIECES)
    program = ["-m", "pgolf_core.main"]
    if fault is not None:
        (folder / "faulty.py").write_text(FAULTY.format(fault=fault))
        program = [str(folder / "faulty.py")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", *program]
    command += ["--recipe", str(folder / "recipe.json"), "--seed", "3", "--tokenizer", str(tokenizer)]
    command += ["--train", str(folder / "data" / "t_*.bin"), "--val", str(folder / "data" / "v_*.bin")]
    command += ["--data-sha256", "small", "--out", str(folder / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)
    assert path.exists(), process.stdout.read()


def test_torchrun_trains_says_each_line_once_and_writes_the_result_last(tmp_path: Path, tokenizer: Path) -> None:
    process = launch(tmp_path, tokenizer)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    result = read_result(tmp_path / "run")
    assert (result.steps, result.stopped_by, result.tokens) == (12, "iterations", 12 * 128)
    assert result.path.endswith("ranks: 2, gloo") and output.count(result.path) == 1
    assert output.count("step:12/12 train_loss:") == 1 == output.count("step:12/12 val_loss:")
    assert [x["step"] for x in training_curve(tmp_path / "run") if x["kind"] == "train"] == list(range(1, 13))
    assert load_tensors(tmp_path / "run" / "weights-averaged.safetensors")[1] == {"step": 12}
    assert read_recipe("local-smoke").name == "local-smoke"


def test_a_refused_number_of_ranks_is_said_in_a_line_without_a_traceback_of_the_ranks(tmp_path, tokenizer) -> None:
    """Plain torchrun ends with a traceback through itself, whatever its ranks do; it shows our line as the reason."""
    process = launch(tmp_path, tokenizer, data={"spans_per_step": 1})
    output, _ = process.communicate()
    assert process.returncode == 1
    line = "2 processes do not divide data.spans_per_step = 1; use --nproc of 1"
    assert any(text.endswith(line) and text.startswith("pgolf, rank ") for text in output.splitlines())
    assert not re.search(r'File ".*pgolf_core', output), output
    assert re.search(rf"traceback *: {re.escape(line)}", output), output


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ranks_whose_launcher_is_ended_stop_and_leave_a_checkpoint(tmp_path: Path, tokenizer: Path, how) -> None:
    process = launch(tmp_path, tokenizer, "pass")
    wait_for(tmp_path / "reached0", process)
    process.send_signal(how)
    process.communicate()  # ends when the ranks have closed their output
    assert process.returncode != 0
    assert load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] >= 5
    ranks, deadline = [int((tmp_path / f"pid{rank}").read_text()) for rank in (0, 1)], time.time() + 30
    while not all(map(ended, ranks)) and time.time() < deadline:
        time.sleep(0.05)  # a process closes its output a moment before it ends
    assert all(map(ended, ranks))
