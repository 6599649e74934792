"""Write a finished run as a submission folder: write-up, numbers, logs, figures, artifact and the counted script.

Every number comes from the run's checked files (`report.read_seed`). Headline scores are means over all seeds; sizes
are those of the one artifact in the folder, the first seed's. The write-up is in `submission_text`.
"""

from __future__ import annotations

import ast
import datetime
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgolf_core.base.files import (
    UserError,
    explain_os_errors,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from pgolf_core.base.names import ARTIFACT, TRAIN_LOG
from pgolf_core.lab.record.folder import recorded_recipe
from pgolf_core.lab.record.launch import SETTINGS
from pgolf_core.lab.report.beside_records import beside_records
from pgolf_core.lab.report.figures import draw_figures
from pgolf_core.lab.report.report import SeedRun, command_of, read_seed
from pgolf_core.lab.report.seeds import SCORES, seed_folders, summarise_seeds
from pgolf_core.lab.shared.places import DATA_FILE, SCRIPT, SUBMISSION_FILE, SUMMARY_FILE
from pgolf_core.lab.submission.text import Facts, readme, scored
from pgolf_core.packing.unpack import read_header
from pgolf_core.recipes.recipe import Recipe

MAX_NAME = 200


def write_submission(
    run_folder: Path | str, name: str, author: str, github_id: str, out: Path | str | None = None
) -> Path:
    """Write the folder of all seeds of `run_folder` and return it; it is there whole or not at all.

    `out` is the folder to make, by default `submissions/<date>_<name>` beside the run; one that exists is refused. Also
    refused, with a UserError that says what to do: an unfinished seed, one that was reported and is gone, files that
    contradict each other, an artifact that does not open or is over the cap, and a train_gpt.py that is not the one
    whose bytes were counted.
    """
    folder = Path(run_folder).resolve()
    for what, text in (("--name", name), ("--author", author), ("--github-id", github_id)):
        if not text.strip() or not text.isprintable() or len(text) > MAX_NAME:
            raise UserError(f"{what} {text[:50]!r} must be one line of 1 to {MAX_NAME} printable characters")
    runs = _read_seeds(folder)
    date = max((str(run.environment.get("begun", ""))[:10] for run in runs.values()), default="")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "submission"
    target = Path(out).absolute() if out else folder.parent / "submissions" / f"{date}_{slug}"
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already; delete it or choose another --name or --out")
    with explain_os_errors(f"cannot write {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _fill(made, folder, runs, {"author": author, "github_id": github_id, "name": name, "date": date})
            made.chmod(0o755)
            made.rename(target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return target


# ---------------------------------------------------------------------- what is refused


def _read_seeds(folder: Path) -> dict[int, SeedRun]:
    """Every seed of the run, checked against each other and against the script that they counted."""
    seeds = list(seed_folders(folder)) if folder.is_dir() else []
    if not seeds:
        raise UserError(f"{folder} has no seed<k> folders; name a recipe's run folder, as runs/TRACK/RECIPE")
    again = f"run `{command_of(folder, seeds)} --fresh`"
    if gone := sorted(_reported(folder) - set(seeds)):
        raise UserError(
            f"summary.json reports seed {gone[0]}, whose folder is gone, and a submission shows every seed that ran; "
            f"run `{command_of(folder, gone)}`"
        )
    runs = {seed: read_seed(folder, seed) for seed in seeds}
    script = folder / SCRIPT
    if not script.is_file():
        raise UserError(f"{folder} has no {SCRIPT}, whose bytes count as code; {again}")
    size, digest = script.stat().st_size, sha256_file(script)
    for seed, run in runs.items():
        place, result = folder / f"seed{seed}", run.result
        if (result["code_bytes"], result.get("script_sha256")) != (size, digest):
            raise UserError(f"{script} is not the script that seed {seed} counted; {again}")
        if not (place / ARTIFACT).is_file() or not (place / TRAIN_LOG).is_file():
            raise UserError(f"{place} lacks {ARTIFACT} or train.log; {again}")
        read_header(place / ARTIFACT)
        if (place / ARTIFACT).stat().st_size != result["artifact_bytes"]:
            raise UserError(f"{place / ARTIFACT} has not the size that result.json says; {again}")
        _check_cap(seed, result, recorded_recipe(folder))
    return runs


def _reported(folder: Path) -> set[int]:
    """Seeds that summary.json speaks of."""
    summary = read_json(folder / SUMMARY_FILE) if (folder / SUMMARY_FILE).is_file() else {}
    seeds = summary.get("seeds") if isinstance(summary, dict) else None
    return {seed for seed in seeds if type(seed) is int} if isinstance(seeds, list) else set()


def _check_cap(seed: int, result: Mapping[str, Any], recipe: Recipe) -> None:
    over = result["total_bytes"] - recipe.cap_bytes
    if over > 0:
        raise UserError(
            f"seed {seed} takes {result['total_bytes']:,} bytes, {over:,} over the cap of {recipe.track} "
            f"({recipe.cap_bytes:,}); take coarser grids (quant.*), a smaller model or script=minified"
        )


# ---------------------------------------------------------------------- what is written


def _fill(made: Path, folder: Path, runs: dict[int, SeedRun], who: dict[str, str]) -> None:
    results = {seed: run.result for seed, run in runs.items()}
    summary, recipe, first = summarise_seeds(results), recorded_recipe(folder), next(iter(runs))
    for seed in runs:
        write_bytes(made / f"train_seed{seed}.log", (folder / f"seed{seed}" / TRAIN_LOG).read_bytes())
    write_bytes(made / ARTIFACT, (folder / f"seed{first}" / ARTIFACT).read_bytes())
    script = (folder / SCRIPT).read_bytes()
    write_bytes(made / SCRIPT, script)
    write_text(made / "requirements.txt", _requirements(script, runs[first], folder / f"seed{first}"))
    write_json(made / SUBMISSION_FILE, _numbers(summary, runs, recipe, who))
    data = read_json(folder / DATA_FILE) if (folder / DATA_FILE).is_file() else {}
    facts = Facts(
        who=who,
        summary=summary,
        runs=runs,
        recipe=recipe,
        command=command_of(folder, list(runs)),
        processes=_processes(folder / f"seed{first}"),
        citation=str(data.get("citation", "")) if isinstance(data, dict) else "",
        figures=[path.name for path in draw_figures(made / "figures", runs, folder).values()],
        published=beside_records(folder, results),
    )
    write_text(made / "README.md", readme(facts))


def _requirements(script: bytes, run: SeedRun, place: Path) -> str:
    """What the script imports beyond the standard library, pinned as the first seed ran it."""
    versions = run.environment.get("versions")
    lines = []
    for package in sorted(imports_of(script.decode("utf-8"))):
        version = str(versions.get(package)) if isinstance(versions, dict) else ""
        if not re.fullmatch(r"\d[A-Za-z0-9.+]*", version):
            raise UserError(f"{place / 'env.json'} has no version of {package}; run the seed again with --fresh")
        lines.append(f"{package}=={version.partition('+')[0]}\n")  # a local build's +cpu or +cu128 is on no index
    return "".join(lines)


def imports_of(script: str) -> set[str]:
    """First names of the packages that a script cannot do without: imports inside a `try` are left out."""
    tree = ast.parse(script)
    tried = {id(node) for part in ast.walk(tree) if isinstance(part, ast.Try) for node in ast.walk(part)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in tried:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in tried:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)


def _processes(seed_folder: Path) -> int:
    """How many processes trained the seed (1 where nothing says otherwise)."""
    path = seed_folder / SETTINGS
    noted = read_json(path) if path.is_file() else {}
    processes = noted.get("nproc") if isinstance(noted, dict) else None
    return processes if type(processes) is int and processes > 0 else 1


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
        "blurb": f"{recipe.title}. Sliding {scored(summary)}.",
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
