"""Files of one's own are read as they stand, and every fault of them is one line."""

import bz2
import gzip
import json
import lzma
import os
import re
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from refused import refused
from tiny_hub import texts

from pgolf_core.lab.data.textfiles import Faults, find_files, read_documents


def read(path: Path, field: str = "text", cut: str = "") -> tuple[list[tuple[str, str]], str]:
    """(name, text) of every document that can be used, and what is said of the others."""
    faults = Faults()
    found = [(name, text) for _, name, text in read_documents(find_files([path]), faults, field, cut)]
    return found, str(faults)


def test_several_paths_are_read_in_the_order_given_and_folders_sorted(mine: Path):
    labels = [file.label for file in find_files([mine / "sub", mine / "b.jsonl", mine / "0.txt"])]
    assert labels == ["sub/1.txt", "sub/3.txt", "b.jsonl", "0.txt"]
    whole = [file.label for file in find_files([mine])]
    assert whole == [f"mine/{name}" for name in ("0.txt", "2.txt", "4.txt", "b.jsonl", "sub/1.txt", "sub/3.txt")]


def test_a_file_whose_name_is_not_in_utf8_has_a_label_that_is(tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"na\xefve.txt")).write_text("a")
    assert read(folder) == ([("caf\\xe9/na\\xefve.txt", "a")], "")
    (folder / os.fsdecode(b"x.jp\xefg")).touch()
    left_out: Counter[str] = Counter()
    assert find_files([folder], left_out) and left_out == {".jp\\xefg": 1}


def test_what_a_folder_holds_beside_is_counted_by_ending(mine: Path, monkeypatch):
    (mine / "t.tar.gz").touch()
    (mine / "README").touch()
    (mine / "link").symlink_to(mine / "sub")
    (mine / "gone.txt").symlink_to(mine / "nowhere")
    left_out: Counter[str] = Counter()
    monkeypatch.setattr(os, "access", lambda path, mode: path != mine / "sub")  # root may read everything
    assert len(find_files([mine], left_out)) == 6
    beside = (".png", "hidden", ".tar.gz", "without ending", "link to a folder", "link to nothing")
    assert left_out == dict.fromkeys([*beside, "folder that may not be read"], 1)
    (mine.parent / "empty").mkdir()
    with refused(r"folder .*empty holds no .* \(there: nothing\)"):
        find_files([mine, mine.parent / "empty"])


# ---------------------------------------------------------------------- Parquet


def test_parquet_rows_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch):
    """With a stand-in of pyarrow's calls, so that it runs where pyarrow is not installed."""
    asked = []

    class ParquetFile:
        schema_arrow = types.SimpleNamespace(names=["id", "body"])

        def __init__(self, path: Path, pre_buffer: bool, buffer_size: int):
            assert not pre_buffer and buffer_size < 2**20
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
    found, faults = read(path, "body")
    assert found == [("x.parquet:1", "one"), ("x.parquet:2", "two"), ("x.parquet:3", "three")]
    assert asked == [path, (256, ["body"])] and faults == "1 without text (x.parquet:4)"
    with refused(r"has no column 'text' \(its columns: id, body\); name one with --field"):
        read(path)


def test_without_pyarrow_a_parquet_file_names_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "x.parquet").touch()
    with refused(r"needs pyarrow; run `\S+ -m pip install pyarrow`"):
        read(tmp_path)


def test_real_parquet_gives_what_the_same_text_in_jsonl_gives(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra `parquet`)")
    import pyarrow

    documents = texts(600, seed=6, words=5)
    parquet.write_table(
        pyarrow.table({"text": documents, "id": range(600)}), tmp_path / "x.parquet", row_group_size=100
    )
    found, _ = read(tmp_path / "x.parquet")
    assert found == [(f"x.parquet:{number}", text) for number, text in enumerate(documents, 1)]
    for payload in (b"PAR1 not really", (tmp_path / "x.parquet").read_bytes()[:2000]):
        (tmp_path / "bad.parquet").write_bytes(payload)
        with refused(r"bad\.parquet cannot be read as Parquet: "):
            read(tmp_path / "bad.parquet")


PEAK = """
import resource, sys
from pathlib import Path
import pyarrow.parquet
from pgolf_core.lab.data.textfiles import Faults, find_files, read_documents
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
read = sum(len(text) for _, _, text in read_documents(find_files([Path(sys.argv[1])]), Faults(), "text", ""))
print(read, peak() - before)
"""


@pytest.mark.slow  # writes and reads 500 MB
@pytest.mark.parametrize("row_groups", [1, 50])
def test_500_mb_of_parquet_are_read_in_little_memory_however_they_are_grouped(tmp_path: Path, row_groups: int):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra `parquet`)")
    import pyarrow

    rows = [f"{number:08d} ".ljust(10_000, "abcdefghijklmnopqrstuvwxyz"[number % 26]) for number in range(50_000)]
    parquet.write_table(
        pyarrow.table({"text": rows}), tmp_path / "x.parquet", row_group_size=len(rows) // row_groups,
        compression="none", use_dictionary=False,
    )  # fmt: skip
    assert (tmp_path / "x.parquet").stat().st_size > 500e6
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "x.parquet"], capture_output=True, text=True)
    characters, kibibytes = map(int, done.stdout.split())
    assert characters == 500_000_000 and kibibytes < 64 * 1024


def lines(*values: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "x.jsonl").write_text("\n".join(values) + "\n")


def raw(name: str, payload: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(payload)


FAULTS = {
    "text not UTF-8": (raw("x.txt", b"ab\xff"), r"1 not in UTF-8 \(mine/x\.txt\)"),
    "jsonl not UTF-8": (raw("x.jsonl", b'{"text": "\xff"}\n'), r"1 not in UTF-8 \(mine/x\.jsonl:1\)"),
    "lone surrogate": (lines('{"text": "a\\ud800"}'), r"1 with a lone surrogate \(mine/x\.jsonl:1\)"),
    "empty file": (raw("x.md", b""), r"1 without text \(mine/x\.md\)"),
    "no documents": (raw("x.jsonl", b"\n\n"), r"1 without documents \(mine/x\.jsonl\)"),
    "empty and null": (
        lines(*['{"text": "a"}', '{"text": ""}', '{"text": null}'] * 3),
        r"6 without text \(mine/x\.jsonl:2, mine/x\.jsonl:3, mine/x\.jsonl:5, …\)$",
    ),
    "no field": (
        lines('{"body": "a", "id": 1}', '{"text": 3}', '{"text": "a"}'),
        r"1 with no text in 'text' \(mine/x\.jsonl:2\); 1 without a field 'text' \(mine/x\.jsonl:1\) "
        r"\(fields there: body; --field names one\)",
    ),
    "no JSON": (lines('{"text": "a"}', "{", "[" * 100_000), r"2 that are not JSON \(mine/x\.jsonl:2, .*:3\)"),
    "no text anywhere": (lines('{"text": 3}', '{"n": [4]}'), r"1 without a field 'text' \(mine/x\.jsonl:2\)$"),
    "inner field": (lines('{"text": {"body": "a"}, "n": 1}'), r"fields there: text\.body; --field names one"),
    "an archive": (raw("x.txt.gz", gzip.compress(b"ustar\0" * 9)), r"1 with NUL bytes, so no text \(an archive"),
    "JSON lines as text": (
        raw("x.txt", b'{"text": "a"}\n\n{"text": "b"}\n'),
        r"1 of JSON lines, no text \(name it \.jsonl\) \(mine/x\.txt\)",
    ),
    "JSON lines after a title as text": (
        raw("x.txt", b'The data\n\n{"text": "a"}\n{"text": "b"}\n'), r"1 of JSON lines, no text .* \(mine/x\.txt\)",
    ),
    "JSON lines with a key twice as text": (
        raw("x.txt", b'{"text": "a", "text": "b"}\n{"text": "c"}\n'),
        r"1 of JSON lines, no text \(name it \.jsonl\) \(mine/x\.txt\)",
    ),
    "a key twice": (
        lines('{"text": "a", "text": "b"}', '{"text": "a", "n": {"m": 1, "m": 1}}'),
        r"2 with a key twice \(mine/x\.jsonl:1, mine/x\.jsonl:2\)",
    ),
    "no object": (lines("[1]", "3"), r"2 not a JSON object or text"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_used_is_counted_by_kind(mine: Path, damage: Callable[[Path], object], message: str):
    damage(mine)
    found, faults = read(mine)
    assert re.search(message, faults) and len(found) >= 36


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("ending", PACKED)
def test_packed_files_are_read_and_one_that_is_cut_short_is_named(tmp_path: Path, ending: str):
    path, text = tmp_path / f"x.jsonl{ending}", "".join(json.dumps({"text": t}) + "\n" for t in texts(40))
    path.write_bytes(PACKED[ending](text[:777].encode()) + PACKED[ending](text[777:].encode()))  # one after another
    assert read(path) == ([(f"x.jsonl{ending}:{n}", t) for n, t in enumerate(texts(40), 1)], "")
    path.write_bytes(path.read_bytes()[:300])
    with refused(r"x\.jsonl"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        '["a", {"text": "b"}]',
        '{"text": ["a", "b"], "n": [1]}',
        '{"data": [{"text": "a"}, "b"], "n": 2}',
        '\ufeff{"text": "a"}\n\n "b"\n',
    ],
)
def test_json_is_an_array_an_object_that_holds_one_columns_or_lines(tmp_path: Path, content: str):
    (tmp_path / "x.json").write_text(content)
    found, faults = read(tmp_path / "x.json")
    assert [text for _, text in found] == ["a", "b"] and not faults
    (tmp_path / "x.json").write_text("{'text': 1}")
    with refused(r"x\.json is not JSON"):
        read(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"text": "about", "data": [{"text": "a"}]}')
    with refused(r"x\.json has a 'text' and an array of them too"):
        read(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"text": ["a"], "text": ["b"]}')
    with refused(r"x\.json is not JSON \(an object has a key twice\)"):
        read(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('[{"data": {"text": "a"}}, {"data.text": "b"}]')
    assert [text for _, text in read(tmp_path / "x.json", "data.text")[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        ("lines", ["\n \na\r\n", "b\n\n\n", "c d\n", "e"]),
        ("blank-lines", ["\n \na\r\nb\n\n\n", "c d\ne"]),
        ("none", ["\n \na\r\nb\n\n\nc d\ne"]),
    ],
)
def test_a_text_is_cut_after_lines_or_blank_lines_and_no_byte_is_lost(tmp_path: Path, cut: str, expected: list[str]):
    (tmp_path / "x.txt").write_bytes(b"\n \na\r\nb\n\n\nc d\ne")
    assert [text for _, text in read(tmp_path / "x.txt", cut=cut)[0]] == expected


def test_prose_with_lines_of_json_in_it_is_a_text(tmp_path: Path):
    (tmp_path / "x.md").write_text('A line of it is an object:\n\n{"text": "a"}\n{"text": "b"}\n\nSo much for that.\n')
    assert len(read(tmp_path / "x.md")[0]) == 1 and not read(tmp_path / "x.md")[1]


def test_a_pointer_of_git_lfs_or_a_web_page_is_no_text(tmp_path: Path):
    (tmp_path / "x.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "y.jsonl").write_text("<!DOCTYPE html><html></html>")
    for name, message in (("x.txt", "run `git lfs pull`"), ("y.jsonl", "is a web page")):
        with refused(message):
            read(tmp_path / name)


def test_a_byte_order_mark_before_jsonl_and_blank_lines_are_no_fault(tmp_path: Path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b"}')
    assert read(tmp_path / "x.jsonl") == ([("x.jsonl:1", "a"), ("x.jsonl:4", "b")], "")


def test_paths_that_cannot_be_read_are_refused(mine: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.txt").write_text("a")
    for paths, message in (
        ([tmp_path / "nowhere"], "nowhere does not exist"),
        ([tmp_path / "pipe"], "pipe is neither a file nor a folder"),
        ([tmp_path / "empty"], "empty holds no .txt, .md, .text, .jsonl"),
        ([mine / "image.png"], "image.png: only .txt, .md, .text, .jsonl"),
        ([mine, mine / "0.txt"], "0.txt is given twice"),
        ([mine / "0.txt", other / "0.txt"], "0.txt has the name of another input"),
    ):
        with refused(message.replace(".", r"\.")):
            find_files(paths)
