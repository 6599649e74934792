"""Held folders: one holder at a time, a note that says who and beats, and disks whose locks keep nobody out."""

import dataclasses
import errno
import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest
from ranks import start_process, wait_until
from refused import refused

from pgolf_core.base.files import write_json
from pgolf_core.lab.record import lock
from pgolf_core.lab.record.lock import HOLDER_NAME, Busy, Holder, hold, holder_of


def write_note(folder: Path, **changes: object) -> Holder:
    """A note as another machine's holder would leave it."""
    note = dataclasses.replace(Holder.here(), **{"host": "elsewhere", "node": "elsewhere", "pid": 7, **changes})
    folder.mkdir(exist_ok=True)
    write_json(folder / HOLDER_NAME, dataclasses.asdict(note))  # whole or not at all, as a holder writes it
    return note


def test_one_folder_is_held_by_one_command_at_a_time_and_the_holder_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    said = rf"another pgolf is working in .*run \(n7, process {os.getpid()}\)"
    with hold(tmp_path / "run"):
        found = holder_of(tmp_path / "run")
        assert found and (found.node, found.job, found.pid) == ("n7", "12", os.getpid()) and found.is_alive()
        with pytest.raises(Busy, match=said) as error, hold(tmp_path / "run"):
            pass
        assert error.value.status == 75
    assert holder_of(tmp_path / "run") is None
    with hold(tmp_path / "run"):
        pass


def test_one_who_waits_says_so_once_and_can_be_stopped(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)
    looks = []

    def stop_at_the_third() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt

    with hold(tmp_path), pytest.raises(KeyboardInterrupt), hold(tmp_path, True, stop_at_the_third):
        pass
    assert capsys.readouterr().err.count(f", process {os.getpid()}); waiting for it to end\n") == 1 and len(looks) == 3


def hold_until_killed(folder: Path) -> None:
    with hold(folder):
        time.sleep(100)


def test_a_killed_holder_frees_the_folder_and_is_known_to_be_gone(tmp_path: Path) -> None:
    process = start_process(hold_until_killed, tmp_path)
    wait_until(lambda: holder_of(tmp_path) is not None, "the note", 60)
    with pytest.raises(Busy), hold(tmp_path):
        pass
    process.kill()
    process.join()
    left = holder_of(tmp_path)
    assert left and not left.is_alive()
    with hold(tmp_path, wait=True):
        assert holder_of(tmp_path).pid == os.getpid()


def test_a_holder_on_another_machine_is_alive_as_long_as_it_beats(tmp_path: Path) -> None:
    assert write_note(tmp_path).is_alive()
    assert not write_note(tmp_path, beat=time.time() - 2 * lock.SILENT_SECONDS).is_alive()
    (tmp_path / HOLDER_NAME).write_text("{")
    assert holder_of(tmp_path) is None, "a damaged note says nothing"


def test_a_process_of_this_machine_that_began_after_the_last_beat_is_not_the_holder(tmp_path: Path) -> None:
    """As after a restart, which gives process ids anew."""
    here, began = socket.gethostname(), psutil.Process().create_time()
    for pid, beat, is_alive in ((os.getpid(), began, True), (os.getpid(), began - 60, False), (-1, began, False)):
        assert write_note(tmp_path, host=here, pid=pid, beat=beat).is_alive() is is_alive


# ---------------------------------------------------------------------- disks without locks


def test_a_lock_that_is_refused_or_given_twice_is_told(tmp_path: Path, monkeypatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for flock, said in ((lambda *arguments: None, "it was given twice"), (refuse, "No locks available")):
        monkeypatch.setattr(lock.fcntl, "flock", flock)
        with refused(rf"locks do not work on this disk \({said}\)"), hold(tmp_path):
            pass


def test_a_note_that_somebody_elsewhere_still_writes_is_a_disk_without_locks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 10.0)
    write_note(tmp_path)
    beats = threading.Timer(0.3, write_note, [tmp_path], {"beat": 1.0})
    beats.start()
    said = r"locks do not work on this disk \(elsewhere, process 7, writes in it while this process has the lock\)"
    with refused(said), hold(tmp_path):
        pass
    beats.join()


def test_a_note_of_a_machine_that_is_gone_is_waited_for_and_taken_over(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.3)
    write_note(tmp_path)
    t_start = time.monotonic()
    with hold(tmp_path):
        assert holder_of(tmp_path).host == socket.gethostname()
    assert time.monotonic() - t_start > 0.3


def test_a_holder_whose_note_is_replaced_stops_itself(tmp_path: Path, monkeypatch, capsys) -> None:
    """Two that began in the same moment: the first to look finds the other's note."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    told = threading.Event()
    is_sent = lambda pid, signum: (pid, signum) == (os.getpid(), signal.SIGTERM) and told.set()  # noqa: E731
    monkeypatch.setattr(lock.os, "kill", is_sent)
    with hold(tmp_path):
        write_note(tmp_path)
        assert told.wait(10)
    assert "locks do not work on this disk (elsewhere works in it too)" in capsys.readouterr().err
    assert holder_of(tmp_path).host == "elsewhere", "the other's note stays"
