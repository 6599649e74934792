"""`pgolf plan`: JSON with gaps, its options, and what fits a narrow terminal."""

import json
import sys

from pgolf_core.lab import cli


def test_json_keeps_plain_numbers_with_gaps_as_null_and_options_are_taken(capsys) -> None:
    assert cli.main(["plan", "pr315", "--nproc", "1", "--json"]) == 0
    by_name = {row["quantity"]: row for row in json.loads(capsys.readouterr().out)}
    assert by_name["steps in the budget"]["value"] is None and by_name["parameters"]["value"] == 26_829_913
    assert set(by_name["parameters"]) == {"group", "quantity", "value", "unit", "note"}
    assert cli.main(["plan", "pr315", "--step-ms", "85", "--set", "model.num_layers=9"]) == 0
    assert "7,059 steps" in capsys.readouterr().out


def test_at_a_narrow_terminal_table_and_note_are_no_wider(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert cli.main(["plan", "local", "--set", "model.bigram_rows=0"]) == 0
    assert capsys.readouterr().err.count("\n") == 1, "a line for what reads it"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["plan", "local", "--set", "model.bigram_rows=0"]) == 0
    said = capsys.readouterr()
    assert max(map(len, (said.out + said.err).splitlines())) <= 40 and said.err.startswith("note: no effect in this")
    assert cli.main(["plan", "pr315"]) == 0
    assert capsys.readouterr().err == "tracing a step: some ten seconds\n", "which one that is compiled takes"
