"""torchrun as the training stage starts it: which ranks failed, and of what, goes into a file.

python -m pgolf_core.lab.record.torchrun FILE <torchrun's own arguments>

torchrun itself ends with a traceback of its own, through the launcher, which tells a reader nothing.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from pgolf_core.base.files import read_json, write_json

ENDED_BY_OTHERS = (signal.SIGTERM, signal.SIGINT)
"""What torchrun sends to the ranks that are left when one has failed."""


@dataclass(frozen=True)
class Failure:
    """How one rank ended."""

    rank: int
    signal: str
    """SIGKILL and the like; empty if it ended by itself."""
    exit_status: int
    message: str
    """`ValueError: what it says`, or a mistake in its own line; empty if it left none."""
    traceback: str
    """Of the rank; the message again where that says it all."""

    @property
    def reason(self) -> str:
        """In words, for a message."""
        if self.signal:
            why = " (out of memory?)" if self.signal == "SIGKILL" else ""
            return f"was killed by {self.signal}{why}"
        return f"failed: {self.message}" if self.message else f"ended with status {self.exit_status}"


def _failure(rank: int, failure: ProcessFailure) -> Failure:
    said = failure.error_file_data.get("message") if isinstance(failure.error_file_data, dict) else None
    said = said if isinstance(said, dict) else {}
    name = signal.Signals(-failure.exitcode).name if failure.exitcode < 0 else ""
    more = said.get("extraInfo") or {}
    return Failure(rank, name, failure.exitcode, str(said.get("message", "")), str(more.get("py_callstack", "")))


def in_order(failures: dict[int, ProcessFailure]) -> list[Failure]:
    """Most likely cause first: a rank that something killed, then the earliest error, then those that torchrun ended.

    A rank that loses another in the middle of an exchange fails as well, often within the same second.
    """

    def place(item: tuple[int, ProcessFailure]) -> tuple[int, int, int]:
        rank, failure = item
        killed = failure.exitcode < 0
        last = killed and -failure.exitcode in ENDED_BY_OTHERS
        return (2 if last else 0 if killed else 1, failure.timestamp, rank)

    return [_failure(rank, failure) for rank, failure in sorted(failures.items(), key=place)]


def read_failures(path: Path) -> list[Failure]:
    """What `main` wrote; empty if torchrun ended otherwise."""
    return [Failure(**values) for values in read_json(path)] if path.exists() else []


def main() -> None:
    """Run torchrun; exit status 1 when a rank failed, 128 + the signal after one."""
    from torch.distributed import run  # here: the launcher's alone

    path = Path(sys.argv[1])
    path.unlink(missing_ok=True)
    try:
        run.main(sys.argv[2:])
    except ChildFailedError as error:
        write_json(path, [dataclasses.asdict(failure) for failure in in_order(error.failures)])
        sys.exit(1)
    except SignalException as stop:
        sys.exit(128 + stop.sigval)


if __name__ == "__main__":
    main()
