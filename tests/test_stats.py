"""Statistics over seeds against values worked out by hand; the arithmetic is beside each expectation."""

import json
import math

import pytest
import scipy.stats

from pgolf_core.files import UserError
from pgolf_core.lab.stats import compare, compare_runs, summarise, summarise_seeds, whole_seconds


def test_summary_of_five_numbers_equals_the_hand_computed_one():
    summary = summarise([2.0, 4.0, 4.0, 5.0, 10.0])
    assert summary.n == 5 and summary.mean == 5.0
    assert summary.std == pytest.approx(3.0)  # squares 9 + 1 + 1 + 0 + 25 = 36, over 4 = 9
    assert summary.sem == pytest.approx(3.0 / math.sqrt(5))
    half_width = 2.7764451 * 3.0 / math.sqrt(5)  # t(0.975, 4 degrees) from a printed table
    assert summary.low == pytest.approx(5.0 - half_width, abs=1e-6)
    assert summary.high == pytest.approx(5.0 + half_width, abs=1e-6)


def test_one_value_has_a_mean_and_no_spread():
    summary = summarise([1.5])
    assert (summary.n, summary.mean) == (1, 1.5)
    assert summary.std is summary.sem is summary.low is summary.high is None


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_values_and_values_that_are_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        summarise(values)


def test_shared_seeds_are_compared_pair_by_pair():
    result = compare_runs({1: 2.0, 2: 3.0, 3: 4.0}, {3: 3.0, 1: 1.5, 2: 1.5})
    assert result.method == "paired t" and (result.n_a, result.n_b) == (3, 3) and result.note == ""
    assert result.difference == pytest.approx(-1.0)  # -0.5, -1.5, -1.0: std 0.5
    t = 1.0 / (0.5 / math.sqrt(3))  # 3.4641, two degrees of freedom: p = 1 - t / sqrt(2 + t^2)
    assert result.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert result.high == pytest.approx(-1.0 + 4.3026527 * 0.5 / math.sqrt(3), abs=1e-6)


def test_pairing_leaves_out_seeds_of_one_arm_and_names_them():
    result = compare_runs({1: 1.0, 2: 2.0, 9: 50.0}, {1: 2.0, 2: 2.5})
    assert result.difference == pytest.approx(0.75) and "seeds 9 are in one arm only" in result.note


def test_arms_without_shared_seeds_are_compared_by_welch():
    result = compare_runs({1: 1.0, 2: 3.0}, {11: 4.0, 12: 6.0})
    assert result.method == "Welch t" and result.difference == pytest.approx(3.0)
    t = 3.0 / math.sqrt(2.0)  # variances 2 over 2 seeds twice; equal ones give 2 degrees: p = 1 - t / sqrt(2 + t^2)
    assert result.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert result.low == pytest.approx(3.0 - 4.3026527 * math.sqrt(2.0), abs=1e-6)


def test_welch_does_not_pool_unequal_variances():
    result = compare_runs({1: 1.0, 2: 2.0, 3: 3.0}, {11: 4.0, 12: 8.0})
    part_a, part_b = 1.0 / 3, 8.0 / 2  # variances 1 and 8 over n
    freedom = (part_a + part_b) ** 2 / (part_a**2 / 2 + part_b**2 / 1)  # Welch and Satterthwaite: 1.17
    half_width = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(part_a + part_b)
    assert (result.low, result.high) == pytest.approx((4.0 - half_width, 4.0 + half_width))


@pytest.mark.parametrize("other", [{1: 2.0}, {7: 2.0, 8: 2.1}])
def test_one_seed_gives_a_difference_but_no_p_value_and_says_why(other):
    result = compare_runs({1: 1.0}, other)
    assert result.method == "none" and result.p_value is None and result.low is None
    assert result.difference > 0.9 and "one seed has no spread" in result.note


def test_equal_differences_give_no_p_value():
    result = compare_runs({1: 0.1, 2: 0.2, 3: 0.3}, {1: 0.3, 2: 0.4, 3: 0.5})
    assert result.p_value is None and "no spread" in result.note and result.difference == pytest.approx(0.2)


def test_whole_seconds_are_the_sum_of_the_parts_unless_a_total_is_given():
    assert whole_seconds({"train": 10.0, "scoring": 2.5}) == 12.5
    assert whole_seconds({"train": 10.0, "scoring": 2.5, "total": 14.0}) == 14.0


def write_results(folder, scores, **changes):
    """A run folder with the keys that compare reads."""
    for seed, bpb in scores.items():
        path = folder / f"seed{seed}" / "result.json"
        path.parent.mkdir(parents=True)
        result = {"track": "t", "data_sha256": "d", "sliding_stride": 64, "sliding_bpb": bpb, "total_bytes": 900 + seed}
        path.write_text(json.dumps(result | {"seconds": {"train": 100.0, "scoring": 20.0}} | changes))
    return folder


def test_compare_reads_result_files_and_tests_every_run_against_the_first(tmp_path):
    first = write_results(tmp_path / "first", {1: 2.0, 2: 3.0, 3: 4.0})
    second = write_results(tmp_path / "second", {1: 1.5, 2: 1.5, 3: 3.0})
    (second / "seed4").mkdir()  # begun, not finished
    alone = write_results(tmp_path / "alone", {5: 2.5}, sliding_stride=256)
    table = compare([first, second, alone])
    assert list(table["run"]) == ["first", "second", "alone"] and list(table["n"]) == [3, 3, 1]
    assert table["mean"].tolist() == [3.0, 2.0, 2.5] and table["std"][0] == pytest.approx(1.0)
    assert math.isnan(table["std"][2]) and math.isnan(table["difference"][0]) and math.isnan(table["p_value"][2])
    assert table["difference"][1] == pytest.approx(-1.0) and table["test"][1] == "paired t"
    assert "another stride" in table["note"][2] and "one seed" in table["note"][2] and table["note"][1] == ""
    assert table["total_bytes"][0] == 902.0 and table["total_bytes_max"][0] == 903
    assert table["train_seconds"][0] == 100.0 and table["seconds"][0] == 120.0


def test_compare_refuses_folders_without_results_and_unknown_metrics(tmp_path):
    with pytest.raises(UserError, match="name at least one"):
        compare([])
    with pytest.raises(UserError, match="not a run folder"):
        compare([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no seed<k>/result\.json"):
        compare([tmp_path / "empty"])
    with pytest.raises(UserError, match="no number 'slidng_bpb'"):
        compare([write_results(tmp_path / "run", {1: 2.0})], metric="slidng_bpb")
    with pytest.raises(UserError, match=r"lacks 'seconds\.train'"):
        compare([write_results(tmp_path / "untimed", {1: 2.0}, seconds={})])


def test_seeds_of_different_code_are_not_averaged():
    def result(seed, core):
        return {
            "recipe": "r",
            "track": "t",
            "seed": seed,
            "recipe_sha256": "a",
            "data_sha256": "b",
            "core_sha256": core,
        }

    with pytest.raises(UserError, match="seeds 1 and 2 differ in core_sha256"):
        summarise_seeds({1: result(1, "old"), 2: result(2, "new")})
