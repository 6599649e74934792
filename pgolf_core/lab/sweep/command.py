"""`pgolf sweep`: a recipe's variants with the same seeds, one after the other or as jobs of Slurm, and compared."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgolf_core.base.files import UserError, write_text
from pgolf_core.lab import slurm
from pgolf_core.lab.record.command import add_run, note_jobs, request_of, words_of
from pgolf_core.lab.shared.places import short_path
from pgolf_core.lab.shared.usage import UsageError, count, whole_numbers

if TYPE_CHECKING:
    from pgolf_core.lab.sweep.arms import Sweep

TABLE = "sweep.txt"
"""In the baseline's folder: what the command printed at its end."""


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf sweep`."""
    add_run(parser)
    option = parser.add_argument
    about = "a variant, any number of times; a NAME alone is the recipe as it is; the first is the baseline"
    option("--arm", action="append", default=[], metavar="NAME:KEY=VALUE,…", help=about)
    about = "give an arm no further seed once its validation at this step, over two seeds or more, excludes the best"
    option("--stop-at", type=count, default=0, metavar="STEP", help=about)
    about = "a difference that would matter: the table says how many seeds show it (default: the challenge's margin)"
    option("--worth", type=float, default=None, metavar="BPB", help=about)
    about = "with --on: so many seeds one after another in a job, where starting one costs more than a seed (default 1)"
    option("--per-job", type=count, default=1, metavar="N", help=about)
    option = parser.add_mutually_exclusive_group().add_argument
    about = "seeds of arms by their places, comma-separated: what a job does"
    option("--task", type=whole_numbers, default=(), metavar="N,…", help=about)
    option("--finish", action="store_true", help="train nothing: the reports and the comparison of what is finished")


def run(options: argparse.Namespace) -> int:
    """Run what is asked for and print the comparison; returns the exit status."""
    asked, request = slurm.asked(options), request_of(options)
    if options.worth is not None and not 0 < options.worth < 10:
        raise UsageError(f"--worth {options.worth}: give a difference in bits per byte, as 0.005")
    from pgolf_core.lab.sweep import arms

    try:
        given = [arms.arm(text) for text in options.arm]
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--arm {error}") from None
    sweep = arms.sweep_of(request, given, options.seeds, options.stop_at)
    if beyond := [place for place in options.task if place >= len(sweep.tasks)]:
        raise UsageError(f"--task {beyond[0]}: there are {len(sweep.tasks)}, from 0")
    if options.per_job > 1 and not asked:
        raise UsageError("--per-job goes with --on slurm")
    if asked and not options.task:
        return _submit(sweep, options, asked)
    from pgolf_core.lab.record.kernels import prepared

    with prepared():
        if options.task:
            return 1 if _run_tasks(sweep, [sweep.tasks[place] for place in options.task]) else 0
        return _finish(sweep, options.worth, [] if options.finish else _run_all(sweep))


def _run_task(sweep: Sweep, name: str, seed: int) -> None:
    """One seed of one arm, unless the arm was given up; the baseline never is, since the others are held against it."""
    from pgolf_core.lab.record.notebooks import PARTS, finished_seeds, record
    from pgolf_core.lab.sweep.stopping import is_stopped, why_stopped

    request, folders = dataclasses.replace(sweep.requests[name], fresh=False), sweep.folders()
    if finished_seeds(request, [seed]):
        return
    if name != next(iter(folders)) and is_stopped(folders[name], name, folders, sweep.stop_at):
        print(f"{name}, seed {seed}: not begun; {why_stopped(folders[name])}", file=sys.stderr)
    else:
        record(request, [seed], parts=PARTS[:2])


def _run_all(sweep: Sweep) -> list[str]:
    """What the arms have in common, then all tasks; what failed, in words."""
    from pgolf_core.lab.sweep.arms import prepare

    prepare(sweep)
    return _run_tasks(sweep, sweep.tasks)


def _run_tasks(sweep: Sweep, tasks: Sequence[tuple[str, int]]) -> list[str]:
    """(arm, seed) one after the other; what failed, in words. Seeds that others are at work on are left to them."""
    from pgolf_core.lab.record.lock import Busy
    from pgolf_core.lab.record.notebooks import RunFailed

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
        raise Busy(f"{left} seeds were left to others; whoever ends last compares, or `pgolf sweep … --finish` does")
    return failed


def _submit(sweep: Sweep, options: argparse.Namespace, asked: slurm.Asked) -> int:
    """Submit a job of all arms and seeds, one of all reports, and one that compares."""
    from pgolf_core.lab.record.kernels import prepared
    from pgolf_core.lab.sweep.arms import prepare

    places, each = range(len(sweep.tasks)), options.per_job
    jobs = [",".join(map(str, places[first : first + each])) for first in places[::each]]
    base = request_of(options)
    words = ["sweep", *words_of(base, sweep.seeds)[1:], *(word for text in options.arm for word in ("--arm", text))]
    words += ["--stop-at", str(sweep.stop_at)] if sweep.stop_at else []
    worth = ["--worth", str(options.worth)] if options.worth else []
    reports = [[*words_of(request, sweep.seeds), "--report-only"] for request in sweep.requests.values()]
    steps = {
        "seeds": [[*words, "--task", job] for job in jobs],
        "reports": reports,
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
    print(f"submitted: job {ids[0]} for {len(sweep.tasks)} seeds, {ids[1]} for their reports, {ids[2]} to compare")
    print(f"scripts and logs: {short_path(label / slurm.FOLDER)}/; the table will be {short_path(label / TABLE)}")
    print(f"`pgolf status {' '.join(map(short_path, folders.values()))}` looks")
    return 0


def _finish(sweep: Sweep, worth: float | None, failed: list[str]) -> int:
    """The reports, the comparison and what is missing; returns the exit status."""
    from pgolf_core.lab.compare.comparison import compare_arms
    from pgolf_core.lab.compare.text import comparison_text
    from pgolf_core.lab.record.folder import recorded_recipe
    from pgolf_core.lab.record.notebooks import PARTS, finished_seeds, record
    from pgolf_core.lab.sweep.corrected import corrected_text
    from pgolf_core.lab.sweep.stopping import why_stopped

    folders, notes, missing = sweep.folders(), [], []
    ready: list[Path] = []
    for name, request in sweep.requests.items():
        request = dataclasses.replace(request, fresh=False)
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
        raise UserError(
            f"the baseline has no finished seed ({'; '.join(missing + failed)}); there is nothing to compare"
        )
    adapts = any({(adapt := recorded_recipe(folder).adapt).kind, adapt.mix} != {"off"} for folder in ready)
    compared = compare_arms(ready, "final" if adapts else "", baseline)
    blocks = [comparison_text(compared), corrected_text(compared, len(folders) - 1, worth)]
    text = "\n\n".join([*blocks, *(["\n".join(notes + missing)] if notes or missing else [])])
    write_text(baseline / TABLE, text + "\n")
    print(text)
    if missing:
        raise UserError(f"not complete: {'; '.join(missing)}")
    return 0
