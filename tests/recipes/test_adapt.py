"""The section `adapt`: its defaults are the records' own values."""

import dataclasses

from pgolf_core.recipes.adapt import Adapt
from pgolf_core.recipes.reading import load_recipe


def test_its_other_defaults_are_those_of_the_record_that_adapts_so():
    assert load_recipe("pr1493").adapt == dataclasses.replace(Adapt(), kind="sgd")
