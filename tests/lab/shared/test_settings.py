"""Recipes as flat settings."""

from refused import refused

from pgolf_core.lab.shared.settings import differences, flatten, given_overrides
from pgolf_core.recipes.reading import load_recipe


def test_nested_tables_become_keys_as_set_takes_them():
    assert flatten({"a": 1, "b": {"c": {"d": [2]}, "e": 3}}) == {"a": 1, "b.c.d": [2], "b.e": 3}


def test_only_values_differ_never_name_and_title():
    recipe = load_recipe("pr315")
    assert differences(recipe, recipe) == []
    changed = differences(recipe, load_recipe("pr315", ["model.num_layers=9"]))
    assert changed == [["model.num_layers", recipe.model.num_layers, 9]]
    assert {"name", "title"}.isdisjoint(key for key, *_ in differences(recipe, load_recipe("pr531")))


def test_overrides_may_be_one_text_as_papermill_gives_it():
    for text in ("a.b=1 c=[2, 3]", "a.b=1,c=[2, 3]", '["a.b=1", "c=[2, 3]"]', "['a.b=1', 'c=[2, 3]']"):
        assert given_overrides(text) == given_overrides(["a.b=1", "c=[2, 3]"]) == ["a.b=1", "c=[2, 3]"]
    assert given_overrides("") == given_overrides([]) == given_overrides("[]") == []
    huge = f"[0x{'9' * 5000}]"  # a list of one number, which no message could repeat
    assert given_overrides(huge) == [huge]
    for wrong in (3, [3], {"a": 1}):
        with refused("must be a list of texts"):
            given_overrides(wrong)
