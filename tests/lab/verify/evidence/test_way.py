"""How a score is taken: as JSON carries it to the fresh process, and without what is slow to import."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from published import PR315, published

from pgolf_core.lab.verify.evidence.way import Way


def test_a_way_of_scoring_comes_back_from_json_as_it_was():
    way = Way(2048, 64, 8, "off")
    assert Way(**json.loads(json.dumps(dataclasses.asdict(way)))) == way != Way(2048, 64)


def test_a_folder_without_an_artifact_is_judged_without_the_libraries_that_only_scores_need(tmp_path: Path):
    folder = published(tmp_path / "track_10min_16mb" / "one", PR315)
    program = (
        f"import sys\nfrom pgolf_core.lab.cli import main\nmain(['verify', {str(folder)!r}])\n"
        "print(sorted({'torch', 'pandas', 'scipy', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    lines = found.stdout.splitlines()
    assert lines[-1] == "[]" and "checks hold" in lines[0]
