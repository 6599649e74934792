"""How a script counts the bytes of a token, read off its syntax tree for four pieces; nothing is executed.

The rule of the challenge (papers/machinery.md, "Score and windows"): a byte piece counts one byte, any other its UTF-8
bytes without the mark of a leading space, and the space one more where the token before is no boundary. A table that
holds the space already, in a script that adds it again, counts it twice; a table without a rule for byte pieces counts
`<0x0A>` as it is written. Both make the text longer, and the score better, than they are.

The loop that fills the table is followed statement by statement, with a piece in place of the loop's: names, constants,
conditions and a few methods of strings. Whatever else stands there has no value, and a table that needs it is not read.
"""

import ast
import contextlib
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pgolf_core.lab.verify.code.shipped import Code, last_name, nodes_of, tree_of
from pgolf_core.lab.verify.code.spaces import added_space, table_name
from pgolf_core.lab.verify.evidence.checks import hold, require

SPACE_MARK = "\u2581"
"""Of sentencepiece, for a leading space; the core's own name for it comes with numpy."""
MAX_STEPS = 2000
MAX_DEPTH = 40
MAX_LOOPS = 50
MAX_TEXT = 1000
PIECE = ("id_to_piece", "IdToPiece", "decode", "Decode", "decode_ids", "DecodeIds", "DecodeIdsAsPieces")
IS_SPECIAL = re.compile(r"is_?(control|unknown|unused)", re.IGNORECASE)
IS_BYTE = re.compile(r"is_?byte", re.IGNORECASE)
READ_IN = re.compile(r"(base|token|piece)_?bytes|.*val_bytes.*\.bin.*", re.DOTALL)
"""What scripts call bytes of tokens that lie in a file: a table's key, or the shards of a sidecar."""
OF_STRINGS = ("startswith", "endswith", "replace", "lstrip", "rstrip", "strip", "removeprefix", "count")
THROUGH = ("int", "float", "bool", "int16", "int32", "int64", "float32", "tensor", "as_tensor")
"""Calls that give their first argument back, as far as a count goes."""
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt,
    ast.In: lambda part, whole: part in whole, ast.NotIn: lambda part, whole: part not in whole,
    ast.Add: operator.add, ast.Sub: operator.sub,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {"len": len, "max": max, "min": min}


class Piece(NamedTuple):
    """One piece of a vocabulary, as sentencepiece writes it."""

    text: str
    decoded: str
    """What decoding it alone gives: no leading space, and U+FFFD for a byte that is no character."""
    is_byte: bool
    real: int
    """Bytes of the text that it stands for, a leading space included."""


PLAIN, SPACED, BYTE, WIDE = (
    Piece("ab", "ab", False, 2), Piece(f"{SPACE_MARK}ab", "ab", False, 3), Piece("<0xE2>", "\N{REPLACEMENT CHARACTER}",
    True, 1), Piece("é", "é", False, 2),
)  # fmt: skip


class _Nothing:
    def __bool__(self) -> bool:
        raise TypeError("neither true nor false")


NOTHING = _Nothing()
"""The value of what is not followed."""


class _Stop(Exception):
    """`continue`, or the end of the steps."""


class _Return(Exception):
    def __init__(self, value: Any):
        self.value = value


@dataclass
class _Follow:
    """One pass through the body of a loop, with one piece."""

    piece: Piece
    functions: Mapping[str, ast.FunctionDef]
    names: dict[str, Any]
    written: dict[str, Any] = field(default_factory=dict)
    """{table: what the pass writes into it}."""
    steps: int = 0
    depth: int = 0
    is_sure: bool = True
    """Whether nothing that was passed over could have made another count."""
    is_guarded: bool = False
    """Whether a condition without a value was met: the piece may be one of those that it leaves out."""

    def run(self, body: Iterable[ast.stmt]) -> None:
        for node in body:
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise _Stop
            match node:
                case ast.Continue() | ast.Break():
                    raise _Stop
                case ast.Return():
                    raise _Return(self.value(node.value))
                case ast.Assign() | ast.AnnAssign():
                    value = self.value(node.value)
                    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                        self.write(target, value)
                case ast.AugAssign(target, way, more):
                    before = ast.Constant(self.written.get(table_name(target), 0))
                    left = target if isinstance(target, ast.Name) else before
                    self.write(target, self.value(ast.BinOp(left, way, more)))
                case ast.If():
                    self.branch(node)
                case ast.With() | ast.Try():
                    self.run(node.body)
                case ast.Expr(ast.Call(ast.Attribute(of, "append"), [item, *_])):
                    self.written[last_name(of)] = self.value(item)
                case _:
                    self.is_sure &= not _sets([node])

    def branch(self, node: ast.If) -> None:
        """A condition without a value is a guard where it leads out of the loop, and else taken to hold.

        One on the piece's text decides on it, as does one whose other way sets something.
        """
        found = self.value(node.test)
        if found is NOTHING:
            names = [part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)]
            found = not isinstance(node.body[-1], ast.Continue | ast.Break | ast.Return)
            is_on_text = any(isinstance(self.names.get(name), str) for name in names)
            self.is_sure &= not is_on_text and not _sets(node.orelse if found else node.body)
            self.is_guarded = True
        self.run(node.body if found else node.orelse)

    def write(self, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name(name):
                self.names[name] = value
            case ast.Subscript():
                self.written[table_name(target)] = value
            case ast.Tuple(parts):
                is_split = isinstance(value, tuple) and len(value) == len(parts)
                for part, one in zip(parts, value if is_split else [NOTHING] * len(parts), strict=True):
                    self.write(part, one)

    def value(self, node: ast.expr | None) -> Any:
        """What an expression is; NOTHING where its parts do not tell, and beyond the bounds.

        A text is short and a tuple flat, so that no operation takes long: nested ones could be compared for ever.
        """
        self.steps, self.depth = self.steps + 1, self.depth + 1
        try:
            found = self.made(node) if self.depth <= MAX_DEPTH and self.steps <= MAX_STEPS else NOTHING
            return NOTHING if isinstance(found, str | bytes | tuple) and len(found) >= MAX_TEXT else found
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # of other values, NOTHING too
            return NOTHING
        finally:
            self.depth -= 1

    def made(self, node: ast.expr | None) -> Any:
        match node:
            case None:
                return None
            case ast.Constant(str() | int() | float() as constant):
                return constant
            case ast.Name(name):
                return self.names[name]
            case ast.Tuple(parts):
                values = tuple(map(self.value, parts))
                return NOTHING if any(isinstance(value, tuple) for value in values) else values
            case ast.IfExp():
                return self.value(node.body if self.value(node.test) else node.orelse)
            case ast.UnaryOp(ast.Not(), operand):
                return not self.value(operand)
            case ast.BoolOp():
                ends, sides = isinstance(node.op, ast.Or), tuple(map(self.value, node.values))
                found = {bool(side) for side in sides if side is not NOTHING}
                return ends if ends in found else NOTHING if NOTHING in sides else not ends
            case ast.BinOp(left, way, right) | ast.Compare(left, [way], [right]):
                sides = self.value(left), self.value(right)
                known = all(NOTHING not in (side if isinstance(side, tuple) else (side,)) for side in sides)
                return OPERATORS[type(way)](*sides) if known else NOTHING
            case ast.Subscript(whole, ast.Slice(first, end, None)):
                return self.value(whole)[self.value(first) : self.value(end)]
            case ast.Subscript(whole, place):
                return self.value(whole)[self.value(place)]
            case ast.Call():
                return self.call(node)
        return NOTHING

    def call(self, node: ast.Call) -> Any:
        name = last_name(node.func)
        if IS_SPECIAL.fullmatch(name):
            return False
        if IS_BYTE.fullmatch(name):
            return self.piece.is_byte
        of = self.value(node.func.value) if isinstance(node.func, ast.Attribute) else NOTHING
        values = [self.value(argument) for argument in node.args]
        if name in ("encode", "decode") and isinstance(of, str | bytes):
            return getattr(of, name)("utf-8", errors="replace")
        if name in OF_STRINGS and isinstance(of, str):
            return getattr(of, name)(*values)
        if name in PIECE and of is NOTHING:
            return self.piece.text if "iece" in name else self.piece.decoded
        if name in FUNCTIONS:
            return FUNCTIONS[name](*values)
        return values[0] if name in THROUGH and values else self.inside(self.functions[name], values)

    def inside(self, function: ast.FunctionDef, values: list[Any]) -> Any:
        """What a function of the script returns for these values."""
        names, written = self.names, self.written
        self.names = names | dict(zip([argument.arg for argument in function.args.args], values, strict=False))
        self.written = {}
        try:
            self.run(function.body)
        except _Return as found:
            return found.value
        finally:
            self.names, self.written = names, written
        return NOTHING


def _sets(body: Iterable[ast.stmt]) -> bool:
    """Whether statements set, append or return anything but a zero or nothing."""
    parts = [part for node in body for part in ast.walk(node)]
    values = [part.value for part in parts if isinstance(part, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return)]
    values += [part.args[0] for part in parts if isinstance(part, ast.Call) and part.args
               and last_name(part.func) == "append"]  # fmt: skip
    return any(value and getattr(value, "value", True) for value in values)  # a constant's own value, if it is one


# ---------------------------------------------------------------------- the tables of a script


@dataclass(frozen=True)
class Table:
    """A table of bytes as a loop fills it."""

    place: str
    """File and line."""
    counts: Mapping[Piece, float]
    """Bytes that a piece counts in all, what the score adds included."""
    adds: bool
    """Whether the score adds a leading space of its own."""


def tables_in(codes: Iterable[Code]) -> list[Table]:
    """Every table of bytes that the code fills, as far as it can be followed."""
    known = list(codes)
    nodes = [node for code in known for node in nodes_of(code.source)]
    functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    constants = {last_name(node.targets[0]): node.value.value for code in known for node in tree_of(code.source).body
                 if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)}  # fmt: skip
    adds_space = added_space(nodes)
    found = []
    for code in known:
        for line, body in itertools.islice(_loops(nodes_of(code.source)), MAX_LOOPS):
            passes = {piece: _passed(body, piece, functions, constants) for piece in (PLAIN, SPACED, BYTE, WIDE)}
            for name, count in passes[PLAIN].items():
                more = count - PLAIN.real if type(count) in (int, float) else None
                if more == 0 or (more == 1 and "byte" in name.lower()):
                    found.append(_table_of(name, f"{code.name}, line {line}", passes, adds_space))
    return [table for table in found if table]


def _loops(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, list[ast.stmt]]]:
    """(line, body) of every loop that looks at pieces, and of comprehensions as loops that write one table."""
    for node in nodes:
        if isinstance(node, ast.For) and _sees_pieces(node):
            yield node.lineno, node.body
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            for part in ast.walk(node.value):
                if isinstance(part, ast.ListComp | ast.GeneratorExp) and _sees_pieces(part):
                    table = ast.Subscript(ast.Name(node.targets[0].id), ast.Constant(0), ast.Store())
                    yield node.lineno, [ast.Assign([table], part.elt, lineno=node.lineno)]


def _sees_pieces(node: ast.AST) -> bool:
    names = {last_name(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)}
    return bool(names & set(PIECE)) or any("piece" in name.lower() for name in names)


def _passed(body: list[ast.stmt], piece: Piece, functions: Mapping, constants: Mapping) -> dict[str, Any]:
    """What one piece makes the loop write, by table; nothing where that was not followed to the end.

    A byte piece may be what a condition without a value leaves out; then a count of more than its one byte is none.
    """
    follow = _Follow(piece, functions, dict(constants))
    with contextlib.suppress(_Stop, _Return):
        follow.run(body)
    is_open = piece is BYTE and follow.is_guarded
    return {
        table: count if follow.is_sure and not (is_open and count not in (0, 1)) else NOTHING
        for table, count in follow.written.items()
    }


def _table_of(name: str, place: str, passes: Mapping[Piece, dict[str, Any]], adds_space: bool | None) -> Table | None:
    """The table with what the score adds to it; None where a piece, or whether it is added, could not be followed."""
    base = {piece: written.get(name, 0) for piece, written in passes.items()}
    if any(type(count) not in (int, float) for count in base.values()):
        return None
    is_marked = any(
        value is not NOTHING and value and table != name and not passes[PLAIN].get(table)
        for table, value in passes[SPACED].items()
    )
    if is_marked and adds_space is None and base[SPACED] >= SPACED.real:
        return None
    adds = is_marked and adds_space is not False
    return Table(place, {piece: count + (adds and piece is SPACED) for piece, count in base.items()}, adds)


def _read_in(codes: Iterable[Code]) -> list[str]:
    """Where code looks bytes of tokens up by a name, or names files of them."""
    return [
        f"{code.name}, line {node.lineno} reads bytes of tokens from a file"
        for code in codes
        for node in nodes_of(code.source)
        if isinstance(node, ast.Subscript | ast.Constant)
        and isinstance(text := getattr(getattr(node, "slice", node), "value", None), str)
        and READ_IN.fullmatch(text)
        and (".bin" in text if isinstance(node, ast.Constant) else isinstance(node.ctx, ast.Load))
    ]


def judge_tables(codes: Mapping[str, Code]) -> str:
    """Whether the code counts a leading space once and a byte piece as one byte."""
    unread = [code.unread for code in codes.values() if code.unread]
    tables = tables_in(codes.values())
    wrong = {table.place: faults for table in tables if (faults := _faults(table))}
    said = "; ".join(f"{place}: {faults}" for place, faults in wrong.items())
    right = [table.place for table in tables if table.place not in wrong]
    shown = [*filter(None, [said]), *(f"{place} counts right" for place in right[:1])]
    shown += (read_in := _read_in(codes.values())[:1])
    require(len(shown) < 2, f"{'; but '.join(shown)}, and which one scores is not known")
    hold(not wrong, said)
    require(bool(tables), [*unread, *read_in, "no table of bytes that could be followed is in the code"][0])
    fewer = [piece.text for piece, count in tables[0].counts.items() if count < piece.real]
    less = f"; {', '.join(fewer)} count fewer bytes than they are, which makes the score worse" if fewer else ""
    return f"{', '.join(right[:3])}: a leading space counts once, a byte piece one byte{less}"


def _faults(table: Table) -> str:
    found = []
    spaced, byte, more = table.counts[SPACED], table.counts[BYTE], table.counts[PLAIN] - PLAIN.real
    if more > 0:
        found.append(f"any piece counts {more:g} byte more than it has")
    if spaced - more > SPACED.real:
        how = "in the table and once more by the score" if table.adds else "as it is written"
        found.append(f"a leading space counts {spaced - table.counts[PLAIN]:g} bytes instead of 1 ({how})")
    if byte > BYTE.real:
        found.append(f"a byte piece counts {byte:g} bytes instead of 1")
    return " and ".join(found)
