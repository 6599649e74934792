"""A dataset of one's own files: exact text, a split by hash, every fault of the input in one line, whole or absent.

pytest tests/lab/data/test_text.py
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_hub import published_model, texts

from pgolf_core.base.files import UserError
from pgolf_core.lab import cli
from pgolf_core.lab.data import survey
from pgolf_core.lab.data import text as textdata
from pgolf_core.lab.data.dataset import Dataset, prepared_datasets, validation_documents
from pgolf_core.lab.data.sotu import train_tokenizer
from pgolf_core.lab.data.text import prepare_text
from pgolf_core.lab.data.textfiles import find_files, read_documents
from pgolf_core.lab.look import n01_data as analysis_data
from pgolf_core.text.shards import load_tokens

ROOT = Path(__file__).resolve().parents[3]
VOCAB = 320
ODD = "  two  spaces\r\n\ttab ﬁ １ 🙂 nul\0 block▅ end "
"""Text that a normalising tokenizer, or one that strips, would change."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """31 lines of .jsonl (one text twice), five .txt files in two folders, a hidden file and a foreign one."""
    path = tmp_path / "mine"
    (path / "sub").mkdir(parents=True)
    lines = [*texts(29, seed=3), ODD]
    lines.insert(7, lines[2])
    (path / "b.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(lines)))
    for number, text in enumerate(texts(5, seed=4)):
        (path / ("sub" if number % 2 else "") / f"{number}.txt").write_bytes(text.encode())
    (path / ".hidden.txt").write_bytes(b"\xff")
    (path / "image.png").write_bytes(b"\xff")
    return path


def prepare(paths: Path | list[Path], cache: Path, **options) -> Dataset:
    paths = paths if isinstance(paths, list) else [paths]
    settings = {"vocab_size": VOCAB, "val_share": 0.3, "cache_dir": cache, "progress": False}
    return prepare_text(paths, **settings | options)


def sha(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def given(folder: Path) -> dict[str, str]:
    """Name -> text, read without this program."""
    found = {f"mine/{path.relative_to(folder)}": path.read_bytes().decode() for path in folder.rglob("[0-9].txt")}
    lines = (folder / "b.jsonl").read_text().splitlines()
    return found | {f"mine/b.jsonl:{number}": json.loads(line)["text"] for number, line in enumerate(lines, 1)}


# ---------------------------------------------------------------------- what is made


def test_every_document_comes_back_byte_for_byte_in_the_split_that_its_hash_says(folder: Path, tmp_path: Path):
    made, documents = prepare(folder, tmp_path), given(folder)
    assert made.name == "mine-sp320" and made.tokenizer().lossless and len(documents) == 36
    for split, paths in (("train", made.train_paths), ("val", made.val_paths)):
        expected = [name for name in documents if (sha(documents[name]) / 2**256 < 0.3) == (split == "val")]
        expected.sort(key=sha)
        assert [e["name"] for e in made.manifest["documents"] if e["split"] == split] == expected
        stream = load_tokens(paths)
        pieces = np.split(stream, np.flatnonzero(stream == made.tokenizer().bos_id)[1:])
        assert [made.tokenizer().decode(piece) for piece in pieces] == [documents[name] for name in expected]
        total = made.manifest["totals"][split]
        assert total["utf8_bytes"] == sum(len(documents[name].encode()) for name in expected)
    assert made.verify() == "tokenizer, shards and documents"
    assert str(tmp_path) not in (made.folder / "manifest.json").read_text()


def test_copies_of_a_text_stand_in_one_split_and_more_documents_move_none(folder: Path, tmp_path: Path):
    splits = {e["name"]: e["split"] for e in prepare(folder, tmp_path / "a").manifest["documents"]}
    assert splits["mine/b.jsonl:3"] == splits["mine/b.jsonl:8"]
    for number, text in enumerate(texts(20, seed=5) + texts(29, seed=3)):
        (folder / f"more{number}.txt").write_text(text)
    more = prepare(folder, tmp_path / "b")
    later = {entry["name"]: entry["split"] for entry in more.manifest["documents"]}
    assert {name: later[name] for name in splits} == splits
    assert (
        more.manifest["disjointness"]["val_texts_in_train"] == more.manifest["disjointness"]["val_groups_in_train"] == 0
    )


def test_the_tokenizer_is_trained_on_the_training_documents_alone(folder: Path, tmp_path: Path):
    made = prepare(folder, tmp_path)
    names = {entry["name"] for entry in made.manifest["documents"] if entry["split"] == "train"}
    read = [text for name, text in read_documents(find_files([folder])) if name in names]
    assert made.tokenizer_path.read_bytes() == train_tokenizer(read, VOCAB)
    assert made.manifest["tokenizer"]["trained_on"]["documents"] == len(names)


def test_of_a_large_training_split_a_sample_trains_the_tokenizer(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(textdata, "TOKENIZER_BYTES", 5000)
    made = prepare(folder, tmp_path)
    sample, total = made.manifest["tokenizer"]["trained_on"], made.manifest["totals"]["train"]
    assert 0 < sample["documents"] < total["documents"] and sample["utf8_bytes"] < total["utf8_bytes"]
    made.verify()


@pytest.mark.parametrize("size", [100, 1001])
def test_shards_are_cut_at_their_size_and_never_across_the_split(folder: Path, tmp_path: Path, monkeypatch, size: int):
    whole = prepare(folder, tmp_path / "a")
    monkeypatch.setattr(textdata, "SHARD_TOKENS", size)
    cut = prepare(folder, tmp_path / "b")
    for one, other in ((whole.train_paths, cut.train_paths), (whole.val_paths, cut.val_paths)):
        assert np.array_equal(load_tokens(one), load_tokens(other)) and len(other) > 1
        assert all(len(load_tokens([path])) == size for path in other[:-1])
    cut.verify()


def test_a_long_list_of_training_documents_is_cut_in_the_order_of_the_stream(folder: Path, tmp_path: Path, monkeypatch):
    whole = [e for e in prepare(folder, tmp_path / "a").manifest["documents"] if e["split"] == "train"]
    monkeypatch.setattr(survey, "LISTED_TRAIN_DOCUMENTS", 4)
    monkeypatch.setattr(textdata, "LISTED_TRAIN_DOCUMENTS", 4)
    made = prepare(folder, tmp_path / "b")
    assert [e for e in made.manifest["documents"] if e["split"] == "train"] == whole[:4] and not made.lists_all
    assert "own split, 0 validation texts stand in training" in made.verify()
    assert analysis_data.totals_table(made.manifest).loc["train", "documents"] == len(whole)


def test_a_given_lossless_tokenizer_is_used_as_it_is(folder: Path, tmp_path: Path):
    first = prepare(folder, tmp_path / "a")
    second = prepare(folder, tmp_path / "b", tokenizer=first.tokenizer_path, name=first.name)
    assert second.tokenizer_path.read_bytes() == first.tokenizer_path.read_bytes()
    assert np.array_equal(load_tokens(second.train_paths), load_tokens(first.train_paths))


def test_with_a_normalising_tokenizer_text_and_bytes_are_of_the_normalised_text(folder: Path, tmp_path: Path):
    model = tmp_path / "published.model"
    model.write_bytes(published_model(texts(40, seed=2)))
    (folder / "twice.txt").write_text("ﬁne  words ▁ here")
    (folder / "again.txt").write_text("fine words here")
    made = prepare(folder, tmp_path, tokenizer=model)
    splits = {entry["name"]: entry for entry in made.manifest["documents"]}
    assert not made.manifest["tokenizer"]["lossless"] and not made.tokenizer().lossless
    same = [splits[f"mine/{name}.txt"] for name in ("twice", "again")]
    assert len({entry["sha256"] for entry in same}) == len({entry["split"] for entry in same}) == 1
    assert same[0]["utf8_bytes"] == len("fine words here")
    assert all("ﬁ" not in text for _, text in validation_documents(made))
    made.verify()


def test_the_same_text_and_settings_are_prepared_once_and_others_want_another_name(folder: Path, tmp_path: Path):
    made = prepare(folder, tmp_path)
    before = made.folder.stat().st_mtime_ns
    assert prepare(folder, tmp_path) == made and made.folder.stat().st_mtime_ns == before
    assert prepare(folder, tmp_path / "again").manifest_sha256 == made.manifest_sha256
    for options in ({"val_share": 0.5}, {"vocab_size": 330, "name": made.name}):
        with pytest.raises(UserError, match=r"mine-sp320 is there already, of other text or settings; .*--name"):
            prepare(folder, tmp_path, **options)
    (folder / "new.txt").write_text("one more")
    with pytest.raises(UserError, match="of other text or settings"):
        prepare(folder, tmp_path)
    assert prepared_datasets(tmp_path) == [made]


def test_several_paths_are_read_in_the_order_given_and_folders_sorted(folder: Path):
    labels = [file.label for file in find_files([folder / "sub", folder / "b.jsonl", folder / "0.txt"])]
    assert labels == ["sub/1.txt", "sub/3.txt", "b.jsonl", "0.txt"]
    whole = [file.label for file in find_files([folder])]
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


# ---------------------------------------------------------------------- faults


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
    "space mark": (raw("x.txt", "ab▁c".encode()), r"mine/x\.txt holds U\+2581 at character 2, .*replace it"),
    "no field": (lines('{"body": "a", "id": 1}'), r"line 1 has no field 'text' \(its fields: body, id\); .*--field"),
    "field a number": (lines('{"text": 3}'), r"line 1 has no text in 'text'"),
    "no object": (lines("[1]"), r"line 1 is no JSON object"),
    "no JSON": (lines('{"text": "a"}', "{"), r"line 2 is not JSON"),
    "too deep": (lines("[" * 100_000), r"line 1 is not JSON"),
}


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_input_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
):
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        prepare(folder, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "datasets").exists()


def test_a_byte_order_mark_before_jsonl_and_blank_lines_are_no_fault(tmp_path: Path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b"}')
    assert list(read_documents(find_files([tmp_path / "x.jsonl"]))) == [("x.jsonl:1", "a"), ("x.jsonl:4", "b")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_share": 1e-9}, "36 document.*none falls into validation at --val-share 1e-09; give more documents"),
        ({"val_share": 1.0}, "--val-share 1.0 must lie between 0 and 1"),
        ({"vocab_size": 4000}, "cannot train a tokenizer of 4000 pieces on this text"),
        ({"vocab_size": 70_000}, "--vocab-size 70000 must lie between"),
        ({"tokenizer": "nowhere.model"}, "nowhere.model does not exist"),
        ({"name": "sotu-sp1024"}, "'sotu-sp1024' is not free"),
        ({"name": "../x"}, "'../x' is not free"),
        ({"name": "fineweb10B-sp1024"}, "is not free"),
    ],
)
def test_settings_that_cannot_be_met_are_one_line_and_leave_no_dataset(
    folder: Path, tmp_path: Path, options: dict, message: str
):
    with pytest.raises(UserError, match=message) as caught:
        prepare(folder, tmp_path, **options)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("datasets/*"))


def test_paths_that_cannot_be_read_are_refused(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.txt").write_text("a")
    for paths, message in (
        ([tmp_path / "nowhere"], "nowhere does not exist"),
        ([tmp_path / "empty"], "empty holds no .txt, .jsonl, .parquet file"),
        ([folder / "image.png"], "image.png: only .txt, .jsonl, .parquet"),
        ([folder, folder / "0.txt"], "0.txt is given twice"),
        ([folder / "0.txt", other / "0.txt"], "0.txt has the name of another input"),
    ):
        with pytest.raises(UserError, match=message.replace(".", r"\.")):
            find_files(paths)


def test_files_that_change_between_two_readings_are_noticed(folder: Path, tmp_path: Path, monkeypatch):
    train = textdata.train_tokenizer

    def change_a_file(*arguments):
        model = train(*arguments)
        (folder / "0.txt").write_text("other words")
        return model

    monkeypatch.setattr(textdata, "train_tokenizer", change_a_file)
    with pytest.raises(UserError, match="the files changed while they were read"):
        prepare(folder, tmp_path)
    assert list(tmp_path.glob("datasets/*")) == []


# ---------------------------------------------------------------------- kill -9, command

KILLED = """
import os, signal, sys
from pgolf_core.lab import textdata
write_shard = textdata.write_shard
def write_and_die(path, tokens):
    write_shard(path, tokens)
    os.kill(os.getpid(), signal.SIGKILL)
textdata.write_shard = write_and_die
textdata.prepare_text([sys.argv[1]], vocab_size=320, val_share=0.3, cache_dir=sys.argv[2], progress=False)
"""


def test_a_killed_preparation_leaves_nothing_that_is_taken_for_a_dataset(folder: Path, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, folder, tmp_path], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [path.name[:9] for path in (tmp_path / "datasets").iterdir()] == [".partial-"]
    assert prepared_datasets(tmp_path) == []
    assert prepare(folder, tmp_path).manifest_sha256 == prepare(folder, tmp_path / "fresh").manifest_sha256


def test_the_command_makes_a_dataset_and_wrong_usage_has_status_2(folder: Path, tmp_path: Path, capsys):
    arguments = ["data", "text", str(folder), "--cache", str(tmp_path), "--val-share", "0.3"]
    assert cli.main([*arguments, "--vocab-size", "320", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "mine-sp320" and sum(total["documents"] for total in row["totals"].values()) == 36
    assert cli.main(["data", "text", str(folder), "--cache", str(tmp_path), "--val-share", "2"]) == 2
    assert "'2' is not a share between 0 and 1" in capsys.readouterr().err
    assert cli.main([*arguments, "--vocab-size", "320", "--tokenizer", "x.model"]) == 2
    assert "not allowed with argument --vocab-size" in capsys.readouterr().err
    assert cli.main(["data", "text"]) == 2
    assert "required: PATH" in capsys.readouterr().err
