"""What a failing row says beside its evidence: where it stands, and what would be right."""

from pathlib import Path

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, Row
from pgolf_core.lab.verify.reading.reviewed import MODEL_CHECKS, TEXT_CHECKS
from pgolf_core.lab.verify.remedies import OTHERWISE, RIGHT, explained, places
from pgolf_core.lab.verify.submission import AFTER, BEFORE


def test_every_check_that_a_foreign_folder_can_fail_has_its_remedy():
    taken_anew = {*TEXT_CHECKS, *MODEL_CHECKS, "the dataset is whole, its splits apart",
                  "its own script scores the file alike"}  # fmt: skip
    assert {*BEFORE, *AFTER} - taken_anew <= set(RIGHT) <= {*BEFORE, *AFTER, "artifact opens and is whole"}


def test_numbers_of_the_evidence_are_found_in_the_files_that_it_names(tmp_path: Path):
    texts = {"a.log": "x\ntotal 16639340 bytes\n", "README.md": "| 7,062 |\n", "b.log": "16639340\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    files = {name: tmp_path / name for name in texts}
    assert places("over: a.log 16,639,340, README.md 7,062 steps", files) == ["a.log:2", "README.md:1"]
    assert places("a.log:9: 16,639,340", files) == [], "the line is named already"
    row = explained(Row("model.pgolf: its header", FAILS, "a.log 16,639,340"), files)
    assert (row.where, row.right) == ("a.log:2", OTHERWISE)
    assert explained(Row("x", HOLDS, "a.log 16,639,340"), files).where == ""
