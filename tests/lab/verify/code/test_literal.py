"""Literal bytes: the packed file and all code that runs, whatever a log adds up."""

from pathlib import Path

import pytest
from published import claim, edit_logs, one_run, sized_script
from reviewing import judged, shows

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN

CAP, CODE = "file and code fit under the cap", "the code has the claimed bytes"
MODEL = 15_571_723


def test_the_sum_is_of_the_packed_file_and_the_shipped_code_though_the_log_says_otherwise(place: Path):
    """As PR 1756: 15,986,579 by the log, with the code compressed; 16,092,212 as shipped."""
    folder = one_run(place, row=(7063, "1.89996173", "1.12526734", 15_950_000, 15_986_579))
    assert judged(folder, place)[CAP].verdict == HOLDS
    (folder / "train_gpt.py").write_text(sized_script(16_092_212 - 15_950_000))
    found = judged(folder, place)
    assert found[CAP].verdict == found[CODE].verdict == FAILS
    assert "= 16,092,212 (logged sum 15,986,579)" in found[CAP].evidence and "no larger" in found[CAP].right


def test_a_stub_and_what_it_executes_both_count_and_a_claim_of_one_of_them_is_said(place: Path):
    folder = one_run(place)
    code = (folder / "train_gpt.py").stat().st_size
    (folder / "train_gpt.py").rename(folder / "core.py")
    (folder / "train_gpt.py").write_text("exec(open('core.py').read())\n")
    edit_logs(folder, r"^import os\n#.*\n", "")
    shows(judged(folder, place)[CODE], HOLDS, f"{code:,} is claimed, which is one of these files alone")
    assert f"+ code {code + 29:,} =" in judged(folder, place)[CAP].evidence
    (folder / "core.py").write_text(sized_script(16_000_001 - MODEL - 29))
    assert "16,000,001" in judged(folder, place)[CAP].evidence


@pytest.mark.parametrize(
    ("said", "verdict", "why"),
    [
        ({"artifact_bytes": 15_900_000}, UNKNOWN, "within the cap of 16,000,000 by its own words"),
        ({"artifact_bytes": 15_990_000}, UNKNOWN, "if it is without it: submission.json 15,990,000"),
        ({"artifact_bytes": 16_144_107}, FAILS, "submission.json artifact_bytes 16,144,107"),
        ({"bytes_model": 15_990_000}, FAILS, "bytes_model 15,990,000 + code 67,617 = 16,057,617"),
        ({"bytes_model": 15_900_000}, HOLDS, "bytes_model 15,900,000 + code 67,617 = 15,967,617"),
    ],
)
def test_without_a_logged_size_submission_json_counts_as_far_as_its_keys_are_clear(place, said, verdict, why):
    folder = one_run(place)
    edit_logs(folder, r"Serialized.*\n|Total.*\n|Code size.*\n", "")
    claim(folder, bytes_total=None, **said)
    shows(judged(folder, place)[CAP], verdict, why)


def test_a_total_and_a_code_size_make_a_packed_size(place: Path):
    folder = one_run(place)
    edit_logs(folder, r"Serialized.*\n", "")
    assert f"{MODEL:,} + code 67,617" in judged(folder, place)[CAP].evidence
