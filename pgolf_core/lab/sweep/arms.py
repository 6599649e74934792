"""The arms of a sweep: variants of one recipe, each a run in a folder of its own, with the same seeds."""

import argparse
import dataclasses
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.lab.record import notebooks
from pgolf_core.lab.record.folder import (
    STAGES,
    Run,
    RunRequest,
    claim_run,
    clear_run,
    locate_run,
    run_hashes,
    stage_file,
    stage_is_done,
)
from pgolf_core.lab.record.lock import hold
from pgolf_core.lab.shared.usage import UsageError
from pgolf_core.recipes.reading import load_recipe

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]*")


@dataclass(frozen=True)
class Sweep:
    """All that is to be run; the first arm is the baseline."""

    requests: dict[str, RunRequest]
    """By the arm's name."""
    seeds: tuple[int, ...]
    stop_at: int = 0
    """The step by whose validation an arm may be given up; 0 for never."""

    @property
    def tasks(self) -> list[tuple[str, int]]:
        """(arm, seed): all arms with the first seed, then all with the second, so that arms can be told apart early."""
        return [(name, seed) for seed in self.seeds for name in self.requests]

    def run(self, name: str, seed: int | None = None) -> Run:
        """An arm's run, or one of its seeds'."""
        return locate_run(dataclasses.replace(self.requests[name], seed=seed, fresh=False))

    def folders(self) -> dict[str, Path]:
        """Where each arm's run lies."""
        return {name: self.run(name).recipe_folder for name in self.requests}


def arm(text: str) -> tuple[str, tuple[str, ...]]:
    """(name, changes) of `NAME:key=value,key=value`; a name alone is the recipe as it is."""
    name, _, changes = text.partition(":")
    parts = tuple(re.split(r",(?=[\w.]+=)", changes)) if changes else ()
    if not NAME.fullmatch(name) or not all("=" in part for part in parts):
        form = "NAME:key=value,key=value, as wide:model.model_dim=96, or a NAME alone for the recipe as it is"
        raise argparse.ArgumentTypeError(f"'{text}' is not {form}")
    keys = [part.partition("=")[0].strip() for part in parts]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise argparse.ArgumentTypeError(f"'{text}' gives {twice[0]} twice; keep one")
    return name, parts


def sweep_of(
    request: RunRequest, arms: Sequence[tuple[str, tuple[str, ...]]], seeds: Sequence[int], stop_at: int = 0
) -> Sweep:
    """The sweep of these arms; UsageError for arms that are alike, or whose recipes cannot be."""
    stem = request.name or Path(request.recipe).stem
    requests = {
        name: dataclasses.replace(request, overrides=(*request.overrides, *changes), name=f"{stem}.{name}")
        for name, changes in arms
    }
    if len(requests) < 2 or len(requests) < len(arms):
        raise UsageError("--arm: give at least two, no name twice; the others are held against the first")
    made: dict[str, str] = {}
    for name, one in requests.items():
        try:
            recipe = load_recipe(one.recipe, one.overrides)
        except UserError as error:
            raise UsageError(f"--arm {name}: {error}") from None
        if recipe.fingerprint in made:
            raise UsageError(f"--arm {name}: it is the same recipe as {made[recipe.fingerprint]}; leave one out")
        made[recipe.fingerprint] = name
        every = recipe.schedule.val_every_steps
        if stop_at and (not every or stop_at % every or stop_at > recipe.schedule.iterations):
            raise UsageError(f"--stop-at {stop_at}: {name} validates every {every} steps, and not there")
    return Sweep(requests, tuple(seeds), stop_at)


def prepare(sweep: Sweep) -> None:
    """Refuse what can be refused, delete what --fresh asks for, and run once what the arms have in common."""
    whole = {name: [sweep.run(name, seed) for seed in (None, *sweep.seeds)] for name in sweep.requests}
    if next(iter(sweep.requests.values())).fresh:
        for run in (run for runs in whole.values() for run in runs):
            with hold(run.folder, wait=run.seed is None):
                clear_run(run)
    first, *others = (runs[0] for runs in whole.values())
    request = dataclasses.replace(next(iter(sweep.requests.values())), fresh=False)
    notebooks.record(request, sweep.seeds, parts=notebooks.PARTS[:1])
    for run in others:
        if run.dataset.manifest_sha256 == first.dataset.manifest_sha256:
            share_data_stage(first, run)


def share_data_stage(source: Run, target: Run) -> None:
    """Copy what the first notebook made, which depends on the dataset alone; the mark says whose it is."""
    stage = STAGES[0]
    with hold(target.folder, wait=True):
        claim_run(target)
        if stage_is_done(target, stage.name):
            return
        number = stage.name.partition("_")[0]
        for pattern in (stage.result, f"figures/{number}-*", f"notebooks/{stage.name}.ipynb"):
            for path in source.folder.glob(pattern):
                place = target.folder / path.relative_to(source.folder)
                place.parent.mkdir(exist_ok=True)
                shutil.copy2(path, place)
        mark = read_json(stage_file(source, stage.name))
        write_json(stage_file(target, stage.name), mark | {"hashes": run_hashes(target), "made_in": source.label})
