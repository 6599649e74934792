"""`pgolf eval`: the score of a finished seed's file is the run's own; what cannot be scored is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_run import finished_run

from pgolf_core.base.names import ARTIFACT, SEED_RESULT
from pgolf_core.lab import cli
from pgolf_core.seed import Result


@pytest.fixture(scope="module")
def seed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("toy"), seeds=(1,)) / "seed1"


def test_a_seeds_file_scores_what_its_run_says(seed_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, cache = Result.read(seed_folder / SEED_RESULT), str(seed_folder.parents[3])
    for options, expected in (([], result.sliding_bpb), (["--stride", "32"], result.roundtrip_bpb)):
        assert cli.main(["eval", str(seed_folder / ARTIFACT), "--cache", cache, "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["bpb"] == pytest.approx(expected, abs=1e-9)


def test_a_stride_beyond_the_window_and_a_missing_file_are_refused(
    seed_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", str(seed_folder / ARTIFACT), "--stride", "33"]) == 2
    assert "--stride 33 must lie in 1..32" in capsys.readouterr().err
    assert cli.main(["eval", str(seed_folder / "nothing")]) == 1
    assert "does not exist" in capsys.readouterr().err
