"""Seven toy notebooks on a toy recipe and a dataset that needs no files: what the runner is tried on."""

from pathlib import Path
from types import SimpleNamespace

import nbformat

from pgolf_core.lab.record.folder import STAGES

RECIPE = """
title = "A toy"
track = "local_10min_1mb"
[model]
vocab_size = 64
model_dim = 32
num_heads = 2
num_kv_heads = 1
num_layers = 2
rope_dims = 16
[data]
dataset = "toy-data"
seq_len = 16
batch_tokens = 128
"""
DATASET = SimpleNamespace(
    name="toy-data", manifest={"tokenizer": {"vocab_size": 64}}, manifest_sha256="d" * 64,
    check_bytes=lambda said: None, tokenizer=lambda: SimpleNamespace(bos_id=1),
)  # fmt: skip
STAND_IN = '''
import sys
import types

def open_dataset(name="toy-data", cache_dir=None):
    """A dataset of 64 pieces that needs no files."""
    manifest = {"tokenizer": {"vocab_size": 64}}
    tokenizer = types.SimpleNamespace(bos_id=1)
    return types.SimpleNamespace(
        name=name, manifest=manifest, manifest_sha256="d" * 64, check_bytes=lambda said: None,
        tokenizer=lambda: tokenizer,
    )

dataset = types.ModuleType("pgolf_core.lab.data.dataset")
dataset.Dataset, dataset.open_dataset, dataset.is_sotu_name = object, open_dataset, lambda name: False
sys.modules["pgolf_core.lab.data.dataset"] = dataset
'''
"""Run first in a process, this replaces the datasets; it spares the tests a tokenizer and torch's import."""
PARAMETERS = """recipe: str = "toy"
overrides: list = []
seed: int = 1337
seeds: list = [1337]
data: str = ""
runs_dir: str = "runs"
name: str = ""
cache_dir: str = ""
"""
SETUP = f"""{STAND_IN}
import time
from pathlib import Path
from pgolf_core.lab.record import folder
folder.describe_environment = dict
stage = folder.stage_named(STAGE)
seed = seed if stage.per == "seed" else None
run = folder.open_run(recipe, overrides, seed=seed, data=data, runs_dir=runs_dir, name=name, cache_dir=cache_dir)
with open(run.recipe_folder / "executed.txt", "a") as log:
    log.write(f"{{run.folder.name}} {{STAGE}}\\n")
"""
WORK = """for file in (stage.result, "summary.json"):
    (run.folder / file).write_text("{}")
"""
FINISH = """folder.finish_stage(run, STAGE, **({"seeds": seeds} if stage.per == "report" else {}))
"""


def write_toys(place: Path, work: dict[str, str] | None = None) -> Path:
    """Write recipe and notebooks into `place`; `work` replaces the work cell of the stages it names."""
    (place / "notebooks").mkdir(parents=True, exist_ok=True)
    (place / "toy.toml").write_text(RECIPE)
    for stage in STAGES:
        sources = {
            "parameters": PARAMETERS,
            "setup": f"STAGE = {stage.name!r}\n{SETUP}",
            "work": (work or {}).get(stage.name, WORK),
            "finish": FINISH,
        }
        cells = [nbformat.v4.new_code_cell(source, id=name) for name, source in sources.items()]
        cells[0].metadata["tags"] = ["parameters"]
        spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        book = nbformat.v4.new_notebook(cells=cells, metadata=spec)
        nbformat.write(book, place / "notebooks" / f"{stage.name}.ipynb")
    return place
