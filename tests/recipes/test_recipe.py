"""Recipes: strict keys, types and values; extends; overrides; fingerprints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pgolf_core.base.files import UserError
from pgolf_core.network import grid
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import Recipe, from_dict, to_dict
from pgolf_core.recipes.rules import AT_LEAST, CHOICES, GRID_NAMES, IN_UNIT_INTERVAL, QAT_ONLY_GRIDS


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_on_disk_loads_and_survives_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert from_dict(to_dict(recipe)) == recipe
    assert recipe.title


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modle": {}}, "unknown key 'modle'"),
        ({"model": {"layers": 3}}, "unknown key 'model.layers'"),
        ({"model": 3}, "model must be a table"),
        ({"model": {"num_layers": "12"}}, "model.num_layers must be of type int"),
        ({"model": {"num_layers": 12.0}}, "model.num_layers must be of type int"),
        ({"model": {"num_layers": True}}, "model.num_layers must be of type int"),
        ({"model": {"ln_scale": 1}}, "model.ln_scale must be of type bool"),
        ({"model": {"ve_layers": 3}}, "model.ve_layers must be a list"),
        ({"optim": {"adam_betas": [0.9]}}, "must have 2 entries"),
        ({"optim": {"embed_lr": float("nan")}}, "must be finite"),
        ({"optim": {"embed_lr": True}}, "optim.embed_lr must be of type float"),
        ({"model": {"num_heads": 7}}, "must divide model.model_dim"),
        ({"model": {"num_kv_heads": 3}}, "must divide model.num_heads"),
        ({"model": {"rope_dims": 15}}, "must be even"),
        ({"model": {"rope_dims": 66}}, "at most the head width 64"),
        ({"model": {"num_layers": 0}}, "must be at least 1"),
        ({"model": {"xsa_last_n": 12}}, "exceeds model.num_layers"),
        ({"model": {"ve_dim": 8}}, "go together"),
        ({"model": {"ve_dim": 8, "ve_layers": [11]}}, "must lie in 0..10"),
        ({"model": {"bigram_rows": 1}}, "leaves no row"),
        ({"model": {"smear": "sideways"}}, "allowed: before, after, off"),
        ({"data": {"batch_tokens": 786_431}}, "must be a multiple of"),
        ({"eval": {"stride": 4096}}, "would skip targets"),
        ({"average": {"ema_decay": 1.5}}, "must lie in [0, 1]"),
        ({"quant": {"mlp": "int9"}}, "quant.mlp = 'int9'; allowed:"),
        ({"quant": {"zstd_level": 23}}, "levels 1 to 22"),
        ({"quant": {"exceptions": ["blocks.0.*"]}}, "must be PATTERN=GRID"),
        ({"quant": {"exceptions": ["=fp16"]}}, "must be PATTERN=GRID"),
        ({"quant": {"exceptions": ["blocks.0.*=int9"]}}, "with a grid of fp16, int6_row"),
        ({"qat": {"grid": "fp16"}}, "qat.grid = 'fp16'; allowed: packed"),
        ({"qat": {"lr_factor": 0.5}}, "needs qat.kind = late, not off"),
        ({"track": "marathon"}, "track = 'marathon'; allowed:"),
    ],
)
def test_bad_values_are_one_line_that_names_file_key_and_remedy(values: dict, words: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(values, "mine.toml")
    message = str(caught.value)
    assert words in message and message.startswith("mine.toml: ") and "\n" not in message


def test_extends_changes_only_what_the_child_names(tmp_path: Path) -> None:
    (tmp_path / "parent.toml").write_text('title = "p"\n[model]\nnum_layers = 4\nmodel_dim = 256\nnum_heads = 4\n')
    (tmp_path / "child.toml").write_text('extends = "parent"\ntitle = "c"\n[model]\nnum_layers = 6\n')
    parent, child = (load_recipe(name, folder=tmp_path) for name in ("parent", "child"))
    assert (child.model.num_layers, child.model.model_dim, child.title) == (6, 256, "c")
    assert dataclasses.replace(child.model, num_layers=4) == parent.model
    assert load_recipe(str(tmp_path / "child.toml")) == child


def test_a_recipe_in_a_folder_of_its_own_may_extend_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "pr315"\ntitle = "m"\n[model]\nnum_layers = 12\n')
    assert load_recipe(str(tmp_path / "mine.toml")).model == load_recipe("pr315", ["model.num_layers=12"]).model


def test_a_circle_of_extends_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b"\n')
    (tmp_path / "b.toml").write_text('extends = "a"\n')
    with pytest.raises(UserError, match="extends itself"):
        load_recipe("a", folder=tmp_path)


def test_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'pr999'; known: .*pr315"):
        load_recipe("pr999")


def test_overrides_set_one_key_and_bare_words_are_strings() -> None:
    recipe = load_recipe(
        "pr315", ["model.num_layers=12", "average.kind=swa", "model.ve_layers=[9, 10]", "model.ve_dim=8"]
    )
    assert recipe.model.num_layers == 12 and recipe.average.kind == "swa" and recipe.model.ve_layers == (9, 10)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.num_layers", "not of the form"),
        ("model.num_layer=3", "unknown key 'model.num_layer'"),
        ("model=3", "is a section"),
        ("model.num_layers.x=3", "unknown key"),
        ("name=other", "cannot be overridden"),
        ("model.num_layers=many", "must be of type int"),
    ],
)
def test_bad_overrides_are_refused(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_recipe("pr315", [override])


def test_fingerprint_is_of_the_values_not_the_name() -> None:
    recipe = load_recipe("pr315")
    assert dataclasses.replace(recipe, name="x", title="y").fingerprint == recipe.fingerprint
    assert load_recipe("pr315", ["model.num_layers=11"]).fingerprint == recipe.fingerprint
    assert load_recipe("pr315", ["model.num_layers=12"]).fingerprint != recipe.fingerprint


def test_choices_and_bounds_name_keys_that_exist() -> None:
    values = to_dict(Recipe())
    for key in (*CHOICES, *AT_LEAST, *IN_UNIT_INTERVAL):
        section, _, name = key.rpartition(".")
        assert name in (values[section] if section else values), key


def test_recipe_and_grid_rooms_agree_on_the_grids() -> None:
    assert set(GRID_NAMES) - {"fp16"} <= {name for name, g in grid.GRIDS.items() if g.packable}
    assert {name for name, g in grid.GRIDS.items() if g.packable} <= set(GRID_NAMES)
    assert {name for name, g in grid.GRIDS.items() if not g.packable} == set(QAT_ONLY_GRIDS)


def test_a_file_that_an_editor_began_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b'\xef\xbb\xbfextends = "pr315"\n[model]\nnum_layers = 12\n')
    assert load_recipe(str(tmp_path / "mine.toml")).model.num_layers == 12
