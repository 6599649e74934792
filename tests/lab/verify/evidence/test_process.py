"""The fresh process of the verifier: what it measures, what it may not do, and when a score becomes a sample.

pytest tests/lab/verify/evidence/test_process.py (starts three processes; the rest runs here)
"""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_run import RECIPE, ask_here, cache_of, finished_run

from pgolf_core.base.files import UserError, write_text
from pgolf_core.lab.data.dataset import open_dataset
from pgolf_core.lab.verify.evidence import measure as verify_measure
from pgolf_core.lab.verify.evidence import score as verify_score
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck, OnlySampled
from pgolf_core.lab.verify.evidence.score import Scoring, Way, judge_isolation, judge_score
from pgolf_core.network.score import plan_windows, score
from pgolf_core.packing.unpack import load_model
from pgolf_core.recipes import recipe
from pgolf_core.text.shards import load_tokens

WAY = Way(32, 8, 64, "off")
assert "seq_len = 32, stride = 8" in RECIPE


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("honest"), seeds=(1,))


@pytest.fixture
def dataset(honest: Path):
    return open_dataset("toy-sp1024", cache_of(honest))


@pytest.fixture
def parts(honest: Path, dataset):
    """model, tokens and token bytes, as the process loads them."""
    tokenizer = dataset.tokenizer()
    tokens = load_tokens(dataset.val_paths, tokenizer.vocab_size)
    return load_model(honest / "seed1" / "model.pgolf"), tokens, tokenizer.bytes


# ---------------------------------------------------------------------- the process itself


def test_a_fresh_process_finds_the_recorded_scores_and_opens_nothing_but_the_score_needs(
    honest: Path, dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    metadata = tmp_path / "some.egg-info" / "entry_points.txt"  # as an editable install keeps in the checkout
    write_text(metadata, "")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    scoring = Scoring(honest / "seed1" / "model.pgolf", dataset, WAY)
    result = json.loads((honest / "seed1" / "result.json").read_text())
    for stride, kind in ((32, "roundtrip"), (8, "sliding")):
        assert scoring.part(f"stride {stride}")["bpb"] == pytest.approx(result[f"{kind}_bpb"], rel=1e-9)
    seen = scoring.answer["seen"]
    assert seen == {
        "refused": [], "read": ["model.pgolf", "tokenizer.model", dataset.val_paths[0].name], "other": []
    }  # fmt: skip
    assert "0 attempts to reach a network or to open any of 1 training shards" in judge_isolation(
        scoring.answer, dataset
    )  # fmt: skip


SCRIPT = """
from pgolf_core.text.shards import load_tokens
from pgolf_core.network.score import score_artifact
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
    scoring = Scoring(honest / "seed1" / "model.pgolf", dataset, WAY, script=script)
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


def test_what_a_scoring_must_not_do_is_refused_and_told(tmp_path: Path, dataset):
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
    environment = {**os.environ, "PYTHONPATH": str(Path(verify_score.CORE_DIR).parent)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(shard)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    *tried, report = done.stdout.strip().splitlines()
    assert tried == [f"{name} Refused" for name in PROBES], done.stdout + done.stderr
    seen = json.loads(report)
    assert len(seen["refused"]) == len(PROBES) and "data.bin" in seen["other"]
    with pytest.raises(Broken, match="6 attempts"):
        judge_isolation({"seen": seen}, dataset)


def test_a_process_that_dies_is_no_verdict(dataset, honest: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CannotCheck, match="ended with status"):
        Scoring(honest / "seed1" / "model.pgolf", dataset, WAY).part("causality")


@pytest.mark.parametrize("way", [Way(2**20, 1, 64), Way(0, 0), Way(32, 33), Way(32, 8, 0)])
def test_no_process_is_started_for_a_way_of_scoring_that_is_none_or_too_large(dataset, honest: Path, way: Way):
    with pytest.raises((CannotCheck, Broken)):
        Scoring(honest / "seed1" / "model.pgolf", dataset, way).part("causality")


def test_an_artifact_of_another_vocabulary_is_not_scored(tmp_path: Path, honest: Path, dataset, monkeypatch):
    from pgolf_core.network.model import build_model
    from pgolf_core.packing.pack import pack

    config = recipe.Model(
        vocab_size=300, num_layers=1, model_dim=16, num_heads=2, num_kv_heads=1, mlp_hidden=16, rope_dims=8,
        bigram_rows=0, xsa_last_n=0,
    )  # fmt: skip
    state = dict(build_model(config, 1).named_parameters())
    path = tmp_path / "model.pgolf"
    pack(state, config, recipe.Quant(), path, code_bytes=0, cap_bytes=10**6)
    monkeypatch.setattr(verify_score, "ask", ask_here)
    with pytest.raises(CannotCheck, match="vocabulary is 300"):
        Scoring(path, dataset, WAY).part("stride 8")


# ---------------------------------------------------------------------- whole or sampled


class Clock:
    """A clock that a test moves: every look costs `step` seconds."""

    def __init__(self, step: float):
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


def sampled(parts, budget: float | None, step: float, seed: int = 7, monkeypatch=None) -> dict:
    model, tokens, token_bytes = parts
    monkeypatch.setattr(verify_measure, "time", Clock(step))
    return verify_measure.score_or_sample(
        model, tokens, token_bytes, 32, 8, 4, "off", budget, seed, lambda done, total: None
    )  # fmt: skip


def test_a_score_that_fits_into_the_budget_is_whole(parts, monkeypatch: pytest.MonkeyPatch):
    assert "n" not in sampled(parts, 10.0, 0.001, monkeypatch=monkeypatch)
    assert "n" not in sampled(parts, None, 100.0, monkeypatch=monkeypatch)


def test_a_score_that_does_not_fit_becomes_a_sample_whose_interval_holds_the_truth(parts, monkeypatch):
    """Of forty seeded samples, the 95 % interval holds the whole score in at least 34 (34 of 40 would be p = 0.01)."""
    model, tokens, token_bytes = parts
    truth = score(model, tokens, token_bytes, 32, 8, 64, autocast="off")
    inside, sizes = 0, set()
    for seed in range(40):
        found = sampled(parts, 10.0, 0.5, seed, monkeypatch)
        sizes.add(found["n"])
        assert found["n"] < found["of"] and found["low"] < found["bpb"] < found["high"]
        assert found["low"] == pytest.approx(2 * found["bpb"] - found["high"])
        assert found["tokens"] == truth.tokens and found["bytes"] == truth.bytes
        inside += found["low"] <= truth.bpb <= found["high"]
        low, high = found["loss"] - found["loss_half"], found["loss"] + found["loss_half"]
        assert (low <= truth.loss_nats_per_token <= high) == (found["low"] <= truth.bpb <= found["high"])
    assert inside >= 34 and min(sizes) >= verify_measure.LEAST_WINDOWS


def test_the_same_seed_draws_the_same_windows(parts, monkeypatch: pytest.MonkeyPatch):
    one, other = (sampled(parts, 10.0, 0.5, 3, monkeypatch)["bpb"] for _ in range(2))
    assert one == other != sampled(parts, 10.0, 0.5, 4, monkeypatch)["bpb"]


def test_too_few_windows_give_no_interval(parts, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="give a larger --budget-seconds"):
        sampled(parts, 1.0, 0.8, monkeypatch=monkeypatch)


@pytest.mark.parametrize(("num_targets", "seq_len", "stride"), [(763, 32, 8), (763, 32, 32), (64, 32, 32), (9, 32, 8)])
def test_common_and_odd_windows_are_all_windows(num_targets: int, seq_len: int, stride: int):
    windows = plan_windows(num_targets, seq_len, stride)
    common, odd = verify_measure.split_by_shape(windows)
    assert len(common) >= len(odd) - 1
    assert sorted(map(tuple, np.concatenate((common, odd)).tolist())) == sorted(map(tuple, windows.tolist()))


def test_a_sample_of_all_is_exact_and_one_of_some_has_the_hand_computed_interval():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    assert verify_measure.total_with_interval(values, 4) == (12.0, 0.0)
    total, half = verify_measure.total_with_interval(values, 16)
    assert total == 48.0
    # std 2.160247, / 2 = 1.080123, x sqrt(3/4) = 0.935414, x 16 = 14.96663, x t(3) = 3.182446
    assert half == pytest.approx(47.6305, abs=1e-3)


SAMPLE = {"bpb": 2.0, "low": 1.9, "high": 2.1, "loss": 4.0, "loss_half": 0.2, "n": 50, "of": 900, "sample_seed": 5}


def test_a_claim_within_the_interval_is_sampled_and_one_outside_fails():
    with pytest.raises(OnlySampled, match=r"sampled: n = 50 of 900 windows \(seed 5\).* 95 % interval 1.9"):
        judge_score(SAMPLE, {"bpb": 1.91, "loss": 3.81})
    for claims in ({"bpb": 1.89, "loss": 4.0}, {"bpb": 2.0, "loss": 3.79}, {"bpb": 2.11}):
        with pytest.raises(Broken, match="outside it"):
            judge_score(SAMPLE, claims)


def test_a_small_difference_refutes_only_on_the_same_kind_of_machine():
    found = {"bpb": 2.0, "loss": 4.0, "tokens": 9, "seconds": 1.0}
    assert "0.0e+00" in judge_score(found, {"bpb": 2.0, "loss": 4.0}, ("a", "b"))
    with pytest.raises(CannotCheck, match="the run computed on"):
        judge_score(found, {"bpb": 2.0001}, ("a", "b"))
    for paths, claim in ((("a", "a"), 2.0001), (("a", "b"), 2.01), (None, 2.01)):
        with pytest.raises(Broken):
            judge_score(found, {"bpb": claim}, paths)
