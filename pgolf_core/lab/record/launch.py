"""Training in several processes: torchrun as a child of the notebook, its progress read from the files it writes.

On several hosts torchrun's own variables say where they meet. This host keeps the files, so it must have rank 0:

    PET_NNODES=2 PET_NODE_RANK=0 PET_MASTER_ADDR=<this host> pgolf record RECIPE --nproc 8

The others run torchrun over pgolf_core.main themselves, one seed at a time (see its own text).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pgolf_core.base.files import UserError, explain_os_errors, read_json, write_json
from pgolf_core.base.names import METRICS, TRAIN_RESULT
from pgolf_core.base.stop import PIPE
from pgolf_core.lab.record.folder import Run
from pgolf_core.lab.record.torchrun import read_failures
from pgolf_core.lab.shared.places import RECIPE_FILE, child_environment, short_path
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.training.clock import TrainProgress, progress_at
from pgolf_core.training.runlog import TrainResult, read_result

SETTINGS = "launch.json"
"""In a seed's folder where training takes more than one process: how it is started, which no number depends on."""
LOG = "torchrun.log"
FAILURES = "failed-ranks.json"
POLL_SECONDS = 0.5
SHOWN_LINES = 60


def set_processes(run: Run, processes: int) -> None:
    """Note how many processes train this seed, for the training stage."""
    if processes == 1:
        (run.folder / SETTINGS).unlink(missing_ok=True)
    else:
        write_json(run.folder / SETTINGS, {"nproc": processes})


def processes_of(run: Run) -> int:
    """How many processes train this seed on this machine; 1 unless `set_processes` noted more."""
    path = run.folder / SETTINGS
    processes = read_json(path).get("nproc") if path.exists() else 1
    if type(processes) is not int or processes < 1:
        raise UserError(f"{short_path(path)}: nproc = {processes!r} is no number of processes; delete the file")
    return processes


def hosts() -> int:
    """On how many hosts the ranks are, by torchrun's own PET_NNODES; UserError if that is no one number."""
    text = os.environ.get("PET_NNODES", "1")
    smallest, _, largest = text.partition(":")
    if not smallest.isdecimal() or int(smallest) < 1 or largest not in ("", smallest):
        raise UserError(f"PET_NNODES={text}: give the number of hosts; it cannot change while training")
    return int(smallest)


def torchrun_command(run: Run, processes: int) -> list[str]:
    """The command line that trains this seed: torchrun over the core's entry point.

    On one machine it stands alone; with torchrun's own PET_NNODES set, its other PET_ variables say where to meet.
    """
    data = run.dataset
    command = [sys.executable, "-m", "pgolf_core.lab.record.torchrun", str(run.folder / FAILURES)]
    command += [f"--nproc_per_node={processes}", *([] if hosts() > 1 else ["--standalone"])]
    command += ["-m", "pgolf_core.main", "--recipe", str(run.folder / RECIPE_FILE), "--seed", str(run.seed)]
    command += ["--train", *map(str, data.train_paths), "--val", *map(str, data.val_paths)]
    command += ["--tokenizer", str(data.tokenizer_path), "--data-sha256", data.manifest_sha256]
    return [*command, "--out", str(run.folder)]


def train_with_torchrun(
    run: Run, processes: int, progress: Callable[[TrainProgress], None] | None = None
) -> TrainResult:
    """Train this seed in several processes, or go on from its checkpoint.

    Raises UserError with a rank's own line, or naming the rank that failed first with its traceback printed; Ctrl-C
    lets the ranks save first, and so does the death of this process.
    """
    environment = {**child_environment(), PIPE: "1"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    log_path = run.folder / LOG
    with explain_os_errors(f"cannot write {short_path(log_path)}"):
        log = open(log_path, "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    for name in (TRAIN_RESULT, FAILURES):
        (run.folder / name).unlink(missing_ok=True)
    with log:
        child = subprocess.Popen(
            torchrun_command(run, processes), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
            env=environment,
        )  # fmt: skip
        try:
            _follow(child, run, progress)
        except BaseException:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)  # every rank ends its step, the first saves, all leave
            raise
        finally:
            child.wait()
            child.stdin.close()
    if child.returncode:
        raise _failure(run.folder, processes * hosts(), child.returncode)
    if not (run.folder / TRAIN_RESULT).exists():
        raise UserError(
            f"{short_path(run.folder)} has no {TRAIN_RESULT}: rank 0 was on another host; PET_NODE_RANK=0 is here"
        )
    return read_result(run.folder)


def _follow(child: subprocess.Popen, run: Run, progress: Callable[[TrainProgress], None] | None) -> None:
    """Hand on each new step that metrics.jsonl shows until the child ends."""
    t_start, seen = time.time(), -1
    while True:
        running = child.poll() is None
        now = last_step(run.folder / METRICS, run.recipe, t_start) if progress is not None else None
        if now is not None and now.step != seen:
            seen = now.step
            progress(now)
        if not running:
            return
        time.sleep(POLL_SECONDS)


def last_step(path: Path, recipe: Recipe, since: float = 0.0) -> TrainProgress | None:
    """The newest whole training step in a metrics file, if that was written since `since`."""
    try:
        if path.stat().st_mtime < since:
            return None
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().split(b"\n")[:-1]  # what follows the last newline is still being written
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:
            return None  # the first line of what was read, cut
        if values["kind"] == "train":
            return progress_at(
                recipe, values["step"], values["loss"], values["seconds"], values["tokens_per_second"]
            )  # fmt: skip
    return None


def _failure(folder: Path, processes: int, status: int) -> UserError:
    log = short_path(folder / LOG)
    failures = read_failures(folder / FAILURES)
    if not failures:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(lines[-SHOWN_LINES:]))
        return UserError(f"training in {processes} processes failed (exit status {status}); {log} says why")
    first = failures[0]
    if first.message and first.message == first.traceback:  # a mistake that the rank has put into a line itself
        return UserError(first.message)
    print(first.traceback)
    return UserError(f"rank {first.rank} of {processes} {first.reason}; {log} has all that the ranks said")
