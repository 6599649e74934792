"""Documents become a dataset: the same one each time, with passages counted exactly."""

from pathlib import Path

import numpy as np
import pytest
from refused import refused
from tiny_data import build_toy, toy_documents

from pgolf_core.lab.data.build import Document, shared_passages, train_tokenizer, write_shard
from pgolf_core.text.shards import prove
from pgolf_core.text.sidecar import has_case_marks
from pgolf_core.text.tokenizer import Tokenizer


def test_preparation_is_deterministic(tmp_path: Path):
    first, second = build_toy(tmp_path / "a"), build_toy(tmp_path / "b")
    assert first.manifest_sha256 == second.manifest_sha256
    for one, other in zip(sorted(first.folder.iterdir()), sorted(second.folder.iterdir()), strict=True):
        assert one.name == other.name and one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [("a▁b", r"v0 holds U\+2581"), (toy_documents()[3].text, "v0 and training document d3 have the same text")],
)
def test_a_text_unlike_its_tokens_or_in_both_splits_is_refused_by_name(tmp_path: Path, text: str, message: str):
    with refused(message):
        build_toy(tmp_path, [*toy_documents(()), Document("v0", "val", text)])
    assert [path.name for path in tmp_path.iterdir()] == [".toy-sp1024.lock"]


def test_shared_passages_are_counted_exactly():
    rng = np.random.default_rng(1)
    text = "".join(rng.choice(list("abcdefgh "), 1000))
    train = "x" * 200 + text[300:450] + "y"
    documents = [Document("a", "train", train), Document("b", "val", text), Document("c", "val", "short")]
    seen = {train[i : i + 64] for i in range(len(train) - 63)}
    expected = sum(text[i : i + 64] in seen for i in range(len(text) - 63))
    assert expected == 150 - 63
    found = {"window_bytes": 64, "val_windows": 1000 - 63, "val_windows_in_train": expected}
    assert shared_passages(documents) == found
    assert shared_passages([]) == {"window_bytes": 64, "val_windows": 0, "val_windows_in_train": 0}


def test_case_marks_in_a_plain_text_are_no_pieces_of_its_tokenizer(tmp_path: Path):
    documents = [document.text.replace("a", "\ue001b\ue004") for document in toy_documents()]
    (tmp_path / "t.model").write_bytes(train_tokenizer(documents, 400))
    tokenizer = Tokenizer(tmp_path / "t.model")
    assert not has_case_marks(tokenizer) and tokenizer.decode(tokenizer.encode(documents[0])) == documents[0]
    write_shard(tmp_path / "x.bin", np.array([tokenizer.bos_id, *tokenizer.encode(documents[0])]))
    assert prove([tmp_path / "x.bin"], tokenizer) == 1


def test_more_characters_than_pieces_names_our_own_option():
    text = " ".join(chr(0x4E00 + number) for number in range(2000))
    with refused("give a larger --vocab-size") as caught:
        train_tokenizer([text] * 3)
    assert "character_coverage" not in str(caught.value)
