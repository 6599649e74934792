"""What is said of finished shards, against plain counts: the published ones of a tiny hub, fetched."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from refused import refused
from tiny_data import edit
from tiny_hub import NAME, fetch

from pgolf_core.lab.data import survey
from pgolf_core.lab.data.build import write_shard
from pgolf_core.lab.data.dataset import Dataset, open_dataset, validation_documents
from pgolf_core.lab.look import n01_data
from pgolf_core.text.shards import load_tokens


@pytest.fixture(scope="module")
def whole(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return fetch(hub, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("chunk", [1, 7, 1500, survey.CHUNK_TOKENS])
def test_totals_and_documents_are_those_of_a_plain_count(whole: Dataset, monkeypatch, chunk: int):
    monkeypatch.setattr(survey, "CHUNK_TOKENS", chunk)
    model = sentencepiece.SentencePieceProcessor(model_file=str(whole.tokenizer_path))
    for split in whole.splits():
        stream = load_tokens(split.paths)
        pieces = np.split(stream, np.flatnonzero(stream == 1)[1:])
        decoded = [model.decode(piece.tolist()).encode() for piece in pieces]
        listed = [entry for entry in whole.manifest["documents"] if entry["split"] == split.name]
        assert [entry["sha256"] for entry in listed] == [hashlib.sha256(text).hexdigest() for text in decoded]
        assert [entry["utf8_bytes"] for entry in listed] == [len(text) for text in decoded]
        counted = {"documents": len(pieces), "utf8_bytes": sum(map(len, decoded)), "tokens": len(stream)}
        assert split.totals() == whole.manifest["totals"][split.name] == counted
        assert whole.tokenizer().bytes.total(stream) == sum(map(len, decoded))
    assert whole.manifest["disjointness"] == {"val_texts_in_train": 1} and whole.has_published_split


def test_a_hole_of_zeros_is_no_text(whole: Dataset, tmp_path: Path):
    tokens = load_tokens(whole.val_paths)
    for size in (40, 63, 64):
        tokens[50 : 50 + size] = 0
        write_shard(tmp_path / "x.bin", tokens)
        split = survey.Split("val", [tmp_path / "x.bin"], whole.tokenizer())
        if size < 64:
            assert split.totals()["tokens"] == len(tokens)
    with refused(r"x\.bin holds zeros in place of tokens"):
        split.totals()


def test_of_a_large_corpus_all_validation_and_the_first_training_documents_are_listed(
    whole: Dataset, hub: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(survey, "LISTED_TRAIN_DOCUMENTS", 3)
    made = fetch(hub, tmp_path)
    assert not made.lists_all and made.manifest["totals"] == whole.manifest["totals"]
    val = [entry for entry in whole.manifest["documents"] if entry["split"] == "val"]
    assert made.manifest["documents"] == [*whole.manifest["documents"][:3], *val]
    assert validation_documents(made) == validation_documents(whole) and len(validation_documents(made)) == 6
    assert "all val and 3 train documents; published split, 1 validation texts" in made.verify()
    table = n01_data.totals_table(made.manifest)
    assert table.loc["train", "documents"] == whole.manifest["totals"]["train"]["documents"] > 3
    edit(made.folder / "manifest.json", lambda manifest: manifest["disjointness"].update(val_texts_in_train=0))
    with refused("1 validation texts stand in training, 0 by its manifest"):
        open_dataset(NAME, tmp_path).verify()
