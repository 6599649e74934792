"""A toy corpus and two trained seeds on it, made once: what verifier, submission and figures are tried on."""

from pathlib import Path

import torch
from tiny_data import build_toy

from pgolf_core.base.files import write_json
from pgolf_core.lab.record import stages
from pgolf_core.lab.record.folder import Run, finish_stage, open_run
from pgolf_core.lab.report.seeds import summarise_seeds
from pgolf_core.result import Result

RECIPE = """title = "A toy"
track = "local_10min_1mb"
model = {num_layers = 2, model_dim = 32, num_heads = 2, num_kv_heads = 1, mlp_hidden = 48, rope_dims = 8}
data = {dataset = "toy-sp1024", seq_len = 32, batch_tokens = 256, spans_per_step = 2, micro_batch_seqs = 8}
schedule = {iterations = 8, max_seconds = 0.0, warmup_steps = 0, warmdown_iters = 4, autocast = "off", compile = "off"}
average = {ema_decay = 0.5}
quant = {small_tensor_elements = 100}
eval = {seq_len = 32, stride = 8, batch_seqs = 64}
"""


ADAPTING = ("adapt.kind=sgd", "adapt.lr=0.05", "adapt.epochs=2", "adapt.chunk_tokens=160", "adapt.batch_seqs=3")
"""The toy with adaptation of the packed file: five chunks."""
BY_DOCUMENTS = (
    "adapt.kind=lora", "adapt.lr=0.05", "adapt.epochs=1", "adapt.chunk_tokens=64", "adapt.batch_seqs=2",
    "adapt.lora_rank=3", "adapt.lora_lr=0.02", "adapt.lora_tokens=12", "adapt.batch_documents=2", "adapt.phases=1",
    "adapt.phase_documents=2", "adapt.tilt=ngram", "adapt.tilt_order=3",
)  # fmt: skip
"""The toy whose documents have adapters of their own, with a phase and a tilt."""
MIXING = ("adapt.mix=ngram",)
"""The toy with its score mixed with n-grams'."""


def finished_run(root: Path, seeds: tuple[int, ...] = (1, 2), overrides: tuple[str, ...] = ()) -> Path:
    """A toy corpus in root/datasets, and a recipe trained on it to the end as the notebooks do; the recipe's folder."""
    toy_corpus(root)
    (root / "toy.toml").write_text(RECIPE)
    options = {"overrides": overrides, "runs_dir": str(root / "runs"), "cache_dir": str(root)}
    run = open_run(str(root / "toy.toml"), **options)
    write_json(run.folder / "data.json", {"citation": ""})
    write_json(run.folder / "architecture.json", {})
    finish_stage(run, "02_architecture")
    for seed in seeds:
        finish_seed(open_run(str(root / "toy.toml"), seed=seed, **options))
    results = {seed: Result.read(run.folder / f"seed{seed}" / "result.json") for seed in seeds}
    write_json(run.folder / "summary.json", summarise_seeds(results))
    return run.folder


def toy_corpus(root: Path) -> None:
    """Prepare the toy dataset in root/datasets."""
    build_toy(root / "datasets")


def finish_seed(run: Run) -> None:
    """Train, pack and score a seed as notebooks 03 to 06 do."""
    torch.set_num_threads(1)
    trained = stages.train_seed(run, progress=False)
    finish_stage(run, "03_train", training=vars(trained))
    scores = {
        kind: stages.score_weights(run, stages.load_weights(run, kind), kind, max_targets, progress=False).to_dict()
        for kind, max_targets in (("raw", 200), ("averaged", 200))
    }
    write_json(run.folder / "averaging.json", scores | {"seconds": 0.1})
    finish_stage(run, "04_average_and_qat")
    stages.pack_seed(run)
    finish_stage(run, "05_quantize", packing_seconds=0.1)
    evaluation = run.recipe.eval
    roundtrip, sliding = (stages.score_packed(run, n, progress=False) for n in (evaluation.seq_len, evaluation.stride))
    stages.write_result(run, roundtrip, sliding, stages.adapt_packed(run, sliding, progress=False))
    finish_stage(run, "06_sliding_eval")
