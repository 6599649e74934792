"""The command line: `pgolf COMMAND …`. A command is a folder of the lab with a file command.py, or a file of the lab.

Each has `add(parser)` for its options and `run(options)`, which returns the exit status; only the one that is called is
imported. Exit status: 0 done, 1 a run or check failed, 2 wrong usage, 75 another pgolf is at work there, 130 Ctrl-C
(128 + the signal's number).
"""

import argparse
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pgolf_core.base.files import UserError
from pgolf_core.lab.shared.tables import encodable
from pgolf_core.lab.shared.usage import UsageError

COMMANDS = {
    "record": "run a recipe's seven notebooks for every seed, and report",
    "recipes": "list the recipes, show one resolved, or make one of a published run command",
    "data": "prepare a corpus, or list what is prepared",
    "eval": "score an artifact from its file alone",
    "plan": "a recipe's parameters, tokens and bytes before anything runs",
    "sweep": "record variants of a recipe side by side, and compare them",
    "status": "how far the seeds of runs have come, and where they are at work",
    "compare": "compare runs and published records over their seeds, each with the baseline",
    "verify": "check what an artifact, a run or a submission folder claims",
    "submission": "write a finished run as a submission folder",
    "gallery": "show a finished run's notebooks and report as pages with pictures, in papers/gallery",
    "export": "write a recipe as one script, train_gpt.py, that needs nothing of pgolf",
    "bench": "time the fast code against the plainest correct code, or profile a step",
    "lab": "open JupyterLab on the notebooks; further options are JupyterLab's",
}
TAKES_OPTIONS = "--slurm"
"""The option whose value is options of another program."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Every foreseeable mistake is one line on stderr."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # it was closed; what this process starts cannot do without
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encodable(stream)
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        status = options.run(options)
        sys.stdout.flush()
        return status
    except (UserError, ModuleNotFoundError) as error:
        part = getattr(error, "name", "")  # of what could not be imported
        said = f"{part} is not installed; `make setup` installs all that pgolf needs" if part else error
        print(f"pgolf: error: {said}", file=sys.stderr)
        return getattr(error, "status", 1)
    except KeyboardInterrupt as stop:
        signum = getattr(stop, "signum", 0)  # of a run, which has ended in order
        without = " without --fresh" if signum and options.fresh else ""
        how = f" ({stop}); the same command{without} goes on from here" if signum else ""
        print(f"pgolf: stopped{how}", file=sys.stderr)
        return 128 + (signum or signal.SIGINT)
    except OSError as error:
        if error.filename is None:  # a stream's, most likely; else Python would complain once more at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            what = error.filename or "cannot write the output"
            print(f"pgolf: error: {what}: {error.strerror or error}", file=sys.stderr)
        return 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with the command's `run`; UsageError for what cannot be meant."""
    parser = _Parser(prog="pgolf", description="Train, pack, score and report small language models, by recipe.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    called = next((word for word in arguments if not word.startswith("-")), "")
    for name, about in COMMANDS.items():
        made = commands.add_parser(name, help=about, description=about)
        if name == called:
            folder = (Path(__file__).parent / name).is_dir()
            module = importlib.import_module(f"pgolf_core.lab.{name}" + (".command" if folder else ""))
            module.add(made)
            made.set_defaults(run=module.run)
    words = list(arguments)
    while TAKES_OPTIONS in words[:-1]:  # argparse takes a value with leading dashes for an option of its own
        place = words.index(TAKES_OPTIONS)
        words[place : place + 2] = [f"{TAKES_OPTIONS}={words[place + 1]}"]
    if called != "lab":
        _refuse_empty(words, parser)
    options, further = parser.parse_known_args(words)
    if further and called != "lab":
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    options.further = further
    return options


def _refuse_empty(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """UsageError for a value that is empty, as of a variable that is not set: the default would be taken in silence."""
    for before, word in zip(["", *words], words, strict=False):
        empty = word[:-1] if re.fullmatch(r"--[a-z-]+=", word) and word != f"{TAKES_OPTIONS}=" else ""
        if empty or not word.strip():
            what = empty or (before if before.startswith("--") else "an argument")
            parser.error(f"{what} is empty; give it a value, or leave it out")


if __name__ == "__main__":
    sys.exit(main())
