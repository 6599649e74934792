"""Which grid each tensor goes on: by name, by size, by the part of the network, by gradient, and in training."""

import pytest
from refused import refused

from pgolf_core.network.choice import grid_names_for, qat_grids
from pgolf_core.recipes.recipe import QAT, Quant

SHAPES = {"tok_emb.weight": (32, 16), "bigram.embed.weight": (65, 1), "blocks.0.attn.c_q.weight": (16, 16),
          "blocks.0.mlp.fc.weight": (24, 16)}  # fmt: skip


def test_grids_follow_size_first_then_the_part_of_the_network():
    parts = {"attention": "int6_row", "mlp": "int5_row_clip", "tok_emb": "fp16", "other": "int8_row_clip"}
    small = {"bigram.proj.weight": (8, 8), "ve_scales": (900,), "blocks.0.mlp.proj.weight": (2, 32)}
    found = grid_names_for(SHAPES | small, Quant(**parts, small_tensor_elements=64))
    assert list(found.values()) == ["fp16", "int8_row_clip", "int6_row", "int5_row_clip", "fp16", "fp16", "fp16"]


def test_gradient_allocation_rules_attention_mlp_and_bigram_and_nothing_else():
    quant = Quant(allocation="gradient", small_tensor_elements=64)
    others = {"ve.embed.weight": (32, 8), "skip_weights": (9, 16)}
    bits = {"tok_emb.weight": 7, "bigram.embed.weight": 5, "blocks.0.attn.c_q.weight": 7}
    found = grid_names_for(SHAPES | others, quant, bits).values()
    assert [name.removesuffix("_row_clip") for name in found] == ["int8", "int5", "int7", "int6", "int8", "int8"]
    with refused(r"c_q\.weight cannot be packed on grid int9_row_clip"):
        grid_names_for(SHAPES, quant, {"blocks.0.attn.c_q.weight": 9})


@pytest.mark.parametrize("allocation", ["fixed", "gradient"])
def test_an_exception_by_name_comes_before_size_part_and_gradient(allocation: str):
    shapes = {"tok_emb.weight": (32, 16), "blocks.0.attn.c_k.weight": (8, 16), "blocks.1.attn.c_k.weight": (8, 16)}
    exceptions = ("blocks.1.*=int8_row_clip", "blocks.*.c_k.weight=fp16", "tok_emb.weight=int6_row")
    quant = Quant(exceptions=exceptions, small_tensor_elements=64, allocation=allocation)
    assert list(grid_names_for(shapes, quant).values()) == ["int6_row", "fp16", "int8_row_clip"]
    for entry, words in (("blocks.7.*=fp16", r"no tensor is called 'blocks\.7"),
                         ("blocks.0.attn_scale=int6_row", "is no matrix and has no grid; use fp16")):  # fmt: skip
        with refused(words):
            grid_names_for({**SHAPES, "blocks.0.attn_scale": (16,)}, Quant(exceptions=(entry,)))


def test_qat_beside_steps_trains_on_the_grid_it_names_and_not_at_all_when_off():
    shapes = {"blocks.0.attn.c_q.weight": (512, 512), "tok_emb.weight": (1024, 512)}
    named = qat_grids(shapes, Quant(kind="steps"), QAT(kind="late", grid="int6_row"))
    assert {grid.name for grid in named.values()} == {"int6_row"}
    assert qat_grids(shapes, Quant(kind="steps"), QAT()) == {}


def test_grids_by_standard_deviations_train_on_the_clip_that_they_are_packed_with():
    shapes = {"blocks.0.attn.c_q.weight": (512, 512), "tok_emb.weight": (1024, 512)}
    quant = Quant(attention="int6_sigma", tok_emb="int8_sigma", clip_sigmas=11.0, embed_clip_sigmas=19.0)
    assert [grid.clip_sigmas for grid in qat_grids(shapes, quant, QAT(kind="late")).values()] == [11.0, 19.0]
