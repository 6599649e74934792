"""The verifier on run folders: a false claim fails the checks that it contradicts, and what is unknown is said so."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import edit
from reviewing import ask_here, failing, holding, judged, replaced, shows, with_verdict
from run_folder import change, settle
from torch.nn.functional import cross_entropy
from toy_run import RECIPE, finish_seed, toy_corpus

from pgolf_core.base.files import read_json, sha256_bytes, sha256_file, write_json
from pgolf_core.lab.compare.results import recorded_recipe
from pgolf_core.lab.record.folder import open_run
from pgolf_core.lab.report.seeds import summarise_seeds
from pgolf_core.lab.verify.evidence import score
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN, Broken
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.reviewed import Seed
from pgolf_core.lab.verify.run import ledger
from pgolf_core.network.model import GPT
from pgolf_core.packing.pack import pack
from pgolf_core.packing.unpack import unpack
from pgolf_core.result import Result

CAP, IMPLIED, LOG = "file and code fit under the cap", "each score implies those bytes", "log and metrics say the same"
LEDGER, SECONDS, WHOLE = "ledger.json is the file's", "seconds are within the budgets", "result.json is whole"
SLIDING, ROUNDTRIP = "sliding score from the file alone", "round-trip score from the file alone"
FALSE_CLAIMS: dict[str, tuple[Callable[[dict], dict], set[str]]] = {
    "a better score": (lambda r: {"sliding_bpb": r["sliding_bpb"] * 0.99999}, {SLIDING, IMPLIED, LOG}),
    "a better loss and score that agree": (
        lambda r: {key: r[key] * 0.9999 for key in ("roundtrip_bpb", "roundtrip_loss")}, {ROUNDTRIP, LOG}),
    "more bytes of text": (lambda r: {"val_bytes": r["val_bytes"] + 1}, {"bytes are those of the decoded text"}),
    "fewer targets": (lambda r: {"val_targets": r["val_targets"] - 1}, {"every target is scored once", IMPLIED}),
    "a smaller file": (lambda r: {"artifact_bytes": r["artifact_bytes"] - 1}, {CAP, LOG, LEDGER}),
    "less code": (
        lambda r: {"code_bytes": r["code_bytes"] - 1, "total_bytes": r["total_bytes"] - 1}, {CAP, LEDGER, LOG}),
    "another script": (lambda r: {"script_sha256": "0" * 64}, {CAP}),
    "a larger cap": (lambda r: {"cap_bytes": 2**20}, {CAP, LEDGER, WHOLE}),
    "fewer parameters": (lambda r: {"parameters": r["parameters"] - 1}, {"the artifact is this recipe's model", LOG}),
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
    "another recipe": (lambda r: {"recipe_sha256": "0" * 64}, {"the run's own hashes agree", WHOLE}),
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


IMPLIES, AVERAGED = "each logged score implies its bytes", "raw and averaged scores are averaging.json's"


@pytest.mark.parametrize(
    ("file", "old", "new", "check"),
    [
        *(("train.log", old, new, LOG) for old, new in (
            ("train_loss:6", "train_loss:5"), ("val_bpb:", "val_bpb:1"), ("train_time:", "train_time:9"),
            ("seed:1", "seed:2"), ("(final_sliding_window_exact val_loss:)", r"\g<1>1"),
            ("Total submission size: ", "Total submission size: 1"), ("eval_time:", "eval_time:9"))),
        ("metrics.jsonl", '"bpb": 4', '"bpb": 3', IMPLIES), ("averaging.json", '"bpb": ', '"bpb": 1', AVERAGED),
        ("metrics.jsonl", '"targets": 763', '"targets": 762', IMPLIES),
        ("ledger.json", '"raw_bytes": ', '"raw_bytes": 1', LEDGER),
        ("stages/03_train.json", '"steps": 8', '"steps": 9', LOG),
    ],
)  # fmt: skip
def test_one_changed_number_in_a_file_beside_the_result_is_found(run: Path, cache: Path, file, old, new, check):
    edit(file, old, new)(run / "seed1")
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
    shows(judged(run / "seed1", cache)["seconds are within the budgets"], FAILS, "over the recipe's own cap")


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


def losses_of_logits(model: GPT, ids: torch.Tensor, targets: torch.Tensor, *further, **more) -> torch.Tensor:
    logits = model.logits(ids, *further, **more)
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


@pytest.mark.parametrize(
    ("method", "cheat", "checks"),
    [
        ("logits", looks_ahead, {"no logit sees a later token", SLIDING}),
        ("logits", leaks_a_bit, {"no logit sees a later token"}),
        ("token_losses", lambda losses, ids: 0.999 * losses, {"probabilities sum to one"}),
    ],
)
def test_a_model_that_looks_ahead_or_whose_losses_are_no_probabilities_is_caught_to_the_last_bit(
    honest: Path, cache: Path, scored_anew: None, monkeypatch: pytest.MonkeyPatch, method, cheat, checks
):
    plain = getattr(GPT, method)
    monkeypatch.setattr(GPT, method, lambda self, ids, *further, **more: cheat(plain(self, ids, *further, **more), ids))
    if method == "logits":  # what it looks at enters its losses too
        monkeypatch.setattr(GPT, "token_losses", losses_of_logits)
    assert checks <= failing(honest / "seed1", cache)


# ---------------------------------------------------------------------- bytes


def test_the_weights_of_another_model_or_grid_are_found(run: Path, cache: Path):
    seed = run / "seed1"
    recipe = recorded_recipe(seed)
    quant = type(recipe.quant)(attention="int8_row_clip", mlp="int8_row_clip", small_tensor_elements=100)
    packed = pack(
        unpack(seed / "model.pgolf")[1], recipe.model, quant, seed / "model.pgolf", code_bytes=0, cap_bytes=10**6
    )
    change(seed / "result.json", artifact_bytes=packed.file_bytes)
    found = failing(seed, cache)
    assert {"the artifact is this recipe's model", "ledger.json is the file's"} <= found
    assert "artifact opens and is whole" not in found


def test_code_of_the_exported_scripts_size_is_the_other_size_that_counts(run: Path, cache: Path):
    (run / "train_gpt.py").unlink()
    for name in ("result.json", "ledger.json"):
        values = read_json(run / "seed1" / name)
        total = values["total_bytes"] - values["code_bytes"] + 10**5
        change(run / "seed1" / name, code_bytes=10**5, total_bytes=total)
    log = run / "seed1" / "train.log"
    sizes = f"Code size: {10**5} bytes\nTotal submission size: {total} bytes\n"
    log.write_text(re.sub(r"Code size: .*\nTotal submission size: .*\n", sizes, log.read_text()))
    assert failing(run / "seed1", cache) == {"the run's own hashes agree"}, "its stage left another log"
    settle(log)
    assert failing(run / "seed1", cache) == set()
    for text in (b"#" * 99_999, b"#" * 100_000):
        (run / "seed1" / "train_gpt.py").write_bytes(text)
        assert failing(run / "seed1", cache) == {CAP}
    change(run / "seed1" / "result.json", script_sha256=sha256_bytes(text))
    assert failing(run / "seed1", cache) == set()


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that gathered gradients, all its matrices corrected and on steps; the seed's folder."""
    root = tmp_path_factory.mktemp("steps")
    toy_corpus(root)
    steps = 'quant = {kind = "steps", target_bytes = 500_000, correction = "hessian", correction_tokens = 512, '
    text = 'script = "readable"\n' + RECIPE.replace("quant = {", steps).replace("iterations = 8", "iterations = 24")
    (root / "toy.toml").write_text(text.replace("_iters = 4", "_iters = 22"))
    run = open_run(str(root / "toy.toml"), seed=1, runs_dir=str(root / "runs"), cache_dir=str(root))
    finish_seed(run)
    return run.folder


def test_a_ledger_of_steps_and_of_a_correction_holds_and_any_other_share_or_correction_is_refused(corrected: Path):
    def judged_ledger(values: dict, correction: Any) -> str:
        write_json(corrected / "ledger.json", values)
        change(corrected / "result.json", correction=correction)
        return ledger(Seed(corrected, How()))

    values = read_json(corrected / "ledger.json")
    spent, told, grids = values["steps"], values["correction"], [row["grid"] for row in values["tensors"]]
    assert set(grids) == {"fp16", "steps"} and told["matrices"] > 0 and "tensors" in judged_ledger(values, told)
    row = grids.index("steps")
    corrections = {
        "damping": [2 * told["damping"]], "raised": [{"smear.gate": 1.0}, None], "plain": [["none"]],
        "matrices": [10**6, True], "tokens": ["512", 0],
    }  # fmt: skip
    for at, new, why in [
        (("steps",), None, "tells of steps"), (("steps", "side_bytes"), "1", "do not make up the steps"),
        (("steps", "coded_bytes"), spent["coded_bytes"] + 1, "do not make up the steps"),
        (("tensors", row, "compressed_bytes"), values["tensors"][row]["compressed_bytes"] + 1, "make up the steps"),
        *((("correction", key), new, "correction: ") for key, wrong in corrections.items() for new in wrong),
        (("correction",), None, "tells nothing"),
    ]:  # fmt: skip
        changed = replaced(values, at, new)
        with pytest.raises(Broken, match=why):
            judged_ledger(changed, changed["correction"])
    with pytest.raises(Broken, match=r"correction is "):
        judged_ledger(replaced(values, ("correction", "tokens"), 7), told)


def test_a_correction_that_the_recipe_has_not_is_found(run: Path, cache: Path):
    change(run / "seed1" / "ledger.json", correction={"damping": 0.01})
    assert failing(run / "seed1", cache) == {"ledger.json is the file's"}


# ---------------------------------------------------------------------- all seeds of a recipe

ONE, MISSING = "one recipe, dataset and core over all seeds", "no seed and no log is missing"
SUMMARY, MARKS = "summary.json is that of its seeds", "seed 2: the run's own hashes agree"


def titled(place: str) -> Callable:
    """Another title, which no fingerprint knows."""
    return lambda run: (path := run / place / "recipe.json").write_text(json.dumps(read_json(path) | {"title": "x"}))


def another_mean(run: Path) -> None:
    write_json(run / "summary.json", replaced(read_json(run / "summary.json"), ("sliding_bpb", "mean"), 1.0))


@pytest.mark.parametrize(
    ("lie", "check", "words"),
    [
        (lambda run: change(run / "seed2" / "result.json", core_sha256="0" * 64), ONE, "core 000000000000, "),
        (lambda run: shutil.rmtree(run / "seed2"), MISSING, "names seeds [1, 2], the folders are [1]"),
        (lambda run: (run / "seed2" / "train.log").unlink(), MISSING, "missing: seed2/train.log"),
        (lambda run: shutil.copytree(run / "seed2", run / "seed01"), MISSING, "seed01: not read, since"),
        (lambda run: (run / "seed1").rename(run / "seed01"), "seed 1: artifact opens and is whole", "seed1/model.pg"),
        (another_mean, SUMMARY, "sliding_bpb.mean is not what"),
        (titled(""), ONE, "recipe.json has the hash "),
        (titled("seed2"), MARKS, "recipe.json has the hash "),
    ],
)
def test_what_does_not_fit_over_all_seeds_is_named(run: Path, cache: Path, lie: Callable, check: str, words: str):
    lie(run)
    found = judged(run, cache)
    assert found[check].verdict == FAILS and words in found[check].evidence
    assert "seed01" not in words or with_verdict(found, FAILS) == {MISSING}, "a stray copy is read in no seed's place"


def test_seeds_that_were_reported_in_another_order_are_the_same_seeds(run: Path, cache: Path):
    results = {seed: Result.read(run / f"seed{seed}" / "result.json") for seed in (2, 1)}
    write_json(run / "summary.json", summarise_seeds(results))
    assert {MISSING, SUMMARY} <= holding(run, cache)
