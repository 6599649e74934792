"""What a recipe may ask for: choices, bounds, and combinations that cannot be built, trained or packed."""

from __future__ import annotations

from typing import Any

import pytest

from pgolf_core.base.files import UserError
from pgolf_core.network.grid import GRIDS
from pgolf_core.packing.sensitivity import SENSITIVITY_BELOW
from pgolf_core.recipes.recipe import GRID_NAMES, Recipe, from_dict, to_dict
from pgolf_core.recipes.rules import AT_LEAST, CHOICES, GRADIENTS_BELOW, IN_UNIT_INTERVAL, QAT_ONLY_GRIDS


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"track": "marathon"}, "track = 'marathon'; allowed: 10min_16mb, local"),
        ({"model": {"smear": "sideways"}}, "model.smear = 'sideways'; allowed: before, after, off"),
        ({"model": {"num_layers": 0}}, "must be at least 1"),
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
        ({"data": {"order": "ranked", "final_seq_len": 4096}}, "another data.order than ranked"),
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
        ({"adapt": {"kind": "lora"}}, "adapt.kind = 'lora'; allowed: off, sgd"),
        ({"adapt": {"kind": "sgd", "chunk_tokens": 2047}}, "a chunk would hold no sequence to train on"),
        ({"adapt": {"momentum": 1.5}}, "adapt.momentum = 1.5; must lie in [0, 1]"),
        ({"adapt": {"epochs": 0}}, "adapt.epochs = 0; must be at least 1"),
        ({"adapt": {"mix": "ppm"}}, "adapt.mix = 'ppm'; allowed: off, ngram"),
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
        ({"quant": {"clip_sigmas": 0.0}}, "quant.clip_sigmas = 0.0; must be at least 0.1"),
        ({"quant": {"correct_tok_emb": True, "tok_emb": "fp16"}}, "rounds to no grid; name one"),
        ({"quant": {"other": "int8_sigma"}, "model": {"bigram_rows": 99, "bigram_dim": 1}}, "needs model.bigram_dim"),
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
    for key in (*CHOICES, *AT_LEAST, *IN_UNIT_INTERVAL):
        section, _, name = key.rpartition(".")
        assert name in (values[section] if section else values), key


def test_the_floor_that_gradients_for_packing_need_is_theirs() -> None:
    assert GRADIENTS_BELOW == SENSITIVITY_BELOW


def test_the_grids_that_a_recipe_may_name_are_those_that_there_are() -> None:
    packable = {name for name, grid in GRIDS.items() if grid.packable}
    assert packable | {"fp16"} == set(GRID_NAMES) and set(GRIDS) - packable == set(QAT_ONLY_GRIDS)
