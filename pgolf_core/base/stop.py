"""Ending early: signals are noted so that a step is never cut in half, and a launcher that is gone counts as one."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from typing import Any

PIPE = "PGOLF_LAUNCHER_PIPE"
"""Set by a launcher that holds the other end of its ranks' standard input and sends nothing: its death closes it."""


class Stop:
    """Whether training was asked to end: SIGINT, SIGTERM, or nobody left who would end these ranks any more."""

    def __init__(self, launched: bool) -> None:
        self.signal: int | None = None
        self.launcher = os.getppid() if launched else None
        self.has_pipe = launched and PIPE in os.environ

    def asked(self) -> bool:
        """Whether to save and leave at the next good moment."""
        if self.signal is not None or self.launcher not in (None, os.getppid()):
            return True
        return self.has_pipe and bool(select.select([0], [], [], 0)[0])

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take over both signals while inside; outside the main thread signals cannot be watched and go their way."""
        previous: dict[signal.Signals, Any] = {}
        with contextlib.suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number
