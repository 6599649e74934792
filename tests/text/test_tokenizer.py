"""The bytes of tokens against the bytes of text, and which tokenizers are refused."""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refused import refused
from small import small_recipe

from pgolf_core.base.files import UserError
from pgolf_core.lab.data.build import TOKENIZER_SETTINGS, train_tokenizer
from pgolf_core.lab.data.dataset import refuse_normalising
from pgolf_core.text.tokenizer import NUM_BYTE_PIECES, SPACE_MARK, Tokenizer, check_vocab, need_bos

TEXTS = [
    "Fellow-citizens of the Senate and House of Representatives:\n\nIn 1790 we paid $12,345.67 of the debt.\n\n" * 4,
    "The state of the Union is strong.\n\nThe people of the States are free; the courts of the land are open.\n " * 4,
]
PIECES = 330
# Full-width letters, ligatures and the like: NFKC would rewrite them.
AWKWARD = [
    "", " ", "  ", " leading", "  double  spaces  ", "trailing ", "\t", "\ta\t\tb", "\n", "\n\n\n", "a\r\nb\r\n",
    "\0a\0", "ﬁne ﬂour Ａｂｃ ①②③ ｱｲｳ ㎏ ½ … ™", "e\u0301 é", "Ωμέγα 漢字 кириллица", "👩\u200d👩\u200d👧 🎉🎉",
    "\ufeffbom", "\u3000wide", "\xa0hard\u200bzero", "\u2028line\u2029", "\ufffd", "\u2585 \u2047",
    "<s></s><unk><pad><0x41>", "1234567890", "of the " * 50,
]  # fmt: skip


def train(**changes: Any) -> bytes:
    """A model with our settings but for `changes`."""
    options, model = {**TOKENIZER_SETTINGS, "vocab_size": PIECES, "minloglevel": 2, **changes}, io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **options)
    return model.getvalue()


def tokenizer_of(path: Path, payload: bytes) -> Tokenizer:
    path.write_bytes(payload)
    return Tokenizer(path)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_of(tmp_path_factory.mktemp("tokenizer") / "ours.model", train_tokenizer(TEXTS, PIECES))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As the published ones (papers/machinery.md): NFKC, collapsed whitespace, ids pad 0, bos 1, eos 2, unk 3."""
    rewriting = {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}
    payload = train(**rewriting, pad_id=0, bos_id=1, eos_id=2, unk_id=3)
    return tokenizer_of(tmp_path_factory.mktemp("tokenizer") / "published.model", payload)


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def awkward(test: Callable) -> Callable:
    """Every text of AWKWARD as an explicit example of a hypothesis test."""
    return functools.reduce(lambda test, text: example(text)(test), AWKWARD, test)


@awkward
@settings(max_examples=100, deadline=None)
@given(text=ANY_TEXT.filter(lambda text: SPACE_MARK not in text))
def test_with_our_tokenizer_any_text_comes_back_and_each_prefix_of_its_tokens_has_the_bytes_it_decodes_to(ours, text):
    ids, payload = np.array([ours.bos_id, *ours.encode(text)]), text.encode("utf-8")
    assert ours.decode(ids) == text and ours.bytes.total(ids) == len(payload)
    assert not ours.bytes.boundary[ids[1:]].any(), "no text gives a control token"
    ends = np.cumsum(ours.bytes.count(ids[:-1], ids[1:])).tolist()
    for token, start, end in zip(ids[1:].tolist(), [0, *ends], ends, strict=False):
        piece = ours.piece(token)
        is_byte = ours.bytes.base[token] == 1 and piece.startswith("<0x")
        expected = bytes([int(piece[3:5], 16)]) if is_byte else piece.replace(SPACE_MARK, " ").encode("utf-8")
        assert payload[start:end] == expected


def test_our_tokens_bytes_depend_on_the_token_alone_and_unseen_characters_are_spelled_in_bytes(ours: Tokenizer):
    refuse_normalising(ours)
    every, table = np.arange(ours.vocab_size), ours.bytes
    assert ours.lossless and not table.leading_space.any() and table.base[ours.bos_id] == 0
    for previous in (0, ours.bos_id, ours.vocab_size - 1):
        assert np.array_equal(table.count(np.full_like(every, previous), every), table.base)
    assert table.boundary[ours.bos_id] and table.boundary.sum() == 2  # and the unknown, which byte fallback never gives
    assert [ours.piece(token) for token in ours.encode("漢")] == [f"<0x{byte:02X}>" for byte in "漢".encode()]
    assert len(ours.encode("1790")) == 4  # digits are apart
    assert sum(ours.piece(token).startswith("<0x") for token in every.tolist()) == NUM_BYTE_PIECES


@awkward
@example("a▁b")
@example("▁▁ of▁▁the▁")
@settings(max_examples=100, deadline=None)
@given(text=ANY_TEXT)
def test_with_a_published_tokenizer_the_bytes_are_those_of_the_decoded_text(published: Tokenizer, text: str):
    ids = np.array([published.bos_id, *published.encode(text)])
    assert published.bytes.total(ids) == len(published.decode(ids).encode("utf-8"))


def test_a_published_piece_counts_its_leading_space_unless_a_boundary_stands_before(published: Tokenizer):
    space_the = next(token for token in range(published.vocab_size) if published.piece(token) == SPACE_MARK + "the")
    table, letter = published.bytes, published.encode("e")[0]
    counted = table.count(np.array([[letter], [published.bos_id]], np.uint16), np.array([[space_the]] * 2))
    assert table.leading_space[space_the] and counted.tolist() == [[4], [3]] and counted.dtype == np.int64
    assert (table.base.dtype, table.leading_space.dtype, table.boundary.dtype) == (np.int16, np.bool_, np.bool_)
    assert not published.lossless and published.decode(published.encode("  ﬁne   print ")) == "fine print"


def test_a_tokenizer_of_ours_that_changes_text_is_refused_with_the_reason(tmp_path: Path, ours: Tokenizer):
    payload, field = ours.path.read_bytes(), b"\x0a\x03"  # of the file: field 1, its length; then its text
    assert payload.count(field + SPACE_MARK.encode()) == 1
    for model, reason in (
        (train(normalization_rule_name="nmt_nfkc"), "normalises"),
        (train(add_dummy_prefix=True), "dummy prefix"),
        (train(remove_extra_whitespaces=True), "collapses"),
        (train(byte_fallback=False, vocab_size=80), "byte fallback"),
        (payload.replace(field + SPACE_MARK.encode(), field + "⁇".encode()), "bare-space"),
    ):
        tokenizer = tokenizer_of(tmp_path / "changed.model", model)
        with refused(reason):
            refuse_normalising(tokenizer)
        assert not tokenizer.lossless or reason == "bare-space"


def test_text_and_tokens_that_cannot_come_back_are_refused_by_name(ours: Tokenizer):
    with refused(r"1999-Name-1 holds U\+2581"):
        ours.encode(f"a{SPACE_MARK}b", "1999-Name-1")
    with refused(r"1999-Name-1 .* lone surrogate at character 1"):
        ours.encode("a\ud800", "1999-Name-1")
    for token in (-1, PIECES):
        with refused(str(token)):
            ours.decode([1, token])


def test_the_trainer_reads_all_of_a_text_however_long_and_whatever_its_characters_and_says_what_is_too_little(tmp_path):
    filler = " the state of the union" * 20
    for awkward in ("\u2585", "\t", "\0", "\r\n", "\u2028", "x" * 70_000, "x " * 50_000):
        payload = train_tokenizer([filler, awkward + " zebrazebra" * 10_000], 276)
        tokenizer = tokenizer_of(tmp_path / "trained.model", payload)
        pieces = map(tokenizer.piece, range(tokenizer.vocab_size))
        assert any("zebra" in piece for piece in pieces), f"the text with {awkward[:2]!r} was left out"
    for texts in ([], [""], ["too short"]):
        with refused(r"^cannot train a tokenizer of 1024 pieces.*$"):
            train_tokenizer(texts)


def test_a_missing_or_foreign_model_file_is_a_user_error_that_names_it(tmp_path: Path, ours: Tokenizer):
    path, payload = tmp_path / "foreign.model", ours.path.read_bytes()
    with refused(r"foreign\.model"):
        Tokenizer(path)
    for foreign in (b"", b"hello", bytes(100), b"\x80" * 50, b"\x12\x00"):
        with refused(r"foreign\.model"):
            tokenizer_of(path, foreign)
    with refused("BOS"):
        tokenizer_of(path, train(bos_id=-1))
    for size in range(0, len(payload), 97):  # a truncated file may be a smaller tokenizer
        try:
            assert tokenizer_of(path, payload[:size]).vocab_size <= ours.vocab_size
        except UserError as error:
            assert "foreign.model" in str(error)


def test_a_vocabulary_that_differs_from_the_recipes_is_refused_with_both_numbers():
    check_vocab(1024, 1024)
    with refused(r"model\.vocab_size = 512, .*sotu-sp1024 has 1024 pieces"):
        check_vocab(1024, 512, "sotu-sp1024")


@pytest.mark.parametrize(
    ("sections", "finds"),
    [
        ({}, False),
        ({"data": {"order": "shuffled"}, "adapt": {"kind": "sgd", "chunk_tokens": 64}}, False),
        ({"model": {"smear": "window", "smear_bos_mask": False}}, False),
        ({"model": {"smear": "window"}}, True),
        ({"data": {"order": "packed"}}, True),
        ({"eval": {"document_mask": True}}, True),
        ({"adapt": {"kind": "lora", "chunk_tokens": 64, "lora_tokens": 8}}, True),
    ],
)
def test_a_recipe_that_finds_documents_by_their_bos_refuses_a_tokenizer_of_another(sections, finds, tmp_path: Path):
    recipe, other = small_recipe(**sections), tokenizer_of(tmp_path / "other.model", train(bos_id=2, unk_id=1))
    need_bos(recipe, 1)
    if not finds:
        return need_bos(recipe, other.bos_id)
    with refused(rf"^{recipe.name} finds documents by BOS = 1, but the tokenizer has 2; choose"):
        need_bos(recipe, other.bos_id)
