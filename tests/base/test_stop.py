"""Asked to end: by a signal, or by a launcher that is gone."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgolf_core.base.stop import PIPE, Stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_while_watching_and_goes_its_old_way_afterwards(number: signal.Signals) -> None:
    before, asked = signal.getsignal(number), Stop(launched=False)
    with asked.watching():
        assert not asked.asked()
        os.kill(os.getpid(), number)
        assert asked.asked() and asked.signal == number
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    def watch() -> object:
        with Stop(launched=False).watching():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor() as threads:
        assert threads.submit(watch).result() is signal.getsignal(signal.SIGTERM)


def test_a_launcher_that_is_gone_counts_as_asked_and_only_for_ranks_that_had_one(monkeypatch) -> None:
    """Its end is seen by the parent's number, and by its end of standard input closing."""
    launched, alone = Stop(launched=True), Stop(launched=False)
    assert not launched.asked() and not alone.asked()
    with monkeypatch.context() as patch:
        patch.setattr("os.getppid", lambda: 1)
        assert launched.asked() and not alone.asked()
    monkeypatch.setenv(PIPE, "1")
    for ready, asked in (([], False), ([0], True)):
        monkeypatch.setattr("select.select", lambda *_, ready=ready: (ready, [], []))
        assert Stop(launched=True).asked() is asked and not Stop(launched=False).asked()
