"""What a single script has, knows and leaves out where it differs from the core: the only hand-written rules of export.

Each rule names something in the core. One that no longer fits the core's text is an error, never a silent difference.
"""

from __future__ import annotations

import functools

from pgolf_core.files import UserError
from pgolf_core.grid import STEPS, grid_names_for
from pgolf_core.lab.export_source import Function, Source
from pgolf_core.model import parameter_shapes
from pgolf_core.recipe import Recipe

MAIN = "lab.export_main"

HEADINGS = {
    "recipe": "The recipe, resolved: each default below is this run's value. Keys that nothing here reads are gone.",
    "checkpoint": "Putting tensors back.",
}
"""In place of a room's own docstring."""

DOCSTRINGS = {
    "Trainer": "One seed of one recipe in one folder.",
    "Trainer.run": "Train to the cap or the last iteration; the weights stay in memory.",
    "Trainer._finish": "What training says about itself.",
}
"""In place of what the core says of a class or function that does less in a script."""

_REPLACED = {
    "artifact": {
        "_parse_model": '''\
def _parse_model(values: Any) -> recipe.Model:
    """This script's own model: its code builds no other."""
    if values != recipe.to_dict(recipe.Recipe())["model"]:
        raise _Refused("its model configuration is not this script's")
    return recipe.Recipe().model
''',
    },
}
"""Functions written anew: the core's reader takes any model, and needs the rules of all recipes for that."""

_PATCHED = {
    "train": [
        ("with self.stop.watching(), self.log:", "with self.log:"),
        (
            'seconds["train"], asked, due = self.world.largest(clock, self.stop.asked(), self.checkpoint.is_due())',
            '(seconds["train"],) = self.world.largest(clock)',
        ),
        ("            progress=lambda *done: self._save_in_validation(),\n", ""),
    ],
}
"""Without checkpoints there is nothing to save at Ctrl-C, so the loop does not watch for it."""

LEFT_OUT = {
    "_begin", "_resume", "_state", "_save_checkpoint", "_save_if", "_save_in_validation", "_leave_if_asked", "_stopped",
    "_write_weights", "_seal", "save_tensors", "load_tensors", "checkpoint", "stop", "resumed_at", "earlier_seconds",
    "go_on", "Tokenizer.encode", "Tokenizer.decode", "Tokenizer.piece", "TokenBytes.total",
}  # fmt: skip
"""Names whose every mention goes. Checkpoints and weight files: a run is ten minutes, safetensors one more dependency,
and they would count as code. Methods (with their class) that only the lab calls and whose names strings have too."""


def patches(rooms: dict[str, Source]) -> dict[str, list[tuple[str, str]]]:
    """(old, new) texts by room."""
    found = {room: list(pairs) for room, pairs in _PATCHED.items()}
    for room, functions in _REPLACED.items():
        for name, text in functions.items():
            node = next((n for n in rooms[room].tree.body if isinstance(n, Function) and n.name == name), None)
            if node is None:
                raise UserError(f"the export replaces {room}.{name}, which is gone; bring export_parts.py up to date")
            found.setdefault(room, []).append((rooms[room].slice(node), text.rstrip("\n")))
    return found


def left_out(recipe: Recipe) -> set[str]:
    """LEFT_OUT, and what this recipe does not need."""
    names = set(LEFT_OUT)
    if recipe.quant.allocation != "gradient":
        names |= {"meter"}  # gradient statistics, which nothing would read
    if recipe.quant.kind != "steps":
        names |= {"group_meter", "_decode_steps"}  # statistics of rows and columns, and the reader of what they decide
    if recipe.quant.correction == "off":
        names |= {"feedback", "gathering"}  # what rounding is corrected with
    if recipe.qat.kind == "off":
        names |= {"set_fake_grids", "qat_grids"}
    return names


def facts(recipe: Recipe) -> dict[tuple[str, str], object]:
    """What is certain about attributes and parameters, beyond what the code itself shows: (class, place) -> value."""
    model = recipe.model
    known: dict[tuple[str, str], object] = {}
    if model.xsa_last_n in (0, model.num_layers):
        known["Attention", "exclusive"] = model.xsa_last_n > 0
    if not model.ve_dim:
        known["Attention", "forward.value"] = known["Block", "forward.value"] = None
    return known


@functools.cache
def used_grids(recipe: Recipe) -> set[str]:
    """Grids that some tensor of this recipe is packed or trained on."""
    shapes = parameter_shapes(recipe.model)
    names: set[str] = set()
    for bits in (5, 6, 7) if recipe.quant.allocation == "gradient" else (6,):
        names |= set(grid_names_for(shapes, recipe.quant, dict.fromkeys(shapes, bits)).values())
    if recipe.qat.kind != "off" and recipe.qat.grid != "packed":
        names.add(recipe.qat.grid)
    return names - {"fp16", STEPS}
