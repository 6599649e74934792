"""The tables of the published scripts decide no name and no key twice."""

import pytest

from pgolf_core.lab.recipes.published_scripts import KEYS, SCRIPTS, SWITCHES


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_name_or_key_of_a_script_is_decided_twice(script):
    found = SCRIPTS[script]
    assert not set(found.reads) & (set(found.idle) | set(found.only)) and not set(found.idle) & set(found.only)
    keys = [KEYS[name] for name in found.reads if name in KEYS]
    keys += [key for name, (key, *_) in SWITCHES.items() if name in found.reads]
    assert len(set(keys)) == len(keys)
    assert set(found.logged) <= set(found.reads)
