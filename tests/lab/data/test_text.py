"""A dataset of one's own files: exact text, a split by hash, wrong settings in one line, whole or absent."""

import dataclasses
import hashlib
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from refused import refused
from tiny_data import die, edit, run_until_killed
from tiny_hub import published_model, rich_texts, texts

from pgolf_core.lab.data import build, survey
from pgolf_core.lab.data.dataset import Dataset, open_dataset, prepared_datasets, validation_documents
from pgolf_core.lab.data.text import MANY_BYTES, MANY_PIECES, TextRequest, prepare_text
from pgolf_core.lab.data.textfiles import Faults, find_files, read_documents
from pgolf_core.lab.look import n01_data
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.text.caseops import to_cases
from pgolf_core.text.shards import CASE_MARKS, load_tokens


def prepare(folder: Path, cache: Path, **wanted) -> Dataset:
    request = TextRequest([folder], **{"vocab_size": 320, "val_share": 0.3} | wanted)
    return prepare_text(request, cache, progress=False)


def train_documents(dataset: Dataset) -> list[dict]:
    return [entry for entry in dataset.manifest["documents"] if entry["split"] == "train"]


def sha(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def given(folder: Path) -> dict[str, str]:
    """Name -> text, read without this program."""
    found = {f"mine/{path.relative_to(folder)}": path.read_bytes().decode() for path in folder.rglob("[0-9].txt")}
    lines = (folder / "b.jsonl").read_text().splitlines()
    return found | {f"mine/b.jsonl:{number}": json.loads(line)["text"] for number, line in enumerate(lines, 1)}


# ---------------------------------------------------------------------- what is made


def test_every_document_comes_back_byte_for_byte_in_the_split_that_its_hash_says(mine: Path, tmp_path: Path):
    made, documents = prepare(mine, tmp_path), given(mine)
    assert made.name == "mine-sp320" and made.tokenizer().lossless and len(documents) == 36
    for split in made.splits():
        expected = [name for name in documents if (sha(documents[name]) / 2**256 < 0.3) == (split.name == "val")]
        expected.sort(key=sha)
        assert [e["name"] for e in made.manifest["documents"] if e["split"] == split.name] == expected
        assert [made.tokenizer().decode(piece) for piece in split.documents()] == [documents[n] for n in expected]
        total = made.manifest["totals"][split.name]
        assert total["utf8_bytes"] == sum(len(documents[name].encode()) for name in expected)
    assert made.verify() == "tokenizer, shards and documents; own split, 0 validation texts stand in training"
    assert str(tmp_path) not in (made.folder / "manifest.json").read_text()


def capitals(folder: Path) -> Path:
    """Texts with capitals of every kind, and marks that are text."""
    (folder / "capitals").mkdir()
    for number, text in enumerate(texts(24, seed=6)):
        odd = "\ue004\ue004\ue001The NASA iPhone é" if number % 3 else ""
        (folder / f"capitals/{number}.txt").write_text(text.title() + " U.S.A. " + odd)
    return folder / "capitals"


def test_with_case_marks_each_text_comes_back_and_the_sidecar_has_its_bytes(tmp_path: Path):
    folder = capitals(tmp_path)
    plain, made = (prepare(folder, tmp_path, caseops=changed) for changed in (False, True))
    assert made.name == "capitals-caseops-sp320" and made.is_changed and made.tokenizer().lossless
    assert validation_documents(made) == validation_documents(plain)
    assert made.manifest["totals"]["train"]["utf8_bytes"] == plain.manifest["totals"]["train"]["utf8_bytes"]
    total = plain.manifest["totals"]["val"]["utf8_bytes"]
    tokens = load_tokens(made.val_paths)
    assert made.manifest["totals"]["val"]["utf8_bytes"] == made.token_bytes().total(tokens) == total
    starts = np.flatnonzero(tokens == made.tokenizer().bos_id)
    sizes = np.append(0, made.token_bytes().count(tokens[:-1], tokens[1:]))
    by_document = np.add.reduceat(sizes, starts).tolist()
    assert by_document == [len(text.encode()) for _, text in validation_documents(plain)]
    assert made.verify() and prepare(folder, tmp_path, caseops=True) == made
    with refused("is there already, of other text or settings"):
        prepare(folder, tmp_path, name=made.name)


def test_a_given_tokenizer_and_its_case_marks_belong_together(tmp_path: Path):
    folder = capitals(tmp_path)
    model = tmp_path / "cases.model"
    model.write_bytes(
        published_model([to_cases(text.title()) for text in texts(40)], user_defined_symbols=[*CASE_MARKS])
    )
    with refused("is of text with marks for capitals; give --caseops too"):
        prepare(folder, tmp_path, tokenizer=model)
    made = prepare(folder, tmp_path, tokenizer=model, caseops=True)
    assert made.manifest["totals"]["val"]["utf8_bytes"] == made.token_bytes().total(load_tokens(made.val_paths))
    model.write_bytes(published_model(texts(40)))
    with refused("has no pieces for case marks"):
        prepare(folder, tmp_path, tokenizer=model, caseops=True)


@pytest.mark.parametrize("change", [{"sidecars": []}, {"transform": "rot13"}])
def test_a_manifest_whose_transform_and_sidecars_do_not_fit_is_refused(tmp_path: Path, change: dict):
    made = prepare(capitals(tmp_path), tmp_path, caseops=True)
    edit(made.folder / "manifest.json", lambda manifest: manifest.update(change))
    with refused("its manifest is not of the form"):
        open_dataset(made.name, tmp_path)


def test_a_sidecar_that_is_not_the_texts_is_found_by_verify(tmp_path: Path):
    made = prepare(capitals(tmp_path), tmp_path, caseops=True)
    path = made.sidecar_paths[0]
    sizes = np.fromfile(path, "<u2", offset=1024)
    first = int(np.argmax(sizes > 1))
    sizes[first] += 1  # the sum stays, those of two documents do not
    sizes[np.flatnonzero(sizes)[-1]] -= 1
    build.write_shard(path, sizes)
    edit(
        made.folder / "manifest.json",
        lambda manifest: manifest["sidecars"][0].update(sha256=hashlib.sha256(path.read_bytes()).hexdigest()),
    )
    with refused(r"counts [0-9,]+ bytes of document 0, whose text has"):
        open_dataset(made.name, tmp_path).verify()


def test_a_folder_gives_its_whole_name_to_the_dataset(mine: Path, tmp_path: Path):
    assert prepare(mine.rename(tmp_path / "v1.5"), tmp_path).name == "v1.5-sp320"


def test_copies_of_a_text_stand_in_one_split_and_more_documents_move_none(mine: Path, tmp_path: Path):
    splits = {e["name"]: e["split"] for e in prepare(mine, tmp_path / "a").manifest["documents"]}
    assert splits["mine/b.jsonl:3"] == splits["mine/b.jsonl:8"]
    for number, text in enumerate(texts(20, seed=5) + texts(29, seed=3)):
        (mine / f"more{number}.txt").write_text(text)
    more = prepare(mine, tmp_path / "b").manifest
    later = {entry["name"]: entry["split"] for entry in more["documents"]}
    assert {name: later[name] for name in splits} == splits
    assert more["disjointness"]["val_texts_in_train"] == more["disjointness"]["val_groups_in_train"] == 0


def test_the_tokenizer_is_of_training_alone_and_of_a_sample_of_much(mine: Path, tmp_path: Path, monkeypatch):
    made = prepare(mine, tmp_path / "a")
    names = {entry["name"] for entry in train_documents(made)}
    read = [text for _, name, text in read_documents(find_files([mine]), Faults()) if name in names]
    assert made.tokenizer_path.read_bytes() == build.train_tokenizer(read, 320)
    assert made.manifest["tokenizer"]["trained_on"]["documents"] == len(names)
    monkeypatch.setattr(build, "TOKENIZER_BYTES", 5000)
    made = prepare(mine, tmp_path / "b")
    sample, total = made.manifest["tokenizer"]["trained_on"], made.manifest["totals"]["train"]
    assert 0 < sample["documents"] < total["documents"] and sample["utf8_bytes"] < total["utf8_bytes"]
    made.verify()


@pytest.mark.parametrize("size", [100, 1001])
def test_shards_are_cut_at_their_size_and_never_across_the_split(mine: Path, tmp_path: Path, monkeypatch, size: int):
    whole = prepare(mine, tmp_path / "a")
    monkeypatch.setattr(build, "SHARD_TOKENS", size)
    cut = prepare(mine, tmp_path / "b")
    for one, other in zip(whole.splits(), cut.splits(), strict=True):
        assert np.array_equal(load_tokens(one.paths), load_tokens(other.paths)) and len(other.paths) > 1
        assert all(len(load_tokens([path])) == size for path in other.paths[:-1])
    cut.verify()


def test_a_long_list_of_training_documents_is_cut_in_the_order_of_the_stream(mine: Path, tmp_path: Path, monkeypatch):
    whole = train_documents(prepare(mine, tmp_path / "a"))
    monkeypatch.setattr(survey, "LISTED_TRAIN_DOCUMENTS", 4)
    monkeypatch.setattr(build, "LISTED_TRAIN_DOCUMENTS", 4)
    made = prepare(mine, tmp_path / "b")
    assert train_documents(made) == whole[:4] and not made.lists_all
    assert "all val and 4 train documents; own split, 0 validation texts stand in training" in made.verify()
    assert n01_data.totals_table(made.manifest).loc["train", "documents"] == len(whole)


@pytest.mark.parametrize("caseops", [False, True])
def test_a_text_of_hardly_any_spaces_has_a_tokenizer_that_knows_them(tmp_path: Path, caseops: bool):
    documents = [text.replace(" ", "") + " "[number:] for number, text in enumerate(rich_texts(40, words=60))]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    made = prepare(tmp_path / "x.jsonl", tmp_path, caseops=caseops)
    assert made.manifest["tokenizer"]["required_chars"] == "▁" and made.tokenizer().lossless
    back = [made.tokenizer().decode(ids) for split in made.splits() for ids in split.documents()]
    assert sorted(back) == sorted(documents) and prepare(tmp_path / "x.jsonl", tmp_path, caseops=caseops) == made
    made.verify()


def test_a_given_lossless_tokenizer_is_used_as_it_is(mine: Path, tmp_path: Path):
    first = prepare(mine, tmp_path / "a")
    second = prepare(mine, tmp_path / "b", tokenizer=first.tokenizer_path, name=first.name)
    assert second.tokenizer_path.read_bytes() == first.tokenizer_path.read_bytes()
    assert np.array_equal(load_tokens(second.train_paths), load_tokens(first.train_paths))


def test_with_a_normalising_tokenizer_text_and_bytes_are_of_the_normalised_text(mine: Path, tmp_path: Path):
    model = tmp_path / "published.model"
    model.write_bytes(published_model(texts(40, seed=2)))
    (mine / "twice.txt").write_text("ﬁne  words ▁ here")
    (mine / "again.txt").write_text("fine words here")
    made = prepare(mine, tmp_path, tokenizer=model)
    entries = {entry["name"]: entry for entry in made.manifest["documents"]}
    assert not made.manifest["tokenizer"]["lossless"] and not made.tokenizer().lossless
    same = [entries[f"mine/{name}.txt"] for name in ("twice", "again")]
    assert len({entry["sha256"] for entry in same}) == len({entry["split"] for entry in same}) == 1
    assert same[0]["utf8_bytes"] == len("fine words here")
    assert all("ﬁ" not in text for _, text in validation_documents(made))
    made.verify()


def test_the_same_text_and_settings_are_prepared_once_and_others_want_another_name(mine: Path, tmp_path: Path):
    made = prepare(mine, tmp_path)
    before = made.folder.stat().st_mtime_ns
    assert prepare(mine, tmp_path) == made and made.folder.stat().st_mtime_ns == before
    assert prepare(mine, tmp_path / "again").manifest_sha256 == made.manifest_sha256
    for wanted in ({"val_share": 0.5}, {"vocab_size": 330, "name": made.name}):
        with refused(r"mine-sp320 is there already, of other text or settings; .*--name"):
            prepare(mine, tmp_path, **wanted)
    (mine / "new.txt").write_text("one more")
    with refused("of other text or settings"):
        prepare(mine, tmp_path)
    assert prepared_datasets(tmp_path) == [made]


@pytest.mark.parametrize("pieces", [1024, 2048, 4096, 8192])
def test_a_rich_text_is_cut_into_as_many_pieces_as_are_asked_for_and_comes_back(tmp_path: Path, pieces: int):
    documents = rich_texts(90)
    (tmp_path / "rich.txt").write_text("\n".join(documents))
    made = prepare(tmp_path / "rich.txt", tmp_path, vocab_size=pieces, cut="lines")
    assert (made.name, made.vocab_size) == (f"rich-sp{pieces}", pieces)
    assert max(load_tokens(made.train_paths).max(), load_tokens(made.val_paths).max()) > 0.99 * pieces
    tokenizer = made.tokenizer()
    back = [tokenizer.decode(ids).strip() for split in made.splits() for ids in split.documents()]
    assert sorted(back) == sorted(documents)
    made.verify()


def test_pieces_that_nobody_names_are_few_for_a_short_text_and_those_of_local_for_a_long_one(tmp_path, monkeypatch):
    assert load_recipe("local").model.vocab_size == MANY_PIECES and MANY_BYTES == 4_000_000
    (tmp_path / "rich.txt").write_text("\n".join(rich_texts(30)))
    made = prepare(tmp_path / "rich.txt", tmp_path, vocab_size=None, cut="lines")
    assert (made.name, made.vocab_size) == ("rich-sp1024", 1024)
    monkeypatch.setattr("pgolf_core.lab.data.text.MANY_BYTES", made.manifest["totals"]["train"]["utf8_bytes"])
    (tmp_path / "rich.txt").write_text("\n".join(rich_texts(90)))
    longer = prepare(tmp_path / "rich.txt", tmp_path, vocab_size=None, cut="lines")
    assert (longer.name, longer.vocab_size) == ("rich-sp8192", 8192)
    monkeypatch.setattr("pgolf_core.lab.data.text.MANY_BYTES", longer.manifest["totals"]["train"]["utf8_bytes"])
    assert prepare(tmp_path / "rich.txt", tmp_path, vocab_size=None, cut="lines") == longer


@pytest.mark.parametrize("file", ["sotu.txt", "sotu-dev.txt", "fineweb.txt"])
def test_a_file_named_like_a_known_corpus_is_no_dataset_of_that_name_whatever_its_pieces(tmp_path: Path, file: str):
    (tmp_path / file).write_text("\n".join(rich_texts(30)))
    with refused(rf"--name '{file[:-4]}-sp1024' is not free for a dataset of your own"):
        prepare(tmp_path / file, tmp_path, vocab_size=None, cut="lines")
    assert not (tmp_path / "datasets").exists()


def test_too_many_pieces_name_the_number_that_the_text_is_enough_for(mine: Path, tmp_path: Path):
    with refused(r"cannot train a tokenizer of 8192 pieces on this text: .* or --vocab-size \d+") as caught:
        prepare(mine, tmp_path, vocab_size=8192)
    enough = int(str(caught.value).rpartition(" ")[2])
    assert prepare(mine, tmp_path, vocab_size=enough).vocab_size == enough < 8192


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"val_share": 1e-9}, "36 document.*none falls into validation at --val-share 1e-09; give more documents"),
        ({"val_share": 1.0}, "--val-share 1.0 must lie between 0 and 1"),
        ({"vocab_size": 70_000}, "--vocab-size 70000: pieces must be between"),
        ({"tokenizer": "nowhere.model"}, "nowhere.model does not exist"),
        ({"name": "sotu-sp1024"}, "'sotu-sp1024' is not free"),
        ({"name": "../x"}, "'../x' is not free"),
        ({"name": "fineweb10B-sp1024"}, "is not free"),
        ({"field": "id"}, r"31 with no text in 'id' \(mine/b\.jsonl:1, "),
    ],
)
def test_settings_that_cannot_be_met_leave_no_dataset(mine: Path, tmp_path: Path, wanted: dict, message: str):
    with refused(message):
        prepare(mine, tmp_path, **wanted)
    assert not list(tmp_path.glob("datasets/[!.]*"))


def test_no_files_are_no_dataset(tmp_path: Path):
    with refused("no files to read: name at least one file or folder"):
        prepare_text(TextRequest(), tmp_path)


def test_every_fault_is_told_at_once_and_left_out_on_request(mine: Path, tmp_path: Path, capsys):
    (mine / "x.txt").write_text("ab▁c")
    (mine / "y.jsonl").write_text('{"text": ""}\n{"text": null}\n{"text": "one more"}\n')
    said = r"1 with U\+2581, .* \(mine/x\.txt\); 2 without text \(mine/y\.jsonl:1, mine/y\.jsonl:2\)"
    with refused(rf"3 documents cannot be used: {said}; mend them, or give --skip-faulty"):
        prepare(mine, tmp_path)
    assert not (tmp_path / "datasets").exists()
    made = prepare(mine, tmp_path, skip_faulty=True)
    assert len(made.manifest["documents"]) == 37
    assert sorted(made.manifest["source"]["skipped"].values()) == [1, 2]
    assert made.manifest["source"]["left_out"] == {".png": 1, "hidden": 1}
    assert "note: read: 2 .jsonl, 6 .txt; not read: 1 .png, 1 hidden\n" in capsys.readouterr().err
    made.verify()
    for path in filter(Path.is_file, mine.rglob("*.*")):
        path.write_text("")
    with refused(r"no document is left that can be used: .* without text"):
        prepare(mine, tmp_path, skip_faulty=True, name="none")


def test_splits_of_ones_own_are_kept_and_what_stands_in_both_is_a_fault(tmp_path: Path):
    for split, some in (("train", texts(30, seed=1)), ("val", texts(6, seed=2))):
        (tmp_path / split).mkdir()
        (tmp_path / split / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
    request = TextRequest(train=[tmp_path / "train"], val=[tmp_path / "val"], vocab_size=320, name="own")
    made = prepare_text(request, tmp_path, progress=False)
    assert [text for _, text in sorted(validation_documents(made))] == texts(6, seed=2)
    assert made.manifest["totals"]["train"]["documents"] == 30
    assert made.manifest["source"]["splits"] == "given" and "no text stands in both" in made.manifest["split_rule"]
    made.verify()
    (tmp_path / "val/y.txt").write_text(texts(30, seed=1)[4])
    with refused(r"1 of training that stand in validation too \(train/x\.jsonl:5\)"):
        prepare_text(dataclasses.replace(request, name="both"), tmp_path, progress=False)
    made = prepare_text(dataclasses.replace(request, name="both", skip_faulty=True), tmp_path, progress=False)
    assert [made.manifest["totals"][split]["documents"] for split in ("train", "val")] == [29, 7]


@pytest.mark.parametrize(
    ("content", "cut", "documents"),
    [("\n\n".join(texts(30)), "blank lines", 30), ("\n".join(texts(15)), "lines", 30)],
)
def test_one_text_alone_is_cut_and_it_is_said_how(tmp_path: Path, capsys, content: str, cut: str, documents: int):
    (tmp_path / "book.txt").write_text(content)
    made = prepare(tmp_path / "book.txt", tmp_path)
    assert f"book.txt is the only text: cut at {cut} into {documents} documents" in capsys.readouterr().err
    assert sum(total["utf8_bytes"] for total in made.manifest["totals"].values()) == len(content.encode())
    assert made.manifest["source"]["cut"] == cut.replace(" ", "-")


def test_a_text_too_short_to_be_cut_and_a_share_that_leaves_a_split_empty_name_what_helps(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one line\nand two")
    with refused(r"one text of 1 paragraph.* and 2 line.*, too few .*files, or --train and"):
        prepare(tmp_path / "a.txt", tmp_path)
    (tmp_path / "c.txt").write_text("one long line of words " * 90)
    with refused(r"or cut it: `fold -s -w 41 FILE > lines.txt`$"):
        prepare(tmp_path / "c.txt", tmp_path)
    with refused(r"give more documents, or --train and --val$"):
        prepare(tmp_path / "c.txt", tmp_path, cut="lines")
    (tmp_path / "d.txt").write_text("".join(rich_texts(1)).replace(" ", "漢"))
    with refused(r"or cut it: `LC_ALL=C.UTF-8 sed -E .* FILE > lines.txt`$") as caught:
        prepare(tmp_path / "d.txt", tmp_path)
    command = re.search(r"`(.*)`$", str(caught.value))[1].replace("FILE", "d.txt")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert (
        sum(total["documents"] for total in prepare(tmp_path / "lines.txt", tmp_path).manifest["totals"].values()) > 50
    )
    with refused("one text cannot be in both: give more documents, --cut lines"):
        prepare(tmp_path / "a.txt", tmp_path, cut="none")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(30)))
    for share in (1e-6, 1 - 1e-6):
        with refused(r"none falls into .*; give more documents, or --val-share ") as caught:
            prepare(tmp_path / "b.jsonl", tmp_path, val_share=share)
        better = float(str(caught.value).rpartition(" ")[2])
        counts = prepare(tmp_path / "b.jsonl", tmp_path, val_share=better, name=f"at{better}").manifest["totals"]
        assert min(total["documents"] for total in counts.values()) == 1


def test_settings_of_another_kind_of_file_are_refused_and_change_nothing_in_silence(mine: Path, tmp_path: Path):
    with refused(r"--cut lines is for \.txt, \.md, \.text, and none is named; leave it out"):
        prepare(mine / "b.jsonl", tmp_path, cut="lines")
    with refused(r"--field body is for JSON and \.parquet, and none is named; leave it out"):
        prepare(mine / "0.txt", tmp_path, field="body")


def test_files_that_change_between_two_readings_are_noticed(mine: Path, tmp_path: Path, monkeypatch):
    train = build.train_tokenizer

    def change_a_file(*arguments):
        model = train(*arguments)
        (mine / "0.txt").write_text("other words")
        return model

    monkeypatch.setattr(build, "train_tokenizer", change_a_file)
    with refused("the files changed while they were read"):
        prepare(mine, tmp_path)
    assert list(tmp_path.glob("datasets/[!.]*")) == []


def test_a_killed_preparation_leaves_nothing_that_is_taken_for_a_dataset(mine: Path, tmp_path: Path):
    run_until_killed(lambda: (setattr(build, "survey", die), prepare(mine, tmp_path)))
    assert {path.name for path in (tmp_path / "datasets").iterdir()} == {".partial-mine-sp320", ".mine-sp320.lock"}
    assert prepared_datasets(tmp_path) == []
    assert prepare(mine, tmp_path).manifest_sha256 == prepare(mine, tmp_path / "fresh").manifest_sha256
