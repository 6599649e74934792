"""What is reviewed: damage is a row that says so, no changed claim goes unnoticed, what is shared is proved once."""

import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from refused import refused
from reviewing import DAMAGE, both, failing, judged, judged_with_damages, no_lie_goes_unnoticed, shows, spoil
from run_folder import change

from pgolf_core.base.files import write_json
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
    "scores.npz": "the run's own hashes agree",
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
    with refused("steps must be of type int"):
        _ = Seed(run / "seed1", How()).result_file
    assert failing(run / "seed1", cache) == {"result.json is whole"}
    shows(judged(run / "seed1", cache)["sliding score from the file alone"], UNKNOWN, "it needs a whole result.json")


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
    no_lie_goes_unnoticed(run, UNCHECKED, cache, how)


@both
def test_bytes_changed_anywhere_in_a_run_never_raise(run: Path, cache: Path, how: settings):
    names = [*CHECK_OF, "stages/03_train.json", "stages/05_quantize.json"]
    judged_with_damages(run / "seed1", names, cache, how)
