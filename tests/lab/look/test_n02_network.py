"""What notebook 02 computes, against the core itself and against slow loops."""

import dataclasses
import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pgolf_core.lab.compare.records import RECORDS
from pgolf_core.lab.look import n02_network as analysis
from pgolf_core.network.attention import exclude_self, rotary_tables, rotate
from pgolf_core.network.choice import grid_names_for
from pgolf_core.network.grid import GRIDS
from pgolf_core.network.model import GPT, build_model, num_parameters, parameter_shapes
from pgolf_core.recipes import recipe
from pgolf_core.recipes.reading import load_recipe

TINY = recipe.Model(
    vocab_size=61, num_layers=5, model_dim=32, num_heads=4, num_kv_heads=2, mlp_hidden=48, rope_dims=4,
    rope_reference_tokens=8, bigram_rows=37, bigram_dim=8, ln_scale=True, xsa_last_n=2,
)  # fmt: skip
SHAPES = {
    "tiny": TINY,
    "even layers": dataclasses.replace(TINY, num_layers=4),
    "one layer": dataclasses.replace(TINY, num_layers=1, xsa_last_n=1),
    "plain": dataclasses.replace(TINY, smear="off", bigram_rows=0, ln_scale=False, xsa_last_n=0),
    "value embedding": dataclasses.replace(TINY, ve_dim=6, ve_layers=(3, 4), smear="before", bigram_rows=0),
    "large epsilon": dataclasses.replace(TINY, norm_eps=2.0**-7, embed_init_std=0.01),
    "smear before": dataclasses.replace(TINY, norm_eps=2.0**-7, embed_init_std=0.01, smear="before", ln_scale=False),
    "loop, gates, parallel": dataclasses.replace(
        TINY, num_loops=2, loop_start=1, loop_end=2, skip_gates=True, parallel_start=3, negative_slope=0.5
    ),
    "loop of one": dataclasses.replace(TINY, num_loops=3, loop_start=2, loop_end=2),
    "uniform start, no smear": dataclasses.replace(TINY, init="uniform", smear="off", norm_eps=1e-3),
}
SMALL = list(SHAPES)
SHAPES |= {name: load_recipe(name).model for name in ("local-smoke", *RECORDS, "pr1493", "pr1855", "pr2135")}
SHAPES["lanes"] = dataclasses.replace(TINY, lanes=2, parallel_start=3, smear="window", attn_gate="sparse")


def tokens_of(config: recipe.Model, batch: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SMALL)
def model(request: pytest.FixtureRequest) -> GPT:
    """Small networks whose blocks all do something."""
    return analysis.woken(build_model(SHAPES[request.param], seed=0))


@pytest.fixture
def tiny() -> GPT:
    return build_model(TINY, seed=0)


@pytest.mark.parametrize("name", SHAPES)
def test_budget_and_formula_both_give_the_exact_number_of_parameters_and_only_vectors_have_the_last_kind(name: str):
    config, shapes = SHAPES[name], parameter_shapes(SHAPES[name])
    budget = analysis.parameter_budget(config)
    assert budget["parameters"].sum() == analysis.parameter_formula(config) == num_parameters(config)
    assert budget["tensors"].sum() == len(shapes) and budget["share"].sum() == pytest.approx(1)
    for tensor, shape in shapes.items():
        is_matrix = len(shape) == 2 and not tensor.endswith(
            ("resid_mix", "skip_weights", "skip_gates", "attn_gate_w", "resid_lambdas", "smear_gate.weight")
        )
        assert (analysis.tensor_kind(tensor) != "gains, gates, scales") == is_matrix, tensor


def test_the_size_estimate_counts_every_code_once_and_two_bytes_per_row():
    config, quant = SHAPES["local-smoke"], load_recipe("local-smoke").quant
    sizes, elements, rows = analysis.size_estimate(config, quant), Counter(), 0
    shapes = parameter_shapes(config)
    for name, grid in grid_names_for(shapes, quant).items():
        elements[grid.split("_")[0]] += math.prod(shapes[name])
        rows += shapes[name][0] if grid != "fp16" else 0
    assert sizes["fp16"] == 2 * elements["fp16"] and sizes["scales"] == 2 * rows
    assert sizes["int6"] == 6 * elements["int6"] / 8  # codes -32..31
    assert sizes["int8"] == math.ceil(elements["int8"] * math.log2(255) / 8)  # codes -127..127
    assert len(analysis.codes_of(GRIDS["int8_clip_search_step4"])) == 65


def test_alternatives_shrink_from_fp16_to_int6_and_an_exception_counts_in_the_recipe_s_row_alone():
    config, quant = SHAPES["local-smoke"], load_recipe("local-smoke").quant
    plain = analysis.size_alternatives(config, quant)
    sizes = {name: sum(row.values()) for name, row in plain.items()}
    assert sizes["all fp16"] > sizes["matrices int8"] > sizes["this recipe"] > sizes["matrices int6"]
    assert sizes["all fp16"] == 2 * num_parameters(config)
    assert {tuple(row) for row in plain.values()} == {("int6", "int8", "fp16", "scales")}
    assert analysis.size_alternatives(SHAPES["pr315"], dataclasses.replace(quant, allocation="gradient"))
    changed = analysis.size_alternatives(config, dataclasses.replace(quant, exceptions=("blocks.0.*.weight=fp16",)))
    assert changed["this recipe"]["fp16"] > plain["this recipe"]["fp16"]
    assert all(changed[row] == plain[row] for row in plain if row != "this recipe")


def test_the_shape_says_which_layers_have_what_and_the_base_in_force():
    tiny, record = analysis.shape_of(TINY, 8), analysis.shape_of(SHAPES["pr315"], 2048)
    assert tiny["layers with XSA"] == "3, 4" and tiny["rotary base in force at T"] == "10,000"
    assert record["rotary base in force at T"] == "22,082" and tiny.keys() == record.keys()


def test_blocks_run_by_hand_along_the_wiring_table_give_the_trunk(model: GPT):
    ids = tokens_of(model.config)
    table = analysis.wiring(model.config)
    x = x0 = model.embed(ids)
    cos, sin = model.rotary(ids.size(1), ids.device)
    outputs, encoder = {}, (table["half"] == "encoder").sum()
    for place, (layer, row) in enumerate(table.iterrows()):
        block = model.blocks[layer]
        assert (row["ln_scale"], row["xsa"]) == (block.input_scale, block.attn.exclusive)
        if (source := row["skip_from"]) >= 0:
            skip, gate = model.skip_weights[place - encoder] * outputs[source], 0.5  # as at the start
            x = x + skip if not model.config.skip_gates else torch.lerp(skip, x, gate)
        added = None
        if layer in model.config.ve_layers:
            added = model.ve_scales[layer] * model.ve(ids, x.dtype)
        x = outputs[place] = block(x, x0, cos, sin, added)
    assert torch.equal(x, model.trunk(ids)[0])
    assert encoder == len(table) // 2 and set(table.index) == set(range(len(model.blocks)))


@pytest.mark.parametrize("name", [*SMALL, "local-smoke"])
def test_loss_and_sizes_at_the_start_are_met_on_tokens_unrelated_to_their_targets(name: str):
    config = SHAPES[name]
    model, ids = build_model(config, seed=3), tokens_of(config, batch=16, length=128)
    with torch.no_grad():
        loss = model(ids, ids.flip(0, 1)).item()
        x, x0 = model.trunk(ids)
    assert loss == pytest.approx(analysis.expected_initial_loss(config), abs=0.01)
    sizes = analysis.initial_sizes(config)
    for what, tensor in (("first stream", x0), ("last state", F.rms_norm(x, (x.size(-1),), eps=config.norm_eps))):
        measured = tensor[:, 1:].square().mean().sqrt().item()  # the first position has no predecessor to be mixed with
        assert measured == pytest.approx(sizes[what], rel=0.05), what


def test_a_large_epsilon_lowers_the_predicted_loss_s_excess_and_a_small_one_changes_nothing():
    config = SHAPES["pr194"]
    of_eps = [dataclasses.replace(config, norm_eps=eps) for eps in (0.0, 2.0**-23, 2.0**-7)]
    excess = [analysis.expected_initial_loss(one) - math.log(config.vocab_size) for one in of_eps]
    assert excess[0] == pytest.approx(excess[1], rel=1e-2) and 0 < excess[2] < 0.95 * excess[1]


def test_waking_fills_what_is_zero_changes_nothing_else_and_leaves_the_original(tiny: GPT):
    woken = analysis.woken(tiny)
    for (name, before), after in zip(tiny.named_parameters(), woken.parameters(), strict=True):
        was_zero = before.ndim == 2 and not before.any()
        assert was_zero == name.endswith(("attn.proj.weight", "mlp.proj.weight", "bigram.embed.weight"))
        assert torch.equal(before, after) != was_zero and (not was_zero or after.all())


def test_matched_heads_compare_a_token_with_itself_as_highly_as_scores_go(model: GPT):
    ids, same = tokens_of(model.config), analysis.matched(model)
    q, k = queries_and_keys(same, ids, 0)
    torch.testing.assert_close(q, model.config.qk_gain_init * k.repeat_interleave(q.size(2) // k.size(2), dim=2))


def test_only_logits_from_the_changed_token_on_change(model: GPT):
    ids = tokens_of(model.config)
    for position in (0, 5, 23):
        assert analysis.first_changed_position(model, ids, position) == position


def test_a_network_that_sees_the_future_is_found_out(tiny: GPT, monkeypatch: pytest.MonkeyPatch):
    def open_attention(q, k, v):
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)

    monkeypatch.setattr("pgolf_core.network.model.causal_attention", open_attention)
    ids = tokens_of(TINY)
    assert analysis.first_changed_position(analysis.woken(tiny), ids, 12) == 0
    assert analysis.first_changed_position(tiny, ids, 12) == 12, "before waking, nothing reaches the output"


def test_bigram_collisions_agree_with_the_model_s_own_rows(tiny: GPT):
    ids = tokens_of(TINY, batch=1, length=800)
    table, rows = defaultdict(Counter), tiny.bigram.index(ids)[0, 1:].tolist()
    for row, *pair in zip(rows, ids[0, :-1].tolist(), ids[0, 1:].tolist(), strict=True):
        table[row][tuple(pair)] += 1
    pairs, most = sum(map(len, table.values())), sum(max(row.values()) for row in table.values())
    found = analysis.bigram_collisions(ids[0].numpy().astype(np.uint16), TINY.bigram_rows)
    assert list(found.values()) == pytest.approx([pairs, len(table), pairs / len(table), most / len(rows)])


@torch.no_grad()
def queries_and_keys(model: GPT, ids: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """q [B, T, H, D] and k [B, T, K, D] that the layer makes while the network runs."""
    attn, seen = model.blocks[layer].attn, []
    with attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs)):
        model.trunk(ids)
    return attn.queries_and_keys(*seen[0][:3])


def test_maps_are_the_model_s_own_with_the_future_blank_and_times_the_values_make_the_layer_s_output(model: GPT):
    ids, seen = tokens_of(model.config), []
    for layer, block in enumerate(model.blocks):
        q, k = queries_and_keys(model, ids, layer)
        maps = torch.zeros(2, q.size(2), 24, 24)
        for head, t in itertools.product(range(q.size(2)), range(24)):
            keys = k[:, : t + 1, head * k.size(2) // q.size(2)]
            maps[:, head, t, : t + 1] = (keys @ q[:, t, head, :, None] / math.sqrt(q.size(3)))[..., 0].softmax(-1)
        found = analysis.attention_maps(model, ids, layer)
        assert torch.equal(found.isnan(), torch.ones(24, 24, dtype=torch.bool).triu(1).expand(found.shape))
        torch.testing.assert_close(found.nan_to_num(0.0), maps)
        y, v = analysis.attended(model, ids, layer)
        values = v.repeat_interleave(y.size(2) // v.size(2), dim=2)
        torch.testing.assert_close(y, torch.einsum("bhts,bshd->bthd", maps, values), rtol=1e-4, atol=1e-5)
        with torch.no_grad(), block.attn.register_forward_hook(lambda _, __, output: seen.append(output)):
            model.trunk(ids)
            made = block.attn.proj((exclude_self(y, v) if block.attn.exclusive else y).flatten(2))
        torch.testing.assert_close(seen[0], made)  # of a loop, the first pass
        seen.clear()


def test_gain_zero_attends_evenly_and_a_large_gain_to_one_position(model: GPT):
    ids = tokens_of(model.config)
    as_built = analysis.attention_maps(model, ids, 0, gain=model.config.qk_gain_init)
    torch.testing.assert_close(as_built, analysis.attention_maps(model, ids, 0), equal_nan=True)
    even = analysis.attention_maps(model, ids, 0, gain=0.0)
    torch.testing.assert_close(even[0, 0, 9, :10], torch.full((10,), 0.1))
    assert analysis.attention_statistics(analysis.attention_maps(model, ids, 0, gain=1e4))["effective positions"] < 1.2


def test_without_rotary_a_repeated_token_is_attended_to_like_itself():
    model = build_model(dataclasses.replace(TINY, smear="off", bigram_rows=0), seed=0)
    ids = torch.tensor([[7, 3, 7, 11, 7]])
    last, with_positions = (analysis.attention_maps(model, ids, 0, rotary=turn)[0, :, -1] for turn in (False, True))
    torch.testing.assert_close(last[:, [0, 2]], last[:, [4, 4]])
    assert (with_positions[:, 0] - with_positions[:, 4]).abs().max() > 1e-3


def test_attention_statistics_equal_a_loop_over_the_second_half(tiny: GPT):
    maps = analysis.attention_maps(tiny, tokens_of(TINY, length=9), 2)
    rows = []
    for head, query in itertools.product(maps.flatten(0, 1), range(4, 9)):
        weights = head[query, : query + 1].tolist()
        entropy = -sum(w * math.log(w) for w in weights)
        back = sum(w * (query - key) for key, w in enumerate(weights))
        rows.append((math.exp(entropy), weights[query], weights[query - 1], back))
    found = analysis.attention_statistics(maps)
    assert list(found) == ["effective positions", "weight on itself", "weight on the one before", "tokens looked back"]
    assert list(found.values()) == pytest.approx(np.mean(rows, axis=0).tolist(), rel=1e-5)


def test_exclusion_leaves_nothing_along_the_own_value_and_nothing_at_all_at_the_first_position(tiny: GPT):
    y, v = analysis.attended(tiny, tokens_of(TINY), 4)
    table = analysis.exclusion_table(y, v)
    assert (table["along own value, after"] < 1e-6).all()
    kept = 1 - table["along own value, before"] ** 2  # Pythagoras, position by position; a mean lies below
    assert (table["norm left"] ** 2 <= kept + 1e-6).all()
    first = table.loc["first position"]
    assert first["along own value, before"] == pytest.approx(1) and first["norm left"] < 1e-6
    share = F.cosine_similarity(y, v.repeat_interleave(2, dim=2), dim=-1).abs()[:, 1:8].mean().item()
    assert table.loc["1 to 7", "along own value, before"] == pytest.approx(share, rel=1e-4)


def test_the_residual_profile_reads_what_the_trunk_passes_on(model: GPT):
    ids = tokens_of(model.config)
    table = analysis.residual_profile(model, ids)
    assert table.index.is_unique, "a loop's blocks run more than once, and each time is a row of its own"
    for place in range(len(table)):
        entering = model.trunk(ids, stop=place)[0]
        assert table["enters"].iloc[place] == pytest.approx(entering.square().mean().sqrt().item())
    assert table["leaves"].iloc[-1] == pytest.approx(model.trunk(ids)[0].square().mean().sqrt().item())
    assert (table[["attention adds", "MLP adds"]] > 0).all(axis=None)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_before_training_nothing_is_added_and_skips_pile_up_the_input(tiny: GPT):
    table = analysis.residual_profile(tiny, tokens_of(TINY))
    assert (table[["attention adds", "MLP adds"]] == 0).all(axis=None)
    np.testing.assert_allclose(table["enters"] / table["enters"].iloc[0], [1, 1, 2, 3, 3], rtol=1e-5)


@pytest.mark.parametrize("num_tokens", [8, 20])
def test_after_one_wavelength_a_pair_has_turned_once(num_tokens: int):
    cos, _ = rotary_tables(num_tokens, TINY.rope_dims, TINY.rope_base, TINY.rope_reference_tokens, torch.device("cpu"))
    turns = np.arange(num_tokens)[:, None] / analysis.wavelengths(TINY, num_tokens)
    np.testing.assert_allclose(cos[:, 0].numpy(), np.cos(2 * np.pi * turns), atol=1e-5)


def test_the_distance_kernel_is_the_product_of_two_equal_vectors_rotated_by_the_core():
    config = dataclasses.replace(TINY, rope_dims=6)
    tables = rotary_tables(20, 6, config.rope_base, config.rope_reference_tokens, torch.device("cpu"))
    rotated = rotate(torch.ones(1, 20, 1, 8), *tables)[0, :, 0]
    found = analysis.distance_kernel(config, 20, np.arange(20))
    np.testing.assert_allclose(found, (rotated @ rotated.T / 8)[-1].flip(0).numpy(), atol=1e-5)
    assert found[0] == 1.0
