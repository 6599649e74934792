"""Numbers of submission.json and README.md against what is logged or taken anew, compared as they are written.

pytest tests/lab/verify/reading/test_claims.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published import PR315, edit, published

from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.claims import (
    ANEW,
    LOGGED,
    Fact,
    Judged,
    before_packing,
    fits,
    headline,
    json_numbers,
    readme_numbers,
    tables,
)  # fmt: skip

ROWS = {seed: {"val_loss": float(row[1]), "val_bpb": float(row[2]), "steps": row[0]} for seed, row in PR315.items()}
MEAN = sum(row["val_bpb"] for row in ROWS.values()) / 3


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "track_10min_16mb" / "A_record"


def made(place: Path, **claims: object) -> Judged:
    return Judged(published(place, PR315, claims=json.loads(json.dumps(claims))), How())


@pytest.mark.parametrize(
    "claims",
    [
        {"seed_results": ROWS, "val_bpb": MEAN},
        {"seed_results": [{"seed": seed} | row for seed, row in ROWS.items()], "mean_val_bpb": MEAN},
        {"seed_results": {f"seed_{seed}": row for seed, row in ROWS.items()}, "seeds": list(ROWS)},
    ],
    ids=["object", "list", "names"],
)
def test_numbers_of_every_kind_of_seed_table_are_the_logs(place: Path, claims: dict):
    folder = made(place, **claims)
    assert json_numbers(folder) == "9 numbers of 3 seed(s) are the logs' or taken anew"
    assert "logged or taken anew" in headline(folder) and "9 logged" in readme_numbers(folder)


def test_a_wrong_number_of_one_seed_is_named(place: Path):
    with pytest.raises(Broken, match=r"seed 42: bpb 1.1001 in submission.json, 1.12498291 logged"):
        json_numbers(made(place, seed_results=ROWS | {42: ROWS[42] | {"val_bpb": 1.1001}}))


def test_a_number_for_the_whole_that_is_neither_mean_nor_a_seeds_is_broken(place: Path):
    with pytest.raises(Broken, match="steps 9000 is neither the mean of its seeds'"):
        json_numbers(made(place, seed_results=ROWS, steps=9000))


def test_without_a_seed_table_one_run_or_the_mean_is_claimed(place: Path):
    assert "numbers of 1 seed(s)" in json_numbers(made(place / "one"))
    with pytest.raises(CannotCheck, match="no log and no artifact has a number"):
        json_numbers(made(place / "mean", val_bpb=round(MEAN, 6)))


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"val_bpb": MEAN}, "the mean; mean over 3"), ({}, "of seed 2025, not the mean; "),
        ({"mean_val_bpb": MEAN, "std_val_bpb": 0.000215}, "mean over 3 seed"),
    ],
)  # fmt: skip
def test_the_headline_is_the_mean_or_a_seeds_score(place: Path, claims: dict, said: str):
    assert said in headline(made(place, **claims))


@pytest.mark.parametrize(
    ("claims", "error", "why"),
    [
        ({"val_bpb": 1.11}, Broken, "neither the mean"), ({"mean_val_bpb": 1.11}, Broken, "neither the mean"),
        ({"val_bpb_std": 0.01}, Broken, "a standard deviation of 0.01"), ({"val_bpb_std": "x"}, Broken, "no number"),
        ({"val_bpb": None}, Broken, "names no val_bpb"), ({"val_bpb": "1e5"}, Broken, "no number"),
        ({"seed_results": ROWS | {9: ROWS[42]}}, CannotCheck, "only in submission.json"),
    ],
)  # fmt: skip
def test_a_headline_that_no_score_gives_is_not_held(place: Path, claims: dict, error: type, why: str):
    with pytest.raises(error, match=why):
        headline(made(place, **claims))


def test_a_score_before_packing_is_a_logs_last_validation(place: Path):
    assert "1.1418, the last validation of train_seed" in before_packing(made(place / "a", pre_quant_val_bpb=1.1418))
    with pytest.raises(CannotCheck, match=r"no log ends in a validation of 1.2"):
        before_packing(made(place / "b", pre_quant_val_bpb=1.2))
    with pytest.raises(CannotCheck, match="names no score before packing"):
        before_packing(made(place / "c"))


@pytest.mark.parametrize(
    ("pattern", "to", "error", "why"),
    [
        (r"7,061", "7,062", Broken, "README.md, 42: steps 7,062, 7061 logged"),
        (r"1\.8994", "1.8996", Broken, "README.md, 42: loss 1.8996, 1.89948149 logged"),
        (r"\Z", "| mean | 7,000 | 1.8996 | 1.1250 |\n", Broken, "README.md, mean: steps 7,000"),
        (r"\Z", "\n**1.0999** bpb\n", CannotCheck, "names 1.0999 bpb, no number of this folder"),
        (r"(?s).*", "nothing", CannotCheck, "no table of README.md has a number"),
    ],
)
def test_a_cell_or_a_sentence_that_says_something_else_is_found(
    place: Path, pattern: str, to: str, error: type, why: str
):
    folder = made(place)
    edit("README.md", pattern, to)(place)
    with pytest.raises(error, match=why):
        readme_numbers(folder)


def test_rows_of_mean_and_spread_are_the_seeds(place: Path):
    folder = made(place)
    edit("README.md", r"\Z", "| mean | 7,058 | 1.8996 | 1.1250 |\n| std | 6.4 | 0.0004 | 0.0002 |\n")(place)
    assert "cells that agree: 15 logged" in readme_numbers(folder)


def test_cells_that_only_submission_json_confirms_are_not_held(place: Path):
    folder = made(place, seed_results={7: {"val_bpb": 1.25}})
    edit("README.md", r"\Z", "| 7 | – | – | 1.25 |\n")(place)
    with pytest.raises(CannotCheck, match=r"1 cells agree with submission.json, and nothing confirms either"):
        readme_numbers(folder)


def test_how_far_a_written_number_may_be_from_a_fact():
    texts = {"bpb": "1.1248", "train_seconds": "600.040", "model_bytes": "100", "total_bytes": "150"}
    known = {name: Fact(text, LOGGED) for name, text in texts.items()}
    assert fits("bpb", "1.12484502", known) and not fits("bpb", "1.1", known)
    assert fits("bpb", "1.1", known, least_digits=False)
    assert fits("train_seconds", "606", known) and not fits("train_seconds", "607", known)
    assert fits("model_bytes", "150", known), "many call the total the artifact"
    assert not fits("total_bytes", "100", known)
    anew = {"bpb": Fact("1.12484502", ANEW)}
    assert fits("bpb", "1.1248460", anew) and not fits("bpb", "1.1249", anew)


def test_tables_are_found_with_their_marks_removed():
    text = "a | b\n---|---\n**1** | `2\\|3`\n\n| c |\n|:-:|\n\n| no table |\n"
    assert list(tables(text)) == [(["a", "b"], [["1", "2|3"]]), (["c"], [])]
