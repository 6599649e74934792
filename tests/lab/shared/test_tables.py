"""Tables for people: how wide they are, what is in them, and that no output makes them fail."""

import io

import pytest

from pgolf_core.lab.shared.tables import encodable, entries_text, so_many, table_text, width

ROWS = [("a long name of a check that takes room", 1.25, None), ("b", 10, "a sentence that is too long " * 4)]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_line_is_wider_than_asked_and_no_word_is_lost(columns: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = table_text(["name", "n", "note"], ROWS)
    assert max(map(len, text.splitlines())) <= columns
    letters = "".join(text.split())
    assert letters.count("toolong") + letters.count("too") >= 4 and "–" in text and "1.25" in text


def test_numbers_are_set_right_and_text_left():
    lines = table_text(["name", "n"], [("a", 5), ("bc", 1234)]).splitlines()
    assert lines[0].split() == ["name", "n"] and lines[2].startswith("a ") and lines[3].startswith("bc")
    assert lines[2].rindex("5") == lines[3].rindex("4")
    assert not any(line.endswith(" ") for line in lines)


def test_a_number_and_what_it_counts():
    assert [so_many(n, "seed") for n in (0, 1, 2, 1069)] == ["0 seeds", "1 seed", "2 seeds", "1,069 seeds"]


def test_details_stand_below_their_headline():
    text = entries_text([("fails", "the size", "claimed 3, is 4"), ("holds", "the name", "")])
    assert text.splitlines() == ["fails the size", "      claimed 3, is 4", "holds the name"]


def test_what_is_piped_is_80_columns_wide_without_colour(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS")
    assert width() == 80
    monkeypatch.setenv("COLUMNS", "97")
    assert width() == 97
    assert "\x1b" not in table_text(["a"], [["b"]])


def test_a_notebook_gets_text_like_any_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)  # it would display the table, and return nothing
    assert table_text(["a"], [["b"]]).splitlines() == ["a", "-", "b"]


def test_markup_in_a_cell_is_shown_as_it_is():
    assert "[red]x[/red]" in table_text(["a"], [["[red]x[/red]"]])


@pytest.mark.parametrize(
    "encoding, expected", [("ascii", "1 +/- 2 - 3 ... ?"), ("latin-1", "1 ± 2 - 3 ... ?"), ("utf-8", "1 ± 2 – 3 … 字")]
)
def test_a_character_that_the_output_lacks_is_written_in_plain_ones(encoding: str, expected: str):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    encodable(stream)
    stream.write("1 ± 2 – 3 … 字")
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == expected
