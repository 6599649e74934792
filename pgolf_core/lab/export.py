"""`pgolf export`: one script from the core, for one recipe: train_gpt.py, which trains, packs and scores alone.

The core's files are joined in their order, without the files that the recipe never enters; at the end stand the values
in which the recipe differs from the defaults. `script = "readable"` is that text, `script = "packed"` is the same
minified (python-minifier) and wrapped with LZMA, as the field does. `--readable-of FILE` unwraps such a script without
running it.
"""

import argparse
import ast
import builtins
import dataclasses
import functools
import lzma
import os
import pprint
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pgolf_core
from pgolf_core.base.files import UserError, write_text
from pgolf_core.lab.shared.places import SCRIPT
from pgolf_core.lab.shared.usage import UsageError, add_set, checked_recipe, recipe_argument
from pgolf_core.recipes.recipe import QAT, Recipe, to_dict

PACKED = "packed"
"""Value of the recipe's key `script`."""
CALLED = ("Tokenizer", "load_tokens", "score_artifact")
"""What a script keeps by name, so that `pgolf verify --run-code` can ask it for its own score."""
WIDTH = 120
MAX_UNWRAPPED_BYTES = 2**23
UNPACKING = [{"id": lzma.FILTER_LZMA2, "pb": 0}]
PACKING = UNPACKING[0] | {"preset": 9 | lzma.PRESET_EXTREME, "dict_size": MAX_UNWRAPPED_BYTES, "depth": 1000}
NICE_LENGTHS = (32, 40, 44, 48, 64, 96, 128, 273)
"""A match so long is taken without a look at others: the length that packs best depends on the text."""
DIGITS = bytes(c for c in range(33, 127) if c not in b'"\\')
"""Every printable character that needs no escape in a literal: 92, where base85 has 85 and so takes 2 % more bytes."""
MAX_DIGITS = 2**20
UNREADABLE = (OSError, ValueError, OverflowError, lzma.LZMAError, SyntaxError, RecursionError, MemoryError)
"""What reading a file that is no script, or one that nests too deep for the parser, ends in."""
WRAPPING = rb'import lzma\nn=0\nfor c in b"([!#-\[\]-~]+)":n=[^\n]+\nexec[^\n]+to_bytes\((\d{1,7})\)[^\n]+\n'


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf export`."""
    parser.add_argument("recipe", nargs="?", help="name of a recipe, or a path ending in .toml")
    parser.add_argument("--out", metavar="DIR", help="the folder to write the script into, made if need be")
    about = "instead: print the code inside a packed script (still minified), without running it"
    parser.add_argument("--readable-of", metavar="FILE", help=about)
    add_set(parser)


def run(options: argparse.Namespace) -> int:
    """Write the script, or print one unwrapped; returns the exit status."""
    if options.readable_of:
        if options.recipe or options.out or options.set:
            raise UsageError("--readable-of prints a file's code: it takes no recipe, no --out and no --set")
        print(readable_of(Path(options.readable_of)), end="")
        return 0
    if not options.recipe or not options.out:
        raise UsageError("give a recipe and --out DIR, or --readable-of FILE; see `pgolf export --help`")
    recipe = checked_recipe(recipe_argument(options.recipe), options.set)
    path = write_script(recipe, Path(os.path.expanduser(options.out)))
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def rooms_of(recipe: Recipe) -> list[str]:
    """The files of the core that a script of this recipe holds, in their order."""
    data, quant, adapt, gridless = recipe.data, recipe.quant, recipe.adapt, recipe.quant.kind == "steps"
    in_phases, mixes, learns = adapt.kind == "lora" and adapt.phases > 0, adapt.mix != "off", adapt.kind != "off"
    packs = data.order == "packed"
    used = {
        "recipes.rules": False, "recipes.reading": False, "text.caseops": False,
        "base.bits": quant.allocation == "gradient",
        "packing.coder": gridless, "packing.steps": gridless, "packing.allocation": gridless,
        # on steps no grid is left: what is too small for them is fp16
        "network.grid": not gridless or recipe.qat != QAT() or bool(quant.exceptions),
        "text.ranked": data.order == "ranked", "text.packed": packs or in_phases, "text.sidecar": data.bytes != "table",
        "training.progress": False, "training.checkpoint": False,  # a script keeps nothing
        "training.polar": recipe.optim.muon_coefficients == "polar_express", "network.gates": recipe.model.gated,
        "network.documents": recipe.eval.document_mask or packs or in_phases,
        "adapting.plan": learns, "adapting.sgd": learns, "adapting.trace": learns, "adapting.told": learns or mixes,
        "adapting.documents": adapt.kind == "lora", "adapting.lora": adapt.kind == "lora",
        "adapting.tilt": learns and adapt.tilt != "off", "adapting.mixture": mixes,
        "packing.correction": quant.correction != "off", "base.squeeze": quant.compressor == "brotli",
        "base.grouping": quant.grouping != "off", "network.extras": quant.low_rank > 0 or quant.grouping != "off",
    }  # fmt: skip
    return [room for room in pgolf_core.ROOMS if used.get(room, True)]


@functools.lru_cache(maxsize=64)
def export_script(recipe: Recipe) -> str:
    """The text of train_gpt.py in the form that the recipe's `script` names: equal recipes give equal text."""
    return packed(joined(recipe)) if recipe.script == PACKED else joined(recipe)


def joined(recipe: Recipe) -> str:
    """The core's files that this recipe enters as one text, and the recipe."""
    imports: set[str] = set()
    bodies = [_body(room, imports) for room in rooms_of(recipe)]
    told = dataclasses.replace(recipe, title="")  # the first lines say it, and no line of the program reads it
    values = pprint.pformat(_differing(to_dict(told), to_dict(Recipe())), width=WIDTH, sort_dicts=False)
    end = 'if __name__ == "__main__":\n    run_script(from_dict(RECIPE), __file__)\n'
    head = f'"""{_about(recipe)}\n"""\n\nfrom __future__ import annotations\n\n{_import_block(imports)}\n'
    return "\n".join(
        [head, *bodies, f"# {'-' * 70} the recipe, where it is not the defaults above\n\nRECIPE = {values}\n\n", end]
    )


def _differing(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Without what is equal in both, section by section."""
    return {
        key: _differing(value, defaults[key]) if isinstance(value, dict) else value
        for key, value in values.items()
        if value != defaults[key]
    }


def code_bytes_of(recipe: Recipe) -> int:
    """Bytes of that script as it is shipped: what counts as code against the cap."""
    return len(export_script(recipe).encode("utf-8"))


def write_script(recipe: Recipe, folder: Path) -> Path:
    """Write the script into a folder, made if need be; a different one that is already there is not overwritten."""
    path, text = folder / SCRIPT, export_script(recipe)
    if path.exists() and (not path.is_file() or path.read_bytes() != text.encode("utf-8")):
        raise UserError(f"{path} exists and is another script; delete it or choose another --out")
    write_text(path, text)
    return path


def _body(room: str, imports: set[str]) -> str:
    """A file's text without its own imports, which are added to `imports`; its docstring becomes a comment."""
    path = Path(pgolf_core.__file__).parent / (room.replace(".", "/") + ".py")
    text = path.read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    for node in reversed(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                one = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], 0)
                imports.add(ast.unparse(one))
            del lines[node.lineno - 1 : node.end_lineno]
    told = ast.get_docstring(tree) or ""
    del lines[: tree.body[0].end_lineno]
    rule = f"# {'-' * 70} {room}"
    comment = "\n".join(f"# {line}".rstrip() for line in told.splitlines())
    return f"{rule}\n{comment}\n\n\n" + "\n".join(lines).strip() + "\n\n"


def _import_block(lines: set[str]) -> str:
    """Sorted, the standard library first."""
    groups: tuple[list[str], list[str]] = ([], [])
    foreign = (line for line in lines if not line.startswith("from pgolf_core"))
    for line in sorted(foreign, key=lambda line: (line.startswith("from"), line)):
        groups[line.split()[1].split(".")[0] not in sys.stdlib_module_names].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group) + "\n"


def _about(recipe: Recipe) -> str:
    title = f"{recipe.name}: {recipe.title}" if recipe.title else recipe.name
    return "\n".join([
        *textwrap.wrap(title.replace("\\", " ").replace('"', "'"), WIDTH - 4),
        "",
        "Made by `pgolf export`: the core of pgolf joined into one file.",
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
    ])  # fmt: skip


# ---------------------------------------------------------------------- packed


class _PlainFormat(ast.NodeTransformer):
    """f-strings as str.format: the minifier of Python 3.12 and later writes some that 3.11 cannot read."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        values: list[ast.expr] = []
        text = self._text(node, values)
        if not values:
            return ast.Constant(text.format())
        return ast.Call(ast.Attribute(ast.Constant(text), "format", ast.Load()), values, [])

    def _text(self, node: ast.JoinedStr, values: list[ast.expr]) -> str:
        text = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                text += str(part.value).replace("{", "{{").replace("}", "}}")
                continue
            assert isinstance(part, ast.FormattedValue)
            values.append(self.visit(part.value))
            conversion = f"!{chr(part.conversion)}" if part.conversion != -1 else ""
            spec = f":{self._text(part.format_spec, values)}" if isinstance(part.format_spec, ast.JoinedStr) else ""
            text += "{" + conversion + spec + "}"
        return text


def minified(text: str) -> str:
    """Fewer bytes for the same program, the same on every version of Python; UserError without python-minifier.

    Functions and classes keep their names for whoever reads it. Literals stay where they are: LZMA makes that smaller.
    """
    try:
        import python_minifier
    except ImportError:
        raise UserError("script=packed needs python-minifier; install pgolf with its extra `lab`") from None
    tree = ast.fix_missing_locations(_PlainFormat().visit(ast.parse(text)))
    kept = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    shown = vars(builtins).pop("_", None)  # left by a prompt or a doctest; the minifier then never calls a name `_`
    try:
        return python_minifier.minify(
            ast.unparse(tree), SCRIPT, remove_literal_statements=True, rename_globals=True, hoist_literals=False,
            preserve_globals=kept,
        )  # fmt: skip
    finally:
        vars(builtins).update({} if shown is None else {"_": shown})


def packed(text: str) -> str:
    """The minified text, compressed, as a number in DIGITS, in what runs it; `readable_of` is its inverse."""
    written = minified(text).encode("utf-8")
    ways = ([PACKING | {"nice_len": length}] for length in NICE_LENGTHS)
    payload = min((lzma.compress(written, lzma.FORMAT_RAW, filters=way) for way in ways), key=len)
    number, digits = int.from_bytes(payload), bytearray()
    while number:
        number, digit = divmod(number, len(DIGITS))
        digits.append(DIGITS[digit])
    options = f"{lzma.FORMAT_RAW},filters={UNPACKING}".replace(" ", "")
    return (
        f'import lzma\nn=0\nfor c in b"{digits[::-1].decode()}":n=n*{len(DIGITS)}+c-33-(c>34)-(c>92)\n'
        f"exec(lzma.decompress(n.to_bytes({len(payload)}),{options}))\n"
    )


def _number(digits: bytes) -> int:
    """What DIGITS of a base of 92 stand for, by halves: a megabyte of them takes a second and not an hour."""
    if len(digits) <= 32:
        return functools.reduce(lambda n, digit: n * len(DIGITS) + DIGITS.index(digit), digits, 0)
    low = len(digits) // 2
    return _number(digits[:-low]) * len(DIGITS) ** low + _number(digits[-low:])


def readable_of(path: Path) -> str:
    """The source inside a script that `pgolf export` packed, laid out again; a script that is not packed, as it is.

    Nothing is run. UserError for a file that is no Python, or whose wrapping is another.
    """
    try:
        text = path.read_text(encoding="utf-8")
        calls = _calls(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; name a train_gpt.py") from None
    except UNREADABLE as error:
        why = str(error) or "it nests too deep"
        raise UserError(f"{path} is not a readable Python script ({why}); name a train_gpt.py") from None
    if "exec" not in calls:
        return text
    try:
        source = unwrapped(text)
    except UNREADABLE as error:
        raise UserError(f"{path} does not hold what its wrapping says ({error}); it was not run") from None
    if source is None:
        raise UserError(f"{path} is wrapped in a way that pgolf does not write; it was not run")
    return source


def unwrapped(text: str) -> str | None:
    """The source inside a text that `packed` wrote, laid out again, without running it; None for any other text.

    One of UNREADABLE where it does not hold what its wrapping says.
    """
    known = re.fullmatch(WRAPPING, text.encode("utf-8", errors="replace"))
    if not known or len(known[1]) > MAX_DIGITS or _calls(text) != ["exec", "lzma.decompress", "n.to_bytes"]:
        return None
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=UNPACKING)
    source = unpacker.decompress(_number(known[1]).to_bytes(int(known[2])), MAX_UNWRAPPED_BYTES)
    if not unpacker.eof:
        raise ValueError(f"more than {MAX_UNWRAPPED_BYTES:,} bytes of source, or cut off")
    return ast.unparse(ast.parse(source.decode("utf-8"))) + "\n"


def _calls(text: str) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
