"""`pgolf plan`: JSON with gaps, and its options."""

import json

from pgolf_core.lab import cli


def test_json_keeps_plain_numbers_with_gaps_as_null_and_options_are_taken(capsys) -> None:
    assert cli.main(["plan", "pr315", "--nproc", "1", "--json"]) == 0
    by_name = {row["quantity"]: row for row in json.loads(capsys.readouterr().out)}
    assert by_name["steps in the budget"]["value"] is None and by_name["parameters"]["value"] == 26_829_913
    assert set(by_name["parameters"]) == {"group", "quantity", "value", "unit", "note"}
    assert cli.main(["plan", "pr315", "--step-ms", "85", "--set", "model.num_layers=9"]) == 0
    assert "7,059 steps" in capsys.readouterr().out
