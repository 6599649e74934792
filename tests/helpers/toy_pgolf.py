"""`pgolf` on a toy recipe, a stage of which is done in no time, without kernels: python toy_pgolf.py FOLDER record …

Its jobs call this program again. A file training.txt in FOLDER says what stage 03 does instead: `waits` (until a file
`go` lies in the run's folder), `dies` (kills this process) or `fails` (for every seed but 1).
"""

import contextlib
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from toy_notebooks import DATASET

from pgolf_core.base.files import write_text
from pgolf_core.base.names import CHECKPOINT
from pgolf_core.lab import cli, slurm
from pgolf_core.lab.record import folder, kernels, notebooks
from pgolf_core.lab.report import seeds
from pgolf_core.training.checkpoint import load_tensors, save_tensors

SAVE_EVERY = 10


def run_stage(place: Path, run: folder.Run, name: str, parameters: dict, stop: Any, *further: object) -> None:
    """What a notebook leaves: its result and its mark."""
    with open(run.recipe_folder / "executed.txt", "a") as log:
        log.write(f"{run.folder.name} {name}\n")
    if name == "03_train":
        kind = (place / "training.txt").read_text()
        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "fails" and run.seed != 1:
            raise notebooks.RunFailed("a hole")
        if kind == "waits":
            _train(run, stop)
    (run.folder / "notebooks").mkdir(exist_ok=True)
    (run.folder / "notebooks" / f"{name}.ipynb").write_text("{}")
    for file in (folder.stage_named(name).result, "summary.json"):
        (run.folder / file).write_text(json.dumps({"seeds": parameters["seeds"]}))
    folder.finish_stage(run, name, **({"seeds": parameters["seeds"]} if run.seed is None else {}))


def _train(run: folder.Run, stop: Any) -> None:
    """Steps until there is a file `go`; each attempt tells when it begins, saves on being told to, and ends."""
    checkpoint, node = run.folder / CHECKPOINT, os.environ.get("SLURMD_NODENAME", "here")
    step = load_tensors(checkpoint, only_about=True)[1]["step"] if checkpoint.exists() else 0
    with open(run.folder / "steps.txt", "a", buffering=1) as log:
        log.write(f"began {step} {os.getpid()} {node}\n")
        while not (run.recipe_folder / "go").exists():
            time.sleep(0.05)
            step += 1
            write_text(run.folder / "now.txt", f"{step} {os.getpid()} {node}")  # at once: somebody reads it
            if stop.signum is not None or step % SAVE_EVERY == 0:
                save_tensors(checkpoint, {"x": torch.zeros(1)}, {"step": step})
            if stop.signum is not None:
                log.write(f"saved {step} {os.getpid()} {node}\n")
                stop.check()
        log.write(f"ended {step} {os.getpid()} {node}\n")


def main(place: str, *arguments: str) -> int:
    """One command; returns its exit status."""
    folder.open_dataset = lambda name, cache_dir=None: DATASET
    folder.describe_environment = dict
    seeds.read_summary = lambda folder: {}
    seeds.seeds_table_text = lambda summary: "the table"
    kernels.prepared = contextlib.nullcontext
    notebooks.run_notebook = functools.partial(run_stage, Path(place))
    notebooks.record = functools.partial(notebooks.record, notebooks_dir=Path(place) / "notebooks")
    slurm.PROGRAM = (sys.executable, __file__, place)
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
