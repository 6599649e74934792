"""`pgolf compare`: what it prints and writes, and how it fails."""

import json

import pandas as pd
import pytest
from run_folder import write_run

from pgolf_core.lab import cli
from pgolf_core.lab.compare.comparison import COLUMNS, arms_table, compare_arms
from pgolf_core.lab.compare.results import SCORE_LABELS


def test_it_prints_blocks_and_writes_two_csv_files(tmp_path, capsys):
    runs = [write_run(tmp_path / "a", {1: 2.0, 2: 3.0})]
    runs.append(write_run(tmp_path / "b,c", {1: 1.5, 2: 2.6}, ["eval.stride=64"]))
    assert cli.main(["compare", *map(str, runs), "--csv", str(tmp_path / "out" / "t.csv")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("sliding score, bits per byte (lower is better); the baseline is a\n")
    lines = [line.split() for line in said.out.splitlines()]
    assert ["1", "2.0000", "1.5000", "-0.5000"] in lines and ["2", "3.0000", "2.6000", "-0.4000"] in lines
    assert "    eval.stride: 128 -> 64" in said.out and said.err.count("wrote") == 2
    table, expected = pd.read_csv(tmp_path / "out" / "t.csv"), arms_table(compare_arms(runs))
    assert list(table.columns) == list(COLUMNS) and table["run"].tolist() == ["a", "b,c"]
    assert table["difference"][1] == pytest.approx(-0.45) and table["differs"][1] == "eval.stride: 128 -> 64"
    pd.testing.assert_series_equal(table["p_value"], expected["p_value"])
    seeds = pd.read_csv(tmp_path / "out" / "t-seeds.csv")
    assert seeds["run"].tolist() == ["a", "a", "b,c", "b,c"] and seeds["total_bytes"][0] == 900_001


def test_json_holds_no_value_that_is_not_json(tmp_path, capsys):
    runs = [write_run(tmp_path / "a", {1: 2.0}), write_run(tmp_path / "b", {1: 1.5, 2: 2.6}, ["model.num_layers=5"])]
    assert cli.main(["compare", *map(str, runs), "--json"]) == 0

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    values = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert values["score"] == "sliding_bpb" and values["baseline"] == "a"
    assert [row["run"] for row in values["runs"]] == ["a", "b"] and values["runs"][0]["std"] is None
    assert values["runs"][1]["mean"] == pytest.approx(2.05) and values["runs"][1]["rule_passes"] is None
    assert len(values["seeds"]) == 3 and ["model.num_layers", 4, 5] in values["differs"]["b"]


def test_wrong_use_is_status_2_and_a_missing_run_status_1(tmp_path, capsys):
    assert cli.main(["compare", "pr315", "--csv", str(tmp_path / "t.txt")]) == 2
    assert "a table's file ends in .csv" in capsys.readouterr().err
    assert cli.main(["compare", "pr315", "--score", "best"]) == 2
    said = capsys.readouterr().err
    assert all(f"'{name}'" in said for name in SCORE_LABELS)
    assert cli.main(["compare", str(tmp_path / "gone")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
