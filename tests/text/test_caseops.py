"""CaseOps: any text comes back exactly, marks that no text gives are refused, and bytes are those of the original."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import refused

from pgolf_core.base.files import UserError
from pgolf_core.lab.data.build import train_tokenizer
from pgolf_core.text.caseops import CaseTokenizer, from_cases, lenient_from_cases, surface_bytes, to_cases

T, A, C, E = "\ue001\ue002\ue003\ue004"
HARD = "aAbBzZ ·\n.0'é" + "ÜſKµ" + T + A + C + E + "\ue000\ue005\U0001f642\u0130ﬁ™"
"""Cases, marks, their neighbours, and letters whose other case is ASCII or longer."""
EXAMPLES = {  # by the rules in papers/techniques/caseops.md
    "NASA": f"{A}nasa", "McDonald": f"{T}mc{C}donald", "iPhone": f"i{C}phone", "I": f"{T}i", "aB": f"a{C}b",
    "U.S.A.": f"{T}u.{T}s.{T}a.", "B2B": f"{T}b2{T}b", "CAFÉ": f"{A}cafÉ", "the": "the", "The": f"{T}the",
    f"x{E}Y": f"x{E}{E}{T}y", "\ue000": "\ue000", "ABc": f"{T}a{C}bc", "": "",
}  # fmt: skip


def capital_by_capital(text: str) -> str:
    """The rule again, in one walk over the words, without regular expressions."""
    letters, out, at = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"), [], 0
    while at < len(text):
        end = at
        while end < len(text) and text[end] in letters:
            end += 1
        word = text[at:end]
        capitals = [letter.isupper() for letter in word]
        if not word:
            out.append(E + text[at] if text[at] in (T, A, C, E) else text[at])
            end = at + 1
        elif len(word) > 1 and all(capitals):
            out.append(A + word.lower())
        else:
            marks = [(T if place == 0 else C) if is_capital else "" for place, is_capital in enumerate(capitals)]
            out.append("".join(mark + letter.lower() for mark, letter in zip(marks, word, strict=True)))
        at = end
    return "".join(out)


@pytest.mark.parametrize(("text", "changed"), EXAMPLES.items())
def test_the_examples(text: str, changed: str):
    assert to_cases(text) == changed and from_cases(changed) == text


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.text(alphabet=HARD, max_size=30), st.text(max_size=30)))
def test_any_text_comes_back_and_is_changed_by_the_plain_rule(text: str):
    changed = to_cases(text)
    assert from_cases(changed) == text == lenient_from_cases(changed)
    assert changed == capital_by_capital(text) and not re.search("[A-Z]", changed)
    assert sum(surface_bytes(changed)) == len(text.encode())  # character by character: state goes from slice to slice


@settings(max_examples=600, deadline=None)
@given(st.text(alphabet="ab B" + T + A + C + E, max_size=12))
def test_what_is_accepted_is_what_some_text_gives(marked: str):
    try:
        plain = from_cases(marked)
    except UserError as error:
        assert "malformed case marks at character" in str(error)
        assert to_cases(lenient_from_cases(marked)) != marked
    else:
        assert to_cases(plain) == marked


@pytest.mark.parametrize("marked", [
    T, f"{T}1", f"{T}A", f"{A} a", f"{A}a", f"{C}a", f"a{T}b", E, f"{E}a", f"{T}{T}a", f"{A}nasA", "Ab", f"{T}a{C}B",
])  # fmt: skip
def test_malformed_marks_are_refused_with_their_place(marked: str):
    with refused(r"malformed case marks at character \d+, in "):
        from_cases(marked)


# ---------------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CaseTokenizer:
    path: Path = tmp_path_factory.mktemp("caseops") / "tokenizer.model"
    path.write_bytes(train_tokenizer(["The NASA man said: the McDonald theme, The END. " * 20], 300, caseops=True))
    return CaseTokenizer(path)


def test_marks_are_pieces_of_their_own_and_of_no_other(tokenizer: CaseTokenizer):
    pieces = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
    assert [piece for piece in pieces if set(piece) & set(T + A + C + E)] == [T, A, C, E]
    assert tokenizer.lossless
    assert [tokenizer.piece(token) for token in tokenizer.encode(" The")][:2] == ["▁", T]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet=HARD.replace("▁", ""), max_size=20), min_size=1, max_size=3))
def test_any_texts_tokens_count_its_bytes_by_table_and_by_surface(tokenizer: CaseTokenizer, texts: list[str]):
    stream, sizes = [], []
    for text in texts:
        ids, surfaces = tokenizer.encode_with_bytes(text)
        assert tokenizer.decode(ids) == text and len(ids) == len(surfaces)
        assert sum(surfaces) == len(text.encode())
        assert tokenizer.bytes.total(np.array([tokenizer.bos_id, *ids])) == len(text.encode())
        stream += [tokenizer.bos_id, *ids]
        sizes += [0, *surfaces]
    assert tokenizer.bytes.total(np.array(stream)) == sum(sizes)


def test_ids_that_no_text_gives_are_refused_but_can_be_shown(tokenizer: CaseTokenizer):
    title, capitals, follows, escape = tokenizer.bytes.marks.nonzero()[0].tolist()  # type: ignore[attr-defined]
    blank, letter = tokenizer.encode(" a")
    for ids in ([title, blank], [escape, letter], [capitals], [follows, letter]):
        with refused("malformed case marks"):
            tokenizer.decode(ids)
    assert tokenizer.shown([title, blank, title, letter, escape]) == " A"


def test_a_model_without_the_marks_is_refused(tmp_path: Path):
    path = tmp_path / "plain.model"
    path.write_bytes(train_tokenizer(["the man said the theme " * 20], 280))
    with refused("has no pieces for case marks"):
        CaseTokenizer(path)
