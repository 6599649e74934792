"""A toy corpus and two trained seeds on it, made once: what verifier, submission and figures are tried on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.lab.data.sotu import Document, build_dataset
from pgolf_core.lab.record import folder as runs
from pgolf_core.lab.record import stages
from pgolf_core.lab.report.seeds import summarise_seeds
from pgolf_core.lab.verify import run_bytes as verify_bytes
from pgolf_core.lab.verify.evidence import process as verify_process
from pgolf_core.lab.verify.evidence.checks import VERDICTS
from pgolf_core.seed import Result

RECIPE = """title = "A toy"
track = "local_10min_1mb"
model = {num_layers = 2, model_dim = 32, num_heads = 2, num_kv_heads = 1, mlp_hidden = 48, rope_dims = 8}
data = {dataset = "toy-sp1024", seq_len = 32, batch_tokens = 256, spans_per_step = 2, micro_batch_seqs = 8}
schedule = {iterations = 8, max_seconds = 0.0, warmup_steps = 0, warmdown_iters = 4, autocast = "off", compile = "off"}
average = {ema_decay = 0.5}
quant = {small_tensor_elements = 100}
eval = {seq_len = 32, stride = 8, batch_seqs = 64}
"""


def finished_run(root: Path, seeds: tuple[int, ...] = (1, 2)) -> Path:
    """A toy corpus in root/datasets, and a recipe trained on it to the end as the notebooks do; the recipe's folder."""
    toy_corpus(root)
    (root / "toy.toml").write_text(RECIPE)
    options = {"runs_dir": str(root / "runs"), "cache_dir": str(root)}
    run = runs.open_run(str(root / "toy.toml"), **options)
    for seed in seeds:
        finish_seed(runs.open_run(str(root / "toy.toml"), seed=seed, **options))
    results = {seed: Result.read(run.folder / f"seed{seed}" / "result.json") for seed in seeds}
    write_json(run.folder / "summary.json", summarise_seeds(results))
    return run.folder


def toy_corpus(root: Path) -> None:
    """Prepare the toy dataset in root/datasets."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrst"), rng.integers(2, 8))) for _ in range(900)]
    texts = [("train", 900)] * 6 + [("val", 150)] * 2
    documents = [
        Document(f"d{i}", f"d{i}", s, " ".join(rng.choice(words, n)) + ".\n") for i, (s, n) in enumerate(texts)
    ]
    about = {"name": "toy-sp1024", "source": {"package": "toy"}, "split_rule": "by hand"}
    build_dataset(documents, about, root / "datasets", progress=False)


def finish_seed(run: runs.Run) -> None:
    """Train, pack and score a seed as notebooks 03 to 06 do."""
    torch.set_num_threads(1)
    trained = stages.train_seed(run, progress=False)
    runs.finish_stage(run, "03_train", training=vars(trained))
    scores = {
        kind: stages.score_weights(run, stages.load_weights(run, kind), kind, max_targets, progress=False).to_dict()
        for kind, max_targets in (("raw", 200), ("averaged", 200))
    }
    write_json(run.folder / "averaging.json", scores | {"seconds": 0.1})
    runs.finish_stage(run, "04_average_and_qat")
    stages.pack_seed(run)
    runs.finish_stage(run, "05_quantize", packing_seconds=0.1)
    evaluation = run.recipe.eval
    roundtrip, sliding = (stages.score_packed(run, n, progress=False) for n in (evaluation.seq_len, evaluation.stride))
    stages.write_result(run, roundtrip, sliding)
    runs.finish_stage(run, "06_sliding_eval")


def ask_here(job: dict, tell: Callable[[int, int, str], None]) -> dict:
    """What the fresh process answers, without starting one."""
    try:
        answer = verify_process.perform(job, None, tell)
    except UserError as error:
        answer = {"error": str(error)}
    return answer | {"seen": {"refused": [], "read": ["model.pgolf"], "other": []}}


def the_toy_is_the_track(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Let the toy corpus be the text that the local track compares scores on; and the script's size be known."""
    manifest = read_json(root / "datasets" / "toy-sp1024" / "manifest.json")
    text = ("toy", manifest["totals"]["val"]["utf8_bytes"], 0.0)
    monkeypatch.setitem(verify_bytes.TEXT_OF_TRACK, "local_10min_1mb", text)
    monkeypatch.setattr(verify_bytes, "exported_bytes", lambda recipe: 100_000)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("honest"))


def cache_of(honest: Path) -> Path:
    return honest.parents[2]


def change(file: Path, /, **values: object) -> None:
    file.write_text(json.dumps(read_json(file) | values))


def verdicts(table: pd.DataFrame) -> dict[str, str]:
    assert list(table.columns) == ["check", "verdict", "evidence"]
    assert set(table["verdict"]) <= set(VERDICTS)
    assert table["check"].is_unique and not table["evidence"].str.contains("\n").any()
    return dict(zip(table["check"], table["verdict"], strict=True))
