"""Exporting a script takes seconds, and here dozens of recipes are planned: its size is taken as given."""

import pytest

from pgolf_core.lab.plan import bytes as plan_bytes
from pgolf_core.lab.plan import table

EXPORTED_BYTES = 100_000


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> int:
    """What every plan has as the bytes of its code."""
    for module in (table, plan_bytes):
        monkeypatch.setattr(module, "code_bytes_of", lambda recipe: EXPORTED_BYTES)
    return EXPORTED_BYTES
