"""Slurm: batch scripts around pgolf's own commands, their submission, and what is in the queue.

A command can be ended and given again, so a job is a command and Slurm's requeue is its resume. Nothing but sbatch,
squeue, scancel and scontrol is called; no accounting is needed. papers/many-machines.md tells how it behaves.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgolf_core.base.files import UserError, explain_os_errors, write_text
from pgolf_core.lab.shared.places import find_root, short_path
from pgolf_core.lab.shared.usage import UsageError, count

FOLDER = "slurm"
"""In a run's folder: scripts, logs and JOBS."""
JOBS = "slurm-jobs.json"
"""In a run's folder, Jobs: the job that was submitted last, and which of its tasks has which seed."""
WARNING_SECONDS = 90
"""How long before its time limit a job is told to save: a step, the 20 s of grace of a notebook, a busy disk."""
MINUTES, LEAST_MINUTES = 60, 5
"""Of a job, unless --time says otherwise, and at least."""
MOST_RESTARTS = 100
OWN = ("array", "open-mode", "output", "requeue", "no-requeue", "signal", "time", "parsable", "wrap", "test-only")
"""sbatch's options that the script sets itself; -a, -o and -t are three of them."""
PROGRAM = (sys.executable, "-m", "pgolf_core.lab.cli")

SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --time={minutes}
#SBATCH --output="{log}"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{warning}{options}
# Written by pgolf. Ended early, it goes on from the last checkpoint when Slurm starts it again.
cd {root} || exit 1
case $SLURM_ARRAY_TASK_ID in
{cases}
esac
{program} "$@" &
pid=$!
trap 'kill -TERM $pid' USR1              # the time limit is near, or another job wants the node: save, then once more
trap 'ended=yes; kill -TERM $pid' TERM   # scancel, or Slurm's own requeue: save, and no more of it from here
while :; do wait $pid; status=$?; kill -0 $pid 2>/dev/null || break; done
case $status in
75|137|138|143)   # another pgolf is still at it; killed; told to save
    if [ -z "$ended" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
        scontrol requeue "$SLURM_JOB_ID" && sleep 60
    fi;;
esac
exit $status
"""


@dataclass(frozen=True)
class Asked:
    """What the command line says of Slurm."""

    minutes: int
    options: str
    """sbatch's own, as they would be typed."""
    dry_run: bool = False


@dataclass(frozen=True)
class Jobs:
    """What JOBS holds."""

    job: str = ""
    tasks: dict[str, int] = field(default_factory=dict)
    """{seed: task}"""
    last: str = ""
    """The job that the others end with."""


@dataclass(frozen=True)
class Queued:
    """One task of a job, as squeue shows it."""

    state: str
    """In Slurm's words: PENDING, RUNNING, COMPLETING …"""
    node: str
    reason: str
    """Why it waits."""


def add_slurm(parser: argparse.ArgumentParser) -> None:
    """`--on` and what goes with it."""
    option = parser.add_argument
    option("--on", choices=("slurm",), help="submit jobs to Slurm and return, instead of working here")
    about = f"with --on: minutes until a job has to save and queue again (default {MINUTES}, at least {LEAST_MINUTES})"
    option("--time", type=count, metavar="MINUTES", help=about)
    about = 'with --on: further options of sbatch, as "--partition=gpu --gres=gpu:8"'
    option("--slurm", default="", metavar="OPTIONS", help=about)
    option("--dry-run", action="store_true", help="with --on: print the scripts, write and submit nothing")


def asked(options: argparse.Namespace) -> Asked | None:
    """What is asked of Slurm, or None; UsageError for options that cannot be meant."""
    if not options.on:
        if given := [name for name in ("time", "slurm", "dry_run") if getattr(options, name)]:
            raise UsageError(f"--{given[0].replace('_', '-')} goes with --on slurm")
        return None
    minutes = options.time or MINUTES
    if minutes < LEAST_MINUTES:
        raise UsageError(f"--time {minutes}: give at least {LEAST_MINUTES} minutes, or it saves more than it runs")
    try:
        words = shlex.split(options.slurm)
    except ValueError as error:
        raise UsageError(f"--slurm '{options.slurm}': {error}") from None
    for word in words:
        name = word.lstrip("-").partition("=")[0]
        long = word.startswith("--") and any(own.startswith(name) for own in OWN)
        if not word.isprintable() or long or (word[:2] in ("-a", "-o", "-t") and word[:2] != "--"):
            raise UsageError(f"--slurm '{word}': pgolf sets that itself (--time has minutes); leave it out")
    if not options.dry_run and not shutil.which("sbatch"):
        raise UserError("sbatch is not installed here; give the command where Slurm is, or --dry-run to see the script")
    return Asked(minutes, shlex.join(words), options.dry_run)


def script(name: str, commands: Sequence[Sequence[str]], folder: Path, given: Asked) -> str:
    """The text of a batch script whose array has one task for each of the commands; logs go to `folder`."""
    cases = [f"{number}) set -- {shlex.join(words)};;" for number, words in enumerate(commands)]
    return SCRIPT.format(
        name=name, last=len(commands) - 1, minutes=given.minutes, warning=WARNING_SECONDS, restarts=MOST_RESTARTS,
        log=f"{str(folder).replace('%', '%%')}/{name}-%A_%a.log", root=shlex.quote(str(find_root())),
        options=f"\n#SBATCH {given.options}" if given.options else "", cases="\n".join(cases),
        program=shlex.join(PROGRAM),
    )  # fmt: skip


def check(given: Asked) -> None:
    """UserError if Slurm would not take a job with these options; nothing is submitted."""
    _call(["sbatch", "--test-only"], script("pgolf", [["--help"]], Path("/tmp"), given))


def chain(folder: Path, steps: Mapping[str, Sequence[Sequence[str]]], given: Asked) -> list[str]:
    """Write a script for each step and submit it to begin when all tasks of the one before have ended; returns the ids.

    `steps` is {name: commands}. If one is refused, those before it are cancelled. A dry run prints the scripts alone.
    """
    texts = {name: script(name, commands, folder / FOLDER, given) for name, commands in steps.items()}
    ids: list[str] = []
    for name, text in texts.items():
        path = folder / FOLDER / f"{name}.sbatch"
        if given.dry_run:
            print(f"# {short_path(path)}\n{text}")
            continue
        write_text(path, text)
        after = [f"--dependency=afterany:{ids[-1]}"] if ids else []
        try:
            ids.append(_call(["sbatch", "--parsable", *after, str(path)]).partition(";")[0].strip())
        except UserError:
            for earlier in ids:
                _call(["scancel", earlier])
            raise
    return ids


def queue() -> dict[tuple[str, str], Queued]:
    """{(job, task): …} of this user's tasks in the queue; empty without Slurm. UserError where it does not answer."""
    if not shutil.which("squeue"):
        return {}
    lines = _call(["squeue", "--me", "--noheader", "--array", "--format=%F|%K|%T|%N|%r"]).splitlines()
    rows = [line.split("|", 4) for line in lines if line.count("|") >= 4]
    return {(job, task): Queued(state, node, reason) for job, task, state, node, reason in rows}


def _call(command: Sequence[str], text: str = "") -> str:
    """Standard output of one of Slurm's commands; UserError with what it says where it fails."""
    with explain_os_errors(f"cannot start {command[0]}"):
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    if done.returncode:
        said = [line.partition("error: ")[2] or line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{command[0]}: {'; '.join(said[-2:]) or f'exit status {done.returncode}'}")
    return done.stdout
