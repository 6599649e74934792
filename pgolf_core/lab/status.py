"""`pgolf status`: how far the seeds of runs have come and where they are at work, from run folders and Slurm's queue.

Nothing but these files is read, and nothing is written, so it may look at any run at any time, on any machine.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pgolf_core.base.files import UserError, read_json
from pgolf_core.base.names import METRICS, SEED_RESULT
from pgolf_core.base.strict import build
from pgolf_core.lab import slurm
from pgolf_core.lab.compare.results import contradictions, final_score, recorded_recipe, seed_folders
from pgolf_core.lab.record.lock import holder_of
from pgolf_core.lab.shared.places import RECIPE_FILE, SEED_FOLDER
from pgolf_core.lab.shared.progress import last_step
from pgolf_core.lab.shared.tables import so_many, table_text
from pgolf_core.lab.shared.usage import add_json, note
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.result import Result

T = TypeVar("T")
WATCH_SECONDS = 2.0
OVER = ("finished", "damaged", "stopped", "not begun")
"""States that nothing will change by itself."""


@dataclass(frozen=True)
class SeedStatus:
    """One seed of one run, now."""

    run: str
    seed: int
    state: str
    """One of OVER; `queued` or another word of Slurm's; or the notebook that is at work."""
    where: str
    """Machine, or why Slurm lets it wait."""
    step: int | None
    bpb: float | None
    """The score that the seed is known by; before there is a result, the last validation's."""
    seconds_left: float | None
    """Of training, by the recipe's limit that is nearer."""


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf status`."""
    parser.epilog = "A result.json is held to itself alone; `pgolf verify` holds it to the other files of its run."
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, as runs/local_10min_1mb/local-smoke")
    parser.add_argument("--watch", action="store_true", help="redraw until nothing is at work or queued any more")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print one row a seed; returns the exit status."""
    while True:
        folders = [Path(folder).expanduser() for folder in options.runs]
        queued: dict[tuple[str, str], slurm.Queued] = {}
        if any((folder / slurm.JOBS).is_file() for folder in folders):
            queued = _known("what waits in Slurm's queue", slurm.queue, queued)
        found = [one for folder in folders for one in statuses(folder, queued)]
        text = json.dumps([vars(one) for one in found], indent=2) if options.json else status_text(found)
        clear = "\033[H\033[J" if options.watch and sys.stdout.isatty() else ""
        print(clear + text, flush=True)
        if not options.watch or all(one.state in OVER for one in found):
            return 0
        time.sleep(WATCH_SECONDS)


def _known(what: str, read: Callable[[], T], without: T) -> T:
    """What is read; where that cannot be, a note says `what` is not known."""
    try:
        return read()
    except UserError as error:
        note(f"{what} is not known: {error}")
        return without


def status_text(found: Sequence[SeedStatus]) -> str:
    """The rows as a table, and how many seeds are in which state."""
    header = ["run", "seed", "state", "where", "step", "bpb", "left"]
    rows = [
        [one.run, one.seed, one.state, one.where or None, one.step, None if one.bpb is None else f"{one.bpb:.4f}",
         _minutes(one.seconds_left)]
        for one in found
    ]  # fmt: skip
    states = [one.state for one in found]
    summary = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{table_text(header, rows, left=4)}\n\n{so_many(len(found), 'seed')}: {summary}"


def _minutes(seconds: float | None) -> str | None:
    return None if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def statuses(folder: Path, queued: Mapping[tuple[str, str], slurm.Queued]) -> Iterator[SeedStatus]:
    """Every seed that a run's folder or its jobs know, by seed; UserError for what is no run's folder."""
    if not (folder / RECIPE_FILE).is_file():
        raise UserError(f"{folder} is no run's folder: it has no {RECIPE_FILE}; name one, as runs/TRACK/RECIPE")
    if SEED_FOLDER.fullmatch(folder.resolve().name):
        raise UserError(f"{folder} is a seed's folder; name its run's, {folder.parent}")
    recipe = recorded_recipe(folder, as_it_stands=True)
    path, jobs = folder / slurm.JOBS, slurm.Jobs()
    if path.is_file():
        jobs = _known("which jobs were submitted", lambda: build(slurm.Jobs, read_json(path), str(path)), jobs)
    for seed in sorted({*seed_folders(folder), *(int(seed) for seed in jobs.tasks if seed.isdecimal())}):
        task = queued.get((jobs.job, str(jobs.tasks.get(str(seed), ""))))
        yield _status(folder, seed, recipe, task)


def _status(folder: Path, seed: int, recipe: Recipe, task: slurm.Queued | None) -> SeedStatus:
    place = folder / f"seed{seed}"
    now, holder = last_step(place / METRICS, recipe), holder_of(place)
    state, step = "stopped" if (place / "notebooks").is_dir() else "not begun", now.step if now else None
    found = SeedStatus(folder.resolve().name, seed, state, "", step, _last_bpb(place / METRICS), None)
    if (place / SEED_RESULT).is_file():
        try:
            result = Result.read(place / SEED_RESULT)
            for complaint in contradictions(result, seed):
                raise UserError(f"{place / SEED_RESULT}: {complaint}")
        except UserError as error:
            note(str(error))
            return replace(found, state="damaged", bpb=None)
        return replace(found, state="finished", step=result.steps, bpb=getattr(result, f"{final_score(result)}_bpb"))
    if holder and holder.is_alive():
        stage = max((path.stem for path in place.glob("notebooks/*.ipynb")), default="begins")
        left = now.seconds_left if now and stage.startswith("03") and math.isfinite(now.seconds_left) else None
        where = f"{holder.node}, job {holder.job}" if holder.job else holder.node
        return replace(found, state=stage, where=where, seconds_left=left)
    if task:
        state = "queued" if task.state == "PENDING" else task.state.lower()
        return replace(found, state=state, where=task.node or task.reason)
    return found


def _last_bpb(path: Path) -> float | None:
    """The last validation's score in a metrics file; damaged lines are passed over."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    for line in reversed(lines):
        if b'"kind": "val"' in line:
            with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
                bpb = float(json.loads(line)["bpb"])
                return bpb if math.isfinite(bpb) else None
    return None
