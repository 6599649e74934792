"""One script from the core, for one recipe: `train_gpt.py`, which trains, packs, unpacks and scores by itself.

The rooms that `export_main` needs are merged as text (`export_merge`), the resolved recipe becomes the defaults of its
own dataclasses, then three passes repeat until nothing changes: branches that the recipe decides (`export_fold`, on
what `export_values` can prove), mentions of what a script leaves out (`export_parts`), and everything that is no longer
reached (`export_prune`). Comments and docstrings stay with what they explain.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

from pgolf_core.files import UserError, write_text
from pgolf_core.grid import GRIDS, Grid
from pgolf_core.lab import export_parts
from pgolf_core.lab.export_fold import drop_idle, drop_mentions, fold_branches, is_heading
from pgolf_core.lab.export_merge import ROOM_MARK, merge, read_rooms
from pgolf_core.lab.export_prune import prune
from pgolf_core.lab.export_source import Edits, Source, is_text, tidy
from pgolf_core.lab.export_values import Choices, Object, Value, Values, choices
from pgolf_core.lab.verify_process import CALLED
from pgolf_core.recipe import Recipe

SCRIPT = "train_gpt.py"
MINIFIED = "minified"
"""Value of the recipe's key `script`."""
WIDTH = 120
_MAX_PASSES = 100


@functools.lru_cache(maxsize=64)
def export_script(recipe: Recipe, minify: bool = False) -> str:
    """The text of `train_gpt.py` for this recipe: equal recipes give equal text.

    With `minify`, or where the recipe says `script = "minified"`, comments, docstrings and long local names go
    (python-minifier). Raises UserError if the core has changed in a way that the rules of `export_parts` do not fit, or
    the minifier is not installed.
    """
    minify = minify or recipe.script == MINIFIED
    if minify:
        _minifier()  # refuses before the work
    body, imports = _whole()
    body = _embed(Source(body), recipe)
    body = _only_grids(Source(body), export_parts.used_grids(recipe))
    body = _shrink(body, _known(recipe), export_parts.left_out(recipe), set(sections_of(recipe)))
    text = _finished(Source(body), imports, recipe)
    _check(text)
    return _minified(text) if minify else text


@functools.cache
def _whole() -> tuple[str, dict[str, str]]:
    """The merged core less what no script has, whatever its recipe, and the import line of every outside name."""
    rooms = read_rooms(export_parts.MAIN)
    body, imports = merge(rooms, export_parts.patches({room.name: room.source for room in rooms}))
    body += '\n\nif __name__ == "__main__":\n    main(Recipe())\n'
    return _shrink(_redocumented(Source(body)), {}, export_parts.LEFT_OUT, set()), imports


def _redocumented(source: Source) -> str:
    """Docstrings of what works otherwise in a script."""
    edits = Edits(source)
    told = dict(export_parts.DOCSTRINGS)
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and is_text(node.body[0]):
            owner = source.parents[id(node)]
            name = f"{owner.name}.{node.name}" if isinstance(owner, ast.ClassDef) else node.name
            if name in told:
                edits.replace(source.span(node.body[0]), f'"""{told.pop(name)}"""')
    if told:
        raise UserError(f"the export describes {', '.join(told)}, which is gone; bring export_parts.py up to date")
    return edits.apply()


@functools.lru_cache(maxsize=8)
def code_bytes_of(recipe: Recipe, minify: bool = False) -> int:
    """Bytes of that script as it is shipped: what counts as code against the cap."""
    return len(export_script(recipe, minify).encode("utf-8"))


def write_script(recipe: Recipe, folder: Path, minify: bool = False) -> Path:
    """Write the script into a folder, made if need be; a different one that is already there is not overwritten."""
    path, text = folder / SCRIPT, export_script(recipe, minify)
    if path.exists() and (not path.is_file() or path.read_bytes() != text.encode("utf-8")):
        raise UserError(f"{path} exists and is another script; delete it or choose another --out")
    write_text(path, text)
    return path


# ---------------------------------------------------------------------- the recipe as literals


def sections_of(recipe: Recipe) -> dict[str, Any]:
    """Class name -> the recipe's own instance of it: Recipe, Model, Data and so on."""
    values = [recipe, *(getattr(recipe, field.name) for field in dataclasses.fields(recipe))]
    return {type(value).__name__: value for value in values if dataclasses.is_dataclass(value)}


def _embed(source: Source, recipe: Recipe) -> str:
    """Make every default the recipe's value, and the computed properties plain values."""
    sections, edits = sections_of(recipe), Edits(source)
    defaults = {name: type(value)() for name, value in sections.items()}
    for node in source.tree.body:
        if not isinstance(node, ast.ClassDef) or node.name not in sections:
            continue
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and part.value is not None:
                name = ast.unparse(part.target)
                value, default = (getattr(owner, name) for owner in (sections[node.name], defaults[node.name]))
                if not dataclasses.is_dataclass(value) and (type(value), value) != (type(default), default):
                    edits.replace(source.span(part.value), _literal(value))
            elif isinstance(part, ast.FunctionDef):
                value = getattr(sections[node.name], part.name)
                told = ast.get_docstring(part, clean=False)
                edits.replace(source.span(part), f'{part.name} = {_literal(value)}\n    """{told}"""')
    return edits.apply()


def _literal(value: Any) -> str:
    plain = isinstance(value, str) and repr(value) == f"'{value}'" and '"' not in value
    return f'"{value}"' if plain else repr(value)


def _only_grids(source: Source, names: set[str]) -> str:
    """Take the grids that no tensor uses out of the table."""
    edits = Edits(source)
    for node in source.tree.body:
        named = isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "GRIDS"
        if named and isinstance(node.value, ast.DictComp):
            entries = getattr(node.value.generators[0].iter, "elts", [])
            if len(entries) == len(GRIDS):
                for entry, name in zip(entries, GRIDS, strict=True):
                    if name not in names:
                        lines = source.line_start(entry.lineno), source.line_start(entry.end_lineno + 1)
                        edits.replace(lines, "")
                return edits.apply()
    raise UserError("the export no longer finds the table of grids; bring pgolf_core/lab/export.py up to date")


def _known(recipe: Recipe) -> dict[tuple[str, str], Value]:
    known: dict[tuple[str, str], Value] = {}
    for kind, value in sections_of(recipe).items():
        for name in _readable(type(value)):
            item = getattr(value, name)
            known[kind, name] = Object(type(item).__name__) if dataclasses.is_dataclass(item) else choices([item])
    grids = [GRIDS[name] for name in sorted(export_parts.used_grids(recipe))]
    for name in _readable(Grid) if grids else ():
        known["Grid", name] = choices([getattr(grid, name) for grid in grids])
    return known | {place: Choices((value,)) for place, value in export_parts.facts(recipe).items()}


def _readable(kind: type) -> list[str]:
    """A dataclass's fields and properties."""
    properties = [name for name, value in vars(kind).items() if isinstance(value, property)]
    return [*(field.name for field in dataclasses.fields(kind)), *properties]


# ---------------------------------------------------------------------- passes


def _shrink(text: str, known: dict[tuple[str, str], Value], left_out: set[str], sections: set[str]) -> str:
    """Repeat until nothing is found: drop mentions of what is left out, take decided branches, drop what has no effect
    and what is not reached. `sections` are the recipe's dataclasses, whose unread fields go (but for Model's: the
    file's header holds all of them)."""
    for _ in range(_MAX_PASSES):
        source = Source(text)
        edits, values = Edits(source), Values(source, known)
        prune(source, edits, sections, kept_whole={"Model"})
        drop_mentions(source, values, edits, left_out)
        fold_branches(source, values, edits)
        drop_idle(source, values, edits)
        if not edits:
            return text
        text = edits.apply()
    raise UserError("the export finds no end of what to leave out; this is a mistake in pgolf_core/lab/export_fold.py")


def _finished(source: Source, imports: dict[str, str], recipe: Recipe) -> str:
    """Headings as comments, the imports that are left, and what the script is."""
    edits = Edits(source)
    used = prune(source, Edits(source), set(), set())
    for node in source.tree.body:
        if is_heading(node, ROOM_MARK):
            room, _, text = node.value.value.removeprefix(ROOM_MARK).partition(": ")  # type: ignore[attr-defined]
            room = room.split(".")[-1].removeprefix("export_")
            lines = export_parts.HEADINGS.get(room, text.strip()).split("\n")
            rule = f"# {'-' * 70} {room}"
            edits.replace(source.span(node), "\n".join([rule, *(f"# {line}".rstrip() for line in lines)]))
    lines = [line for name, text in imports.items() if name in used for line in text.split("\n")]
    head = f'"""{_about(recipe)}"""\n\nfrom __future__ import annotations\n\n{_import_block(lines)}\n\n'
    return tidy(head + edits.apply())


def _about(recipe: Recipe) -> str:
    title = f"{recipe.name}: {recipe.title}" if recipe.title else recipe.name
    parts = [
        *textwrap.wrap(title.replace("\\", " ").replace('"', "'"), WIDTH - 4),
        "",
        "Made by `pgolf export`: the core of pgolf merged into one file, with what this recipe uses and no more.",
        f"Recipe {recipe.fingerprint}",
        "",
        "    python train_gpt.py        or        torchrun --standalone --nproc_per_node=N train_gpt.py",
        "",
        f"N divides {recipe.data.spans_per_step}; each process takes a CUDA device where there are any, and the step's "
        "tokens are the same. From the environment:",
        "    DATA_PATH       folder of *_train_*.bin and *_val_*.bin (./data/datasets/fineweb10B_sp1024)",
        "    TOKENIZER_PATH  SentencePiece model (./data/tokenizers/fineweb_1024_bpe.model)",
        "    SEED            1337",
        "    OUT_DIR         where train.log, metrics.jsonl, final_model.pgolf and result.json go (seed<SEED>)",
    ]
    return "\n".join(parts) + "\n"


def _import_block(lines: list[str]) -> str:
    """Import lines sorted, those of one module together, the standard library first."""
    plain = sorted(line for line in lines if line.startswith("import "))
    by_module: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("from "):
            module, _, name = line.removeprefix("from ").partition(" import ")
            by_module.setdefault(module, []).append(name)
    found = [(line.split()[1], line) for line in plain]
    for module, names in sorted(by_module.items()):
        found.append((module, f"from {module} import {', '.join(sorted(names))}"))
    groups: tuple[list[str], list[str]] = ([], [])
    for module, line in found:
        groups[module.split(".")[0] not in sys.stdlib_module_names].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group) + "\n"


def _check(text: str) -> None:
    """The script must compile, name nothing that is not there, and import nothing of the package."""
    source = Source(text)
    compile(text, SCRIPT, "exec")
    defined = source.module.bound | set(dir(builtins)) | {"__file__"}
    for node in source.nodes:
        if isinstance(node, ast.Name) and source.scope_of(node).find(node.id) is None and node.id not in defined:
            raise UserError(f"the export left `{node.id}` in `{ast.unparse(source.statement_of(node))[:80]}` undefined")
        if isinstance(node, ast.Import | ast.ImportFrom) and "pgolf" in ast.unparse(node):
            raise UserError(f"the export left `{ast.unparse(node)}`")


def _minified(text: str) -> str:
    return _minifier().minify(
        text, SCRIPT, remove_literal_statements=True, rename_globals=True, preserve_globals=list(CALLED)
    )


def _minifier() -> ModuleType:
    try:
        import python_minifier
    except ModuleNotFoundError:
        raise UserError("a minified script needs python-minifier; install pgolf with its extra `minify`") from None
    return python_minifier
