"""What is reviewed: damaged files are rows that say so, no changed claim goes unnoticed, what is shared is proved once.

pytest tests/lab/verify/reading/test_reviewed.py (-m slow for thousands of mutations in place of dozens)
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reviewing import (
    DAMAGE,
    another,
    both,
    failing,
    got,
    holding,
    judged,
    judged_with_damages,
    places_of,
    replaced,
    spoil,
)
from toy_run import change

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.report.seeds import summarise_seeds
from pgolf_core.lab.verify.command import verify
from pgolf_core.lab.verify.evidence.checks import UNKNOWN
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.reviewed import Seed

CHECK_OF = {
    "recipe.json": "recipe.json is whole", "result.json": "result.json is whole",
    "model.pgolf": "artifact opens and is whole", "ledger.json": "ledger.json is the file's",
    "env.json": "the run's own hashes agree", "averaging.json": "raw and averaged scores are averaging.json's",
    "train.log": "log and metrics say the same", "metrics.jsonl": "log and metrics say the same",
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", CHECK_OF)
def test_damage_of_any_file_is_a_failing_row_at_once_and_never_a_traceback(
    run: Path, cache: Path, name: str, kind: str
):
    spoil(run / "seed1" / name, kind)
    assert CHECK_OF[name] in failing(run / "seed1", cache) and not (run / "seed1" / "exploded").exists()


def test_a_result_is_read_strictly_and_where_it_is_damaged_other_checks_cannot_be_made(run: Path, cache: Path):
    change(run / "seed1" / "result.json", steps=8.5)
    with pytest.raises(UserError, match="steps must be of type int"):
        _ = Seed(run / "seed1", How()).result_file
    assert failing(run / "seed1", cache) == {"result.json is whole"}
    row = judged(run / "seed1", cache)["sliding score from the file alone"]
    assert row.verdict == UNKNOWN and "it needs a whole result.json" in row.evidence


def test_what_seeds_have_in_common_is_proved_once(honest: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    monkeypatch.setattr(Dataset, "verify", lambda self, progress=False: calls.append(self.name) or "whole")
    rows = verify(honest, How(cache))
    assert calls == ["toy-sp1024"] and sum("manifest" in row.evidence and "whole" in row.check for row in rows) == 2


UNCHECKED: dict[str, tuple | None] = {
    "seed1/result.json": (), "summary.json": (), "seed1/env.json": None,
    "seed1/recipe.json": ("title", "correction_damping", "correction_tokens"),  # the two play no part here
    "seed1/averaging.json": None, "seed1/ledger.json": ("entropy_bytes",), "seed1/stages/03_train.json": None,
}  # fmt: skip
"""Keys of each file that no check covers; None where only some are covered and only exceptions are looked for."""


@both
def test_no_changed_claim_of_a_run_goes_unnoticed(run: Path, cache: Path, how: settings):
    shutil.rmtree(run / "seed2")
    write_json(run / "summary.json", summarise_seeds({1: Seed(run / "seed1", How()).result_file}))
    before = holding(run, cache)
    places = [
        (name, at) for name, left_out in UNCHECKED.items() for at in places_of(read_json(run / name))
        if left_out is None or not set(left_out) & set(at)
    ]  # fmt: skip

    @how
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        name, at = data.draw(st.sampled_from(places))
        text = (run / name).read_text()
        try:
            values = json.loads(text)
            (run / name).write_text(json.dumps(replaced(values, at, another(got(values, at), data.draw))))
            held = holding(run, cache)
            assert UNCHECKED[name] is None or before - held, f"{name} {at} was changed and nothing noticed"
        finally:
            (run / name).write_text(text)

    check()
    assert holding(run, cache) == before


@both
def test_bytes_changed_anywhere_in_a_run_never_raise(run: Path, cache: Path, how: settings):
    names = [*CHECK_OF, "stages/03_train.json", "stages/05_quantize.json"]
    judged_with_damages(run / "seed1", names, cache, how)
