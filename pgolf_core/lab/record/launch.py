"""Training in several processes: torchrun as a child of the notebook, its progress read from the files it writes.

On several hosts torchrun's own variables say where they meet. This host keeps the files, so it must have rank 0:

    PET_NNODES=2 PET_NODE_RANK=0 PET_MASTER_ADDR=<this host> pgolf record RECIPE --nproc 8

The others run torchrun over pgolf_core.lab.record.rank themselves, one seed at a time (see its own text).

The child is this file, run as a program: torchrun alone would end with a traceback through itself.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgolf_core.base.files import UserError, explain_os_errors, read_json, write_json
from pgolf_core.base.names import METRICS, TRAIN_RESULT
from pgolf_core.base.stop import PIPE
from pgolf_core.lab.compare.results import json_object
from pgolf_core.lab.record.folder import Run
from pgolf_core.lab.shared.places import RECIPE_FILE, child_environment, short_path
from pgolf_core.lab.shared.progress import last_step
from pgolf_core.training.progress import TrainProgress, read_result
from pgolf_core.training.runlog import TrainResult

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

SETTINGS = "launch.json"
"""In a seed's folder where training takes more than one process: how it is started, which no number depends on."""
LOG = "torchrun.log"
FAILURE = "failed-rank.json"
"""What `first_failure` says; gone when the next training begins."""
STAND_ALONE = ["--standalone", "--local-addr=localhost"]
"""Without the address, ranks look each other up by this machine's name, five minutes long where none resolves it."""
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
    processes = json_object(path).get("nproc") if path.exists() else 1
    if type(processes) is not int or processes < 1:
        raise UserError(f"{short_path(path)}: nproc = {processes!r} is no number of processes; delete the file")
    return processes


def hosts() -> int:
    """On how many hosts the ranks are, by torchrun's own PET_NNODES; UserError if that is no one number."""
    text = os.environ.get("PET_NNODES", "1")
    smallest, _, largest = text.partition(":")
    if not re.fullmatch("[1-9][0-9]{0,8}", smallest) or largest not in ("", smallest):
        raise UserError(f"PET_NNODES={text:.40}: give the number of hosts; it cannot change while training")
    return int(smallest)


def torchrun_command(run: Run, processes: int) -> list[str]:
    """The command line that trains this seed: torchrun over pgolf_core.lab.record.rank.

    On one machine it stands alone; with torchrun's own PET_NNODES set, its other PET_ variables say where to meet.
    """
    data = run.dataset
    command = [sys.executable, "-m", "pgolf_core.lab.record.launch", str(run.folder / FAILURE)]
    command += [f"--nproc_per_node={processes}", *([] if hosts() > 1 else STAND_ALONE)]
    command += ["-m", "pgolf_core.lab.record.rank", "--recipe", str(run.folder / RECIPE_FILE), "--seed", str(run.seed)]
    command += ["--train", *map(str, data.train_paths), "--val", *map(str, data.val_paths)]
    command += ["--tokenizer", str(data.tokenizer_path), "--data-sha256", data.manifest_sha256]
    return [*command, "--out", str(run.folder)]


def train_with_torchrun(run: Run, processes: int, progress: Callable[[TrainProgress], None]) -> TrainResult:
    """Train this seed in several processes, or go on from its checkpoint.

    Raises UserError with a rank's own line, or naming the rank that failed first with its traceback printed; Ctrl-C
    lets the ranks save first, and so does the death of this process.
    """
    environment = {**child_environment(), PIPE: "1"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    log_path = run.folder / LOG
    with explain_os_errors(f"cannot write {short_path(log_path)}"):
        log = open(log_path, "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    for name in (TRAIN_RESULT, FAILURE):
        (run.folder / name).unlink(missing_ok=True)
    command = torchrun_command(run, processes)
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": log, "stderr": subprocess.STDOUT}
    with log, subprocess.Popen(command, **streams, env=environment) as child:
        try:
            _follow(child, run, progress)
        except BaseException:
            child.send_signal(signal.SIGTERM)  # every rank ends its step, the first saves, all leave
            child.wait()
            raise
    if child.returncode:
        raise _failure(run.folder, processes * hosts(), child.returncode)
    if not (run.folder / TRAIN_RESULT).exists():
        raise UserError(
            f"{short_path(run.folder)} has no {TRAIN_RESULT}: rank 0 was on another host; PET_NODE_RANK=0 is here"
        )
    return read_result(run.folder)


def _follow(child: subprocess.Popen, run: Run, progress: Callable[[TrainProgress], None]) -> None:
    """Hand on each new step that metrics.jsonl shows until the child ends."""
    t_start, seen, running = time.time(), -1, True
    while running:
        running = child.poll() is None
        now = last_step(run.folder / METRICS, run.recipe, t_start)
        if now is not None and now.step != seen:
            seen = now.step
            progress(now)
        if running:
            time.sleep(POLL_SECONDS)


def _failure(folder: Path, processes: int, status: int) -> UserError:
    log = short_path(folder / LOG)
    if not (folder / FAILURE).exists():
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(lines[-SHOWN_LINES:]))
        return UserError(f"training in {processes} processes failed (exit status {status}); {log} says why")
    first = read_json(folder / FAILURE)
    if first["message"] and first["message"] == first["traceback"]:  # a rank's own line about a mistake
        return UserError(first["message"])
    print(first["traceback"])
    return UserError(f"rank {first['rank']} of {processes} {first['reason']}; {log} has all that the ranks said")


# ---------------------------------------------------------------------- the child


def first_failure(failures: Mapping[int, ProcessFailure]) -> dict[str, Any]:
    """The most likely cause: a rank that something killed, then the earliest error, then those that torchrun ended.

    A rank that loses another in the middle of an exchange fails as well, often within the same second. One that has
    told its error or aborted was not killed by anybody: gloo's and NCCL's threads can abort a process on its way out.
    `reason` is in words, `message` what the rank said of it (empty if nothing), `traceback` that again where it says
    it all.
    """

    def place(rank: int) -> tuple[bool, bool, float, int]:
        ended_it = -failures[rank].exitcode
        killed = ended_it > 0 and ended_it != signal.SIGABRT and not _told(failures[rank])[0]
        by_torchrun = ended_it in (signal.SIGTERM, signal.SIGINT)
        return by_torchrun, not killed, failures[rank].timestamp, rank

    rank = min(failures, key=place)
    code, (message, traceback) = failures[rank].exitcode, _told(failures[rank])
    if message:
        reason = f"failed: {message}"
    elif code < 0:
        why = " (out of memory?)" if -code == signal.SIGKILL else ""
        reason = f"was killed by {signal.Signals(-code).name}{why}"
    else:
        reason = f"ended with status {code}"
    return {"rank": rank, "reason": reason, "message": message, "traceback": traceback}


def _told(failure: ProcessFailure) -> tuple[str, str]:
    """The message and the traceback that a rank left of its error; empty if it left none."""
    data = failure.error_file_data
    said = data.get("message") if isinstance(data, dict) else None
    if not isinstance(said, dict):
        return "", ""
    return str(said.get("message", "")), str((said.get("extraInfo") or {}).get("py_callstack", ""))


def main() -> None:
    """torchrun with the arguments after the first, which names the file for the failure of a rank.

    Exit status 1 when a rank failed, 128 + the signal after one.
    """
    from torch.distributed import run  # here: the notebook needs none of it
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(sys.argv[2:])
    except ChildFailedError as error:
        write_json(sys.argv[1], first_failure(error.failures))
        sys.exit(1)
    except SignalException as stop:
        sys.exit(128 + stop.sigval)


if __name__ == "__main__":
    main()
