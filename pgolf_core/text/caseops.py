"""CaseOps: capitals become marks and small letters, and come back exactly (PR 1729, as in PR 1855).

A vocabulary then holds each word once, not as `the`, `The` and `THE`. Only A to Z change: every word, a longest run of
ASCII letters, is small, or a mark and its small letters. A mark that stands in the text itself is escaped. Since marks
are no text, bytes are counted in the original (`surface_bytes`) and kept beside the tokens (`text.sidecar`).
No script holds this file: it makes datasets, and reads them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pgolf_core.base.files import UserError
from pgolf_core.text.shards import CASE_MARKS
from pgolf_core.text.sidecar import has_case_marks
from pgolf_core.text.tokenizer import TokenBytes, Tokenizer

CASEOPS = "caseops"
"""The manifest's word for a text that was changed so."""
TITLE, ALL_CAPS, CAP_NEXT, ESCAPE = list(CASE_MARKS)
MARK_BYTES = 3
"""UTF-8 bytes of a mark that is text, after ESCAPE."""
_CHANGED = re.compile(f"[{CASE_MARKS}]|[A-Za-z]+")
_MARKED = re.compile(f"{ESCAPE}([{CASE_MARKS}])|{ALL_CAPS}([A-Za-z]*)|[{TITLE}{CAP_NEXT}]([a-z]?)|{ESCAPE}")


def to_cases(text: str) -> str:
    """The text with marks for its capitals."""
    return _CHANGED.sub(lambda found: _marked(found[0]), text)


def _marked(word: str) -> str:
    if word in CASE_MARKS:
        return ESCAPE + word
    if word.islower():
        return word
    if len(word) > 1 and word.isupper():
        return ALL_CAPS + word.lower()
    rest = "".join(CAP_NEXT + letter.lower() if letter.isupper() else letter for letter in word[1:])
    return TITLE * word[0].isupper() + word[0].lower() + rest


def from_cases(text: str) -> str:
    """The inverse of `to_cases`; UserError for a text that it never gives, as a mark without its letter."""
    plain = lenient_from_cases(text)
    if (again := to_cases(plain)) != text:
        pairs = zip(text, again, strict=False)
        at = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(text), len(again)))
        around = ascii(text[max(0, at - 8) : at + 8])
        raise UserError(f"malformed case marks at character {at}, in {around}: no text was changed into this one")
    return plain


def lenient_from_cases(text: str) -> str:
    """The same for any text: a mark without its letter gives nothing. A model writes such texts, and so does a
    tokenizer that normalises behind a mark."""
    return _MARKED.sub(lambda found: found[1] or (found[2] or found[3] or "").upper(), text)


def surface_bytes(surfaces: Iterable[str]) -> list[int]:
    """Bytes of the original text that each of consecutive slices of a changed text stands for.

    A mark stands for none, one that ESCAPE precedes for its own; a letter for one, whatever its case was.
    """
    sizes, escaped = [], False
    for surface in surfaces:
        size = 0
        for character in surface:
            if character in CASE_MARKS and not escaped:
                escaped = character == ESCAPE
            else:
                size += len(character.encode("utf-8"))
                escaped = False
        sizes.append(size)
    return sizes


@dataclass(frozen=True)
class CaseBytes(TokenBytes):
    """Bytes of the original text by token, of whole documents: of a mark that is text they depend on what precedes."""

    marks: np.ndarray
    """[V] bool: the four marks."""
    escape: int

    def count(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """As TokenBytes', of a stretch of a stream [n] that begins with no escaped mark."""
        escaped = np.zeros(len(targets), dtype=bool)
        for at in np.flatnonzero(np.asarray(previous) == self.escape).tolist():
            escaped[at] = at == 0 or not escaped[at - 1]
        return super().count(previous, targets) + MARK_BYTES * (escaped & self.marks[targets])


class CaseTokenizer(Tokenizer):
    """A SentencePiece model of changed text, for texts as they are: `encode` puts the marks in, `decode` out again.

    `bytes` are of what `decode` gives; what the text had before a normalising model is known to the sidecar alone.
    UserError for a model without a piece for each mark.
    """

    def __init__(self, model_path: Path | str):
        super().__init__(model_path)
        if not has_case_marks(self):
            raise UserError(f"{self.path} has no pieces for case marks; name a tokenizer of CaseOps text")
        marks = [self._model.piece_to_id(mark) for mark in CASE_MARKS]
        plain, is_mark = self.bytes, np.zeros(self.vocab_size, dtype=bool)
        is_mark[marks] = True
        base = np.where(is_mark, 0, plain.base).astype(plain.base.dtype)
        self.bytes: TokenBytes = CaseBytes(base, plain.leading_space, plain.boundary, is_mark, marks[-1])

    def encode(self, text: str, name: str = "the text") -> list[int]:
        """Token ids of the changed text."""
        return super().encode(to_cases(text), name)

    def decode(self, ids: np.ndarray | list[int]) -> str:  # type: ignore[override]
        """The original text; of a lossless model's ids UserError where no text gives such marks."""
        text = super().decode(ids)
        return from_cases(text) if self.lossless else lenient_from_cases(text)

    def shown(self, ids: np.ndarray | list[int]) -> str:
        """The text of any ids, also of those that a model made up."""
        return lenient_from_cases(super().decode(ids))

    def encode_with_bytes(self, text: str, name: str = "the text") -> tuple[list[int], list[int]]:
        """Token ids, and the original bytes of each by the slice of text that its piece covers before normalisation.

        Of a character in byte pieces the last has all bytes. White space that a normalising model drops counts nowhere.
        """
        changed, ids = to_cases(text), self.encode(text, name)
        cut = self._model.encode(changed, out_type="offset_mapping")
        assert cut["ids"] == ids, "one text has one way to be cut"
        return ids, surface_bytes(changed[start:end] for start, end in cut["offsets"])
