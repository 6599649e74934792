"""Numbers of submission.json and README.md against what is logged or taken anew, compared as they are written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from published import PR315, edit, foreign, late_log, published
from reviewing import shows

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN, judge
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading import claims as checks
from pgolf_core.lab.verify.reading.claims import ANEW, LOGGED, Fact, Judged, agreeing
from pgolf_core.lab.verify.reading.readme import readme_numbers, readme_prose

JSON, HEAD, README = checks.json_numbers, checks.headline, readme_numbers
ROWS = {seed: {"val_loss": float(row[1]), "val_bpb": float(row[2]), "steps": row[0]} for seed, row in PR315.items()}
MEAN = sum(row["val_bpb"] for row in ROWS.values()) / 3
AS_LIST = [{"seed": seed} | row for seed, row in ROWS.items()]
AS_NAMES = {f"seed_{seed}": row for seed, row in ROWS.items()}
OTHER = ROWS | {42: ROWS[42] | {"val_bpb": 1.1001}}
IN_README = {  # what is put for what
    "steps": ("7,061", "7,062"), "loss": (r"1\.8994", "1.8996"), "nothing": ("(?s).*", "nothing"),
    "mean": (r"\Z", "| mean | 7,058 | 1.8996 | 1.1250 |\n| std | 6.4 | 0.0004 | 0.0002 |\n"),
    "other mean": (r"\Z", "| mean | 7,000 | 1.8996 | 1.1250 |\n"), "prose": (r"\Z", "\n**1.0999** bpb\n"),
    "mean in prose": (r"\Z", f"\n{MEAN:.6f} bpb\n"), "a fourth": (r"\Z", "| 7 | – | – | 1.25 |\n"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("claims", "verdict", "why"),
    [
        ({"int6_zstd_val_bpb": 1.1487, "int6_zstd_val_loss": 1.9395}, HOLDS, "roundtrip"),
        (
            {"int6_zstd_val_bpb": 1.1477},
            FAILS,
            "roundtrip_bpb 1.1477 in submission.json, 1.14869711 logged as final_int6_",
        ),
        (
            {"int6_zstd_val_loss": 1.9385},
            FAILS,
            "roundtrip_loss 1.9385 in submission.json, 1.93951000 logged as final_",
        ),
        ({"artifact_bytes_mean": 3, "val_loss_std": 0.1}, HOLDS, "; not checked: artifact_bytes_mean, val_loss_std"),
    ],
)
def test_the_score_of_the_packed_file_is_that_of_a_logs_line_and_what_is_not_read_is_named(
    tmp_path: Path, claims: dict, verdict: str, why: str
) -> None:
    folder = published(tmp_path / "track_10min_16mb" / "A_record", PR315, claims=claims)
    for log in folder.glob("*.log"):
        log.write_text(log.read_text() + "final_int6_roundtrip_exact val_loss:1.93951000 val_bpb:1.14869711\n")
    shows(judge("it", JSON, Judged(folder, How())), verdict, why)


@pytest.mark.parametrize(
    ("check", "claims", "changed", "verdict", "why"),
    [
        (JSON, {"seed_results": ROWS, "val_bpb": MEAN}, "", HOLDS, "taken anew: 10 numbers of 3 seeds"),
        (JSON, {"seed_results": AS_LIST, "mean_val_bpb": MEAN}, "", HOLDS, "taken anew: 10 numbers of 3 seeds"),
        (JSON, {"seed_results": AS_NAMES, "seeds": list(ROWS)}, "", HOLDS, "taken anew: 10 numbers of 3 seeds"),
        (JSON, {"seed_results": OTHER}, "", FAILS, "seed 42: bpb 1.1001 in submission.json, 1.12498291 logged"),
        (JSON, {"seed_results": ROWS, "steps": 9000}, "", FAILS, "steps 9000 is neither the mean of its seeds'"),
        (JSON, {}, "", HOLDS, "numbers of 1 seed"),
        (JSON, {"val_bpb": round(MEAN, 6)}, "", UNKNOWN, "no log and no artifact has a number"),
        (HEAD, {"seed_results": AS_NAMES, "seeds": list(ROWS)}, "", HOLDS, "logged or taken anew"),
        (HEAD, {"val_bpb": MEAN}, "", HOLDS, "the mean; mean over 3"),
        (HEAD, {}, "", HOLDS, "of seed 2025, not the mean; "),
        (HEAD, {"mean_val_bpb": MEAN, "std_val_bpb": 0.000215}, "", HOLDS, "mean over 3 seed"),
        (HEAD, {"val_bpb": 1.11}, "", FAILS, "neither the mean"),
        (HEAD, {"mean_val_bpb": 1.11}, "", FAILS, "neither the mean"),
        (HEAD, {"val_bpb_std": 0.01}, "", FAILS, "a standard deviation of 0.01"),
        (HEAD, {"val_bpb_std": "x"}, "", HOLDS, "of seed 2025"),
        (HEAD, {"val_bpb": None}, "", UNKNOWN, "names no score"),
        (HEAD, {"val_bpb": "1e5"}, "", UNKNOWN, "names no score"),
        (HEAD, {"seed_results": ROWS | {9: ROWS[42]}}, "", UNKNOWN, "only in submission.json"),
        (README, {"seed_results": ROWS}, "", HOLDS, "9 logged"),
        (README, {}, "mean", HOLDS, "cells that agree: 15 logged"),
        (README, {}, "mean in prose", HOLDS, "9 logged"),
        (README, {}, "steps", FAILS, "README.md, 42: steps 7,062, 7061 logged"),
        (README, {}, "loss", FAILS, "README.md, 42: loss 1.8996, 1.89948149 logged"),
        (README, {}, "other mean", FAILS, "README.md, mean: steps 7,000"),
        (readme_prose, {}, "prose", UNKNOWN, "names 1.0999 bpb, no number of this folder"),
        (README, {}, "nothing", UNKNOWN, "no table of README.md has a number"),
        (README, {"seed_results": {7: {"val_bpb": 1.25}}}, "a fourth", UNKNOWN, "1 cell as in submission.json"),
    ],
)
def test_a_claim_is_held_against_the_logs(
    tmp_path: Path, check: Callable, claims: dict, changed: str, verdict: str, why: str
):
    folder = published(tmp_path / "track_10min_16mb" / "one", PR315, claims=json.loads(json.dumps(claims)))
    if changed:
        edit("README.md", *IN_README[changed])(folder)
    shows(judge("it", check, Judged(folder, How())), verdict, why)


def test_how_far_a_written_number_may_be_from_a_fact():
    texts = {"bpb": "1.1248", "train_seconds": "600.040", "model_bytes": "100", "total_bytes": "150"}
    known = {name: [Fact(text, LOGGED)] for name, text in texts.items()}
    assert agreeing("bpb", "1.12484502", known) and not agreeing("bpb", "1.1", known)
    assert agreeing("bpb", "1.1", known, least_digits=False)
    assert agreeing("train_seconds", "606", known) and not agreeing("train_seconds", "607", known)
    assert agreeing("model_bytes", "150", known), "many call the total the artifact"
    assert not agreeing("total_bytes", "100", known)
    anew = {"bpb": [Fact("1.12484502", ANEW)]}
    assert agreeing("bpb", "1.1248460", anew) and not agreeing("bpb", "1.1249", anew)


# ---------------------------------------------------------------------- folders of other forms

ONE = {"quantized_sliding_window": ("2.80001000", "1.08397143"), "legal_ttt_exact": ("2.79517119", "1.08209788")}
EMA = {"pre-quantization post-ema": ("2.81434292", "1.08951985")}
SLIDING, ADAPTED, EARLY = (float(finals[label][1]) for finals, label in (
    (ONE, "quantized_sliding_window"), (ONE, "legal_ttt_exact"), (EMA, "pre-quantization post-ema")))  # fmt: skip
THREE = {314: "1.06086831", 42: "1.06128183", 1234: "1.06220261"}
TABLE = {seed: {"val_bpb": float(bpb)} for seed, bpb in THREE.items()}
LOGS = {f"train_seed{seed}.log": late_log(seed, {"quantized_ttt": ("2.3", bpb)}) for seed, bpb in THREE.items()}
SUPERSEDED = {"train_seed42_old.log": late_log(42, {"quantized_ttt": ("2.3", "1.09")}, train_ms=699_000)}
EVALUATED = {
    "train_seed42.log": late_log(42, {"quantized": ("2.34", "1.07254371")}),
    "ttt_eval.log": "seed: 42\nquantized_ttt_phased val_loss:2.31 val_bpb:1.05803761\ntotal_eval_time:591.4s\n",
}
TOTAL = 15_975_400
OURS = {seed: {"val_bpb": bpb} for seed, bpb in {1337: 1.3926597825824365, 1338: 1.391357089338582}.items()}
OUR_LOGS = {f"train_seed{seed}.log": late_log(seed, {"final_sliding_window_exact": ("4.18", "1.44034890"),
            "final_last_exact": ("4.04", f"{row['val_bpb']:.8f}")}) for seed, row in OURS.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("check", "logs", "claims", "verdict", "why"),
    [
        (JSON, {"a.log": late_log(0, EMA | ONE)}, {"val_bpb": ADAPTED}, HOLDS, "scores as legal_ttt_exact"),
        (JSON, {"a.log": late_log(0, EMA | ONE)}, {"val_bpb": SLIDING}, HOLDS, "scores as quantized_sliding_window"),
        (JSON, {"a.log": late_log(0, EMA | ONE)}, {"val_bpb": 1.05}, FAILS, "1.08397143 logged as quantized_slid"),
        (JSON, {"a.log": late_log(0, EMA | ONE)}, {"val_bpb": EARLY}, FAILS, "before packing 1.08951985 logged as"),
        (JSON, {"a.log": late_log(0, EMA)}, {"val_bpb": EARLY}, HOLDS, "scores as pre-quantization post-ema"),
        (JSON, {"a.log": late_log(0, EMA)}, {"val_bpb": 1.05}, UNKNOWN, "no log and no artifact has a number"),
        (HEAD, {"a.log": late_log(0, EMA | ONE)}, {"val_bpb": ADAPTED}, HOLDS, "as legal_ttt_exact"),
        (HEAD, {"a.log": late_log(0, EMA | ONE)}, {"val_bpb": EARLY}, FAILS, "neither the mean"),
        (JSON, {"run.log": late_log(None, ONE)}, {"val_bpb": ADAPTED}, HOLDS, "1 number of 1 seed"),
        (JSON, {"run.log": late_log(None, ONE)}, {"val_bpb": 1.05}, FAILS, "the log: bpb 1.05"),
        (HEAD, {"run.log": late_log(None, ONE)}, {"val_bpb": ADAPTED, "seeds": [7]}, HOLDS, "mean over 1 seed"),
        (HEAD, LOGS, {"val_bpb": 1.06145, "val_bpb_std": 0.00068, "seed_results": TABLE}, HOLDS, "the mean; "),
        (HEAD, LOGS, {"val_bpb": 1.06146}, HOLDS, "the mean; mean over 3 seeds 1.061451"),
        (HEAD, LOGS, {"val_bpb": 1.0616}, FAILS, "neither the mean"),
        (HEAD, LOGS, {"val_bpb": 1.06145, "val_bpb_std": 0.0006830}, HOLDS, "the mean; "),
        (HEAD, LOGS, {"val_bpb": 1.06145, "val_bpb_std": 0.0005577}, HOLDS, "the mean; "),
        (HEAD, LOGS, {"val_bpb": 1.06145, "val_bpb_std": 0.0009}, FAILS, "the scores have 0.0006830, 0.0005577"),
        (JSON, LOGS | SUPERSEDED, {"val_bpb": 1.06145, "seed_results": TABLE}, HOLDS, "3 numbers of 3 seeds"),
        (JSON, SUPERSEDED | LOGS, {"val_bpb": 1.06145, "seed_results": TABLE}, HOLDS, "3 numbers of 3 seeds"),
        (JSON, EVALUATED, {"val_bpb": 1.05803761, "steps": 4550}, HOLDS, "2 numbers of 1 seed"),
        (JSON, EVALUATED, {"val_bpb": 1.05803761, "steps": 4551}, FAILS, "steps 4551 in submission.json, 4550 logged"),
        (JSON, {"a.log": late_log(0, ONE)}, {"val_bpb": ADAPTED, "artifact_bytes": TOTAL}, HOLDS, "2 numbers"),
        (JSON, {"a.log": late_log(0, ONE)}, {"val_bpb": "1.08209788", "bytes_total": "15,975,400"}, HOLDS, "2 numbers"),
        (JSON, {"a.log": late_log(0, ONE)}, {"val_bpb": ADAPTED, "bytes_total": TOTAL - 9}, FAILS, "total_bytes"),
        (JSON, {"a.log": late_log(0, ONE), "b.log": late_log(1, EMA, model=15_558_219)},
         {"val_bpb": ADAPTED, "bytes_total": 15_558_319}, HOLDS, "but total_bytes 15558319 of seed 0 is seed 1's"),
        (JSON, LOGS, {"seed_results": TABLE | {42: TABLE[314]}}, FAILS, "seed 42: bpb 1.06086831"),
        (HEAD, OUR_LOGS, {"val_bpb": 1.3920084359605092, "seed_results": OURS}, HOLDS, "as final_last_exact"),
    ],
)  # fmt: skip
def test_a_claim_is_held_against_every_final_line_of_a_foreign_log(
    tmp_path: Path, check: Callable, logs: dict, claims: dict, verdict: str, why: str
):
    folder = foreign(tmp_path / "track_10min_16mb" / "one", logs, json.loads(json.dumps(claims)))
    shows(judge("it", check, Judged(folder, How())), verdict, why)
