"""Training logs: ours, the published ones and the later line format are read; anything else is refused in words.

pytest tests/lab/verify/reading/test_logs.py (-m slow for a thousand hostile texts in place of dozens)
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import PR315, published
from reviewing import both

from pgolf_core.lab.verify.evidence.checks import Broken
from pgolf_core.lab.verify.reading import logs
from pgolf_core.lab.verify.reading.logs import agreed_steps, read_log
from pgolf_core.lab.verify.reading.readme import tables

WORDS = st.sampled_from(
    ["step:", "1/9", "val_loss:", "val_bpb:", "1.5", "-", "1,2,3", ".", "9" * 30, "train_time:", "ms", "seed:", "|",
     "---", "\n", " ", "=" * 100, "Total submission size", ":", "bytes", "bpb", "\x1b[31m", "\u202e", "\x00",
     "| seed | bpb |", "|---|---|", "| 1 | 1.5 |", "eval_time:", "val_loader:", "tokens:", "1e999", "mean", "\\|",
     "import os", "٣", "NaN"]
)  # fmt: skip


@both
def test_any_log_and_any_table_is_read_or_refused_in_words(tmp_path: Path, how: settings):
    path = tmp_path / "train.log"

    @how
    @given(text=st.lists(WORDS, max_size=60).map("".join))
    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8"))
        try:
            log = read_log(path, "train.log")
        except Broken:
            return
        assert log.seed is None or log.seed >= 0
        for header, rows in tables(text):
            assert header and all(rows)

    check()


def test_a_published_log_says_its_script_its_settings_and_its_exact_score(tmp_path: Path):
    log = read_log(published(tmp_path / "a", PR315) / "train_seed42.log", "train_seed42.log")
    assert (log.seed, log.val_tokens, log.vocabularies, log.train_ms) == (42, 62_021_632, {1024}, 600_000)
    assert log.script.startswith("import os\n# xx") and set(log.settings) == {"model_params:", "world_size:"}
    assert log.step_scores == [(7061, "1.9279", "1.1418")] and log.score == (log.finals[1])
    assert log.numbers == {
        "steps": "7061", "loss": "1.89948149", "bpb": "1.12498291", "train_seconds": "600.000",
        "total_bytes": "15528666", "model_bytes": "15461049", "code_bytes": "67617",
    }  # fmt: skip


def test_the_later_line_format_is_read(tmp_path: Path):
    path = tmp_path / "log.txt"
    path.write_text(
        "====\nHyperparameters:\n  seed: 42\n  vocab_size: 1024\nval_tokens: 62021632\n"
        "5000/20000 val_loss: 1.8100 val_bpb: 1.0719 train_time: 9.8m\n"
        "quantized_sliding_window val_loss:1.80000000 val_bpb:1.06606000 eval_time:90000ms\n"
        "Total submission size quantized+brotli: 15060000 bytes\n"
    )
    log = read_log(path, "log.txt")
    assert (log.seed, log.steps, log.train_ms, log.times["eval"]) == (42, 5000, 588_000, [90_000])
    assert log.score and log.score[1:] == ("1.80000000", "1.06606000") and log.sizes["total_bytes"] == [15_060_000]


def test_a_log_of_too_many_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logs, "MAX_LINES", 3)
    (tmp_path / "x").write_text("a\nb\nc\nd")
    with pytest.raises(Broken, match="more than 3 lines"):
        read_log(tmp_path / "x", "x")


def test_lines_of_a_resumed_log_may_be_of_steps_that_were_trained_again():
    text = "step:1/9 train_loss:6.5 train_time:100ms\nstep:2/9 train_loss:6.1 train_time:200ms\n"
    train = {1: {"loss": 6.5, "seconds": 0.1}}
    assert agreed_steps(text, train, {}, was_resumed=True) == 1
    for rows, why in ((train, "has step 2, which"), ({3: train[1]}, "no line of step train 3"), ({}, "has step 1")):
        with pytest.raises(Broken, match=why):
            agreed_steps(text, rows, {}, was_resumed=False)
    with pytest.raises(Broken, match=r"200 ms in train.log, 0.3 s in metrics.jsonl"):
        agreed_steps(text, train | {2: {"loss": 6.1, "seconds": 0.3}}, {}, was_resumed=False)
