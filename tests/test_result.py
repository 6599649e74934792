"""result.json: there and back, refused by file and key, and read without torch."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from run_folder import seed_result

from pgolf_core.base.files import UserError
from pgolf_core.base.names import SEED_RESULT
from pgolf_core.result import Result


@pytest.mark.parametrize("further", [{"raw_targets": None}, {"raw_targets": 9, "ranks": 2}])
def test_a_result_comes_back_from_its_file_and_says_only_what_is_known(tmp_path: Path, further: dict) -> None:
    result = seed_result(7, 1.25, **further)
    result.write(tmp_path)
    assert Result.read(tmp_path / SEED_RESULT) == result
    values = json.loads((tmp_path / SEED_RESULT).read_text())
    assert list(values) == [f.name for f in dataclasses.fields(Result) if f.name in values] and values["seed"] == 7
    assert ("raw_targets" in values) is ("ranks" in further) and None not in values.values()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sliding_bqb": 1.0}, "unknown key 'sliding_bqb'"),
        ({"sliding_bpb": None}, "key 'sliding_bpb' is missing"),
        ({"seconds": {"train": "x"}}, "seconds.train must be of type float"),
        ({"raw_bpb": math.nan}, "raw_bpb must be finite"),
    ],
)
def test_a_result_that_is_not_one_is_refused_by_file_and_key(tmp_path: Path, change: dict, words: str) -> None:
    """tests/base/test_strict.py has all that a value may have wrong."""
    values = {key: value for key, value in {**seed_result(7, 1.25).to_dict(), **change}.items() if value is not None}
    (tmp_path / SEED_RESULT).write_text(json.dumps(values))
    with pytest.raises(UserError, match=words) as caught:
        Result.read(tmp_path / SEED_RESULT)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_result_is_read_without_importing_torch() -> None:
    code = "import sys, pgolf_core.result; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
