"""Recipes as values: there and back, and the fingerprint."""

import dataclasses

import pytest

from pgolf_core.recipes import recipe as recipe_module
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import from_dict, recorded, to_dict


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_on_disk_loads_has_a_title_and_survives_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert from_dict(to_dict(recipe)) == recipe and recipe.title


def test_fingerprint_is_of_the_values_not_the_name_and_as_it_was_before_there_was_a_correction() -> None:
    def fingerprint(*overrides: str) -> str:
        return load_recipe("pr315", overrides).fingerprint

    plain, recipe = fingerprint(), load_recipe("pr315")
    assert plain == "a68d3ee2050fd323f453c1cc6d39199ab0030fec0105dc2ad81535e8850708cd"
    assert dataclasses.replace(recipe, name="x", title="y").fingerprint == plain == fingerprint("model.num_layers=11")
    assert fingerprint("quant.correction_damping=0.1") == plain
    on = [fingerprint("quant.correction=hessian", f"quant.correction_damping={d}") for d in (0.1, 0.2)]
    assert len({plain, fingerprint("model.num_layers=12"), *on}) == 4


def test_a_later_key_at_its_default_is_not_recorded_and_any_other_value_is(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("pr315")
    monkeypatch.setattr(recipe_module, "LATER_KEYS", frozenset({"ve_layers", "smear_beta2"}))
    monkeypatch.setattr(recipe_module, "LATER_BEGINNINGS", ())
    assert set(to_dict(recipe)["model"]) - set(recorded(recipe)["model"]) == {"ve_layers"}
    assert set(recorded(recipe.optim)) == set(to_dict(recipe)["optim"]) - {"smear_beta2"}
    other = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, smear_beta2=0.5))
    assert recorded(other.optim)["smear_beta2"] == 0.5 and other.fingerprint != recipe.fingerprint


def test_a_section_that_came_later_is_recorded_with_the_keys_that_it_then_had_or_not_at_all() -> None:
    off, on = load_recipe("pr315"), load_recipe("pr315", ["adapt.kind=sgd"])
    first = ["kind", "lr", "epochs", "momentum", "chunk_tokens", "batch_seqs", "grad_clip_norm"]
    assert "adapt" not in recorded(off) and list(recorded(on)["adapt"]) == first
    assert set(to_dict(on)["adapt"]) - set(first) >= {"lora_rank", "batch_documents", "phases", "tilt_order", "mix"}
    changes = ("lr=0.01", "phases=2", "batch_documents=2", "tilt=ngram", "lora_rank=4", "mix=ngram", "mix_order=5")
    others = [load_recipe("pr315", ["adapt.kind=sgd", f"adapt.{change}"]).fingerprint for change in changes]
    assert len({off.fingerprint, on.fingerprint, *others}) == 2 + len(changes)


def test_the_cap_is_the_tracks_in_decimal_bytes() -> None:
    assert load_recipe("pr315").cap_bytes == 16_000_000 and load_recipe("local").cap_bytes == 1_000_000
