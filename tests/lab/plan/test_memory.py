"""The plan's memory: its counts against what autograd saves, against a profiled step, against published peaks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_recipe
from torch._functorch.aot_autograd import aot_function
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode

from pgolf_core.lab.compare.records import RECORDS, load_published
from pgolf_core.lab.plan import memory
from pgolf_core.lab.plan.memory import Execution
from pgolf_core.network import attention
from pgolf_core.network.model import GPT, build_model
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe

MODEL = {"vocab_size": 112, "num_layers": 4, "model_dim": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_hidden": 160,
         "rope_dims": 8, "bigram_rows": 32, "bigram_dim": 24, "xsa_last_n": 0}  # fmt: skip
LANES = {"xsa_last_n": 3, "lanes": 2, "parallel_start": 2, "skip_gates": True}
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "six layers": {"num_layers": 6},
    "exclusive": {"xsa_last_n": 3},
    "no bigram, smear before the norm": {"bigram_rows": 0, "smear": "before", "ln_scale": False},
    "no smear, full rotary": {"smear": "off", "rope_dims": 16},
    "value embedding": {"ve_dim": 20, "ve_layers": [1, 3]},
    "one head each": {"num_kv_heads": 4, "xsa_last_n": 2},
    "two query blocks": {"seq_len": 256, "xsa_last_n": 1},
    "a ragged query block": {"seq_len": 300, "xsa_last_n": 1},
    "leaky, gated, parallel": {"negative_slope": 0.5, "skip_gates": True, "parallel_start": 2},
    "a loop": {"num_loops": 2, "loop_start": 1, "loop_end": 2, "xsa_last_n": 2, "ve_dim": 20, "ve_layers": [1, 3]},
    "window smear, gated heads, lanes": {"smear": "window", "bigram_rows": 0, "attn_gate": "sparse", **LANES},
    "two caps, one block in lanes": {"softcaps": "two", "lanes": 2, "parallel_start": 3},
    "lanes in blocks with skips": {"num_layers": 6, "lanes": 2, "parallel_start": 4, "skip_gates": True},
}
SEQUENCES = 3
FLOAT32 = Execution(compiled=False, bfloat16=False, blocked=False)
BFLOAT16 = Execution(compiled=False, bfloat16=True, blocked=False)
BLOCKS = Execution(compiled=False, bfloat16=True, blocked=True)
COMPILED = Execution(compiled=True, bfloat16=True, blocked=False)


def shaped(seq_len: int = 96, **changes: Any) -> Recipe:
    data = {"seq_len": seq_len, "batch_tokens": SEQUENCES * seq_len, "spans_per_step": 1}
    return small_recipe(model={**MODEL, **changes}, data=data)


@pytest.fixture
def loss(monkeypatch: pytest.MonkeyPatch):
    """One forward pass of a network as `how` says, on zeros."""

    def run(model: GPT, recipe: Recipe, how: Execution, sequences: int = SEQUENCES) -> torch.Tensor:
        monkeypatch.setattr(attention, "choose_kernel", lambda *_: ("query blocks" if how.blocked else "SDPA", ""))
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: how.one_pass)
        ids, named = torch.zeros(sequences, recipe.data.seq_len, dtype=torch.int64), dict(model.named_parameters())

        def call(ids: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(model, dict(zip(named, weights, strict=True)), (ids, ids))

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how.bfloat16):
            if how.compiled:
                table, cut = select_decomp_table(), min_cut_rematerialization_partition
                call = aot_function(call, lambda graph, _: graph, partition_fn=cut, decompositions=table)
            return call(ids, *named.values())

    return run


def saved_bytes(loss, recipe: Recipe, how: Execution, sequences: int = SEQUENCES) -> int:
    """Bytes of all storages that autograd saves of fake tensors in a forward pass, the parameters left out."""
    saved: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved.setdefault(storage._cdata, storage)  # kept alive: an address is never reused
        return tensor

    with FakeTensorMode():
        model = GPT(recipe.model)
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss(model, recipe, how, sequences)
    return sum(storage.nbytes() for key, storage in saved.items() if key not in own)


def counted_bytes(recipe: Recipe, how: Execution, sequences: int = SEQUENCES) -> float:
    tokens = sequences * recipe.data.seq_len
    a_token = memory.kept_bytes_per_token(recipe.model, recipe.data.seq_len, how)
    return a_token * tokens + memory.head_bytes(recipe.model, how, tokens)[0] + memory.weight_copy_bytes(recipe, how)


@pytest.mark.parametrize("how", [FLOAT32, BFLOAT16, BLOCKS], ids=str)
@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_the_count_of_an_eager_pass_is_what_autograd_saves(how, changes, loss):
    # what does not grow with the batch is left to the tolerance: rotary tables, copies of gains and scales
    recipe = shaped(**changes)
    assert counted_bytes(recipe, how) == pytest.approx(saved_bytes(loss, recipe, how), rel=0.01)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_count_of_a_head_in_one_pass_is_what_is_kept(bfloat16, loss):
    recipe, how = shaped(128, xsa_last_n=1), Execution(compiled=True, bfloat16=bfloat16, blocked=True, one_pass=True)
    assert counted_bytes(recipe, how) == pytest.approx(saved_bytes(loss, recipe, how), rel=0.01)


@pytest.mark.parametrize("name", RECORDS)
def test_the_count_of_a_record_at_full_size_is_what_autograd_saves(name, loss):
    recipe = load_recipe(name)
    assert counted_bytes(recipe, BFLOAT16, 48) == pytest.approx(saved_bytes(loss, recipe, BFLOAT16, 48), rel=0.001)


@pytest.mark.parametrize("how, changes", [
    (COMPILED, {"xsa_last_n": 1}),
    (COMPILED, {"bigram_rows": 0, "ve_dim": 20, "ve_layers": [1]}),
    (Execution(compiled=True, bfloat16=False, blocked=False), {}),
    (COMPILED, {"num_loops": 1, "loop_end": 1, "skip_gates": True, "negative_slope": 0.5, "parallel_start": 1}),
    (COMPILED, {"smear": "window", "attn_gate": "sparse", "xsa_last_n": 1, "lanes": 2, "parallel_start": 1}),
    pytest.param(COMPILED, None, marks=pytest.mark.slow),  # PR 315 at full size, ten seconds
])  # fmt: skip
def test_the_count_of_a_compiled_pass_is_what_the_partitioner_keeps(how, changes, loss):
    recipe = load_recipe("pr315") if changes is None else shaped(48, num_layers=2, **changes)
    assert counted_bytes(recipe, how) == pytest.approx(saved_bytes(loss, recipe, how), rel=0.005)


def test_fake_quantised_matrices_are_copies_that_a_float32_pass_keeps_too():
    recipe = shaped(48)
    always = small_recipe(model=MODEL, qat={"kind": "always"})
    assert memory.weight_copy_bytes(recipe, FLOAT32) == 0
    blocks = 4 * (2 * 64 * 64 + 2 * 32 * 64 + 2 * 160 * 64) + 24 * 64
    assert memory.weight_copy_bytes(always, FLOAT32) == 4 * blocks


@pytest.mark.parametrize("how", [FLOAT32, BLOCKS], ids=str)
def test_parts_that_a_step_allocates_add_up_to_the_peak_that_the_profiler_saw(how, tmp_path: Path, loss):
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
    transient = memory.head_bytes(recipe.model, how, SEQUENCES * recipe.data.seq_len)[1]
    assert counted_bytes(recipe, how) + transient == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize(
    "name, tolerance",
    [("pr315", 0.07), ("pr332", 0.07), ("pr534", 0.07), ("pr194", 0.20)],  # PR 194 ran torch 2.4 and expanded its heads
)
def test_the_memory_of_one_rank_of_eight_is_near_the_published_peak(name: str, tolerance: float):
    parts = memory.memory_parts(load_recipe(name), ranks=8)
    total_mib = sum(size for size, _ in parts.values()) / 2**20
    assert total_mib == pytest.approx(load_published(name).peak_memory_mib, rel=tolerance)


def test_ranks_split_the_tokens_and_nothing_else_and_have_a_default():
    recipe = load_recipe("pr315")
    eight = memory.memory_parts(recipe, 8)
    assert memory.memory_parts(recipe, 1) == eight, "48 sequences at a time either way"
    assert memory.micro_batch(recipe, 1) == (48, 8) and memory.micro_batch(recipe, 8) == (48, 1)
    halved = load_recipe("pr315", ["data.micro_batch_seqs=24"])
    assert memory.micro_batch(halved, 8) == (24, 2)
    for part, (size, _) in memory.memory_parts(halved, 8).items():
        assert size == eight[part][0] // (2 if part in ("activations", "logits") else 1), part
    # the default is the track's, and always possible
    assert memory.ranks_of(load_recipe("pr194"), None) == 8
    assert memory.ranks_of(load_recipe("local-pr194"), None) == 1
    assert memory.ranks_of(load_recipe("pr315", ["data.spans_per_step=12"]), None) == 4
