"""What logs show beside their numbers: one recipe over all seeds, the whole split, scores before learning."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from published import (
    PR315,
    RULE,
    SETTINGS,
    Lie,
    add_lines,
    block,
    claim,
    edit,
    edit_logs,
    one_run,
    published,
    sized_script,
    write,
)
from reviewing import Case, cases, shown

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN
from pgolf_core.lab.verify.logged import counted_in

ONE, BYTES = "one recipe over all seeds", "a byte is counted once"
WHOLE, IMPLIED = "the whole split is scored", "each score implies the split's bytes"
FIRST = "what is learned from was scored before"
BPB = "1.12526734"
QUANT = [f"prequant_ttt:epoch {at}/21 val_bpb=1.06" for at in range(1, 22)]
EPOCHS = [f"ttt_epoch:{at}/3 loss:1.9{at} time:14.5s" for at in (1, 2, 3)]
OF_ITS_OWN = {"logfile": "x.log", "local_rank": "3", "slurm_job_id": "7", "start_time": "1774310400"}
SOME = {f"key_{at}": "1" for at in range(6)}
SCORE, LEARN = {"event": "score"}, {"event": "train"}
three = functools.partial(published, seeds=PR315)


def scored(tokens: int, bytes_of: int, loss: float) -> tuple[Callable[[Path], Path], float]:
    """A folder of one run whose loss implies so many bytes, and its bpb."""
    bpb = tokens * loss / (math.log(2) * bytes_of)
    return functools.partial(one_run, row=(5000, f"{loss:.8f}", f"{bpb:.8f}", 15_571_723, 15_639_340)), bpb


def lines(*texts: str, before: str = "") -> list[Lie]:
    return [add_lines(texts, before)]


def of_pieces(tokens: int, vocab: str) -> list[Lie]:
    """Another tokenizer, of a split of so many tokens."""
    return [edit_logs("tokens:62021632", f"tokens:{tokens}"), edit_logs("fineweb_1024(?:_bpe)?", vocab)]


def events(*rows: Any, file: str = "trace.jsonl") -> list[Lie]:
    return [write(file, "".join(json.dumps(row) + "\n" for row in rows))]


def with_blocks(folder: Path, change: dict) -> Path:
    """Three seeds whose logs name settings, one of them others."""
    published(folder, PR315)
    code = sized_script((folder / "train_gpt.py").stat().st_size, *SETTINGS, "seed", "run_id", *OF_ITS_OWN)
    for path in (folder / "train_gpt.py", *folder.glob("*.log")):
        start = path.read_text().find("=" * 100)
        path.write_text(code.rstrip("\n") + "\n" + (path.read_text()[start:] if start >= 0 else ""))
    for seed in PR315:
        own = SETTINGS | {"seed": str(seed), "run_id": f"run{seed}"} | (change if seed == 42 else {})
        add_lines(block(own), "model_params", seed)(folder)
    return folder


FOUND_IN_TABLE = [  # as PR 1370: 177,827,958 bytes implied, and a log of `step N | val_loss x | val_bpb y`
    edit_logs(r"step:5000.*", f"step 5000 | val_loss 2.0000 | val_bpb {scored(62_021_632, 177_827_958, 2.0)[1]:.4f}"),
    write("core.py", RULE.replace("        piece = piece[1:]\n", "").replace(
        "piece.encode", "piece.replace('\\u2581', ' ').encode") +
        "def score(t, p):\n    return base[t] + (space[t] & ~edge[p])\n"),
    write("train_gpt.py", "exec(open('core.py').read())\n"),
]  # fmt: skip


@cases(
    settings_of_all_seeds_agree_but_for_those_of_one_run=[
        (ONE, functools.partial(with_blocks, change=change), [], expected) for change, expected in (
            ({}, (HOLDS, "3 seeds, equal in 9 settings, code size, the scripts in the logs")),
            (OF_ITS_OWN, (HOLDS, "3 seeds, equal")),
            ({"matrix_lr": "0.03"}, (FAILS, "matrix_lr differs: train_seed1337.log:")),
            ({"ttt_hash_buckets": "16384"},
             (FAILS, "has settings that the shipped code lacks: ttt_hash_buckets (line ")),
            ({f"key_{at}": "1" for at in range(3)}, (FAILS, "key_0 differs: ")),
        )],
    a_seed_that_ran_code_of_another_size_is_named=[
        (ONE, three, [edit("train_seed42.log", r"Code size: \d+", "Code size: 67000")],
         (FAILS, "code sizes differ: ", "train_seed42.log 67,000"))],
    logs_that_name_no_setting_are_neither_alike_nor_unlike=[
        (ONE, three, [edit_logs(r"(?:model_params|world_size):.*\n", "")], (UNKNOWN, "no log names a setting"))],
    the_order_is_found_in_any_wording=[(FIRST, one_run, changes, expected) for changes, expected in (
        ([], (HOLDS, "tells of an adaptation while scoring")),
        (lines(*EPOCHS, before="final"), (FAILS, "ran 3 epochs over the text, and its score follows")),
        (lines(*QUANT, before="final"), (FAILS, "prequant_ttt ran 21 epochs")),
        (lines(EPOCHS[0], before="final"), (UNKNOWN, "and not of its order")),
        (lines("ngram_cache: hits=7612/7754 (98.2%) order=5", before="final"), (UNKNOWN, "ngram_cache: hits=7612")),
        (lines("2026-04-01 10:00:00 INFO ttt_sliding:start chunks=60"), (UNKNOWN, "ttt_sliding:start")),
        (lines("own pieces - 8-GPU n-gram eval"), (UNKNOWN, "n-gram eval")),
        (lines("ttt_enabled:False ttt_mode:lora", "ngram_tilt: disabled", "engram:True", "ngram_hash: buckets=4"),
         (HOLDS, "line of 1 log tells of an adaptation")),
        (lines("eval: ttt=0 ngram_cache=0", "lora_params:0", "TTT(on=0) a: 1", "ttt_lr:0.01", "no_ttt: 1",
               "final_int8_ttt_lora skipped:model_kind=smm"), (HOLDS, "1 log tells")),
        (lines(*EPOCHS), (UNKNOWN, "and not of its order")),
        (lines(*EPOCHS * 2, before="final"), (UNKNOWN, "and not of its order")),
        (lines("legal_ttt_exact val_loss:1.89 val_bpb:1.12000000"), (UNKNOWN, "tell of an adaptation (train_seed")),
        (lines(*block(SOME | {"ttt_enabled": "True"}), before="model_params"), (UNKNOWN, "ttt_enabled: True")),
        (lines(*block(SOME | {"ttt_enabled": "False"}), before="model_params"), (HOLDS, "tells of an adaptation")),
        (lines(*(f"ttpp: phase:{at}/3 pd:{700 * at} gd:{600 * at} t:9.0s" for at in (1, 2, 3)), before="final"),
         (HOLDS, "(3 phases)")),
        (lines("ttpp: phase:1/3 pd:600 gd:700 t:9.0s", before="final"),
         (FAILS, "adapted to 700 documents when 600 were scored")),
    )],
    only_a_word_of_its_own_says_that_nothing_was_adapted=[
        (FIRST, one_run, lines(f"{label} val_loss:2.0 val_bpb:1.2"), verdict)
        for label, verdict in (("pre_ttt", HOLDS), ("no-slot", HOLDS), ("domino_ttt", UNKNOWN))],
    a_trace_of_events_shows_the_order=[(FIRST, one_run, events(*rows), expected) for rows, expected in (
        ([SCORE | {"chunk": 0}, LEARN | {"chunk": 0}, SCORE | {"chunk": 1}], (HOLDS, "trace.jsonl")),
        ([LEARN | {"chunk": 0}, SCORE | {"chunk": 0}], (FAILS, "trace.jsonl:1: train of chunk 0 before its score")),
        ([SCORE | {"end": 100}, LEARN | {"end": 100}, LEARN | {"end": 99}], (HOLDS, "trace.jsonl")),
        ([SCORE | {"end": 62_021_632}, LEARN | {"end": 62_021_633}], (FAILS, "train of tokens up to 62,021,633")),
        ([SCORE | {"chunk": 0}], (HOLDS, "tells of an adaptation")),
        ([SCORE, 7, "x", None], (HOLDS, "tells of an adaptation")),
    )],
    metrics_of_the_training_are_no_trace=[
        (FIRST, one_run, events(LEARN | {"chunk": 0}, SCORE | {"chunk": 9}, file="metrics.jsonl"), HOLDS)],
    a_claimed_score_of_a_part_is_found_in_any_wording=[(WHOLE, one_run, changes, expected) for changes, expected in (
        ([], (HOLDS, "(62,021,632 tokens loaded)")),
        (lines(f"ppm mix_bpb={BPB} subset=8000000 tokens"),
         (FAILS, "is of 8,000,000 tokens, the split has 62,021,632")),
        (lines(f"ppm: tokens=62021632 bytes=151078222 mix_bpb={BPB}"), (HOLDS, "train_seed1337.log:")),
        (lines(f"cond_ppm tokens=62021632 bytes=164594398 mix_bpb={BPB}"), (FAILS, "is of 164,594,398 bytes")),
        (lines("ppm: subset=8000000 tokens", f"mix_bpb={BPB}"), (FAILS, "is of 8,000,000 tokens")),
        (lines("ppm: subset=8000000 tokens mix_bpb=0.99460000"), (HOLDS, "no line with a claimed score names fewer")),
        (lines("ppm: subset=8000000 tokens", "a", "b", "c", "d", f"mix_bpb={BPB}"), (HOLDS, "names fewer")),
        (lines(f"window tokens=2048 mix_bpb={BPB}"), (HOLDS, "names fewer")),
        (lines(f"train_batch_tokens:524288 mix_bpb={BPB}"), (HOLDS, "names fewer")),
        (lines("saved_model:logs/a_model.npz bytes:1206844", f"final_exact val_bpb:{BPB}"), (HOLDS, "names fewer")),
        (lines("code_bytes:59488 total_bytes:15800799", f"final_exact val_bpb:{BPB}"), (HOLDS, "names fewer")),
        (lines(f"final_exact val_bpb:{BPB} artifact_bytes:15741311 total_bytes:15800799"), (HOLDS, "names fewer")),
        (lines("ttt:short_docs time=7911ms tokens=158639", f"final_ttt val_bpb:{BPB}"), (HOLDS, "names fewer")),
        (lines("val_tokens:524289 eval_ctx:8192"),
         (FAILS, "loads 524,289 validation tokens, the split has 62,021,632")),
        (lines("eval_bytes=1999872", f"final_exact val_bpb:{BPB}"), (FAILS, "is of 1,999,872 bytes")),
        ([edit_logs(r"val_loader.*\n", "")], UNKNOWN),
    )],
    counts_of_submission_json_are_held_against_the_split=[
        (WHOLE, one_run, [claim(**values)], verdict) for values, verdict in (
            ({"eval_token_count_per_seed": 62_021_632, "eval_canonical_byte_count_per_seed": 151_080_363}, HOLDS),
            ({"eval_token_count_per_seed": 9_662_464}, FAILS),
            ({"ttt_eval_chunk_tokens": 32_768}, HOLDS), ({"eval_byte_count": 164_594_398}, FAILS))],
    a_split_that_was_cut_when_it_was_prepared_is_found=[  # as PR 1854: 10,000 documents, no val_bpb in submission.json
        (WHOLE, one_run, [
            *of_pieces(9_662_464, "fineweb_8192_bpe"), claim(val_bpb=None, val_loss=None), edit_logs(
                r"(?<=window_exact ).*", f"val_loss:2.4 val_bpb:{scored(9_662_464, 32_756_252, 2.4)[1]:.8f}")],
         (FAILS, "loads 9,662,464 validation tokens, the split has 40,540,160"))],
    a_count_of_a_tokenizer_that_no_line_names_is_too_few_or_tells_nothing=[
        (WHOLE, one_run, [*of_pieces(tokens, "own"), edit_logs(r"(final\w+) val_loss:\S+", r"\1")], expected)
        for tokens, expected in (
            (524_288, (FAILS, "loads 524,288 validation tokens, too few for the split's 151,080,363 bytes")),
            (45_122_403, (UNKNOWN, "no file says how many tokens or bytes were scored")))],
    bytes_that_a_wrong_table_adds_are_implied_by_loss_and_bpb=[  # as PR 1865
        (IMPLIED, functools.partial(one_run, row=(5000, "2.56860000", "0.87580000", 15_571_723, 15_639_340)),
         of_pieces(45_514_752, "fineweb_4096_bpe"), (FAILS, "192,58"))],
    a_mixtures_bpb_beside_the_models_own_loss_implies_no_bytes=[
        (IMPLIED, one_run, lines(line), expected) for line, expected in (
            ("ppm_sliding val_loss:1.89 val_bpb:0.95", (HOLDS, "a mixture's bpb beside the model's own loss: t")),
            ("ppm_sliding val_loss:1.89 val_bpb:1.95", (FAILS, "ppm_sliding: 62,021,632 x 1.89")),
            ("final_sliding val_loss:1.89 val_bpb:0.95", (FAILS, "final_sliding: 62,021,632 x 1.89")))],
    where_every_pair_is_a_mixtures_the_bytes_are_held_against_it=[
        (IMPLIED, one_run, [edit_logs(r"(final\w+)( val_loss:\S+ val_bpb:)\S+", r"ppm_\1\g<2>0.95"),
                            claim(val_bpb=0.95)], (FAILS, "178,95"))],
    a_space_counted_twice_is_found_in_the_table_and_in_the_bytes_that_the_scores_imply=[
        (check, scored(62_021_632, 177_827_958, 2.0)[0], FOUND_IN_TABLE, (FAILS, why)) for check, why in (
            (IMPLIED, "177,82"), (BYTES, "core.py, line 1: a leading space counts 2"))],
)  # fmt: skip
def test_what_logs_show_beside_their_numbers(place: Path, case: Case) -> None:
    shown(case, place)


def test_counts_are_those_of_what_was_scored():
    counted = {"eval_token_count": 5, "val_tokens": 6, "scored_bytes_count": 8, "eval_tokens_per_seed": 9}
    others = {"bytes_total": 7, "eval_byte_count": "x", "eval_tokens_per_second": 9, "val_max_tokens": 9}
    assert counted_in(counted | others) == counted
