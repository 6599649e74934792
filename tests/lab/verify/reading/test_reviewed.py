"""What any reviewed thing can be asked: its text, its scoring, and its claimed counts.

pytest tests/lab/verify/reading/test_reviewed.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import change

from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.verify.command import verify
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.reviewed import Artifact, header_of, scored_once, text_bytes
from pgolf_core.lab.verify.reading.seed import Seed


def test_what_seeds_have_in_common_is_proved_once(honest: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    monkeypatch.setattr(Dataset, "verify", lambda self, progress=False: calls.append(self.name) or "whole")
    rows = verify(honest, How(cache))
    assert calls == ["toy-sp1024"] and sum("manifest" in row.evidence and "whole" in row.check for row in rows) == 2


def test_an_artifact_that_does_not_open_is_not_scored(cache: Path, tmp_path: Path):
    (tmp_path / "model.pgolf").write_bytes(b"no")
    with pytest.raises(CannotCheck, match="it needs an artifact that opens"):
        header_of(tmp_path / "model.pgolf")
    with pytest.raises(CannotCheck, match="it needs an artifact that opens"):
        _ = Artifact(tmp_path / "model.pgolf", How(cache, data="toy-sp1024")).scoring


def test_claimed_counts_are_those_of_the_text(run: Path, cache: Path):
    change(run / "seed1" / "result.json", val_targets=762, val_bytes=9)
    seed = Seed(run / "seed1", How(cache))
    with pytest.raises(Broken, match="763 targets, 762 claimed"):
        scored_once(seed)
    with pytest.raises(Broken, match="claimed 9"):
        text_bytes(seed)
