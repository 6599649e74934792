"""Holm's p-values and seeds needed, against statsmodels 0.15.0's numbers; and which arms
are given up, on what ground, and that this lies in the run's folder alone."""

import json
import math
from pathlib import Path

import pytest
from refused import refused
from run_folder import write_run

from pgolf_core.lab.compare.comparison import compare_arms
from pgolf_core.lab.compare.inference import compare_runs
from pgolf_core.lab.sweep import verdicts
from pgolf_core.lab.sweep.verdicts import corrected_text, excluded, holm, is_stopped, seeds_needed, why_stopped

SPREAD = compare_runs({1: 1.0, 2: 1.0, 3: 1.0}, {1: 1.1, 2: 1.2, 3: 1.3})
"""Paired differences of mean 0.2 and standard deviation 0.1."""


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2, 0.001, 0.001, 0.9, 0.012], [0.4, 0.005, 0.005, 0.9, 0.036]),
        ([0.02, 0.021, 0.9], [0.06, 0.06, 0.9]),
        ([0.5], [0.5]),
        ([], []),
    ],
)  # statsmodels.stats.multitest.multipletests(p, method="holm")
def test_holms_p_values_are_those_of_the_reference(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values, len(p_values)) == pytest.approx(adjusted)


def test_an_arm_that_was_tried_and_has_no_p_value_counts_too() -> None:
    assert holm([0.01, 0.04], 5) == pytest.approx([0.05, 0.16])


@pytest.mark.parametrize(
    ("effect", "tests", "seeds"), [(1.0, 1, 10), (0.5, 1, 34), (1.0, 11, 18), (2.0, 3, 6)]
)  # statsmodels.stats.power.TTestPower().solve_power(effect_size=effect, alpha=0.05 / tests, power=0.8), rounded up
def test_seeds_needed_are_those_of_the_reference(effect: float, tests: int, seeds: int) -> None:
    assert seeds_needed(SPREAD, effect * 0.1, tests) == seeds


def test_a_difference_too_small_for_any_number_of_seeds_and_unpaired_seeds_need_none() -> None:
    assert seeds_needed(SPREAD, 1e-6, 1) == math.inf
    assert seeds_needed(compare_runs({1: 1.0, 2: 1.1}, {3: 1.0, 4: 1.3}), 0.1, 1) is None


def test_the_table_names_the_number_of_arms_and_what_the_seeds_could_show(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "base", {1: 1.50, 2: 1.52, 3: 1.51}),
        write_run(tmp_path / "wide", {1: 1.48, 2: 1.501, 3: 1.49}, ["model.mlp_hidden=1024"]),
        write_run(tmp_path / "deep", {1: 1.501, 2: 1.52, 3: 1.512}, ["model.num_layers=4"]),
    ]
    text = corrected_text(compare_arms(folders, against=folders[0]), tests=5, worth=0.001)
    wide, deep = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("wide", "deep"))
    assert wide.split()[1] == "-0.0197" and deep.split()[1] == "+0.0010"
    low, high = float(wide.split()[2]), float(wide.split()[4])
    assert low < -0.0197 < high < 0 and float(deep.split()[2]) < 0 < float(deep.split()[4])
    assert "5 arms tried against base." in text and "to show 0.0010 bpb" in " ".join(text.split())
    other = write_run(tmp_path / "other", {7: 1.48, 8: 1.501}, ["model.num_layers=3"])
    unpaired, paired = (corrected_text(compare_arms([folders[0], run]), 1, 1e-9) for run in (other, folders[1]))
    assert "over" not in unpaired and " –\n" in unpaired, "no seeds are counted for a test of other seeds"
    assert " over 1000\n" in paired
    one = [
        write_run(tmp_path / name, {1: 1.5}, changes) for name, changes in (("a", []), ("b", ["model.num_layers=4"]))
    ]
    assert corrected_text(compare_arms(one), tests=1) == "1 arm tried; none has the two seeds that a test needs"


def test_arms_without_a_test_are_told_the_true_reason(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", {1: 1.5, 2: 1.52})
    elsewhere = write_run(
        tmp_path / "text", {1: 1.4, 2: 1.41}, ["data.dataset=own"], data_sha256="e" * 64, text_bytes=9**6
    )
    alike = write_run(tmp_path / "same", {1: 1.5, 2: 1.52}, ["eval.batch_seqs=7"])
    young = write_run(tmp_path / "young", {1: 1.5}, ["model.num_layers=4"])
    lines = corrected_text(compare_arms([base, elsewhere, alike, young]), tests=3).splitlines()
    said = " ".join(line.strip() for line in lines)
    assert lines[0] == "3 arms tried; none could be tested" and max(map(len, lines)) <= 80
    assert "text: NOT COMPARABLE, other text: base on 900,000 bytes" in said
    assert "same: no p-value: no spread over the seeds" in said and "young: it has not the two seeds that a" in said


# ---------------------------------------------------------------------- given up early


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
    (folders["young"] / "seed2").mkdir()
    found = {name: verdicts.bpb_at(folders[name], 10) for name in ("base", "new", "young")}
    assert found == {"base": {1: 2.00, 2: 2.10, 3: 2.05}, "new": {}, "young": {1: 2.50}}
    assert verdicts.bpb_at(folders["young"], 15) == {}


def test_an_arm_is_excluded_only_if_its_interval_excludes_the_best(folders) -> None:
    found = excluded(folders, 10)
    assert list(found) == ["base"], "alike overlaps, young has one seed, new has none, good is the best"
    assert found["base"]["best"] == "good" and found["base"]["seeds"] == 3
    assert found["base"]["difference"] == pytest.approx(0.0993, abs=1e-4) and 0 < found["base"]["low"] < 0.0993
    assert excluded(folders, 15) == {}


def test_what_is_found_is_kept_in_the_folder_and_told(folders) -> None:
    base, good = folders["base"], folders["good"]
    assert not is_stopped("base", folders, 0) and not (base / verdicts.STOPPED).exists(), "0 is never"
    assert is_stopped("base", folders, 10) and not is_stopped("good", folders, 10)
    assert why_stopped(base).startswith("stopped after 3 seeds: at step 10 +0.0993 bpb, at least +0.0")
    assert why_stopped(base).endswith(", from good") and why_stopped(good) == ""
    assert is_stopped("base", {"base": base}, 10), "it holds, whatever comes"
    for text, wrong in (("[]", "must be a table"), ('{"step": "10"}', "key 'best' is missing")):
        (base / verdicts.STOPPED).write_text(text)
        with refused(rf"stopped\.json: {wrong}.*; delete it, and the arm is judged anew"):
            why_stopped(base)


def test_a_seed_that_diverged_has_no_score_by_which_an_arm_could_be_the_best(folders) -> None:
    write_arm(folders["base"].parent, "lost", {1: math.nan, 2: math.nan})
    assert verdicts.bpb_at(folders["base"].with_name("lost"), 10) == {}
    assert list(excluded(folders | {"lost": folders["base"].with_name("lost")}, 10)) == ["base"]
