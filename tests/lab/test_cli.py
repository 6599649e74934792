"""The command line: exit statuses, one-line errors, and what is printed.

pytest tests/lab/test_cli.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pgolf_core.lab import cli
from pgolf_core.lab.shared.usage import place, recipe_argument

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["record"], "required: recipe"),
        (["record", "nosuch"], "unknown recipe 'nosuch'; known: "),
        (["record", "local-smoke", "--seeds", "1,x"], "'1,x' is not a list of whole numbers, as 1337,1338,1339"),
        (["record", "local-smoke", "--set", "model.heads=3"], "unknown key 'model.heads'"),
        (["record", "local-smoke", "--set", "model.num_layers=many"], "model.num_layers must be of type int"),
        (["record", "local-smoke", "--nproc", "3"], "3 processes do not divide data.spans_per_step"),
        (["recipes", "nosuch"], "unknown recipe 'nosuch'"),
        (["data", "wikipedia"], "invalid choice: 'wikipedia'"),
        (["plan", "nosuch"], "unknown recipe 'nosuch'"),
        (["recipes", "--verbose"], "unrecognized arguments: --verbose"),
        (["recipes", "--from-command", "NUM_LAYERS=9"], "--from-command needs --script (pr194, pr315"),
        (["recipes", "pr315", "--from-command", "NUM_LAYERS=9", "--script", "pr315"], "and no recipe's name"),
        (["recipes", "--script", "pr315"], "--script and --out go with --from-command"),
        (["recipes", "--from-command", "NUM_LAYERS=9", "--script", "pr1"], "unknown script 'pr1'; known: pr194, "),
        (["recipes", "--from-command", "NUM_LAYERS=nine", "--script", "pr315"], "needs a whole number"),
        (["recipes", "--from-command", "layers 9", "--script", "pr315"], "'layers' is not NAME=value"),
        (["recipes", "--from-command", "", "--script", "pr315", "--out", "mine.txt"], "a recipe's file ends in .toml"),
        (["plan", "local-smoke", "--nproc", "0"], "'0' is not a whole number of at least 1"),
        (["submission", "runs/x"], "required: --name, --author, --github-id"),
    ],
)
def test_wrong_usage_is_one_line_with_status_2(capsys, arguments, message):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("pgolf: error: ") and message in said.err
    assert said.err.count("\n") == 1


def test_a_failed_command_is_one_line_with_status_1(capsys, tmp_path):
    for arguments, message in [
        (["record", "local-smoke", "--cache", str(tmp_path)], "is not prepared in"),
        (["eval", str(tmp_path / "model.pgolf")], "model.pgolf does not exist"),
        (["compare", str(tmp_path)], "holds no seed<k>/result.json"),
    ]:
        assert cli.main(arguments) == 1
        said = capsys.readouterr()
        assert message in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "status", "said"),
    [(">/dev/full", 1, "pgolf: error: cannot write the output: No space left on device\n"), (">&-", 0, "")],
)
def test_an_output_that_is_full_or_closed_is_at_most_a_line(output: str, status: int, said: str) -> None:
    command = f"{sys.executable} -m pgolf_core.lab.cli recipes {output}"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, said)


def test_plan_passes_the_number_of_processes_on(capsys, monkeypatch):
    given = []

    def plan_table(recipe, step_ms, ranks):
        given.append((recipe.name, step_ms, ranks))
        row = {"group": "parameters", "quantity": "parameters", "value": 7, "unit": "weights", "note": ""}
        return pd.DataFrame([row], dtype=object)

    monkeypatch.setattr("pgolf_core.lab.plan.table.plan_table", plan_table)
    assert cli.main(["plan", "local-smoke"]) == 0
    assert cli.main(["plan", "local-smoke", "--nproc", "8", "--step-ms", "85"]) == 0
    assert given == [("local-smoke", None, None), ("local-smoke", 85.0, 8)]
    assert "parameters" in capsys.readouterr().out


def test_a_recipe_file_and_folders_of_the_command_line_are_those_of_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert recipe_argument("mine.toml") == str(tmp_path / "mine.toml")
    assert place("out") == str(tmp_path / "out")
    monkeypatch.chdir(ROOT / "tests")
    assert place("../runs") == "runs", "inside the repository a run records no path of the machine"


def test_ctrl_c_ends_with_130_and_a_missing_part_is_named(capsys, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("pgolf_core.lab.compare.comparison.compare_arms", stop)
    assert cli.main(["compare", "a"]) == 130
    assert capsys.readouterr().err == "pgolf: stopped\n"

    def missing(*arguments):
        raise ModuleNotFoundError("No module named 'papermill'", name="papermill")

    monkeypatch.setattr("pgolf_core.lab.compare.comparison.compare_arms", missing)
    assert cli.main(["compare", "a"]) == 1
    assert "papermill is not installed; `make setup`" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error_message():
    command = f"{sys.executable} -m pgolf_core.lab.cli recipes local-smoke | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.count("\n") == 1
