"""The count of type errors that `make lint` holds; mypy itself is run there, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from type_errors import ceiling, verdict

CORE = "pgolf_core/base/stop.py:40: error: Incompatible types\n"
LAB = "pgolf_core/lab/cli.py:3: error: Name is not defined\npgolf_core/lab/cli.py:3: note: See the docs\n"


@pytest.mark.parametrize(
    "output, passes, words",
    [
        ("", True, "write 0 into pyproject.toml"),
        (2 * LAB, True, "2 in the lab (at most 2)"),
        (3 * LAB, False, "the number in pyproject.toml only falls"),
        (CORE + LAB, False, "1 in the core, 1 in the lab (at most 2); the core has none: mend pgolf_core/base/stop.py"),
    ],
)
def test_the_core_has_no_error_and_the_labs_only_fall(output: str, passes: bool, words: str) -> None:
    found, said = verdict(output, 2)
    assert found is passes and words in said and "\n" not in said


def test_the_ceiling_is_one_number_of_pyproject() -> None:
    pyproject = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert pyproject.count("lab_type_errors") == 1 and ceiling(pyproject) >= 0
