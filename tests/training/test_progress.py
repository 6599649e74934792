"""How far along a run is, and what its earlier attempts lost."""

import math
import os
import time
from types import SimpleNamespace

import pytest
from refused import refused
from small import small_recipe

from pgolf_core.base.files import write_json
from pgolf_core.training import runlog
from pgolf_core.training.progress import ATTEMPT, go_on, lost_seconds, progress_at, training_curve
from pgolf_core.training.runlog import PARTS, SecondsLedger


def test_the_ledger_gives_the_rest_to_rest_and_counts_lost_seconds_over_several_kills(tmp_path, monkeypatch) -> None:
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr(runlog, "time", SimpleNamespace(time=lambda: now.value, perf_counter=lambda: now.value))

    def attempt(saved: dict[str, float]) -> SecondsLedger:
        ledger = SecondsLedger()
        go_on(ledger, saved, tmp_path)
        return ledger

    def lives_on_and_is_killed(seconds: float) -> None:
        now.value += seconds
        (tmp_path / "train.log").touch()
        os.utime(tmp_path / "train.log", (now.value, now.value))  # its last sign of life
        now.value += 500  # nobody trains

    assert attempt({}).earlier == 0
    lives_on_and_is_killed(10)  # without a checkpoint
    second = attempt({})
    assert second.seconds["lost"] == second.earlier == 10 == sum(second.settled().values())
    with second.spend("train"):
        now.value += 4
    now.value += 1
    saved = second.settled()  # as a checkpoint has it
    assert saved["train"] == 4 and saved["rest"] == 1 and sum(saved.values()) == 15
    lives_on_and_is_killed(7)
    third = attempt(saved)
    assert third.seconds == {**dict.fromkeys(PARTS, 0.0), "train": 4, "rest": 1, "lost": 17} and third.earlier == 22


def test_an_attempt_without_any_sign_of_life_has_lost_nothing(tmp_path) -> None:
    assert lost_seconds(tmp_path / ATTEMPT, [], 0.0) == 0.0
    go_on(SecondsLedger(), {}, tmp_path)
    assert (tmp_path / ATTEMPT).exists() and lost_seconds(tmp_path / ATTEMPT, [tmp_path / "none"], 0.0) == 0.0


def test_a_sign_of_life_from_before_the_clock_was_set_back_is_none(tmp_path) -> None:
    began, signs = time.time() - 100, [tmp_path / name for name in ("earlier", "alive")]
    write_json(tmp_path / ATTEMPT, {"began": began, "kept": 0.0, "lost": 0.0})
    for path, at in zip(signs, (began + 3600, began + 60), strict=True):
        path.touch()
        os.utime(path, (at, at))
    assert lost_seconds(tmp_path / ATTEMPT, signs) == pytest.approx(60)


@pytest.mark.parametrize("text", ["[]", '{"began": "1", "kept": 0, "lost": 0}', '{"began": 1.0}'])
def test_a_damaged_note_of_an_attempt_and_lines_that_are_no_objects_are_named(tmp_path, text: str) -> None:
    (tmp_path / ATTEMPT).write_text(text)
    with refused(r"attempt\.json: "):
        lost_seconds(tmp_path / ATTEMPT, [])
    (tmp_path / "metrics.jsonl").write_text('{"kind": "val"}\n3\n')
    with refused(r"metrics\.jsonl has a line that is no JSON object; train again"):
        training_curve(tmp_path)


@pytest.mark.parametrize(
    ("cap", "step", "seconds", "fraction", "left"),
    [
        (0.0, 0, 0.0, 0.0, math.inf),
        (0.0, 3, 30.0, 0.25, 90.0),
        (100.0, 3, 50.0, 0.5, 50.0),
        (100.0, 12, 10.0, 1.0, 0.0),
    ],
)
def test_progress_is_by_the_nearer_of_the_two_limits(cap, step, seconds, fraction, left) -> None:
    found = progress_at(small_recipe(schedule={"max_seconds": cap}), step, 4.0, seconds, 99.0)
    assert (found.step, found.fraction, found.loss, found.tokens_per_second) == (step, fraction, 4.0, 99.0)
    assert found.seconds_left == pytest.approx(left)
