"""The code that a submission ships: which of its files run, unwrapped where they are packed; none is executed.

A packed script is a few lines that decode a literal and hand it to `exec`. The decoding is done here, by the standard
library, of literals alone, within MAX_UNPACKED bytes for each layer and MAX_LAYERS layers: so time is bounded too.
"""

import ast
import base64
import binascii
import bz2
import functools
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import zstandard

from pgolf_core.lab.export import unwrapped
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck, hold, quietly

MAX_UNPACKED = 2**21
MAX_LAYERS = 4
MAX_CODE_FILES = 200
MAX_CODE_TEXT = 2**23
"""Characters of code that are read in all, as shipped and unwrapped; what is beyond counts and is not followed."""
MAX_EXPRESSIONS, MAX_DEPTH = 500, 40
"""Of literals that are put together and decoded."""
CODE_ENDINGS = (".py", ".cu", ".cuh", ".cpp", ".cc", ".c", ".h", ".so", ".pyx")
"""Files that count as code where a running script names them."""
TEXT_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "b85decode": base64.b85decode, "a85decode": base64.a85decode, "b64decode": base64.b64decode,
    "standard_b64decode": base64.b64decode, "urlsafe_b64decode": base64.urlsafe_b64decode,
    "b32decode": base64.b32decode, "b16decode": base64.b16decode, "decodebytes": base64.decodebytes,
    "a2b_base64": base64.b64decode, "unhexlify": binascii.unhexlify, "fromhex": binascii.unhexlify,
}  # fmt: skip
LITERAL_CODECS = ("utf-8", "utf8", "ascii", "latin-1", "latin1", "latin_1", "iso-8859-1")
"""That make bytes of a literal text."""
UNPACKING = ("decompress", "decompressobj", "LZMADecompressor", "BZ2Decompressor", "ZstdDecompressor", "loads")
"""Calls that show a script to be packed, if it executes what comes of them."""


class Code(NamedTuple):
    """A file of code that runs."""

    name: str
    size: int
    """Bytes as shipped."""
    source: str
    """Its text, unwrapped."""
    unread: str
    """Why it could not be unwrapped, where it could not; then the source is its text as shipped."""


@functools.lru_cache(maxsize=8)
def parsed(source: str) -> ast.Module:
    """The syntax tree; SyntaxError, ValueError or RecursionError for text that is no Python."""
    return ast.parse(source)


def tree_of(source: str) -> ast.Module:
    """The syntax tree, empty for text that is no Python."""
    return quietly(lambda: parsed(source)) or ast.Module([], [])


@functools.lru_cache(maxsize=8)
def nodes_of(source: str) -> tuple[ast.AST, ...]:
    """Every node of the tree, walked once; none for text that is no Python."""
    return tuple(ast.walk(tree_of(source)))


def running(files: Mapping[str, Path], start: str, read: Callable[[Path], str]) -> dict[str, Code]:
    """{name: code} of the script and of every file of the folder that it imports or names, and so on.

    A text is named where it stands as a literal of its own, as in `exec(open("core.py").read())`.
    """
    found: dict[str, Code] = {}
    wanted = [start]
    while wanted and len(found) < MAX_CODE_FILES:
        name = wanted.pop()
        is_read = name.endswith(".py") and sum(len(code.source) for code in found.values()) < MAX_CODE_TEXT
        text = read(files[name]) if is_read else ""
        texts: list[str] = []
        unread = ""
        try:
            texts += layers(text)  # those that were read stay, whatever stops the next
        except (CannotCheck, Broken) as reason:
            unread = f"{name}: {reason}"
        found[name] = Code(name, files[name].stat().st_size, texts[0 if unread else -1], unread)
        wanted += sorted({other for text in texts for other in named_by(text, name, files)} - {*found, *wanted})
    return found


def named_by(source: str, name: str, files: Mapping[str, Path]) -> list[str]:
    """Files of the folder that the text of a running one imports or names."""
    wanted = [module.replace(".", "/") + end for module in imports_of(source) for end in (".py", "/__init__.py")]
    wanted += [str(node.value).removeprefix("./") for node in nodes_of(source)
               if isinstance(node, ast.Constant) and str(node.value).endswith(CODE_ENDINGS)]  # fmt: skip
    places = (PurePosixPath(name).parent, PurePosixPath())
    paths = {str(at / path) for path in wanted if not path.startswith("/") for at in places}
    return sorted(paths & set(files) - {name})


def imports_of(source: str) -> frozenset[str]:
    """Modules that a script imports, as far as it can be parsed."""
    found: set[str] = set()
    for node in nodes_of(source):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            found |= {f"{start}{alias.name}".strip(".") for alias in node.names}
    return frozenset(found | {name.rpartition(".")[0] for name in found if "." in name})


# ---------------------------------------------------------------------- packed scripts


def layers(source: str) -> Iterator[str]:
    """The script, then what is inside it where it is packed, and so on to a plain one.

    CannotCheck for one that executes what it unpacks in a way that is not known here.
    """
    yield source
    for _ in range(MAX_LAYERS + 1):
        inner = quietly(functools.partial(unwrapped, source)) or _inner(nodes_of(source))
        if inner is None:
            return
        yield (source := inner)
    raise CannotCheck(f"the script is packed more than {MAX_LAYERS} times")


def _inner(nodes: tuple[ast.AST, ...]) -> str | None:
    """What a script decodes and executes; None for one that does no such thing."""
    values = {target.id: node.value for node in nodes if isinstance(node, ast.Assign)
              for target in node.targets if isinstance(target, ast.Name)}  # fmt: skip
    literals = _Literals(values)
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    for node in calls:
        is_run = isinstance(node.func, ast.Name) and node.func.id in ("exec", "eval", "compile") and node.args
        if is_run and _unpacks(node.args[0], values, set()):
            text = _text(literals.value(node.args[0]))
            hold(bool(tree_of(text).body), "what the script unpacks and executes is no Python")
            return text
    for node in calls:  # unpacked into a file that is run
        if last_name(node.func) == "decompress":
            text = _text(quietly(functools.partial(literals.value, node)) or "")
            if "import " in text and tree_of(text).body:
                return text
    return None


def _text(payload: bytes | str) -> str:
    return payload.decode("utf-8", errors="replace") if isinstance(payload, bytes) else payload


def last_name(node: ast.expr) -> str:
    """A name, or what comes after the last dot; empty for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _unpacks(node: ast.expr, values: Mapping[str, ast.expr], seen: set[str]) -> bool:
    """Whether an expression, through the names in it, decompresses or decodes something."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and last_name(part.func) in (*UNPACKING, *TEXT_CODECS):
            return True
        name = part.id if isinstance(part, ast.Name) else ""
        if name in values and name not in seen:
            seen.add(name)
            if _unpacks(values[name], values, seen):
                return True
    return False


@dataclass
class _Literals:
    """What expressions of literals, codecs and decompressors are, within bounds whatever they hold."""

    values: Mapping[str, ast.expr]
    kept: dict[str, bytes | str] = field(default_factory=dict)
    left: int = MAX_EXPRESSIONS

    def value(self, node: ast.expr, depth: int = 0) -> bytes | str:
        """CannotCheck for any other expression, and beyond the bounds."""
        self.left -= 1
        if depth <= MAX_DEPTH and self.left > 0:
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                return node.value
            if isinstance(node, ast.Name) and node.id in self.values:
                if node.id not in self.kept:
                    self.kept[node.id] = self.value(self.values[node.id], depth + 1)
                return self.kept[node.id]
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
                sides: list[Any] = [self.value(side, depth + 1) for side in (node.left, node.right)]
                if sum(map(len, sides)) <= MAX_UNPACKED and type(sides[0]) is type(sides[1]):
                    return sides[0] + sides[1]
            if isinstance(node, ast.Call):
                return self.called(node, last_name(node.func), depth + 1)
        raise CannotCheck("the script is packed in a way that is not known here")

    def called(self, node: ast.Call, name: str, depth: int) -> bytes | str:
        """What a codec, a decompressor or a harmless call makes of its object or its first argument."""
        of = [*([node.func.value] if isinstance(node.func, ast.Attribute) else []), *node.args[:1]]
        if of and name in ("decode", "encode", "strip"):
            value = self.value(of[0], depth)
            if name == "encode" and isinstance(value, str):
                codec = getattr(node.args[0], "value", "") if node.args else "utf-8"
                if str(codec).lower() in LITERAL_CODECS:
                    return value.encode(codec, errors="replace")
                raise CannotCheck(f"a literal of the script is encoded as {str(codec)[:40]!r}, which is not read here")
            return value.strip() if name == "strip" else value
        if node.args and name in ("compile", "bytes", "bytearray", "memoryview", "str", "dedent"):
            return self.value(node.args[0], depth)
        if node.args and name in TEXT_CODECS:
            value = self.value(node.args[0], depth)
            try:
                return TEXT_CODECS[name](value.encode("ascii", errors="replace") if isinstance(value, str) else value)
            except ValueError as error:
                raise CannotCheck(f"a literal of the script does not decode ({name}: {error})") from None
        if node.args and name in ("decompress", "loads"):
            value = self.value(node.args[0], depth)
            return decompressed(value.encode("latin-1", errors="replace") if isinstance(value, str) else value)
        raise CannotCheck("the script is packed in a way that is not known here")


def decompressed(payload: bytes) -> bytes:
    """What bytes of a known compression hold, MAX_UNPACKED at most; CannotCheck for unknown or larger ones.

    A raw LZMA2 stream carries no mark and needs a window only as wide as its output; so it comes last.
    """
    brotli: Any = quietly(lambda: importlib.import_module("brotli"))
    raw = [{"id": lzma.FILTER_LZMA2, "dict_size": MAX_UNPACKED}]
    ways: tuple[Callable[[], Any], ...] = (
        lambda: lzma.LZMADecompressor(memlimit=2**27).decompress(payload, MAX_UNPACKED + 1),
        lambda: zlib.decompressobj(47).decompress(payload, MAX_UNPACKED + 1),
        lambda: zlib.decompressobj(-15).decompress(payload, MAX_UNPACKED + 1),
        lambda: bz2.BZ2Decompressor().decompress(payload, MAX_UNPACKED + 1),
        lambda: zstandard.ZstdDecompressor(max_window_size=2**23).stream_reader(payload).read(MAX_UNPACKED + 1),
        lambda: brotli.Decompressor().process(payload, output_buffer_limit=MAX_UNPACKED + 1),
        lambda: lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=raw).decompress(payload, MAX_UNPACKED + 1),
    )
    for way in ways:
        found = quietly(way)
        if found and len(found) > MAX_UNPACKED:
            raise CannotCheck(f"the packed script is larger than the {MAX_UNPACKED:,} bytes that are unpacked")
        if found and b"\0" not in found[:4096] and quietly(found.decode) is not None:
            return found  # a script, or one more literal layer; a wrong decompressor gives noise, if anything
    raise CannotCheck("the script is packed with what is not read here (brotli needs the package brotli)")
