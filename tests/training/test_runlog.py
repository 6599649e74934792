"""The logs of a run that goes on: nothing twice, nothing cut."""

from __future__ import annotations

from pathlib import Path

from pgolf_core.training.runlog import RunLog, training_curve


def test_the_log_drops_steps_that_will_be_done_again_and_lines_cut_by_a_kill(tmp_path: Path) -> None:
    said: list[str] = []
    with RunLog(tmp_path, said.append) as log:
        for step in range(1, 6):
            log.metric(kind="train", step=step, loss=1.0)
            log.metric(kind="val", step=step, loss=9.0)
        log.line("hello")
        log.line("whisper", quiet=True)
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"kind": "train", "st')
    with RunLog(tmp_path) as log:
        log.keep_until(3, 2)
        log.metric(kind="train", step=4, loss=2.0)
    lines = [(line["kind"], line["step"], line["loss"]) for line in training_curve(tmp_path)]
    assert lines == [
        ("train", 1, 1), ("val", 1, 9), ("train", 2, 1), ("val", 2, 9), ("train", 3, 1), ("train", 4, 2),
    ]  # fmt: skip
    assert said == ["hello"] and (tmp_path / "train.log").read_text() == "hello\nwhisper\n"
