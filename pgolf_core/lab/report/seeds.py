"""A recipe's seeds as one summary and one table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError
from pgolf_core.lab.compare.agreement import first_difference, read_seed_result
from pgolf_core.lab.compare.inference import CONFIDENCE, summarise
from pgolf_core.lab.compare.results import SCORE_LABELS, TEXTS, json_object, refuse_unlike, whole_seconds
from pgolf_core.lab.shared.places import SUMMARY_FILE
from pgolf_core.lab.shared.settings import json_list
from pgolf_core.lab.shared.tables import table_text
from pgolf_core.result import Result

NUMBERS = tuple(
    field.name for field in fields(Result)
    if field.type in (int, float, int | None, float | None) and field.name != "seed"
)  # fmt: skip
"""Numbers of result.json that summary.json sums up."""
BESIDE_ADAPTED = {"sliding": "sliding (frozen)", "adapted": "adapted"}
ADAPTING = (
    "Frozen: the weights as they were packed. Adapted: text is scored first and then\n"
    "learned from, by weights or a mixture; nothing is learned from what has no score\n"
    "yet."
)
"""What the two are, in lines of a terminal."""


def given_seeds(value: Sequence[int] | int | str) -> list[int]:
    """Seeds as a notebook's parameter: a list, one number, or a text as `papermill -p` gives it, "1337,1338"."""
    if isinstance(value, str):
        value = json_list(value) or [int(one) if one.isdecimal() else one for one in re.findall(r"[^,;\s]+", value)]
    seeds: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    is_list = all(type(seed) is int and seed >= 0 for seed in seeds)
    if not seeds or not is_list or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {value!r} must be a list of whole numbers, as [1337, 1338], none twice")
    return seeds


def summarise_seeds(results: Mapping[int, Result]) -> dict[str, Any]:
    """The content of summary.json: each of NUMBERS with n, mean, std, sem, low, high and every seed's value; TEXTS.

    `seconds` holds one such entry per part, `whole_seconds` one for their sum. A number that no seed has is left out.
    Seeds of different recipes, data or code are refused: their mean would describe no experiment.
    """
    refuse_unlike(results)
    first = next(iter(results.values()))
    summary: dict[str, Any] = {key: getattr(first, key) for key in TEXTS}
    summary |= {"seeds": list(results), "n": len(results), "confidence": CONFIDENCE}
    summary |= _entries({seed: {key: getattr(one, key) for key in NUMBERS} for seed, one in results.items()})
    summary["seconds"] = _entries({seed: result.seconds for seed, result in results.items()})
    return summary | _entries({seed: {"whole_seconds": whole_seconds(result)} for seed, result in results.items()})


def _entries(values: Mapping[int, Mapping[str, float | None]]) -> dict[str, dict[str, Any]]:
    """{name: statistics} of {seed: {name: value}}, over the seeds that have a value."""
    found = {}
    for name in dict.fromkeys(name for own in values.values() for name in own):
        known = {str(seed): value for seed, own in values.items() if (value := own.get(name)) is not None}
        if known:
            found[name] = asdict(summarise(known.values())) | {"seeds": known}
    return found


def read_summary(recipe_folder: Path) -> dict[str, Any]:
    """summary.json of a run; UserError where it is not what the results of its seeds say."""
    path = recipe_folder / SUMMARY_FILE
    remedy = "delete it, and the same `pgolf record … --report-only` writes it again"
    said = json_object(path)
    try:
        seeds = given_seeds(said.get("seeds", []))
    except UserError as error:
        raise UserError(f"{path} has no list of seeds ({error}); {remedy}") from None
    results = {seed: read_seed_result(recipe_folder / f"seed{seed}", seed) for seed in seeds}
    if wrong := first_difference(summarise_seeds(results), said):
        raise UserError(f"{path} is not what its seeds say ({wrong}); {remedy}")
    return said


def seeds_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: every seed, then mean, std (a dash where one seed has none) and half the interval."""
    columns = [("steps", summary["steps"], 0, 1)]  # name, entry, digits of a seed, digits of mean and std
    columns += [
        (f"{label} bpb", summary[f"{score}_bpb"], 4, 4)
        for score, label in score_labels("adapted_bpb" in summary).items()
    ]
    columns += [(f"{part} bytes", summary[f"{part}_bytes"], 0, 0) for part in ("artifact", "code", "total")]
    columns += [("train s", summary["seconds"]["train"], 1, 1), ("whole s", summary["whole_seconds"], 1, 1)]
    names = [*map(str, summary["seeds"]), "mean", "std", *([f"± {CONFIDENCE:.0%}"] if summary["n"] > 1 else [])]
    cells = []
    for _, entry, of_seed, of_all in columns:
        half = [] if entry["high"] is None else [entry["high"] - entry["mean"]]
        cells.append([f"{value:,.{of_seed}f}" for value in entry["seeds"].values()])
        cells[-1] += [
            "–" if value is None else f"{value:,.{of_all}f}" for value in (entry["mean"], entry["std"], *half)
        ]
    return ["seed", *(name for name, *_ in columns)], [list(row) for row in zip(names, *cells, strict=True)]


def headline(summary: Mapping[str, Any]) -> str:
    """The score that a run is known by: adapted where its weights learn from what was scored, else sliding."""
    return "adapted" if "adapted_bpb" in summary else "sliding"


def score_labels(is_adapted: bool) -> dict[str, str]:
    """SCORE_LABELS, and the adapted score where there is one, beside that of the frozen weights."""
    return SCORE_LABELS | (BESIDE_ADAPTED if is_adapted else {})


def over_cap(summary: Mapping[str, Any]) -> str:
    """Which seeds trained beyond the recipe's cap, and by how much, in a sentence; empty if none did."""
    over = summary.get("over_cap_seconds", {}).get("seeds", {})
    told = ", ".join(f"seed {seed} by {seconds:.2f} s" for seed, seconds in over.items())
    return f"Over the recipe's cap on training, and so not to be counted: {told}." if told else ""


def seeds_table_text(summary: Mapping[str, Any]) -> str:
    """The table of seeds for a terminal, in two that fit 80 columns: steps and scores, bytes and seconds; and what
    adapting is, where a score is adapted."""
    header, rows = seeds_table(summary)
    names, scores = [name.removesuffix(" bpb") for name in header], 2 + len(score_labels("adapted_bpb" in summary))
    texts = (
        table_text(names[:scores], [row[:scores] for row in rows]),
        table_text([names[0], *names[scores:]], [[row[0], *row[scores:]] for row in rows]),
    )
    told = ADAPTING if "adapted_bpb" in summary else ""
    return "\n\n".join(filter(None, (*texts, told, over_cap(summary))))
