"""Files of one's own are read as they stand, and every fault of them is one line.

pytest tests/lab/data/test_textfiles.py
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_hub import texts

from pgolf_core.base.files import UserError
from pgolf_core.lab.data.textfiles import find_files, read_documents


def test_several_paths_are_read_in_the_order_given_and_folders_sorted(mine: Path):
    labels = [file.label for file in find_files([mine / "sub", mine / "b.jsonl", mine / "0.txt"])]
    assert labels == ["sub/1.txt", "sub/3.txt", "b.jsonl", "0.txt"]
    whole = [file.label for file in find_files([mine])]
    assert whole == [f"mine/{name}" for name in ("0.txt", "2.txt", "4.txt", "b.jsonl", "sub/1.txt", "sub/3.txt")]


# ---------------------------------------------------------------------- Parquet


def test_parquet_rows_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch):
    """With a stand-in of pyarrow's calls, so that it runs where pyarrow is not installed."""
    asked = []

    class ParquetFile:
        schema_arrow = types.SimpleNamespace(names=["id", "body"])

        def __init__(self, path: Path):
            asked.append(path)

        def __enter__(self):
            return self

        def __exit__(self, *problem: object) -> None:
            pass

        def iter_batches(self, batch_size: int, columns: list[str]):
            asked.append((batch_size, columns))
            for rows in (["one", "two"], ["three", None]):
                yield types.SimpleNamespace(
                    column=lambda index, rows=rows: types.SimpleNamespace(to_pylist=lambda: rows)
                )

    parquet = types.ModuleType("pyarrow.parquet")
    parquet.ParquetFile = ParquetFile
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=parquet))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    path = tmp_path / "x.parquet"
    path.touch()
    found = read_documents(find_files([path]), "body")
    assert [next(found) for _ in range(3)] == [("x.parquet:1", "one"), ("x.parquet:2", "two"), ("x.parquet:3", "three")]
    assert asked == [path, (256, ["body"])]
    with pytest.raises(UserError, match="row 4 of column 'body' is no text"):
        next(found)
    with pytest.raises(UserError, match=r"has no column 'text' \(its columns: id, body\); name one with --field"):
        list(read_documents(find_files([path])))


def test_without_pyarrow_a_parquet_file_names_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "x.parquet").touch()
    with pytest.raises(UserError, match=r"needs pyarrow; run `pip install 'pgolf\[parquet\]'`"):
        list(read_documents(find_files([tmp_path])))


def test_real_parquet_gives_what_the_same_text_in_jsonl_gives(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra `parquet`)")
    import pyarrow

    documents = texts(600, seed=6, words=5)
    parquet.write_table(
        pyarrow.table({"text": documents, "id": range(600)}), tmp_path / "x.parquet", row_group_size=100
    )
    read = list(read_documents(find_files([tmp_path / "x.parquet"])))
    assert read == [(f"x.parquet:{number}", text) for number, text in enumerate(documents, 1)]
    for payload in (b"PAR1 not really", (tmp_path / "x.parquet").read_bytes()[:2000]):
        (tmp_path / "bad.parquet").write_bytes(payload)
        with pytest.raises(UserError, match=r"bad\.parquet cannot be read as Parquet: ") as caught:
            list(read_documents(find_files([tmp_path / "bad.parquet"])))
        assert "\n" not in str(caught.value)


def lines(*values: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "x.jsonl").write_text("\n".join(values) + "\n")


def raw(name: str, payload: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(payload)


FAULTS = {
    "txt not UTF-8": (raw("x.txt", b"ab\xff"), r"x\.txt is not UTF-8 at byte 2; convert it"),
    "jsonl not UTF-8": (raw("x.jsonl", b'{"text": "\xff"}\n'), r"x\.jsonl: line 1 is not UTF-8 at its byte 10"),
    "lone surrogate": (
        lines('{"text": "a\\ud800"}'),
        r"mine/x\.jsonl:1 is no valid text: lone surrogate at character 1",
    ),
    "empty file": (raw("x.txt", b""), r"mine/x\.txt holds no text; take it out"),
    "no documents": (raw("x.jsonl", b"\n\n"), r"x\.jsonl holds no documents; take it out"),
    "empty text": (lines('{"text": "a"}', '{"text": ""}'), r"mine/x\.jsonl:2 holds no text"),
    "no field": (lines('{"body": "a", "id": 1}'), r"line 1 has no field 'text' \(its fields: body, id\); .*--field"),
    "field a number": (lines('{"text": 3}'), r"line 1 has no text in 'text'"),
    "no object": (lines("[1]"), r"line 1 is no JSON object"),
    "no JSON": (lines('{"text": "a"}', "{"), r"line 2 is not JSON"),
    "too deep": (lines("[" * 100_000), r"line 1 is not JSON"),
}


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_input_is_one_line(mine: Path, damage: Callable[[Path], object], message: str):
    damage(mine)
    with pytest.raises(UserError, match=message) as caught:
        list(read_documents(find_files([mine])))
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_before_jsonl_and_blank_lines_are_no_fault(tmp_path: Path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b"}')
    assert list(read_documents(find_files([tmp_path / "x.jsonl"]))) == [("x.jsonl:1", "a"), ("x.jsonl:4", "b")]


def test_paths_that_cannot_be_read_are_refused(mine: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.txt").write_text("a")
    for paths, message in (
        ([tmp_path / "nowhere"], "nowhere does not exist"),
        ([tmp_path / "empty"], "empty holds no .txt, .jsonl, .parquet file"),
        ([mine / "image.png"], "image.png: only .txt, .jsonl, .parquet"),
        ([mine, mine / "0.txt"], "0.txt is given twice"),
        ([mine / "0.txt", other / "0.txt"], "0.txt has the name of another input"),
    ):
        with pytest.raises(UserError, match=message.replace(".", r"\.")):
            find_files(paths)
