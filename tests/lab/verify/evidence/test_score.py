"""Scores taken anew: when a process is started, and what is concluded from what it found."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from published import PR315, published
from reviewing import ask_here, shows
from small import noisy_model

from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.verify.evidence import score
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, SAMPLED, UNKNOWN, Broken, CannotCheck, judge
from pgolf_core.lab.verify.evidence.score import How, Scoring, judge_score
from pgolf_core.lab.verify.evidence.text import Way
from pgolf_core.packing.pack import pack
from pgolf_core.recipes.recipe import Quant

WAY = Way(32, 8, 64, "off")


def test_a_process_that_dies_is_no_verdict(dataset: Dataset, honest: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CannotCheck, match="ended with status"):
        Scoring(honest / "seed1" / "model.pgolf", dataset, WAY, How()).part("causality")


@pytest.mark.parametrize("way", [Way(2**20, 1, 64), Way(0, 0), Way(32, 33), Way(32, 8, 0)])
def test_no_process_is_started_for_a_way_that_is_none_or_too_large(dataset: Dataset, honest: Path, way: Way):
    with pytest.raises((CannotCheck, Broken)):
        Scoring(honest / "seed1" / "model.pgolf", dataset, way, How()).part("causality")


def test_an_artifact_of_another_vocabulary_is_not_scored(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    model, path = noisy_model(), tmp_path / "model.pgolf"
    pack(dict(model.named_parameters()), model.config, Quant(), path, code_bytes=0, cap_bytes=10**6)
    monkeypatch.setattr(score, "ask", ask_here)
    with pytest.raises(CannotCheck, match="vocabulary is 64"):
        Scoring(path, dataset, WAY, How()).part("stride 8")


FOUND = {"bpb": 2.0, "loss": 4.0, "tokens": 9, "seconds": 1.0}
SAMPLE = {
    "bpb": 2.0, "low": 1.9, "high": 2.1, "highest": 2.3, "loss": 4.0, "n": 50, "of": 900, "sample_seed": 5,
}  # fmt: skip
KEPT = {
    "tokens": 300, "bytes": 200, "windows": 40, "kept_nats": 200 * math.log(2) * 2.0, "apart": 1e-5, "noise": 1e-6,
    "shift": 1e-6, "bias": 1e-7, "n": 20, "of": 39, "sample_seed": 5, "bpb": 2.0, "loss": 200 * math.log(2) * 2.0 / 300,
}  # fmt: skip
WHOLE = {key: value for key, value in KEPT.items() if key != "n"} | {"seconds": 1.0}
ALIKE, UNLIKE, UNSAID = ("a", "a"), ("a", "b"), score.computing_path("off", "")
CASES: dict[str, list[tuple]] = {
    "a claim near a sample's interval is doubtful and one far outside fails": [
        (SAMPLE, {"bpb": 1.91, "loss": 3.81}, (), SAMPLED, "sampled: n = 50 of 900 windows (seed 5)", " interval 1.9"),
        (SAMPLE, {"bpb": 1.89, "loss": 4.0}, (), UNKNOWN, "outside it, as one honest claim in twenty: score more win"),
        (SAMPLE, {"bpb": 2.0, "loss": 3.79}, (), UNKNOWN, "outside it"),
        (SAMPLE, {"bpb": 1.69}, (), FAILS, "where one honest claim in a million lies"),
        (SAMPLE, {"bpb": 2.0, "loss": 4.61}, (), FAILS, "in a million"),
        (SAMPLE, {"bpb": 1.89, "loss": 4.61}, (), FAILS, "in a million")],  # the one is doubtful, the other false
    "windows are held against what the run kept, and their sum against the claim": [
        (KEPT | change, {"bpb": 2.0}, paths, *expected) for change, paths, *expected in (
            ({}, (), SAMPLED, "20 of 40 windows, ", " were 13.9% of the windows false"),
            ({"apart": 1e-3}, ALIKE, FAILS, "within 1.0e-03 nats of scores.npz (3.0e-05 allowed)"),
            ({"apart": 1e-3}, UNLIKE, UNKNOWN, "the run computed on"), ({"apart": 1.0}, UNLIKE, FAILS, "allowed"),
            ({"shift": 5e-6}, ALIKE, FAILS, "5.0e-06 on average (2.4e-06)"),  # each in the noise, all one way
            ({"shift": 5e-6}, UNLIKE, UNKNOWN, "the run computed on"),
            ({"kept_nats": 277.0}, (), FAILS, "sum to bpb 1.99813263, and 2.00000000 is claimed"))],
    "of a score taken whole every kept window is held": [
        (WHOLE, {"bpb": 2.0}, (), HOLDS, "40 of 40 windows, each within 1.0e-05 nats"),
        (WHOLE | {"apart": 1e-3}, {"bpb": 2.0}, ALIKE, FAILS, "allowed")],
    "a small difference refutes only on the same kind of machine": [
        (FOUND, {"bpb": 2.0, "loss": 4.0}, UNLIKE, HOLDS, "0.0e+00"),
        (FOUND, {"bpb": 2.0001}, UNLIKE, UNKNOWN, "the run computed on"),
        (FOUND, {"bpb": 2.0001}, UNSAID, UNKNOWN, "no log says on what"),
        *((FOUND, {"bpb": bpb}, paths, FAILS) for paths, bpb in ((ALIKE, 2.0001), (UNLIKE, 2.01), ((), 2.01)))],
}  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(row, id=of) for of, rows in CASES.items() for row in rows])
def test_a_claimed_score_is_held_against_what_was_found(case: tuple) -> None:
    found, claims, paths, *expected = case
    shows(judge("it", judge_score, found, claims, paths), *expected)


def test_a_folder_without_an_artifact_is_judged_without_the_libraries_that_only_scores_need(tmp_path: Path):
    folder = published(tmp_path / "track_10min_16mb" / "one", PR315)
    program = (
        f"import sys\nfrom pgolf_core.lab.cli import main\nmain(['verify', {str(folder)!r}])\n"
        "print(sorted({'torch', 'pandas', 'scipy', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    lines = found.stdout.splitlines()
    assert lines[-1] == "[]" and "checks hold" in lines[0]
