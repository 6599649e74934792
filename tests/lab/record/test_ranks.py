"""`pgolf record --nproc 2` as a user starts it: killed in the middle of training, started again, and compared.

pytest tests/lab/record/test_ranks.py -m slow (two records of a tiny recipe on the real corpus, about three minutes)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STEPS = 300


def start(runs: Path, cache: Path, name: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pgolf_core.lab.cli", "record", str(ROOT / "tests" / "tiny.toml"), "--seeds", "1"]
    command += ["--nproc", "2", "--runs", str(runs), "--cache", str(cache), "--name", name]
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


@pytest.mark.slow
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
