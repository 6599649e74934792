"""A sweep: variants of one recipe, each a run of its own with the same seeds; run or submitted, and compared."""

import argparse
import dataclasses
import itertools
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgolf_core.base.files import UserError, read_json, write_json, write_text
from pgolf_core.lab import slurm
from pgolf_core.lab.compare.comparison import compare_arms
from pgolf_core.lab.compare.results import recorded_recipe
from pgolf_core.lab.compare.text import comparison_text
from pgolf_core.lab.record import folder as runs
from pgolf_core.lab.record.command import note_jobs, words_of
from pgolf_core.lab.record.kernels import prepared
from pgolf_core.lab.record.lock import Busy, hold
from pgolf_core.lab.record.notebooks import PARTS, RunFailed, finished_seeds, record
from pgolf_core.lab.shared.idle import idle_keys
from pgolf_core.lab.shared.places import short_path
from pgolf_core.lab.shared.tables import so_many
from pgolf_core.lab.shared.usage import UsageError, note
from pgolf_core.lab.sweep.verdicts import corrected_text, is_stopped, why_stopped
from pgolf_core.recipes.reading import load_recipe

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]*")
TABLE = "sweep.txt"
"""In the baseline's folder: what the command printed at its end."""


@dataclass(frozen=True)
class Sweep:
    """All that is to be run; the first arm is the baseline."""

    requests: dict[str, runs.RunRequest]
    """By the arm's name; none of them fresh."""
    seeds: tuple[int, ...]
    stop_at: int
    """The step by whose validation an arm may be given up; 0 for never."""
    fresh: bool
    """Whether earlier results of these seeds are deleted first."""

    @property
    def tasks(self) -> list[tuple[str, int]]:
        """(arm, seed): all arms with the first seed, then all with the second, so that arms can be told apart early."""
        return [(name, seed) for seed in self.seeds for name in self.requests]

    def run(self, name: str, seed: int | None = None) -> runs.Run:
        """An arm's run, or one of its seeds'."""
        return runs.locate_run(dataclasses.replace(self.requests[name], seed=seed))

    def folders(self) -> dict[str, Path]:
        """Where each arm's run lies."""
        return {name: self.run(name).recipe_folder for name in self.requests}


def arm(text: str) -> tuple[str, tuple[str, ...]]:
    """(name, changes) of `NAME:key=value,key=value`; a name alone is the recipe as it is."""
    name, _, changes = text.partition(":")
    parts = tuple(re.split(r",(?=[\w.]+=)", changes)) if changes else ()
    if not NAME.fullmatch(name) or not all("=" in part for part in parts):
        form = "NAME:key=value,key=value, as wide:model.model_dim=96, or a NAME alone for the recipe as it is"
        raise UsageError(f"--arm '{text}' is not {form}")
    keys = [part.partition("=")[0].strip() for part in parts]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise UsageError(f"--arm '{text}' gives {twice[0]} twice; keep one")
    return name, parts


def sweep_of(
    request: runs.RunRequest, arms: Sequence[tuple[str, tuple[str, ...]]], seeds: Sequence[int], stop_at: int = 0
) -> Sweep:
    """The sweep of these arms, keys of theirs without effect noted; UsageError for arms that are alike or cannot be."""
    stem = request.name or Path(request.recipe).stem
    requests = {
        name: dataclasses.replace(request, overrides=(*request.overrides, *changes), name=f"{stem}.{name}", fresh=False)
        for name, changes in arms
    }
    if len(requests) < 2 or len(requests) < len(arms):
        raise UsageError("--arm: give at least two, no name twice; the others are held against the first")
    made: dict[str, str] = {}
    for name, changes in arms:
        try:
            recipe = load_recipe(request.recipe, requests[name].overrides)
        except UserError as error:
            raise UsageError(f"--arm {name}: {error}") from None
        if recipe.fingerprint in made:
            raise UsageError(f"--arm {name}: it is the same recipe as {made[recipe.fingerprint]}; leave one out")
        made[recipe.fingerprint] = name
        changed = {change.partition("=")[0].strip() for change in changes}
        for key, why in idle_keys(recipe).items():
            if key in changed:
                note(f"--arm {name}: {key} has no effect ({why})")
        every = recipe.schedule.val_every_steps
        if stop_at and (not every or stop_at % every or stop_at > recipe.schedule.iterations):
            raise UsageError(f"--stop-at {stop_at}: {name} validates every {so_many(every, 'step')}, and not there")
    return Sweep(requests, tuple(seeds), stop_at, request.fresh)


# ---------------------------------------------------------------------- what is done


def prepare(sweep: Sweep) -> None:
    """Refuse what can be refused, delete what --fresh asks for, and run once what the arms have in common."""
    whole = [[sweep.run(name, seed) for seed in (None, *sweep.seeds)] for name in sweep.requests]
    for run in itertools.chain(*whole) if sweep.fresh else ():
        with hold(run.folder, wait=run.seed is None):
            runs.clear_run(run)
    first, *others = (run for run, *_ in whole)
    record(next(iter(sweep.requests.values())), sweep.seeds, parts=PARTS[:1])
    for run in others:
        if run.dataset.manifest_sha256 == first.dataset.manifest_sha256:
            share_data_stage(first, run)


def share_data_stage(source: runs.Run, target: runs.Run) -> None:
    """Copy what the first notebook made, which depends on the dataset alone; the mark says whose it is."""
    stage = runs.STAGES[0]
    with hold(target.folder, wait=True):
        runs.claim_run(target)
        if runs.stage_is_done(target, stage.name):
            return
        number = stage.name.partition("_")[0]
        for pattern in (stage.result, f"figures/{number}-*", f"notebooks/{stage.name}.ipynb"):
            for path in source.folder.glob(pattern):
                place = target.folder / path.relative_to(source.folder)
                place.parent.mkdir(exist_ok=True)
                shutil.copy2(path, place)
        mark = read_json(runs.stage_file(source, stage.name))
        mark |= {"hashes": runs.run_hashes(target), "made_in": source.label}
        write_json(runs.stage_file(target, stage.name), mark)


def _run_task(sweep: Sweep, name: str, seed: int) -> None:
    """One seed of one arm, unless the arm was given up; the baseline never is, since the others are held against it."""
    request, folders = sweep.requests[name], sweep.folders()
    if finished_seeds(request, [seed]):
        return
    if name != next(iter(folders)) and is_stopped(name, folders, sweep.stop_at):
        print(f"{name}, seed {seed}: not begun; {why_stopped(folders[name])}", file=sys.stderr)
    else:
        print(f"{name}, seed {seed}:", file=sys.stderr)
        record(request, [seed], parts=PARTS[:2])


def run_all(sweep: Sweep) -> list[str]:
    """What the arms have in common, then all tasks; what failed, in words."""
    prepare(sweep)
    return run_tasks(sweep, sweep.tasks)


def run_tasks(sweep: Sweep, tasks: Sequence[tuple[str, int]]) -> list[str]:
    """(arm, seed) one after the other; what failed, in words. Seeds that others are at work on are left to them."""
    failed, left = [], 0
    for name, seed in tasks:
        try:
            _run_task(sweep, name, seed)
        except Busy as error:
            left += 1
            print(f"{name}, seed {seed}: {error}", file=sys.stderr)
        except RunFailed as error:
            failed.append(f"{name}, seed {seed}: {error}")
            print(failed[-1], file=sys.stderr)
    if left:
        raise Busy(f"{so_many(left, 'seed')} left to others; who ends last compares, or `pgolf sweep … --finish` does")
    return failed


def submit(sweep: Sweep, request: runs.RunRequest, options: argparse.Namespace, asked: slurm.Asked) -> int:
    """Submit a job of all arms and seeds, one of all reports, and one that compares; returns the exit status."""
    places, each = range(len(sweep.tasks)), options.per_job
    jobs = [",".join(map(str, places[first : first + each])) for first in places[::each]]
    words = ["sweep", *words_of(request, sweep.seeds)[1:], *(word for text in options.arm for word in ("--arm", text))]
    words += ["--stop-at", str(sweep.stop_at)] if sweep.stop_at else []
    worth = ["--worth", str(options.worth)] if options.worth else []
    steps = {
        "seeds": [[*words, "--task", job] for job in jobs],
        "reports": [[*words_of(one, sweep.seeds), "--report-only"] for one in sweep.requests.values()],
        "compare": [[*words, *worth, "--finish"]],
    }
    folders = sweep.folders()
    label = next(iter(folders.values()))
    if asked.dry_run:
        slurm.chain(label, steps, asked)
        return 0
    slurm.check(asked)
    with prepared():
        prepare(sweep)
    ids = slurm.chain(label, steps, asked)
    for name, folder in folders.items():
        tasks = {seed: place // each for place, (arm, seed) in enumerate(sweep.tasks) if arm == name}
        note_jobs(folder, ids[0], tasks, ids[-1])
    seeds = so_many(len(sweep.tasks), "seed")
    print(f"submitted: job {ids[0]} for {seeds}, {ids[1]} for their reports, {ids[2]} to compare")
    print(f"scripts and logs: {short_path(label / slurm.FOLDER)}/; the table will be {short_path(label / TABLE)}")
    print(f"`pgolf status {' '.join(map(short_path, folders.values()))}` looks")
    return 0


def finish(sweep: Sweep, worth: float | None, failed: list[str]) -> int:
    """The reports, the comparison and what is missing; returns the exit status."""
    folders, notes, missing, ready = sweep.folders(), [], [], list[Path]()
    for name, request in sweep.requests.items():
        seeds = finished_seeds(request, sweep.seeds)
        if seeds:
            record(request, seeds, parts=PARTS[2:])
            ready.append(folders[name])
        left = [seed for seed in sweep.seeds if seed not in seeds]
        if left and (why := why_stopped(folders[name])):
            notes.append(f"{name}: {why}")
        elif left:
            missing.append(f"{name}: seeds {','.join(map(str, left))} are not finished")
    baseline = next(iter(folders.values()))
    if baseline not in ready:
        why = "; ".join(missing + failed)
        raise UserError(f"the baseline has no finished seed ({why}); there is nothing to compare")
    adapts = any({(adapt := recorded_recipe(folder).adapt).kind, adapt.mix} != {"off"} for folder in ready)
    compared = compare_arms(ready, "final" if adapts else "", baseline)
    blocks = [comparison_text(compared), corrected_text(compared, len(folders) - 1, worth)]
    text = "\n\n".join([*blocks, *(["\n".join(notes + missing)] if notes or missing else [])])
    write_text(baseline / TABLE, text + "\n")
    print(text)
    if missing:
        raise UserError(f"not complete: {'; '.join(missing)}")
    return 0
