"""Shards, the stream over them, and the partition of a step into spans."""

import struct
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import refused
from small import word_shards

from pgolf_core.lab.data.build import train_tokenizer, write_shard
from pgolf_core.recipes import recipe
from pgolf_core.text.shards import (
    TokenStream,
    check_enough,
    check_ranks,
    is_sidecar,
    load_tokens,
    prove,
    read_shard,
    seq_len_at,
    shard_tokens,
    step_batch,
)
from pgolf_core.text.tokenizer import Tokenizer

LENGTHS = (37, 1, 0, 80)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Shards of uneven lengths, an empty one among them, holding 0, 1, 2, … in order of their names."""
    paths, start = [], 0
    for number, length in enumerate(LENGTHS):
        paths.append(tmp_path / f"toy_train_{number:06d}.bin")
        write_shard(paths[-1], np.arange(start, start + length, dtype=np.uint16))
        start += length
    return paths


def data_of(batch_tokens: int, spans: int, seq_len: int = 4, **more: Any) -> recipe.Data:
    return recipe.Data(batch_tokens=batch_tokens, seq_len=seq_len, spans_per_step=spans, **more)


def header(magic: int = 20240520, version: int = 1, count: int = 3) -> bytes:
    return struct.pack("<3i", magic, version, count) + bytes(4 * 253)


def test_a_shards_bytes_are_those_of_the_published_format_and_come_back(tmp_path: Path):
    for tokens, wrong in (([1, 65536], 65536), ([-1, 3], -1)):
        with refused(f"token {wrong} does not fit 16 bits"):
            write_shard(tmp_path / "a.bin", np.array(tokens))
    assert list(tmp_path.iterdir()) == []
    write_shard(tmp_path / "a.bin", np.array([1, 513, 65535]))
    assert (tmp_path / "a.bin").read_bytes() == header() + struct.pack("<3H", 1, 513, 65535)
    found = read_shard(tmp_path / "a.bin", vocab_size=65536)
    assert found.dtype == np.uint16 and found.tolist() == [1, 513, 65535] and shard_tokens(tmp_path / "a.bin") == 3


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a")
    word_shards(folder, 300)
    return folder


def test_shards_prove_their_tokenizer_also_inside_one_long_document(words: Path, tmp_path: Path):
    paths, tokenizer = sorted(words.glob("*.bin")), Tokenizer(words / "tokenizer.model")
    assert 20 < prove(paths, tokenizer) <= 60
    tokens = load_tokens(paths)
    text = tokens[tokens != tokenizer.bos_id]
    write_shard(tmp_path / "long.bin", text)
    assert prove([tmp_path / "long.bin"], tokenizer) == 1
    for wrong in ((text + 7) % 300, np.concatenate([tokens[:-4000], (tokens[-4000:] + 3) % 300])):
        write_shard(tmp_path / "other.bin", wrong)
        with refused(r"documents do not encode to their own tokens .* the tokenizer .* did not"):
            prove([*paths, tmp_path / "other.bin"], tokenizer)
    write_shard(tmp_path / "x.bin", (text + 7) % 300)
    with refused(r"^\d of \d\d\d documents"):  # one shard after many
        prove([*paths * 9, tmp_path / "x.bin"], tokenizer)
    letters = [token for letter in tokenizer.decode(tokens[1:99]) for token in tokenizer.encode(letter)]
    write_shard(tmp_path / "other.bin", np.concatenate([[tokenizer.bos_id], letters, tokens]))
    with refused(r"^1 of \d documents"):  # one document of a few
        prove([tmp_path / "other.bin"], tokenizer)
    write_shard(tmp_path / "zeros.bin", np.append(tokens, np.zeros(64, np.uint16)))
    with refused(r"zeros\.bin holds zeros .* broken off"):
        prove([tmp_path / "zeros.bin"], tokenizer)


def test_shards_of_one_long_text_without_spaces_prove_their_tokenizer_from_a_character_on(tmp_path: Path):
    letters = np.random.default_rng(0).choice(list("一二三四五六七八九十"), 4000)
    (tmp_path / "t.model").write_bytes(train_tokenizer(["".join(letters)], 300))
    tokenizer = Tokenizer(tmp_path / "t.model")
    tokens = np.array(tokenizer.encode("漢字" + "".join(letters))[1:])
    assert tokenizer.piece(tokens[0]) == "<0xBC>" and not any("▁" in tokenizer.piece(token) for token in tokens)
    write_shard(tmp_path / "long.bin", tokens)
    assert prove([tmp_path / "long.bin"], tokenizer) == 1
    write_shard(tmp_path / "other.bin", np.where(tokens > 280, 280 + (tokens + 7) % 20, tokens))
    with refused("documents do not encode to their own tokens"):
        prove([tmp_path / "other.bin"], tokenizer)


def test_a_byte_sidecar_a_pointer_and_a_web_page_are_no_shards_and_say_what_they_are(tmp_path: Path):
    for name, payload, message in (
        ("x_val_bytes_000000.bin", header(), "is a byte sidecar"),
        ("x_valbytes_000000.bin", header(), "is a byte sidecar"),
        ("val_lengths.BIN", header(), "is a byte sidecar"),
        ("a.bin", b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
        ("b.bin", b"\n<!DOCTYPE html>", "is a web page"),
    ):
        (tmp_path / name).write_bytes(payload)
        with refused(message):
            shard_tokens(tmp_path / name)
    assert (
        is_sidecar("bytes/val/000000.bin") and is_sidecar("a/val_000000.bytes") and is_sidecar("token_byte_counts.npy")
    )
    assert not any(map(is_sidecar, ("fineweb10B_byte260/x_train_0.bin", "bytes.md", "kilobyte_val_0.bin")))


@pytest.mark.parametrize(
    ("fault", "payloads"),
    [
        ("does not exist", [None]),
        ("not a shard", [b"", b"\x18", b"PK\x03\x04" + bytes(2000), header(magic=20240521) + bytes(6)]),
        ("version 2", [header(version=2) + bytes(6)]),
        ("truncated", [header()[:40], header() + bytes(5), header() + bytes(4), header(count=2**31 - 1) + bytes(6)]),
        ("too long", [header() + bytes(7), header() + bytes(8), header(count=-1) + bytes(6)]),
    ],
)
def test_a_bad_shard_is_one_line_that_names_file_fault_and_remedy(tmp_path: Path, fault: str, payloads: list):
    path = tmp_path / "bad.bin"
    for payload in payloads:
        if payload is not None:
            path.write_bytes(payload)
        for read in (read_shard, shard_tokens, lambda path: TokenStream([path]), lambda path: load_tokens([path])):
            with refused(fault) as caught:
                read(path)
            message = str(caught.value)
            assert "bad.bin" in message and "prepare it again" in message and "\n" not in message


def test_what_cannot_be_read_is_a_user_error(shards: list[Path], monkeypatch):
    for read in (TokenStream, load_tokens):
        with refused("no shards"):
            read([])
    with refused("no tokens"):
        TokenStream([shards[2]])
    with refused("does not exist"):
        read_shard(shards[0].parent)
    monkeypatch.setattr("builtins.open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with refused(r"cannot read shard .*000000\.bin: Permission denied"):
        read_shard(shards[0])


def test_a_token_beyond_the_vocabulary_is_named_with_its_place(shards: list[Path]):
    stream = TokenStream(shards, vocab_size=100)
    assert len(stream.take(100)) == 100
    for read in (lambda: load_tokens(shards, vocab_size=100), lambda: stream.take(5)):
        with refused(r"toy_train_000003\.bin holds token 100 at position 62, .* 100 pieces"):
            read()
    assert stream.position == 100


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any), takes=st.lists(st.integers(0, 60)))
def test_the_stream_wraps_and_goes_on_from_any_position(tmp_path_factory, lengths: list[int], takes: list[int]):
    """Through the shards in the order of their names; what was taken is the taker's own."""
    folder = tmp_path_factory.mktemp("stream")
    paths, total = [folder / f"{number}.bin" for number in range(len(lengths))], sum(lengths)
    for path, start, length in zip(paths, np.cumsum([0, *lengths]), lengths, strict=False):
        write_shard(path, np.arange(start, start + length))
    stream = TokenStream(paths[::-1])
    assert stream.total_tokens == total and np.array_equal(load_tokens(paths[::-1]), np.arange(total))
    for n in takes:
        position = stream.position
        taken = stream.take(n)
        assert taken.dtype == np.uint16 and np.array_equal(taken, (position + np.arange(n)) % total)
        assert stream.position == position + n
        taken += 1
        assert np.array_equal(TokenStream(paths, position=position).take(n), (position + np.arange(n)) % total)


def test_a_step_of_eight_spans_is_the_published_partition_for_any_number_of_ranks(shards: list[Path]):
    """As papers/machinery.md has it: every micro-step takes (n + 1) * world tokens, rank r the r-th span of n + 1."""
    endless, stream = np.tile(np.arange(sum(LENGTHS)), 10), TokenStream(shards)
    for step in range(3):
        inputs, targets = step_batch(stream, data_of(64, spans=8))
        for world in (1, 2, 4, 8):
            micro_steps = endless[step * 72 : (step + 1) * 72].reshape(8 // world, world, 9)
            spans = [micro_steps[micro, rank] for micro in range(8 // world) for rank in range(world)]
            assert np.array_equal(inputs.numpy(), np.concatenate([span[:-1].reshape(-1, 4) for span in spans]))
            assert np.array_equal(targets.numpy(), np.concatenate([span[1:].reshape(-1, 4) for span in spans]))
    assert stream.position == 3 * 72


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
@pytest.mark.parametrize("spans", [1, 2, 8, 12])
def test_the_ranks_together_see_the_tokens_that_one_sees(shards: list[Path], spans: int, order: str):
    """Also where they go on from a position; in memory a step lies as the warm-up's, so that no graph is made anew."""
    data = data_of(8 * spans, spans, order=order)
    for ranks in (n for n in range(1, spans + 1) if spans % n == 0):
        alone = TokenStream(shards, seed=3)
        for _ in range(3 if spans > 2 else 12):  # across the end of a pass
            streams = [TokenStream(shards, position=alone.position, seed=3) for _ in range(ranks)]
            whole = step_batch(alone, data)
            shares = [step_batch(stream, data, rank, ranks) for rank, stream in enumerate(streams)]
            for part in (0, 1):  # inputs, targets
                assert torch.equal(torch.cat([share[part] for share in shares]), whole[part])
                assert whole[part].dtype is torch.int64 and whole[part].is_contiguous()
            assert {stream.position for stream in streams} == {alone.position}
            assert order == "sequential" or torch.equal(whole[1], whole[0] + 1)


def test_ranks_that_do_not_divide_the_spans_and_a_corpus_too_short_for_one_batch_are_refused_with_the_numbers():
    data = data_of(32_768, spans=8, seq_len=512)
    for ranks in (1, 4, 8):
        check_ranks(ranks, data)
    with refused(r"^3 processes do not divide data\.spans_per_step = 8; use .*$"):
        check_ranks(3, data)
    check_enough(32_776, data, "the training split")
    with refused(r"the training split has 32,775 tokens, .*32768 needs 32,776"):
        check_enough(32_775, data, "the training split")


@pytest.mark.parametrize("length", [1, 4, 7])
def test_a_shuffled_pass_shows_every_window_once_in_an_order_of_its_own(shards: list[Path], length: int):
    total, count, orders = sum(LENGTHS), sum(LENGTHS) // length - 1, []
    for seed, number in ((5, 0), (5, 1), (5, 2), (6, 0)):
        stream = TokenStream(shards, position=number * count * length, seed=seed)
        windows = stream.take_shuffled(count, length).astype(int)
        starts = np.sort(windows[:, 0])
        assert np.array_equal(windows, windows[:, :1] + np.arange(length + 1)) and windows.max() < total  # none wraps
        assert 0 <= starts[0] < length and np.array_equal(starts, starts[0] + length * np.arange(count))
        orders.append(tuple(windows[:, 0]))
    assert len({*orders, tuple(starts)}) == 5


def test_a_split_shorter_than_two_windows_still_gives_whole_windows(tmp_path: Path):
    write_shard(tmp_path / "0.bin", np.arange(6))
    windows = TokenStream([tmp_path / "0.bin"]).take_shuffled(9, 4)
    assert windows.shape == (9, 5) and {tuple(np.diff(row.astype(int)) % 6) for row in windows} == {(1, 1, 1, 1)}


def test_the_last_part_of_a_budget_sees_longer_windows_of_as_many_tokens(shards: list[Path]):
    data = data_of(32, 4, order="shuffled", final_seq_len=8, final_fraction=0.2)
    schedule, stream = recipe.Schedule(iterations=10, max_seconds=0.0), TokenStream(shards, seed=3)
    lengths = [seq_len_at(data, schedule.used(step, 0.0)) for step in range(10)]
    assert [step_batch(stream, data, seq_len=n)[0].shape for n in lengths] == [(8, 4)] * 8 + [(4, 8)] * 2
    assert seq_len_at(data_of(32, 4), 1.0) == 4
