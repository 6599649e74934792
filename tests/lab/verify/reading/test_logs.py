"""Training logs: ours, the published ones and the later line format are read; anything else is refused in words."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import PR315, published
from reviewing import both

from pgolf_core.lab.verify.evidence.checks import Broken
from pgolf_core.lab.verify.reading import logs
from pgolf_core.lab.verify.reading.logs import ADAPTED, BEFORE, PACKED, SLIDING, Epoch, Mention, agreed_steps, read_log
from pgolf_core.lab.verify.reading.readme import tables

WORDS = st.sampled_from(
    ["step:", "1/9", "val_loss:", "val_bpb:", "1.5", "-", "1,2,3", ".", "9" * 30, "train_time:", "ms", "seed:", "|",
     "---", "\n", " ", "=" * 100, "Total submission size", ":", "bytes", "bpb", "\x1b[31m", "\u202e", "\x00",
     "| seed | bpb |", "|---|---|", "| 1 | 1.5 |", "eval_time:", "val_loader:", "tokens:", "1e999", "mean", "\\|",
     "import os", "٣", "NaN", "legal_ttt", "[rank0]: ", "2026-03-22 10:11:12 INFO ", "loss ", "ttt:done", " elapsed=",
     "s", "collected 6 Hessians in ", "Artifact", "stopping_early: step: ", "tokens", "="]
)  # fmt: skip


def read(tmp_path: Path, text: str, name: str = "train.log", encoding: str = "utf-8") -> logs.Log:
    (tmp_path / name).write_bytes(text.encode(encoding))
    return read_log(tmp_path / name, name)


@both
def test_any_log_and_any_table_is_read_or_refused_in_words(tmp_path: Path, how: settings):

    @how
    @given(text=st.lists(WORDS, max_size=60).map("".join))
    def check(text: str) -> None:
        with contextlib.suppress(Broken):
            log = read(tmp_path, text)
            assert log.seed is None or log.seed >= 0
        for header, rows in tables(text):
            assert header and all(rows)

    check()


def test_a_published_log_says_its_script_its_settings_and_its_exact_score(tmp_path: Path):
    log = read_log(published(tmp_path / "a", PR315) / "train_seed42.log", "train_seed42.log")
    assert (log.seed, log.val_tokens, log.vocabularies, log.train_ms) == (42, 62_021_632, {1024}, 600_000)
    assert log.script.startswith("import os\n# xx") and set(log.settings) == {"model_params:", "world_size:"}
    assert log.step_scores == [(7061, "1.9279", "1.1418")] and log.steps == 7061
    assert log.finals[1][1:3] == ("1.89948149", "1.12498291")
    assert log.last_sizes == {"total_bytes": 15_528_666, "model_bytes": 15_461_049, "code_bytes": 67_617}


def test_the_later_line_format_is_read(tmp_path: Path):
    log = read(
        tmp_path,
        "====\nHyperparameters:\n  seed: 42\n  vocab_size: 1024\nval_tokens: 62021632\n"
        "5000/20000 val_loss: 1.8100 val_bpb: 1.0719 train_time: 9.8m\n"
        "quantized_sliding_window val_loss:1.80000000 val_bpb:1.06606000 eval_time:90000ms\n"
        "Total submission size quantized+brotli: 15060000 bytes\n",
    )
    assert (log.seed, log.steps, log.train_ms, log.times["eval"]) == (42, 5000, 588_000, [90_000])
    assert log.finals[0][1:3] == ("1.80000000", "1.06606000") and log.sizes["total_bytes"] == [15_060_000]


LINES = {  # line: (label, kind, loss, bpb)
    "final_int8_zlib_roundtrip_exact val_loss:2.07 val_bpb:1.2244": ("final_int8_zlib_roundtrip_exact", PACKED, "2.07"),
    "final_int6_roundtrip_exact val_loss:1.91 val_bpb:1.2244": ("final_int6_roundtrip_exact", PACKED, "1.91"),
    "final_int6_zstd22_roundtrip_exact val_loss:1 val_bpb:1.2244": ("final_int6_zstd22_roundtrip_exact", PACKED, "1"),
    "diagnostic quantized val_loss:2.3 val_bpb:1.2244 eval_time:1ms": ("diagnostic quantized", PACKED, "2.3"),
    "val_bpb: 1.2244": ("", PACKED, ""),
    "Quantized BPB: 1.2244": ("Quantized", PACKED, ""),
    "[rank0]: Quantized  BPB = 1.2244": ("Quantized", PACKED, ""),
    "final_sliding_window_exact val_loss:1.8 val_bpb:1.2244": ("final_sliding_window_exact", SLIDING, "1.8"),
    "2026-03-22 10:11:12,345 - INFO - final_int6_sliding_window_exact val_loss:1.8 val_bpb:1.2244":
        ("final_int6_sliding_window_exact", SLIDING, "1.8"),
    "quantized_sliding_window val_loss:2.8 val_bpb:1.2244 eval_time:9ms": ("quantized_sliding_window", SLIDING, "2.8"),
    "quantized_sliding_no_ttt_exact val_loss:2 val_bpb:1.2244": ("quantized_sliding_no_ttt_exact", SLIDING, "2"),
    "quantized_ttt val_loss:2.79 val_bpb:1.2244": ("quantized_ttt", ADAPTED, "2.79"),
    "quantized_ttt_phased val_loss:2.31 val_bpb:1.2244 eval_time:540111ms": ("quantized_ttt_phased", ADAPTED, "2.31"),
    "[12:30:01] legal_ttt_exact val_loss:2.79 val_bpb:1.2244": ("legal_ttt_exact", ADAPTED, "2.79"),
    "ttt_sliding:done val_loss=2.79 val_bpb=1.2244 elapsed=289.8s": ("ttt_sliding:done", ADAPTED, "2.79"),
    "final_int6_ttt_exact val_loss:1.8 val_bpb:1.2244": ("final_int6_ttt_exact", ADAPTED, "1.8"),
    "final_int8_ttt_lora val_loss:1.8 val_bpb:1.2244": ("final_int8_ttt_lora", ADAPTED, "1.8"),
    "final_ngram_exact val_loss:0.8 val_bpb:1.2244": ("final_ngram_exact", ADAPTED, "0.8"),
    "final_slot_exact val_loss:1.8 val_bpb:1.2244": ("final_slot_exact", ADAPTED, "1.8"),
    "final_adapted_exact val_loss:1.8 val_bpb:1.2244": ("final_adapted_exact", ADAPTED, "1.8"),
    "quantized unadapted val_loss:1.8 val_bpb:1.2244": ("quantized unadapted", PACKED, "1.8"),
    "run_ttt val_loss:1.8 val_bpb:1.2244": ("run_ttt", ADAPTED, "1.8"),
    "With (AA) Test-Time Re-Alignment val_loss:1.6 val_bpb:1.2244 stride:64":
        ("With (AA) Test-Time Re-Alignment", ADAPTED, "1.6"),
    "final_quant_roundtrip mode:mixed val_loss:5.5 val_bpb:1.2244": ("final_quant_roundtrip mode:mixed", PACKED, "5.5"),
    "  -> RESULT EL_best_small: BPB=1.2244  steps=1605": ("> RESULT EL_best_small", PACKED, ""),
    "trained_val_bpb: 1.2244": ("trained", BEFORE, ""),
    "engram_on val_bpb:1.2244": ("engram_on", PACKED, ""),
    "ppm_mix_bpb:1.2244": ("ppm_mix", ADAPTED, ""),
    "val_bpb (pre-quant): 1.2244": ("pre-quant", BEFORE, ""),
    "run 3: val_bpb (int4 roundtrip): 1.2244": ("run 3: int4 roundtrip", PACKED, ""),
    "final_fp_exact val_loss:3.3 val_bpb:1.2244": ("final_fp_exact", BEFORE, "3.3"),
    "final_fp8_roundtrip val_loss:3.3 val_bpb:1.2244": ("final_fp8_roundtrip", PACKED, "3.3"),
    "post_train_base val_loss:0.8 val_bpb:1.2244": ("post_train_base", BEFORE, "0.8"),
    "trained_validation_exact val_loss:8.6 val_bpb:1.2244": ("trained_validation_exact", BEFORE, "8.6"),
    "sgd_ttt lr:0.002 epochs:2 chunk_size:256 val_loss:2 val_bpb:1.2244":
        ("sgd_ttt lr:0.002 epochs:2 chunk_size:256", ADAPTED, "2"),
    "run_d704_ttt: final_roundtrip_exact val_loss:2.9 val_bpb:1.2244": ("final_roundtrip_exact", PACKED, "2.9"),
    "TTT BPB: 1.2244": ("TTT", ADAPTED, ""),
    '  "post_ttt_val_bpb": 1.2244,': ("post_ttt", ADAPTED, ""),
    "EMA BPB:       1.2244": ("EMA", BEFORE, ""),
    "DIAGNOSTIC post_ema val_loss:1.9 val_bpb:1.2244": ("DIAGNOSTIC post_ema", BEFORE, "1.9"),
    "diagnostic pre-quantization post-ema val_loss:2 val_bpb:1.2244":
        ("diagnostic pre-quantization post-ema", BEFORE, "2"),
    "post-prequant-ttt val_loss:2.7 val_bpb:1.2244": ("post-prequant-ttt", BEFORE, "2.7"),
}  # fmt: skip
NO_SCORES = (
    "  ttt_chunk [11/1238] bpb=1.071361 time=8.1s", "val_bpb:enabled tokenizer_kind=sentencepiece", "delta_bpb: 0.0021",
    "train_bpb: 1.1",
    "ppm_gain_bpb: 0.0021", "sliding best val_bpb: 1.2", "ens:baseline val_bpb:1.2", "quantized_mean bpb: 1.2",
    "sliding_eval [ 1.2%] 12/99 windows running_bpb:1.17", "ttp: b779/782 bl:2.2249 bb:1.0526", "target bpb: 1.05",
    "mean_val_loss:1.75 mean_val_bpb:1.05 worst_val_bpb:1.07", "# val_bpb: 1.05",
    "step:9/9 train_loss:2.1 train_time:1ms", "ttt_epoch 3 val_bpb:1.06",
    "precision:candidate calib_bpb:3.08", "quant_gap: 0.013 BPB (pre:1.161 post:1.174)",
)  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_final_line_of_any_form_is_a_score_with_its_label_and_kind(tmp_path: Path, line: str):
    (score,) = read(tmp_path, line).finals
    assert (score.label, score.kind, score.loss, score.bpb) == (*LINES[line], "1.2244")


@pytest.mark.parametrize("line", NO_SCORES)
def test_scores_on_the_way_and_differences_are_no_final_scores(tmp_path: Path, line: str):
    log = read(tmp_path, line)
    assert not log.finals and not log.step_scores


@pytest.mark.parametrize(
    ("line", "steps", "scores"),
    [
        ("step:5/9 val_loss:1.9 val_bpb:1.14 train_time:1ms", 5, [(5, "1.9", "1.14")]),
        ("[rank0]: step 5 | val_loss 1.9 | val_bpb 1.14", 5, [(5, "1.9", "1.14")]),
        ("5/9 val_loss: 1.9 val_bpb: 1.14", 5, [(5, "1.9", "1.14")]),
        ("step 5/9 | loss 2.3 | lr 0.1", 5, []),
        ("step=5 mean_loss=8.3 validation_loss=1.9 validation_bpb=1.14 rate=1.0", 5, [(5, "1.9", "1.14")]),
        ("run_d704e832: step:5/9 val_loss:1.9 val_bpb:1.14 train_time:1ms", 5, [(5, "1.9", "1.14")]),
        ("2026-03-22 10:11:12 INFO step 5 | val_bpb 1.14", 5, [(5, "", "1.14")]),
        ("stopping_early: wallclock_cap train_time: 1ms step: 5/9", 5, []), ("warmup_step: 5/20", None, []),
        ("step_avg: 85 ms", None, []), ("3/24/2026: notes", None, []),
    ],
)  # fmt: skip
def test_steps_and_validations_of_any_form_are_read(tmp_path: Path, line: str, steps: int | None, scores: list):
    log = read(tmp_path, line)
    assert (log.steps, log.step_scores, log.finals) == (steps, scores, [])


@pytest.mark.parametrize(
    ("lines", "train", "after", "scoring"),
    [
        (["1/9 train_loss: 2 train_time: 9.8m"], 588, {}, None),
        (["1/9 train_loss: 2 train_time: 9.8m", "stopping_early: train_time: 588015ms step: 1/9"], 588.015, {}, None),
        (["a val_bpb:1 eval_time:7770ms", "b val_bpb:1 eval_time:83569ms"], None, {}, 83.569),
        (["a val_bpb:1 eval_time:83569ms", "ttt_sliding:done val_bpb=1.0 elapsed=289.8s"], None, {}, 289.8),
        (["a val_bpb:1 eval_time:540111ms", "total_eval_time:670.4s"], None, {}, 670.4),
        (["ttt:done elapsed=300.5s", "ttt_lora:compile warmup done in 62.9s"], None, {}, 300.5),
        (["GPTQ:collected 67 Hessians in 12.7s", "prequant_ttt:done total_time=88.1s"], None,
         {"collected 67 Hessians": 12.7, "prequant_ttt": 88.1}, None),
        (["[rank0]: prequant_ttt:done elapsed=9.1s", "[rank1]: prequant_ttt:done elapsed=9.2s"], None,
         {"prequant_ttt": 9.2}, None),
        (["step:9/9 loss:3.7 t:359105ms step:732ms", "ttt: t:900.0s"], 359.105, {}, None),
        (["step 9 loss=4.9 31.6ms/step", "Train time:   163776ms (32.8ms/step)"], 163.776, {}, None),
        (["final val_loss:2 val_bpb:1.2 eval:452612ms", "ttt val_bpb:1.1 epochs:2 time:670.5s"], None, {}, 670.5),
        (["  train_seconds: 601.3", "ttt_chunk [1/9] bpb=1.1 time=900.1s"], 601.3, {}, None),
        (["Training time: 601.5s (wallclock cap)", "Step time: 1427s"], 601.5, {}, None),
        (["gptq:collected hessians for 82 layers", "Serialize: compression done in 99.9s"], None, {}, None),
    ],
)  # fmt: skip
def test_seconds_are_a_logs_own_total_or_its_longest_timer_and_work_after_the_stop_is_apart(
    tmp_path: Path, lines: list[str], train: float | None, after: dict, scoring: float | None
):
    log = read(tmp_path, "\n".join(lines))
    assert [None if ms is None else ms / 1000 for ms in (log.train_ms, log.eval_ms)] == [train, scoring]
    assert {work: ms / 1000 for work, ms in log.after.items()} == pytest.approx(after)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("seed:7\nx: 1", "train_seed8.log", {"seed": 7}), ("x: 1", "train_seed1234_original.log", {"seed": 1234}),
        ("x: 1", "train_s42.log", {"seed": 42}), ("x: 1", "stride64.log", {"seed": None}),
        ('  "seed": 42,', "a.log", {"seed": 42}), ("seed: 1\nseed: 2", "all.log", {"seed": None}),
        ("Validation tokens: 62,021,632", "a.log", {"val_tokens": 62_021_632}),
        ("val_tokens: 40540160", "a.log", {"val_tokens": 40_540_160}),
        ("val_tokens:524289 eval_ctx:8192 val_token_limit:524288", "a.log", {"val_tokens": 524_289}),
        ("  val tokens: 45,122,403", "a.log", {"val_tokens": 45_122_403}),
        ("  524288 validation tokens\na: 1", "a.log", {"val_tokens": 524_288}),
        ("val_loader:bytes:1999872", "a.log", {"val_tokens": 1_999_872}),
        ("val_tokens_per_rank: 8 ; validation tokens/s: 5", "a.log", {"val_tokens": None}),
        ("lr:matrix=0.025 batch:786432 wall:600s seed:42", "a.log", {"seed": 42}),
        ("gptq: calibration seed:7\nseed:42", "a.log", {"seed": 42}),
        ("gptq: calibration seed:7", "train_seed42.log", {"seed": 42}),
        ("data: 1 b: 2 seed:7", "a.log", {"seed": None}), ("gptq: calibration seed:7", "a.log", {"seed": None}),
    ],
)  # fmt: skip
def test_seeds_and_tokens_are_read_in_any_encoding(tmp_path: Path, encoding: str, text: str, name: str, found: dict):
    log = read(tmp_path, text, name, encoding)
    assert {key: getattr(log, key) for key in found} == found


def test_a_logs_sizes_are_kept_in_order_behind_any_prefix_and_beside_scores(tmp_path: Path):
    log = read(
        tmp_path,
        "2026-03-22 10:11:12 INFO artifact_bytes: 16,144,107\nTotal submission size: 87469373 bytes\n"
        "final val_loss:1.9 val_bpb:1.12 compressed_blob_bytes:15741300 code_bytes:59480 total:15800780\n"
        "Serialized model int6+lzma: 15716600 bytes\nint8_zlib:3554680 code:42190 total:3596870\n",
    )
    assert log.sizes == {"model_bytes": [15_741_300, 15_716_600, 3_554_680], "code_bytes": [59_480, 42_190],
                         "total_bytes": [15_800_780, 3_596_870], "artifact_bytes": [16_144_107]}  # fmt: skip
    assert log.last_sizes["model_bytes"] == 3_554_680 and log.finals[0].bpb == "1.12"


def test_a_log_of_too_many_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logs, "MAX_LINES", 3)
    with pytest.raises(Broken, match="more than 3 lines"):
        read(tmp_path, "a\nb\nc\nd")


def test_lines_of_a_resumed_log_may_be_of_steps_that_were_trained_again():
    text = "step:1/9 train_loss:6.5 train_time:100ms\nstep:2/9 train_loss:6.1 train_time:200ms\n"
    train = {1: {"loss": 6.5, "seconds": 0.1}}
    assert agreed_steps(text, train, {}, was_resumed=True) == 1
    for rows, why in ((train, "has step 2, which"), ({3: train[1]}, "no line of step train 3"), ({}, "has step 1")):
        with pytest.raises(Broken, match=why):
            agreed_steps(text, rows, {}, was_resumed=False)
    with pytest.raises(Broken, match=r"200 ms in train.log, 0.3 s in metrics.jsonl"):
        agreed_steps(text, train | {2: {"loss": 6.1, "seconds": 0.3}}, {}, was_resumed=False)


def test_a_score_of_averaged_weights_is_before_packing_until_a_packed_size_is_told(tmp_path: Path):
    """Whatever windows it is taken with; a log that tells no packed size, or tells it last, does not say."""
    line, size = "final_ema val_bpb:1.12 sliding_bpb:1.10\n", "Serialized model int6+zstd: 15741300 bytes\n"

    def kinds(text: str) -> list[int]:
        return [one.kind for one in read(tmp_path, text).finals]

    assert kinds(line + size + line) == [BEFORE, BEFORE, BEFORE, SLIDING]
    assert kinds(line) == kinds(line + size) == [BEFORE, SLIDING]
    assert kinds("int6 ema sliding val_bpb:1.1\n" + size + line)[0] == SLIDING


PRINTED = """{ruler}
Hyperparameters:
  model_dim: 512
  seed: 42
{ruler}
Source code:
{ruler}
import os
class Hyperparameters:
    model_dim: int = 256
# best known: Serialized model int6: 99 bytes, quantized val_bpb: 1.0444
    seed: 7
quantized val_bpb:1.0333
{ruler}
Running Python 3.12
val_tokens: 40540160
quantized val_bpb:1.0731
""".format(ruler="=" * 100)


def test_a_script_that_is_printed_inside_a_log_tells_nothing(tmp_path: Path):
    log = read(tmp_path, PRINTED)
    assert log.seed == 42 and log.block["model_dim"] == ("512", 3) and [one.bpb for one in log.finals] == ["1.0731"]
    assert not any(log.sizes.values()) and log.val_tokens == 40_540_160 and not log.script
    assert [line for line, _ in log.scored_lines] == [17], "lines keep their numbers"
    cut = read(tmp_path, PRINTED.rpartition("=" * 100)[0])
    assert not cut.finals, "the log ends inside the script"


EVENTS = """import os
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
    log = read(tmp_path, EVENTS)
    assert log.block == {"model_dim": ("512", 5), "datafiles": ("a, b", 6)}
    assert log.mentions == [Mention(11, ("0.9512", "1.0870"), 62_021_632, 151_078_222)]
    assert log.epochs == [Epoch(9, "ttt", 2, 3)] and log.phases == [logs.Phase(10, 600, 500)]
    assert [line for line, _ in log.scored_lines] == [11, 12]
