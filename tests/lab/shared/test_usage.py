"""What the commands share: numbers, recipes and folders as people type them."""

import argparse
from pathlib import Path

import pytest

from pgolf_core.lab.cli import COMMANDS, parse
from pgolf_core.lab.shared.places import find_root
from pgolf_core.lab.shared.usage import (
    UsageError,
    checked_recipe,
    count,
    place,
    recipe_argument,
    span_seconds,
    whole_numbers,
)


@pytest.mark.parametrize("name", [*COMMANDS, "data sotu", "data fineweb", "data text", "data list", ""])
def test_help_fits_a_terminal_of_60_columns_and_loses_no_word(name: str, capsys, monkeypatch) -> None:
    pages = []
    for columns in ("60", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        with pytest.raises(SystemExit):
            parse([*name.split(), "--help"])
        pages.append(capsys.readouterr().out)
    assert max(map(len, pages[0].splitlines())) <= 60
    assert "".join(pages[0].split()) == "".join(pages[1].split())


@pytest.mark.parametrize(
    ("read", "right", "value", "wrong", "words"),
    [
        (count, "12", 12, ["0", "-1", "1.5", "two", "", "１", "9" * 5000], "is not a whole number of at least 1"),
        (span_seconds, "0.5", 0.5, ["0", "0.0", "-1", "nan", "inf", "1e999", "soon", ""],
         "is not a number of seconds above 0"),
        (whole_numbers, "7, 999999999999999", [7, 10**15 - 1], ["1," + "9" * 16],
         r"'1,9{16}' has a number of more than 15 digits"),
    ],
    ids=["a count of at least one", "a time that passes", "numbers that a result can hold"],
)  # fmt: skip
def test_a_number_is_what_it_says_and_refused_at_once_where_it_is_none(read, right, value, wrong, words) -> None:
    assert read(right) == value
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            read(text)


@pytest.mark.parametrize("name, overrides, told", [
    ("nosuch", [], "unknown recipe 'nosuch'; known: "),
    ("local-smok", [], "unknown recipe 'local-smok'; did you mean local-smoke? `pgolf recipes` lists all"),
    ("local-smoke", ["model.num_layer=4"],
     "--set: unknown key 'model.num_layer'; did you mean model.num_layers? `pgolf recipes local-smoke` shows all"),
    ("local-smoke", ["optim.max_seconds=4"],
     "--set: unknown key 'optim.max_seconds'; did you mean schedule.max_seconds?"),
    ("local-smoke", ["model.zzz=4"], "--set: unknown key 'model.zzz'; allowed: vocab_size, "),
    ("local-smoke", ["model.num_layers=0"], "--set: model.num_layers = 0; must be at least 1"),
])  # fmt: skip
def test_a_fault_is_told_where_it_stands_and_a_misspelt_name_with_the_nearest(name, overrides, told) -> None:
    with pytest.raises(UsageError) as refused:
        checked_recipe(name, overrides)
    assert str(refused.value).startswith(told)


def test_a_file_that_is_wrong_itself_is_named_whatever_is_set(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "local-smoke"\n[model]\nnum_layer = 4\n')
    with pytest.raises(UsageError, match=r"^mine\.toml: unknown key 'model\.num_layer'; did you mean"):
        checked_recipe(str(tmp_path / "mine.toml"), ["eval.stride=8"])


def test_a_key_that_is_set_twice_is_said_to_take_the_last_value(capsys: pytest.CaptureFixture) -> None:
    twice = ["model.num_layers=3", "eval.stride=8", "model.num_layers =4"]
    assert checked_recipe("local-smoke", twice).model.num_layers == 4
    assert capsys.readouterr().err == "note: --set model.num_layers is given 2 times; the last counts\n"


def test_names_stay_and_files_are_those_of_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_argument("pr315") == "pr315" and recipe_argument("mine.toml") == str(tmp_path / "mine.toml")
    assert place("") == "" and place("out") == str(tmp_path / "out")
    monkeypatch.chdir(find_root() / "tests")
    assert place("../runs") == "runs", "inside the repository a run records no path of the machine"
