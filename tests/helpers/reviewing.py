"""What the verifier's tests share: judging a path, scoring in this process, and damaging files of every kind."""

import copy
import io
import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folder import change

from pgolf_core.base.files import read_json, sha256_file
from pgolf_core.base.names import ADAPT_TRACE, SEED_RESULT
from pgolf_core.lab.verify import run
from pgolf_core.lab.verify.command import verify
from pgolf_core.lab.verify.evidence import checks, process, score, text
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN, VERDICTS, Row
from pgolf_core.lab.verify.evidence.score import How

FAST = settings(
    max_examples=30, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
SLOW = settings(FAST, max_examples=1000)
both = pytest.mark.parametrize("how", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["fast", "slow"])
"""Hundreds of mutations, and with -m slow thousands."""


def judged(path: Path, cache: Path, **how: Any) -> dict[str, Row]:
    """{check: row}, after what must be true of any answer."""
    rows = verify(path, How(cache, **how))
    for row in rows:
        assert row.verdict in VERDICTS and row.evidence.isprintable() and "Traceback" not in row.evidence
        assert len(row.evidence) <= checks.MAX_EVIDENCE
    json.dumps([row._asdict() for row in rows]).encode()
    found = {row.check: row for row in rows}
    assert rows and len(found) == len(rows)
    return found


def shows(row: Row, verdict: str, *words: str) -> None:
    assert row.verdict == verdict and all(word in row.evidence for word in words), row


Case = tuple[str, Callable[[Path], Path], Iterable[Callable[[Path], object]], Any]
"""A check, what makes a folder, changes of it, and the verdict, alone or with words of the evidence."""


def cases(**properties: Iterable[Case]) -> pytest.MarkDecorator:
    """The rows of a table as `case`, each named by the property that it shows."""
    rows = [pytest.param(row, id=name) for name, rows in properties.items() for row in rows]
    return pytest.mark.parametrize("case", rows)


def shown(case: Case, place: Path) -> None:
    """The folder of a case, made and changed, gets the verdict in the words."""
    check, make, changes, expected = case
    folder = make(place)
    for change_of in changes:
        change_of(folder)
    row = judged(folder, place.parent)[check]
    shows(row, *([expected] if isinstance(expected, str) else expected))
    assert bool(row.right) is (row.verdict == FAILS), "a failing row says what would be right"


def with_verdict(found: dict[str, Row], verdict: str) -> set[str]:
    return {name for name, row in found.items() if row.verdict == verdict}


def failing(path: Path, cache: Path, **how: Any) -> set[str]:
    return with_verdict(judged(path, cache, **how), FAILS)


def holding(path: Path, cache: Path) -> set[str]:
    return with_verdict(judged(path, cache), HOLDS)


def unknown(path: Path, cache: Path) -> set[str]:
    return with_verdict(judged(path, cache), UNKNOWN)


def ask_here(job: dict, tell: Callable[[str, int, int], None]) -> dict:
    """What the fresh process answers, without starting one."""
    return process.answer_to(job, None, tell) | {"seen": {"refused": [], "read": ["model.pgolf"], "other": []}}


def reviewed_here(monkeypatch: pytest.MonkeyPatch, run_folder: Path) -> Path:
    """Let a finished toy run be reviewed in this process, as the track's; returns its cache."""
    monkeypatch.setattr(score, "ask", ask_here)
    the_toy_is_the_track(monkeypatch, run_folder.parents[2])
    return run_folder.parents[2]


def rewritten_trace(seed: Path, edit: Callable[[dict[str, np.ndarray]], object], claimed: str) -> None:
    """Another adapt.npz, with all that result.json says of it: its hash, and the sums of the array `claimed`."""
    with np.load(seed / ADAPT_TRACE) as file:
        arrays = dict(file)
    edit(arrays)
    payload = io.BytesIO()
    np.savez(payload, **arrays)
    (seed / ADAPT_TRACE).write_bytes(payload.getvalue())
    result, nats = read_json(seed / SEED_RESULT), float(arrays[claimed].sum())
    said = {"adapted_loss": nats / result["val_targets"]}
    said["adapted_bpb"] = nats / (np.log(2) * result["val_bytes"])
    change(seed / SEED_RESULT, adapt_sha256=sha256_file(seed / ADAPT_TRACE), **said)


def the_toy_is_the_track(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let the toy corpus be the text that the local track compares scores on; and the script's size be known."""
    manifest = read_json(cache / "datasets" / "toy-sp1024" / "manifest.json")
    known = ("toy", manifest["totals"]["val"]["utf8_bytes"], 0.0)
    monkeypatch.setitem(text.TEXT_OF_TRACK, "local_10min_1mb", known)
    monkeypatch.setattr(run, "code_bytes_of", lambda recipe: 100_000)


# ---------------------------------------------------------------------- damage

CONTENTS = {
    "empty": b"", "foreign": b"\x00\xff" * 50, "a list": b"[1, 2]", "deep": b"[" * 200_000,
    "nested": b"(" * 100_000 + b"-" * 100_000 + b"1",
    "a terminal's": b'{"name": "\\u001b[2J\\u202e\\u0000", "author": "\x1b]0;x\x07", "date": "d", "val_bpb": 1}',
}  # fmt: skip
DAMAGE: dict[str, Callable[[Path, bytes], Any]] = {
    "missing": lambda path, payload: None,
    "cut": lambda path, payload: path.write_bytes(payload[: len(payload) // 2]),
    "a folder": lambda path, payload: path.mkdir(),
    "64 GiB": lambda path, payload: (path.touch(), os.truncate(path, 2**36)),  # that take no room
    "a pipe": lambda path, payload: os.mkfifo(path),
    "a link away": lambda path, payload: path.symlink_to("/dev/zero"),
    "a loop": lambda path, payload: path.symlink_to(path),
    "a pickle": lambda path, payload: path.write_bytes(pickle.dumps(Bomb(path.with_name("exploded")))),
    **{kind: lambda path, payload, kind=kind: path.write_bytes(CONTENTS[kind]) for kind in CONTENTS},
}


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def spoil(path: Path, kind: str) -> None:
    """Let something else stand in a file's place."""
    payload = path.read_bytes()
    path.unlink()
    DAMAGE[kind](path, payload)


def judged_with_damages(folder: Path, names: list[str], cache: Path, how: settings) -> None:
    """Change some bytes of one of the files, judge (which must not raise), and put the file back, again and again."""

    @how
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        file = folder / data.draw(st.sampled_from(names))
        payload = changed = file.read_bytes()
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.one_of(st.integers(0, 80), st.integers(0, len(payload))))
            gone = data.draw(st.sampled_from((0, 1, 8, len(payload))))
            changed = changed[:place] + data.draw(st.binary(max_size=8)) + changed[place + gone :]
        try:
            file.write_bytes(changed)
            judged(folder, cache)
        finally:
            file.write_bytes(payload)

    check()


def no_lie_goes_unnoticed(
    folder: Path, left_out: dict[str, tuple | None], cache: Path, how: settings, none: tuple = (None,)
) -> None:
    """Change one value of a JSON file, but of keys that are left out: something that held does so no more.

    Of a file with None in place of such keys only exceptions are looked for. `none`: what claims nothing.
    """
    before = holding(folder, cache)
    places = [
        (name, at) for name, keys in left_out.items() for at in places_of(read_json(folder / name))
        if not set(keys or ()) & set(at)
    ]  # fmt: skip

    @how
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        name, at = data.draw(st.sampled_from(places))
        text = (folder / name).read_text()
        values = json.loads(text)
        try:
            (folder / name).write_text(json.dumps(replaced(values, at, another(got(values, at), data.draw, none))))
            held = holding(folder, cache)
            assert left_out[name] is None or before - held, f"{name} {at} was changed and nothing noticed"
        finally:
            (folder / name).write_text(text)

    check()


def places_of(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Every key and index of a JSON value that leads to something that is no object and no list."""
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places_of(value[key], (*at, key))
    else:
        yield at


def replaced(value: Any, at: tuple, new: Any) -> Any:
    changed = copy.deepcopy(value)
    got(changed, at[:-1])[at[-1]] = new
    return changed


def got(value: Any, at: tuple) -> Any:
    for key in at:
        value = value[key]
    return value


def another(value: Any, draw: Any, none: tuple = (None,)) -> Any:
    """A value that says something else: other numbers are farther off than any tolerance, and text is other text."""
    if isinstance(value, bool) or value is None:
        return draw(st.sampled_from([7, "x", not value, [1]]))
    if isinstance(value, int | float):
        return draw(st.sampled_from([value * 2 + 1, -value - 1, "x", float("inf"), [value], True, 10**400, *none]))
    return draw(st.sampled_from(["", "x", "0" * 64, 5, ["x"], {"a": 1}, *none]).filter(lambda new: new != value))
