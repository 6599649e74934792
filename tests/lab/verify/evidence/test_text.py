"""The scored text: every target once, the bytes of the decoded documents, and which text it is."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.verify.evidence import text
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck
from pgolf_core.lab.verify.evidence.text import TEXT_OF_TRACK, Text, Way, implied_bytes
from pgolf_core.text import shards

LOCAL = "local_10min_1mb"


@pytest.fixture
def toy(dataset: Dataset) -> Text:
    return Text(dataset, progress=False)


def test_an_honest_text_is_whole_and_counted_in_three_ways(toy: Text):
    assert "tokenizer, shards and documents; own split, 0 validation texts stand in training" in toy.whole
    assert toy.total_bytes == toy.bytes_of(763) == toy.dataset.manifest["totals"]["val"]["utf8_bytes"]
    assert f"text {toy.total_bytes:,} bytes, its tokens the same" in toy.decoded
    once = toy.scored_once(Way(32, 8))
    assert once == "763 targets, window 32, strides 32 and 8; 2 documents in the stream, 2 in the manifest"


def test_a_stream_that_lacks_a_document_or_a_token_is_found(toy: Text, monkeypatch: pytest.MonkeyPatch):
    whole = toy.tokens
    second = int(np.flatnonzero(whole == toy.tokenizer.bos_id)[1])
    for tokens, check in ((whole[:second], "documents"), (whole[:-1], "decoded")):
        cut = Text(toy.dataset, progress=False)
        monkeypatch.setattr(shards, "load_tokens", lambda paths, size, tokens=tokens: tokens)
        with pytest.raises(Broken):
            getattr(cut, check)


@pytest.mark.parametrize(
    ("way", "error", "why"),
    [(Way(32, 0), Broken, "no way to score"), (Way(32, 33), Broken, "no way"), (Way(2**20, 1), CannotCheck, "windows")],
)
def test_windows_that_are_none_or_too_many_are_not_planned(
    toy: Text, monkeypatch: pytest.MonkeyPatch, way: Way, error: type[Exception], why: str
):
    monkeypatch.setattr(text, "MAX_WINDOWS", 700)
    with pytest.raises(error, match=why):
        toy.scored_once(way)


def test_another_text_than_the_tracks_is_neither_right_nor_wrong_and_other_bytes_are_wrong(
    toy: Text, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(CannotCheck, match=r"compares scores on sotu-sp\*"):
        toy.is_of_track(LOCAL)
    with pytest.raises(CannotCheck, match="the text of track 'other' is not known"):
        toy.is_of_track("other")
    monkeypatch.setitem(TEXT_OF_TRACK, LOCAL, ("toy", 854_885, 0.0))
    with pytest.raises(Broken, match="has 854,885, exactly"):
        toy.is_of_track(LOCAL)
    monkeypatch.setitem(TEXT_OF_TRACK, LOCAL, ("toy", toy.total_bytes + 1, 0.001))
    assert "within 0.1%" in toy.is_of_track(LOCAL)
    renamed = Text(replace(toy.dataset, name="fineweb-toy"), progress=False)
    with pytest.raises(Broken, match="10min_16mb has 151,080,363"):
        renamed.is_of_track("10min_16mb")


def test_bytes_follow_from_loss_and_bpb():
    assert implied_bytes(2 * math.log(2), 4.0, 100) == pytest.approx(50)
    for pair in ((0.0, 1.0), (1.0, -1.0), (math.nan, 1.0)):
        with pytest.raises(Broken, match="are no score"):
            implied_bytes(*pair, 100)
