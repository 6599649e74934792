"""`pgolf submission`: it prints where the folder is, and what cannot be made is one line."""

from pathlib import Path

import pytest

from pgolf_core.lab import cli


def test_it_prints_the_folder_that_it_made(run: Path, capsys: pytest.CaptureFixture):
    who = ["--name", "A toy", "--author", "Ada", "--github-id", "ada"]
    assert cli.main(["submission", str(run), *who, "--out", str(run.parent / "made")]) == 0
    assert capsys.readouterr().out == f"{run.parent / 'made'}\n" and (run.parent / "made" / "README.md").is_file()
    assert cli.main(["submission", str(run / "nosuch"), *who]) == 1
    assert capsys.readouterr().err.count("\n") == 1
