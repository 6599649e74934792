"""A comparison as printed: every line fits 80 columns, every run and seed is there, and changes are named."""

import pytest
from run_folder import write_run

from pgolf_core.lab.compare.comparison import compare_arms
from pgolf_core.lab.compare.text import comparison_text


@pytest.mark.parametrize("names", ["ab", "abcdef", ["a", "local+0123abcd", "a-run-of-many-layers-and-long-words"]])
def test_every_line_fits_80_columns_and_every_number_is_whole(tmp_path, names):
    runs = []
    for i, name in enumerate(names):
        scores = {seed: 2.0 + i + seed / 10 * (i + 1) for seed in (1, 2, 1337)}
        runs.append(write_run(tmp_path / name, scores, data_sha256=f"{i}" * 64))
    text = comparison_text(compare_arms(runs))
    assert max(map(len, text.splitlines())) <= 80
    cells = text.split()
    for i in range(len(names)):
        assert f"{2.0 + i + 133.7 * (i + 1):.4f}" in cells and cells.count(f"{2.0 + i + 0.1 * (i + 1):.4f}") >= 1
    tables = [block for block in text.split("\n\n") if block.startswith("seed ")]
    assert len(tables) == {"ab": 1, "abcdef": 3}.get(str(names), 2), "many runs take several tables"


def test_against_a_record_of_another_text_every_line_fits_too(tmp_path):
    text = comparison_text(compare_arms([write_run(tmp_path / "mine", {1: 2.0, 2: 2.1}), "pr315"]))
    assert max(map(len, text.splitlines())) <= 80 and "NOT COMPARABLE, other text" in text
    assert "1.1250" in text and "difference" not in text.split("\n\n")[3], "no column without a difference"


def test_what_was_changed_stands_a_line_each_and_several_tests_are_not_corrected(tmp_path):
    runs = [write_run(tmp_path / name, {1: 2.0, 2: 2.2 + i}) for i, name in enumerate("ab")]
    runs.append(write_run(tmp_path / "c", {1: 2.0, 2: 2.3}, ["model.num_layers=5"]))
    text = comparison_text(compare_arms(runs))
    assert "    model.num_layers: 4 -> 5" in text.splitlines() and "changed: nothing that is on file" in text
    assert "not corrected for 2 of them" in text and "are told apart in 80%" in text
