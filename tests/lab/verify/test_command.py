"""`pgolf verify`: which checks a path gets, and how they are printed."""

import json
import os
from pathlib import Path

import pytest
from refused import refused
from reviewing import holding, judged, with_verdict

from pgolf_core.lab import cli
from pgolf_core.lab.verify.command import as_text, verify
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, SAMPLED, UNKNOWN, Row
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.run import SEED_CHECKS

ROWS = [
    Row("a score", HOLDS, "it is " + "1.5 bpb of many targets " * 5), Row("its bytes", FAILS, "3, not 4"),
    Row("its\u00a0data", UNKNOWN, "because it is not here"), Row("its log", FAILS, "–"),
]  # fmt: skip


def test_everything_holds_for_an_honest_run_of_two_seeds_whose_dataset_is_its_own(honest: Path, cache: Path, capsys):
    found = judged(honest, cache)
    assert {row.verdict for row in found.values()} == {HOLDS}, found
    assert len(found) == 3 + 2 * (3 + len(SEED_CHECKS))
    one = {name.removeprefix("seed 1: ") for name in found if name.startswith("seed 1: ")}
    assert holding(honest / "seed1", cache) == one == with_verdict(judged(honest / "seed1", cache, data="other"), HOLDS)
    assert f"note: --data has no effect on {honest / 'seed1'}: a run is" in capsys.readouterr().err


def test_an_option_that_changes_nothing_for_a_path_is_named(honest: Path, cache: Path, capsys) -> None:
    path = honest / "seed1" / "model.pgolf"
    verify(path, How(cache, 9.0, run_code=True))
    said = capsys.readouterr().err
    assert f"note: --run-code has no effect on {path}: only a submission's folder has code of its own\n" in said
    assert f"note: --budget-seconds and --cache have no effect on {path}: an artifact is scored with --data al" in said
    verify(path, How())
    assert capsys.readouterr().err == ""
    judged(honest / "seed1", cache, run_code=True)
    assert f"note: --run-code has no effect on {honest / 'seed1'}: only a sub" in capsys.readouterr().err


def test_an_artifact_alone_is_checked_without_any_run_and_scored_on_a_dataset_that_is_named(honest: Path, cache: Path):
    path = honest / "seed1" / "model.pgolf"
    found = judged(path, Path("nowhere"))
    assert [row.verdict for row in found.values()] == [HOLDS] * 3
    assert f"= {path.stat().st_size:,};" in found["header and streams make up the file"].evidence
    found = judged(path, cache, data="toy-sp1024")
    assert found["no logit sees a later token"].verdict == found["probabilities sum to one"].verdict == HOLDS
    assert "nothing claims a score; it is 4." in found["score from the file alone"].evidence
    assert len(found) == 7
    assert "is not prepared" in judged(path, cache, data="other")["score from the file alone"].evidence


def test_a_path_of_nothing_or_of_runs_is_an_error_and_an_empty_file_holds_nothing(
    honest: Path, cache: Path, tmp_path: Path
):
    with refused(f"but holds runs; name one, as {honest}"):
        verify(honest.parents[1], How())
    with refused("does not exist"):
        verify(tmp_path / "nosuch", How())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("of something else")
    with refused("folder is no run's or submission's folder: no file in it ends in "):
        verify(tmp_path / "folder", How())
    (tmp_path / "file").touch()
    assert not holding(tmp_path / "file", cache)
    row = judged(tmp_path / "file", cache, data="toy-sp1024")["score from the file alone"]
    assert "it needs an artifact that opens" in row.evidence


def test_what_an_exported_script_left_is_no_run_and_its_artifact_is_named_instead(run: Path):
    for folder in (run, run / "seed1"):
        (folder / "recipe.json").unlink()
    left = (run / "seed1" / "model.pgolf").rename(run / "seed1" / "final_model.pgolf")
    for path in (run, run / "seed1"):
        with refused(f"exported script's, which keeps no recipe; name {left}"):
            verify(path, How())
    assert {row.verdict for row in verify(left, How())} == {HOLDS}


def test_the_text_begins_with_the_verdict_and_fits_80_columns_with_evidence_below_its_check(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = as_text(ROWS).splitlines()
    assert lines[0] == "2 of 4 checks fail: its bytes, its log; 1 cannot be checked here"
    assert lines[2:5] == ["fails:", "- its bytes", "  3, not 4"]
    assert max(map(len, lines)) <= 80 and [line for line in lines if line.startswith("  1.5 bpb")]
    heads = [line for line in lines if line.endswith(":")]
    assert heads == ["fails:", "cannot be checked here:", "holds:"], "what fails comes first"
    assert as_text(ROWS[:1]).startswith("1 of 1 checks hold\n")
    sampled = [ROWS[0], Row("b", SAMPLED, "")]
    assert as_text(sampled).startswith("1 of 2 checks hold; 1 sampled\n")
    assert as_text(ROWS[:2]).startswith("1 of 2 checks fails: its bytes\n")
    many = as_text([Row(f"check {i}", FAILS, "x" * 600) for i in range(40)]).splitlines()
    assert max(map(len, many)) <= 80


def test_a_failing_row_says_where_it_stands_and_what_would_be_right():
    text = as_text([Row("its bytes", FAILS, "3, not 4", "a.log:7", "count them again")])
    assert text.splitlines()[3:] == ["- its bytes", "  3, not 4", "  where: a.log:7", "  to be right: count them again"]


def test_several_paths_are_a_line_each_and_one_that_cannot_be_read_does_not_end_it(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def answer(path: Path, how: How) -> list[Row]:
        if path.name == "bad":
            raise RuntimeError("no\x1b[2J folder")
        return ROWS if path.name == "false" else ROWS[:1]

    monkeypatch.setattr("pgolf_core.lab.verify.command.verify", answer)
    for names, status in (("good", "good"), 0), (("good", "false"), 1), (("good", "bad", "good"), 1):
        assert cli.main(["verify", *names]) == status
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in lines] == list(names)
        assert lines[0] == "good: 1 of 1 checks hold"
        assert cli.main(["verify", "--json", *names]) == status
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["path"], len(row["checks"]) > 0, bool(row["error"])) for row in found] == [
            (name, name != "bad", name == "bad") for name in names
        ]
    assert lines[1] == "bad: cannot be read: RuntimeError: no\ufffd[2J folder"


def test_json_has_every_record_and_the_exit_status_tells_of_failures(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    given: list[How] = []
    for rows, status in ((ROWS, 1), (ROWS[:1], 0)):
        monkeypatch.setattr("pgolf_core.lab.verify.command.verify", lambda path, how, r=rows: given.append(how) or r)
        assert cli.main(["verify", "x", "--json", "--budget-seconds", "9", "--run-code", "--data", "d"]) == status
        assert json.loads(capsys.readouterr().out) == [row._asdict() for row in rows]
        assert cli.main(["verify", "x"]) == status
        assert capsys.readouterr().out == as_text(rows) + os.linesep
    assert (given[0].budget_seconds, given[0].run_code, given[0].data) == (9.0, True, "d")
    assert cli.main(["verify", "x", "--budget-seconds", "nan"]) == 2, "a budget that nothing ever exceeds"
