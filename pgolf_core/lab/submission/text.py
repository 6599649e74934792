"""The README.md of a submission folder. Names and whatever else comes from a file are escaped."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgolf_core.base.names import ARTIFACT
from pgolf_core.lab.recipes.settings import differences
from pgolf_core.lab.report.beside_records import BesideRecords
from pgolf_core.lab.report.report import SeedRun
from pgolf_core.lab.report.seeds import CONFIDENCE, seeds_table, whole_seconds
from pgolf_core.lab.shared.places import SCRIPT
from pgolf_core.recipes.reading import available_recipes, lineage, load_recipe
from pgolf_core.recipes.recipe import Recipe

GENERAL_CREDITS = (
    "Muon: Keller Jordan and others, 2024; tokenizer: SentencePiece; compression: Zstandard.",
    "Parameter Golf and its published records, from which the recipes of pgolf descend: PR 194, 315, 332, 531 and 534.",
)
CAPTIONS = {
    "seeds": "The four scores of every seed",
    "curves": "Training and validation loss of every seed",
    "bytes": "Sliding score of every seed against its bytes, and the cap",
    "ledger": "What fills the cap",
    "tensors": "Bits per weight of every tensor as stored, first seed",
    "packings": "What other packings of the same weights would cost",
    "position": "Round-trip score by the tokens of context that a target has",
}
"""What a figure shows, by its name."""


@dataclass(frozen=True)
class Facts:
    """What the write-up is made of."""

    who: Mapping[str, str]
    """name, author, github_id, date."""
    summary: Mapping[str, Any]
    runs: Mapping[int, SeedRun]
    recipe: Recipe
    command: str
    """That made the run."""
    processes: int
    """That trained a seed together."""
    citation: str
    figures: Sequence[str]
    """Names of the PNGs in figures/."""
    published: BesideRecords | None


def scored(summary: Mapping[str, Any]) -> str:
    """`1.1250 ± 0.0002 bits per byte, 3 seed(s)`; one seed claims no spread."""
    entry = summary["sliding_bpb"]
    spread = f" ± {entry['std']:.4f}" if entry["std"] is not None else ""
    return f"{entry['mean']:.4f}{spread} bits per byte, {summary['n']} seed(s)"


def readme(facts: Facts) -> str:
    """The whole text."""
    who, recipe = facts.who, facts.recipe
    first_seed, first = next((seed, run.result) for seed, run in facts.runs.items())
    base, changes = changed_keys(recipe)
    descent = [f"Recipe {name}: {load_recipe(name).title}" for name in _ancestors(recipe)]
    parts = [f"# {_md(who['name'])}", f"{_md(who['author'])} (GitHub: {_md(who['github_id'])}), {who['date']}"]
    parts += [f"**{_md(scored(facts.summary))}** (sliding score, mean and standard deviation over all seeds that ran)."]
    parts += [_interval(facts.summary), "## What is new", f"{_md(recipe.title)}. Keys that differ from {base}:"]
    parts += [_table(["key", base.capitalize(), "here"], changes)] if changes else ["None: it is the same recipe."]
    parts += ["## Every seed", _table(*seeds_table(facts.summary)), _notes(first, recipe)]
    parts += _published(facts.published)
    parts += ["## Command", *_commands(facts, first), "## Bytes"]
    names = ["seed", "weights", "scales", "header", "file", "code", "total", "left under the cap"]
    parts += [_table(names, [[str(seed), *_ledger_cells(run)] for seed, run in facts.runs.items()])]
    parts += [
        f"Weights, scales and header make up the file, `{ARTIFACT}`; file and code the total. Code is `{SCRIPT}` in "
        f"this folder, {first['code_bytes']:,} bytes; the cap of {_md(recipe.track)} is {recipe.cap_bytes:,}."
    ]
    parts += ["## Seconds", _seconds(facts.runs), "## Figures", *_figures(facts.figures), "## Files"]
    parts += [
        f"- `{SCRIPT}`: trains, packs, reads back and scores, by itself\n"
        f"- `{ARTIFACT}`: the artifact of seed {first_seed} ({first['artifact_bytes']:,} bytes)\n"
        "- `train_seed<k>.log`: the logs as written, with sizes and scores at the end\n"
        "- `submission.json`: the numbers; `requirements.txt`: what the script imports, as the first seed ran it\n"
        "- `figures/`: every figure as PNG, with its numbers as CSV",
        "## Credits",
        "\n".join(f"- {_md(line)}" for line in (*descent, *GENERAL_CREDITS, *filter(None, [facts.citation]))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _interval(summary: Mapping[str, Any]) -> str:
    entry = summary["sliding_bpb"]
    if entry["low"] is None:
        return "One seed: nothing is known of the spread over seeds."
    return f"The {CONFIDENCE:.0%} t interval of the mean is {entry['low']:.4f} to {entry['high']:.4f}."


def _notes(first: Mapping[str, Any], recipe: Recipe) -> str:
    part = first.get("raw_targets") or first["val_targets"]
    on_a_part = f", on the first {part:,} of {first['val_targets']:,} targets" if part < first["val_targets"] else ""
    return (
        f"Bits per byte, lower is better. Raw and averaged are saved weights before packing{on_a_part}; round-trip "
        f"(window {recipe.eval.seq_len}) and sliding (stride {first['sliding_stride']}) are scored from the packed "
        f"file, every one of {first['val_targets']:,} targets once, over {first['val_bytes']:,} bytes of text."
    )


def _published(published: BesideRecords | None) -> list[str]:
    if published is None:
        return []
    text = _md(" ".join(published.sentences))
    return ["## Beside the published records", text, _table(published.header, published.rows)]


def _commands(facts: Facts, first: Mapping[str, Any]) -> list[str]:
    """How the numbers were made, and how the script alone makes them again."""
    script, count = f"python {SCRIPT}", facts.processes
    if count > 1:
        script = f"torchrun --standalone --nproc_per_node={count} {SCRIPT}"
    alone = "\n".join(f"DATA_PATH=DATA TOKENIZER_PATH=TOKENIZER SEED={seed} {script}" for seed in facts.runs)
    if first.get("stopped_by") == "clock":
        again = "Training ends by the clock, so another run takes other steps and agrees within the seeds' spread."
    else:
        again = "Training ends after a fixed number of steps: a seed gives the same file on the same kind of machine."
    return [
        f"The numbers were made with the pgolf repository by\n\n{_fenced(' '.join(facts.command.splitlines()))}",
        "The script makes them alone, from inside this folder, with what `requirements.txt` names. `DATA` is the "
        f"folder of the shards (`*_train_*.bin`, `*_val_*.bin`) of {_md(facts.recipe.data.dataset)}, `TOKENIZER` its "
        "SentencePiece model; `pgolf data` prints the folder that holds both.",
        _fenced(alone),
        again,
    ]


def _ledger_cells(run: SeedRun) -> list[str]:
    values = [run.ledger[f"{part}_bytes"] for part in ("weights", "scales", "header", "file", "code")]
    total = run.result["total_bytes"]
    return [f"{value:,}" for value in (*values, total, run.result["cap_bytes"] - total)]


def _seconds(runs: Mapping[int, SeedRun]) -> str:
    named = dict.fromkeys(key for run in runs.values() for key in run.result["seconds"] if key != "total")
    rows = [[key, *(f"{run.result['seconds'].get(key, 0.0):,.1f}" for run in runs.values())] for key in named]
    rows.append(["whole", *(f"{whole_seconds(run.result['seconds']):,.1f}" for run in runs.values())])
    return _table(["part", *(f"seed {seed}" for seed in runs)], rows)


def _figures(names: Sequence[str]) -> Iterable[str]:
    for name in names:
        stem = name.removesuffix(".png")
        yield f"![{CAPTIONS[stem]}](figures/{name})\n\n{CAPTIONS[stem]} ([numbers](figures/{stem}.csv))."


# ---------------------------------------------------------------------- what is new


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


# ---------------------------------------------------------------------- Markdown


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_md, line))} |" for line in lines)


def _fenced(text: str) -> str:
    """A block of code that no backticks in the text can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _md(text: Any) -> str:
    """Text for GitHub-flavoured Markdown: no markup, no HTML, no mention, one line."""
    plain = html.escape(" ".join(str(text).split()), quote=False)
    plain = re.sub(r"([\\`*_\[\]{}|~#!$])", r"\\\1", plain)
    return plain.replace("@", "&#64;").replace("://", ":&#47;/")
