"""Whether the text was scored before the model learned from it, where logs or a trace of events show it."""

import json
from pathlib import Path

import pytest
from record_forms import add_lines, block, one_run
from reviewing import judged

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN

FIRST = "what is learned from was scored before"
QUANT = [f"prequant_ttt:epoch {at}/21 val_bpb=1.06" for at in range(1, 22)]
EPOCHS = [f"ttt_epoch:{at}/3 loss:1.9{at} time:14.5s" for at in (1, 2, 3)]
SOME = {f"key_{at}": "1" for at in range(6)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return one_run(tmp_path / "track_10min_16mb" / "one")


@pytest.mark.parametrize(
    ("lines", "before", "verdict", "why"),
    [
        ([], "final", HOLDS, "tells of an adaptation while scoring"),
        (EPOCHS, "final", FAILS, "ran 3 epochs over the text, and its score follows"),
        (QUANT, "final", FAILS, "prequant_ttt ran 21 epochs"),
        (EPOCHS[:1], "final", UNKNOWN, "and not of its order"),
        (EPOCHS, "", UNKNOWN, "and not of its order"),
        (EPOCHS * 2, "final", UNKNOWN, "and not of its order"),
        (
            ["legal_ttt_exact val_loss:1.89 val_bpb:1.12000000"],
            "",
            UNKNOWN,
            "tell of an adaptation (train_seed",
        ),
        (block(SOME | {"ttt_enabled": "True"}), "model_params", UNKNOWN, "ttt_enabled: True"),
        (block(SOME | {"ttt_enabled": "False"}), "model_params", HOLDS, "tells of an adaptation"),
        ([f"ttpp: phase:{at}/3 pd:{700 * at} gd:{600 * at} t:9.0s" for at in (1, 2, 3)], "final", HOLDS, "(3 phases)"),
        (["ttpp: phase:1/3 pd:600 gd:700 t:9.0s"], "final", FAILS, "adapted to 700 documents when 600 were scored"),
    ],
)
def test_the_order_is_checked_where_a_log_shows_it(folder, lines, before, verdict, why):
    add_lines(folder, {"all": lines}, before)
    row = judged(folder, folder.parent)[FIRST]
    assert row.verdict == verdict and why in row.evidence


SCORE, LEARN = {"event": "score"}, {"event": "train"}


@pytest.mark.parametrize(
    ("events", "verdict", "why"),
    [
        ([SCORE | {"chunk": 0}, LEARN | {"chunk": 0}, SCORE | {"chunk": 1}], HOLDS, "trace.jsonl"),
        ([LEARN | {"chunk": 0}, SCORE | {"chunk": 0}], FAILS, "trace.jsonl:1: train of chunk 0 before its score"),
        ([SCORE | {"end": 100}, LEARN | {"end": 100}, LEARN | {"end": 99}], HOLDS, "trace.jsonl"),
        ([SCORE | {"end": 100}, LEARN | {"end": 101}], FAILS, "trace.jsonl:2: train of tokens up to 101"),
        ([SCORE | {"chunk": 0}], HOLDS, "tells of an adaptation"),
        ([{"event": "score"}, 7, "x", None], HOLDS, "tells of an adaptation"),
    ],
)
def test_a_trace_of_events_shows_the_order(folder: Path, events: list, verdict: str, why: str):
    (folder / "trace.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    row = judged(folder, folder.parent)[FIRST]
    assert row.verdict == verdict and why in row.evidence


def test_metrics_of_the_training_are_no_trace(folder: Path):
    (folder / "metrics.jsonl").write_text(json.dumps(LEARN | {"chunk": 0}) + "\n" + json.dumps(SCORE | {"chunk": 9}))
    assert judged(folder, folder.parent)[FIRST].verdict == HOLDS
