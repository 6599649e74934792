"""What of a script is reached from its last statement: functions, classes, methods, constants, fields of the recipe."""

from __future__ import annotations

import ast

from pgolf_core.lab.export_fold import is_heading
from pgolf_core.lab.export_merge import ROOM_MARK
from pgolf_core.lab.export_source import Edits, Function, Source, children, is_text

_CALLED_BY_TORCH = {"forward"}
_PLAIN_BASES = {"nn.Module", "NamedTuple", "Exception"}


class Reach:
    """Follows every mention from a script's last statement on.

    A method counts as used where its name is read as an attribute of whatever object; special methods always, and all
    methods of a class whose base class may call them.
    """

    def __init__(self, source: Source):
        self.source = source
        self.units: dict[str, list[ast.stmt]] = {}
        for statement in source.tree.body[:-1]:
            for name in _defines(statement):
                self.units.setdefault(name, []).append(statement)
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.methods: dict[str, list[ast.AST]] = {}
        """Methods of reached classes that nobody has called yet, by name."""
        self._todo: list[ast.AST] = [source.tree.body[-1]]
        while self._todo:
            self._visit(self._todo.pop())

    def unused(self, method: ast.AST) -> bool:
        """Whether a method was never called."""
        return any(method is waiting for waiting in self.methods.get(getattr(method, "name", ""), []))

    def _visit(self, root: ast.AST) -> None:
        stack = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, ast.ClassDef):
                open_bases = {ast.unparse(base) for base in node.bases} <= _PLAIN_BASES | {*self.units}
                for statement in node.body:
                    if isinstance(statement, Function) and open_bases and not _is_special(statement.name):
                        self._meet(statement)
                    else:
                        stack.append(statement)
                stack += [*node.decorator_list, *node.bases]
                continue
            if isinstance(node, Function):
                stack += [part for part in children(node) if part is not node.returns]
                stack += [part for part in alternatives(node.returns) if not self.names_unit(part)]
                continue
            if isinstance(node, ast.Name) and node.id not in self.names and self._is_outer(node):
                self.names.add(node.id)
                self._todo += self.units.get(node.id, [])
            elif isinstance(node, ast.Attribute) and node.attr not in self.attributes:
                self.attributes.add(node.attr)
                self._todo += self.methods.pop(node.attr, [])
            stack += children(node)

    def names_unit(self, annotation: ast.AST) -> bool:
        """Whether one alternative of several is a class of the script: naming it alone does not make it needed."""
        return isinstance(annotation, ast.Name) and annotation.id in self.units and self.source.is_global(annotation)

    def _is_outer(self, name: ast.Name) -> bool:
        """A name of the module's, or one that only an import (they are added last) or Python itself can bind."""
        return self.source.scope_of(name).find(name.id) in (self.source.module, None)

    def _meet(self, method: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if method.name in self.attributes:
            self._todo.append(method)
        else:
            self.methods.setdefault(method.name, []).append(method)


def prune(source: Source, edits: Edits, sections: set[str], kept_whole: set[str]) -> set[str]:
    """Take out what is not reached, and recipe fields (of the dataclasses `sections`, less `kept_whole`) never read.

    Returns the global names in use, imports among them.
    """
    reach = Reach(source)
    _narrow_returns(source, edits, reach)
    body = source.tree.body
    for index, statement in enumerate(body[:-1]):
        names = _defines(statement)
        if is_heading(statement, ROOM_MARK):
            if is_heading(body[index + 1], ROOM_MARK):
                edits.remove(statement)
        elif is_text(statement):
            continue  # goes with the assignment above it
        elif not reach.names & names:
            edits.remove(statement)
        elif isinstance(statement, ast.ClassDef):
            for part in statement.body:
                field = part.target if isinstance(part, ast.AnnAssign) else None
                idle = isinstance(field, ast.Name) and field.id not in reach.attributes
                if reach.unused(part) or (idle and statement.name in sections - kept_whole):
                    edits.remove(part)
    return reach.names


def alternatives(annotation: ast.expr | None) -> list[ast.expr]:
    """The parts of `A | B | C`."""
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return [*alternatives(annotation.left), *alternatives(annotation.right)]
    return [] if annotation is None else [annotation]


def _narrow_returns(source: Source, edits: Edits, reach: Reach) -> None:
    """Take classes that are never made out of what functions say they return."""
    for node in source.nodes:
        if isinstance(node, Function) and node.returns is not None:
            parts = alternatives(node.returns)
            left = [part for part in parts if not reach.names_unit(part) or part.id in reach.names]  # type: ignore[attr-defined]
            if 0 < len(left) < len(parts):
                edits.replace(source.span(node.returns), " | ".join(source.slice(part) for part in left))
            elif not left:
                edits.replace(source.span(node.returns), "object")


def _defines(statement: ast.stmt) -> set[str]:
    """Names that a module-level statement binds, or (`name.attribute = …`) is about."""
    if isinstance(statement, Function | ast.ClassDef):
        return {statement.name}
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    names = (node for target in targets if target is not None for node in ast.walk(target))
    return {node.id for node in names if isinstance(node, ast.Name)}


def _is_special(name: str) -> bool:
    return name in _CALLED_BY_TORCH or (name.startswith("__") and name.endswith("__"))
