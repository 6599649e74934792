"""Means, intervals and comparisons over seeds: how much of a difference is only the seed.

Intervals are Student's t. Two arms are compared by a paired t test where they share seeds, else by Welch's t test
(B. L. Welch, Biometrika 34, 1947). One seed never gets a p-value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pgolf_core.files import UserError, read_json

CONFIDENCE = 0.95
"""Level of every interval that the project reports."""
SCORES = {"raw_bpb": "raw", "averaged_bpb": "averaged", "roundtrip_bpb": "round-trip", "sliding_bpb": "sliding"}
"""The four scores of result.json in the order of the stages, and what figures and tables call them."""
NUMBERS = (
    *SCORES, "raw_loss", "averaged_loss", "roundtrip_loss", "sliding_loss", "artifact_bytes", "code_bytes",
    "total_bytes", "cap_bytes", "parameters", "steps", "tokens", "val_targets", "val_bytes", "sliding_stride",
)  # fmt: skip
TEXTS = ("recipe", "track", "recipe_sha256", "data_sha256", "core_sha256")
"""Equal in every seed, or the seeds are not one experiment."""


@dataclass(frozen=True)
class Summary:
    """Mean and spread of one number over seeds, in that number's own unit; spreads are None for n = 1."""

    n: int
    mean: float
    std: float | None
    """Sample standard deviation, divisor n - 1."""
    sem: float | None
    """Standard error of the mean, std / sqrt(n)."""
    low: float | None
    """Lower end of the two-sided interval of the mean."""
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """Arm b against arm a; `difference` = mean of b - mean of a (paired: over the shared seeds only)."""

    method: str
    """'paired t', 'Welch t', or 'none' when no test is possible."""
    n_a: int
    """Seeds of a that entered."""
    n_b: int
    difference: float
    low: float | None
    """Lower end of the interval of the difference; None without a test."""
    high: float | None
    p_value: float | None
    note: str
    """Why there is no p-value, or which seeds were left out; empty otherwise."""


def summarise(values: Iterable[float], confidence: float = CONFIDENCE) -> Summary:
    """Mean, standard deviation (divisor n - 1), standard error and t interval; ValueError for none or not finite."""
    x = _finite(values)
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Summary(1, mean, None, None, None, None)
    std = float(x.std(ddof=1))
    sem = std / math.sqrt(n)
    half_width = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sem
    return Summary(n, mean, std, sem, mean - half_width, mean + half_width)


def compare_runs(
    values_a: Mapping[int, float], values_b: Mapping[int, float], confidence: float = CONFIDENCE
) -> Comparison:
    """Compare two arms given as {seed: value}; paired over the seeds that both have if there are two, else Welch."""
    shared = sorted(set(values_a) & set(values_b))
    paired = len(shared) >= 2
    a = _finite([values_a[seed] for seed in (shared if paired else sorted(values_a))])
    b = _finite([values_b[seed] for seed in (shared if paired else sorted(values_b))])
    difference = float((b - a).mean()) if paired else float(b.mean() - a.mean())
    if not paired and min(len(a), len(b)) < 2:
        note = f"no p-value: {len(a)} against {len(b)} seed(s), and one seed has no spread to test against"
        return Comparison("none", len(a), len(b), difference, None, None, None, note)
    method = "paired t" if paired else "Welch t"
    left_out = sorted(set(values_a) ^ set(values_b)) if paired else []
    note = f"seeds {', '.join(map(str, left_out))} are in one arm only and were left out" if left_out else ""
    spread = (b - a).std(ddof=1) if paired else max(a.std(ddof=1), b.std(ddof=1))
    # Rounding leaves about 1e-16 of the values where the true spread is zero; a t statistic from it means nothing.
    if spread <= 1e-12 * max(1.0, abs(a).max(), abs(b).max()):
        why = "no p-value: no spread over the seeds to test against"
        return Comparison("none", len(a), len(b), difference, None, None, None, "; ".join(filter(None, [why, note])))
    test = stats.ttest_rel(b, a) if paired else stats.ttest_ind(b, a, equal_var=False)
    interval = test.confidence_interval(confidence)
    return Comparison(
        method, len(a), len(b), difference, float(interval.low), float(interval.high), float(test.pvalue), note
    )


def seed_folders(recipe_folder: Path) -> dict[int, Path]:
    """{seed: folder} of every seed<k> folder in a recipe's run folder, finished or not, by seed."""
    found = {
        int(path.name[4:]): path
        for path in Path(recipe_folder).glob("seed*")
        if path.is_dir() and path.name[4:].isdecimal()
    }
    return dict(sorted(found.items()))


def compare(run_folders: list[Path], metric: str = "sliding_bpb") -> pd.DataFrame:
    """One row per run folder, each tested against the first: the table behind `pgolf compare`.

    Columns: run, seeds, n, mean, std, low, high (of `metric`); difference, difference_low, difference_high, p_value,
    test, note (against the first; empty in its own row); total_bytes, total_bytes_max, train_seconds, seconds (means).
    Seeds without a result.json are not finished and do not enter. Raises UserError for a folder without results, an
    unknown metric or a result.json that lacks a key.
    """
    if not run_folders:
        raise UserError("nothing to compare; name at least one run folder, as runs/local_10min_1mb/local-smoke")
    rows: list[dict[str, Any]] = []
    first: dict[int, dict[str, Any]] = {}
    for folder in map(Path, run_folders):
        results = _finished_results(folder)
        values = {seed: _number(result, metric, folder, seed) for seed, result in results.items()}
        summary = summarise(values.values())
        row: dict[str, Any] = {"run": folder.resolve().name, "seeds": ",".join(map(str, values))}
        row |= {"n": summary.n, "mean": summary.mean, "std": summary.std, "low": summary.low, "high": summary.high}
        row |= dict.fromkeys(("difference", "difference_low", "difference_high", "p_value"))
        row |= {"test": "", "note": ""}
        if rows:
            against = compare_runs({seed: first[seed][metric] for seed in first}, values)
            row |= {"difference": against.difference, "difference_low": against.low}
            row |= {"difference_high": against.high, "p_value": against.p_value, "test": against.method}
            row["note"] = "; ".join(filter(None, [_unlike(first, results), against.note]))
        else:
            first = results
        total_bytes = [_number(result, "total_bytes", folder, seed) for seed, result in results.items()]
        row |= {"total_bytes": float(np.mean(total_bytes)), "total_bytes_max": int(max(total_bytes))}
        seconds = {seed: result_seconds(result, folder, seed) for seed, result in results.items()}
        row["train_seconds"] = float(np.mean([one["train"] for one in seconds.values()]))
        row["seconds"] = float(np.mean([whole_seconds(one) for one in seconds.values()]))
        rows.append(row)
    table = pd.DataFrame(rows)
    spreads = ["std", "low", "high", "difference", "difference_low", "difference_high", "p_value"]
    return table.astype(dict.fromkeys(spreads, float))  # a missing spread is NaN, never an object column


def summarise_seeds(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The content of summary.json: result.json's keys with n, mean, std, sem, low, high and every seed's value.

    `seconds` holds one such entry per part, `whole_seconds` one for their sum. Seeds of different recipes, data or code
    are refused: their mean would describe no experiment.
    """
    first = next(iter(results.values()))
    for seed, result in results.items():
        for key in TEXTS:
            if result[key] != first[key]:
                raise UserError(
                    f"seeds {first['seed']} and {seed} differ in {key} ({first[key]!s:.12}, {result[key]!s:.12}): "
                    "they are not one experiment; run them again with --fresh"
                )

    def entry(values: Mapping[int, float]) -> dict[str, Any]:
        return asdict(summarise(values.values())) | {"seeds": {str(seed): value for seed, value in values.items()}}

    summary: dict[str, Any] = {key: first[key] for key in TEXTS} | {"seeds": list(results), "n": len(results)}
    summary["confidence"] = CONFIDENCE
    for key in NUMBERS:
        summary[key] = entry({seed: result[key] for seed, result in results.items()})
    in_parts = {seed: result["raw_targets"] for seed, result in results.items() if result.get("raw_targets")}
    if in_parts:
        summary["raw_targets"] = entry(in_parts)
    names = dict.fromkeys(name for result in results.values() for name in result["seconds"])
    summary["seconds"] = {
        name: entry({s: result["seconds"][name] for s, result in results.items() if name in result["seconds"]})
        for name in names
    }
    summary["whole_seconds"] = entry({seed: whole_seconds(result["seconds"]) for seed, result in results.items()})
    return summary


def seeds_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: every seed, then mean and std (a dash where one seed has none)."""
    columns = [("steps", summary["steps"], 0, 1)]  # name, entry, digits of a seed, digits of mean and std
    columns += [(f"{label} bpb", summary[key], 4, 4) for key, label in SCORES.items()]
    columns += [(f"{part} bytes", summary[f"{part}_bytes"], 0, 0) for part in ("artifact", "code", "total")]
    columns += [("train s", summary["seconds"]["train"], 1, 1), ("whole s", summary["whole_seconds"], 1, 1)]
    rows = [
        [str(seed), *(f"{entry['seeds'][str(seed)]:,.{digits}f}" for _, entry, digits, _ in columns)]
        for seed in summary["seeds"]
    ]
    for name in ("mean", "std"):
        values = [(entry[name], digits) for _, entry, _, digits in columns]
        rows.append([name, *("–" if value is None else f"{value:,.{digits}f}" for value, digits in values)])
    return ["seed", *(column[0] for column in columns)], rows


def seeds_table_text(summary: Mapping[str, Any]) -> str:
    """The table of seeds as aligned plain text with two header lines, for a terminal."""
    header, rows = seeds_table(summary)
    split = [name.rpartition(" ") if " " in name else (name, "", "") for name in header]
    lines = [[first for first, _, _ in split], [last for _, _, last in split], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    rule = "-" * sum(widths, 2 * (len(widths) - 1))
    return "\n".join([*text[:2], rule, *text[2:-2], rule, *text[-2:]])


def whole_seconds(seconds: Mapping[str, float]) -> float:
    """Seconds of a whole seed: its `total` entry where there is one, else the sum of its parts."""
    return float(seconds["total"]) if "total" in seconds else float(sum(seconds.values()))


def result_seconds(result: Mapping[str, Any], folder: Path, seed: int) -> dict[str, float]:
    """The checked `seconds` table of one result.json; UserError where it or its `train` entry is missing."""
    seconds = result.get("seconds")
    if not isinstance(seconds, dict) or "train" not in seconds:
        raise UserError(f"{_place(folder, seed)} lacks 'seconds.train'; run seed {seed} again with --fresh")
    return {name: _number(seconds, name, folder, seed) for name in seconds}


def _finished_results(folder: Path) -> dict[int, dict[str, Any]]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a run folder; name one that holds seed folders, as runs/TRACK/RECIPE")
    paths = {seed: path / "result.json" for seed, path in seed_folders(folder).items()}
    results = {seed: read_json(path) for seed, path in paths.items() if path.is_file()}
    if not results:
        raise UserError(f"{folder} holds no seed<k>/result.json; finish a seed first with `pgolf record`")
    for seed, result in results.items():
        if not isinstance(result, dict):
            raise UserError(f"{_place(folder, seed)} is not a JSON object; run seed {seed} again with --fresh")
    return results


def _unlike(first: Mapping[int, Mapping[str, Any]], other: Mapping[int, Mapping[str, Any]]) -> str:
    """What makes two runs' scores different quantities, in words; empty when they are one."""
    labels = {"track": "another track", "data_sha256": "another dataset", "sliding_stride": "another stride"}
    differing = []
    for key, label in labels.items():
        if {result.get(key) for result in first.values()} != {result.get(key) for result in other.values()}:
            differing.append(label)
    return f"NOT LIKE FOR LIKE: {', '.join(differing)}" if differing else ""


def _number(values: Mapping[str, Any], key: str, folder: Path, seed: int) -> float:
    value = values.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{_place(folder, seed)} has no number '{key}'; check the name or run the seed with --fresh")
    return value


def _place(folder: Path, seed: int) -> str:
    return str(Path(folder) / f"seed{seed}" / "result.json")


def _finite(values: Iterable[float]) -> np.ndarray:
    x = np.asarray(list(values), dtype=np.float64)
    if not x.size or not np.isfinite(x).all():
        raise ValueError(f"need at least one value, all finite; got {x.tolist()}")
    return x
