"""The two bars: what they show, and that they can be off; the last step of a log."""

import json
import sys
from pathlib import Path

import pytest
from small import small_recipe

from pgolf_core.lab.shared.progress import last_step, score_bar, training_bar
from pgolf_core.training.progress import TrainProgress


@pytest.fixture(autouse=True)
def _no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


def test_the_bar_of_training_tells_steps_loss_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with training_bar(small_recipe()) as update:
        update(TrainProgress(step=3, fraction=0.5, loss=2.5, tokens_per_second=1000.0, seconds_left=7.0))
    said = capsys.readouterr().err
    assert "2.5" in said and "50%" in said


def test_the_bar_of_scoring_counts_targets_and_off_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with score_bar("stride 64") as update:
        update(5, 10)
    said = capsys.readouterr()
    assert "stride 64" in said.err and said.out == "", "standard output is the command's result"
    with score_bar("stride 64", enabled=False) as update, training_bar(small_recipe(), enabled=False) as step:
        update(5, 10)
        step(TrainProgress(1, 0.1, 2.0, 10.0, 1.0))
    assert capsys.readouterr().err == ""


def test_in_a_notebook_the_bar_is_not_on_red(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with score_bar("stride 64") as update:
        update(5, 10)
    said = capsys.readouterr()
    assert "stride 64" in said.out and said.err == ""


def test_progress_is_the_last_whole_training_line(tmp_path: Path) -> None:
    recipe, path = small_recipe(), tmp_path / "metrics.jsonl"
    assert last_step(path, recipe) is None
    line = {"kind": "train", "step": 3, "loss": 2.5, "seconds": 6.0, "tokens_per_second": 64.0}
    lines = [json.dumps({**line, "step": step, "padding": "x" * 100}) for step in range(1, 100)]
    path.write_text("\n".join([*lines, json.dumps(line), json.dumps({**line, "kind": "val"}), '{"kind": "tra']))
    now = last_step(path, recipe)
    assert (now.step, now.loss, now.tokens_per_second) == (3, 2.5, 64.0)
    assert now.fraction == 3 / 12 and now.seconds_left == pytest.approx(18.0)
    assert last_step(path, recipe, since=path.stat().st_mtime + 1) is None
