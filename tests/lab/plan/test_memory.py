"""The plan's memory: what is traced against a profiled step, by hand and against published peaks; what ranks share."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_recipe

from pgolf_core.lab.compare.records import load_published
from pgolf_core.lab.plan import memory
from pgolf_core.lab.plan.memory import Execution, kept_bytes
from pgolf_core.network import attention
from pgolf_core.network.model import build_model
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe

MODEL = {"vocab_size": 112, "num_layers": 4, "model_dim": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_hidden": 160,
         "rope_dims": 8, "bigram_rows": 32, "bigram_dim": 24, "xsa_last_n": 0}  # fmt: skip
SEQUENCES = 3
FLOAT32 = Execution(compiled=False, bfloat16=False, blocked=False)
BLOCKS = Execution(compiled=False, bfloat16=True, blocked=True)
COMPILED = Execution(compiled=True, bfloat16=True, blocked=False)
ONE_PASS = Execution(compiled=True, bfloat16=True, blocked=False, one_pass=True)


def shaped(seq_len: int = 96, qat: str = "off", **changes: Any) -> Recipe:
    data = {"seq_len": seq_len, "batch_tokens": SEQUENCES * seq_len, "spans_per_step": 1}
    return small_recipe(model={**MODEL, **changes}, data=data, qat={"kind": qat})


@pytest.mark.parametrize("how", [FLOAT32, BLOCKS], ids=str)
def test_what_is_kept_and_the_logits_gradient_are_the_peak_that_the_profiler_saw(how, tmp_path: Path, monkeypatch):
    recipe = shaped(192, vocab_size=256)
    model, ids = build_model(recipe.model, seed=0), torch.zeros(SEQUENCES, 192, dtype=torch.int64)
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: ("query blocks" if how.blocked else "SDPA", ""))

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how.bfloat16):
            loss = model(ids, ids)
        loss.backward()

    step()  # gradients exist from here on, as from the second micro-batch on
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    live = peak = 0
    for event in sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"]):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    transient = memory.head_gradient_bytes(recipe.model, how, SEQUENCES * 192)
    assert kept_bytes(recipe, how, SEQUENCES) + transient == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize(("how", "of_a_target", "of_the_table"), [(FLOAT32, 8, 0), (BLOCKS, 8, 2), (COMPILED, 2, 2)],
                         ids=str)  # fmt: skip
def test_a_larger_vocabulary_keeps_logits_and_the_table_as_its_products_take_it(how, of_a_target, of_the_table):
    """Eager capped logits and their log-softmax; compiled the logits as they come."""
    small, large = (kept_bytes(shaped(128, num_layers=1, vocab_size=size), how, SEQUENCES) for size in (112, 624))
    assert large - small == 512 * (of_a_target * SEQUENCES * 128 + of_the_table * 64)


def test_in_one_pass_no_logits_are_kept_but_the_tables_gradient_and_its_copy():
    """Where 5,120 logits of each further piece would be."""
    small, large = (kept_bytes(shaped(128, num_layers=1, vocab_size=size), ONE_PASS, 40) for size in (112, 624))
    assert 0 < large - small <= 512 * 64 * (4 + 2)


def test_fake_quantised_matrices_are_copies_that_a_float32_pass_keeps_too():
    plain, faked = (kept_bytes(shaped(48, qat), FLOAT32, SEQUENCES) for qat in ("off", "always"))
    assert faked - plain == 4 * (4 * (2 * 64 * 64 + 2 * 32 * 64 + 2 * 160 * 64) + 24 * 64)


def test_compiled_less_is_kept_and_a_loop_keeps_what_its_further_passes_need():
    loop = {"num_loops": 1, "loop_end": 1, "skip_gates": True, "negative_slope": 0.5, "parallel_start": 1}
    gates = {"smear": "window", "attn_gate": "sparse", "xsa_last_n": 1, "lanes": 2, "parallel_start": 1}
    eager = Execution(compiled=False, bfloat16=True, blocked=False)
    recipes = [shaped(48, num_layers=2, **changes) for changes in ({}, loop, gates)]
    kept = [[kept_bytes(recipe, how, SEQUENCES) for how in (COMPILED, eager)] for recipe in recipes]
    assert all(compiled < 0.9 * plain for compiled, plain in kept) and kept[1][1] > 1.4 * kept[0][1]


@pytest.mark.slow  # ten seconds each
@pytest.mark.parametrize(
    "name, tolerance",
    [("pr315", 0.07), ("pr332", 0.07), ("pr534", 0.07), ("pr194", 0.20)],  # PR 194 ran torch 2.4 and expanded its heads
)
def test_the_memory_of_one_rank_of_eight_is_near_the_published_peak_and_the_plan_says_so(name: str, tolerance: float):
    published = load_published(name)
    *_, (_, total, _, note) = memory.memory_rows(load_recipe(name), 8, published)
    assert total / 2**20 == pytest.approx(published.peak_memory_mib, rel=tolerance)
    side = "below" if name == "pr194" else "above"
    assert f"% {side} the published {published.peak_memory_mib:,.0f} MiB (torch {published.torch})" in note


def test_ranks_split_the_tokens_and_nothing_else_and_have_a_default():
    recipe, halved = (load_recipe("pr315", ["schedule.compile=off", *more])
                      for more in ([], ["data.micro_batch_seqs=24"]))  # fmt: skip
    eight = memory.memory_parts(recipe, 8)
    assert memory.memory_parts(recipe, 1) == eight, "48 sequences at a time either way"
    assert memory.micro_batch(recipe, 1) == (48, 8) and memory.micro_batch(recipe, 8) == (48, 1)
    assert memory.micro_batch(halved, 8) == (24, 2)
    for part, (size, _) in memory.memory_parts(halved, 8).items():
        share = 2 if part in ("kept for the backward", "logits' gradient") else 1
        assert size == pytest.approx(eight[part][0] / share, rel=2e-3), part
    # the default is the track's, and always possible
    assert memory.ranks_of(load_recipe("pr194"), None) == 8
    assert memory.ranks_of(load_recipe("local-pr194"), None) == 1
    assert memory.ranks_of(load_recipe("pr315", ["data.spans_per_step=12"]), None) == 4
