"""Arms that are given up: which, on what ground, and that this lies in the run's folder alone."""

import json
from pathlib import Path

import pytest

from pgolf_core.lab.sweep.stopping import STOPPED, bpb_at, excluded, is_stopped, why_stopped


def write_arm(root: Path, name: str, scores: dict[int, float]) -> Path:
    """Seeds {seed: bpb at step 10}, with other lines around it."""
    for seed, bpb in scores.items():
        place = root / name / f"seed{seed}"
        place.mkdir(parents=True)
        lines = [
            {"kind": "val", "step": 0, "bpb": 9.0},
            {"kind": "train", "step": 10, "loss": 2.0},
            {"kind": "val", "step": 10, "bpb": bpb},
            {"kind": "val", "step": 20, "bpb": 1.0},
        ]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root / name


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    scores = {
        "base": {1: 2.00, 2: 2.10, 3: 2.05},
        "good": {1: 1.90, 2: 2.001, 3: 1.951},
        "alike": {1: 1.92, 2: 1.99, 3: 1.96},
        "young": {1: 2.50},
    }
    return {name: write_arm(tmp_path, name, own) for name, own in scores.items()} | {"new": tmp_path / "new"}


def test_the_score_at_one_step_is_read_for_seeds_that_have_come_so_far(folders) -> None:
    assert bpb_at(folders["base"], 10) == {1: 2.00, 2: 2.10, 3: 2.05} and bpb_at(folders["new"], 10) == {}
    (folders["young"] / "seed2").mkdir()
    assert bpb_at(folders["young"], 10) == {1: 2.50} and bpb_at(folders["young"], 15) == {}


def test_an_arm_is_excluded_only_if_its_interval_excludes_the_best(folders) -> None:
    found = excluded(folders, 10)
    assert list(found) == ["base"], "alike overlaps, young has one seed, new has none, good is the best"
    assert found["base"]["best"] == "good" and found["base"]["seeds"] == 3
    assert found["base"]["difference"] == pytest.approx(0.0993, abs=1e-4) and 0 < found["base"]["low"] < 0.0993
    assert excluded(folders, 15) == {}


def test_what_is_found_is_kept_in_the_folder_and_told(folders) -> None:
    base, good = folders["base"], folders["good"]
    assert not is_stopped("base", folders, 0) and not (base / STOPPED).exists(), "0 is never"
    assert is_stopped("base", folders, 10) and not is_stopped("good", folders, 10)
    assert why_stopped(base).startswith("stopped after 3 seeds: at step 10 +0.0993 bpb, at least +0.0")
    assert why_stopped(base).endswith(", from good") and why_stopped(good) == ""
    assert is_stopped("base", {"base": base}, 10), "it holds, whatever comes"
