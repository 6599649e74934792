"""The plan's memory: its closed form against what autograd saves, against a profiled step, against published peaks.

pytest tests/lab/plan/test_memory.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_recipe

from pgolf_core.lab.compare.records import load_published
from pgolf_core.lab.plan import memory as plan_memory
from pgolf_core.lab.plan.memory import Execution
from pgolf_core.network import attention
from pgolf_core.network.model import GPT, build_model
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe

MODEL = {"vocab_size": 112, "num_layers": 4, "model_dim": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_hidden": 160,
         "rope_dims": 8, "bigram_rows": 32, "bigram_dim": 24, "xsa_last_n": 0}  # fmt: skip
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "six layers": {"num_layers": 6},
    "exclusive": {"xsa_last_n": 3},
    "no bigram, smear before the norm": {"bigram_rows": 0, "smear": "before", "ln_scale": False},
    "no smear, full rotary": {"smear": "off", "rope_dims": 16},
    "value embedding": {"ve_dim": 20, "ve_layers": [1, 3]},
    "one head each": {"num_kv_heads": 4, "xsa_last_n": 2},
}
AT_ONCE = ("exclusive", "value embedding")
"""The other switches wait for `make test-slow`."""
SEQUENCES = 3
EAGER = {
    "float32": Execution(compiled=False, bfloat16=False, blocked=False),
    "bfloat16": Execution(compiled=False, bfloat16=True, blocked=False),
    "bfloat16 in blocks": Execution(compiled=False, bfloat16=True, blocked=True),
}


def shaped(seq_len: int, **changes: Any) -> Recipe:
    tokens = SEQUENCES * seq_len
    return small_recipe(
        model={**MODEL, **changes}, data={"seq_len": seq_len, "batch_tokens": tokens, "spans_per_step": 1}
    )


def loss(model: Any, recipe: Recipe, how: Execution) -> torch.Tensor:
    ids = torch.randint(recipe.model.vocab_size, (SEQUENCES, recipe.data.seq_len + 1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how.bfloat16):
        return model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def saved_bytes(recipe: Recipe, how: Execution, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of all storages that autograd saves in a forward pass, the parameters themselves left out."""
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: ("query blocks" if how.blocked else "SDPA", ""))
    model: GPT = build_model(recipe.model, seed=0)
    run = torch.compile(model, backend="aot_eager_decomp_partition", dynamic=False) if how.compiled else model
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # kept alive: an address is never reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss(run, recipe, how)
    if how.compiled:
        torch._dynamo.reset()
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def counted_bytes(recipe: Recipe, how: Execution) -> float:
    tokens = SEQUENCES * recipe.data.seq_len
    kept = plan_memory.kept_bytes_per_token(recipe.model, recipe.data.seq_len, how)
    head = plan_memory.head_bytes_per_token(recipe.model, how)[0]
    return (kept + head) * tokens + plan_memory.weight_copy_bytes(recipe, how)


# ---------------------------------------------------------------------- the count against autograd


@pytest.mark.parametrize("how", EAGER.values(), ids=EAGER)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(changes, id=name, marks=[pytest.mark.slow] * (name not in AT_ONCE))
        for name, changes in SWITCHES.items()
    ],
)
def test_the_count_of_an_eager_pass_is_what_autograd_saves(how, changes, monkeypatch):
    # what does not grow with the batch is left to the tolerance: rotary tables, copies of gains and scales
    recipe = shaped(96, **changes)
    assert counted_bytes(recipe, how) == pytest.approx(saved_bytes(recipe, how, monkeypatch), rel=0.01)


@pytest.mark.parametrize("seq_len", [96, 256, 300])
def test_query_blocks_keep_their_attention_weights_and_copies_of_the_keys(seq_len, monkeypatch):
    recipe, how = shaped(seq_len, xsa_last_n=1), EAGER["bfloat16 in blocks"]
    assert counted_bytes(recipe, how) == pytest.approx(saved_bytes(recipe, how, monkeypatch), rel=0.01)


@pytest.mark.parametrize(
    "how, changes",
    [
        (Execution(compiled=True, bfloat16=True, blocked=False), {"xsa_last_n": 2}),
        (Execution(compiled=True, bfloat16=True, blocked=False), {"bigram_rows": 0, "ve_dim": 20, "ve_layers": [2]}),
        (Execution(compiled=True, bfloat16=False, blocked=False), {}),
    ],
    ids=["bfloat16, exclusive", "bfloat16, value embedding", "float32"],
)
def test_the_count_of_a_compiled_pass_is_what_the_partitioner_keeps(how, changes, monkeypatch):
    recipe = shaped(48, num_layers=3, **changes)
    assert counted_bytes(recipe, how) == pytest.approx(saved_bytes(recipe, how, monkeypatch), rel=0.005)


def test_fake_quantised_matrices_are_copies_that_a_float32_pass_keeps_too():
    recipe, how = shaped(48), EAGER["float32"]
    always = small_recipe(model=MODEL, qat={"kind": "always"})
    assert plan_memory.weight_copy_bytes(recipe, how) == 0
    blocks = 4 * (2 * 64 * 64 + 2 * 32 * 64 + 2 * 160 * 64) + 24 * 64
    assert plan_memory.weight_copy_bytes(always, how) == 4 * blocks


@pytest.mark.parametrize("how", [EAGER["float32"], EAGER["bfloat16 in blocks"]], ids=["float32", "bfloat16"])
def test_parts_that_a_step_allocates_add_up_to_the_peak_that_the_profiler_saw(how, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: ("query blocks" if how.blocked else "SDPA", ""))
    recipe = shaped(192, vocab_size=256)
    model = build_model(recipe.model, seed=0)
    loss(model, recipe, how).backward()  # gradients exist from here on, as from the second micro-batch on
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss(model, recipe, how).backward()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    live = peak = 0
    for event in sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"]):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    transient = plan_memory.head_bytes_per_token(recipe.model, how)[1] * SEQUENCES * recipe.data.seq_len
    assert counted_bytes(recipe, how) + transient == pytest.approx(peak, rel=0.02)


# ---------------------------------------------------------------------- against the records


@pytest.mark.parametrize(
    "name, tolerance",
    [("pr315", 0.07), ("pr332", 0.07), ("pr534", 0.07), ("pr194", 0.20)],  # PR 194 ran torch 2.4 and expanded its heads
)
def test_the_memory_of_one_rank_of_eight_is_near_the_published_peak(name: str, tolerance: float):
    parts = plan_memory.memory_parts(load_recipe(name), ranks=8)
    total_mib = sum(size for size, _ in parts.values()) / 2**20
    assert total_mib == pytest.approx(load_published(name).peak_memory_mib, rel=tolerance)


# ---------------------------------------------------------------------- ranks


def test_ranks_split_the_tokens_and_nothing_else():
    recipe = load_recipe("pr315")
    one, eight = (plan_memory.memory_parts(recipe, ranks) for ranks in (1, 8))
    assert one == eight, "48 sequences at a time either way"
    assert plan_memory.micro_batch(recipe, 1) == (48, 8) and plan_memory.micro_batch(recipe, 8) == (48, 1)
    halved = load_recipe("pr315", ["data.micro_batch_seqs=24"])
    assert plan_memory.micro_batch(halved, 8) == (24, 2)
    smaller = plan_memory.memory_parts(halved, 8)
    for part, (size, _) in eight.items():
        assert smaller[part][0] == (size // 2 if part in ("activations", "logits") else size), part


def test_the_default_ranks_are_the_tracks_and_always_possible():
    assert plan_memory.ranks_of(load_recipe("pr194"), None) == 8
    assert plan_memory.ranks_of(load_recipe("local-pr194"), None) == 1
    assert plan_memory.ranks_of(load_recipe("pr315", ["data.spans_per_step=12"]), None) == 4
