"""A run's two logs and its result."""

import dataclasses
import math
from pathlib import Path

import pytest
from refused import refused

from pgolf_core.base.files import write_json
from pgolf_core.base.names import METRICS, TRAIN_LOG, TRAIN_RESULT
from pgolf_core.training.progress import read_result, training_curve
from pgolf_core.training.runlog import RunLog, TrainResult


def test_lines_are_appended_flushed_and_said_aloud_unless_quiet(tmp_path: Path) -> None:
    said: list[str] = []
    for text in ("first", "second"):
        with RunLog(tmp_path / "run", said.append) as log:
            log.line(text)
            log.line(f"{text} é", quiet=True)
            log.metric(kind="train", step=len(said), loss=0.5)
            assert (tmp_path / "run" / TRAIN_LOG).read_text().endswith(f"{text}\n{text} é\n")
    assert said == ["first", "second"] and (tmp_path / "run" / TRAIN_LOG).read_text().count("\n") == 4
    assert training_curve(tmp_path / "run") == [{"kind": "train", "step": n, "loss": 0.5} for n in (1, 2)]


def test_the_log_of_every_rank_but_the_first_writes_and_says_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", lambda text: pytest.fail(text), is_first=False) as log:
        log.line("a")
        log.metric(step=1)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_and_missing_logs_are_clear_lines(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused(r"cannot write logs in .*file.*choose a writable folder"):
        RunLog(tmp_path / "file").__enter__()
    with refused(r"jsonl does not exist; run the training stage"):
        training_curve(tmp_path)
    with refused(r"result\.json does not exist"):
        read_result(tmp_path)


def test_a_line_that_was_cut_is_no_step_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\n{"st')
    assert training_curve(tmp_path) == [{"step": 1}]
    (tmp_path / METRICS).write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with refused(r"metrics\.jsonl has a line that is no JSON .*; train again with --fresh"):
        training_curve(tmp_path)


def test_what_training_says_about_itself_comes_back_and_is_refused_where_it_is_damaged(tmp_path: Path) -> None:
    result = TrainResult(12, 1536, 100, "clock", {"train": math.pi}, 0.0, [4], 2, "device: cpu")
    write_json(tmp_path / TRAIN_RESULT, dataclasses.asdict(result))
    assert read_result(tmp_path) == result
    for values, words in (({}, "key 'steps' is missing"), ([1], "must be a table"), ({"odd": 1}, "unknown key 'odd'")):
        write_json(tmp_path / TRAIN_RESULT, values)
        with refused(words):
            read_result(tmp_path)
