"""What the notebooks call beyond the core: here sampling from the model; tests/helpers/toy_run.py calls the rest."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from refused import refused
from run_folder import change
from small import small_recipe
from toy_run import ADAPTING, finished_run

from pgolf_core.adapting.sgd import ChunkSGD
from pgolf_core.base.files import write_json
from pgolf_core.base.names import CHECKPOINT
from pgolf_core.lab.record import stages
from pgolf_core.lab.record.folder import Run, finish_stage, open_run
from pgolf_core.lab.record.stages import sample_text
from pgolf_core.network.model import build_model
from pgolf_core.packing.ledger import CapExceeded, Ledger
from pgolf_core.result import Result
from pgolf_core.text.tokenizer import TokenBytes


class Letters:
    """Ids 1..63 are characters, id 0 is BOS and has no bytes."""

    bos_id = 0
    bytes = TokenBytes(np.array([0] + [1] * 63, np.int16), np.zeros(64, bool), np.arange(64) == 0)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 64 for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(index + 64) for index in ids if index)


def sample(seed: int, temperature: float = 1.0) -> str:
    model = build_model(small_recipe().model, 0).eval()
    with torch.no_grad():
        model.tok_emb.weight.mul_(100)
    return sample_text(model, Letters(), "HELLO", 40, seed, temperature, window=16)


def test_a_sample_is_decided_by_its_seed_and_has_the_asked_length() -> None:
    assert sample(1) == sample(1) != sample(2)
    assert len(sample(1)) == 40  # BOS is never drawn: it would be silent


def test_a_cold_sample_takes_the_likeliest_token_each_time() -> None:
    assert sample(1, temperature=1e-4) == sample(2, temperature=1e-4)


# ---------------------------------------------------------------------- the script that a seed counts


def run_of(folder: Path, seed: int) -> Run:
    options = {"runs_dir": str(folder.parents[1]), "cache_dir": str(folder.parents[2])}
    return open_run(str(folder.parents[2] / "toy.toml"), seed=seed, **options)


@pytest.fixture
def copied(honest: Path, run: Path) -> Run:
    """Seed 1 of a copy that a test may change."""
    return dataclasses.replace(run_of(honest, 1), folder=run / "seed1", recipe_folder=run)


def scored(run: Run) -> list:
    return [stages.score_packed(run, 32, progress=False) for _ in range(2)]


def test_the_script_is_exported_once_for_all_seeds(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "write_script", lambda *arguments: pytest.fail("exported again"))
    assert {stages.run_script(run_of(honest, seed)) for seed in (1, 2)} == {honest / "train_gpt.py"}
    hashes = {Result.read(honest / f"seed{seed}" / "result.json").script_sha256 for seed in (1, 2)}
    assert len(hashes) == 1


def test_a_script_that_was_changed_since_its_stage_ended_is_not_counted_and_not_lost(copied: Run) -> None:
    script, of_all = copied.recipe_folder / "train_gpt.py", dataclasses.replace(copied, folder=copied.recipe_folder)
    payload = script.read_bytes()
    write_json(of_all.folder / "architecture.json", {})
    finish_stage(dataclasses.replace(of_all, seed=None), "02_architecture")
    script.write_text("print()\n")
    with refused(r"train_gpt\.py exists and is another script; delete it"):
        stages.run_script(copied)
    script.unlink()
    assert stages.run_script(copied).read_bytes() == payload


def test_packing_over_the_cap_says_what_a_packed_script_would_do(copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def over(recipe, weights, statistics, path, code_bytes):
        raise CapExceeded(Ledger(1, 0, 1, 1, 3, code_bytes, code_bytes + 3, code_bytes, []))

    monkeypatch.setattr(stages, "pack_averaged", over)
    for script, is_said in (("readable", True), ("packed", False)):
        with pytest.raises(CapExceeded, match="3 over the cap") as caught:
            stages.pack_seed(dataclasses.replace(copied, recipe=dataclasses.replace(copied.recipe, script=script)))
        assert ("set script=packed" in str(caught.value)) == is_said and str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("ledger", {"code_bytes": 7}, "is not the script that 05_quantize counted"),
        ("ledger", {"strange": 7}, "unknown key 'strange'"),
        ("averaging", {"raw": 3}, r"averaging\.json: raw\.bpb is no number \(None\)"),
        ("averaging", {"seconds": True}, r"averaging\.json: seconds is no number \(True\)"),
        ("stages/05_quantize", {"packing_seconds": [1]}, r"05_quantize\.json: packing_seconds is no number"),
        ("stages/03_train", {"lost_seconds": float("nan")}, r"03_train\.json has the number nan"),
        ("sensitivity", {"steps": "9"}, r"sensitivity\.json: steps must be"),
        ("sensitivity", {"mean_squared_gradient": [1.0]}, r"sensitivity\.json: mean_squared_gradient must be"),
    ],
)
def test_another_script_than_the_counted_one_and_a_damaged_file_are_one_line(
    copied: Run, file, values, message
) -> None:
    change(copied.folder / f"{file}.json", **values)
    with refused(message):
        stages.pack_seed(copied) if file == "sensitivity" else stages.write_result(copied, *scored(copied))


def test_an_adaptation_that_was_ended_goes_on_and_one_of_another_file_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = (*ADAPTING, "script=readable", "schedule.checkpoint_every_seconds=1e-9")
    folder = finished_run(tmp_path, (1,), changes)
    options = {"runs_dir": str(tmp_path / "runs"), "cache_dir": str(tmp_path), "overrides": changes}
    run, before = open_run(str(tmp_path / "toy.toml"), seed=1, **options), Result.read(folder / "seed1" / "result.json")
    frozen = stages.score_packed(run, run.recipe.eval.stride, progress=False)
    update, updates = ChunkSGD.update, []

    def ended(self, event, stream):
        updates.append(event)
        return update(self, event, stream) if len(updates) < 3 else pytest.fail("ended")

    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception, match="ended"):
        patch.setattr(ChunkSGD, "update", ended)
        stages.adapt_packed(run, frozen, progress=False)
    again = stages.adapt_packed(run, frozen, progress=False)
    assert again is not None and again.score.bpb == before.adapted_bpb and again.earlier_seconds > 0
    checkpoint = run.folder / stages.ADAPTING / CHECKPOINT
    assert checkpoint.is_file()
    with refused("do not agree; run 06_sliding_eval again"):
        stages.write_result(run, frozen, frozen)
    shutil.copy(run.folder / "weights-raw.safetensors", run.folder / "weights-averaged.safetensors")
    stages.pack_seed(run)
    other = stages.adapt_packed(run, stages.score_packed(run, run.recipe.eval.stride, progress=False), progress=False)
    assert other is not None and other.states[0] != again.states[0] and other.earlier_seconds == 0.0


def test_the_ranks_of_all_hosts_are_in_a_seeds_result(copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NNODES", "3")
    assert stages.write_result(copied, *scored(copied)).ranks == 3
