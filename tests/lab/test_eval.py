"""`pgolf eval`: the score of a finished seed's file is the run's own; what cannot be scored is one line."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_artifact import CAP, MODEL

from pgolf_core.base.names import ARTIFACT, SEED_RESULT
from pgolf_core.lab import cli
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing.pack import pack
from pgolf_core.recipes.recipe import Quant
from pgolf_core.result import Result


@pytest.fixture
def seed_folder(honest: Path) -> Path:
    return honest / "seed1"


def test_a_seeds_file_scores_what_its_run_says(seed_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, cache = Result.read(seed_folder / SEED_RESULT), str(seed_folder.parents[3])
    for options, expected in (([], result.sliding_bpb), (["--stride", "32"], result.roundtrip_bpb)):
        assert cli.main(["eval", str(seed_folder / ARTIFACT), "--cache", cache, "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["bpb"] == pytest.approx(expected, abs=1e-9)


def test_a_dataset_that_is_not_the_runs_is_named(seed_folder: Path, tmp_path: Path, capsys) -> None:
    folder, cache = shutil.copytree(seed_folder, tmp_path / "seed1"), ["--cache", str(seed_folder.parents[3])]
    for there, is_said in ((Result.read(folder / SEED_RESULT).data_sha256, False), ("0" * 64, True)):
        dataclasses.replace(Result.read(folder / SEED_RESULT), data_sha256=there).write(folder)
        assert cli.main(["eval", str(folder / ARTIFACT), *cache]) == 0
        assert ("toy-sp1024 is not what the run was scored on (manifest 0" in capsys.readouterr().err) is is_said


def test_away_from_its_run_what_is_assumed_is_said_and_what_is_given_or_beside_it_is_taken(
    seed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, cache = Result.read(seed_folder / SEED_RESULT), ["--cache", str(seed_folder.parents[3])]
    away, data = str(shutil.copy(seed_folder / ARTIFACT, tmp_path / "away.pgolf")), ["--data", "toy-sp1024"]
    # off in the run: bfloat16 may move the score a little; a mask of documents would move it more
    where = {"autocast": "auto", "document_mask": False}
    cases = [(data, {"seq_len": 512, "stride": 128} | where), ([*data, "--seq-len", "32", "--stride", "8"], where)]
    for options, assumed in (*cases, (data, where)):
        assert cli.main(["eval", away, "--json", *cache, *options]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["assumed"] == assumed
        remedy = "only a run's folder says otherwise" if assumed == where else "--seq-len, --stride to say otherwise"
        assert remedy in said.err
        assert f"assumed {', '.join(f'{key} {value}' for key, value in assumed.items())}, as local-smoke" in said.err
        right = json.loads(said.out)["bpb"] == pytest.approx(result.sliding_bpb, abs=3e-4)
        assert right == (assumed == where)
        if options != data:
            result.write(tmp_path)  # as an exported script leaves it, for the last case
    assert cli.main(["eval", away, *cache]) == 1
    assert "assumed dataset sotu-sp1024, autocast auto, document_mask False, as" in capsys.readouterr().err, (
        "which is not prepared here"
    )


def test_beside_its_script_an_exported_artifact_is_scored_as_the_script_does(
    seed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, cache = Result.read(seed_folder / SEED_RESULT), ["--cache", str(seed_folder.parents[3])]
    folder = tmp_path / "seed1"
    folder.mkdir()
    shutil.copy(seed_folder.parent / "train_gpt.py", tmp_path)
    shutil.copy(seed_folder / ARTIFACT, folder / "final_model.pgolf")
    for digest, is_its in ((result.script_sha256, True), ("0" * 64, False)):
        dataclasses.replace(result, script_sha256=digest).write(folder)
        assert cli.main(["eval", str(folder / "final_model.pgolf"), "--json", *cache, "--data", "toy-sp1024"]) == 0
        said = capsys.readouterr()
        assumed = {} if is_its else {"autocast": "auto", "document_mask": False}
        assert json.loads(said.out)["assumed"] == assumed and ("assumed" in said.err) is not is_its
        assert json.loads(said.out)["bpb"] == pytest.approx(result.sliding_bpb, abs=1e-9 if is_its else 3e-4)


def test_an_artifact_that_finds_documents_is_refused_with_a_tokenizer_of_another_bos(
    seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    model = dataclasses.replace(MODEL, smear="window", bigram_rows=0)
    state = {name: torch.zeros(shape) for name, shape in parameter_shapes(model).items()}
    pack(state, model, Quant(small_tensor_elements=10**6), tmp_path / "gated.pgolf", **CAP)
    monkeypatch.setattr("pgolf_core.text.tokenizer.BOS", 3)
    arguments = ["eval", str(tmp_path / "gated.pgolf"), "--cache", str(seed_folder.parents[3]), "--data", "toy-sp1024"]
    assert cli.main(arguments) == 1
    assert "gated.pgolf finds documents by BOS = 3, but the tokenizer has 1" in capsys.readouterr().err
    assert cli.main(["eval", str(seed_folder / ARTIFACT), "--cache", str(seed_folder.parents[3])]) == 0, "finds none"


def test_a_stride_beyond_the_window_and_a_missing_file_are_refused(
    seed_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = "is not a whole number of at least 1"
    for option, value, why in (
        ("stride", "33", "must lie in 1..32"),
        ("stride", "0", counted),
        ("seq-len", "-3", counted),
    ):
        assert cli.main(["eval", str(seed_folder / ARTIFACT), f"--{option}", value]) == 2
        said = capsys.readouterr().err
        assert f"--{option}" in said and value in said and why in said
    for name, what in (("nothing", "does not exist"), ("", "is a folder")):
        assert cli.main(["eval", str(seed_folder / name)]) == 1
        assert f"{what}; name the model.pgolf" in capsys.readouterr().err
