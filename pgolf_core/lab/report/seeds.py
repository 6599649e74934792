"""Statistics over seeds, under one roof: a recipe's seeds as one summary and one table; the rest by its own room.

The mathematics is in `inference`, reading runs and records in `arms`, their comparison in `comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pgolf_core.base.files import UserError
from pgolf_core.lab.compare.arms import SCORES, SCRIPT_HASH, TEXTS, result_seconds, seed_folders, whole_seconds
from pgolf_core.lab.compare.comparison import compare
from pgolf_core.lab.compare.inference import CONFIDENCE, Comparison, Summary, compare_runs, summarise

__all__ = [
    "CONFIDENCE", "NUMBERS", "SCORES", "TEXTS", "Comparison", "Summary", "compare", "compare_runs", "result_seconds",
    "seed_folders", "seeds_table", "seeds_table_text", "summarise", "summarise_seeds", "whole_seconds",
]  # fmt: skip
NUMBERS = (
    *SCORES, "raw_loss", "averaged_loss", "roundtrip_loss", "sliding_loss", "artifact_bytes", "code_bytes",
    "total_bytes", "cap_bytes", "parameters", "steps", "tokens", "val_targets", "val_bytes", "sliding_stride",
)  # fmt: skip
"""Numbers of result.json that summary.json sums up."""


def summarise_seeds(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The content of summary.json: result.json's keys with n, mean, std, sem, low, high and every seed's value.

    `seconds` holds one such entry per part, `whole_seconds` one for their sum. Seeds of different recipes, data or code
    are refused: their mean would describe no experiment.
    """
    first = next(iter(results.values()))
    for seed, result in results.items():
        for key in (*TEXTS, SCRIPT_HASH):
            if result.get(key) != first.get(key):
                raise UserError(
                    f"seeds {first['seed']} and {seed} differ in {key} ({first.get(key)!s:.12}, "
                    f"{result.get(key)!s:.12}): "
                    "they are not one experiment; run them again with --fresh"
                )

    def entry(values: Mapping[int, float]) -> dict[str, Any]:
        return asdict(summarise(values.values())) | {"seeds": {str(seed): value for seed, value in values.items()}}

    texts = [*TEXTS, *([SCRIPT_HASH] if SCRIPT_HASH in first else [])]
    summary: dict[str, Any] = {key: first[key] for key in texts} | {"seeds": list(results), "n": len(results)}
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
    """Header and rows of text: every seed, then mean, std (a dash where one seed has none) and half the interval."""
    columns = [("steps", summary["steps"], 0, 1)]  # name, entry, digits of a seed, digits of mean and std
    columns += [(f"{label} bpb", summary[key], 4, 4) for key, label in SCORES.items()]
    columns += [(f"{part} bytes", summary[f"{part}_bytes"], 0, 0) for part in ("artifact", "code", "total")]
    columns += [("train s", summary["seconds"]["train"], 1, 1), ("whole s", summary["whole_seconds"], 1, 1)]
    rows = [
        [str(seed), *(f"{entry['seeds'][str(seed)]:,.{digits}f}" for _, entry, digits, _ in columns)]
        for seed in summary["seeds"]
    ]
    last = {name: [entry[name] for _, entry, _, _ in columns] for name in ("mean", "std")}
    if len(summary["seeds"]) > 1:
        last[f"± {CONFIDENCE:.0%}"] = [entry["high"] - entry["mean"] for _, entry, _, _ in columns]
    for name, numbers in last.items():
        values = [(number, digits) for number, (_, _, _, digits) in zip(numbers, columns, strict=True)]
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
    end = 2 + len(summary["seeds"])
    return "\n".join([*text[:2], rule, *text[2:end], rule, *text[end:]])
