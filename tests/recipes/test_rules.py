"""What a recipe may ask for: choices, bounds, and combinations that cannot be built, trained or packed."""

from typing import Any

import pytest

from pgolf_core.base.files import UserError
from pgolf_core.base.grouping import MOST_ROWS
from pgolf_core.network.grid import GRIDS
from pgolf_core.recipes.recipe import GRID_NAMES, Recipe, from_dict, to_dict
from pgolf_core.recipes.rules import AT_LEAST, AT_MOST, CHOICES, IN_UNIT_INTERVAL, MOST_SORTED_ROWS, QAT_ONLY_GRIDS

TABLE = {"bigram_rows": 70_000, "bigram_dim": 5}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"track": "marathon"}, "track = 'marathon'; allowed: 10min_16mb, local"),
        ({"model": {"smear": "sideways"}}, "model.smear = 'sideways'; allowed: before, after, window, off"),
        ({"model": {"num_layers": 0}}, "must be at least 1"),
        ({"model": {"num_layers": 10**9}}, "a file holds 134,217,728 at most; make it smaller"),
        ({"model": {"model_dim": 2**50}}, "weights or more, and a file holds 134,217,728 at most"),
        ({"average": {"ema_decay": 1.5}}, "must lie in [0, 1]"),
        ({"model": {"num_heads": 7}}, "must divide model.model_dim"),
        ({"model": {"num_kv_heads": 3}}, "must divide model.num_heads"),
        ({"model": {"rope_dims": 15}}, "must be even"),
        ({"model": {"rope_dims": 66}}, "at most the head width 64"),
        ({"model": {"rope_dims": 2, "rope_reference_tokens": 9}}, "rope_dims of at least 4"),
        ({"model": {"xsa_last_n": 12}}, "exceeds model.num_layers"),
        ({"model": {"bigram_rows": 1}}, "leaves no row"),
        ({"model": {"parallel_start": 11}}, "model.parallel_start = 11 must lie below model.num_layers = 11"),
        (
            {"model": {"num_loops": 1, "loop_start": 4, "loop_end": 3}},
            "must be the first and last of some of the blocks",
        ),
        ({"model": {"num_loops": 1, "loop_end": 11}}, "of the blocks 0..10"),
        ({"model": {"num_loops": 65}}, "model.num_loops = 65; must be at most 64"),
        ({"model": {"negative_slope": 1.5}}, "must lie in [0, 1]"),
        ({"model": {"lanes": 3}}, "must be 1 or 2"),
        ({"model": {"lanes": 2}}, "model.lanes = 2 needs model.parallel_start of at least 5"),
        ({"model": {"lanes": 2, "parallel_start": 4}}, "in the second half of the blocks, not 4"),
        (
            {"model": {"lanes": 2, "parallel_start": 6, "num_loops": 1, "loop_start": 3, "loop_end": 6}},
            "model.loop_end = 6 must lie below model.parallel_start = 6",
        ),
        ({"model": {"smear": "window", "gate_window": 513}}, "reads model.gate_window = 513 of only 512 channels"),
        ({"model": {"attn_gate": "sparse", "gate_window": 513}}, "model.attn_gate = sparse reads model.gate_window"),
        ({"model": {"attn_gate": "dense"}}, "model.attn_gate = 'dense'; allowed: off, sparse"),
        ({"model": {"attn_gate_scale": 0.0}}, "model.attn_gate_scale = 0.0; must be at least 0.001"),
        ({"model": {"softcaps": "three"}}, "allowed: one, two, two_inert"),
        ({"data": {"order": "ranked", "final_seq_len": 4096}}, "another data.order than ranked"),
        ({"data": {"order": "packed", "final_seq_len": 4096}}, "another data.order than packed"),
        ({"data": {"order": "packed", "micro_batch_seqs": 47}}, "must hold whole rows of data.order = packed: a mult"),
        ({"optim": {"muon_coefficients": "cubic"}}, "allowed: quintic, polar_express"),
        ({"optim": {"muon_dtype": "float16"}}, "optim.muon_dtype = 'float16'; allowed: float32, bfloat16"),
        ({"optim": {"clip_each_rank": True}, "quant": {"kind": "steps"}}, "clip_each_rank = true scales the gradients"),
        ({"optim": {"clip_each_rank": True}, "quant": {"allocation": "gradient"}}, "quant.allocation = fixed"),
        ({"schedule": {"reserve_seconds": 600.0}}, "leaves nothing of schedule.max_seconds = 600.0"),
        ({"schedule": {"min_lr": 0.1}, "qat": {"kind": "late"}}, "must lie below qat.threshold = 0.1"),
        ({"schedule": {"min_lr": 0.6}, "average": {"kind": "swa"}}, "must lie below average.swa_start = 0.5"),
        ({"schedule": {"min_lr": 0.1}, "quant": {"kind": "steps"}}, "that packing by gradients needs = 0.1"),
        ({"schedule": {"min_lr": 0.1}, "quant": {"allocation": "gradient"}}, "or that is never reached"),
        ({"model": {"ve_dim": 8}}, "go together"),
        ({"model": {"ve_dim": 8, "ve_layers": [11]}}, "must lie in 0..10"),
        ({"model": {"ve_dim": 8, "ve_layers": [1, 1]}}, "names a layer twice"),
        ({"data": {"batch_tokens": 786_431}}, "must be a multiple of data.spans_per_step x data.seq_len"),
        ({"data": {"final_seq_len": 4095}}, "must be a multiple of data.spans_per_step x data.final_seq_len"),
        ({"eval": {"stride": 4096}}, "would skip targets"),
        ({"adapt": {"kind": "slot"}}, "adapt.kind = 'slot'; allowed: off, sgd, lora, frozen"),
        ({"adapt": {"kind": "lora", "chunk_tokens": 2047}}, "a chunk would hold no sequence to train on"),
        ({"adapt": {"kind": "frozen"}}, "adapt.kind = frozen changes nothing without a tilt"),
        ({"adapt": {"tilt": "ngram"}}, "take adapt.kind = frozen to learn nothing else"),
        ({"adapt": {"kind": "sgd", "tilt": "word"}}, "adapt.tilt = 'word'; allowed: off, ngram"),
        ({"adapt": {"tilt_order": 1}}, "adapt.tilt_order = 1; must be at least 2"),
        ({"adapt": {"tilt_threshold": 1.1}}, "adapt.tilt_threshold = 1.1; must lie in [0, 1]"),
        ({"adapt": {"lora_targets": ["q", "fc"]}}, "adapt.lora_targets has 'fc'; must be some of q, k, v, o"),
        ({"adapt": {"lora_targets": ["q", "q"]}}, "adapt.lora_targets has 'q'"),
        ({"adapt": {"lora_betas": [0.0, 1.0]}}, "adapt.lora_betas = [0.0, 1.0] must lie in [0, 1)"),
        ({"adapt": {"kind": "lora", "lora_window": 47}}, "adapt.lora_window = 47: a window of 47 tokens must hold"),
        ({"adapt": {"kind": "lora", "lora_tokens": 2049}}, "adapt.lora_tokens = 2049: a window of 2048 tokens must"),
        ({"adapt": {"kind": "lora", "phases": 4, "phase_documents": 3}}, "adapt.phases = 4 exceeds"),
        ({"adapt": {"kind": "sgd", "chunk_tokens": 2047}}, "a chunk would hold no sequence to train on"),
        ({"adapt": {"momentum": 1.5}}, "adapt.momentum = 1.5; must lie in [0, 1]"),
        ({"adapt": {"epochs": 0}}, "adapt.epochs = 0; must be at least 1"),
        ({"adapt": {"mix": "ppm"}}, "adapt.mix = 'ppm'; allowed: off, ngram"),
        ({"adapt": {"mix": "ngram", "kind": "lora"}}, "adapt.mix = ngram cannot go with adapt.kind = lora"),
        ({"adapt": {"mix": "ngram", "kind": "frozen", "tilt": "ngram"}}, "cannot go with adapt.kind = frozen"),
        ({"adapt": {"mix": "ngram", "kind": "sgd", "tilt": "ngram"}}, "take adapt.kind = off or sgd and adapt.tilt"),
        (
            {"adapt": {"mix": "ngram"}, "model": {"logit_softcap": 301.0}},
            "needs model.logit_softcap of at most 300, not",
        ),
        ({"adapt": {"mix_order": 1}}, "adapt.mix_order = 1; must be at least 2"),
        ({"adapt": {"mix_order": 33}}, "adapt.mix_order = 33; must be at most 32"),
        ({"adapt": {"mix_discount": 1.5}}, "adapt.mix_discount = 1.5; must lie in [0, 1]"),
        ({"optim": {"adam_betas": [0.9, 1.0]}}, "must lie in [0, 1)"),
        ({"qat": {"grid": "fp16"}}, "qat.grid = 'fp16'; allowed: packed"),
        ({"qat": {"lr_factor": 0.5}}, "needs qat.kind = late, not off"),
        ({"quant": {"mlp": "int9"}}, "quant.mlp = 'int9'; allowed:"),
        ({"quant": {"attention": "steps"}}, "quant.attention = 'steps'"),
        ({"quant": {"zstd_level": 23}}, "levels 1 to 22"),
        ({"quant": {"exceptions": ["blocks.0.*"]}}, "must be PATTERN=GRID"),
        ({"quant": {"exceptions": ["=fp16"]}}, "must be PATTERN=GRID"),
        ({"quant": {"exceptions": ["blocks.0.*=int9"]}}, "with a grid of fp16, int6_row"),
        ({"quant": {"kind": "step"}}, "quant.kind = 'step'; allowed: grid, steps"),
        ({"quant": {"target_bytes": 900_000}}, "needs quant.kind = steps"),
        ({"quant": {"kind": "steps", "target_bytes": 16_000_001}}, "over the track's cap"),
        ({"quant": {"kind": "steps", "target_bytes": -1}}, "at least 0"),
        ({"quant": {"kind": "steps", "allocation": "gradient"}}, "takes quant.allocation = fixed"),
        ({"quant": {"kind": "steps"}, "qat": {"kind": "late"}}, "no grid to train on"),
        ({"quant": {"correction": "gptq"}}, "quant.correction = 'gptq'; allowed: off, hessian"),
        ({"quant": {"correction_damping": 0.0}}, "quant.correction_damping = 0.0; must be at least 1e-06"),
        ({"quant": {"correction_tokens": 0}}, "quant.correction_tokens = 0; must be at least 1"),
        ({"quant": {"correction_tokens": 2**30}}, "must be at most"),
        ({"quant": {"correction_order": "size"}}, "quant.correction_order = 'size'; allowed: natural, activation"),
        ({"quant": {"compressor": "lzma"}}, "quant.compressor = 'lzma'; allowed: zstd, brotli"),
        ({"quant": {"compressor": "brotli", "kind": "steps"}}, "has a coder of its own; take zstd beside it"),
        *(
            ({"quant": {key: value, "kind": "steps"}}, f"quant.{key} = {value!r} is for grids")
            for key, value in (("low_rank", 4), ("gates", "int8_row"), ("grouping", "similarity"))
        ),
        ({"quant": {"low_rank": -1}}, "quant.low_rank = -1; must be at least 0"),
        ({"quant": {"low_rank": 513}}, "more than a matrix has: model.model_dim = 512"),
        ({"quant": {"low_rank": 9}, "model": {"mlp_hidden": 8}}, "more than a matrix has: model.mlp_hidden = 8"),
        ({"quant": {"low_rank": 300}}, "more than a matrix has: model.num_kv_heads x head width = 256"),
        ({"quant": {"low_rank": 6}, "model": TABLE}, "quant.low_rank = 6 is more than a matrix has: model.bigram_dim"),
        ({"quant": {"low_rank": 4}, "model": TABLE}, "must divide quant.low_rank x model.bigram_dim = 4 x 5"),
        ({"quant": {"grouping": "similarity_all"}, "model": TABLE}, "of at most 65536 rows, and model.bigram_rows"),
        ({"quant": {"grouping": "similarity"}, "model": {"vocab_size": 70_000}}, "; make that smaller, or take"),
        ({"model": {"logit_softcap": 1e9}}, "model.logit_softcap = 1000000000.0; must be at most 1000.0"),
        ({"quant": {"low_rank": 3, "low_rank_group": 1024}}, "must divide quant.low_rank x model.model_dim = 3 x 512"),
        ({"quant": {"low_rank_top": 0}}, "quant.low_rank_top = 0; must be at least 1"),
        ({"quant": {"grouping": "kinds"}}, "allowed: off, similarity, similarity_all"),
        ({"quant": {"gates": "int8"}}, "quant.gates = 'int8'; allowed: float16, int8_row"),
        ({"quant": {"mlp_clip_sigmas": 0.01}}, "must be 0 (quant.clip_sigmas) or at least 0.1"),
        ({"quant": {"clip_sigmas": 0.0}}, "quant.clip_sigmas = 0.0; must be at least 0.1"),
        ({"quant": {"correct_tok_emb": True, "tok_emb": "fp16"}}, "rounds to no grid; name one"),
        ({"quant": {"other": "int8_sigma"}, "model": {"bigram_rows": 99, "bigram_dim": 1}}, "needs model.bigram_dim"),
        ({"model": {"table_dropout": 1.0}}, "leaves the tables out everywhere; it must be below 1"),
        ({"model": {"table_dropout": 1.5}}, "model.table_dropout = 1.5; must lie in [0, 1]"),
        ({"model": {"mlp_hidden": 9000}, "quant": {"correction": "hessian"}}, "or take quant.correction = off"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_file_key_and_remedy(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(values, "mine.toml")
    message = str(caught.value)
    assert words in message and message.startswith("mine.toml: ") and "\n" not in message


def test_choices_and_bounds_name_keys_that_exist() -> None:
    values = to_dict(Recipe())
    for key in (*CHOICES, *AT_LEAST, *AT_MOST, *IN_UNIT_INTERVAL):
        section, _, name = key.rpartition(".")
        assert name in (values[section] if section else values), key


def test_the_most_rows_that_are_sorted_are_those_that_an_order_can_name() -> None:
    assert MOST_SORTED_ROWS == MOST_ROWS


def test_a_table_that_no_correction_reaches_is_no_reason_to_refuse_one() -> None:
    for quant in ({"other": "fp16"}, {"small_tensor_elements": 10**6}, {"grouping": "similarity"}):
        corrected = {"low_rank": 0 if "grouping" in quant else 4, **quant}
        assert from_dict({"quant": corrected, "model": TABLE}).model.bigram_rows == 70_000


def test_the_grids_that_a_recipe_may_name_are_those_that_there_are() -> None:
    packable = {name for name, grid in GRIDS.items() if grid.packable}
    assert packable | {"fp16"} == set(GRID_NAMES) and set(GRIDS) - packable == set(QAT_ONLY_GRIDS)
