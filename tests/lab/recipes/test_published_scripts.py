"""The tables of the published scripts decide no name twice."""

import pytest

from pgolf_core.lab.recipes.published_scripts import KEYS, SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_name_of_a_script_is_decided_twice(script):
    found = SCRIPTS[script]
    assert not set(found.reads) & (set(found.idle) | set(found.only)) and not set(found.idle) & set(found.only)
    assert not {KEYS.get(name) for name in found.reads} & set(found.fixed)
    assert set(found.logged) <= set(found.reads)
