"""Bytes by a sidecar: of its own stream alone, in any beginning; and one that is not its shards' is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refused import refused

from pgolf_core.lab.data.build import train_tokenizer, write_shard
from pgolf_core.text.caseops import CaseTokenizer
from pgolf_core.text.sidecar import SidecarBytes, sidecar_of, split_bytes
from pgolf_core.text.tokenizer import Tokenizer

TEXTS = ["The END of NASA.", "", "a McDonald, \ue004\ue001 and é"]


@pytest.fixture
def split(tmp_path: Path) -> tuple[list[Path], Tokenizer, np.ndarray, np.ndarray]:
    """Two shards with their sidecars, cut inside a document: paths, tokenizer, the whole stream, its sizes."""
    (tmp_path / "t.model").write_bytes(train_tokenizer(["The NASA man said: the McDonald theme. " * 20], 300, True))
    tokenizer = CaseTokenizer(tmp_path / "t.model")
    cut = [tokenizer.encode_with_bytes(text) for text in TEXTS]
    stream = np.concatenate([[tokenizer.bos_id, *ids] for ids, _ in cut]).astype(np.uint16)
    sizes = np.concatenate([[0, *each] for _, each in cut])
    paths = [tmp_path / f"x_val_{number:06d}.bin" for number in range(2)]
    for path, part in zip(paths, (slice(None, 9), slice(9, None)), strict=True):
        write_shard(path, stream[part])
        write_shard(sidecar_of(path), sizes[part])
    return paths, Tokenizer(tokenizer.path), stream, sizes


def test_a_stream_and_each_of_its_beginnings_count_the_original_bytes(split):
    paths, tokenizer, stream, sizes = split
    found = split_bytes(paths[::-1], tokenizer)
    assert isinstance(found, SidecarBytes) and found.total(stream) == sum(len(text.encode()) for text in TEXTS)
    for n in (2, 9, 10, len(stream)):
        assert found.total(stream[:n]) == sizes[:n].sum()
        assert found.count(stream[: n - 1], stream[1:n]).tolist() == sizes[1:n].tolist()


@pytest.mark.parametrize("other", [lambda s: s[1:], lambda s: np.append(s, s[-1]), lambda s: s[::-1]])
def test_other_tokens_than_the_sidecars_are_refused(split, other: Callable[[np.ndarray], np.ndarray]):
    paths, tokenizer, stream, _ = split
    with refused("from the start; these are other tokens"):
        split_bytes(paths, tokenizer).total(other(stream))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "val_bytes_000001.bin does not exist"),
    "too short": (lambda path: write_shard(path, np.ones(3, int)), "holds the bytes of 3 tokens, its shard has"),
    "too long": (lambda path: write_shard(path, np.ones(999, int)), "holds the bytes of 999 tokens, its shard has"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is truncated"),
    "bytes of BOS": (lambda path: write_shard(path, np.ones(len(path.read_bytes()) // 2 - 512, int)), "gives BOS"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_sidecar_that_is_not_its_shards_is_refused(split, damage: Callable[[Path], object], message: str):
    paths, tokenizer, _, _ = split
    damage(sidecar_of(paths[1]))
    with refused(message):
        split_bytes(paths, tokenizer)


def test_tokens_of_changed_text_are_never_counted_without_one(split):
    paths, tokenizer, _, _ = split
    for path in paths:
        sidecar_of(path).unlink()
    with refused(r"val_bytes_000000\.bin does not exist"):
        split_bytes(paths, tokenizer)


def test_a_plain_split_is_counted_by_its_tokenizer(tmp_path: Path):
    (tmp_path / "t.model").write_bytes(train_tokenizer(["the man said the theme " * 20], 280))
    tokenizer = Tokenizer(tmp_path / "t.model")
    write_shard(tmp_path / "x_val_000000.bin", np.array([1, *tokenizer.encode("the man")]))
    assert split_bytes([tmp_path / "x_val_000000.bin"], tokenizer) is tokenizer.bytes
