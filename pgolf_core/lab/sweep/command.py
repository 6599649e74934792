"""`pgolf sweep`: a recipe's variants with the same seeds, one after the other or as jobs of Slurm, and compared."""

import argparse

from pgolf_core.lab import slurm
from pgolf_core.lab.record.command import add_run, request_of
from pgolf_core.lab.shared.usage import UsageError, count, whole_numbers


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf sweep`."""
    add_run(parser)
    option = parser.add_argument
    about = "a variant; give at least two. NAME alone is the recipe as it is; the first is the baseline"
    option("--arm", action="append", default=[], metavar="NAME:KEY=VALUE,…", help=about)
    about = "give an arm no further seed once its validation at this step, over two seeds or more, excludes the best"
    option("--stop-at", type=count, default=0, metavar="STEP", help=about)
    about = "a difference that would matter: the table says how many seeds show it (default: the challenge's margin)"
    option("--worth", type=float, default=None, metavar="BPB", help=about)
    about = "with --on: so many seeds one after another in a job, where starting one costs more than a seed (default 1)"
    option("--per-job", type=count, default=1, metavar="N", help=about)
    option = parser.add_mutually_exclusive_group().add_argument
    about = "what a Slurm job passes to itself: the seeds of arms that it runs, by their places"
    option("--task", type=whole_numbers, default=(), metavar="N,…", help=about)
    option("--finish", action="store_true", help="train nothing: the reports and the comparison of what is finished")


def run(options: argparse.Namespace) -> int:
    """Run what is asked for and print the comparison; returns the exit status."""
    asked, request = slurm.asked(options), request_of(options)
    if options.worth is not None and not 0 < options.worth < 10:
        raise UsageError(f"--worth {options.worth}: give a difference in bits per byte, as 0.005")
    from pgolf_core.lab.record.kernels import prepared
    from pgolf_core.lab.sweep import arms

    sweep = arms.sweep_of(request, list(map(arms.arm, options.arm)), options.seeds, options.stop_at)
    if beyond := [place for place in options.task if place >= len(sweep.tasks)]:
        raise UsageError(f"--task {beyond[0]}: there are {len(sweep.tasks)}, from 0")
    if options.per_job > 1 and not asked:
        raise UsageError("--per-job goes with --on slurm")
    if asked and (options.task or options.finish):
        raise UsageError("--task and --finish do their work here; leave --on slurm out")
    if options.fresh and (options.task or options.finish):
        raise UsageError("--fresh deletes before a whole sweep, and --task and --finish begin none; leave it out")
    if options.worth is not None and options.task:
        raise UsageError("--worth is for the comparison, and --task makes none; leave it out")
    if asked:
        return arms.submit(sweep, request, options, asked)
    with prepared():
        if options.task:
            return 1 if arms.run_tasks(sweep, [sweep.tasks[place] for place in options.task]) else 0
        return arms.finish(sweep, options.worth, [] if options.finish else arms.run_all(sweep))
