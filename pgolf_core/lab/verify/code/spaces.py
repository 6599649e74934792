"""Whether a script's score adds the space that a piece begins with to what its table of bytes counts.

The score looks a token up in a table of bytes and, where the token before is no boundary, adds what a table of spaces
says (papers/machinery.md, "Score and windows").
"""

import ast
import re
from collections.abc import Mapping, Sequence

from pgolf_core.lab.verify.code.shipped import last_name

OF_SPACE = re.compile(r"lead|space|hls", re.IGNORECASE)
"""What scripts call a table of which tokens begin with a space."""
BY_FORM = "a[target] & ~b[before]"
"""Such a table by where it is asked, whatever it is called: no name of one."""


def added_space(nodes: Sequence[ast.AST]) -> bool | None:
    """Whether the score adds what a table of spaces says, or takes it off; None where neither is seen.

    Such a table is known by its name, else by its form.
    """
    named: dict[str, set[str]] = {}  # what is looked up, and called by a name before it is added
    for node in nodes:
        match node:
            case ast.Assign([ast.Name(name)], value) if not any(isinstance(part, ast.Call) for part in ast.walk(value)):
                named[name] = _looked_up(value, {})
    added, taken = set[str](), set[str]()
    for node in nodes:
        match node:
            case ast.BinOp(ast.BinOp(op=ast.Add() | ast.Sub()), ast.Add(), part) | ast.AugAssign(_, ast.Add(), part):
                added |= _looked_up(part, named)  # the sum on the left is a node of its own
            case ast.BinOp(left, ast.Add(), part):
                added |= _looked_up(left, named) | _looked_up(part, named)
            case ast.BinOp(_, ast.Sub(), part) | ast.AugAssign(_, ast.Sub(), part):
                taken |= _looked_up(part, named)  # a space that the table holds and a boundary has not
            case ast.If(test, [ast.AugAssign(op=ast.Add(), value=ast.Constant())]):
                added |= _looked_up(test, named)
    for of_space in (OF_SPACE.search, BY_FORM.__eq__):
        found = [any(map(of_space, names)) for names in (added - taken, taken)]
        if any(found):
            return found[0]
    return None


def _asks_both(node: ast.AST) -> bool:
    """Whether this is one table at some place and not another at another one."""
    match node:
        case ast.BinOp(one, ast.BitAnd(), other) | ast.BoolOp(ast.And(), [one, other]):
            sides = one, other
        case ast.Call(args=[one, other]) if last_name(node.func) in ("logical_and", "bitwise_and"):
            sides = one, other
        case _:
            return False
    places = [next((part for part in ast.walk(side) if isinstance(part, ast.Subscript)), None) for side in sides]
    opposite = [_is_not(side) for side in sides]
    if None in places or opposite[0] == opposite[1]:
        return False
    tables, at = ({ast.dump(getattr(part, name)) for part in places} for name in ("value", "slice"))
    return len(tables) == len(at) == 2


def _is_not(node: ast.expr) -> bool:
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # a change of its type
        if node.func.attr in ("logical_not", "bitwise_not"):
            return True
        node = node.func.value
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not)


def _looked_up(node: ast.expr, named: Mapping[str, set[str]]) -> set[str]:
    """Tables that are read at some index inside an expression, or by a name of what was read; and BY_FORM."""
    parts = list(ast.walk(node))
    found = {table_name(part) for part in parts if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Load)}
    found |= {BY_FORM} if any(map(_asks_both, parts)) else set()
    return found.union(*(named.get(part.id, set()) for part in parts if isinstance(part, ast.Name)))


def table_name(node: ast.expr) -> str:
    """What a subscript looks into; empty for anything else."""
    return last_name(node.value) if isinstance(node, ast.Subscript) else ""
