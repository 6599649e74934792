"""`pgolf verify`: what is true of an artifact, a run or a submission folder, by its files: one row for each claim.

Four verdicts: `holds`; `fails`; `cannot be checked here`, where something needed is missing or belongs to another
machine, with the reason as evidence; `sampled`, where a random part of a score was taken and the claim lies within its
interval. Files are parsed, never unpickled or executed (but with `run_code`), and nothing is read whose size is not
bounded. Scores are taken anew from the artifact alone, in a fresh process.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgolf_core.base.files import UserError
from pgolf_core.base.names import SCRIPT_ARTIFACT
from pgolf_core.lab.shared.places import RECIPE_FILE, SUBMISSION_FILE
from pgolf_core.lab.shared.tables import entries_text, width
from pgolf_core.lab.shared.usage import Lines, add_data, add_json, note, place, span_seconds
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, SAMPLED, UNKNOWN, VERDICTS, Row, plain
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.untrusted import is_own_run

ALONE_HAS_CODE = "only a submission's folder has code of its own"
VERDICTS_IN_WORDS = """\
One row for each claim, with what its verdict rests on:
  holds                   found to be so, here and now
  fails                   found to be otherwise
  sampled                 as far as a random part of a score can tell, it holds
  cannot be checked here  what it takes is missing, or is another machine's
Several paths: a line each, with --json a JSON object a line; a path that cannot
be read is such a line too.
Exit status 0 if nothing fails, 1 if something does or cannot be read, 2 for a
wrong command.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf verify`."""
    parser.formatter_class, parser.epilog = Lines, VERDICTS_IN_WORDS
    about = "a model.pgolf, a run's folder (of a seed or a recipe), or a submission's"
    parser.add_argument("path", nargs="+", help=about)
    about = "check a score that would take longer on random windows alone"
    parser.add_argument("--budget-seconds", type=span_seconds, metavar="S", help=about)
    parser.add_argument("--run-code", action="store_true", help="also run a submission's own train_gpt.py; no sandbox")
    add_data(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Check and print; returns 1 if a check fails, or one of several paths cannot be read."""
    how = How(place(options.cache), options.budget_seconds, sys.stderr.isatty(), options.data, options.run_code)
    if len(options.path) > 1:
        return max([_line(path, how, options.json) for path in options.path])
    rows = verify(Path(options.path[0]), how)
    print(json.dumps([row._asdict() for row in rows], indent=2) if options.json else as_text(rows))
    return 1 if any(row.verdict == FAILS for row in rows) else 0


def _line(path: str, how: How, as_json: bool) -> int:
    """One of several paths in one line, whatever it is; returns its exit status."""
    try:
        rows, error = verify(Path(path), how), ""
    except Exception as found:  # one bad folder must not end the review of the others
        rows, error = [], plain(f"{type(found).__name__}: {found}".removeprefix("UserError: "))
    verdict = f"cannot be read: {error}" if error else verdict_of(rows)
    said = {"path": path, "verdict": verdict, "error": error, "checks": [row._asdict() for row in rows]}
    print(json.dumps(said) if as_json else f"{plain(path)}: {verdict}", flush=True)
    return 1 if error or any(row.verdict == FAILS for row in rows) else 0


def verify(path: Path, how: How) -> list[Row]:
    """The checks of an artifact, a seed's run folder, a recipe's with all its seeds, or any submission folder.

    Raises UserError only for a path that does not exist, and for a folder that holds nothing of all these, or what an
    exported script left.
    """
    from pgolf_core.lab.compare.results import seed_folders

    if not path.exists():
        raise UserError(f"{path} does not exist; name an artifact, a run's folder or a submission's")
    if not path.is_dir():
        from pgolf_core.lab.verify.run import artifact_rows  # with torch, as the two below

        _note_idle(path, {"--run-code": how.run_code}, ALONE_HAS_CODE)
        if not how.data:
            idle = {"--budget-seconds": how.budget_seconds is not None, "--cache": bool(how.cache_dir)}
            _note_idle(path, idle, "an artifact is scored with --data alone")
        return artifact_rows(path, how)
    try:
        is_submission, has_recipe = (path / SUBMISSION_FILE).exists(), (path / RECIPE_FILE).exists()
        left = [] if is_submission or has_recipe else [*path.glob(SCRIPT_ARTIFACT), *path.glob(f"*/{SCRIPT_ARTIFACT}")]
        is_recipe = not is_submission and bool(seed_folders(path))
    except OSError as error:
        return [Row("the folder can be read", FAILS, f"{path}: {error.strerror}")]
    if left:
        raise UserError(f"{path} is an exported script's, which keeps no recipe; name {left[0]}, and --data for scores")
    if is_recipe or is_own_run(path):
        _note_idle(path, {"--data": bool(how.data)}, "a run is scored on its own dataset")
        _note_idle(path, {"--run-code": how.run_code}, ALONE_HAS_CODE)
    if is_recipe:
        from pgolf_core.lab.verify.run import recipe_rows

        return recipe_rows(path, how)
    if is_own_run(path):
        from pgolf_core.lab.verify.reading.reviewed import Seed
        from pgolf_core.lab.verify.run import seed_rows

        return seed_rows(Seed(path, how))
    from pgolf_core.lab.verify.submission import submission_rows

    return submission_rows(path, how)


def _note_idle(path: Path, given: Mapping[str, bool], why: str) -> None:
    """Name the options that were given and change nothing there."""
    if idle := [option for option, is_given in given.items() if is_given]:
        note(f"{' and '.join(idle)} {'have' if len(idle) > 1 else 'has'} no effect on {path}: {why}")


def verdict_of(rows: Sequence[Row]) -> str:
    """All rows in one sentence."""
    names = {verdict: [row.check for row in rows if row.verdict == verdict] for verdict in VERDICTS}
    failing = names[FAILS]
    said = f"{len(names[HOLDS])} of {len(rows)} checks hold"
    if failing:
        said = f"{len(failing)} of {len(rows)} checks {'fails' if len(failing) == 1 else 'fail'}: {', '.join(failing)}"
    return said + "".join(f"; {len(names[verdict])} {verdict}" for verdict in (UNKNOWN, SAMPLED) if names[verdict])


def as_text(rows: Sequence[Row]) -> str:
    """The verdict in one sentence, then every check with its evidence below it, what fails first."""
    blocks = [textwrap.fill(verdict_of(rows), width())]
    for verdict in VERDICTS:
        some = [("-", row.check, _details(row)) for row in rows if row.verdict == verdict]
        blocks += [f"{verdict}:\n{entries_text(some)}"] if some else []
    return "\n\n".join(blocks)


def _details(row: Row) -> str:
    more = {"where": row.where, "to be right": row.right}  # of what fails
    return "\n".join([row.evidence, *(f"{what}: {text}" for what, text in more.items() if text)])
