"""The verifier against hostile files: mutated artifacts and folders, bombs, pipes, links; nothing is run or unpickled.

pytest tests/lab/verify/test_hostile.py (-m slow for thousands of mutations in place of hundreds; trains one tiny seed).
Held throughout: never an exception, never a verdict that is none, and never all of what held before once a claim that
a check covers says something else.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_run import ask_here, cache_of, finished_run, the_toy_is_the_track

from pgolf_core.base.files import canonical_json, read_json, sha256_file
from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.submission.folder import write_submission
from pgolf_core.lab.verify import verify
from pgolf_core.lab.verify.evidence import checks as verify_rows
from pgolf_core.lab.verify.evidence import score as verify_score
from pgolf_core.lab.verify.reading import claims as verify_claims
from pgolf_core.lab.verify.reading import logs as verify_logs
from pgolf_core.packing.format import MAGIC, VERSION, checksum
from pgolf_core.packing.pack import _compress
from pgolf_core.packing.unpack import read_header

FAST = settings(
    max_examples=30, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
SLOW = settings(FAST, max_examples=1000)
both = pytest.mark.parametrize("how", ["fast", pytest.param("slow", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return finished_run(tmp_path_factory.mktemp("honest"), seeds=(1,))


@pytest.fixture(scope="module")
def written(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_submission(honest, "A toy", "Ann", "ann", tmp_path_factory.mktemp("submissions") / "one")


@pytest.fixture(autouse=True)
def _quick(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are taken in this process and kept by the artifact's hash; the dataset, never changed here, is whole."""
    kept: dict[str, dict] = {}

    def ask(job: dict, tell: Any) -> dict:
        key = sha256_file(job["artifact"]) + repr((job["seq_len"], job["strides"], job["autocast"]))
        if key not in kept:
            kept[key] = ask_here(job, tell)
        return kept[key]

    monkeypatch.setattr(verify_score, "ask", ask)
    the_toy_is_the_track(monkeypatch, cache_of(honest))
    monkeypatch.setattr(Dataset, "verify", lambda self, progress=False: "whole")


def judged(path: Path, honest: Path) -> dict[str, str]:
    """Verdicts by check, after what must be true of any table."""
    table = verify.verify(path, cache_dir=cache_of(honest))
    assert set(table["verdict"]) <= set(verify.VERDICTS)
    assert len(table) and table["check"].is_unique
    for text in table["evidence"]:
        assert text.isprintable() and len(text) <= verify_rows.MAX_EVIDENCE and "Traceback" not in text
    table.to_json(orient="records", force_ascii=False)
    return dict(zip(table["check"], table["verdict"], strict=True))


def holding(found: dict[str, str]) -> set[str]:
    return {name for name, verdict in found.items() if verdict == verify.HOLDS}


# ---------------------------------------------------------------------- mutated artifacts


@st.composite
def damages(draw: st.DrawFn, size: int) -> list[tuple[str, int, bytes]]:
    """Some of: bytes written over, put in, taken out from a place on."""
    kinds = st.sampled_from(("over", "in", "out", "cut"))
    places = st.one_of(st.integers(0, 80), st.integers(0, size))
    return draw(st.lists(st.tuples(kinds, places, st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))


def damaged(payload: bytes, what: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, new in what:
        tail = {"over": place + len(new), "in": place, "out": place + len(new), "cut": len(payload)}[kind]
        payload = payload[:place] + (b"" if kind in ("out", "cut") else new) + payload[tail:]
    return payload


@both
def test_no_mutation_of_an_artifact_holds_or_raises(honest: Path, tmp_path: Path, how: str):
    source, path = honest / "seed1" / "model.pgolf", tmp_path / "model.pgolf"
    whole, header = source.read_bytes(), read_header(source)

    def says_the_same() -> bool:  # of a zstd frame a bit or two mean nothing
        return read_header(path) == header and len(path.read_bytes()) == len(whole)

    @(SLOW if how == "slow" else FAST)
    @given(what=damages(len(whole)))
    def check(what: list[tuple[str, int, bytes]]) -> None:
        payload = damaged(whole, what)
        path.write_bytes(payload)
        held = holding(judged(path, honest))
        assert len(held) == 3 if payload == whole else not held or says_the_same()

    check()


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=6), st.just([]), st.just({}),
    st.just([[]]), st.just(2**40), st.just(-1), st.just(0), st.just("../../etc/passwd"), st.just("x" * 10_000),
)  # fmt: skip


def places_of(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Every key and index of a JSON value that leads to something that is no object and no list."""
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places_of(value[key], (*at, key))
    else:
        yield at


def replaced(value: Any, at: tuple, new: Any) -> Any:
    changed = copy.deepcopy(value)
    inside = changed
    for key in at[:-1]:
        inside = inside[key]
    inside[at[-1]] = new
    return changed


def got(value: Any, at: tuple) -> Any:
    for key in at:
        value = value[key]
    return value


def signed(header: dict[str, Any], streams: bytes) -> bytes:
    """An artifact whose checksum is right, whatever its header says."""
    digest = checksum({key: value for key, value in header.items() if key != "sha256"}, streams)
    text = canonical_json({**header, "sha256": digest}).encode("ascii")
    (packed,) = _compress([text], 3)
    return struct.pack("<8sHI", MAGIC, VERSION, len(packed)) + packed + streams


@both
def test_a_hostile_header_with_a_right_checksum_never_raises_or_makes_a_model_of_other_weights(
    honest: Path, tmp_path: Path, how: str
):
    source, path = honest / "seed1" / "model.pgolf", tmp_path / "model.pgolf"
    header = read_header(source)
    streams = source.read_bytes()[-sum(header["streams"].values()) :]
    plain = {key: value for key, value in header.items() if key != "sha256"}
    path.write_bytes(signed(plain, streams))
    assert len(holding(judged(path, honest))) == 3
    shape_of_weights = {at for at in places_of(plain) if at[0] != "model"}

    @(SLOW if how == "slow" else FAST)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(sorted(places_of(plain), key=str)))
        new = data.draw(JUNK)
        try:
            path.write_bytes(signed(replaced(plain, at, new), streams))
        except (ValueError, UnicodeEncodeError):
            return  # not a number or no ASCII: no header that could be written
        held = holding(judged(path, honest))
        if at in shape_of_weights and json.dumps(new) != json.dumps(got(plain, at)):
            assert "tensors fit the artifact's own model" not in held

    check()


# ---------------------------------------------------------------------- mutated run folders

UNCHECKED = {
    "result.json": (), "summary.json": (), "recipe.json": ("title",), "env.json": None,
    "averaging.json": None, "ledger.json": ("entropy_bytes",), "stages/03_train.json": None,
}  # fmt: skip
"""Keys of each file that no check covers; None where only some are covered and only exceptions are looked for."""


def another(value: Any, draw: Any, none: tuple = (None,)) -> Any:
    """A value that says something else: other numbers are farther off than any tolerance, and text is other text."""
    if isinstance(value, bool) or value is None:
        return draw(st.sampled_from([7, "x", not value, [1]]))
    if isinstance(value, int | float):
        return draw(st.sampled_from([value * 2 + 1, -value - 1, "x", float("inf"), [value], True, 10**400, *none]))
    return draw(st.sampled_from(["", "x", "0" * 64, 5, ["x"], {"a": 1}, *none]).filter(lambda new: new != value))


@both
def test_no_changed_claim_of_a_run_goes_unnoticed(honest: Path, tmp_path: Path, how: str):
    folder = shutil.copytree(honest, tmp_path / honest.name)
    before = holding(judged(folder, honest))
    places = [
        (name, at) for name, left_out in UNCHECKED.items()
        for file in ([folder / name] if name == "summary.json" else [folder / "seed1" / name])
        for at in places_of(read_json(file))
        if left_out is None or not set(left_out) & set(at)
    ]  # fmt: skip

    @(SLOW if how == "slow" else FAST)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        name, at = data.draw(st.sampled_from(places))
        file = folder / name if name == "summary.json" else folder / "seed1" / name
        text = file.read_text()
        try:
            values = json.loads(text)
            file.write_text(json.dumps(replaced(values, at, another(got(values, at), data.draw))))
            held = holding(judged(folder, honest))
            assert UNCHECKED[name] is None or before - held, f"{name} {at} was changed and nothing noticed"
        finally:
            file.write_text(text)

    check()
    assert holding(judged(folder, honest)) == before


def judged_with_damages(folder: Path, names: Sequence[str], honest: Path, how: str) -> None:
    """Damage one of the files, judge (which must not raise), and put the file back, again and again."""

    @(SLOW if how == "slow" else FAST)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        file = folder / data.draw(st.sampled_from(names))
        payload = file.read_bytes()
        try:
            file.write_bytes(damaged(payload, data.draw(damages(len(payload)))))
            judged(folder, honest)
        finally:
            file.write_bytes(payload)

    check()


FILES = ("recipe.json", "result.json", "ledger.json", "averaging.json", "env.json", "metrics.jsonl", "train.log",
         "stages/03_train.json", "stages/05_quantize.json")  # fmt: skip


@both
def test_bytes_changed_anywhere_in_a_run_never_raise(honest: Path, tmp_path: Path, how: str):
    folder = shutil.copytree(honest / "seed1", tmp_path / "seed1")

    judged_with_damages(folder, FILES, honest, how)


# ---------------------------------------------------------------------- mutated submissions

NOT_CLAIMS = {"author", "github_id", "name", "blurb", "date", "track"}


@both
def test_no_changed_number_of_submission_json_goes_unnoticed(honest: Path, written: Path, tmp_path: Path, how: str):
    folder = shutil.copytree(written, tmp_path / "submission")
    before = holding(judged(folder, honest))
    file = folder / "submission.json"
    whole = read_json(file)
    places = [at for at in places_of(whole) if at[0] not in NOT_CLAIMS]

    @(SLOW if how == "slow" else FAST)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(places))
        new = another(got(whole, at), data.draw, none=())  # null claims nothing
        file.write_text(json.dumps(replaced(whole, at, new)))
        assert before - holding(judged(folder, honest)), f"{at} was changed and nothing noticed"

    check()


@both
def test_bytes_changed_anywhere_in_a_submission_never_raise(honest: Path, written: Path, tmp_path: Path, how: str):
    folder = shutil.copytree(written, tmp_path / "submission")
    (folder / "train_gpt.py").write_text("import torch\nclass Eval:\n    seq_len: int = 32\n    stride: int = 8\n")
    names = ["submission.json", "README.md", "train_seed1.log", "train_gpt.py", "model.pgolf"]

    judged_with_damages(folder, names, honest, how)


WORDS = st.sampled_from(
    ["step:", "1/9", "val_loss:", "val_bpb:", "1.5", "-", "1,2,3", ".", "9" * 30, "train_time:", "ms", "seed:", "|",
     "---", "\n", " ", "=" * 100, "Total submission size", ":", "bytes", "bpb", "\x1b[31m", "\u202e", "\x00",
     "| seed | bpb |", "|---|---|", "| 1 | 1.5 |", "eval_time:", "val_loader:", "tokens:", "1e999", "mean", "\\|",
     "import os", "٣", "NaN"]
)  # fmt: skip


@both
def test_any_log_and_any_table_is_read_or_refused_in_words(tmp_path: Path, how: str):
    path = tmp_path / "train.log"

    @(SLOW if how == "slow" else FAST)
    @given(text=st.lists(WORDS, max_size=60).map("".join))
    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8"))
        try:
            log = verify_logs.read_log(path, "train.log")
        except verify_rows.Broken:
            return
        assert log.seed is None or log.seed >= 0
        for header, rows in verify_claims.tables(text):
            assert header and all(rows)

    check()


# ---------------------------------------------------------------------- bombs, pipes, links


class Bomb:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_nothing_of_a_submission_is_run_or_unpickled(honest: Path, written: Path, tmp_path: Path):
    folder, mark = shutil.copytree(written, tmp_path / "submission"), tmp_path / "exploded"
    payload = pickle.dumps(Bomb(mark))
    program = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    for name in ("torch.py", "json.py", "conftest.py", "sitecustomize.py", "setup.py", "train_gpt.py", "__init__.py"):
        (folder / name).write_text(program)
    for name in (
        "final_model.pt",
        "final_model.int6.ptz",
        "weights.pkl",
        "model.npz",
        "tokenizer.model",
        "second.pgolf",
    ):
        (folder / name).write_bytes(payload)
    here = os.getcwd()
    try:
        os.chdir(folder)
        found = judged(Path("."), honest)
    finally:
        os.chdir(here)
    assert not mark.exists()
    assert found["second.pgolf: artifact opens and is whole"] == verify.FAILS


def hostile_files(folder: Path) -> dict[str, Any]:
    """name -> how to make that file hostile."""

    def sparse(path: Path) -> None:
        path.unlink(missing_ok=True)
        with open(path, "wb") as file:
            file.truncate(2**36)  # 64 GiB that take no room

    def pipe(path: Path) -> None:
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    def link(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/zero")

    def loop(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(path)

    def deep(path: Path) -> None:
        path.write_bytes(b"[" * 200_000)

    def nested(path: Path) -> None:
        path.write_bytes(b"(" * 100_000 + b"-" * 100_000 + b"1")

    def terminal(path: Path) -> None:
        path.write_bytes(b'{"name": "\\u001b[2J\\u202e\\u0000", "author": "\x1b]0;x\x07", "date": "d", "val_bpb": 1}')

    makers = (sparse, pipe, link, loop, deep, nested, terminal)
    return {f"{name} {make.__name__}": (name, make) for name in folder for make in makers}


def _hostile(names: tuple[str, ...]) -> list[Any]:
    return [pytest.param(*case, id=name) for name, case in hostile_files(names).items()]


@pytest.mark.parametrize(
    ("name", "make"), _hostile(("submission.json", "README.md", "train_seed1.log", "train_gpt.py", "model.pgolf"))
)
def test_a_bomb_pipe_or_link_in_a_submission_is_refused_at_once(
    honest: Path, written: Path, tmp_path: Path, name: str, make: Any
):
    folder = shutil.copytree(written, tmp_path / "submission")
    before = judged(folder, honest)
    make(folder / name)
    after = judged(folder, honest)
    worse = holding(before) - holding(after) or {check for check in before if after.get(check) != before[check]}
    assert name in ("train_gpt.py", "README.md") or worse  # prose that names no number claims nothing


@pytest.mark.parametrize(("name", "make"), _hostile(("recipe.json", "result.json", "metrics.jsonl", "model.pgolf")))
def test_a_bomb_pipe_or_link_in_a_run_is_refused_at_once(honest: Path, tmp_path: Path, name: str, make: Any):
    folder = shutil.copytree(honest, tmp_path / honest.name)
    before = holding(judged(folder, honest))
    make(folder / "seed1" / name)
    assert before - holding(judged(folder, honest))


def test_a_folder_of_too_many_files_names_beyond_utf8_and_loops_is_judged(
    honest: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(written, tmp_path / "submission")
    os.symlink(folder, folder / "again")
    (folder / "seed1").mkdir()
    os.rename(folder / "seed1", os.fsencode(folder) + b"/\xff\xfe")
    (folder / "\x1b[31mred.log").write_text("step:1/2 train_loss:1.0 train_time:1ms\n")
    judged(folder, honest)
    monkeypatch.setattr(verify_rows, "MAX_FILES", 5)
    assert not any("score" in name for name in holding(judged(folder, honest)))


def test_an_empty_folder_and_an_empty_file_hold_nothing(honest: Path, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert not holding(judged(tmp_path / "folder", honest)) and not holding(judged(tmp_path / "file", honest))
