"""Settings, counts and events of a log, with the lines that they stand in."""

from pathlib import Path

from pgolf_core.lab.verify.reading.traces import Epoch, Mention, Phase, counted_in, read_trace

LOG = """import os
  fake: 1
{ruler}
2026-04-01 10:00:00 INFO Hyperparameters:
2026-04-01 10:00:00 INFO   model_dim: 512
2026-04-01 10:00:00 INFO   datafiles: a, b
{ruler}
1/20 val_loss: 6.9 val_bpb: 4.1 tokens=5000
ttt_epoch:2/3 loss:1.9
ttpp: phase:1/3 pd:600 gd:500 t:1.0s
mix bytes=151078222 tokens=62,021,632 mix_bpb=0.9512 nn_bpb=1.0870
final_exact val_loss:1.9 val_bpb:1.12345678
""".format(ruler="=" * 100)


def test_what_a_log_tells_is_read_with_its_lines_and_its_script_is_passed_over(tmp_path: Path):
    (tmp_path / "a.log").write_text(LOG)
    trace = read_trace(tmp_path / "a.log", "a.log")
    assert trace.settings == {"model_dim": ("512", 5), "datafiles": ("a, b", 6)}
    assert trace.mentions == [
        Mention(11, ("0.9512", "1.0870"), 62_021_632, 151_078_222),
    ]
    assert trace.epochs == [Epoch(9, "ttt", 2, 3)] and trace.phases == [Phase(10, 600, 500)]
    assert [line for line, _ in trace.finals] == [11, 12]


def test_counts_are_those_of_what_was_scored():
    claims = {"eval_token_count": 5, "val_tokens": 6, "bytes_total": 7, "eval_byte_count": "x", "scored_bytes_count": 8}
    assert counted_in(claims) == {"eval_token_count": 5, "val_tokens": 6, "scored_bytes_count": 8}
