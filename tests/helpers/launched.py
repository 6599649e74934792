"""A small run that several processes can train, and a program with a fault in its second rank."""

import functools
from pathlib import Path
from types import SimpleNamespace

import pytest
from small import small_data, small_recipe

from pgolf_core.base.files import write_json
from pgolf_core.lab.data.build import train_tokenizer
from pgolf_core.lab.record import launch
from pgolf_core.lab.record.launch import torchrun_command
from pgolf_core.recipes.recipe import to_dict

PIECES = 330
TEXT = "The state of the Union is strong.\n\nThe people of the States are free; the courts are open.\n" * 8
FAULTY = """
import os, pathlib, signal, sys, time
from pgolf_core.lab.record import rank as entry
from pgolf_core.training import loop
out = pathlib.Path(sys.argv[-1])
rank = os.environ["RANK"]
(out.parent / f"pid{{rank}}").write_text(str(os.getpid()))
step = loop.Trainer._step
def faulty(self):
    if self.step == 5:
        (out.parent / f"reached{{rank}}").touch()
    if self.step == 5 and rank == "1":
        {fault}
    time.sleep(0.01)
    return step(self)
loop.Trainer._step = faulty
entry.main()
"""
"""Trains as pgolf_core.lab.record.rank does, with a fault in its second rank; `fault` is its code."""


@functools.cache
def _tokenizer() -> bytes:
    return train_tokenizer([TEXT], PIECES)


def small_run(folder: Path, iterations: int = 12, spans: int = 8) -> SimpleNamespace:
    """As much of a run as training needs, in a folder whose name is a pattern too."""
    folder = folder / "seed[3]"
    settings = small_recipe(
        model={"vocab_size": PIECES}, data={"spans_per_step": spans}, schedule={"iterations": iterations}
    )
    data = small_data(folder / "data", vocab=PIECES)
    (folder / "small.model").write_bytes(_tokenizer())
    write_json(folder / "recipe.json", {**to_dict(settings), "fingerprint": settings.fingerprint})
    dataset = SimpleNamespace(
        train_paths=data.train_paths, val_paths=data.val_paths, tokenizer_path=folder / "small.model",
        manifest_sha256="small",
    )  # fmt: skip
    return SimpleNamespace(folder=folder, seed=3, recipe=settings, dataset=dataset)


def core_arguments(run: SimpleNamespace) -> list[str]:
    """What pgolf_core.lab.record.rank is given to train the run."""
    words = torchrun_command(run, 1)
    return words[words.index("pgolf_core.lab.record.rank") + 1 :]


def with_fault(monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str) -> None:
    """From now on the second rank of a launched training does this in its sixth step."""
    (folder / "faulty.py").write_text(FAULTY.format(fault=fault))

    def command(run: SimpleNamespace, processes: int) -> list[str]:
        words = torchrun_command(run, processes)
        at = words.index("pgolf_core.lab.record.rank")
        return [*words[: at - 1], str(folder / "faulty.py"), *words[at + 1 :]]

    monkeypatch.setattr(launch, "torchrun_command", command)


def ranks_of(run: SimpleNamespace) -> list[int]:
    """The process ids of the ranks of a training with a fault."""
    return [int((run.folder.parent / f"pid{rank}").read_text()) for rank in (0, 1)]
