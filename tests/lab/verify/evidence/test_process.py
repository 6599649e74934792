"""The fresh process of the verifier: what it opens, what it may not do, and how it runs a folder's own script."""

import dataclasses
import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest
from refused import refused

from pgolf_core.base.files import write_text
from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.shared.places import child_environment
from pgolf_core.lab.verify.evidence import process, score
from pgolf_core.lab.verify.evidence.checks import Broken
from pgolf_core.lab.verify.evidence.score import How, Scoring, isolation
from pgolf_core.lab.verify.evidence.text import Way

WAY = Way(32, 8, 64, "off")


def test_a_fresh_process_finds_the_recorded_scores_and_opens_nothing_but_the_score_needs(
    honest: Path, dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    metadata = tmp_path / "some.egg-info" / "entry_points.txt"  # as an editable install keeps in the checkout
    write_text(metadata, "")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    scoring = Scoring(honest / "seed1" / "model.pgolf", dataset, WAY, How())
    result = json.loads((honest / "seed1" / "result.json").read_text())
    for stride, kind in ((32, "roundtrip"), (8, "sliding")):
        assert scoring.part(f"stride {stride}")["bpb"] == pytest.approx(result[f"{kind}_bpb"], rel=1e-9)
    seen = scoring.answer["seen"]
    assert seen == {
        "refused": [], "read": ["model.pgolf", "tokenizer.model", dataset.val_paths[0].name], "other": []
    }  # fmt: skip
    assert "0 attempts to reach a network or to open any of 1 training shards" in isolation(scoring)


def test_a_score_inside_documents_is_refused_with_a_tokenizer_of_another_bos(honest: Path, dataset, monkeypatch):
    job = {
        "tokenizer": str(dataset.tokenizer_path), "shards": list(map(str, dataset.val_paths)), "trace": "",
        "artifact": str(honest / "seed1" / "model.pgolf"), "scores": "", "budget_seconds": 0.0, "sample_seed": 0,
        "way": dataclasses.asdict(dataclasses.replace(WAY, document_mask=True)),
    }  # fmt: skip
    monkeypatch.setattr("pgolf_core.text.tokenizer.BOS", 3)
    with refused("the artifact finds documents by BOS = 3, but the tokenizer has 1"):
        process._score(job, None, lambda *told: None)


SCRIPT = """
from pgolf_core.text.shards import load_tokens
from pgolf_core.packing.unpack import score_artifact
from pgolf_core.text.tokenizer import Tokenizer
import helper
def own(argument: int): ...
assert own.__annotations__ == {"argument": int}, "compiled under the verifier's own __future__"
"""


def test_a_script_is_run_as_its_text_says_and_leaves_no_bytecode_in_the_folder(honest: Path, dataset, tmp_path: Path):
    (tmp_path / "helper.py").write_text("")
    script = tmp_path / "train_gpt.py"
    script.write_text("Tokenizer = None".ljust(len(SCRIPT)))
    planted = Path(py_compile.compile(str(script)))  # what an import of the script would take for it
    at = script.stat()
    script.write_text(SCRIPT)
    os.utime(script, ns=(at.st_atime_ns, at.st_mtime_ns))
    before = sorted(planted.parent.iterdir())
    scoring = Scoring(honest / "seed1" / "model.pgolf", dataset, WAY, How(), script)
    result = json.loads((honest / "seed1" / "result.json").read_text())
    assert scoring.part("script")["bpb"] == pytest.approx(result["sliding_bpb"], rel=1e-9)
    assert sorted(planted.parent.iterdir()) == before and planted.name not in scoring.answer["seen"]["other"]
    assert "helper.py" in scoring.answer["seen"]["other"]  # a file beside the script that nobody counted


PROBES = {
    "a training shard": "open(sys.argv[1], 'rb')",
    "a training shard by another name": "os.link(sys.argv[1], 'x.bin'); open('x.bin', 'rb')",
    "a connection": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "a name": "import socket; socket.getaddrinfo('example.org', 80)",
    "a program": "watch.is_scoring = True; import subprocess; subprocess.run(['true'])",
    "a page": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
}


def test_what_a_scoring_must_not_do_is_refused_and_told(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    """One process tries everything, in a folder that lies where links to the shard can be made."""
    lines = [
        f"try:\n    {code.replace('; ', chr(10) + '    ')}\n    print({name!r}, 'WENT THROUGH')\n"
        f"except BaseException as error:\n    print({name!r}, type(error).__name__)"
        for name, code in PROBES.items()
    ]
    program = (
        "import json, os, sys\nfrom pgolf_core.lab.verify.evidence.process import Watch\n"
        "watch = Watch([sys.argv[1]], [], [sys.prefix, sys.base_prefix])\n" + "\n".join(lines) + "\n"
        "open('data.bin', 'w').close()\nprint(json.dumps(watch.report()))\n"
    )
    shard = tmp_path / "toy_train_000000.bin"
    shard.write_bytes(dataset.train_paths[0].read_bytes())
    command = [sys.executable, "-P", "-c", program, str(shard)]
    done = subprocess.run(command, cwd=tmp_path, env=child_environment(), capture_output=True, text=True)
    *tried, report = done.stdout.strip().splitlines()
    assert tried == [f"{name} Refused" for name in PROBES], done.stdout + done.stderr
    seen = json.loads(report)
    assert len(seen["refused"]) == len(PROBES) and "data.bin" in seen["other"]
    scoring = Scoring(shard, dataset, WAY, How())
    monkeypatch.setattr(score, "ask", lambda job, tell: {"seen": seen})
    with pytest.raises(Broken, match="6 attempts"):
        isolation(scoring)
