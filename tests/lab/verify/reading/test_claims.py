"""Numbers of submission.json and README.md against what is logged or taken anew, compared as they are written.

pytest tests/lab/verify/reading/test_claims.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from published import PR315, edit, published

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN, judge
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading import claims as checks
from pgolf_core.lab.verify.reading.claims import ANEW, LOGGED, Fact, Judged, agreeing
from pgolf_core.lab.verify.reading.readme import readme_numbers

JSON, LAST, HEAD, README = checks.json_numbers, checks.before_packing, checks.headline, readme_numbers
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
    ("check", "claims", "changed", "verdict", "why"),
    [
        (JSON, {"seed_results": ROWS, "val_bpb": MEAN}, "", HOLDS, "9 numbers of 3 seed(s) are the logs'"),
        (JSON, {"seed_results": AS_LIST, "mean_val_bpb": MEAN}, "", HOLDS, "9 numbers of 3 seed(s) are the logs'"),
        (JSON, {"seed_results": AS_NAMES, "seeds": list(ROWS)}, "", HOLDS, "9 numbers of 3 seed(s) are the logs'"),
        (JSON, {"seed_results": OTHER}, "", FAILS, "seed 42: bpb 1.1001 in submission.json, 1.12498291 logged"),
        (JSON, {"seed_results": ROWS, "steps": 9000}, "", FAILS, "steps 9000 is neither the mean of its seeds'"),
        (JSON, {}, "", HOLDS, "numbers of 1 seed(s)"),
        (JSON, {"val_bpb": round(MEAN, 6)}, "", UNKNOWN, "no log and no artifact has a number"),
        (HEAD, {"seed_results": AS_NAMES, "seeds": list(ROWS)}, "", HOLDS, "logged or taken anew"),
        (HEAD, {"val_bpb": MEAN}, "", HOLDS, "the mean; mean over 3"),
        (HEAD, {}, "", HOLDS, "of seed 2025, not the mean; "),
        (HEAD, {"mean_val_bpb": MEAN, "std_val_bpb": 0.000215}, "", HOLDS, "mean over 3 seed"),
        (HEAD, {"val_bpb": 1.11}, "", FAILS, "neither the mean"),
        (HEAD, {"mean_val_bpb": 1.11}, "", FAILS, "neither the mean"),
        (HEAD, {"val_bpb_std": 0.01}, "", FAILS, "a standard deviation of 0.01"),
        (HEAD, {"val_bpb_std": "x"}, "", FAILS, "no number"),
        (HEAD, {"val_bpb": None}, "", FAILS, "names no val_bpb"),
        (HEAD, {"val_bpb": "1e5"}, "", FAILS, "no number"),
        (HEAD, {"seed_results": ROWS | {9: ROWS[42]}}, "", UNKNOWN, "only in submission.json"),
        (LAST, {"pre_quant_val_bpb": 1.1418}, "", HOLDS, "1.1418, the last validation of train_seed"),
        (LAST, {"pre_quant_val_bpb": 1.2}, "", UNKNOWN, "no log ends in a validation of 1.2"),
        (LAST, {}, "", UNKNOWN, "names no score before packing"),
        (README, {"seed_results": ROWS}, "", HOLDS, "9 logged"),
        (README, {}, "mean", HOLDS, "cells that agree: 15 logged"),
        (README, {}, "mean in prose", HOLDS, "9 logged"),
        (README, {}, "steps", FAILS, "README.md, 42: steps 7,062, 7061 logged"),
        (README, {}, "loss", FAILS, "README.md, 42: loss 1.8996, 1.89948149 logged"),
        (README, {}, "other mean", FAILS, "README.md, mean: steps 7,000"),
        (README, {}, "prose", UNKNOWN, "names 1.0999 bpb, no number of this folder"),
        (README, {}, "nothing", UNKNOWN, "no table of README.md has a number"),
        (
            README,
            {"seed_results": {7: {"val_bpb": 1.25}}},
            "a fourth",
            UNKNOWN,
            "1 cells agree with submission.json, and",
        ),
    ],
)
def test_a_claim_is_held_against_the_logs(
    tmp_path: Path, check: Callable, claims: dict, changed: str, verdict: str, why: str
):
    folder = published(tmp_path / "track_10min_16mb" / "one", PR315, claims=json.loads(json.dumps(claims)))
    if changed:
        edit("README.md", *IN_README[changed])(folder)
    row = judge("it", check, Judged(folder, How()))
    assert row.verdict == verdict and why in row.evidence


def test_how_far_a_written_number_may_be_from_a_fact():
    texts = {"bpb": "1.1248", "train_seconds": "600.040", "model_bytes": "100", "total_bytes": "150"}
    known = {name: Fact(text, LOGGED) for name, text in texts.items()}
    assert agreeing("bpb", "1.12484502", known) and not agreeing("bpb", "1.1", known)
    assert agreeing("bpb", "1.1", known, least_digits=False)
    assert agreeing("train_seconds", "606", known) and not agreeing("train_seconds", "607", known)
    assert agreeing("model_bytes", "150", known), "many call the total the artifact"
    assert not agreeing("total_bytes", "100", known)
    anew = {"bpb": Fact("1.12484502", ANEW)}
    assert agreeing("bpb", "1.1248460", anew) and not agreeing("bpb", "1.1249", anew)
