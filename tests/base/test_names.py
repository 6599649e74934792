"""Names of a seed's files."""

import re

from pgolf_core.base import names


def test_every_file_of_a_seed_has_a_plain_name_of_its_own() -> None:
    found = [value for key, value in vars(names).items() if key.isupper()]
    assert len(found) == len(set(found)) > 9
    assert all(re.fullmatch(r"[a-z_-]+\.[a-z]+", name) for name in found)
