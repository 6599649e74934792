"""The section `adapt`: its defaults change nothing, and are the records' own values."""

import dataclasses

from pgolf_core.recipes.adapt import Adapt
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe


def test_without_a_word_of_it_a_recipe_adapts_nothing_and_keeps_its_fingerprint():
    assert Recipe().adapt == Adapt() and (Adapt().kind, Adapt().tilt) == ("off", "off")
    assert Recipe(adapt=Adapt()).fingerprint == Recipe().fingerprint
    assert Recipe(adapt=Adapt(kind="sgd")).fingerprint != Recipe().fingerprint


def test_its_other_defaults_are_those_of_the_record_that_adapts_so():
    assert load_recipe("pr1493").adapt == dataclasses.replace(Adapt(), kind="sgd")
