"""`pgolf gallery`: it prints where the index is and how large the whole, and what cannot be made is one line."""

from pathlib import Path

import pytest

from pgolf_core.lab import cli
from pgolf_core.lab.gallery import pages
from pgolf_core.lab.shared.places import find_root


def test_it_hands_its_options_on_and_prints_what_was_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
):
    given = []

    def stand_in(*arguments: object) -> tuple[Path, int]:
        given.append(arguments)
        return tmp_path / "README.md", 1_234_567

    monkeypatch.setattr(pages, "make_gallery", stand_in)
    monkeypatch.chdir(find_root() / "tests")  # whose paths are those of the working folder
    assert cli.main(["gallery", "../runs/x", "--seed", "7", "--out", "y"]) == 0 and cli.main(["gallery", "x"]) == 0
    assert given == [(Path("../runs/x"), 7, Path("y")), (Path("x"), None, None)]
    assert capsys.readouterr().out.count(f"{tmp_path / 'README.md'}: the gallery, 1,234,567 bytes\n") == 2


def test_a_run_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture, tmp_path: Path):
    out = ["--out", str(tmp_path / "made")]
    assert cli.main(["gallery", str(tmp_path / "nosuch"), *out]) == 1 and not (tmp_path / "made").exists()
    assert capsys.readouterr().err.count("\n") == 1
