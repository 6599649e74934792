"""The verifier on a recipe's folder: what does not fit over its seeds is named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from reviewing import holding, judged, replaced, with_verdict
from run_folder import change

from pgolf_core.base.files import read_json, write_json
from pgolf_core.lab.report.seeds import summarise_seeds
from pgolf_core.lab.verify.evidence.checks import FAILS
from pgolf_core.result import Result

ONE, MISSING = "one recipe, dataset and core over all seeds", "no seed and no log is missing"
SUMMARY = "summary.json is that of its seeds"


def another_mean(run: Path) -> None:
    write_json(run / "summary.json", replaced(read_json(run / "summary.json"), ("sliding_bpb", "mean"), 1.0))


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (lambda run: change(run / "seed2" / "result.json", core_sha256="0" * 64), ONE, "core 000000000000, "),
        (lambda run: shutil.rmtree(run / "seed2"), MISSING, "names seeds [1, 2], the folders are [1]"),
        (lambda run: (run / "seed2" / "train.log").unlink(), MISSING, "missing: seed2/train.log"),
        (lambda run: shutil.copytree(run / "seed2", run / "seed01"), MISSING, "seed01: not read, since"),
        (
            lambda run: (run / "seed1").rename(run / "seed01"),
            "seed 1: artifact opens and is whole",
            "seed1/model.pgolf",
        ),
        (another_mean, SUMMARY, "sliding_bpb.mean is not what"),
    ],
)
def test_what_does_not_fit_over_all_seeds_is_named(run: Path, cache: Path, edit: Callable, check: str, words: str):
    edit(run)
    found = judged(run, cache)
    assert found[check].verdict == FAILS and words in found[check].evidence
    assert "seed01" not in words or with_verdict(found, FAILS) == {MISSING}, "a stray copy is read in no seed's place"


def test_seeds_that_were_reported_in_another_order_are_the_same_seeds(run: Path, cache: Path):
    results = {seed: Result.read(run / f"seed{seed}" / "result.json") for seed in (2, 1)}
    write_json(run / "summary.json", summarise_seeds(results))
    assert {MISSING, SUMMARY} <= holding(run, cache)
