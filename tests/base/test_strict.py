"""Building dataclasses from plain values: what is taken, and what is refused by its key."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from pgolf_core.base.files import UserError
from pgolf_core.base.strict import build


@dataclass(frozen=True)
class Part:
    size: int = 3
    rate: float = 0.5
    on: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Whole:
    name: str
    part: Part = field(default_factory=Part)
    note: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    more: Any = None


def test_values_of_json_become_the_types_that_the_fields_have() -> None:
    part = {"rate": 1, "pair": [1, 2.5], "layers": [4, 5]}
    found = build(Whole, {"name": "a", "part": part, "seconds": {"x": 2}, "steps": [1], "more": [{}]}, "f")
    assert found == Whole("a", Part(rate=1.0, pair=(1.0, 2.5), layers=(4, 5)), None, {"x": 2.0}, [1], [{}])
    assert type(found.part.rate) is type(found.seconds["x"]) is float
    assert build(Whole, {"name": "a", "note": None}, "f").note is None
    assert build(Whole, {"name": "a", "note": "b"}, "f").note == "b"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "must be a table"),
        ({}, "key 'name' is missing"),
        ({"nmae": "a"}, "unknown key 'nmae'; allowed: name, part"),
        ({"part": {"sise": 1}}, "unknown key 'part.sise'"),
        ({"part": 3}, "part must be a table, not 3"),
        ({"name": 3}, "name must be of type str, not 3"),
        ({"part": {"size": "12"}}, "part.size must be of type int"),
        ({"part": {"size": 12.0}}, "part.size must be of type int"),
        ({"part": {"size": True}}, "part.size must be of type int"),
        ({"part": {"size": 2**53}}, "part.size must be below 2^53"),
        ({"part": {"on": 1}}, "part.on must be of type bool"),
        ({"part": {"rate": True}}, "part.rate must be of type float"),
        ({"part": {"rate": float("nan")}}, "part.rate must be finite"),
        ({"part": {"rate": -float("inf")}}, "part.rate must be finite"),
        ({"part": {"layers": 3}}, "part.layers must be a list"),
        ({"part": {"layers": [1, "2"]}}, "part.layers must be of type int"),
        ({"part": {"pair": [0.9]}}, "part.pair must have 2 entries, not 1"),
        ({"seconds": [1.0]}, "seconds must be a table"),
        ({"seconds": {"x": "1"}}, "seconds.x must be of type float"),
        ({"note": 1}, "note must be of type str"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_file_and_key(values: Any, words: str) -> None:
    if isinstance(values, dict) and values and "nmae" not in values:
        values = {"name": "a", **values}
    with pytest.raises(UserError) as caught:
        build(Whole, values, "mine.toml")
    message = str(caught.value)
    assert words in message and message.startswith("mine.toml: ") and "\n" not in message
