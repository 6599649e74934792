"""`pgolf record`: a recipe's notebooks for every seed, and the report; here, or as jobs of Slurm."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgolf_core.base.files import UserError, write_json
from pgolf_core.lab import slurm
from pgolf_core.lab.shared.places import short_path
from pgolf_core.lab.shared.usage import (
    UsageError,
    add_data,
    add_set,
    checked_recipe,
    count,
    place,
    recipe_argument,
    whole_numbers,
)

if TYPE_CHECKING:
    from pgolf_core.lab.record.folder import RunRequest

DEFAULT_SEEDS = "1337,1338,1339"


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf record`."""
    add_run(parser)
    option = parser.add_mutually_exclusive_group().add_argument
    option("--no-report", action="store_true", help="end before the report, which is over all seeds")
    option("--report-only", action="store_true", help="train nothing: the report of the seeds that are finished")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Recipe, seeds, how and where to run them: what `pgolf sweep` takes too."""
    parser.add_argument("recipe", help="name of a recipe (`pgolf recipes`), or a path ending in .toml")
    option = parser.add_argument
    option("--seeds", type=_seeds, default=DEFAULT_SEEDS, help=f"comma-separated (default {DEFAULT_SEEDS})")
    about = (
        "processes that train together, one for each GPU of this machine (default 1); several machines: see Several "
        "hosts in papers/commands.md"
    )
    option("--nproc", type=count, default=1, metavar="N", help=about)
    add_set(parser)
    option("--runs", default="", metavar="DIR", help="where runs go (default: the repository's runs/)")
    option("--name", default="", help="name of the run's folder instead of the recipe's")
    option("--fresh", action="store_true", help="delete these seeds' earlier results and redo them")
    add_data(parser)
    slurm.add_slurm(parser)


def request_of(options: argparse.Namespace) -> RunRequest:
    """The run that the options of `add_run` ask for; UsageError for what cannot be meant."""
    from pgolf_core.lab.record.folder import RunRequest
    from pgolf_core.lab.record.launch import hosts
    from pgolf_core.text.shards import check_ranks

    recipe = recipe_argument(options.recipe)
    try:
        check_ranks(options.nproc * hosts(), checked_recipe(recipe, options.set).data)
    except UserError as error:
        raise UsageError(str(error)) from None
    return RunRequest(
        recipe, tuple(options.set), data=options.data, runs_dir=place(options.runs) or "runs", name=options.name,
        cache_dir=place(options.cache), fresh=options.fresh, processes=options.nproc,
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run every seed and print the table and where the report is; returns the exit status."""
    asked = slurm.asked(options)
    request = request_of(options)
    if asked and (options.no_report or options.report_only):
        raise UsageError("--no-report and --report-only do their work here; leave --on slurm out")
    if options.report_only and options.fresh:
        raise UsageError("--fresh deletes the results that --report-only reports; leave one of them out")
    if asked:
        return _submit(request, options.seeds, asked)
    from pgolf_core.lab.record.kernels import prepared

    with prepared():  # before this process imports what it needs itself
        return _record(request, options)


def _record(request: RunRequest, options: argparse.Namespace) -> int:
    from pgolf_core.lab.record import notebooks
    from pgolf_core.lab.report.seeds import read_summary, seeds_table_text

    seeds, parts = options.seeds, notebooks.PARTS
    if options.report_only:
        seeds, parts = notebooks.finished_seeds(request, seeds), parts[2:]
        if not seeds:
            raise UserError(f"none of the seeds {_listed(options.seeds)} is finished; there is nothing to report")
    elif options.no_report:
        parts = parts[:2]
    summary = notebooks.record(request, seeds, parts=parts)
    if "report" in parts:
        print(seeds_table_text(read_summary(summary.parent)))
        print(f"report: {short_path(summary.with_name('report.html'))}")
    if missing := [seed for seed in options.seeds if seed not in seeds]:
        raise UserError(f"missing in this report, since not finished: seeds {_listed(missing)}")
    return 0


def words_of(request: RunRequest, seeds: Sequence[int]) -> list[str]:
    """The command that records this request's seeds, whoever gives it; --fresh is left out."""
    given = {"--data": request.data, "--cache": str(request.cache_dir), "--name": request.name}
    words = ["record", request.recipe, "--seeds", _listed(seeds), "--runs", str(request.runs_dir)]
    words += ["--nproc", str(request.processes)] if request.processes > 1 else []
    words += [word for change in request.overrides for word in ("--set", change)]
    return [*words, *(word for name, value in given.items() if value for word in (name, value))]


def note_jobs(folder: Path, job: str, tasks: dict[int, int], last: str) -> None:
    """Keep in a run's folder which of the job's tasks has which seed, for `pgolf status`."""
    jobs = slurm.Jobs(job, {str(seed): task for seed, task in tasks.items()}, last)
    write_json(folder / slurm.JOBS, dataclasses.asdict(jobs))


def _submit(request: RunRequest, seeds: Sequence[int], asked: slurm.Asked) -> int:
    """Run the stages that the seeds share, then submit a job for each seed and one for the report."""
    from pgolf_core.lab.record import folder, notebooks
    from pgolf_core.lab.record.kernels import prepared

    if not asked.dry_run:
        slurm.check(asked)
    label = folder.locate_run(request).recipe_folder
    steps = {
        "seeds": [[*words_of(request, [seed]), "--no-report"] for seed in seeds],
        "report": [[*words_of(request, seeds), "--report-only"]],
    }
    if asked.dry_run:
        slurm.chain(label, steps, asked)
        return 0
    with prepared():
        notebooks.record(request, seeds, parts=notebooks.PARTS[:1])
    ids = slurm.chain(label, steps, asked)
    note_jobs(label, ids[0], {seed: task for task, seed in enumerate(seeds)}, ids[-1])
    print(f"submitted: job {ids[0]} for seeds {_listed(seeds)}, then job {ids[1]} for the report")
    print(f"scripts and logs: {short_path(label / slurm.FOLDER)}{os.sep}; `pgolf status {short_path(label)}` looks")
    return 0


def _listed(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))


def _seeds(text: str) -> list[int]:
    seeds = whole_numbers(text)
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"'{text}' has a seed twice")
    return seeds
