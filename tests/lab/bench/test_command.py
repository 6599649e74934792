"""The command: what a benchmark and a profile write and print, and what they refuse."""

import json
from pathlib import Path

import pytest
import torch

from pgolf_core.base.files import UserError
from pgolf_core.lab import cli
from pgolf_core.lab.bench import clock, command
from pgolf_core.recipes.reading import load_recipe

TINY = Path(__file__).resolve().parents[2] / "helpers" / "tiny.toml"


@pytest.fixture(autouse=True)
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measure in this process: what a child costs is its import of torch."""
    monkeypatch.setattr(clock, "in_child", lambda function, *arguments: function(*arguments))


@pytest.fixture
def tiny_pair(tmp_path: Path) -> str:
    """Two tiny recipes, one on each track."""
    record = tmp_path / "record.toml"
    record.write_text(f'title = "t"\ntrack = "10min_16mb"\nextends = "{TINY}"\n')
    return f"{TINY},{record}"


def test_a_quick_benchmark_writes_every_measure_with_its_units_and_judges_the_goals(
    tiny_pair: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "--quick", "--recipes", tiny_pair, "--threads", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found) == {"format", "begun", "seconds", "quick", "busy", "env", "measures", "goals"}
    assert {"commit", "versions", "threads", "cpu", "device", "load_average_before"} <= set(found["env"])
    assert found["quick"] is True and found["env"]["threads"] == 1
    by = {(values["measure"], values["recipe"]): values for values in found["measures"]}
    both = [(name, recipe) for recipe in ("tiny", "record") for name in command.MEASURES]
    both = [key for key in both if key[0] != "rounding"]  # for recipes that correct it
    assert set(by) == set(both) - ({("sliding", "record")} if not torch.cuda.is_available() else set())
    for values in by.values():
        assert values["measure_seconds"] > 0 and values["fingerprint"] and 0 <= values["others_processor_share"] <= 1
        for memory in values["peak_memory"].values():
            assert memory["peak_bytes"] > 2**20 and memory["method"]
        for seconds in values["seconds"].values():
            assert all(part["min"] > 0 and part["turns"] == 2 for part in seconds.values())
    assert by["sliding", "tiny"]["windows"] == 8, "the fewest: quick"
    step = by["step", "tiny"]
    assert [size["step_tokens"] for size in step["steps"]] == [1024, 98_304, 786_432]
    for size in step["steps"]:
        assert set(size["tokens_per_second"]) == {"plain", "fast"}
        assert 0 < size["muon_share"]["fast"]["median"] < 1
    small, large = (size["muon_share"]["fast"]["median"] for size in step["steps"][1:])
    assert large < small, "an update is shared by more tokens"
    assert [(goal["goal"].split()[0], goal["recipe"]) for goal in found["goals"]] == [
        ("whole", "tiny"), ("sliding", "tiny"), ("Newton-Schulz", "tiny"), ("Newton-Schulz", "record"),
        ("Muon's", "record"), ("packing", "record"),
    ]  # fmt: skip
    said = capsys.readouterr()
    for text in ("step of tiny", "tokens/s", "Muon's share", "peak memory, MiB", "goal (medians)", "are no result"):
        assert text in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    assert ("1/8" if torch.cuda.is_available() else "1/7") in said.err
    assert f"wrote {out}" in said.err


def test_a_profile_names_the_operators_that_a_step_spends_its_time_in(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "profile.json"
    arguments = ["bench", "--profile", "--quick", "--recipes", str(TINY), "--out", str(out)]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    (profile,) = found["profiles"]
    assert profile["recipe"] == "tiny" and profile["step_seconds"]["micro_batch"] > 0
    assert any("mm" in row["name"] for row in profile["operators"])
    shares = [row["share"] for row in profile["operators"]]
    assert shares == sorted(shares, reverse=True) and 0.5 < sum(shares) <= 1.0


def test_what_was_measured_stays_where_a_later_measure_fails(tmp_path: Path, capsys, monkeypatch) -> None:
    def in_child(function, task, *further):
        if task.measure == "packing":
            raise UserError("the process ended")
        return function(task, *further)

    monkeypatch.setattr(clock, "in_child", in_child)
    words = ["--measures", "newton-schulz,packing", "--out", str(tmp_path / "bench.json")]
    assert cli.main(["bench", "--quick", "--recipes", str(TINY), *words]) == 1
    (values,) = json.loads((tmp_path / "bench.json").read_text())["measures"]
    assert values["measure"] == "newton_schulz" and "the process ended" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "nosuch"], "unknown recipe 'nosuch'"),
        (["--recipes", "pr315", "--set", "model.heads=3"], "unknown key 'model.heads'"),
        (["--measures", "speed"], "unknown measure 'speed'; known: step, newton_schulz, sliding, rounding, packing"),
        (["--recipes", " ,"], "' ,' names none"),
        (["--profile", "--measures", "step"], "leave --measures out"),
        (["--arm", "fast"], "--arm is of --profile"),
        (["--micro-batch-seqs", "2", "--measures", "packing"], "--micro-batch-seqs is of the measure step"),
        (["--threads", "0"], "'0' is not a whole number of at least 1"),
        (["--out", "numbers.txt"], "the numbers' file ends in .json"),
        (["--recipes", "pr315", "--measures", "rounding"], "nothing to measure"),
    ],
)
def test_wrong_usage_is_told_in_a_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_defaults_are_recipes_and_a_busy_machine_is_told() -> None:
    for name in command.RECIPES:
        load_recipe(name)
    assert command.busy_warning(0.1) == "" and "2.0" in command.busy_warning(2.0)
