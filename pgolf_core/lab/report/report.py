"""The report of a recipe's seeds: summary.json, figures, report.html (one file, no loads) and report.md.

Every number is read from the run's own files; one that is missing or that contradicts another is an error. Whatever
comes from a file or from the model is escaped. The sentences are in templates/words.j2.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from pgolf_core.base.files import UserError, read_json, sha256_file, write_json, write_text
from pgolf_core.base.names import ARTIFACT, METRICS, SEED_RESULT
from pgolf_core.lab.compare.arms import SCRIPT_HASH
from pgolf_core.lab.recipes.settings import flatten
from pgolf_core.lab.report.beside_records import BesideRecords, beside_records
from pgolf_core.lab.report.figures import LEDGER_PARTS, SKIPPED_SHARE, draw_figures
from pgolf_core.lab.report.seeds import CONFIDENCE, NUMBERS, TEXTS, seeds_table, seeds_table_text, summarise_seeds
from pgolf_core.lab.shared.places import DATA_FILE, ENV_FILE, LEDGER_FILE, RECIPE_FILE, SCRIPT, SUMMARY_FILE
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import to_dict

__all__ = ["ReportPaths", "command_of", "seeds_table_text", "write_report"]

DATA_KEYS = (
    "dataset", "citation", "lossless", "train_documents", "train_bytes", "train_tokens",
    "val_documents", "val_bytes", "val_tokens",
)  # fmt: skip
LEDGER_HEADER = ["seed", "weights", "scales", "header", "file", "code", "total", "left"]
GRID_HEADER = ["grid", "tensors", "values", "raw bytes", "order-0 entropy, bytes", "entropy, bits per value"]
SECONDS = {
    "data": "data: reading shards",
    "warmup": "compilation and warm-up",
    "train": "train: steps, on the clock",
    "averaging": "averaging",
    "checkpoints": "checkpoints and weights",
    "lost": "lost to kills and failures",
    "notebooks": "notebooks: kernels, figures, checks",
}
"""What a part of result.json's seconds is, where its name is not enough."""
SPLIT_HEADER = ["split", "documents", "bytes", "tokens", "bytes per token"]
SPLITS = {"train": "training", "val": "validation"}
SAMPLE_KEYS = ("document", "opening", "continuation", "seed", "temperature", "artifact")
TRACK_STRIDE = 64
"""Stride of the tracks' sliding score (DESIGN 5); a larger one is named in the report."""
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ReportPaths:
    """What write_report wrote."""

    summary: Path
    html: Path
    markdown: Path
    figures: tuple[Path, ...]


@dataclass(frozen=True)
class SeedRun:
    """One seed's files, checked."""

    result: dict[str, Any]
    ledger: dict[str, Any]
    metrics: pd.DataFrame
    """Columns seed, kind ('train' or 'val'), step, loss (nats per token)."""
    environment: dict[str, Any]
    artifact_sha256: str
    """Empty where the artifact is no longer in the folder."""


def write_report(
    recipe_folder: Path | str, seeds: Sequence[int], sample: Mapping[str, Any] | None = None
) -> ReportPaths:
    """Read every seed's files, check them against each other, and write the report into `recipe_folder`.

    Needs data.json (DATA_KEYS) and recipe.json there, and result.json, ledger.json, metrics.jsonl, env.json in seed<k>.
    `sample` (SAMPLE_KEYS) is one sampled continuation of a held-out opening. Nothing is written unless all is there;
    what is missing is a UserError that names the file and the command that makes it.
    """
    folder = Path(recipe_folder).resolve()
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds {list(seeds)} must name at least one seed and none twice")
    remedy = "run the notebook 01_data_and_metric of this run again"
    data = _read(folder / DATA_FILE, DATA_KEYS, remedy)
    for key in DATA_KEYS[3:]:
        _number(data, key, folder / DATA_FILE, remedy)
    if sample is not None and (missing := [key for key in SAMPLE_KEYS if key not in sample]):
        raise UserError(f"the report's sample lacks {', '.join(missing)}; it needs {', '.join(SAMPLE_KEYS)}")
    runs = {seed: read_seed(folder, seed) for seed in seeds}
    recipe = _read(folder / RECIPE_FILE, ("name", "fingerprint"), "run any of this run's notebooks again")
    summary = summarise_seeds({seed: run.result for seed, run in runs.items()})
    published = beside_records(folder, {seed: run.result for seed, run in runs.items()})
    figures = draw_figures(folder / "figures", runs, folder)
    context = _context(summary, runs, recipe, data, sample, figures) | {"command": command_of(folder, seeds)}
    context |= _published_context(published, folder / "figures")
    paths = ReportPaths(folder / SUMMARY_FILE, folder / "report.html", folder / "report.md", tuple(figures.values()))
    write_json(paths.summary, summary)
    write_text(paths.markdown, _render("report.md.j2", context))
    write_text(paths.html, _render("report.html.j2", context))
    return paths


# ---------------------------------------------------------------------- reading and checking


def read_seed(recipe_folder: Path, seed: int) -> SeedRun:
    """One finished seed; UserError for a missing file or key, or for numbers that contradict each other."""
    folder, command = Path(recipe_folder) / f"seed{seed}", command_of(Path(recipe_folder), [seed])
    remedy, again = f"run `{command}`", f"run `{command} --fresh`"
    result = _read(folder / SEED_RESULT, (*TEXTS, "seed", "seconds"), remedy)
    for key in NUMBERS:
        _number(result, key, folder / SEED_RESULT, again)
    seconds = result["seconds"]
    if not isinstance(seconds, dict) or "train" not in seconds:
        raise UserError(f"{folder / 'result.json'} lacks 'seconds.train'; {again}")
    for key in seconds:
        _number(seconds, key, folder / SEED_RESULT, again)
    ledger = _read(folder / LEDGER_FILE, ("tensors",), remedy)
    for key in ("file_bytes", "fp16_bytes", *LEDGER_PARTS):
        _number(ledger, key, folder / LEDGER_FILE, again)
    for tensor in ledger["tensors"]:
        own = [] if tensor.get("grid") == "fp16" else ["compressed_bytes"]
        for key in ("elements", "raw_bytes", "scales_raw_bytes", "entropy_bytes", *own):
            _number(tensor, key, folder / LEDGER_FILE, again)
    _refuse_contradictions(result, ledger, seed, folder, again)
    artifact = folder / ARTIFACT
    return SeedRun(
        result=result,
        ledger=ledger,
        metrics=_read_metrics(folder / METRICS, seed, remedy),
        environment=_read(folder / ENV_FILE, (), remedy),
        artifact_sha256=sha256_file(artifact) if artifact.is_file() else "",
    )


def _refuse_contradictions(result: dict, ledger: dict, seed: int, folder: Path, remedy: str) -> None:
    parts = {part: spent for part, spent in result["seconds"].items() if part != "total"}
    held = {
        f"seed {result['seed']} is not {seed}": result["seed"] == seed,
        "total_bytes is not artifact_bytes + code_bytes":
            result["total_bytes"] == result["artifact_bytes"] + result["code_bytes"],
        "the parts of seconds do not add up to its total":
            math.isclose(sum(parts.values()), result["seconds"].get("total", sum(parts.values())), abs_tol=0.01),
        "artifact_bytes is not ledger.json's file_bytes": result["artifact_bytes"] == ledger["file_bytes"],
        "ledger.json's parts do not add up to total_bytes":
            sum(ledger[part] for part in LEDGER_PARTS) == result["total_bytes"],
    }  # fmt: skip
    for name in ("roundtrip", "sliding"):  # both cover all targets, so the bytes tie the loss to the bpb
        bpb = result[f"{name}_loss"] * result["val_targets"] / (math.log(2) * result["val_bytes"])
        held[f"{name}_bpb does not follow from {name}_loss, val_targets and val_bytes"] = math.isclose(
            bpb, result[f"{name}_bpb"], rel_tol=1e-6
        )
    for complaint, is_held in held.items():
        if not is_held:
            raise UserError(f"{folder / 'result.json'}: {complaint}; {remedy}")


def _read(path: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; {remedy}")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object; {remedy}")
    for key in keys:
        if key not in values:
            raise UserError(f"{path} lacks '{key}'; {remedy}")
    return values


def _number(values: Mapping[str, Any], key: str, path: Path, remedy: str) -> None:
    value = values.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{path} has no number '{key}' ({value!r}); {remedy}")


def _read_metrics(path: Path, seed: int, remedy: str) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path} does not exist; {remedy}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            if record["kind"] == "correction":  # after the last step, without a loss
                continue
            rows.append((seed, str(record["kind"]), int(record["step"]), float(record["loss"])))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, line {number}: not a metrics record with kind, step and loss; {remedy}") from None
    if not rows:
        raise UserError(f"{path} is empty; {remedy}")
    return pd.DataFrame(rows, columns=["seed", "kind", "step", "loss"])


# ---------------------------------------------------------------------- figures and text


def _context(
    summary: dict, runs: Mapping[int, SeedRun], recipe: dict, data: dict, sample: Mapping[str, Any] | None,
    figures: dict[str, Path],
) -> dict[str, Any]:  # fmt: skip
    """Everything the two templates show; numbers are already text."""
    one = next(iter(runs.values()))
    settings = flatten(recipe)
    cap = int(summary["cap_bytes"]["mean"])
    names = [f"seed {seed}" for seed in runs]
    targets = summary.get("raw_targets", summary["val_targets"])["mean"]
    return {
        "summary": summary,
        "n": summary["n"],
        "confidence": f"{CONFIDENCE:.0%}",
        "cap": cap,
        "largest_total": max(summary["total_bytes"]["seeds"].values()),
        "raw_targets": targets,
        "in_part": targets < summary["val_targets"]["mean"],
        "stride": int(summary["sliding_stride"]["mean"]),
        "track_stride": TRACK_STRIDE,
        "skipped_share": SKIPPED_SHARE,
        "script": str(settings.get("script", "")),
        "clock_seconds": float(settings.get("schedule.max_seconds", 0)),
        "entropy_bytes": sum(tensor["entropy_bytes"] for tensor in one.ledger["tensors"]),
        "stored_bytes": one.ledger["weights_bytes"] + one.ledger["scales_bytes"],
        "data": data,
        "sample": _clean_sample(sample),
        "seeds": seeds_table(summary),
        "ledger": (LEDGER_HEADER, [_ledger_row(seed, run.ledger, cap) for seed, run in runs.items()]),
        "grids": (GRID_HEADER, _grid_rows(one.ledger["tensors"])),
        "seconds": (["part", *names, "mean", "std"], _seconds_rows(summary)),
        "resumed": [
            f"seed {seed} went on at step {', '.join(map(str, run.result['resumed_at_steps']))}"
            for seed, run in runs.items()
            if run.result.get("resumed_at_steps")
        ],
        "splits": (SPLIT_HEADER, [_split_row(data, split) for split in SPLITS]),
        "hashes": [
            *((key.removesuffix("_sha256"), summary[key]) for key in TEXTS if key.endswith("_sha256")),
            *([(SCRIPT, one.result[SCRIPT_HASH])] if SCRIPT_HASH in one.result else []),
            *((f"artifact of seed {seed}", run.artifact_sha256) for seed, run in runs.items() if run.artifact_sha256),
        ],
        "settings": [(key, _text(value)) for key, value in settings.items()],
        "environment": list(_environment_rows({seed: run.environment for seed, run in runs.items()})),
        "figures": {name: f"figures/{path.name}" for name, path in figures.items()},
        "images": {name: base64.b64encode(path.read_bytes()).decode() for name, path in figures.items()},
    }


def _published_context(published: BesideRecords | None, figures: Path) -> dict[str, Any]:
    """The records' table, whose numbers lie among the figures' CSVs."""
    if published is None:
        return {"published": None, "beside_records": []}
    write_text(figures / "published.csv", published.table.to_csv(index=False, lineterminator="\n"))
    return {"published": (published.header, published.rows), "beside_records": published.sentences}


def _ledger_row(seed: int, ledger: Mapping[str, Any], cap: int) -> list[str]:
    parts = [ledger["weights_bytes"], ledger["scales_bytes"], ledger["header_bytes"], ledger["file_bytes"]]
    parts += [ledger["code_bytes"], sum(ledger[part] for part in LEDGER_PARTS)]
    return [str(seed), *(f"{value:,.0f}" for value in [*parts, cap - parts[-1]])]


def _grid_rows(tensors: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Tensors gathered by grid: count, values, bytes before compression, order-0 entropy in bytes and bits a value."""
    table = pd.DataFrame(tensors)
    groups = table.groupby("grid", sort=True)[["elements", "raw_bytes", "entropy_bytes"]].sum()
    counts = table.groupby("grid", sort=True).size()
    rows = []
    for grid, (elements, raw, entropy) in zip(groups.index, groups.to_numpy(dtype=float), strict=True):
        sums = [f"{value:,.0f}" for value in (counts[grid], elements, raw, entropy)]
        rows.append([str(grid), *sums, f"{8 * entropy / elements:.2f}"])
    return rows


def _split_row(data: Mapping[str, Any], split: str) -> list[str]:
    documents, size, tokens = (data[f"{split}_{what}"] for what in ("documents", "bytes", "tokens"))
    return [SPLITS[split], f"{documents:,}", f"{size:,}", f"{tokens:,}", f"{size / tokens:.3f}"]


def _seconds_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, entry in [*summary["seconds"].items(), ("whole", summary["whole_seconds"])]:
        if name == "total":
            continue
        cells = [entry["seeds"].get(str(seed)) for seed in summary["seeds"]] + [entry["mean"], entry["std"]]
        rows.append([SECONDS.get(name, name), *("–" if cell is None else f"{cell:,.1f}" for cell in cells)])
    return rows


def command_of(recipe_folder: Path, seeds: Sequence[int]) -> str:
    """The command that makes these seeds, from the folder's recipe.json: its changes to the recipe file as --set."""
    path = Path(recipe_folder) / RECIPE_FILE
    recorded = read_json(path) if path.is_file() else {}
    name = str(recorded.get("name", recipe_folder.name))
    words = ["pgolf record", name, "--seeds", ",".join(map(str, seeds))]
    with contextlib.suppress(UserError):  # the recipe file may be gone; the settings are in the report all the same
        base = flatten(to_dict(load_recipe(name)))
        changed = {key: value for key, value in flatten(recorded).items() if key in base and base[key] != value}
        for key, value in changed.items():
            if key not in ("name", "title"):
                words += ["--set", shlex.quote(f"{key}={json.dumps(value)}")]
    if recipe_folder.name not in (name, f"{name}+{recorded.get('fingerprint', '')[:8]}"):
        words += ["--name", shlex.quote(recipe_folder.name)]
    return " ".join(words)


PRIVATE = re.compile(r"host|user|cwd|folder|path|argv|executable|prefix|home", re.IGNORECASE)
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates: a model of bytes can sample them, no page can hold them."""
ABSOLUTE = re.compile(r"(^|[\s=:;,'\"(\[])(/[\w.-]+/|~/|[A-Za-z]:\\)")


def _environment_rows(environments: Mapping[int, Mapping[str, Any]]):
    """(key, text) of env.json without names and paths of the machine; where seeds differ, each seed's value."""
    flat = {seed: flatten(values) for seed, values in environments.items()}
    for key in dict.fromkeys(key for values in flat.values() for key in values):
        texts = {seed: _text(values.get(key, "–")) for seed, values in flat.items()}
        if PRIVATE.search(key) or key.startswith("hashes.") or any(ABSOLUTE.search(text) for text in texts.values()):
            continue
        is_same = len(set(texts.values())) == 1
        yield key, next(iter(texts.values())) if is_same else ", ".join(f"{s}: {text}" for s, text in texts.items())


def _text(value: Any) -> str:
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _clean_sample(sample: Mapping[str, Any] | None) -> dict[str, str] | None:
    """The sample as text; the artifact is named by its last two path parts, not the machine's."""
    if sample is None:
        return None
    artifact = "/".join(Path(str(sample["artifact"])).parts[-2:])
    return {key: str(sample[key]) for key in SAMPLE_KEYS} | {"artifact": artifact}


def _markdown(text: Any) -> str:
    """Escape text for GitHub-flavoured Markdown: no markup, no HTML, one line."""
    plain = html.escape(" ".join(str(text).splitlines()), quote=False)
    return re.sub(r"([\\`*_\[\]{}|~#!$])", r"\\\1", plain)


def _quoted(text: Any) -> str:
    """Escaped text as the lines of a Markdown quotation, line breaks kept."""
    return "\n".join(f"> {_markdown(line)}  " if line.strip() else ">" for line in str(text).split("\n"))


def _render(name: str, context: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=name.endswith(".html.j2"), trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "md": _markdown,
        "quoted": _quoted,
        "fixed": lambda value, digits=0: f"{value:,.{digits}f}",
        "signed": lambda value, digits=0: f"{value:+.{digits}f}".replace("-", "−"),
    }
    return UNPRINTABLE.sub("\ufffd", environment.get_template(name).render(context))
