"""Scores taken anew: when a process is started, and what is concluded from what it found.

pytest tests/lab/verify/evidence/test_score.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from reviewing import ask_here

from pgolf_core.lab.data.dataset import Dataset, open_dataset
from pgolf_core.lab.verify.evidence import score
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck, OnlySampled
from pgolf_core.lab.verify.evidence.measure import Way
from pgolf_core.lab.verify.evidence.score import How, Scoring, causality, judge_score, probabilities
from pgolf_core.network.model import build_model
from pgolf_core.packing.pack import pack
from pgolf_core.recipes.recipe import Model, Quant

WAY = Way(32, 8, 64, "off")


@pytest.fixture
def dataset(honest: Path) -> Dataset:
    return open_dataset("toy-sp1024", honest.parents[2])


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
    config = Model(
        vocab_size=300, num_layers=1, model_dim=16, num_heads=2, num_kv_heads=1, mlp_hidden=16, rope_dims=8,
        bigram_rows=0, xsa_last_n=0,
    )  # fmt: skip
    state = dict(build_model(config, 1).named_parameters())
    path = tmp_path / "model.pgolf"
    pack(state, config, Quant(), path, code_bytes=0, cap_bytes=10**6)
    monkeypatch.setattr(score, "ask", ask_here)
    with pytest.raises(CannotCheck, match="vocabulary is 300"):
        Scoring(path, dataset, WAY, How()).part("stride 8")


SAMPLE = {"bpb": 2.0, "low": 1.9, "high": 2.1, "loss": 4.0, "loss_half": 0.2, "n": 50, "of": 900, "sample_seed": 5}


def test_a_claim_within_the_interval_is_sampled_and_one_outside_fails():
    with pytest.raises(OnlySampled, match=r"sampled: n = 50 of 900 windows \(seed 5\).* 95 % interval 1.9"):
        judge_score(SAMPLE, {"bpb": 1.91, "loss": 3.81})
    for claims in ({"bpb": 1.89, "loss": 4.0}, {"bpb": 2.0, "loss": 3.79}, {"bpb": 2.11}):
        with pytest.raises(Broken, match="outside it"):
            judge_score(SAMPLE, claims)


def test_a_small_difference_refutes_only_on_the_same_kind_of_machine():
    found = {"bpb": 2.0, "loss": 4.0, "tokens": 9, "seconds": 1.0}
    assert "0.0e+00" in judge_score(found, {"bpb": 2.0, "loss": 4.0}, ("a", "b"))
    with pytest.raises(CannotCheck, match="the run computed on"):
        judge_score(found, {"bpb": 2.0001}, ("a", "b"))
    for paths, claim in ((("a", "a"), 2.0001), (("a", "b"), 2.01), ((), 2.01)):
        with pytest.raises(Broken):
            judge_score(found, {"bpb": claim}, paths)


@pytest.mark.parametrize(
    ("sums", "changed", "error"), [([1.0, 1.000001], 0, None), ([1.0, 0.9], 0, Broken), ([1.0], 1, Broken)]
)
def test_sums_of_one_and_no_changed_bit_hold(monkeypatch: pytest.MonkeyPatch, dataset: Dataset, sums, changed, error):
    found = {"probabilities": {"sums": sums, "vocabulary": 4}}
    found["causality"] = {"places": [1], "changed": changed, "compared": 9, "later_changed": 5}
    monkeypatch.setattr(score, "ask", lambda job, tell: found)
    scoring = Scoring(dataset.tokenizer_path, dataset, WAY, How())
    if error is None:
        assert "at worst, over 4 tokens at 2 places" in probabilities(scoring) and "0 of 9 earlier" in causality(
            scoring
        )
    else:
        with pytest.raises(error):
            probabilities(scoring)
            causality(scoring)
