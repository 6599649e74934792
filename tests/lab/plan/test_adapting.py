"""Work of adapting: tokens counted by hand, texts that are known, and what is said where none is."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small import small_recipe
from tiny_data import build_toy

from pgolf_core.base.files import UserError
from pgolf_core.lab.plan import adapting, table
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe

TEXT = adapting.ValidationText(np.array([[0, 9], [9, 13], [13, 30]]), "by hand")
FORWARD = 50_000
SMALL_LORA = {"kind": "lora", "lora_rank": 2, "lora_tokens": 5, "lora_window": 10, "batch_documents": 2,
              "chunk_tokens": 16, "lora_targets": ["q", "lm_head"]}  # fmt: skip


def test_chunks_read_every_window_and_learn_from_whole_sequences() -> None:
    recipe = small_recipe(adapt={"kind": "sgd", "epochs": 2, "chunk_tokens": 16})  # windows of 16 at every 4th target
    score, learn, told, _ = adapting.adapting_work(recipe, TEXT, FORWARD)
    read = 16 * 4 + 14  # from 0, 4, 8, 12, and 16 to 30
    assert (score, learn) == (read * FORWARD, 3 * 2 * 16 * FORWARD) and told.startswith(f"{read} tokens read, 32 ")
    frozen = small_recipe(adapt={"kind": "frozen", "tilt": "ngram", "chunk_tokens": 16})
    assert adapting.adapting_work(frozen, TEXT, FORWARD)[:2] == (read * FORWARD, 0)


def test_documents_read_their_windows_and_learn_but_for_the_last_chunk() -> None:
    """17 targets alone: widths 5, 10, 10, 10; then 4 and 9: two rows of 5, and one of 10."""
    recipe = small_recipe(adapt={**SMALL_LORA, "phases": 0})
    score, learn, _, pairs = adapting.adapting_work(recipe, TEXT, FORWARD)
    head, q, of_head = 2 * 64 * 32, 2 * 3 * 2 * (32 + 32), 2 * 2 * (32 + 64)
    read, learned = 5 + 10 + 10 + 10 + 2 * 5 + 10, 5 + 10 + 10 + 2 * 5
    assert score == read * (FORWARD - head + q) + 30 * (head + of_head)
    assert pairs == 4 + 2, "one after another: 4 chunks of 17 targets, then 2 of two documents"
    assert learn == learned * (FORWARD - head + 2 * q) + 4 * 5 * (head + 2 * of_head)
    phased = small_recipe(adapt={**SMALL_LORA, "phases": 1, "phase_documents": 1, "epochs": 2})
    in_phases = 3 * 2 * 16 * FORWARD  # 18 tokens: one of two chunks
    assert adapting.adapting_work(phased, TEXT, FORWARD)[1] == learn + in_phases


def test_a_text_is_the_prepared_one_or_a_known_one_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build_toy(tmp_path / "datasets")
    monkeypatch.setenv("PGOLF_CACHE", str(tmp_path))
    toy = load_recipe("local-pr1855", ["data.dataset=toy-sp1024"])
    found = adapting.validation_text(toy)
    assert found is not None and found.source == "toy-sp1024, prepared here" and len(found.documents) > 1
    rows = evaluation(toy, 100.0)
    assert rows["targets of the text"] == found.targets and rows["adapting"] > 0
    with monkeypatch.context() as patch:
        patch.setattr("pgolf_core.text.tokenizer.BOS", 3)
        with pytest.raises(UserError, match="finds documents by BOS = 3, but the tokenizer"):
            adapting.validation_text(toy)
    known = adapting.validation_text(load_recipe("pr1855", ["data.dataset=fineweb10B-sp8192-caseops"]))
    assert known is not None and known.targets == 47_851_520 and 49_000 < len(known.documents) <= 50_000
    assert "log-normal" in known.source and (known.documents[1:, 0] == known.documents[:-1, 1]).all()
    for name in ("fineweb10B-sp1024-caseops", "my-caseops-sp8192", "my-fineweb10B-sp8192"):
        assert adapting.validation_text(load_recipe("pr1855", [f"data.dataset={name}"])) is None, "another text"
    unknown = dataclasses.replace(toy, data=dataclasses.replace(toy.data, dataset="another"))
    assert adapting.validation_text(unknown) is None
    assert all(value != value for value in evaluation(unknown, 100.0).values()), "nothing is known of it"
    next((tmp_path / "datasets" / "toy-sp1024").glob("*_val_*.bin")).unlink()
    with pytest.raises(UserError, match="toy-sp1024"):
        adapting.validation_text(toy)


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
