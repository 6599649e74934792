"""Who is at work in a run's folder: a lock, and a note of the holder that beats while it lives.

The lock is flock's: the kernel gives it back when its process ends, however that ends. On a disk that several machines
share it binds only if the file system carries it between them, which one machine cannot see. So the holder rewrites its
note every few seconds. Whoever gets a lock whose note is still rewritten by somebody else has found a disk without
locks, and refuses it; so does a holder that finds another's note in the place of its own.
"""

import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import psutil
from tqdm import tqdm

from pgolf_core.base.files import UserError, explain_os_errors, read_json, write_json
from pgolf_core.base.strict import build
from pgolf_core.lab.shared.places import short_path

LOCK_NAME, HOLDER_NAME = ".lock", ".holder"
BEAT_SECONDS = 5.0
POLL_SECONDS = 0.2
SILENT_SECONDS = 4 * BEAT_SECONDS
"""A holder on another machine that has not rewritten its note for so long is gone."""
NO_LOCKS = "locks do not work on this disk ({}); let one machine alone write there, or use a disk that has flock"


class Busy(UserError):
    """Somebody else is at work there: nothing is wrong, and a later try may find it free."""

    status = os.EX_TEMPFAIL
    """Exit status of a command that ends so: 75, by which a queue tells it from a failure."""


@dataclass(frozen=True)
class Holder:
    """What the note in a held folder says."""

    host: str
    node: str
    """Slurm's name of the machine, where Slurm started the holder; else the host."""
    pid: int
    job: str
    """Slurm's id of the job, or empty."""
    beat: float
    """When the note was written, in seconds by the holder's clock."""

    @classmethod
    def here(cls) -> "Holder":
        """This process, now."""
        host, said = socket.gethostname(), os.environ
        return cls(host, said.get("SLURMD_NODENAME", host), os.getpid(), said.get("SLURM_JOB_ID", ""), time.time())

    def is_same(self, other: "Holder") -> bool:
        """Whether both are one process."""
        return (self.host, self.pid) == (other.host, other.pid)

    def is_alive(self) -> bool:
        """Whether it is at work: by its process id on this host, elsewhere by its last beat (clocks may differ)."""
        if self.host == socket.gethostname():
            with contextlib.suppress(psutil.Error, ValueError):
                return psutil.Process(self.pid).create_time() < self.beat + BEAT_SECONDS  # or another has its id now
            return False
        return time.time() - self.beat < SILENT_SECONDS


def holder_of(folder: Path) -> Holder | None:
    """The note of whoever holds the folder, or was killed while holding it; None where nobody is or it is damaged."""
    path = folder / HOLDER_NAME
    try:
        return build(Holder, read_json(path), str(path)) if path.exists() else None
    except UserError:
        return None


@contextlib.contextmanager
def hold(folder: Path, wait: bool = False, check: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Keep `folder` for this process while inside, so that two commands never write one run at a time.

    A folder that is taken raises Busy, or with `wait` is waited for: that is said, and `check` may end it by raising.
    UserError where the disk has no locks.
    """
    with explain_os_errors(f"cannot write in {short_path(folder)}"):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK_NAME, "w")  # noqa: SIM115 (closed below, outside the error translation)
    with file:
        said = ""
        while not _is_ours(file, folder):
            if not said:
                holder = holder_of(folder)
                who = f" ({holder.node}, process {holder.pid})" if holder else ""
                said = f"another pgolf is working in {short_path(folder)}{who}"
                if not wait:
                    raise Busy(f"{said}; wait for it to end")
                tqdm.write(f"{said}; waiting for it to end", file=sys.stderr)
            time.sleep(POLL_SECONDS)
            check()
        _prove_alone(folder)
        with _beating(folder):
            yield


def _is_ours(file: TextIO, folder: Path) -> bool:
    """Whether this process has the lock now; UserError where the disk has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(f"{short_path(folder)}: {NO_LOCKS.format(error.strerror)}") from None
    return True


def _prove_alone(folder: Path) -> None:
    """UserError if the lock that this process has just got keeps nobody out."""
    with open(folder / LOCK_NAME) as second, contextlib.suppress(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise UserError(f"{short_path(folder)}: {NO_LOCKS.format('it was given twice')}")
    before = holder_of(folder)
    if before is None or before.host == socket.gethostname():
        return  # this kernel has proved its locks just now
    t_end = time.monotonic() + SILENT_SECONDS
    while (now := holder_of(folder)) == before and time.monotonic() < t_end:
        time.sleep(BEAT_SECONDS / 10)
    if now is not None and now != before:
        who = f"{now.node}, process {now.pid}, writes in it while this process has the lock"
        raise UserError(f"{short_path(folder)}: {NO_LOCKS.format(who)}")


@contextlib.contextmanager
def _beating(folder: Path) -> Iterator[None]:
    """Keep the note fresh while inside; another's note in its place asks this process to stop, as SIGTERM does."""
    done, path = threading.Event(), folder / HOLDER_NAME
    write_json(path, asdict(Holder.here()))

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            found, mine = holder_of(folder), Holder.here()
            if found and not found.is_same(mine):
                print(f"{short_path(folder)}: {NO_LOCKS.format(f'{found.node} works in it too')}", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            with contextlib.suppress(UserError):  # a full disk is for the run itself to tell
                write_json(path, asdict(mine))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        found = holder_of(folder)
        if found and found.is_same(Holder.here()):
            with contextlib.suppress(OSError):
                path.unlink()
