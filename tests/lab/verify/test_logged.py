"""What logs show beside their numbers: one recipe over all seeds, the whole split, scores before learning."""

import json
import math
from pathlib import Path

import pytest
from published import PR315, RULE, SETTINGS, add_lines, block, claim, edit, edit_logs, one_run, published, sized_script
from reviewing import judged, shows

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


@pytest.fixture
def folder(place: Path) -> Path:
    return one_run(place)


# ---------------------------------------------------------------------- one recipe


def with_blocks(place: Path, change: dict) -> Path:
    """Three seeds whose logs name settings, one of them others."""
    folder = published(place, PR315)
    code = sized_script((folder / "train_gpt.py").stat().st_size, *SETTINGS, "seed", "run_id", *OF_ITS_OWN)
    for path in (folder / "train_gpt.py", *folder.glob("*.log")):
        start = path.read_text().find("=" * 100)
        path.write_text(code.rstrip("\n") + "\n" + (path.read_text()[start:] if start >= 0 else ""))
    own = {seed: SETTINGS | {"seed": str(seed), "run_id": f"run{seed}"} for seed in PR315}
    own[42] |= change
    add_lines(folder, {seed: block(settings) for seed, settings in own.items()}, "model_params")
    return folder


@pytest.mark.parametrize(
    ("change", "verdict", "why"),
    [
        ({}, HOLDS, "3 seeds, equal in 9 settings, code size, the scripts in the logs"),
        (OF_ITS_OWN, HOLDS, "3 seeds, equal"),
        ({"matrix_lr": "0.03"}, FAILS, "matrix_lr differs: train_seed1337.log:"),
        ({"ttt_hash_buckets": "16384"}, FAILS, "has settings that the shipped code lacks: ttt_hash_buckets (line "),
        ({f"key_{at}": "1" for at in range(3)}, FAILS, "key_0 differs: "),
    ],
)
def test_settings_of_all_seeds_agree_but_for_those_of_one_run(place: Path, change: dict, verdict: str, why: str):
    folder = with_blocks(place, change)
    shows(judged(folder, place)[ONE], verdict, why)


def test_a_seed_that_ran_code_of_another_size_is_named(place: Path):
    folder = published(place, PR315)
    edit("train_seed42.log", r"Code size: \d+", "Code size: 67000")(folder)
    shows(judged(folder, place)[ONE], FAILS, "code sizes differ: ", "train_seed42.log 67,000")


def test_logs_that_name_no_setting_are_neither_alike_nor_unlike(place: Path):
    folder = published(place, PR315)
    edit_logs(folder, r"(?:model_params|world_size):.*\n", "")
    shows(judged(folder, place)[ONE], UNKNOWN, "no log names a setting")


# ---------------------------------------------------------------------- the whole split, scored first


@pytest.mark.parametrize(
    ("check", "lines", "before", "verdict", "why"),
    [(FIRST, *row) for row in (
        ([], "final", HOLDS, "tells of an adaptation while scoring"),
        (EPOCHS, "final", FAILS, "ran 3 epochs over the text, and its score follows"),
        (QUANT, "final", FAILS, "prequant_ttt ran 21 epochs"),
        (EPOCHS[:1], "final", UNKNOWN, "and not of its order"),
        (["ngram_cache: hits=7612/7754 (98.2%) order=5"], "final", UNKNOWN, "ngram_cache: hits=7612"),
        (["2026-04-01 10:00:00 INFO ttt_sliding:start chunks=60"], "", UNKNOWN, "ttt_sliding:start"),
        (["own pieces - 8-GPU n-gram eval"], "", UNKNOWN, "n-gram eval"),
        (["ttt_enabled:False ttt_mode:lora", "ngram_tilt: disabled", "engram:True", "ngram_hash: buckets=4"], "", HOLDS,
         "line of 1 log tells of an adaptation"),
        (["eval: ttt=0 ngram_cache=0", "lora_params:0", "TTT(on=0) a: 1", "ttt_lr:0.01", "no_ttt: 1",
          "final_int8_ttt_lora skipped:model_kind=smm"], "", HOLDS,
         "1 log tells"),
        (EPOCHS, "", UNKNOWN, "and not of its order"),
        (EPOCHS * 2, "final", UNKNOWN, "and not of its order"),
        (["legal_ttt_exact val_loss:1.89 val_bpb:1.12000000"], "", UNKNOWN, "tell of an adaptation (train_seed"),
        (block(SOME | {"ttt_enabled": "True"}), "model_params", UNKNOWN, "ttt_enabled: True"),
        (block(SOME | {"ttt_enabled": "False"}), "model_params", HOLDS, "tells of an adaptation"),
        ([f"ttpp: phase:{at}/3 pd:{700 * at} gd:{600 * at} t:9.0s" for at in (1, 2, 3)], "final", HOLDS, "(3 phases)"),
        (["ttpp: phase:1/3 pd:600 gd:700 t:9.0s"], "final", FAILS, "adapted to 700 documents when 600 were scored"),
    )] + [(WHOLE, *row) for row in (
        ([], "", HOLDS, "(62,021,632 tokens loaded)"),
        ([f"ppm mix_bpb={BPB} subset=8000000 tokens"], "", FAILS, "is of 8,000,000 tokens, the split has 62,021,632"),
        ([f"ppm: tokens=62021632 bytes=151078222 mix_bpb={BPB}"], "", HOLDS, "train_seed1337.log:"),
        ([f"cond_ppm tokens=62021632 bytes=164594398 mix_bpb={BPB}"], "", FAILS, "is of 164,594,398 bytes"),
        (["ppm: subset=8000000 tokens", f"mix_bpb={BPB}"], "", FAILS, "is of 8,000,000 tokens"),
        (["ppm: subset=8000000 tokens mix_bpb=0.99460000"], "", HOLDS, "no line with a claimed score names fewer"),
        (["ppm: subset=8000000 tokens", "a", "b", "c", "d", f"mix_bpb={BPB}"], "", HOLDS, "names fewer"),
        ([f"window tokens=2048 mix_bpb={BPB}"], "", HOLDS, "names fewer"),
        ([f"train_batch_tokens:524288 mix_bpb={BPB}"], "", HOLDS, "names fewer"),
        (["saved_model:logs/a_model.npz bytes:1206844", f"final_exact val_bpb:{BPB}"], "", HOLDS, "names fewer"),
        (["code_bytes:59488 total_bytes:15800799", f"final_exact val_bpb:{BPB}"], "", HOLDS, "names fewer"),
        ([f"final_exact val_bpb:{BPB} artifact_bytes:15741311 total_bytes:15800799"], "", HOLDS, "names fewer"),
        (["ttt:short_docs time=7911ms tokens=158639", f"final_ttt val_bpb:{BPB}"], "", HOLDS, "names fewer"),
        (["val_tokens:524289 eval_ctx:8192"], "", FAILS, "loads 524,289 validation tokens, the split has 62,021,632"),
        (["eval_bytes=1999872", f"final_exact val_bpb:{BPB}"], "", FAILS, "is of 1,999,872 bytes"),
    )],
)  # fmt: skip
def test_the_order_and_a_claimed_score_of_a_part_are_found_in_any_wording(folder, check, lines, before, verdict, why):
    add_lines(folder, {"all": lines}, before)
    shows(judged(folder, folder.parent)[check], verdict, why)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"eval_token_count_per_seed": 62_021_632, "eval_canonical_byte_count_per_seed": 151_080_363}, HOLDS),
        ({"eval_token_count_per_seed": 9_662_464}, FAILS),
        ({"ttt_eval_chunk_tokens": 32_768}, HOLDS), ({"eval_byte_count": 164_594_398}, FAILS),
    ],
)  # fmt: skip
def test_counts_of_submission_json_are_held_against_the_split(folder: Path, values: dict, verdict: str):
    claim(folder, **values)
    assert judged(folder, folder.parent)[WHOLE].verdict == verdict


def test_a_split_that_was_cut_when_it_was_prepared_is_found(place: Path):
    """As PR 1854: 9,662,464 tokens of 10,000 documents, and no val_bpb in submission.json."""
    folder = one_run(place)
    bpb = 9_662_464 * 2.4 / (math.log(2) * 32_756_252)
    edit_logs(folder, r"tokens:62021632", "tokens:9662464")
    edit_logs(folder, r"fineweb_1024", "fineweb_8192")
    edit_logs(folder, r"(?<=window_exact ).*", f"val_loss:2.4 val_bpb:{bpb:.8f}")
    claim(folder, val_bpb=None, val_loss=None)
    shows(judged(folder, place)[WHOLE], FAILS, "loads 9,662,464 validation tokens, the split has 40,540,160")


@pytest.mark.parametrize(
    ("tokens", "verdict", "why"),
    [
        (524_288, FAILS, "loads 524,288 validation tokens, too few for the split's 151,080,363 bytes"),
        (45_122_403, UNKNOWN, "no file says how many tokens or bytes were scored"),
    ],
)
def test_a_count_of_a_tokenizer_that_no_line_names_is_too_few_or_tells_nothing(place, tokens, verdict, why):
    folder = one_run(place)
    edit_logs(folder, r"tokens:62021632", f"tokens:{tokens}")
    edit_logs(folder, r"fineweb_1024_bpe", "own")
    edit_logs(folder, r"(final\w+) val_loss:\S+", r"\1")
    shows(judged(folder, place)[WHOLE], verdict, why)


def test_bytes_that_a_wrong_table_adds_are_implied_by_loss_and_bpb(place: Path):
    """As PR 1865: 45,514,752 tokens x 2.5686 / (ln 2 x 0.8758) = 192.58 MB."""
    folder = one_run(place, row=(5000, "2.56860000", "0.87580000", 15_571_723, 15_639_340))
    edit_logs(folder, r"tokens:62021632", "tokens:45514752")
    edit_logs(folder, r"fineweb_1024", "fineweb_4096")
    shows(judged(folder, place)[IMPLIED], FAILS, "192,58")


@pytest.mark.parametrize(
    ("lines", "verdict", "why"),
    [
        (
            ["ppm_sliding val_loss:1.89 val_bpb:0.95"],
            HOLDS,
            "a mixture's bpb beside the model's own loss: t",
        ),
        (["ppm_sliding val_loss:1.89 val_bpb:1.95"], FAILS, "ppm_sliding: 62,021,632 x 1.89"),
        (["final_sliding val_loss:1.89 val_bpb:0.95"], FAILS, "final_sliding: 62,021,632 x 1.89"),
    ],
)
def test_a_mixtures_bpb_beside_the_models_own_loss_implies_no_bytes(folder: Path, lines: list, verdict: str, why: str):
    add_lines(folder, {"all": lines}, "")
    shows(judged(folder, folder.parent)[IMPLIED], verdict, why)


def test_where_every_pair_is_a_mixtures_the_bytes_are_held_against_it(folder: Path):
    edit_logs(folder, r"(final\w+)( val_loss:\S+ val_bpb:)\S+", r"ppm_\1\g<2>0.95")
    claim(folder, val_bpb=0.95)
    shows(judged(folder, folder.parent)[IMPLIED], FAILS, "178,95")


def test_a_space_counted_twice_is_found_in_the_table_and_in_the_bytes_that_the_scores_imply(place: Path):
    """As PR 1370: 177,827,958 bytes implied, and a log of `step N | val_loss x | val_bpb y`."""
    bpb = 62_021_632 * 2.0 / (math.log(2) * 177_827_958)
    folder = one_run(place, row=(5000, "2.00000000", f"{bpb:.8f}", 15_571_723, 15_639_340))
    edit_logs(folder, r"step:5000.*", f"step 5000 | val_loss 2.0000 | val_bpb {bpb:.4f}")
    rule = RULE.replace("        piece = piece[1:]\n", "").replace(
        "piece.encode", "piece.replace('\\u2581', ' ').encode"
    )
    (folder / "core.py").write_text(rule + "def score(t, p):\n    return base[t] + (space[t] & ~edge[p])\n")
    (folder / "train_gpt.py").write_text("exec(open('core.py').read())\n")
    found = judged(folder, place)
    shows(found[IMPLIED], FAILS, "177,82")
    shows(found[BYTES], FAILS, "core.py, line 1: a leading space counts 2")


def test_where_nothing_says_how_much_was_scored_it_is_not_known(place: Path):
    folder = one_run(place)
    edit_logs(folder, r"val_loader.*\n", "")
    assert judged(folder, place)[WHOLE].verdict == UNKNOWN


def test_counts_are_those_of_what_was_scored():
    counted = {"eval_token_count": 5, "val_tokens": 6, "scored_bytes_count": 8, "eval_tokens_per_seed": 9}
    others = {"bytes_total": 7, "eval_byte_count": "x", "eval_tokens_per_second": 9, "val_max_tokens": 9}
    assert counted_in(counted | others) == counted


SCORE, LEARN = {"event": "score"}, {"event": "train"}


@pytest.mark.parametrize(
    ("events", "verdict", "why"),
    [
        ([SCORE | {"chunk": 0}, LEARN | {"chunk": 0}, SCORE | {"chunk": 1}], HOLDS, "trace.jsonl"),
        ([LEARN | {"chunk": 0}, SCORE | {"chunk": 0}], FAILS, "trace.jsonl:1: train of chunk 0 before its score"),
        ([SCORE | {"end": 100}, LEARN | {"end": 100}, LEARN | {"end": 99}], HOLDS, "trace.jsonl"),
        ([SCORE | {"end": 62_021_632}, LEARN | {"end": 62_021_633}], FAILS, "train of tokens up to 62,021,633"),
        ([SCORE | {"chunk": 0}], HOLDS, "tells of an adaptation"),
        ([{"event": "score"}, 7, "x", None], HOLDS, "tells of an adaptation"),
    ],
)
def test_a_trace_of_events_shows_the_order(folder: Path, events: list, verdict: str, why: str):
    (folder / "trace.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    shows(judged(folder, folder.parent)[FIRST], verdict, why)


@pytest.mark.parametrize(("label", "verdict"), [("pre_ttt", HOLDS), ("no-slot", HOLDS), ("domino_ttt", UNKNOWN)])
def test_only_a_word_of_its_own_says_that_nothing_was_adapted(folder: Path, label: str, verdict: str):
    add_lines(folder, {"all": [f"{label} val_loss:2.0 val_bpb:1.2"]}, "")
    assert judged(folder, folder.parent)[FIRST].verdict == verdict


def test_metrics_of_the_training_are_no_trace(folder: Path):
    (folder / "metrics.jsonl").write_text(json.dumps(LEARN | {"chunk": 0}) + "\n" + json.dumps(SCORE | {"chunk": 9}))
    assert judged(folder, folder.parent)[FIRST].verdict == HOLDS
