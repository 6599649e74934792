"""The command line: exit statuses, one-line errors, and what is printed."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from pgolf_core.lab import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments, message", [
    ([], "required: COMMAND"),
    (["train"], "invalid choice: 'train'"),
    (["record"], "required: recipe"),
    (["record", "nosuch"], "unknown recipe 'nosuch'; known: "),
    (["record", "local-smoke", "--seeds", "1,x"], "'1,x' is not a list of whole numbers, as 1337,1338,1339"),
    (["record", "local-smoke", "--set", "model.heads=3"], "unknown key 'model.heads'"),
    (["record", "local-smoke", "--nproc", "3"], "3 processes do not divide data.spans_per_step"),
    (["recipes", "--verbose"], "unrecognized arguments: --verbose"),
    (["recipes", "--from-command", "NUM_LAYERS=9"], "--from-command needs --script (pr194, pr315"),
    (["recipes", "pr315", "--from-command", "NUM_LAYERS=9", "--script", "pr315"], "and no recipe's name"),
    (["recipes", "--script", "pr315"], "--script and --out go with --from-command"),
    (["recipes", "--from-command", "NUM_LAYERS=nine", "--script", "pr315"], "needs a whole number"),
    (["recipes", "--from-command", "NUM_LAYERS=9", "--script", "pr315", "--out", "a"], "a recipe's file ends in .toml"),
    (["plan", "local-smoke", "--nproc", "0"], "'0' is not a whole number of at least 1"),
    (["plan", "pr315", "--nproc", "3"], "3 processes do not divide data.spans_per_step = 8; use --nproc of 1, 2, 4, 8"),
    (["plan", "pr315", "--step-ms", "-1"], "--step-ms -1.0 must be a positive number of milliseconds"),
    (["verify", "x", "--budget-seconds", "-3"], "'-3' is not a number of seconds above 0"),
    (["verify", "x", "--budget-seconds", "nan"], "'nan' is not a number of seconds above 0"),
    (["submission", "runs/x"], "required: --name, --author, --github-id"),
    (["record", "local-smoke", "--data", ""], "--data is empty; give it a value, or leave it out"),
    (["data", "list", "--cache="], "--cache is empty"),
    (["compare", "pr315", "--against", " "], "--against is empty"),
    (["verify", ""], "an argument is empty"),
    (["record", "local-smoke", "--slurm", "", "--seeds", ""], "--seeds is empty"),
])  # fmt: skip
def test_wrong_usage_is_one_line_with_status_2(capsys, arguments, message):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("pgolf: error: ") and message in said.err
    assert said.err.count("\n") == 1


def test_a_failed_command_is_one_line_with_status_1(capsys, tmp_path):
    for arguments, message in [
        (["record", "pr315", "--cache", str(tmp_path)], "is not prepared in"),
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


def test_streams_that_were_closed_are_there_for_what_a_command_starts() -> None:
    """A kernel that had none died, with a traceback."""
    child = "import sys; sys.exit(None in (sys.stdin, sys.stdout, sys.stderr))"
    runner = "import subprocess, sys; from pgolf_core.lab import cli; cli.main(['recipes'])"
    runner += f"; sys.exit(subprocess.call([sys.executable, '-c', '{child}']))"
    command = f'{sys.executable} -c "{runner}" <&- >&- 2>&-'
    assert subprocess.run(command, shell=True, cwd=ROOT).returncode == 0


def test_ctrl_c_ends_with_130_and_a_missing_part_is_named(capsys, monkeypatch):
    missing = ModuleNotFoundError("No module named 'papermill'", name="papermill")
    why = "pgolf: error: papermill is not installed; `make setup` installs all that pgolf needs\n"
    for error, status, said in ((KeyboardInterrupt(), 130, "pgolf: stopped\n"), (missing, 1, why)):
        monkeypatch.setattr("pgolf_core.lab.compare.comparison.compare_arms", Mock(side_effect=error))
        assert cli.main(["compare", "a"]) == status
        assert capsys.readouterr().err == said


def test_a_reader_that_goes_away_is_no_error_message():
    command = f"{sys.executable} -m pgolf_core.lab.cli recipes local-smoke | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.count("\n") == 1
