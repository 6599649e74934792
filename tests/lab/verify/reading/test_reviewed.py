"""What any reviewed thing can be asked: its text, its scoring, and its claimed counts.

pytest tests/lab/verify/reading/test_reviewed.py
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reviewing import another, both, failing, got, holding, judged, judged_with_damages, places_of, replaced, unknown
from toy_run import change

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.report.seeds import summarise_seeds
from pgolf_core.lab.verify.command import verify
from pgolf_core.lab.verify.evidence.checks import FAILS, UNKNOWN, Broken, CannotCheck
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.reviewed import Artifact, Seed, header_of, result_in, scored_once, text_bytes


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


WHOLE = "artifact opens and is whole"
CHECK_OF = {
    "recipe.json": "recipe.json is whole", "result.json": "result.json is whole", "model.pgolf": WHOLE,
    "ledger.json": "ledger.json is the file's", "env.json": "the run's own hashes agree",
    "averaging.json": "raw and averaged scores are averaging.json's", "train.log": "log and metrics say the same",
    "metrics.jsonl": "log and metrics say the same",
}  # fmt: skip
CONTENTS: dict[str, Any] = {"empty": b"", "foreign": b"\x00\xff" * 50, "a list": b"[1, 2]", "deep": b"[" * 100_000}


def damage(path: Path, kind: str) -> None:
    payload = path.read_bytes()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(payload[: len(payload) // 2] if kind == "cut" else CONTENTS[kind])


@pytest.mark.parametrize("kind", ["missing", "cut", "a folder", *CONTENTS])
@pytest.mark.parametrize("name", CHECK_OF)
def test_damage_of_any_file_is_a_failing_row_and_never_a_traceback(run: Path, cache: Path, name: str, kind: str):
    damage(run / "seed1" / name, kind)
    assert CHECK_OF[name] in failing(run / "seed1", cache)


def test_a_result_is_read_strictly_and_where_it_is_damaged_other_checks_cannot_be_made(run: Path, cache: Path):
    assert result_in(run / "seed1").seed == 1
    change(run / "seed1" / "result.json", steps=8.5)
    with pytest.raises(UserError, match="steps must be of type int"):
        result_in(run / "seed1")
    assert failing(run / "seed1", cache) == {"result.json is whole"}
    row = judged(run / "seed1", cache)["sliding score from the file alone"]
    assert row.verdict == UNKNOWN and "it needs a whole result.json" in row.evidence


def test_what_a_seed_says_is_its_recipes_and_results(honest: Path, cache: Path):
    seed = Seed(honest / "seed1", How(cache))
    assert (seed.track, seed.way.seq_len, seed.way.stride, seed.way.autocast) == ("local_10min_1mb", 32, 8, "off")
    assert seed.said("val_targets") == seed.text.targets == 763 and seed.dataset.name == "toy-sp1024"


def test_nothing_is_unpickled_or_run(run: Path, cache: Path, tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    for name in ("model.pgolf", "result.json", "recipe.json", "weights-raw.safetensors"):
        (run / "seed1" / name).write_bytes(pickle.dumps(Bomb()))
    assert WHOLE in failing(run / "seed1", cache) and not (tmp_path / "exploded").exists()


def test_a_recipe_that_asks_for_vast_windows_is_not_scored(run: Path, cache: Path):
    recipe = read_json(run / "seed1" / "recipe.json")
    change(run / "seed1" / "recipe.json", eval=recipe["eval"] | {"seq_len": 2**40, "stride": 1})
    found = judged(run / "seed1", cache)
    assert found["recipe.json is whole"].verdict == FAILS
    assert "sliding score from the file alone" in unknown(run / "seed1", cache)


UNCHECKED: dict[str, tuple | None] = {
    "seed1/result.json": (), "summary.json": (), "seed1/env.json": None,
    "seed1/recipe.json": ("title", "correction_damping", "correction_tokens"),  # the two play no part here
    "seed1/averaging.json": None, "seed1/ledger.json": ("entropy_bytes",), "seed1/stages/03_train.json": None,
}  # fmt: skip
"""Keys of each file that no check covers; None where only some are covered and only exceptions are looked for."""


@both
def test_no_changed_claim_of_a_run_goes_unnoticed(run: Path, cache: Path, how: settings):
    shutil.rmtree(run / "seed2")
    write_json(run / "summary.json", summarise_seeds({1: result_in(run / "seed1")}))
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
