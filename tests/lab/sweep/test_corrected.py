"""Holm's p-values, intervals that hold together, and seeds needed, against statsmodels 0.15.0's numbers."""

import math
from pathlib import Path

import pytest
from run_folder import write_run
from scipy import stats

from pgolf_core.lab.compare.comparison import compare_arms
from pgolf_core.lab.compare.inference import compare_runs
from pgolf_core.lab.sweep.corrected import corrected_text, holm, interval, seeds_needed

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
    assert seeds_needed(SPREAD, 1e-6, 1) is None
    assert seeds_needed(compare_runs({1: 1.0, 2: 1.1}, {3: 1.0, 4: 1.3}), 0.1, 1) is None


def test_one_interval_is_the_usual_one_and_more_are_wider() -> None:
    assert interval(SPREAD, 1) == pytest.approx((SPREAD.low, SPREAD.high))
    half = stats.t.ppf(1 - 0.05 / 8, 2) * 0.1 / math.sqrt(3)
    assert interval(SPREAD, 4) == pytest.approx((0.2 - half, 0.2 + half))
    assert interval(compare_runs({1: 1.0}, {1: 1.1}), 4) == (None, None)


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
    assert "5 arms were tried against base." in text and "to show 0.0010 bpb" in " ".join(text.split())
    one = [
        write_run(tmp_path / name, {1: 1.5}, changes) for name, changes in (("a", []), ("b", ["model.num_layers=4"]))
    ]
    assert corrected_text(compare_arms(one), tests=1) == "1 arms were tried; none has the two seeds that a test needs"
