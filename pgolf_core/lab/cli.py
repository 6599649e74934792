"""The command line: `pgolf COMMAND …`. Heavy imports stay inside the commands, so that help and lists are quick.

Exit status: 0 done, 1 a run or check failed, 2 wrong usage, 130 Ctrl-C (128 + the signal's number).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pgolf_core.files import UserError
from pgolf_core.lab.bench_command import add_bench, run_bench
from pgolf_core.lab.data_command import add_corpora, corpus_lines, prepare_corpus
from pgolf_core.lab.recipes_command import add_recipes, run_recipes
from pgolf_core.lab.usage import UsageError, checked_recipe, count, recipe_argument

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_SEEDS = "1337,1338,1339"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Every foreseeable mistake is one line on stderr."""
    try:
        options = _options(arguments)
        status = options.command(options)
        sys.stdout.flush()
        return status
    except UsageError as error:
        return _complain(error, 2)
    except UserError as error:
        return _complain(error, 1)
    except KeyboardInterrupt as stop:
        if not getattr(stop, "told", False):
            print("pgolf: stopped", file=sys.stderr)
        return 128 + getattr(stop, "signum", signal.SIGINT)
    except ModuleNotFoundError as error:
        room = (error.name or "").removeprefix("pgolf_core.lab.")
        if room != error.name:
            return _complain(UserError(f"the part that does this ({room}) is not there yet"), 1)
        return _complain(UserError(f"{error.name} is not installed; `make setup` installs all that pgolf needs"), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its exit
        return 1


def _complain(error: Exception, status: int) -> int:
    print(f"pgolf: error: {error}", file=sys.stderr)
    return status


# ---------------------------------------------------------------------- the commands' arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pgolf", description="Train, pack, score and report small language models, by recipe.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=run)
        return made

    def add_json(made: argparse.ArgumentParser) -> None:
        made.add_argument("--json", action="store_true", help="print JSON instead of a table")

    def add_cache(made: argparse.ArgumentParser) -> None:
        made.add_argument("--cache", default="", metavar="DIR", help="folder of prepared datasets, not the user's")

    def add_data(made: argparse.ArgumentParser) -> None:
        made.add_argument("--data", default="", metavar="NAME", help="prepared dataset instead of the recipe's own")
        add_cache(made)

    def add_set(made: argparse.ArgumentParser) -> None:
        made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as model.num_layers=12")

    made = command("record", _record, "run a recipe's seven notebooks for every seed, and report")
    made.add_argument("recipe", help="name of a recipe (`pgolf recipes`), or a path ending in .toml")
    made.add_argument("--seeds", type=_seeds, default=DEFAULT_SEEDS, help=f"comma-separated (default {DEFAULT_SEEDS})")
    made.add_argument(
        "--nproc",
        type=count,
        default=1,
        metavar="N",
        help="processes that train together, one a device; with several hosts set torchrun's PET_NNODES, "
        "PET_NODE_RANK=0 and PET_MASTER_ADDR here, and run torchrun over pgolf_core.train_main on the others",
    )
    add_set(made)
    made.add_argument("--runs", default="", metavar="DIR", help="where runs go (default: the repository's runs/)")
    made.add_argument("--name", default="", help="name of the run's folder instead of the recipe's")
    made.add_argument("--fresh", action="store_true", help="delete these seeds' earlier results and redo them")
    add_data(made)

    about = "list the recipes, show one resolved, or make one of a published run command"
    add_recipes(command("recipes", run_recipes, about), add_json)

    add_corpora(command("data", _data, "prepare a corpus, or list what is prepared"), (add_cache, add_json))

    made = command("eval", _eval, "score an artifact from its file alone")
    made.add_argument("artifact", help="a model.pgolf")
    made.add_argument("--stride", type=int, default=0, metavar="N", help="targets a window scores (default: the run's)")
    made.add_argument("--seq-len", type=int, default=0, metavar="N", help="window length (default: the run's)")
    add_data(made)
    add_json(made)

    made = command("plan", _plan, "a recipe's parameters, tokens and bytes before anything runs")
    made.add_argument("recipe")
    add_set(made)
    made.add_argument("--step-ms", type=float, help="milliseconds of a step, for the steps that fit in the budget")
    made.add_argument("--nproc", type=count, metavar="N", help="processes that train together, for the memory of each")
    add_json(made)

    made = command("compare", _compare, "compare runs and published records over their seeds, each with the first")
    made.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a published record, as pr315")
    made.add_argument("--against", default="", metavar="RUN", help="the baseline (default: a record, else the first)")
    made.add_argument("--score", default="", choices=("sliding", "roundtrip", "averaged", "raw"))
    made.add_argument("--csv", metavar="FILE.csv", help="write the table there, and FILE-seeds.csv beside it")
    add_json(made)

    made = command("verify", _verify, "check what an artifact, a run or a submission folder claims")
    made.add_argument("path")
    made.add_argument("--budget-seconds", type=float, help="a score that would take longer becomes a random sample")
    made.add_argument("--run-code", action="store_true", help="also run a submission's own train_gpt.py; no sandbox")
    add_data(made)
    add_json(made)

    made = command("submission", _submission, "write a finished run as a submission folder")
    made.add_argument("run", metavar="RUNDIR")
    for flag in ("--name", "--author", "--github-id"):
        made.add_argument(flag, required=True)
    made.add_argument("--out", help="the folder to make (default: beside the run, under submissions/)")

    made = command("export", _export, "write a recipe as one script, train_gpt.py, that needs nothing of pgolf")
    made.add_argument("recipe")
    made.add_argument("--out", required=True, metavar="DIR", help="the folder to write it into, made if need be")
    made.add_argument("--minify", action="store_true", help="short for --set script=minified")
    add_set(made)

    add_bench(command("bench", run_bench, "time the fast code against the plainest correct code, or profile a step"))

    command("lab", _lab, "open JupyterLab on the notebooks; further options are JupyterLab's")
    return parser


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, further = parser.parse_known_args(arguments)
    if further and options.command is not _lab:
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    options.further = further
    return options


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers, as 1337,1338,1339")
    return [int(part) for part in parts]


# ---------------------------------------------------------------------- the commands


def _record(options: argparse.Namespace) -> int:
    from pgolf_core.data import check_ranks
    from pgolf_core.lab.launch import hosts

    recipe = recipe_argument(options.recipe)
    try:
        check_ranks(options.nproc * hosts(), checked_recipe(recipe, options.set).data)
    except UserError as error:
        raise UsageError(str(error)) from None
    from pgolf_core.lab.pipeline import Stopped, record
    from pgolf_core.lab.runs import short_path

    runs_dir, cache_dir = _place(options.runs) or "runs", _place(options.cache)
    try:
        summary = record(
            recipe,
            options.seeds,
            options.set,
            options.data,
            runs_dir,
            options.name,
            cache_dir,
            options.fresh,
            options.nproc,
        )
    except Stopped as stop:
        without = " without --fresh" if options.fresh else ""
        print(f"pgolf: stopped ({stop}); the same command{without} goes on from here", file=sys.stderr)
        stop.told = True
        raise
    from pgolf_core.files import read_json
    from pgolf_core.lab.report import seeds_table_text

    print(seeds_table_text(read_json(summary)))
    print(f"report: {short_path(summary.with_name('report.html'))}")
    return 0


def _data(options: argparse.Namespace) -> int:
    rows = prepare_corpus(options, _place(options.cache) or None, progress=sys.stderr.isatty())
    print(json.dumps(rows, indent=2) if options.json else "\n".join(corpus_lines(rows)))
    return 0


def _eval(options: argparse.Namespace) -> int:
    from pgolf_core.data import load_tokens
    from pgolf_core.evaluate import score_artifact
    from pgolf_core.lab.corpus import open_dataset
    from pgolf_core.lab.progress import score_bar
    from pgolf_core.lab.runs import recorded_recipe

    artifact = Path(options.artifact)
    if not artifact.is_file():
        raise UserError(f"{artifact} does not exist; name the model.pgolf of a finished seed")
    beside = artifact.parent / "recipe.json"
    recipe = recorded_recipe(artifact.parent) if beside.is_file() else checked_recipe("local-smoke")
    seq_len, stride = options.seq_len or recipe.eval.seq_len, options.stride or recipe.eval.stride
    if not 1 <= stride <= seq_len:
        raise UsageError(f"--stride {stride} must lie in 1..{seq_len}, the window's length")
    dataset = open_dataset(options.data or recipe.data.dataset, cache_dir=_place(options.cache) or None)
    tokenizer = dataset.tokenizer()
    tokens = load_tokens(dataset.val_paths, tokenizer.vocab_size)
    with score_bar("scoring", enabled=sys.stderr.isatty()) as progress:
        result = score_artifact(
            artifact,
            tokens,
            tokenizer.bytes,
            seq_len,
            stride,
            recipe.eval.batch_seqs,
            autocast=recipe.schedule.autocast,
            progress=progress,
        )
    values = {"artifact": str(artifact), "dataset": dataset.name, **result.to_dict()}
    print(json.dumps(values, indent=2) if options.json else "\n".join(f"{key}: {values[key]}" for key in values))
    return 0


def _plan(options: argparse.Namespace) -> int:
    recipe = checked_recipe(recipe_argument(options.recipe), options.set)
    from pgolf_core.lab.plan import format_plan, plan_table

    table = plan_table(recipe, options.step_ms, ranks=options.nproc)
    if options.json:
        return _show(table, as_json=True)
    print(format_plan(table))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from pgolf_core.lab.comparison import compare_arms, to_json, write_csv
    from pgolf_core.lab.comparison_text import comparison_text

    csv = Path(os.path.expanduser(options.csv)) if options.csv else None
    if csv and csv.suffix != ".csv":
        raise UsageError(f"--csv {csv}: a table's file ends in .csv")
    compared = compare_arms(options.runs, options.score, options.against)
    print(json.dumps(to_json(compared), indent=2, ensure_ascii=False) if options.json else comparison_text(compared))
    for path in write_csv(compared, csv) if csv else ():
        print(f"wrote {path}", file=sys.stderr)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from pgolf_core.lab.verify import FAILS, verify

    table = verify(
        Path(options.path),
        cache_dir=_place(options.cache),
        budget_seconds=options.budget_seconds,
        progress=sys.stderr.isatty(),
        data=options.data,
        run_code=options.run_code,
    )
    _show(table, options.json)
    return 1 if (table["verdict"] == FAILS).any() else 0


def _submission(options: argparse.Namespace) -> int:
    from pgolf_core.lab.submission import write_submission

    out = Path(options.out).resolve() if options.out else None
    print(write_submission(Path(options.run), options.name, options.author, options.github_id, out))
    return 0


def _export(options: argparse.Namespace) -> int:
    form = ["script=minified"] if options.minify else []
    recipe = checked_recipe(recipe_argument(options.recipe), [*options.set, *form])
    from pgolf_core.lab.export import write_script

    path = write_script(recipe, Path(os.path.expanduser(options.out)))
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def _lab(options: argparse.Namespace) -> NoReturn:
    from pgolf_core.lab.runs import find_root

    root = find_root()
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}"]
    command.append(f"--ServerApp.preferred_dir={root / 'notebooks'}")
    if os.geteuid() == 0:
        command.append("--allow-root")  # the server listens on this machine alone and asks for its token
    os.execv(sys.executable, [*command, *options.further])  # so that Ctrl-C is JupyterLab's own affair


# ---------------------------------------------------------------------- small helpers


def _place(folder: str) -> str:
    """A folder given on the command line: absolute, or relative to the repository it lies in, so that runs can move."""
    if not folder:
        return ""
    from pgolf_core.lab.runs import short_path

    return short_path(os.path.expanduser(folder))


def _show(table: pd.DataFrame, as_json: bool) -> int:
    if as_json:
        print(table.to_json(orient="records", indent=2, force_ascii=False))
    else:
        print(table.to_string(index=False, na_rep="–"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
