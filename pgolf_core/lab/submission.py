"""Write a finished run as a submission folder: write-up, numbers, logs, artifact and exactly the code that was counted.

Every number comes from the run's checked files (`report.read_seed`). Headline scores are means over all seeds; sizes
are those of the one artifact in the folder, the first seed's. Names and whatever else comes from a file are escaped.
"""

from __future__ import annotations

import datetime
import html
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pgolf_core.artifact import read_header
from pgolf_core.files import UserError, explain_os_errors, read_json, write_bytes, write_json, write_text
from pgolf_core.lab.report import SeedRun, command_of, read_seed
from pgolf_core.lab.runs import CORE_DIR, core_sha256, recorded_recipe
from pgolf_core.lab.settings import differences
from pgolf_core.lab.stages import ARTIFACT
from pgolf_core.lab.stats import SCORES, seed_folders, seeds_table, summarise_seeds, whole_seconds
from pgolf_core.recipe import RECIPE_DIR, Recipe, available_recipes, load_recipe

REQUIRED = ("torch", "numpy", "sentencepiece", "zstandard", "safetensors", "constriction")
"""What the core imports, pinned as the first seed ran it."""
MAX_NAME = 200
GENERAL_CREDITS = (
    "Muon: Keller Jordan and others, 2024; tokenizer: SentencePiece; compression: Zstandard.",
    "Parameter Golf and its published records, from which the recipes of pgolf descend: PR 194, 315, 332, 531 and 534.",
)


def write_submission(
    run_folder: Path | str, name: str, author: str, github_id: str, out: Path | str | None = None
) -> Path:
    """Write the folder of all seeds of `run_folder` and return it; it is there whole or not at all.

    `out` is the folder to make, by default `submissions/<date>_<name>` beside the run; one that exists is refused. Also
    refused, with a UserError that says what to do: an unfinished seed, files that contradict each other, an artifact
    that does not open, and a core that is no longer the one whose bytes were counted.
    """
    folder = Path(run_folder).resolve()
    for what, text in (("--name", name), ("--author", author), ("--github-id", github_id)):
        if not text.strip() or not text.isprintable() or len(text) > MAX_NAME:
            raise UserError(f"{what} {text[:50]!r} must be one line of 1 to {MAX_NAME} printable characters")
    runs = _read_seeds(folder)
    recipe = recorded_recipe(folder)
    date = max((str(run.environment.get("begun", ""))[:10] for run in runs.values()), default="")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "submission"
    target = Path(out).absolute() if out else folder.parent / "submissions" / f"{date}_{slug}"
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already; delete it or choose another --name")
    with explain_os_errors(f"cannot write {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _fill(made, folder, runs, recipe, {"author": author, "github_id": github_id, "name": name, "date": date})
            made.chmod(0o755)
            made.rename(target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return target


def _read_seeds(folder: Path) -> dict[int, SeedRun]:
    """Every seed of the run, checked; UserError for none, for an unfinished one and for a core that has changed."""
    if not folder.is_dir() or not seed_folders(folder):
        raise UserError(f"{folder} has no seed<k> folders; name a recipe's run folder, as runs/TRACK/RECIPE")
    runs = {seed: read_seed(folder, seed) for seed in seed_folders(folder)}
    again = f"run `{command_of(folder, list(runs))} --fresh`"
    code = sum(len(payload) for payload in core_files().values())
    for seed, run in runs.items():
        place = folder / f"seed{seed}"
        if run.result["core_sha256"] != core_sha256() or run.result["code_bytes"] != code:
            raise UserError(f"the core (pgolf_core/*.py) changed since seed {seed} was run and counted; {again}")
        if not (place / ARTIFACT).is_file() or not (place / "train.log").is_file():
            raise UserError(f"{place} lacks {ARTIFACT} or train.log; {again}")
        read_header(place / ARTIFACT)
        if (place / ARTIFACT).stat().st_size != run.result["artifact_bytes"]:
            raise UserError(f"{place / ARTIFACT} has not the size that result.json says; {again}")
    return runs


def core_files() -> dict[str, bytes]:
    """Name and content of the files that the ledger counts as code: pgolf_core/*.py."""
    return {path.name: path.read_bytes() for path in sorted(CORE_DIR.glob("*.py"))}


def _fill(made: Path, folder: Path, runs: dict[int, SeedRun], recipe: Recipe, who: dict[str, str]) -> None:
    summary = summarise_seeds({seed: run.result for seed, run in runs.items()})
    first = next(iter(runs))
    for seed in runs:
        write_bytes(made / f"train_seed{seed}.log", (folder / f"seed{seed}" / "train.log").read_bytes())
    write_bytes(made / ARTIFACT, (folder / f"seed{first}" / ARTIFACT).read_bytes())
    for file, payload in core_files().items():
        write_bytes(made / "pgolf_core" / file, payload)
    write_text(made / "requirements.txt", _requirements(runs[first], folder / f"seed{first}"))
    write_json(made / "submission.json", _numbers(summary, runs, recipe, who))
    data = read_json(folder / "data.json") if (folder / "data.json").is_file() else {}
    citation = str(data.get("citation", "")) if isinstance(data, dict) else ""
    write_text(made / "README.md", _readme(summary, runs, recipe, who, command_of(folder, list(runs)), citation))


def _requirements(run: SeedRun, place: Path) -> str:
    versions = run.environment.get("versions")
    lines = []
    for package in REQUIRED:
        version = str(versions.get(package)) if isinstance(versions, dict) else ""
        if not re.fullmatch(r"\d[A-Za-z0-9.+]*", version):
            raise UserError(f"{place / 'env.json'} has no version of {package}; run the seed again with --fresh")
        lines.append(f"{package}=={version.partition('+')[0]}\n")  # a local build's +cpu or +cu128 is on no index
    return "".join(lines)


def _numbers(
    summary: Mapping[str, Any], runs: Mapping[int, SeedRun], recipe: Recipe, who: Mapping[str, str]
) -> dict[str, Any]:
    """submission.json: the keys of PR 315's (SEEDS 5.5), then every seed's values."""
    first = next(iter(runs.values())).result
    mean = {key: summary[key]["mean"] for key in (*SCORES, "averaged_loss", "roundtrip_loss", "sliding_loss")}
    return {
        "author": who["author"],
        "github_id": who["github_id"],
        "name": who["name"],
        "blurb": f"{recipe.title}. Sliding {_scored(summary)}.",
        "date": who["date"],
        "val_loss": mean["sliding_loss"],
        "val_bpb": mean["sliding_bpb"],
        "pre_quant_val_loss": mean["averaged_loss"],
        "pre_quant_val_bpb": mean["averaged_bpb"],
        "int6_zstd_val_loss": mean["roundtrip_loss"],
        "int6_zstd_val_bpb": mean["roundtrip_bpb"],
        "bytes_total": first["total_bytes"],
        "bytes_model_int6_zstd": first["artifact_bytes"],
        "bytes_code": first["code_bytes"],
        "val_bpb_std": summary["sliding_bpb"]["std"],
        "track": recipe.track,
        "val_targets": first["val_targets"],
        "pre_quant_val_targets": first.get("raw_targets") or first["val_targets"],
        "seeds": list(runs),
        "seed_results": {
            str(seed): {
                "val_loss": run.result["sliding_loss"],
                "val_bpb": run.result["sliding_bpb"],
                "pre_quant_val_bpb": run.result["averaged_bpb"],
                "int6_zstd_val_bpb": run.result["roundtrip_bpb"],
                "steps": run.result["steps"],
                "train_seconds": run.result["seconds"]["train"],
                "bytes_total": run.result["total_bytes"],
                "bytes_model_int6_zstd": run.result["artifact_bytes"],
                "artifact_sha256": run.artifact_sha256,
            }
            for seed, run in runs.items()
        },
    }


def _scored(summary: Mapping[str, Any]) -> str:
    entry = summary["sliding_bpb"]
    spread = f" ± {entry['std']:.4f}" if entry["std"] is not None else ""
    return f"{entry['mean']:.4f}{spread} bits per byte, {summary['n']} seed(s)"


# ---------------------------------------------------------------------- the write-up


def _readme(
    summary: Mapping[str, Any], runs: Mapping[int, SeedRun], recipe: Recipe, who: Mapping[str, str], command: str,
    citation: str,
) -> str:  # fmt: skip
    first_seed, first = next((seed, run.result) for seed, run in runs.items())
    base, changes = changed_keys(recipe)
    parts = [f"# {_md(who['name'])}", f"{_md(who['author'])} (GitHub: {_md(who['github_id'])}), {who['date']}"]
    parts += [f"**{_md(_scored(summary))}** (sliding score, mean and standard deviation over all seeds that were run)."]
    parts += ["## What is new", f"{_md(recipe.title)}. Keys that differ from {base}:"]
    parts += [_table(["key", base.capitalize(), "here"], changes)] if changes else ["None: it is the same recipe."]
    parts += ["## Every seed", _table(*seeds_table(summary)), _notes(first, recipe)]
    parts += ["## Command", f"```\n{' '.join(command.splitlines())}\n```", "## Bytes"]
    names = ["seed", "weights", "scales", "header", "file", "code", "total", "left under the cap"]
    parts += [_table(names, [[str(seed), *_ledger_cells(run)] for seed, run in runs.items()])]
    parts += ["Weights, scales and header make up the file; file and code the total.", "## Seconds"]
    named = dict.fromkeys(key for run in runs.values() for key in run.result["seconds"] if key != "total")
    rows = [[key, *(f"{run.result['seconds'].get(key, 0.0):,.1f}" for run in runs.values())] for key in named]
    rows.append(["whole", *(f"{whole_seconds(run.result['seconds']):,.1f}" for run in runs.values())])
    parts += [_table(["part", *(f"seed {seed}" for seed in runs)], rows), "## Files"]
    parts += [
        f"`{ARTIFACT}` is the artifact of seed {first_seed} ({first['artifact_bytes']:,} bytes); `train_seed<k>.log` "
        f"are the logs as written; `pgolf_core/` holds exactly the files that the ledger counts as code "
        f"({first['code_bytes']:,} bytes).",
        "There is no one-file `train_gpt.py` in this folder: the exporter that merges the code into one script does "
        "not exist yet. `pgolf_core/` is the code as it ran; the command above needs the pgolf repository.",
        "## Credits",
        "\n".join(f"- {_md(line)}" for line in (*_lineage(recipe), *GENERAL_CREDITS, *filter(None, [citation]))),
    ]
    return "\n\n".join(parts) + "\n"


def _notes(first: Mapping[str, Any], recipe: Recipe) -> str:
    part = first.get("raw_targets") or first["val_targets"]
    on_a_part = f", on the first {part:,} of {first['val_targets']:,} targets" if part < first["val_targets"] else ""
    return (
        f"Bits per byte, lower is better. Raw and averaged are saved weights before packing{on_a_part}; round-trip "
        f"(window {recipe.eval.seq_len}) and sliding (stride {first['sliding_stride']}) are scored from the packed "
        f"file, every one of {first['val_targets']:,} targets once, over {first['val_bytes']:,} bytes of text."
    )


def _ledger_cells(run: SeedRun) -> list[str]:
    values = [run.ledger[f"{part}_bytes"] for part in ("weights", "scales", "header", "file", "code")]
    total = run.result["total_bytes"]
    return [f"{value:,}" for value in (*values, total, run.result["cap_bytes"] - total)]


def changed_keys(recipe: Recipe) -> tuple[str, list[list[str]]]:
    """(what it is compared with, rows of key, value there, value here) against the recipe that its file extends.

    A recipe that extends none, or whose file is not among pgolf's own, is compared with the defaults.
    """
    parent = _parent(recipe.name)
    changed = differences(recipe, load_recipe(parent) if parent else Recipe())
    rows = [[key, json.dumps(there), json.dumps(here)] for key, here, there in changed]
    return (f"recipe {parent}" if parent else "the defaults"), rows


def _parent(name: str) -> str:
    """The recipe that this one's file extends; empty for none, and for a recipe that is not among pgolf's own."""
    if name not in available_recipes():
        return ""
    return str(tomllib.loads((RECIPE_DIR / f"{name}.toml").read_text(encoding="utf-8")).get("extends", ""))


def _lineage(recipe: Recipe) -> Iterable[str]:
    """The recipe's parents, nearest first, by title."""
    parent = _parent(recipe.name)
    while parent:
        yield f"Recipe {parent}: {load_recipe(parent).title}"
        parent = _parent(parent)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_md, line))} |" for line in lines)


def _md(text: Any) -> str:
    """Text for GitHub-flavoured Markdown: no markup, no HTML, no mention, one line."""
    plain = html.escape(" ".join(str(text).split()), quote=False)
    plain = re.sub(r"([\\`*_\[\]{}|~#!$])", r"\\\1", plain)
    return plain.replace("@", "&#64;").replace("://", ":&#47;/")
