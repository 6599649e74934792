"""The verifier on run folders: a false claim fails the checks that it contradicts, and what is unknown is said so.

pytest tests/lab/verify/test_run.py
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reviewing import ask_here, failing, judged
from toy_run import change

from pgolf_core.base.files import read_json, sha256_file, write_json
from pgolf_core.lab.verify.evidence import score
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN
from pgolf_core.network.model import GPT

CAP, IMPLIED, LOG = "file and code fit under the cap", "each score implies those bytes", "log and metrics say the same"
LEDGER, SECONDS, WHOLE = "ledger.json is the file's", "seconds are within the budgets", "result.json is whole"
SLIDING, ROUNDTRIP = "sliding score from the file alone", "round-trip score from the file alone"
FALSE_CLAIMS: dict[str, tuple[Callable[[dict], dict], set[str]]] = {
    "a better score": (lambda r: {"sliding_bpb": r["sliding_bpb"] * 0.99999}, {SLIDING, IMPLIED, LOG}),
    "a better loss and score that agree": (
        lambda r: {key: r[key] * 0.9999 for key in ("roundtrip_bpb", "roundtrip_loss")}, {ROUNDTRIP, LOG}),
    "more bytes of text": (lambda r: {"val_bytes": r["val_bytes"] + 1}, {"bytes are those of the decoded text"}),
    "fewer targets": (lambda r: {"val_targets": r["val_targets"] - 1}, {"every target is scored once", IMPLIED}),
    "a smaller file": (lambda r: {"artifact_bytes": r["artifact_bytes"] - 1}, {CAP, LOG}),
    "less code": (
        lambda r: {"code_bytes": r["code_bytes"] - 1, "total_bytes": r["total_bytes"] - 1}, {CAP, LEDGER, LOG}),
    "another script": (lambda r: {"script_sha256": "0" * 64}, {CAP}),
    "a larger cap": (lambda r: {"cap_bytes": 2**20}, {CAP, LEDGER}),
    "fewer parameters": (lambda r: {"parameters": r["parameters"] - 1}, {"the artifact is this recipe's model"}),
    "more steps": (lambda r: {"steps": r["steps"] + 1}, {LOG}),
    "more tokens": (lambda r: {"tokens": r["tokens"] + 1}, {LOG}),
    "more ranks": (lambda r: {"ranks": 8}, {LOG}),
    "another clock": (
        lambda r: {"seconds": r["seconds"] | {"train": 100.0, "total": r["seconds"]["total"] + 100}}, {SECONDS}),
    "a slow evaluation": (
        lambda r: {"seconds": r["seconds"] | {"scoring": 601.0, "total": sum(r["seconds"].values()) + 601}},
        {SECONDS, LOG}),
    "better averaged weights": (
        lambda r: {key: r[key] * 0.9 for key in ("averaged_bpb", "averaged_loss")},
        {"raw and averaged scores are averaging.json's"}),
    "another recipe": (lambda r: {"recipe_sha256": "0" * 64}, {"the run's own hashes agree"}),
    "another seed": (lambda r: {"seed": 7}, {WHOLE, LOG}),
    "another stride": (lambda r: {"sliding_stride": 9}, {WHOLE}),
    "a number that is none": (lambda r: {"sliding_loss": float("nan")}, {WHOLE}),
    "a number beyond all floats": (lambda r: {"sliding_loss": 10**400}, {WHOLE}),
    "a key that no result has": (lambda r: {"bonus": 1}, {WHOLE}),
}  # fmt: skip


@pytest.mark.parametrize("claim", FALSE_CLAIMS)
def test_a_false_claim_fails_exactly_the_checks_that_it_contradicts(run: Path, cache: Path, claim: str):
    lie, expected = FALSE_CLAIMS[claim]
    result = run / "seed1" / "result.json"
    change(result, **lie(read_json(result)))
    assert failing(run / "seed1", cache) == expected


@pytest.mark.parametrize(
    ("file", "old", "new", "check"),
    [
        ("train.log", "train_loss:6", "train_loss:5", LOG),
        ("train.log", "val_bpb:", "val_bpb:1", LOG),
        ("train.log", "train_time:", "train_time:9", LOG),
        ("train.log", "seed:1", "seed:2", LOG),
        ("train.log", "final_sliding_window_exact val_loss:", "final_sliding_window_exact val_loss:1", LOG),
        ("train.log", "Total submission size: ", "Total submission size: 1", LOG),
        ("train.log", "eval_time:", "eval_time:9", LOG),
        ("metrics.jsonl", '"bpb": 4', '"bpb": 3', "each logged score implies its bytes"),
        ("metrics.jsonl", '"targets": 763', '"targets": 762', "each logged score implies its bytes"),
        ("ledger.json", '"raw_bytes": ', '"raw_bytes": 1', LEDGER),
        ("averaging.json", '"bpb": ', '"bpb": 1', "raw and averaged scores are averaging.json's"),
        ("stages/03_train.json", '"steps": 8', '"steps": 9', LOG),
    ],
)
def test_one_changed_number_in_a_file_beside_the_result_is_found(
    run: Path, cache: Path, file: str, old: str, new: str, check: str
):
    path = run / "seed1" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert check in failing(run / "seed1", cache)


def test_without_the_dataset_scores_cannot_be_checked_but_bytes_can(honest: Path, cache: Path, tmp_path: Path):
    found = judged(honest / "seed1", tmp_path)
    assert {found[name].verdict for name in (CAP, LEDGER, LOG, SECONDS)} == {HOLDS}
    assert found[SLIDING].verdict == found["bytes are those of the decoded text"].verdict == UNKNOWN
    assert FAILS not in {row.verdict for row in found.values()}
    assert "is not prepared" in found["the dataset here is the run's, and whole"].evidence


def test_kept_windows_that_are_none_fail_and_hide_nothing_else(run: Path, cache: Path, monkeypatch):
    monkeypatch.setattr(score, "ask", ask_here)
    np.savez(run / "seed1" / "scores.npz", sliding=np.ones(3))
    change(run / "seed1" / "result.json", scores_sha256=sha256_file(run / "seed1" / "scores.npz"))
    scores = {f"{kind} score from the file alone" for kind in ("round-trip", "sliding")}
    assert failing(run / "seed1", cache) == scores


def test_a_rescoring_that_runs_out_of_its_budget_is_not_a_failure(honest: Path, cache: Path):
    found = judged(honest / "seed1", cache, budget_seconds=0.0)
    assert found[SLIDING].verdict == UNKNOWN and FAILS not in {row.verdict for row in found.values()}


def test_a_run_over_its_own_recipes_cap_fails_though_the_track_would_allow_it(run: Path, cache: Path):
    change(run / "seed1" / "result.json", over_cap_seconds=0.5)
    row = judged(run / "seed1", cache)["seconds are within the budgets"]
    assert row.verdict == FAILS and "over the recipe's own cap" in row.evidence


def test_another_core_dataset_or_machine_is_unknown_not_false(run: Path, cache: Path):
    result, stage = run / "seed1" / "result.json", run / "seed1" / "stages" / "03_train.json"
    nearly = {key: read_json(result)[key] * (1 + 1e-5) for key in ("sliding_bpb", "sliding_loss")}
    change(result, core_sha256="0" * 64, **nearly)
    path = "device: other | compute: float32 | attention: SDPA"
    change(stage, training=read_json(stage)["training"] | {"path": path})
    found = judged(run / "seed1", cache)
    assert found["the core here is the run's"].verdict == found[SLIDING].verdict == UNKNOWN
    assert "the run computed on [device: other" in found[SLIDING].evidence
    assert found[ROUNDTRIP].verdict == HOLDS
    change(result, data_sha256="0" * 64)
    assert judged(run / "seed1", cache)[SLIDING].verdict == UNKNOWN


# ---------------------------------------------------------------------- what the model does


def looks_ahead(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits + 1e-4 * ids.sum(1)[:, None, None] * torch.arange(logits.size(-1))


def leaks_a_bit(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    changed = logits.clone()
    if int(ids[0, -1]) % 2:
        changed[:, 0, 0] = changed[:, 0, 0].nextafter(torch.tensor(100.0))
    return changed


@pytest.mark.parametrize(
    ("cheat", "checks"),
    [(looks_ahead, {"no logit sees a later token", SLIDING}), (leaks_a_bit, {"no logit sees a later token"})],
)
def test_a_model_that_looks_ahead_is_caught_to_the_last_bit(
    honest: Path, cache: Path, scored_anew: None, monkeypatch: pytest.MonkeyPatch, cheat: Callable, checks: set[str]
):
    plain = GPT.logits
    monkeypatch.setattr(GPT, "logits", lambda self, ids, first=0: cheat(plain(self, ids), ids)[:, first:])
    assert checks <= failing(honest / "seed1", cache)


def test_losses_that_are_no_probabilities_are_caught(
    honest: Path, cache: Path, scored_anew: None, monkeypatch: pytest.MonkeyPatch
):
    plain = GPT.token_losses
    monkeypatch.setattr(GPT, "token_losses", lambda self, *arguments, **more: 0.999 * plain(self, *arguments, **more))
    assert "probabilities sum to one" in failing(honest / "seed1", cache)


# ---------------------------------------------------------------------- all seeds of a recipe


def test_seeds_of_two_recipes_are_not_one_experiment(run: Path, cache: Path):
    change(run / "seed2" / "result.json", core_sha256="0" * 64)
    assert "one recipe, dataset and core over all seeds" in failing(run, cache)


def test_a_missing_seed_log_or_result_is_named(honest: Path, run: Path, cache: Path):
    name = "no seed and no log is missing"
    shutil.rmtree(run / "seed2")
    assert name in failing(run, cache)
    shutil.copytree(honest / "seed2", run / "seed2")
    (run / "seed2" / "train.log").unlink()
    assert judged(run, cache)[name].evidence == "missing: seed2/train.log"


def test_a_stray_copy_of_a_seed_is_named_and_never_read_in_its_place(honest: Path, run: Path, cache: Path):
    shutil.copytree(run / "seed2", run / "seed01")
    found = judged(run, cache)
    assert [name for name, row in found.items() if row.verdict != HOLDS] == ["no seed and no log is missing"]
    assert found["no seed and no log is missing"].evidence.startswith("seed01: not read")


def test_a_summary_of_other_numbers_fails(run: Path, cache: Path):
    summary = read_json(run / "summary.json")
    summary["sliding_bpb"]["mean"] *= 1.0001
    write_json(run / "summary.json", summary)
    row = judged(run, cache)["summary.json is that of its seeds"]
    assert row.verdict == FAILS and "sliding_bpb.mean" in row.evidence
