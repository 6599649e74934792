"""Untrusted files: bombs, pipes and links are refused at once, reading is bounded, and numbers are read as written.

pytest tests/lab/verify/reading/test_untrusted.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reviewing import holding, judged

from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck
from pgolf_core.lab.verify.reading import untrusted
from pgolf_core.lab.verify.reading.untrusted import (
    agrees,
    is_number,
    is_score,
    json_lines,
    json_object,
    list_files,
    read_bytes,
    same_number,
    written,
)  # fmt: skip


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**36)  # 64 GiB that take no room


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def deep(path: Path) -> None:
    path.write_bytes(b"[" * 200_000)


def nested(path: Path) -> None:
    path.write_bytes(b"(" * 100_000 + b"-" * 100_000 + b"1")


def terminal(path: Path) -> None:
    path.write_bytes(b'{"name": "\\u001b[2J\\u202e\\u0000", "author": "\x1b]0;x\x07", "date": "d", "val_bpb": 1}')


hostile = pytest.mark.parametrize("make", [sparse, os.mkfifo, link, loop, deep, nested, terminal])


@hostile
@pytest.mark.parametrize("name", ["submission.json", "README.md", "train_seed1.log", "train_gpt.py", "model.pgolf"])
def test_a_bomb_pipe_or_link_in_a_submission_is_refused_at_once(
    submission: Path, cache: Path, name: str, make: Callable[[Path], Any]
):
    before = judged(submission, cache)
    (submission / name).unlink()
    make(submission / name)
    after = judged(submission, cache)
    worse = [check for check, row in before.items() if check not in after or after[check].verdict != row.verdict]
    assert name in ("train_gpt.py", "README.md") or worse  # prose that names no number claims nothing


@hostile
@pytest.mark.parametrize("name", ["recipe.json", "result.json", "metrics.jsonl", "model.pgolf"])
def test_a_bomb_pipe_or_link_in_a_run_is_refused_at_once(
    honest: Path, run: Path, cache: Path, name: str, make: Callable[[Path], Any]
):
    (run / "seed1" / name).unlink()
    make(run / "seed1" / name)
    assert holding(honest / "seed1", cache) - holding(run / "seed1", cache)


def test_a_folder_of_too_many_files_names_beyond_utf8_and_loops_is_judged(
    submission: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    os.symlink(submission, submission / "again")
    os.mkdir(os.fsencode(submission) + b"/\xff\xfe")
    (submission / "\x1b[31mred.log").write_text("step:1/2 train_loss:1.0 train_time:1ms\n")
    judged(submission, cache)
    monkeypatch.setattr(untrusted, "MAX_FILES", 5)
    assert not any("score" in name for name in holding(submission, cache))
    with pytest.raises(Broken, match="more than 5 files"):
        list_files(submission)


def test_files_are_listed_in_order_to_a_depth_without_links(tmp_path: Path):
    deepest = tmp_path.joinpath(*"abcdefgh")
    deepest.joinpath("i").mkdir(parents=True)
    for path in (tmp_path / "z", deepest / "x", deepest / "i" / "y"):
        path.touch()
    (tmp_path / "link").symlink_to(tmp_path / "z")
    assert list(list_files(tmp_path)) == ["a/b/c/d/e/f/g/h/x", "z"]


def test_a_file_is_read_to_its_limit_and_objects_are_told_from_other_json(tmp_path: Path):
    file = tmp_path / "file"
    with pytest.raises(CannotCheck, match="there is no file"):
        read_bytes(file, 3)
    with pytest.raises(Broken, match="there is no file"):
        json_object(file)
    file.write_text("1234")
    assert read_bytes(file, 4) == b"1234"
    with pytest.raises(Broken, match="larger than the 3 bytes"):
        read_bytes(file, 3)
    with pytest.raises(Broken, match="not a JSON object"):
        json_object(file)
    file.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(Broken, match="line 2"):
        json_lines(file)


def test_numbers_are_finite_and_no_bools():
    assert all(map(is_number, (0, -1.5, 2**70))) and not any(map(is_number, (True, None, "1", float("nan"), 10**400)))


def test_a_number_as_written_agrees_with_what_it_is_rounded_or_cut_from():
    assert agrees("1.1248", 1.12484502) and agrees("1.1249", 1.12485) and agrees("1,234", 1234.4)
    assert agrees("1.9", 1.99), "cut"
    assert not agrees("1.1249", 1.12484) and not agrees("2", 1.4) and not agrees("1e999", 1.0)
    assert same_number("1.12", "1.1248") and same_number("1.1248", "1.12") and not same_number("1.13", "1.1248")
    assert is_score("1.1248", 1.12484502) and not is_score("1.1", 1.12484502)
    assert [written(value) for value in (3, 1e-7, 0.25)] == ["3", "0.000000", "0.25"]
