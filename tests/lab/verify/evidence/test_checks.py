"""What a check is made of: verdicts of what it returns or raises, plain evidence, and properties that are read once."""

from typing import Any

import pytest

from pgolf_core.base.files import UserError
from pgolf_core.lab.verify.evidence import checks
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN, Broken, CannotCheck, OnlySampled, Row, once


def raising(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("error", "verdict", "evidence"),
    [
        (CannotCheck("it is gone"), UNKNOWN, "because it is gone"), (OnlySampled("n = 9"), checks.SAMPLED, "n = 9"),
        (Broken("3, not 4"), FAILS, "3, not 4"), (UserError("no"), FAILS, "no"),
        (KeyError("x"), FAILS, "KeyError: 'x'"), (MemoryError(), FAILS, "MemoryError:"),
    ],
)  # fmt: skip
def test_what_a_check_raises_is_its_verdict(error: Exception, verdict: str, evidence: str):
    assert checks.judge("c", raising, error) == Row("c", verdict, evidence)


def test_what_a_check_returns_holds_and_a_table_is_judged_in_order():
    rows = checks.judge_all({"b": lambda n: f"{n}", "a": lambda n: checks.hold(n > 9, "small")}, 5)
    assert rows == [Row("b", HOLDS, "5"), Row("a", FAILS, "small")]


def test_evidence_is_one_short_line_that_steers_no_terminal():
    assert checks.plain("a\n b\x1b[2J\u202e") == "a b\ufffd[2J\ufffd"
    assert len(checks.plain("x" * 10_000)) == checks.MAX_EVIDENCE


def test_what_is_needed_and_broken_elsewhere_cannot_be_checked():
    assert checks.needed("a file", lambda: 3) == 3 and checks.quietly(lambda: raising(Broken(""))) is None
    with pytest.raises(CannotCheck, match="it needs a file"):
        checks.needed("a file", lambda: raising(Broken("damaged")))
    with pytest.raises(CannotCheck, match="gone"):
        checks.needed("a file", lambda: checks.require(False, "gone"))


def test_a_property_is_read_once_and_keeps_its_exception():
    reads: list[str] = []

    class Files:
        @once
        def whole(self) -> int:
            reads.append("whole")
            return 4

        @once
        def broken(self) -> int:
            reads.append("broken")
            raise Broken("damaged")

    one = Files()
    assert (one.whole, one.whole) == (4, 4)
    for _ in range(2):
        with pytest.raises(Broken, match="damaged"):
            _ = one.broken
    assert reads == ["whole", "broken"] and Files().whole == 4
