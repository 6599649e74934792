"""The command: each part within its time, a failure in a line, the JSON file and the tables."""

import importlib.metadata
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pgolf_core.lab.bench.goals import MUON_TOKENS, PROOF_GOALS
from pgolf_core.lab.bench.proof import command
from pgolf_core.lab.bench.proof.parts import SMALL, overrides_of
from pgolf_core.lab.shared.places import find_root
from pgolf_core.recipes.reading import load_recipe


def of_step(seconds: float) -> dict:
    """What the goals read of a measured step."""
    share = {"median": 0.04}
    return {
        "measure": "step", "recipe": "pr315", "track": "10min_16mb", "graph": {"breaks": 0},
        "peak_memory": {"fast": {"peak_bytes": 20_596 * 2**20}},
        "one_rank": {"step_seconds": {"median": seconds}, "muon_share": share},
        "steps": [{"step_tokens": MUON_TOKENS, "speedup_ratio": {"median": 1.9}}],
    }  # fmt: skip


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Parts and the seconds they were given; the first is measured, the second fails, the rest show nothing."""
    given: list[tuple[str, float]] = []

    def run_part(name: str, seconds: float, small: bool, folder: Path) -> dict:
        given.append((name, seconds))
        row = {"part": name, "status": "done", "why": "", "seconds": 1.0, "values": {}}
        if name == "step-pr315":
            return row | {"values": of_step(0.0699)}
        return row | ({"status": "failed", "why": "RuntimeError: no kernel"} if name == "step-pr332" else {})

    monkeypatch.setattr(command, "run_part", run_part)
    return given


@pytest.mark.parametrize("rehearsal", [False, True])
def test_the_result_has_every_part_and_every_goal_and_a_failure_ends_nothing(
    told: list, rehearsal: bool, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: not rehearsal)
    monkeypatch.setattr(command, "environment", lambda: {"device": "NVIDIA", "versions": {"torch": "2.11.0"}})
    out = tmp_path / "proof.json"
    assert command.main(["--out", str(out)]) == 1, "a part failed"
    found = json.loads(out.read_text())
    assert set(found) == {"format", "begun", "seconds", "rehearsal", "env", "parts", "goals"}
    assert [row["part"] for row in found["parts"]] == list(command.PARTS) and found["rehearsal"] is rehearsal
    rows = {row["goal"]: row for row in found["goals"]}
    assert len(rows) == len(PROOF_GOALS)
    by_name = {goal.spread_of: rows[goal.what] for goal in PROOF_GOALS}.values()
    assert [row["measured"] for row in by_name] == [0.0699, 1.9, 20_596, 0, 0.04, None]
    met = [True, False, True, True, True, None]
    assert [row["met"] for row in by_name] == ([None] * 6 if rehearsal else met)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and "RuntimeError: no" in said
    assert ("no number of it is a result" in said) is rehearsal and ("not met" in said) is not rehearsal


def test_no_seconds_are_not_the_default(told: list, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        command.main(["--seconds", "0"])
    assert "'0' is not a number of seconds above 0" in capsys.readouterr().err and not told


def test_timed_parts_leave_time_to_those_that_run_side_by_side(told: list, tmp_path: Path) -> None:
    assert len(list(command.prove(list(command.PARTS), 200.0, False, tmp_path))) == len(command.PARTS)
    given = dict(told)
    assert given["step-pr315"] == pytest.approx(100, abs=1), "half of a short time"
    assert all(given[name] == pytest.approx(200, abs=1) for name in command.TOGETHER)
    told.clear()
    for small in (False, True):
        list(command.prove(["step-pr332"], 300.0, small, tmp_path))
    assert [seconds for _, seconds in told] == pytest.approx([command.TIMED["step-pr332"][0], 300], abs=1)


def test_a_part_without_time_is_left_out_and_one_that_takes_too_long_or_dies_says_so(tmp_path, monkeypatch) -> None:
    run = lambda seconds: command.run_part("resume", seconds, True, tmp_path)  # noqa: E731
    assert run(1.0)["status"] == "left out"
    monkeypatch.setattr(command, "LEAST_SECONDS", 0.0)
    assert "not done in its 0 seconds" in run(0.1)["why"]
    monkeypatch.setattr(command.sys, "executable", "false")
    row = run(20.0)
    assert row["status"] == "failed" and row["why"].startswith("ended with 1")


def test_a_result_that_cannot_be_written_is_told_in_a_line(monkeypatch) -> None:
    words = ["proof", "--parts", "resume", "--seconds", "1", "--out", "/proc/none/proof.json"]
    monkeypatch.setattr(command.sys, "argv", words)
    with pytest.raises(SystemExit, match=r"^error: cannot write /proc/none/proof\.json: "):
        runpy.run_path(command.__file__, run_name="__main__")


def test_a_part_s_process_leaves_what_it_shows_or_why_not(tmp_path: Path, monkeypatch) -> None:
    def fails(shape, folder: Path) -> dict:
        assert shape is SMALL and folder.is_dir()
        raise ValueError("first line\nsecond line")

    shows = {"well": lambda *_: {"a": 1, "fault": ""}, "badly": lambda *_: {"a": 1, "fault": "off"}, "not": fails}
    monkeypatch.setattr(command, "PARTS", shows)
    rows = {}
    for name in shows:
        command.show_part(name, SMALL, tmp_path / f"{name}.json")
        rows[name] = json.loads((tmp_path / f"{name}.json").read_text())
        assert rows[name].pop("seconds") >= 0
    assert rows == {
        "well": {"status": "done", "why": "", "values": {"a": 1}},
        "badly": {"status": "failed", "why": "off", "values": {"a": 1}},
        "not": {"status": "failed", "why": "ValueError: first line", "values": {}},
    }


def test_recipes_are_there_and_the_parts_fit_into_ten_minutes() -> None:
    for part in command.TIMED:
        name = part.rpartition("-")[2]
        load_recipe(name, overrides_of(name, SMALL))
    assert command.TOGETHER_SECONDS < command.TOTAL_SECONDS < 600
    assert all(seconds < command.TOTAL_SECONDS - command.TOGETHER_SECONDS for seconds, _ in command.TIMED.values())


def test_of_pgolfs_libraries_the_proof_imports_torch_and_those_of_its_wheels_alone() -> None:
    """The machine with the GPU has no others (PROOF_NEEDS of the Makefile)."""
    needs = re.search(r"^PROOF_NEEDS := (.*\\\n.*)", (find_root() / "Makefile").read_text(), re.MULTILINE)
    code = "import sys, pgolf_core.lab.bench.proof.command; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    known = importlib.metadata.packages_distributions()
    declared = {re.split(r"[^\w-]", line)[0] for line in importlib.metadata.requires("pgolf") or []}
    used = declared.intersection(name for module in loaded for name in known.get(module, ()))
    assert "pandas" in used and used <= {"torch", "numpy", *needs[1].replace("\\", "").split()}
