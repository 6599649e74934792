"""`pgolf recipes`: the list, one recipe, and a recipe of a run command."""

import json
import subprocess
import sys
from pathlib import Path

from pgolf_core.lab import cli
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import to_dict

ROOT = Path(__file__).resolve().parents[3]


def test_recipes_are_listed_within_80_columns_without_importing_torch():
    code = "import sys; from pgolf_core.lab.cli import main; main(['recipes']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    header, rule, *lines, has_torch = done.stdout.splitlines()
    assert has_torch == "False" and header.split()[:2] == ["recipe", "fingerprint"]
    assert [line.split()[0] for line in lines if line[0] != " "] == available_recipes()
    assert max(map(len, [header, rule, *lines])) <= 80
    recipe = load_recipe("local-smoke")
    assert any(line.split()[:2] == ["local-smoke", recipe.fingerprint[:8]] for line in lines)
    assert recipe.title in " ".join(" ".join(lines).split())


def test_a_recipe_is_shown_resolved_as_text_and_as_json(capsys):
    recipe = load_recipe("local-smoke")
    assert cli.main(["recipes", "local-smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["model.num_layers", str(recipe.model.num_layers)] in [line.split() for line in lines]
    assert max(map(len, lines)) <= 80
    assert cli.main(["recipes", "local-smoke", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**to_dict(recipe), "fingerprint": recipe.fingerprint}


def test_the_list_of_recipes_as_json_has_the_same_entries(capsys):
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
    assert cli.main(["recipes", "--from-command", " ", "--script", "pr315"]) == 2
    assert "--from-command is empty" in capsys.readouterr().err
