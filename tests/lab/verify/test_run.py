"""The verifier on run folders: everything holds for an honest run, and every kind of damage is a row that says so.

pytest tests/lab/verify/test_run.py (trains two tiny seeds on a toy corpus, once). Scores are taken in this
process, but for one test: starting a fresh one takes seconds. That one itself is tested in test_verify_process.py.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_run import RECIPE, ask_here, cache_of, change, finish_seed, the_toy_is_the_track, toy_corpus, verdicts

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.lab.record import folder as runs
from pgolf_core.lab.verify import run as verify_run
from pgolf_core.lab.verify import run_bytes as verify_bytes
from pgolf_core.lab.verify import verify
from pgolf_core.lab.verify.evidence import score as verify_score
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck
from pgolf_core.network.model import GPT
from pgolf_core.packing.pack import pack
from pgolf_core.packing.unpack import unpack


@pytest.fixture(autouse=True)
def _scored_here(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_score, "ask", ask_here)
    the_toy_is_the_track(monkeypatch, cache_of(honest))


@pytest.fixture
def copied(honest: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return shutil.copytree(honest, tmp_path / honest.name)


def failing(folder: Path, honest: Path) -> set[str]:
    found = verdicts(verify.verify(folder, cache_dir=cache_of(honest)))
    return {name for name, verdict in found.items() if verdict == verify.FAILS}


# ---------------------------------------------------------------------- honest files


def test_everything_holds_for_an_honest_run_of_two_seeds(honest: Path):
    table = verify.verify(honest, cache_dir=cache_of(honest))
    found = verdicts(table)
    assert set(found.values()) == {verify.HOLDS}, table.to_string()
    checks = 3 + len(verify.SEED_CHECKS)
    assert len(found) == 3 + 2 * checks
    assert verdicts(verify.verify(honest / "seed1", cache_dir=cache_of(honest))) == dict.fromkeys(
        [name.removeprefix("seed 1: ") for name in found if name.startswith("seed 1: ")], verify.HOLDS
    )


def test_an_artifact_alone_is_checked_without_any_run(honest: Path, tmp_path: Path):
    path = shutil.copy(honest / "seed1" / "model.pgolf", tmp_path / "m")
    table = verify.verify(path)
    assert list(verdicts(table).values()) == [verify.HOLDS] * 3
    assert f"= {path.stat().st_size:,};" in table["evidence"][1]


def test_without_the_dataset_scores_cannot_be_checked_but_bytes_can(honest: Path, tmp_path: Path):
    table = verify.verify(honest / "seed1", cache_dir=tmp_path)
    found = verdicts(table)
    assert verify.FAILS not in found.values()
    assert found["file and code fit under the cap"] == found["ledger.json is the file's"] == verify.HOLDS
    assert found["log and metrics say the same"] == found["seconds are within the budgets"] == verify.HOLDS
    unknown = {name for name, verdict in found.items() if verdict == verify.UNKNOWN}
    assert {"sliding score from the file alone", "bytes are those of the decoded text"} <= unknown
    assert "is not prepared" in table.set_index("check").loc["the dataset here is the run's, and whole", "evidence"]


def test_a_rescoring_that_runs_out_of_its_budget_is_not_a_failure(honest: Path):
    found = verdicts(verify.verify(honest / "seed1", cache_dir=cache_of(honest), budget_seconds=0.0))
    assert found["sliding score from the file alone"] == verify.UNKNOWN
    assert verify.FAILS not in found.values()


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        verify.verify(tmp_path / "nosuch")


# ---------------------------------------------------------------------- false claims


FALSE_CLAIMS: dict[str, tuple[Callable[[dict], dict], set[str]]] = {
    "a better score": (
        lambda r: {"sliding_bpb": r["sliding_bpb"] * 0.99999},
        {"sliding score from the file alone", "each score implies those bytes"},
    ),
    "a better loss and score that agree": (
        lambda r: {key: r[key] * 0.9999 for key in ("roundtrip_bpb", "roundtrip_loss")},
        {"round-trip score from the file alone"},
    ),
    "more bytes of text": (
        lambda r: {"val_bytes": r["val_bytes"] + 1},
        {"bytes are those of the decoded text"},
    ),
    "fewer targets": (
        lambda r: {"val_targets": r["val_targets"] - 1},
        {"every target is scored once", "each score implies those bytes"},
    ),
    "a smaller file": (lambda r: {"artifact_bytes": r["artifact_bytes"] - 1}, {"file and code fit under the cap"}),
    "less code": (
        lambda r: {"code_bytes": r["code_bytes"] - 1, "total_bytes": r["total_bytes"] - 1},
        {"file and code fit under the cap", "ledger.json is the file's"},
    ),
    "a larger cap": (lambda r: {"cap_bytes": 2**20}, {"file and code fit under the cap", "ledger.json is the file's"}),
    "fewer parameters": (lambda r: {"parameters": r["parameters"] - 1}, {"the artifact is this recipe's model"}),
    "more steps": (lambda r: {"steps": r["steps"] + 1}, {"log and metrics say the same"}),
    "more tokens": (lambda r: {"tokens": r["tokens"] + 1}, {"log and metrics say the same"}),
    "another clock": (
        lambda r: {"seconds": r["seconds"] | {"train": 100.0, "total": r["seconds"]["total"] + 100}},
        {"seconds are within the budgets"},
    ),
    "a slow evaluation": (
        lambda r: {"seconds": r["seconds"] | {"scoring": 601.0, "total": sum(r["seconds"].values()) + 601}},
        {"seconds are within the budgets"},
    ),
    "better averaged weights": (
        lambda r: {key: r[key] * 0.9 for key in ("averaged_bpb", "averaged_loss")},
        {"raw and averaged scores are averaging.json's"},
    ),
    "another recipe": (lambda r: {"recipe_sha256": "0" * 64}, {"the run's own hashes agree"}),
    "another seed": (lambda r: {"seed": 7}, {"result.json is whole", "log and metrics say the same"}),
    "a number that is none": (
        lambda r: {"sliding_loss": float("nan")},
        {"result.json is whole", "each score implies those bytes", "sliding score from the file alone"},
    ),
    "a number beyond all floats": (
        lambda r: {"sliding_loss": 10**400},
        {"result.json is whole", "each score implies those bytes", "sliding score from the file alone"},
    ),
}


@pytest.mark.parametrize("claim", FALSE_CLAIMS)
def test_a_false_claim_fails_exactly_the_checks_that_it_contradicts(honest: Path, copied: Path, claim: str):
    lie, expected = FALSE_CLAIMS[claim]
    result = copied / "seed1" / "result.json"
    change(result, **lie(read_json(result)))
    assert failing(copied / "seed1", honest) == expected


def test_another_core_dataset_or_machine_is_unknown_not_false(honest: Path, copied: Path):
    result = copied / "seed1" / "result.json"
    nearly = {key: read_json(result)[key] * (1 + 1e-5) for key in ("sliding_bpb", "sliding_loss")}
    change(result, core_sha256="0" * 64, **nearly)
    change(copied / "seed1" / "stages" / "03_train.json", path="device: other | compute: float32 | attention: SDPA")
    table = verify.verify(copied / "seed1", cache_dir=cache_of(honest)).set_index("check")
    assert table.loc["the core here is the run's", "verdict"] == verify.UNKNOWN
    assert table.loc["sliding score from the file alone", "verdict"] == verify.UNKNOWN
    assert "the run computed on" in table.loc["sliding score from the file alone", "evidence"]
    assert table.loc["round-trip score from the file alone", "verdict"] == verify.HOLDS
    change(result, data_sha256="0" * 64)
    table = verify.verify(copied / "seed1", cache_dir=cache_of(honest)).set_index("check")
    assert table.loc["sliding score from the file alone", "verdict"] == verify.UNKNOWN


def test_seeds_of_two_recipes_are_not_one_experiment(honest: Path, copied: Path):
    change(copied / "seed2" / "result.json", core_sha256="0" * 64)
    assert "one recipe, dataset and core over all seeds" in failing(copied, honest)


def test_the_weights_of_another_model_or_grid_are_found(honest: Path, copied: Path):
    seed = copied / "seed1"
    recipe = runs.recorded_recipe(seed)
    _, state = unpack(seed / "model.pgolf")
    quant = {"attention": "int8_row_clip", "mlp": "int8_row_clip", "small_tensor_elements": 100}
    ledger = pack(state, recipe.model, type(recipe.quant)(**quant), seed / "model.pgolf", code_bytes=0, cap_bytes=10**6)
    change(seed / "result.json", artifact_bytes=ledger.file_bytes)
    found = failing(seed, honest)
    assert {"the artifact is this recipe's model", "ledger.json is the file's"} <= found
    assert "artifact opens and is whole" not in found


def test_a_model_that_looks_ahead_is_caught(honest: Path, monkeypatch: pytest.MonkeyPatch):
    plain = GPT.logits

    def looks_ahead(self: GPT, ids: torch.Tensor, first: int = 0) -> torch.Tensor:
        logits = plain(self, ids)
        return (logits + 1e-4 * ids.sum(1)[:, None, None] * torch.arange(logits.size(-1)))[:, first:]

    monkeypatch.setattr(GPT, "logits", looks_ahead)
    assert {"no logit sees a later token", "sliding score from the file alone"} <= failing(honest / "seed1", honest)


def test_a_later_token_may_not_change_even_the_last_bit(honest: Path, monkeypatch: pytest.MonkeyPatch):
    plain = GPT.logits

    def leaks_a_bit(self: GPT, ids: torch.Tensor, first: int = 0) -> torch.Tensor:
        logits = plain(self, ids).clone()
        if int(ids[0, -1]) % 2:
            logits[:, 0, 0] = logits[:, 0, 0].nextafter(torch.tensor(100.0))
        return logits[:, first:]

    monkeypatch.setattr(GPT, "logits", leaks_a_bit)
    assert "no logit sees a later token" in failing(honest / "seed1", honest)


def test_losses_that_are_no_probabilities_are_caught(honest: Path, monkeypatch: pytest.MonkeyPatch):
    plain = GPT.token_losses
    monkeypatch.setattr(GPT, "token_losses", lambda self, *arguments, **more: 0.999 * plain(self, *arguments, **more))
    assert "probabilities sum to one" in failing(honest / "seed1", honest)


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "name",
    ["recipe.json", "result.json", "ledger.json", "env.json", "model.pgolf", "averaging.json", "train.log",
     "metrics.jsonl"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "foreign", "a list", "deep", "a folder"])
def test_damage_of_any_file_is_a_failing_row_and_never_a_traceback(
    honest: Path, copied: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: object) -> dict:
        raise CannotCheck("it is not scored, which costs most")

    monkeypatch.setattr(verify_score, "ask", refuse)
    path = copied / "seed1" / name
    payload = path.read_bytes()
    path.unlink()
    contents = {"empty": b"", "cut": payload[: len(payload) // 2], "foreign": b"\x00\xff" * 50, "a list": b"[1, 2]"}
    contents["deep"] = b"[" * 100_000
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(contents[damage])
    found = failing(copied / "seed1", honest)
    mine = {"recipe.json": "recipe.json is whole", "result.json": "result.json is whole"}
    mine |= {"ledger.json": "ledger.json is the file's", "env.json": "the run's own hashes agree"}
    mine |= {"averaging.json": "raw and averaged scores are averaging.json's"}
    mine |= dict.fromkeys(("train.log", "metrics.jsonl"), "log and metrics say the same")
    assert mine.get(name, "artifact opens and is whole") in found


def test_nothing_is_unpickled_or_run(honest: Path, copied: Path, tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    for name in ("model.pgolf", "result.json", "recipe.json", "weights-raw.safetensors"):
        (copied / "seed1" / name).write_bytes(pickle.dumps(Bomb()))
    assert "artifact opens and is whole" in failing(copied / "seed1", honest)
    assert not (tmp_path / "exploded").exists()


def test_a_recipe_that_asks_for_vast_windows_is_not_scored(honest: Path, copied: Path):
    recipe = read_json(copied / "seed1" / "recipe.json")
    recipe["eval"] |= {"seq_len": 2**40, "stride": 1}
    change(copied / "seed1" / "recipe.json", eval=recipe["eval"])
    table = verify.verify(copied / "seed1", cache_dir=cache_of(honest)).set_index("check")
    assert table.loc["sliding score from the file alone", "verdict"] == verify.UNKNOWN
    assert table.loc["recipe.json is whole", "verdict"] == verify.FAILS


# ---------------------------------------------------------------------- seeds, logs, seconds


def test_a_missing_seed_log_or_result_is_named(honest: Path, copied: Path):
    shutil.rmtree(copied / "seed2")
    assert "no seed and no log is missing" in failing(copied, honest)
    shutil.copytree(honest / "seed2", copied / "seed2")
    (copied / "seed2" / "train.log").unlink()
    table = verify.verify(copied, cache_dir=cache_of(honest)).set_index("check")
    assert table.loc["no seed and no log is missing", "evidence"] == "missing: seed2/train.log"


def test_a_summary_of_other_numbers_fails(honest: Path, copied: Path):
    summary = read_json(copied / "summary.json")
    summary["sliding_bpb"]["mean"] *= 1.0001
    write_json(copied / "summary.json", summary)
    assert "summary.json is that of its seeds" in failing(copied, honest)
    table = verify.verify(copied, cache_dir=cache_of(honest)).set_index("check")
    assert "sliding_bpb.mean" in table.loc["summary.json is that of its seeds", "evidence"]


@pytest.mark.parametrize(
    ("file", "old", "new", "check"),
    [
        ("train.log", "train_loss:6", "train_loss:5", "log and metrics say the same"),
        ("train.log", "val_bpb:", "val_bpb:1", "log and metrics say the same"),
        ("train.log", "train_time:", "train_time:9", "log and metrics say the same"),
        ("train.log", "seed:1", "seed:2", "log and metrics say the same"),
        ("metrics.jsonl", '"bpb": 4', '"bpb": 3', "each logged score implies its bytes"),
        ("metrics.jsonl", '"targets": 763', '"targets": 762', "each logged score implies its bytes"),
        ("ledger.json", '"raw_bytes": ', '"raw_bytes": 1', "ledger.json is the file's"),
        ("averaging.json", '"bpb": ', '"bpb": 1', "raw and averaged scores are averaging.json's"),
        ("stages/03_train.json", '"steps": 8', '"steps": 9', "log and metrics say the same"),
    ],
)  # fmt: skip
def test_one_changed_number_in_a_file_beside_the_result_is_found(
    honest: Path, copied: Path, file: str, old: str, new: str, check: str
):
    path = copied / "seed1" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert check in failing(copied / "seed1", honest)


def test_a_score_of_another_text_than_the_tracks_is_neither_right_nor_wrong(
    honest: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(verify_bytes.TEXT_OF_TRACK, "local_10min_1mb", ("sotu-sp1024", 854_885, 0.0))
    table = verify.verify(honest / "seed1", cache_dir=cache_of(honest)).set_index("check")
    assert table.loc["the text is the track's", "verdict"] == verify.UNKNOWN
    monkeypatch.setitem(verify_bytes.TEXT_OF_TRACK, "local_10min_1mb", ("toy", 854_885, 0.0))
    assert "the text is the track's" in failing(honest / "seed1", honest)


def test_code_of_the_exported_scripts_size_is_the_other_size_that_counts(
    honest: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
):
    (copied / "train_gpt.py").unlink()
    for name in ("result.json", "ledger.json"):
        values = read_json(copied / "seed1" / name)
        change(
            copied / "seed1" / name,
            code_bytes=100_000,
            total_bytes=values["total_bytes"] - values["code_bytes"] + 10**5,
        )
    assert failing(copied / "seed1", honest) == set()
    (copied / "seed1" / "train_gpt.py").write_bytes(b"#" * 99_999)
    assert failing(copied / "seed1", honest) == {"file and code fit under the cap"}


def steps_run(root: Path, **quant: str) -> Path:
    """A toy trained long enough to gather gradients, all its matrices on steps; the seed's folder."""
    toy_corpus(root)
    more = "".join(f"{key} = {value}, " for key, value in quant.items())
    text = RECIPE.replace("quant = {", f'quant = {{kind = "steps", target_bytes = 150_000, {more}')
    (root / "toy.toml").write_text(
        text.replace("iterations = 8", "iterations = 24").replace("_iters = 4", "_iters = 22")
    )
    run = runs.open_run(str(root / "toy.toml"), seed=1, runs_dir=str(root / "runs"), cache_dir=str(root))
    finish_seed(run)
    return run.folder


def judged_ledger(folder: Path, cache: Path, changed: dict) -> str:
    """What verify says of a seed's ledger with these values."""
    write_json(folder / "ledger.json", changed)
    return verify_bytes.ledger(verify_run.Seed(folder, cache, None, False))


def test_the_ledger_of_a_run_with_every_matrix_on_steps_holds_and_a_changed_share_does_not(tmp_path: Path) -> None:
    folder = steps_run(tmp_path)
    honest = read_json(folder / "ledger.json")
    assert {row["grid"] for row in honest["tensors"]} == {"fp16", "steps"}
    assert "tensors" in judged_ledger(folder, tmp_path, honest)
    with pytest.raises(Broken, match="a correction that the recipe has not"):
        judged_ledger(folder, tmp_path, {**honest, "correction": 7})
    next(row for row in honest["tensors"] if row["grid"] == "steps")["compressed_bytes"] += 1
    with pytest.raises(Broken, match="do not make up the steps"):
        judged_ledger(folder, tmp_path, honest)


def test_what_a_ledger_tells_of_a_correction_is_the_recipes_and_of_the_files_matrices(tmp_path: Path) -> None:
    folder = steps_run(tmp_path, correction='"hessian"', correction_tokens="512")
    honest = read_json(folder / "ledger.json")
    told = honest["correction"]
    assert told["matrices"] > 0 and "tensors" in judged_ledger(folder, tmp_path, honest)
    wrong = [
        {"damping": 2 * told["damping"]}, {"raised": {"smear.gate": 1.0}}, {"raised": None}, {"plain": ["none"]},
        {"matrices": 10**6}, {"matrices": True}, {"tokens": "512"}, {"tokens": 0},
    ]  # fmt: skip
    for edit in wrong:
        with pytest.raises(Broken, match="correction: "):
            judged_ledger(folder, tmp_path, {**honest, "correction": told | edit})
    for nothing in (None, [], 7):
        with pytest.raises(Broken, match="tells nothing"):
            judged_ledger(folder, tmp_path, {**honest, "correction": nothing})


@pytest.mark.parametrize(
    "expected, found, place",
    [
        ({"seeds": [1, 2]}, {"seeds": [True, 2]}, "seeds[0]"), ({"seeds": [1, 2]}, {"seeds": [1]}, "seeds"),
        ({"a": {"b": 1}}, {"a": {"b": True}}, "a.b"), ([{"a": 1}, {"a": "x"}], [{"a": 1}, {"a": "y"}], "[1].a"),
        ({"seeds": [1, 2.0]}, {"seeds": [1, 2]}, ""), ({"a": [None]}, {"a": [None]}, ""), ({"a": []}, {"b": []}, "a"),
    ],
)  # fmt: skip
def test_the_first_difference_of_two_json_values_is_found_in_lists_too_and_true_is_not_one(expected, found, place):
    assert verify_run.first_difference(expected, found) == place
