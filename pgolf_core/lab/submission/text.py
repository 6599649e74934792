"""The README.md of a submission folder: a report's blocks, what is new, the commands, the files and the credits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pgolf_core.lab.recipes.settings import differences
from pgolf_core.lab.report.page import fenced, render, table
from pgolf_core.lab.shared.places import SCRIPT
from pgolf_core.recipes.reading import available_recipes, lineage, load_recipe
from pgolf_core.recipes.recipe import Recipe

GENERAL_CREDITS = (
    "Muon: Keller Jordan and others, 2024; tokenizer: SentencePiece; compression: Zstandard.",
    "Parameter Golf and its published records, from which the recipes of pgolf descend: PR 194, 315, 332, 531 and 534.",
)


def readme(context: Mapping[str, Any], recipe: Recipe, who: Mapping[str, str], command: str, processes: int) -> str:
    """The whole text. `context`: what `report.run_context` says of the seeds, and the data's `citation`.

    `who`: name, author, github_id, date. `command` made the run, with `processes` that trained a seed together.
    """
    base, changes = changed_keys(recipe)
    descent = [f"Recipe {name}: {load_recipe(name).title}" for name in _ancestors(recipe)]
    own = {
        "who": who,
        "recipe": {"title": recipe.title, "dataset": recipe.data.dataset},
        "script": recipe.script,
        "base": base,
        "changes": table(["key", base.capitalize(), "here"], changes, text_columns=3) if changes else "",
        "command": fenced(" ".join(command.splitlines())),
        "alone": fenced("\n".join(_alone(context["summary"]["seeds"], processes))),
        "credits": [*descent, *GENERAL_CREDITS, *filter(None, [context["citation"]])],
    }
    return render("submission.md.j2", {**context, **own})


def _alone(seeds: Iterable[int], processes: int) -> Iterable[str]:
    """How the script alone makes every seed again."""
    launch = "python" if processes == 1 else f"torchrun --standalone --nproc_per_node={processes}"
    return (f"DATA_PATH=DATA TOKENIZER_PATH=TOKENIZER SEED={seed} {launch} {SCRIPT}" for seed in seeds)


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
