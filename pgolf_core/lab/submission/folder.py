"""Write a finished run as a submission folder: write-up, numbers, logs, figures, artifact and the counted script.

Every number comes from the run's checked files (`read_seed`). Headline scores are means over all seeds; sizes are those
of the one artifact in the folder, the first seed's. The write-up is a report's blocks, what is new, the commands, the
files and the credits.
"""

import ast
import datetime
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, sha256_file, write_json, write_text
from pgolf_core.base.names import ADAPT_TRACE, ARTIFACT, SCORES, TRAIN_LOG
from pgolf_core.lab.compare.records import RECORDS
from pgolf_core.lab.compare.results import read_object, recorded_recipe, seed_folders
from pgolf_core.lab.export import readable_of
from pgolf_core.lab.report.beside_records import beside_records
from pgolf_core.lab.report.figures import draw_figures
from pgolf_core.lab.report.page import fenced, render, table
from pgolf_core.lab.report.reading import SeedRun, command_of, read_seed
from pgolf_core.lab.report.report import run_context, scored
from pgolf_core.lab.report.seeds import headline, summarise_seeds
from pgolf_core.lab.shared.places import DATA_FILE, ENV_FILE, SCRIPT, SUBMISSION_FILE, SUMMARY_FILE, whole_folder
from pgolf_core.lab.shared.settings import differences, flatten
from pgolf_core.lab.shared.tables import so_many
from pgolf_core.recipes.reading import available_recipes, lineage, load_recipe
from pgolf_core.recipes.recipe import Recipe

MAX_NAME = 200
LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,38}")
"""What GitHub calls accounts; an underscore is in those that a company manages."""
GENERAL_CREDITS = (
    "Muon: Keller Jordan and others, 2024; tokenizer: SentencePiece; compression: Zstandard.",
    "Parameter Golf and its published records, from which the recipes of pgolf descend: "
    f"PR {', '.join(RECORDS).replace('pr', '')}.",
)


def write_submission(run_folder: Path, name: str, author: str, github_id: str, out: Path | None = None) -> Path:
    """Write the folder of all seeds of `run_folder` and return it; it is there whole or not at all.

    `out` is the folder to make, by default `submissions/<date>_<name>` beside the run; one that exists is refused. Also
    refused, with a UserError that says what to do: an unfinished seed, one that was reported and is gone, files that
    contradict each other, an artifact that does not open or is over the cap, and a train_gpt.py that is not the one
    whose bytes were counted.
    """
    folder = run_folder.resolve()
    for what, text in (("--name", name), ("--author", author), ("--github-id", github_id)):
        if not text.strip() or not text.isprintable() or len(text) > MAX_NAME:
            raise UserError(f"{what} {text[:50]!r} must be one line of 1 to {MAX_NAME} printable characters")
    if not LOGIN.fullmatch(github_id):
        raise UserError(f"--github-id {github_id[:50]!r} is no account's name: letters, digits and hyphens, 39 at most")
    runs = _read_seeds(folder)
    try:
        date = max(str(datetime.date.fromisoformat(str(run.environment["begun"])[:10])) for run in runs.values())
    except (KeyError, ValueError):  # an older run, or one without a clock
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "submission"
    target = out.absolute() if out else folder.parent / "submissions" / f"{date}_{slug}"
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already; delete it or choose another --name or --out")
    with whole_folder(target) as made:
        _fill(made, folder, runs, {"author": author, "github_id": github_id, "name": name, "date": date})
    return target


# ---------------------------------------------------------------------- what is refused


def _read_seeds(folder: Path) -> dict[int, SeedRun]:
    """Every seed of the run, checked against each other and against the script that they counted."""
    seeds = list(seed_folders(folder)) if folder.is_dir() else []
    if not seeds:
        raise UserError(f"{folder} has no seed<k> folders; name a recipe's run folder, as runs/TRACK/RECIPE")
    again = f"run `{command_of(folder, seeds)} --fresh`"
    reported = read_object(folder / SUMMARY_FILE).get("seeds", [])
    if not isinstance(reported, list) or not all(type(seed) is int for seed in reported):
        remedy = f"run `{command_of(folder, seeds)} --report-only`"
        raise UserError(f"{folder / SUMMARY_FILE}: its seeds are no list of seeds; delete it and {remedy}")
    if gone := [seed for seed in reported if seed not in seeds]:
        raise UserError(
            f"{SUMMARY_FILE} reports seed {gone[0]}, whose folder is gone, and a submission shows every seed that ran; "
            f"run `{command_of(folder, gone)}`"
        )
    runs = {seed: read_seed(folder, seed) for seed in seeds}
    script, recipe = folder / SCRIPT, recorded_recipe(folder)
    for name, why in {SCRIPT: "whose bytes count as code", DATA_FILE: "which names the data's source"}.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}, {why}; {again}")
    counted = (script.stat().st_size, sha256_file(script))
    for seed, run in runs.items():
        place, result = folder / f"seed{seed}", run.result
        if result.total_bytes > recipe.cap_bytes:
            raise UserError(
                f"seed {seed} takes {result.total_bytes:,} bytes, {result.total_bytes - recipe.cap_bytes:,} over the "
                f"cap of {recipe.track} ({recipe.cap_bytes:,}); take coarser grids (quant.*) or a smaller model"
            )
        if (result.code_bytes, result.script_sha256) != counted:
            raise UserError(f"{script} is not the script that seed {seed} counted; {again}")
        for name in (ARTIFACT, TRAIN_LOG):
            if not (place / name).is_file():
                raise UserError(f"{place} lacks {name}; {again}")
    return runs


# ---------------------------------------------------------------------- what is written


def _fill(made: Path, folder: Path, runs: dict[int, SeedRun], who: dict[str, str]) -> None:
    results = {seed: run.result for seed, run in runs.items()}
    summary, recipe, first = summarise_seeds(results), recorded_recipe(folder), next(iter(runs))
    for seed in runs:
        shutil.copyfile(folder / f"seed{seed}" / TRAIN_LOG, made / f"train_seed{seed}.log")
    traces = {SCORES: results[first].scores_sha256, ADAPT_TRACE: results[first].adapt_sha256}
    for name in (ARTIFACT, *(name for name, digest in traces.items() if digest)):
        shutil.copyfile(folder / f"seed{first}" / name, made / name)
    shutil.copyfile(folder / SCRIPT, made / SCRIPT)
    write_text(made / "requirements.txt", _requirements(made / SCRIPT, runs[first], folder / f"seed{first}"))
    write_json(made / SUBMISSION_FILE, _numbers(summary, runs, recipe, who))
    figures = draw_figures(made / "figures", runs, folder)
    context = run_context(runs, summary, figures, vars(recipe.adapt)) | beside_records(folder, results)[1]
    context["citation"] = str(read_object(folder / DATA_FILE).get("citation", ""))
    write_text(made / "README.md", readme(context, recipe, who, command_of(folder, list(runs)), results[first].ranks))


def _requirements(script: Path, run: SeedRun, place: Path) -> str:
    """What the script imports beyond the standard library, pinned as the first seed ran it."""
    versions, lines = flatten(run.environment), []
    for package in sorted(imports_of(readable_of(script))):
        version = str(versions.get(f"versions.{package}"))
        if not re.fullmatch(r"\d[A-Za-z0-9.+]*", version):
            raise UserError(f"{place / ENV_FILE} has no version of {package}; run the seed again with --fresh")
        lines.append(f"{package}=={version.partition('+')[0]}\n")  # a local build's +cpu or +cu128 is on no index
    return "".join(lines)


def imports_of(script: str) -> set[str]:
    """First names of the packages that a script cannot do without: imports inside a `try` are left out."""
    tree = ast.parse(script)
    tried = {id(node) for part in ast.walk(tree) if isinstance(part, ast.Try) for node in ast.walk(part)}
    found = [node for node in ast.walk(tree) if id(node) not in tried]
    names = {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in found if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)


def _numbers(
    summary: Mapping[str, Any], runs: Mapping[int, SeedRun], recipe: Recipe, who: Mapping[str, str]
) -> dict[str, Any]:
    """submission.json: the keys of PR 315's, then every seed's values. `val` is the headline; where that is adapted,
    `frozen_val` is the sliding score of the weights as they are."""
    first, kind = next(iter(runs.values())).result, headline(summary)
    scores = {"val": kind, "pre_quant_val": "averaged", "int6_zstd_val": "roundtrip"}
    scores |= {} if kind == "sliding" else {"frozen_val": "sliding"}
    rows = {}
    for seed, run in runs.items():
        result = run.result
        row = {
            "val_loss": getattr(result, f"{kind}_loss"),
            **{f"{key}_bpb": getattr(result, f"{its}_bpb") for key, its in scores.items()},
            "steps": result.steps,
            "train_seconds": result.seconds["train"],
            "bytes_total": result.total_bytes,
            "bytes_model_int6_zstd": result.artifact_bytes,
            "artifact_sha256": run.artifact_sha256,
            "scores_sha256": result.scores_sha256,
            "frozen_val_loss": result.sliding_loss if kind != "sliding" else None,
            "adapt_sha256": result.adapt_sha256,
            "adapting_seconds": result.seconds.get("adapting"),
        }
        rows[str(seed)] = {key: value for key, value in row.items() if value is not None}
    return {
        **{key: who[key] for key in ("author", "github_id", "name")},
        "blurb": f"{recipe.title or recipe.name}. {kind.capitalize()} {scored(summary)}, {so_many(len(runs), 'seed')}.",
        "date": who["date"],
        **{f"{key}_{of}": summary[f"{its}_{of}"]["mean"] for key, its in scores.items() for of in ("loss", "bpb")},
        "bytes_total": first.total_bytes,
        "bytes_model_int6_zstd": first.artifact_bytes,
        "bytes_code": first.code_bytes,
        "val_bpb_std": summary[f"{kind}_bpb"]["std"],
        "track": recipe.track,
        "val_targets": first.val_targets,
        "pre_quant_val_targets": first.raw_targets or first.val_targets,
        "seeds": list(runs),
        "seed_results": rows,
    }


# ---------------------------------------------------------------------- README.md


def readme(context: Mapping[str, Any], recipe: Recipe, who: Mapping[str, str], command: str, ranks: int) -> str:
    """The whole text. `context`: what `report.run_context` says of the seeds, and the data's `citation`.

    `who`: name, author, github_id, date. `command` made the run, with `ranks` that trained a seed together.
    """
    base, changes = changed_keys(recipe)
    launch = f"{'python' if ranks < 2 else f'torchrun --standalone --nproc_per_node={ranks}'} {SCRIPT}"
    alone = [f"DATA_PATH=DATA TOKENIZER_PATH=TOKENIZER SEED={seed} {launch}" for seed in context["summary"]["seeds"]]
    descent = [f"Recipe {name}: {load_recipe(name).title}" for name in _ancestors(recipe)]
    own = {
        "who": who,
        "recipe": {"title": recipe.title or recipe.name, "dataset": recipe.data.dataset},
        "script": recipe.script,
        "base": base,
        "changes": table(["key", base.capitalize(), "here"], changes, text_columns=3) if changes else "",
        "command": fenced(" ".join(command.splitlines())),
        "alone": fenced("\n".join(alone)),
        "credits": [*descent, *GENERAL_CREDITS, *filter(None, [context["citation"]])],
    }
    return render("submission.md.j2", {**context, **own})


def changed_keys(recipe: Recipe) -> tuple[str, list[list[str]]]:
    """(what it is compared with, rows of key, value there, value here) against the recipe that its file extends.

    A recipe that extends none, or whose file is not among pgolf's own, is compared with the defaults.
    """
    parent = next(iter(_ancestors(recipe)), "")
    changed = differences(recipe, load_recipe(parent) if parent else Recipe())
    rows = [[key, json.dumps(there), json.dumps(here)] for key, here, there in changed]
    return (f"recipe {parent}" if parent else "the defaults"), rows


def _ancestors(recipe: Recipe) -> list[str]:
    """The recipes that this one extends, nearest first; none of one that is not among pgolf's own."""
    return [path.stem for path in lineage(recipe.name)[1:]] if recipe.name in available_recipes() else []
