"""Seconds beside the steps: by hand, against published evaluations, and what `frontier` says of itself."""

from collections.abc import Iterator

import pytest
from small import small_recipe

from pgolf_core.lab.plan import table
from pgolf_core.lab.plan.adapting import AdaptingWork
from pgolf_core.lab.plan.seconds import SLOWER, calibration_rows, evaluation_rows
from pgolf_core.network.model import num_parameters
from pgolf_core.recipes.reading import load_recipe

PUBLISHED = {"pr1493": (318.0, 368.1), "pr1855": (455.1, 508.8), "pr2135": (540.1 - 198, 567.1 - 198)}
"""Seconds of adapting, fastest and slowest seed: papers/records. PR 2135 took 198 s for its hints, counted in."""


def values(rows: Iterator[tuple]) -> dict[str, float]:
    return {quantity: value for quantity, value, *_ in rows}


def planned(name: str, *overrides: str) -> dict[str, float]:
    rows = table.plan_table(load_recipe(name, overrides))
    return dict(zip(rows["quantity"], rows["value"], strict=True))


def test_calibration_takes_a_start_and_a_share_of_the_tokens_and_training_ends_early_enough_for_it():
    schedule = {"max_seconds": 100.0, "iterations": 10**6, "reserve_seconds": 8.0}
    quant = {"correction": "hessian", "correction_tokens": 4_000_000}
    recipe = small_recipe(track="10min_16mb", schedule=schedule, quant=quant)
    for ranks, seconds, kept in ((4, 2.5 + 1.4, 8.0), (1, 2.5 + 5.6, 1.25 * 8.1)):
        *_, (_, found, _, note), (_, together, _, _) = calibration_rows(recipe, 0.1, ranks)
        assert found == pytest.approx(seconds, abs=0.05) and together == pytest.approx(100 - kept + seconds, abs=0.1)
        assert ("before its schedule" in note) is (kept > 8)
    assert values(calibration_rows(small_recipe(track="local_10min_1mb", quant=quant), 0.1, 1)) == {}
    assert values(calibration_rows(small_recipe(schedule=schedule), 0.1, 1)) == {}, "nothing is calibrated"


def test_an_evaluation_is_the_sum_of_its_parts_and_starting_operations_may_decide():
    recipe = small_recipe(eval={"stride": 8}, adapt={"kind": "frozen", "tilt": "ngram", "chunk_tokens": 16})
    weights, targets = num_parameters(recipe.model), 4_000_000
    for pairs, adapting in ((0, SLOWER * 30.0), (100_000, 100_000 * 3 * 320 * 8e-6)):
        found = values(evaluation_rows(recipe, AdaptingWork(20_000, 10_000, "", pairs), targets, 100, 1000.0))
        assert found["adapting, slower"] == pytest.approx(adapting, abs=0.1)
        assert found["reading the file"] == round(3 * weights * 5e-8, 1) and found["hints of the tilt"] == 12.0
        assert found["scores before adapting"] == SLOWER * 3 * targets * 100 / 1000, "each target once, then twice"
        *parts, together = found.values()
        assert together == pytest.approx(sum(parts), abs=0.2)


def test_a_mixture_is_part_of_an_evaluation_alone_and_after_learning():
    """Nine contexts of 40,540,160 targets at 1.1 µs: two thirds of what an evaluation may take."""
    text = "data.dataset=fineweb10B-sp8192"
    for name, *overrides in (("pr1493",), ("pr315", text)):
        mixed, plain = (planned(name, *overrides, *mix) for mix in (["adapt.mix=ngram"], []))
        assert mixed["mixing with n-grams"] == pytest.approx(9 * 40_540_160 * 1.1e-6, abs=0.1)
        if name == "pr1493":
            longer = mixed["evaluation together"] - plain["evaluation together"]
            assert longer == pytest.approx(mixed["mixing with n-grams"], abs=0.2)
        else:
            parts = ("reading the file", "scores before adapting", "mixing with n-grams")
            assert mixed["evaluation together"] == pytest.approx(sum(mixed[part] for part in parts), abs=0.2)
            assert "adapting, slower" not in mixed and "evaluation together" not in plain


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_evaluations_were_slower_than_a_step_by_no_more_than_is_assumed(name: str):
    fastest, slowest = (seconds / planned(name)["adapting"] for seconds in PUBLISHED[name])
    assert 3.0 < fastest < slowest < SLOWER


def test_frontier_fits_its_bytes_and_both_times_and_what_its_file_says_of_other_values_holds():
    found = planned("frontier")
    assert found["predicted bytes: total"] == found["cap"] == 16_000_000 and found["predicted bytes left"] == 0
    assert found["training with calibration"] <= 600 and found["evaluation together"] <= 500
    assert 3.0 <= found["calibration"] <= 3.2
    assert planned("frontier", "adapt.lora_tokens=48")["evaluation together"] > 600
    assert planned("frontier", "adapt.batch_documents=64")["adapting, slower"] > 300
    assert planned("frontier", "eval.stride=64")["scores before adapting"] > 400
