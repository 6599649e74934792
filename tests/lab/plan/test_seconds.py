"""Adapting and seconds beside the steps: by hand, against published evaluations, and what `frontier` says of itself."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from refused import refused
from small import small_recipe
from tiny_data import build_toy

from pgolf_core.lab.plan import seconds, table
from pgolf_core.lab.plan.seconds import SLOWER
from pgolf_core.network.model import num_parameters
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe

TEXT = seconds.ValidationText(np.array([[0, 9], [9, 13], [13, 30]]), "by hand")
FORWARD = 50_000
SMALL_LORA = {"kind": "lora", "lora_rank": 2, "lora_tokens": 5, "lora_window": 10, "batch_documents": 2,
              "chunk_tokens": 16, "lora_targets": ["q", "lm_head"]}  # fmt: skip
PUBLISHED = {"pr1493": (318.0, 368.1), "pr1855": (455.1, 508.8), "pr2135": (540.1 - 198, 567.1 - 198)}
"""Seconds of adapting, fastest and slowest seed: papers/records. PR 2135 took 198 s for its hints, counted in."""


# ---------------------------------------------------------------------- adapting


def test_chunks_read_every_window_and_learn_from_whole_sequences() -> None:
    recipe = small_recipe(adapt={"kind": "sgd", "epochs": 2, "chunk_tokens": 16})  # windows of 16 at every 4th target
    score, learn, told, _ = seconds.adapting_work(recipe, TEXT, FORWARD)
    read = 16 * 4 + 14  # from 0, 4, 8, 12, and 16 to 30
    assert (score, learn) == (read * FORWARD, 3 * 2 * 16 * FORWARD) and told.startswith(f"{read} tokens read, 32 ")
    frozen = small_recipe(adapt={"kind": "frozen", "tilt": "ngram", "chunk_tokens": 16})
    assert seconds.adapting_work(frozen, TEXT, FORWARD)[:2] == (read * FORWARD, 0)


def test_documents_read_their_windows_and_learn_but_for_the_last_chunk() -> None:
    """17 targets alone: widths 5, 10, 10, 10; then 4 and 9: two rows of 5, and one of 10."""
    recipe = small_recipe(adapt={**SMALL_LORA, "phases": 0})
    score, learn, _, pairs = seconds.adapting_work(recipe, TEXT, FORWARD)
    head, q, of_head = 2 * 64 * 32, 2 * 3 * 2 * (32 + 32), 2 * 2 * (32 + 64)
    read, learned = 5 + 10 + 10 + 10 + 2 * 5 + 10, 5 + 10 + 10 + 2 * 5
    assert score == read * (FORWARD - head + q) + 30 * (head + of_head)
    assert pairs == 4 + 2, "one after another: 4 chunks of 17 targets, then 2 of two documents"
    assert learn == learned * (FORWARD - head + 2 * q) + 4 * 5 * (head + 2 * of_head)
    phased = small_recipe(adapt={**SMALL_LORA, "phases": 1, "phase_documents": 1, "epochs": 2})
    in_phases = 3 * 2 * 16 * FORWARD  # 18 tokens: one of two chunks
    assert seconds.adapting_work(phased, TEXT, FORWARD)[1] == learn + in_phases


def test_a_text_is_the_prepared_one_or_a_known_one_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build_toy(tmp_path / "datasets")
    monkeypatch.setenv("PGOLF_CACHE", str(tmp_path))
    toy = load_recipe("local-pr1855", ["data.dataset=toy-sp1024"])
    found = seconds.validation_text(toy)
    assert found is not None and found.source == "toy-sp1024, prepared here" and len(found.documents) > 1
    rows = evaluation(toy, 100.0)
    assert rows["targets of the text"] == found.targets and rows["adapting"] > 0
    with monkeypatch.context() as patch:
        patch.setattr("pgolf_core.text.tokenizer.BOS", 3)
        with refused("finds documents by BOS = 3, but the tokenizer"):
            seconds.validation_text(toy)
    known = seconds.validation_text(load_recipe("pr1855", ["data.dataset=fineweb10B-sp8192-caseops"]))
    assert known is not None and known.targets == 47_851_520 and 49_000 < len(known.documents) <= 50_000
    assert "log-normal" in known.source and (known.documents[1:, 0] == known.documents[:-1, 1]).all()
    for name in ("fineweb10B-sp1024-caseops", "my-caseops-sp8192", "my-fineweb10B-sp8192"):
        assert seconds.validation_text(load_recipe("pr1855", [f"data.dataset={name}"])) is None, "another text"
    unknown = dataclasses.replace(toy, data=dataclasses.replace(toy.data, dataset="another"))
    assert seconds.validation_text(unknown) is None
    assert all(value != value for value in evaluation(unknown, 100.0).values()), "nothing is known of it"
    next((tmp_path / "datasets" / "toy-sp1024").glob("*_val_*.bin")).unlink()
    with refused("toy-sp1024"):
        seconds.validation_text(toy)


def evaluation(recipe: Recipe, step_ms: float | None) -> dict[str, float]:
    rows = table.plan_table(recipe, step_ms)
    rows = rows[rows["group"] == "evaluation"]
    return dict(zip(rows["quantity"], rows["value"], strict=True))


def test_only_a_recipe_that_adapts_is_told_what_it_costs_and_seconds_need_a_step(monkeypatch) -> None:
    assert evaluation(load_recipe("pr315"), 80.0) == {}
    rows = table.plan_table(load_recipe("pr1493")).set_index("quantity")
    step, ms = rows.loc["forward and backward of a step", "value"] + rows.loc["Newton-Schulz of a step", "value"], 129.8
    work = rows.loc["scoring while adapting", "value"] + rows.loc["learning while adapting", "value"]
    assert rows.loc["adapting", "value"] == pytest.approx(work / step * ms / 1000, rel=0.05)
    assert "pr1493's whole evaluation took 514.6 s" in rows.loc["adapting", "note"]
    monkeypatch.setattr(table, "validation_text", lambda recipe: TEXT)  # whatever is prepared on this machine
    rows = table.plan_table(load_recipe("local-pr1493")).set_index("quantity")
    assert "needs --step-ms" in rows.loc["adapting", "note"]


# ---------------------------------------------------------------------- seconds


def values(rows: Iterator[tuple]) -> dict[str, float]:
    return {quantity: value for quantity, value, *_ in rows}


def planned(name: str, *overrides: str) -> dict[str, float]:
    rows = table.plan_table(load_recipe(name, overrides))
    return dict(zip(rows["quantity"], rows["value"], strict=True))


def test_calibration_takes_a_start_and_a_share_of_the_tokens_and_training_ends_early_enough_for_it():
    schedule = {"max_seconds": 100.0, "iterations": 10**6, "reserve_seconds": 8.0}
    quant = {"correction": "hessian", "correction_tokens": 4_000_000}
    recipe = small_recipe(track="10min_16mb", schedule=schedule, quant=quant)
    for ranks, spent, kept in ((4, 2.5 + 1.4, 8.0), (1, 2.5 + 5.6, 1.25 * 8.1)):
        *_, (_, found, _, note), (_, together, _, _) = seconds.calibration_rows(recipe, 0.1, ranks)
        assert found == pytest.approx(spent, abs=0.05) and together == pytest.approx(100 - kept + spent, abs=0.1)
        assert ("before its schedule" in note) is (kept > 8)
    assert values(seconds.calibration_rows(small_recipe(track="local_10min_1mb", quant=quant), 0.1, 1)) == {}
    assert values(seconds.calibration_rows(small_recipe(schedule=schedule), 0.1, 1)) == {}, "nothing is calibrated"


def test_an_evaluation_is_the_sum_of_its_parts_and_starting_operations_may_decide():
    recipe = small_recipe(eval={"stride": 8}, adapt={"kind": "frozen", "tilt": "ngram", "chunk_tokens": 16})
    weights, targets = num_parameters(recipe.model), 4_000_000
    for pairs, adapting in ((0, SLOWER * 30.0), (100_000, 100_000 * 3 * 320 * 8e-6)):
        work = seconds.AdaptingWork(20_000, 10_000, "", pairs)
        found = values(seconds.evaluation_rows(recipe, work, targets, 100, 1000.0))
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
    fastest, slowest = (spent / planned(name)["adapting"] for spent in PUBLISHED[name])
    assert 3.0 < fastest < slowest < SLOWER


def test_frontier_fits_its_bytes_and_both_times_and_what_its_file_says_of_other_values_holds():
    found = planned("frontier")
    assert found["predicted bytes: total"] == found["cap"] == 16_000_000 and found["predicted bytes left"] == 0
    assert found["training with calibration"] <= 600 and found["evaluation together"] <= 500
    assert 3.0 <= found["calibration"] <= 3.2
    assert planned("frontier", "adapt.lora_tokens=48")["evaluation together"] > 600
    assert planned("frontier", "adapt.batch_documents=64")["adapting, slower"] > 300
    assert planned("frontier", "eval.stride=64")["scores before adapting"] > 400
