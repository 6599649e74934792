"""The records as recipes: optimiser groups as published, what as-run changes, how local-prN is scaled."""

import dataclasses
import fnmatch

import pytest
from record_counts import RECORDS

from pgolf_core.lab.shared.settings import differences
from pgolf_core.network.choice import grid_names_for, qat_grids
from pgolf_core.network.model import layer_order, num_parameters, parameter_shapes
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.training.optim import parameter_groups

BETAS = (0.9, 0.95)
# papers/machinery.md, "Muon": AdamW's rates of token embedding, table (bigram's, or value embedding's), its projection
# (None: Muon has it) and all else; AdamW's decay; Muon's rate, decay and its place
PUBLISHED = {
    "pr194": (0.03, None, None, 0.02, 0.0, 0.02, 0.038, "before"),
    "pr315": (0.035, 0.035, None, 0.025, 0.04, 0.025, 0.04, "before"),
    "pr332": (0.035, 0.025, 0.025, 0.025, 0.04, 0.025, 0.04, "after"),
    "pr531": (0.03, 0.03, None, 0.02, 0.01, 0.02, 0.04, "before"),
    "pr534": (0.035, 0.035, None, 0.025, 0.04, 0.025, 0.04, "after"),
    "pr1493": (0.03, None, None, 0.02, 0.02, 0.022, 0.095, "before"),
    "pr1855": (0.03, None, None, 0.02, 0.02, 0.026, 0.095, "before"),
    "pr2135": (0.03, None, None, 0.02, 0.02, 0.028, 0.095, "before"),
    "pr534-as-run": (0.035, "frozen", "frozen", 0.025, 0.0, 0.025, 0.04, "after"),
}
VARIANTS = {  # everything in which a variant differs from its record: papers/records has a row for each
    "pr194-as-run": {"model.norm_eps": 2.0**-7, "qat.grid": "int6_fake_pr194"},
    "pr315-as-run": {},
    "pr332-as-run": {},
    "pr531-as-run": {"average.kind": "swa", "average.swa_start": 0.4, "qat.kind": "off"},
    "pr534-as-run": {"optim.adam_wd": 0.0, "optim.ve_frozen": True, "qat.kind": "off", "qat.lr_factor": 1.0,
                     "eval.stride": 2048},
    "pr1493-as-run": {},
    "pr1855-as-run": {},
    "pr2135-as-run": {"model.smear_bos_mask": False, "model.softcaps": "two_inert"},
    "pr315-qat": {"qat.kind": "late"},
    "pr332-qat": {"qat.kind": "late", "qat.grid": "int6_row_clip"},
}  # fmt: skip


def changed(new: Recipe, old: Recipe) -> dict[str, object]:
    return {key: value for key, value, _ in differences(new, old)}


def published_groups(name: str) -> dict[str, tuple]:
    """{group: (optimiser, rate, betas, decay)}"""
    embed, table, projection, rest, adam_decay, rate, decay, _ = PUBLISHED[name]
    large = name in ("pr1493", "pr1855", "pr2135")  # their embedding has a decay of its own
    betas = (0.9, 0.99) if large and name != "pr1493" else BETAS

    def group(lr: float | str | None) -> tuple:
        if lr == "frozen":
            return "frozen", None, None, None
        return ("muon", rate, None, decay) if lr is None else ("adamw", lr, betas, adam_decay)

    groups = {"token embedding": group(embed), "block matrices": group(None)}
    if large:
        return groups | {"token embedding": ("adamw", embed, betas, 0.085), "scalars": group(rest)}
    groups |= dict.fromkeys(("smear gate", "scalars"), group(rest))
    if name == "pr194":
        return groups | {"smear gate": ("adamw", rest, (0.9, 0.99), 0.0)}
    parts = ("value embedding", "value projection") if "534" in name else ("bigram table", "bigram projection")
    return groups | dict(zip(parts, (group(table), group(projection)), strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_optimiser_groups_are_the_published_ones_and_every_member_is_the_tensor_that_its_name_says(name: str) -> None:
    record = load_recipe(name)
    names = list(parameter_shapes(record.model))
    groups, found, members = parameter_groups(names, record.optim), {}, {}
    for one in groups:
        trained, momentum = one.optimizer != "frozen", one.optimizer == "muon"
        settings = (one.lr, None if momentum else one.betas, one.weight_decay) if trained else (None,) * 3
        found[one.name], members[one.name] = (one.optimizer, *settings), set(one.parameters)
    assert found == published_groups(name) and record.optim.muon_wd_order == PUBLISHED[name][-1]
    assert sorted(parameter for one in groups for parameter in one.parameters) == sorted(names)
    matrices = ["attn.c_q", "attn.c_k", "attn.c_v", "attn.proj", "mlp.fc", "mlp.proj"]
    vectors = ["attn_scale", "mlp_scale", "resid_mix", "attn.q_gain"]
    layers = range(record.model.num_layers)
    assert members["block matrices"] == {f"blocks.{layer}.{m}.weight" for layer in layers for m in matrices}
    extra = {"pr194": set(), "pr534": {"ve_scales"}, "pr149": {"skip_gates"}}.get(name[:5], {"bigram.scale"})
    if name in ("pr1855", "pr2135"):
        lanes = {"parallel_post_lambdas", "parallel_resid_lambdas", "smear_gate.weight", "smear_lambda"}
        extra, vectors = {"skip_gates", *lanes}, [*vectors, "attn.attn_gate_w"]
        extra |= {"softcap_pos", "softcap_neg"} if name == "pr2135" else set()
    assert members["scalars"] == {f"blocks.{n}.{v}" for n in layers for v in vectors} | {"skip_weights"} | extra
    assert members["token embedding"] == {"tok_emb.weight"} and members.get("smear gate", set()) == {
        tensor for tensor in names if tensor == "smear.gate"
    }


@pytest.mark.parametrize(
    ("name", "batch_tokens", "average", "qat", "cadence"),
    [
        ("pr194", 524_288, ("swa", 0.5, 50), ("always",), (200, 50)),
        ("pr315", 786_432, ("ema", 0.997), ("off",), (0, 200)),
        ("pr332", 524_288, ("ema", 0.997), ("off",), (1000, 200)),
        ("pr531", 786_432, ("ema", 0.997), ("late", 0.15, 1.0), (500, 100)),
        ("pr534", 786_432, ("swa", 0.2, 50), ("late", 0.1, 0.5), (1000, 200)),
        ("pr1493", 786_432, ("ema", 0.9965), ("off",), (4000, 500)),
        ("pr1855", 786_432, ("ema", 0.9965), ("off",), (0, 500)),
        ("pr2135", 786_432, ("ema", 0.9965), ("off",), (4000, 500)),
    ],
)
def test_batches_averages_and_qat_start_as_published(name, batch_tokens, average, qat, cadence) -> None:
    record = load_recipe(name)
    ema = record.average.kind == "ema"
    rule = (record.average.ema_decay,) if ema else (record.average.swa_start, record.average.swa_every_steps)
    late = (record.qat.threshold, record.qat.lr_factor) if record.qat.kind == "late" else ()
    assert (record.average.kind, *rule) == average and (record.qat.kind, *late) == qat
    assert record.data.batch_tokens == batch_tokens == 8 * record.data.micro_batch_seqs * 2048
    assert (record.schedule.val_every_steps, record.schedule.log_every_steps) == cadence
    common = {"seq_len": 2048, "spans_per_step": 8, "max_seconds": 600.0, "warmdown_iters": 3000, "warmup_steps": 20,
              "muon_momentum_start": 0.92,
              "muon_momentum": 0.97 if name in ("pr1855", "pr2135") else 0.99, "muon_momentum_warmup_steps": 1500,
              "grad_clip_norm": 0.3, "newton_schulz_steps": 5, "adam_eps": 1e-8}  # fmt: skip
    assert common.items() <= {**vars(record.data), **vars(record.schedule), **vars(record.optim)}.items()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_from_the_documented_record_in_exactly_the_tables_rows(name: str) -> None:
    assert changed(load_recipe(name), load_recipe(name.partition("-")[0])) == VARIANTS[name]
    assert load_recipe(name).qat.threshold == 0.1 or "-qat" not in name


def test_grids_of_every_record_are_the_published_ones() -> None:
    def grids(name: str, *patterns: str) -> set[str]:
        record = load_recipe(name)
        packed = grid_names_for(parameter_shapes(record.model), record.quant)
        return {grid for tensor, grid in packed.items() if any(fnmatch.fnmatch(tensor, p) for p in patterns)}

    blocks = ("blocks.*.attn.*.weight", "blocks.*.mlp.*.weight")
    assert grids("pr194", *blocks) == {"int6_row_clip"} and grids("pr194", "tok_emb*") == {"fp16"}
    assert grids("pr315", *blocks) == {"int6_row"} and grids("pr315", "*embed.weight", "tok*") == {"int8_row_clip"}
    assert grids("pr332", *blocks, "bigram.embed*") == {"int6_row_clip"}  # 5, 6 or 7 bits once gradients are known
    assert grids("pr332", "tok_emb*") == {"int8_row_clip"} and load_recipe("pr332").quant.allocation == "gradient"
    assert grids("pr531", "blocks.[0-7].attn.c_?.*", "blocks.8.attn.c_[qv].*") == {"int6_clip_search"}
    assert grids("pr531", "blocks.8.attn.c_k.*", "tok_emb*") == {"fp16"}
    assert grids("pr531", "*mlp.*.weight") == {"int5_row_nofloor"}
    assert grids("pr531", "bigram.embed*") == {"int8_row_clip"}
    assert grids("pr534", "blocks.[1-9].*.weight") == {"int8_clip_search_step4"}
    assert grids("pr534", "blocks.0.*.weight", "blocks.10.*.weight", "ve.embed*") == {"int8_clip_search"}
    assert grids("pr534", "tok_emb*", "ve.proj*") == {"fp16"}
    for name in RECORDS:  # a matrix of exactly a quarter of the width squared is small
        assert grids(name, "bigram.proj*", "*scale*", "*gain", "skip*", "smear*", "*resid*") == {"fp16"}


@pytest.mark.parametrize(
    ("name", "grids", "matrices"),
    [
        ("pr194", {"int6_row_clip"}, 66),
        ("pr194-as-run", {"int6_fake_pr194"}, 66),
        ("pr315-qat", {"int6_row"}, 66),
        ("pr332-qat", {"int6_row_clip"}, 72),
        ("pr531", {"int6_row"}, 65),
        ("pr534", {"int8_clip_search", "int8_clip_search_step4"}, 66),
    ],
)
def test_qat_trains_every_block_matrix_that_is_rounded_on_its_grid(name: str, grids: set, matrices: int) -> None:
    record = load_recipe(name)
    found = qat_grids(parameter_shapes(record.model), record.quant, record.qat)
    blocks = [grid.name for tensor, grid in found.items() if tensor.startswith("blocks.")]
    assert len(blocks) == matrices and set(blocks) == grids


@pytest.mark.parametrize("name", [*RECORDS, "pr1855", "pr2135"])
def test_the_local_recipe_is_the_record_at_another_size_and_nothing_else(name: str) -> None:
    sizes = {
        "data": "dataset bytes seq_len batch_tokens spans_per_step micro_batch_seqs",
        "model": "vocab_size num_layers model_dim num_heads num_kv_heads mlp_hidden rope_dims rope_reference_tokens "
                 "bigram_rows bigram_dim xsa_last_n ve_dim ve_layers loop_start loop_end parallel_start",
        "optim": "muon_momentum_warmup_steps", "average": "ema_decay swa_every_steps",
        "schedule": "iterations max_seconds reserve_seconds warmup_steps warmdown_iters val_every_steps val_tokens "
                    "log_every_steps compile",
        "quant": "small_tensor_elements exceptions correction_tokens compressor", "eval": "seq_len batch_seqs",
        "adapt": "chunk_tokens lora_rank lora_alpha lora_tokens batch_documents phase_documents",
    }  # fmt: skip
    allowed = {"track", *(f"{section}.{key}" for section, keys in sizes.items() for key in keys.split())}
    assert set(changed(load_recipe(f"local-{name}"), load_recipe(name))) <= allowed


@pytest.mark.parametrize("name", [*RECORDS, "pr1855", "pr2135"])
def test_the_local_shape_has_the_records_ratios_and_what_is_counted_in_steps_is_scaled_by_one_factor(name) -> None:
    big, small = load_recipe(name), load_recipe(f"local-{name}")
    width = big.model.model_dim / small.model.model_dim
    for key in ("mlp_hidden", "ve_dim", *(("bigram_rows", "bigram_dim") if big.model.bigram_rows else ())):
        assert getattr(big.model, key) == width * getattr(small.model, key), key
    assert small.model.model_dim // small.model.num_heads == 32
    assert big.model.num_heads * small.model.num_kv_heads == small.model.num_heads * big.model.num_kv_heads
    assert big.model.rope_dims / 64 == small.model.rope_dims / 32  # all of the head, or a quarter
    assert big.model.num_layers % 2 == small.model.num_layers % 2  # whether a decoder block goes without a skip
    assert bool(big.model.xsa_last_n) == bool(small.model.xsa_last_n)
    assert abs(small.model.xsa_last_n / small.model.num_layers - big.model.xsa_last_n / big.model.num_layers) < 0.07
    depths = [sum(map(len, layer_order(one.model))) / one.model.num_layers for one in (big, small)]
    assert abs(depths[0] - depths[1]) < 0.15 and big.model.num_loops == small.model.num_loops
    if big.model.num_loops:  # the decoder begins with the block that it began with before the loop was on
        assert all(layer_order(one.model)[1][0] == one.model.num_layers // 2 for one in (big, small))
        assert abs(small.model.parallel_start / small.model.num_layers - big.model.parallel_start / 11) < 0.08
        assert big.schedule.reserve_seconds / 600 == pytest.approx(small.schedule.reserve_seconds / 200, rel=1e-3)
        assert big.quant.correction_tokens / big.data.batch_tokens == small.quant.correction_tokens / 3072
    reference = big.model.rope_reference_tokens / big.data.seq_len
    assert reference == small.model.rope_reference_tokens / small.data.seq_len
    assert big.quant.small_tensor_elements == width**2 * small.quant.small_tensor_elements
    tokens = {n: load_recipe(n).data.batch_tokens for n in (name, f"local-{name}", "pr315", "local-pr315")}
    assert tokens[name] * tokens["local-pr315"] == tokens["pr315"] * tokens[f"local-{name}"]
    assert num_parameters(small.model) < num_parameters(big.model) / 20
    same = (small.track, small.data.dataset, small.data.seq_len, small.schedule.max_seconds)
    assert same == ("local_10min_1mb", "sotu-sp1024", 512, 200.0)
    assert (4 * small.eval.seq_len, small.eval.stride) == (big.eval.seq_len, 64)
    assert dataclasses.replace(small.eval, seq_len=512) == load_recipe("local-pr315").eval
    factor = small.schedule.warmdown_iters / big.schedule.warmdown_iters
    if big.schedule.warmdown_fraction:  # then the warm-down is not counted in steps
        factor = small.optim.muon_momentum_warmup_steps / big.optim.muon_momentum_warmup_steps
    warmup = big.optim.muon_momentum_warmup_steps * factor
    assert 0.05 < factor < 0.5 and abs(small.optim.muon_momentum_warmup_steps - warmup) <= 1
    if big.average.kind == "ema":
        assert abs((1 - small.average.ema_decay) * factor - (1 - big.average.ema_decay)) < 1e-4
    else:
        assert abs(small.average.swa_every_steps - big.average.swa_every_steps * factor) <= 0.5
        assert small.average.swa_start == big.average.swa_start
