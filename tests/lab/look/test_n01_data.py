"""What notebook 01 computes, against slow versions that are plainly right."""

import lzma
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import zstandard

from pgolf_core.lab.data.build import train_tokenizer
from pgolf_core.lab.look import n01_data as data
from pgolf_core.text.tokenizer import Tokenizer

TEXT = "The state of the Union is strong — twice over.\n\nIn 1836 it was\t“naïve”;  in 1945 it was not. 🙂\n" * 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(train_tokenizer([TEXT], vocab_size=300))
    return Tokenizer(path)


@pytest.fixture
def stream() -> np.ndarray:
    return np.array([1, 5, 6, 5, 6, 7, 1, 5, 6, 9, 1, 1, 6, 7], dtype=np.uint16)


def table_of(*names: str, split: str = "train") -> pd.DataFrame:
    """The documents of a manifest: three, or these of 100 bytes in 41 tokens."""
    rows = [("1790-Adams-1", "train", 100, 41), ("1790-Adams-2", "train", 50, 21), ("1801-X-1", "val", 90, 31)]
    rows = [(name, split, 100, 41) for name in names] or rows
    columns = ["name", "split", "utf8_bytes", "tokens"]
    return data.documents_table({"documents": [dict(zip(columns, row, strict=True)) for row in rows]})


def test_documents_keep_their_order_and_bytes_per_token_leave_bos_out():
    table = table_of()
    assert list(table["year"]) == [1790, 1790, 1801] and list(table["split"]) == ["train", "train", "validation"]
    assert list(table["bytes_per_token"]) == [2.5, 2.5, 3.0] and list(table["position"]) == [0, 1, 2]
    assert table_of("page-17")["year"].isna().all(), "a name without a year has none"


def test_totals_are_of_whole_splits_and_bytes_per_token_leave_bos_out():
    train, val = {"documents": 1, "utf8_bytes": 100, "tokens": 41}, {"documents": 1, "utf8_bytes": 9, "tokens": 2}
    table = data.totals_table({"totals": {"train": train, "val": val}})
    assert table.loc["train"].tolist() == [1, 100, 41, 2.5] and table.loc["validation", "bytes per token"] == 9


def test_compression_by_bin_is_sum_over_sum_not_the_mean_of_ratios():
    table = table_of()
    table.loc[1, "tokens"] = 11  # 50 bytes in 10 tokens, beside 100 bytes in 40
    binned = data.compression_by(table, "year", 10)
    assert binned.loc[1790, "train"] == pytest.approx(150 / 50)
    assert math.isnan(binned.loc[1790, "validation"]) and binned.loc[1800, "validation"] == pytest.approx(3.0)


def test_off_the_rule_names_every_document_in_the_wrong_split_and_versions_of_one_address_stay_together():
    table = table_of()
    moved = table.assign(split=table["split"].map({"train": "validation", "validation": "train"}))
    assert sorted(data.off_the_rule(table) + data.off_the_rule(moved)) == sorted(table["name"])
    assert len(data.off_the_rule(table[:2])) in (0, 2)
    known = table_of("2003-Bush-1", "1967-Johnson-1", split="val")  # two addresses of the corpus
    assert data.off_the_rule(known) == ["1967-Johnson-1"]


def test_sums_by_document_equal_sums_between_the_bos_even_for_an_empty_document(stream: np.ndarray):
    values = np.arange(len(stream)) ** 2  # documents begin at 0, 6, 10 and 11
    expected = [values[:6].sum(), values[6:10].sum(), values[10], values[11:].sum()]
    assert data.sums_by_document(values, stream, 1).tolist() == expected


def test_bytes_of_a_stream_sum_to_the_utf8_bytes_of_each_document(tokenizer: Tokenizer):
    texts = [TEXT, "", " two  spaces ", "tab\tand\r\nline", "ﬁ ｆｕｌｌ 🙂"]
    ids = [token for text in texts for token in (tokenizer.bos_id, *tokenizer.encode(text))]
    lengths = data.bytes_of_stream(tokenizer.bytes, np.array(ids))
    assert lengths.dtype == np.int64 and lengths[0] == 0
    sums = data.sums_by_document(lengths, np.array(ids), tokenizer.bos_id)
    assert sums.tolist() == [len(text.encode("utf-8")) for text in texts]


def test_entropy_is_log2_of_equally_frequent_symbols_and_zero_for_one():
    assert data.entropy_bits(np.array([7, 7, 0, 7, 7])) == pytest.approx(2.0)
    assert data.entropy_bits(np.array([0, 9])) == 0.0


def test_the_piece_table_is_sorted_and_covers_every_byte(tokenizer: Tokenizer):
    ids = np.array([tokenizer.bos_id, *tokenizer.encode(TEXT)])
    table = data.piece_table(tokenizer, ids)
    assert table["count"].is_monotonic_decreasing and table["count"].sum() == len(ids)
    assert (table["bytes"] * table["count"]).sum() == len(TEXT.encode("utf-8"))
    assert table["token_share"].sum() == pytest.approx(1) and table["bytes_covered"].iloc[-1] == pytest.approx(1)
    assert not table["piece"].str.contains("▁|\n", regex=True).any()


def test_the_bigram_equals_witten_and_bell_written_with_dictionaries_and_both_baselines_are_probabilities(
    stream: np.ndarray,
):
    vocab_size = 12  # tokens 2, 3, … never occur: contexts without successors
    pairs, singles = Counter(zip(stream[:-1].tolist(), stream[1:].tolist(), strict=True)), Counter(stream.tolist())

    def slow(previous: int, target: int) -> float:
        unigram = (singles[target] + 1) / (len(stream) + vocab_size)
        followers = {pair[1]: count for pair, count in pairs.items() if pair[0] == previous}
        return (followers.get(target, 0) + (len(followers) or 1) * unigram) / (
            sum(followers.values()) + (len(followers) or 1)
        )

    every = np.arange(vocab_size)
    assert np.exp2(-data.unigram_bits(stream, every, vocab_size)).sum() == pytest.approx(1)
    for previous in range(vocab_size):
        found = np.exp2(-data.bigram_bits(stream, np.full(vocab_size, previous), every, vocab_size))
        assert found.sum() == pytest.approx(1), previous
        np.testing.assert_allclose(found, [slow(previous, target) for target in range(vocab_size)], rtol=1e-12)


def test_on_its_own_training_text_the_bigram_needs_fewer_bits_than_the_unigram(tokenizer: Tokenizer):
    ids = np.array([tokenizer.bos_id, *tokenizer.encode(TEXT)], dtype=np.uint16)
    unigram = data.unigram_bits(ids, ids[1:], tokenizer.vocab_size)
    bigram = data.bigram_bits(ids, ids[:-1], ids[1:], tokenizer.vocab_size)
    assert bigram.sum() < unigram.sum() < math.log2(tokenizer.vocab_size) * (len(ids) - 1)


def test_compressed_text_comes_back_and_its_size_is_what_is_reported():
    payload = TEXT.encode("utf-8")
    packed = zstandard.ZstdCompressor(level=22).compress(payload)
    squeezed = lzma.compress(payload, preset=9 | lzma.PRESET_EXTREME)
    assert zstandard.decompress(packed) == lzma.decompress(squeezed) == payload
    sizes = {"zstd -22": 8 * len(packed) / len(payload), "xz -9e": 8 * len(squeezed) / len(payload)}
    assert data.compressed_bits_per_byte(payload) == sizes


def test_every_wrong_denominator_is_wrong_in_its_own_direction(tokenizer: Tokenizer):
    ids = np.array([tokenizer.bos_id, *tokenizer.encode(TEXT)])
    right = len(TEXT.encode("utf-8"))
    wrong = data.wrong_denominators(tokenizer, ids, TEXT)
    pieces = [tokenizer.piece(token) for token in ids[1:]]
    assert wrong["characters instead of bytes"] == len(TEXT) < right
    assert wrong["leading spaces counted twice"] == right + sum(piece[0] == "▁" for piece in pieces) > right
    assert wrong["pieces as the model file writes them"] == sum(len(p.encode("utf-8")) for p in pieces) > right


def test_the_case_table_counts_original_bytes_in_both_rows_and_only_marks_of_changed_text(
    monkeypatch: pytest.MonkeyPatch,
):
    train, val = [f"The {word} said NASA. " * 9 for word in ("man", "king", "McDonald")] * 9, ["The King said É."]
    table = data.case_table(train, val, 290)
    assert table.index.tolist() == ["as it is", "with case marks"]
    assert (table["tokens"] * table["bytes per token"]).tolist() == pytest.approx([len(val[0].encode())] * 2)
    assert table.loc["as it is", "marks"] == 0
    marks = table.loc["with case marks", "marks"] * table.loc["with case marks", "tokens"]
    assert marks == pytest.approx(2) and (table["bigram bpb"] > 0).all()
    monkeypatch.setattr(data, "CASE_BYTES", 1)
    assert data.case_table(train, val, 280).notna().all(axis=None), "one document at least"


def test_a_text_without_a_tokenizer_of_so_many_pieces_is_not_compared():
    texts = ["The King said: The Man and The Law. " * 9]
    table = data.case_table(texts, texts, 312)
    assert table.loc["as it is"].notna().all() and table.loc["with case marks"].isna().all()
    many = ["".join(map(chr, range(0x4E00, 0x4E00 + 900)))]  # more different characters than pieces
    assert data.case_table(many, many, 1024).isna().all(axis=None)


def test_case_marks_are_shown():
    assert data.shown_cases("The NASA iPhone \ue001") == "⟨T⟩the ⟨A⟩nasa i⟨C⟩phone ⟨E⟩⟨T⟩"
