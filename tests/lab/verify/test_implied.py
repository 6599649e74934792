"""The bytes that a submission's pairs of loss and bpb imply, against the text's.

pytest tests/lab/verify/test_implied.py
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from published import PR315, edit_logs, published

from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.implied import FINEWEB_TOKENS, implied_by_every_pair
from pgolf_core.lab.verify.reading.folder import Submission


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "track_10min_16mb" / "A_record"


def implied(folder: Path) -> str:
    return implied_by_every_pair(Submission(folder, How(folder.parent)))


def test_pairs_over_the_known_text_imply_its_bytes(place: Path):
    assert "7 pairs of loss and bpb imply 151,080,363 bytes over 62,021,632" in implied(published(place, PR315))


@pytest.mark.parametrize(("factor", "error"), [(0.998, Broken), (1.002, Broken)])
def test_a_denominator_that_grew_or_shrank_shows(place: Path, factor: float, error: type[Exception]):
    other = {seed: (*row[:2], f"{float(row[2]) * factor:.8f}", *row[3:]) for seed, row in PR315.items()}
    with pytest.raises(error, match="the split has 151,080,363"):
        implied(published(place, other))


@pytest.mark.parametrize("bad", [0, -1, "x", True, 1e9])
def test_a_claimed_pair_that_is_no_score_is_broken(place: Path, bad: object):
    with pytest.raises(Broken, match="are no score"):
        implied(published(place, PR315, claims={"val_bpb": bad}))


def test_without_a_token_count_only_a_published_tokenizer_that_fits_is_believed(place: Path):
    folder = published(place, PR315, say_tokens=False)
    edit_logs(folder, "fineweb_1024_bpe", "own")
    assert "as of SP1024" in implied(folder)
    unlike = {seed: (*row[:2], f"{float(row[2]) * 1.3:.8f}", *row[3:]) for seed, row in PR315.items()}
    other = published(place.parent / "other", unlike, say_tokens=False)
    edit_logs(other, "fineweb_1024_bpe", "own")
    with pytest.raises(CannotCheck, match="how many tokens"):
        implied(other)


@pytest.mark.parametrize("vocab", [4096, 8192])
def test_the_bytes_are_the_same_whatever_the_tokenizer(place: Path, vocab: int):
    bpb = 1.1
    loss = bpb * math.log(2) * 151_080_363 / FINEWEB_TOKENS[f"SP{vocab}"]
    folder = published(place, {1: (7000, f"{loss:.8f}", f"{bpb:.8f}", 15_000_000, 15_060_000)}, say_tokens=False)
    edit_logs(folder, "fineweb_1024_bpe", f"fineweb_{vocab}_bpe")
    edit_logs(folder, r"val_loss:1\.9279 val_bpb:1\.1418", f"val_loss:{loss:.4f} val_bpb:{bpb:.4f}")
    assert f"(SP{vocab}); and so do 1 validations while training" in implied(folder)
    edit_logs(folder, rf"val_bpb:{bpb:.4f} train", "val_bpb:1.3000 train")
    with pytest.raises(CannotCheck, match="validations while training do not"):
        implied(folder)
