"""To export a script or to trace a network takes seconds, and here dozens are planned: both are taken as given."""

import pytest

from pgolf_core.lab.plan import bytes as plan_bytes
from pgolf_core.lab.plan import memory, table

EXPORTED_BYTES = 100_000


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> int:
    """What every plan has as the bytes of its code."""
    for module in (table, plan_bytes):
        monkeypatch.setattr(module, "code_bytes_of", lambda recipe: EXPORTED_BYTES)
    return EXPORTED_BYTES


@pytest.fixture(autouse=True)
def untraced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kilobyte a token is kept of every network, but for the tests of that number."""
    if request.path.name != "test_memory.py":
        monkeypatch.setattr(memory, "kept_bytes", lambda recipe, how, sequences: 1000 * sequences * recipe.data.seq_len)
