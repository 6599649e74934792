"""Training in several processes: torchrun as a child of the notebook, its progress read from the files it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pgolf_core.files import UserError, explain_os_errors, read_json, write_json
from pgolf_core.lab.runs import CORE_DIR, Run, short_path
from pgolf_core.recipe import Recipe
from pgolf_core.train import TrainProgress, TrainResult, progress_at
from pgolf_core.train_main import read_result

SETTINGS = "launch.json"
"""In a seed's folder where training takes more than one process: how it is started, which no number depends on."""
LOG = "torchrun.log"
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


def torchrun_command(run: Run, processes: int) -> list[str]:
    """The command line that trains this seed: torchrun over the core's entry point.

    On one machine it stands alone; with torchrun's own PET_NNODES set, its other PET_ variables say where to meet.
    """
    data = run.dataset
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += [] if "PET_NNODES" in os.environ else ["--standalone"]
    command += ["-m", "pgolf_core.train_main", "--recipe", str(run.folder / "recipe.json"), "--seed", str(run.seed)]
    command += ["--train", *map(str, data.train_paths), "--val", *map(str, data.val_paths)]
    command += ["--tokenizer", str(data.tokenizer_path), "--data-sha256", data.manifest_sha256]
    return [*command, "--out", str(run.folder)]


def train_with_torchrun(
    run: Run, processes: int, progress: Callable[[TrainProgress], None] | None = None
) -> TrainResult:
    """Train this seed in several processes, or go on from its checkpoint.

    Raises UserError with the failing rank's own line, or with the log's end printed; Ctrl-C lets the ranks save first.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(CORE_DIR.parent), os.environ.get("PYTHONPATH", ""))),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    log_path = run.folder / LOG
    with explain_os_errors(f"cannot write {short_path(log_path)}"):
        log = open(log_path, "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    with log:
        child = subprocess.Popen(
            torchrun_command(run, processes), stdout=log, stderr=subprocess.STDOUT, env=environment
        )  # fmt: skip
        try:
            _follow(child, run, progress)
        except BaseException:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)  # every rank ends its step, the first saves, all leave
            raise
        finally:
            child.wait()
    if child.returncode:
        raise _failure(log_path, processes, child.returncode)
    return read_result(run.folder)


def _follow(child: subprocess.Popen, run: Run, progress: Callable[[TrainProgress], None] | None) -> None:
    """Hand on each new step that metrics.jsonl shows until the child ends."""
    t_start, seen = time.time(), -1
    while True:
        running = child.poll() is None
        now = last_step(run.folder / "metrics.jsonl", run.recipe, t_start) if progress is not None else None
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


def _failure(log_path: Path, processes: int, status: int) -> UserError:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.partition(": ")[2] for line in lines if line.startswith("pgolf, rank ")]
    if said:
        return UserError(said[0])
    print("\n".join(lines[-SHOWN_LINES:]))
    return UserError(
        f"training in {processes} processes failed (torchrun's exit status {status}); {short_path(log_path)} says why"
    )
