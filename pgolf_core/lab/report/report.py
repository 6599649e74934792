"""The report of a recipe's seeds: summary.json, figures, report.md and report.html (one file that loads nothing).

Every number is read from the run's own files; one that is missing or that contradicts another is an error. The
sentences are in templates/report.md.j2; a submission's README is made of the same blocks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgolf_core.adapting.told import EVALUATION_SECONDS
from pgolf_core.base.files import UserError, write_json, write_text
from pgolf_core.lab.compare.inference import CONFIDENCE
from pgolf_core.lab.compare.results import read_object, recorded_recipe
from pgolf_core.lab.report.beside_records import beside_records
from pgolf_core.lab.report.figures import SKIPPED_SHARE, beside_published, draw_figures, grid_rows
from pgolf_core.lab.report.page import fenced, html_page, quoted, render, table
from pgolf_core.lab.report.reading import SeedRun, command_of, read_seed
from pgolf_core.lab.report.seeds import headline, over_cap, seeds_table, summarise_seeds
from pgolf_core.lab.shared.places import DATA_FILE, RECIPE_FILE, REPORT, SCRIPT, SUMMARY_FILE
from pgolf_core.lab.shared.settings import flatten

DATA_KEYS = (
    "dataset", "citation", "lossless", "train_documents", "train_bytes", "train_tokens", "val_documents", "val_bytes",
    "val_tokens",
)  # fmt: skip
SAMPLE_KEYS = ("document", "opening", "continuation", "seed", "temperature", "artifact")
TRACK_STRIDE = 64
"""Stride of the tracks' sliding score; a larger one is named in the report."""
PRIVATE = re.compile(r"host|user|cwd|folder|path|argv|executable|prefix|home|^hashes\.", re.IGNORECASE)
ABSOLUTE = re.compile(r"(^|[\s=:;,'\"(\[])(/[\w.-]+/|~/|[A-Za-z]:\\)")


@dataclass(frozen=True)
class ReportPaths:
    """What write_report wrote."""

    summary: Path
    html: Path
    markdown: Path
    figures: tuple[Path, ...]


def write_report(
    recipe_folder: Path | str, seeds: Sequence[int], sample: Mapping[str, Any] | None = None
) -> ReportPaths:
    """Read and check every seed's files, and write the report into `recipe_folder`.

    `sample` (SAMPLE_KEYS) is one sampled continuation of a held-out opening. Nothing is written unless all is there;
    what is missing is a UserError that names the file and the command that makes it.
    """
    folder = Path(recipe_folder).resolve()
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds {list(seeds)} must name at least one seed and none twice")
    data = _read(folder / DATA_FILE, DATA_KEYS, "run the notebook 01_data_and_metric of this run again")
    recipe = _read(folder / RECIPE_FILE, ("name", "fingerprint"), "run any of this run's notebooks again")
    adapt = vars(recorded_recipe(folder).adapt)
    if sample is not None and (missing := [key for key in SAMPLE_KEYS if key not in sample]):
        raise UserError(f"the report's sample lacks {', '.join(missing)}; it needs {', '.join(SAMPLE_KEYS)}")
    runs = {seed: read_seed(folder, seed) for seed in seeds}
    results = {seed: run.result for seed, run in runs.items()}
    summary, figures = summarise_seeds(results), draw_figures(folder / "figures", runs, folder)
    published, beside = beside_records(folder, results)
    context = run_context(runs, summary, figures, adapt) | beside | _own_context(runs, recipe, data, sample)
    context["command"] = fenced(command_of(folder, seeds))
    if not published.empty:
        write_text(folder / "figures" / "published.csv", published.to_csv(index=False, lineterminator="\n"))
    paths = ReportPaths(folder / SUMMARY_FILE, folder / "report.html", folder / REPORT, tuple(figures.values()))
    text = render("report.md.j2", context)
    write_json(paths.summary, summary)
    write_text(paths.markdown, text)
    write_text(paths.html, html_page(text, f"{summary['recipe']}: {scored(summary)}", folder))
    return paths


def scored(summary: Mapping[str, Any]) -> str:
    """`1.1250 ± 0.0002 bits per byte`: the headline; one seed claims no spread."""
    entry = summary[f"{headline(summary)}_bpb"]
    spread = f" ± {entry['std']:.4f}" if entry["std"] is not None else ""
    return f"{entry['mean']:.4f}{spread} bits per byte"


def _read(path: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    values = read_object(path)
    for key in keys:
        if key not in values or (key.startswith(("train_", "val_")) and type(values[key]) not in (int, float)):
            raise UserError(f"{path} has no {'number ' if '_' in key else ''}'{key}'; {remedy}")
    return values


# ---------------------------------------------------------------------- what the templates show


def run_context(
    runs: Mapping[int, SeedRun], summary: dict[str, Any], figures: Mapping[str, Path], adapt: Mapping[str, Any]
) -> dict[str, Any]:
    """What a report and a submission's README both show of these seeds; numbers are for the template to format. `adapt`
    is that section of the recipe."""
    one = next(iter(runs.values()))
    largest = max(run.result.total_bytes for run in runs.values())
    grid_names = ["grid", "tensors", "values", "raw bytes", "order-0 entropy, bytes", "entropy, bits per value"]
    return {
        "summary": summary,
        "scored": scored(summary),
        "headline": headline(summary),
        "interval": summary[f"{headline(summary)}_bpb"],
        "n": len(runs),
        "confidence": f"{CONFIDENCE:.0%}",
        "cap": one.result.cap_bytes,
        "largest": largest,
        "first": vars(one.result),
        "raw_targets": one.result.raw_targets or one.result.val_targets,
        "beside_published": beside_published(one.result),
        "track_stride": TRACK_STRIDE,
        "skipped_share": SKIPPED_SHARE,
        "entropy_bytes": sum(tensor["entropy_bytes"] for tensor in one.ledger.tensors),
        "stored_bytes": one.ledger.weights_bytes + one.ledger.scales_bytes,
        "seeds": table(*seeds_table(summary), totals=2 if len(runs) == 1 else 3),
        "over_cap": over_cap(summary),
        "adapted": _adapted_context(summary, adapt),
        "ledgers": {seed: vars(run.ledger) | {"tensors": []} for seed, run in runs.items()},
        "grids": table(grid_names, grid_rows(one.ledger)),
        "resumed": {seed: run.result.resumed_at_steps for seed, run in runs.items() if run.result.resumed_at_steps},
        "figures": {name: f"figures/{path.name}" for name, path in figures.items()},
    }


def _adapted_context(summary: dict[str, Any], adapt: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of an adapted score: whether weights learn and scores are mixed, what it gained on the sliding one, and the
    seconds of the slowest seed's evaluation."""
    if "adapted_bpb" not in summary:
        return None
    frozen, adapted = (summary[f"{kind}_bpb"]["seeds"] for kind in ("sliding", "adapted"))
    gains = [adapted[seed] - frozen[seed] for seed in adapted]
    seconds = (summary["seconds"][part]["seeds"] for part in ("scoring", "adapting"))
    spent = max(sum(both) for both in zip(*(part.values() for part in seconds), strict=True))
    mixes = adapt.get("mix", "off") != "off"
    told = {"mixes": mixes, "learns": adapt.get("kind", "off") != "off" or not mixes}
    return {**told, "gain": sum(gains) / len(gains), "seconds": spent, "cap": EVALUATION_SECONDS}


def _own_context(
    runs: Mapping[int, SeedRun], recipe: dict[str, Any], data: dict[str, Any], sample: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the report alone shows: data, sample, settings, hashes, machine."""
    settings, one = flatten(recipe), next(iter(runs.values())).result
    by_clock = any(run.result.stopped_by == "clock" for run in runs.values())
    hashes = [[name, getattr(one, f"{name}_sha256")] for name in ("recipe", "data", "core")]
    hashes += [[SCRIPT, one.script_sha256]]
    hashes += [[f"artifact of seed {seed}", run.artifact_sha256] for seed, run in runs.items() if run.artifact_sha256]
    shown = {key: str(sample[key]) for key in SAMPLE_KEYS} if sample else None
    if shown:  # the artifact is named by its last two parts, not the machine's
        shown |= {"artifact": "/".join(Path(shown["artifact"]).parts[-2:])}
        shown |= {key: quoted(shown[key]) for key in ("opening", "continuation")}
    return {
        "data": data,
        "sample": shown,
        "script": settings.get("script", ""),
        "clock_seconds": float(settings.get("schedule.max_seconds", 0)) if by_clock else 0.0,
        "hashes": table(["of", "SHA-256"], hashes, text_columns=2),
        "settings": table(["key", "value"], [[key, _text(value)] for key, value in settings.items()], text_columns=2),
        "environment": table(["key", "value"], list(_environment_rows(runs)), text_columns=2),
    }


def _environment_rows(runs: Mapping[int, SeedRun]) -> Iterator[list[str]]:
    """[key, text] of env.json without names and paths of the machine; where seeds differ, each seed's value."""
    flat = {seed: flatten(run.environment) for seed, run in runs.items()}
    for key in dict.fromkeys(key for values in flat.values() for key in values):
        texts = {seed: _text(values.get(key, "–")) for seed, values in flat.items()}
        if not PRIVATE.search(key) and not any(map(ABSOLUTE.search, texts.values())):
            is_same = len(set(texts.values())) == 1
            yield [key, next(iter(texts.values())) if is_same else ", ".join(f"{s}: {t}" for s, t in texts.items())]


def _text(value: Any) -> str:
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
