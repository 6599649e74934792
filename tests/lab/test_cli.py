"""The command line: exit statuses, one-line errors, and what is printed.

pytest tests/lab/test_cli.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pgolf_core.lab import cli
from pgolf_core.lab.shared.usage import place, recipe_argument
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import to_dict

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


def test_recipes_are_listed_with_fingerprint_and_title_without_importing_torch():
    code = "import sys; from pgolf_core.lab.cli import main; main(['recipes']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *lines, has_torch = done.stdout.splitlines()
    assert has_torch == "False" and [line.split()[0] for line in lines] == available_recipes()
    recipe = load_recipe("local-smoke")
    assert any(line.split()[1] == recipe.fingerprint[:8] and line.endswith(recipe.title) for line in lines)


def test_a_recipe_is_shown_resolved_as_text_and_as_json(capsys):
    recipe = load_recipe("local-smoke")
    assert cli.main(["recipes", "local-smoke"]) == 0
    assert f"model.num_layers = {recipe.model.num_layers}" in capsys.readouterr().out.splitlines()
    assert cli.main(["recipes", "local-smoke", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**to_dict(recipe), "fingerprint": recipe.fingerprint}
    assert cli.main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == available_recipes() and all(len(row["fingerprint"]) == 64 for row in rows)


def test_a_run_command_is_printed_as_a_recipe_file_and_what_there_is_to_say_goes_to_stderr(capsys, tmp_path):
    command = "MLP_HIDDEN=1408 VOCAB_SIZE=1024 WARP=9 torchrun --nproc_per_node=8 train_gpt.py"
    assert cli.main(["recipes", "--from-command", command, "--script", "pr534"]) == 0
    said = capsys.readouterr()
    path = tmp_path / "mine.toml"
    path.write_text(said.out)
    assert load_recipe(str(path)).fingerprint == load_recipe("pr534-as-run").fingerprint
    lines = said.err.splitlines()
    assert lines[0].startswith("WARP=9: unknown: ") and "equal to pr534-as-run" in lines
    assert any(line.startswith("differs from pr534 in ") for line in lines)


def test_a_run_command_as_json_holds_recipe_fingerprint_reports_and_differences(capsys):
    assert cli.main(["recipes", "--from-command", "NUM_LAYERS=11 WARP=9", "--script", "pr531", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values) == {"recipe", "fingerprint", "reports", "differs_from"}
    assert values["fingerprint"] == load_recipe("pr531-as-run").fingerprint
    assert values["recipe"]["average"]["kind"] == "swa"
    (report,) = values["reports"]
    assert set(report) == {"name", "value", "kind", "reason"} and (report["name"], report["value"]) == ("WARP", "9")
    assert values["differs_from"]["pr531-as-run"] == []
    assert ["average.kind", "swa", "ema"] in values["differs_from"]["pr531"]


def test_a_recipe_of_a_command_is_written_once_and_never_over_another_file(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    arguments = ["recipes", "--from-command", "NUM_LAYERS=10", "--script", "pr315", "--out", str(path)]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"{path}\n"
    written = path.read_bytes()
    assert load_recipe(str(path)).model.num_layers == 10
    assert cli.main([word.replace("=10", "=12") for word in arguments]) == 2
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert path.read_bytes() == written


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
