"""SentencePiece tokenizers, and exactly how many bytes of text each token stands for.

Bits per byte divide by the bytes of the text, so the byte count is the denominator of every score here. Two kinds of
tokenizer are told apart by what their model file says, never by their name:

- lossless ones (ours): identity normalisation, no dummy prefix, no whitespace collapsing, byte fallback. Text goes in
  and comes back unchanged, and a token's bytes depend on the token alone: a space counts in the piece that holds it.
- all others (the published FineWeb ones rewrite text by NFKC): bytes are those of the decoded text, and a piece's
  leading space counts unless the token before it is a boundary such as BOS (papers/machinery.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from pgolf_core.base.files import UserError, told_by
from pgolf_core.recipes.recipe import Recipe

SPACE_MARK = "▁"
"""U+2581, which SentencePiece writes for a space: text that holds the character itself cannot be told from a space."""
NUM_BYTE_PIECES = 256
BOS = 1
"""Id of the token that begins a document, in every tokenizer made or fetched here; `need_bos` refuses another."""


@dataclass(frozen=True)
class TokenBytes:
    """Bytes of every token; V is the vocabulary's size."""

    base: np.ndarray
    """[V] int16: UTF-8 bytes of the piece, without its leading space where `leading_space` is set."""
    leading_space: np.ndarray
    """[V] bool: the piece begins with a space, counted only after a token that is no boundary."""
    boundary: np.ndarray
    """[V] bool: BOS and other ids that stand for no text."""

    def count(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Bytes of each target token given the token before it: integer ids of any shape -> int64, the same shape."""
        lead = self.leading_space[targets] & ~self.boundary[previous]
        return self.base[targets].astype(np.int64) + lead

    def total(self, tokens: np.ndarray) -> int:
        """Bytes of a whole sequence's targets: every token but the first."""
        tokens = np.asarray(tokens)
        return int(self.count(tokens[:-1], tokens[1:]).sum())


class Tokenizer:
    """A SentencePiece model file: encoding, decoding, and the bytes of every token.

    Attributes: `path`; `vocab_size`; `bos_id`; `bytes` (TokenBytes); `lossless`; `objections`, which says why a
    tokenizer is not lossless (empty for one that is). Raises UserError for a missing or foreign file.
    """

    def __init__(self, model_path: Path | str):
        self.path = Path(model_path)
        if not self.path.is_file():
            raise UserError(f"tokenizer {self.path} does not exist; prepare its dataset again, or name a .model file")
        try:
            payload = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read tokenizer {self.path}: {error.strerror}") from None
        instead = told_by(self.path) or "is not a SentencePiece model"
        foreign = UserError(f"{self.path} {instead}; prepare its dataset again, or name a .model file")
        if not payload:
            raise foreign
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=payload)
            normaliser, denormaliser = (
                b"".join(part for number, part in _fields(payload) if number == wanted and isinstance(part, bytes))
                for wanted in (3, 5)
            )
        except (RuntimeError, IndexError, TypeError):
            raise foreign from None
        self.vocab_size: int = self._model.vocab_size()
        self.bos_id: int = self._model.bos_id()
        if self.bos_id < 0:
            raise UserError(f"{self.path} has no BOS piece, with which every document begins; choose another")
        self.objections = tuple(self._objections(normaliser, denormaliser))
        self.lossless = not self.objections
        self.bytes = self._token_bytes()

    def encode(self, text: str, name: str = "the text") -> list[int]:
        """Token ids of `text`, BOS not added. `name` is the document's, for the UserError about text it cannot hold."""
        if self.lossless and SPACE_MARK in text:
            raise UserError(
                f"{name} holds U+2581, which the tokenizer cannot tell from a space; replace that character"
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"{name} is no valid text: lone surrogate at character {error.start}; repair it") from None
        return self._model.encode(text)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids; BOS and other control ids give none, and bytes that end inside a character give U+FFFD."""
        plain: list[int] = np.asarray(ids, dtype=np.int64).tolist()
        wrong = next((token for token in plain if not 0 <= token < self.vocab_size), None)
        if wrong is not None:
            raise UserError(f"token {wrong} is not among the {self.vocab_size} pieces of {self.path}; use its own data")
        return self._model.decode(plain)

    def piece(self, token: int) -> str:
        """A token's piece as written in the model, with U+2581 for a space; for display."""
        return self._model.id_to_piece(int(token))

    def _stands_for_text(self, token: int) -> bool:
        model = self._model
        return not (model.is_control(token) or model.is_unknown(token) or model.is_unused(token))

    def _objections(self, normaliser: bytes, denormaliser: bytes) -> Iterator[str]:
        """Every reason why some text would not come back unchanged."""
        settings = dict(_fields(normaliser))  # field numbers of SentencePiece's NormalizerSpec; 3, 4, 5 default to true
        if settings.get(2) or settings.get(6) or dict(_fields(denormaliser)).get(2):
            yield "it normalises text"
        if settings.get(3, 1):
            yield "it adds a dummy prefix"
        if settings.get(4, 1):
            yield "it collapses whitespace"
        if not settings.get(5, 1):
            yield "it does not escape whitespace"
        if sum(self._model.is_byte(token) for token in range(self.vocab_size)) != NUM_BYTE_PIECES:
            yield "it lacks byte fallback"
        bare = self._model.piece_to_id(SPACE_MARK)
        if self._model.id_to_piece(bare) != SPACE_MARK or not self._stands_for_text(bare):
            yield "it lacks a bare-space piece"

    def _token_bytes(self) -> TokenBytes:
        """A space inside a piece (no published piece has one) counts one byte, as it decodes."""
        base = np.zeros(self.vocab_size, dtype=np.int16)
        leading_space = np.zeros(self.vocab_size, dtype=bool)
        boundary = np.ones(self.vocab_size, dtype=bool)
        for token in range(self.vocab_size):
            if not self._stands_for_text(token):
                continue
            boundary[token] = False
            if self._model.is_byte(token):
                base[token] = 1
                continue
            piece = self._model.id_to_piece(token)
            if not self.lossless and piece.startswith(SPACE_MARK):
                leading_space[token] = True
                piece = piece[1:]
            base[token] = len(piece.replace(SPACE_MARK, " ").encode("utf-8"))
        return TokenBytes(base, leading_space, boundary)


def check_vocab(tokenizer_vocab: int, recipe_vocab: int, dataset: str = "the dataset") -> None:
    """UserError unless the recipe's model has exactly one row for each piece of the dataset's tokenizer."""
    if tokenizer_vocab != recipe_vocab:
        raise UserError(
            f"model.vocab_size = {recipe_vocab}, but the tokenizer of {dataset} has {tokenizer_vocab} pieces; "
            f"pass --set model.vocab_size={tokenizer_vocab} or another --data"
        )


def need_bos(recipe: Recipe, bos: int) -> None:
    """UserError where a recipe finds documents in the tokens and `bos`, the tokenizer's, is not what it looks for."""
    model, tells = recipe.model, recipe.data.order == "packed" or recipe.adapt.kind == "lora"
    masks = recipe.eval.document_mask or (model.smear == "window" and model.smear_bos_mask)
    if bos != BOS and (tells or masks):
        raise UserError(f"{recipe.name} finds documents by BOS = {BOS}, but the tokenizer has {bos}; choose another")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a protobuf message's own fields: varints as int, the rest as bytes.

    Enough to read a model's normaliser settings without a protobuf library; SentencePiece has parsed the file before.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[at : at + size]
        at += size
