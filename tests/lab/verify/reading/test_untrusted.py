"""Untrusted files: bombs, pipes and links are refused at once, and reading is bounded."""

import functools
import os
from pathlib import Path

import pytest
from reviewing import DAMAGE, holding, judged, spoil

from pgolf_core.lab.verify.evidence.checks import FAILS, Broken, CannotCheck
from pgolf_core.lab.verify.reading import untrusted
from pgolf_core.lab.verify.reading.untrusted import is_own_run, list_files

untouched = functools.cache(judged)
"""Of what nobody changes, judged once."""


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["submission.json", "README.md", "train_seed1.log", "train_gpt.py", "model.pgolf"])
def test_what_stands_in_a_files_place_is_refused_at_once(alone: Path, submission: Path, cache: Path, name, kind):
    before = untouched(alone, cache)
    spoil(submission / name, kind)
    after = judged(submission, cache)
    worse = [check for check, row in before.items() if check not in after or after[check].verdict != row.verdict]
    assert name in ("train_gpt.py", "README.md") or worse  # prose that names no number claims nothing
    assert not (submission / "exploded").exists()


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


@pytest.mark.parametrize(
    "payload, text",
    [
        (b"# coding: latin-1\nx = '\xff\xe9'\n", "# coding: latin-1\nx = '\xff\xe9'\n"),
        (b"\xef\xbb\xbfx = '\xc3\xa9'\n", "x = '\xe9'\n"),
        (b"x = '\xc3\xa9'\xff\n", "x = '\xe9'\ufffd\n"),
        (b"# coding: nothing\nx = 1\n", "# coding: nothing\nx = 1\n"),
    ],
)
def test_code_is_read_by_the_encoding_that_it_declares(tmp_path: Path, payload: bytes, text: str):
    (tmp_path / "a.py").write_bytes(payload)
    assert untrusted.read_code(tmp_path / "a.py", 100) == text


def test_a_key_with_two_values_is_refused_wherever_it_stands(submission: Path, cache: Path, tmp_path: Path):
    claims, rows = submission / "submission.json", tmp_path / "rows.jsonl"
    text = claims.read_text()
    claims.write_text(text.replace('"val_bpb"', '"val_bpb": 0.5, "val_bpb"', 1))
    whole = judged(submission, cache)["submission.json is whole"]
    assert whole.verdict == FAILS and "submission.json has 'val_bpb' twice, with two values" in whole.evidence
    rows.write_text('{"a": {"b": 1, "b": 1}}\n{"a": {"b": 1, "b": 2}}\n')
    with pytest.raises(Broken, match=r"rows\.jsonl, line 2, has 'b' twice"):
        untrusted.json_lines(rows)


def test_a_file_is_read_to_its_limit_and_objects_are_told_from_other_json(tmp_path: Path):
    file = tmp_path / "file"
    with pytest.raises(CannotCheck, match="there is no file"):
        untrusted.read_bytes(file, 3)
    with pytest.raises(Broken, match="there is no file"):
        untrusted.json_object(file)
    file.write_text("1234")
    assert untrusted.read_bytes(file, 4) == b"1234"
    with pytest.raises(Broken, match="larger than the 3 bytes"):
        untrusted.read_bytes(file, 3)
    with pytest.raises(Broken, match="not a JSON object"):
        untrusted.json_object(file)
    file.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(Broken, match="line 2"):
        untrusted.json_lines(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_damage_and_other_bytes_are(tmp_path: Path, encoding: str):
    path = tmp_path / "submission.json"
    path.write_bytes('{"name": "é"}'.encode(encoding))
    assert untrusted.json_object(path) == {"name": "é"} and untrusted.read_text(path) == '{"name": "é"}'
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(Broken, match="not valid JSON"):
        untrusted.json_object(path)


OURS, THEIRS = '{"recipe_sha256": "0", "stopped_by": "clock", "seed": 1}', '{"val_bpb": 1.1, "steps": 9}'


@pytest.mark.parametrize(
    ("files", "is_own"),
    [
        ({}, False), ({"result.json": OURS}, True), ({"result.json": "{"}, True), ({"result.json": THEIRS}, False),
        ({"recipe.json": '{"schedule": {}, "optim": {}, "eval": {}}'}, True), ({"recipe.json": '{"lr": 1}'}, False),
        ({"result.json": OURS, "submission.json": "{}"}, False), ({"result.json": THEIRS, "recipe.json": ""}, True),
    ],
)  # fmt: skip
def test_a_result_of_other_keys_or_beside_a_submission_is_not_of_our_run(tmp_path: Path, files: dict, is_own: bool):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert is_own_run(tmp_path) == is_own
