"""Python source as text and tree at once: edits by place, so that comments and layout stay, and who binds a name."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterable, Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SHARED = ast.expr_context | ast.operator | ast.unaryop | ast.boolop
_RULE = re.compile(r" +# -{20,} .*")
_LINTER_COMMENT = re.compile(r"\s*# (?:fmt: skip|noqa\b|type: ignore).*$")


class Scope:
    """One module, class, function or comprehension, and the names bound in it."""

    def __init__(self, node: ast.AST, parent: Scope | None):
        self.node, self.parent = node, parent
        self.bound: set[str] = set()
        self.elsewhere: set[str] = set()
        """Names declared global or nonlocal here."""

    def find(self, name: str) -> Scope | None:
        """The scope that binds `name` for code here; None for a builtin or an undefined name."""
        scope: Scope | None = self
        while scope is not None:
            visible = scope is self or not isinstance(scope.node, ast.ClassDef)
            if visible and name in scope.bound and name not in scope.elsewhere:
                return scope
            scope = scope.parent
        return None


class Source:
    """A module's text, its tree, every node's parent, and the scope of every name."""

    def __init__(self, text: str):
        self.text = text
        self.tree = ast.parse(text)
        self._lines = io.StringIO(text).readlines()  # unlike splitlines, cut at line feeds alone
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self.nodes: list[ast.AST] = [self.tree]
        """Every node, parents before children."""
        self.parents: dict[int, ast.AST] = {}
        for node in self.nodes:
            for child in children(node):
                self.parents[id(child)] = node
                self.nodes.append(child)
        self.module = Scope(self.tree, None)
        self._scopes: dict[int, Scope] = {}
        for statement in self.tree.body:
            self._scan(statement, self.module)

    # ------------------------------------------------------------------ places

    def at(self, line: int, column: int) -> int:
        """Index into the text of a line (from 1) and a column in UTF-8 bytes, as ast counts."""
        text = self._lines[line - 1]
        return self._starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins and ends in the text, a definition's decorators included."""
        decorators = getattr(node, "decorator_list", [])
        if decorators:
            line, column = decorators[0].lineno, node.col_offset  # type: ignore[attr-defined]
        else:
            line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
        return self.at(line, column), self.at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def slice(self, node: ast.AST) -> str:
        """The text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def line_span(self, node: ast.AST) -> tuple[int, int]:
        """The whole lines of a statement, with the comment lines directly above it and the line's end."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])  # type: ignore[attr-defined]
        while first > 1 and self._lines[first - 2].lstrip().startswith("#"):
            first -= 1
        return self._starts[first - 1], self._starts[node.end_lineno]  # type: ignore[attr-defined]

    def line_start(self, line: int) -> int:
        """Index of a line's first character; one past the last line is the text's end."""
        return self._starts[line - 1]

    def in_f_string(self, node: ast.AST) -> bool:
        """Whether the node lies inside an f-string, where Python before 3.12 does not know its place."""
        return any(isinstance(parent, ast.JoinedStr) for parent in self.above(node))

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Parents of a node, innermost first."""
        while (node := self.parents.get(id(node))) is not None:  # type: ignore[assignment]
            yield node

    def statement_of(self, node: ast.AST) -> ast.stmt:
        """The innermost statement that holds the node, or is it."""
        while not isinstance(node, ast.stmt):
            node = self.parents[id(node)]
        return node

    def docstring_of(self, statement: ast.stmt) -> ast.Expr | None:
        """The string that stands right below an assignment and explains it."""
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            return None
        for block in blocks(self.parents[id(statement)]):
            if statement in block[:-1]:
                after = block[block.index(statement) + 1]
                return after if is_text(after) else None
        return None

    # ------------------------------------------------------------------ names

    def scope_of(self, node: ast.AST) -> Scope:
        """The scope in which a Name node, or a definition, is looked up or opens (for a definition: its inside)."""
        return self._scopes[id(node)]

    def is_global(self, name: ast.Name) -> bool:
        """Whether a Name means the module's own binding."""
        return self.scope_of(name).find(name.id) is self.module

    def global_names(self, node: ast.AST) -> set[str]:
        """Module-level names that code inside `node` uses."""
        return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and self.is_global(n)}

    def _scan(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, Function | ast.Lambda):
            if isinstance(node, Function):
                scope.bound.add(node.name)
            inner = self._scopes[id(node)] = Scope(node, scope)
            arguments = node.args
            outside: list[ast.AST | None] = [*getattr(node, "decorator_list", []), *arguments.defaults]
            outside += [*arguments.kw_defaults, getattr(node, "returns", None)]
            for argument in parameters(node):
                inner.bound.add(argument.arg)
                outside.append(argument.annotation)
            self._scan_all(outside, scope)
            self._scan_all(node.body if isinstance(node.body, list) else [node.body], inner)
        elif isinstance(node, ast.ClassDef):
            scope.bound.add(node.name)
            self._scan_all([*node.decorator_list, *node.bases, *(k.value for k in node.keywords)], scope)
            inner = self._scopes[id(node)] = Scope(node, scope)
            self._scan_all(node.body, inner)
        elif isinstance(node, _COMPREHENSIONS):
            inner = self._scopes[id(node)] = Scope(node, scope)
            self._scan(node.generators[0].iter, scope)
            for index, generator in enumerate(node.generators):
                self._scan_all([generator.target, *generator.ifs, generator.iter if index else None], inner)
            parts = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
            self._scan_all(parts, inner)
        elif isinstance(node, ast.Name):
            self._scopes[id(node)] = scope
            if not isinstance(node.ctx, ast.Load):
                binder = scope
                while isinstance(self.parents[id(node)], ast.NamedExpr) and isinstance(binder.node, _COMPREHENSIONS):
                    binder = binder.parent or binder
                binder.bound.add(node.id)
        else:
            if isinstance(node, ast.Global | ast.Nonlocal):
                scope.elsewhere.update(node.names)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                scope.bound.update(bound_name(alias) for alias in node.names)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                scope.bound.add(node.name)
            self._scan_all(children(node), scope)

    def _scan_all(self, nodes: Iterable[ast.AST | None], scope: Scope) -> None:
        for node in nodes:
            if node is not None:
                self._scan(node, scope)


class Edits:
    """Replacements of stretches of one text. Of two that overlap the wider one holds (the next pass does the other);
    those of one group are done together or not at all."""

    def __init__(self, source: Source):
        self.source = source
        self.found: list[tuple[int, int, str, int]] = []
        self.groups = 0
        self._removed: dict[int, tuple[list[ast.stmt], set[int]]] = {}

    def __bool__(self) -> bool:
        return bool(self.found)

    def replace(self, span: tuple[int, int], text: str, group: int | None = None) -> None:
        """Put `text` in place of a span."""
        if group is None:
            group = self.new_group()
        self.found.append((*span, text, group))

    def new_group(self) -> int:
        """A number for replacements that belong together."""
        self.groups += 1
        return self.groups

    def remove(self, statement: ast.stmt) -> None:
        """Take a statement's lines out, with its docstring; a block that would be left empty gets a `pass`."""
        start, end = self.source.line_span(statement)
        told = self.source.docstring_of(statement)
        if told is not None:
            end = self.source.line_span(told)[1]
        block = next(block for block in blocks(self.source.parents[id(statement)]) if statement in block)
        _, gone = self._removed.setdefault(id(block), (block, set()))
        gone.update(id(s) for s in (statement, told) if s is not None)
        empty = all(id(other) in gone for other in block)
        self.replace((start, end), " " * statement.col_offset + "pass\n" if empty else "")

    def apply(self) -> str:
        """The text with every edit done."""
        kept, lost = self._without_overlap()
        while lost:
            self.found = [edit for edit in self.found if edit[3] not in lost]
            kept, lost = self._without_overlap()
        parts, at = [], 0
        for start, end, text, _ in kept:
            parts += [self.source.text[at:start], text]
            at = end
        return "".join([*parts, self.source.text[at:]])

    def _without_overlap(self) -> tuple[list[tuple[int, int, str, int]], set[int]]:
        kept: list[tuple[int, int, str, int]] = []
        lost: set[int] = set()
        for edit in sorted(dict.fromkeys(self.found), key=lambda edit: (edit[0], -edit[1])):
            if not kept or edit[0] >= kept[-1][1]:
                kept.append(edit)
            elif edit[:3] != kept[-1][:3]:
                lost.add(edit[3])
        return kept, lost


def children(node: ast.AST) -> list[ast.AST]:
    """A node's direct children, contexts and operators left out: ast.iter_child_nodes, several times as fast."""
    found: list[ast.AST] = []
    for name in node._fields:
        part = getattr(node, name, None)
        if part.__class__ is list:
            found += [item for item in part if isinstance(item, ast.AST)]
        elif isinstance(part, ast.AST) and not isinstance(part, _SHARED):
            found.append(part)
    return found


def blocks(node: ast.AST) -> list[list[ast.stmt]]:
    """The lists of statements directly inside a node."""
    lists = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    return [block for block in lists if isinstance(block, list)]


def parameters(node: Function | ast.Lambda) -> list[ast.arg]:
    """All parameters of a function, starred ones last."""
    a = node.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]


def bound_name(alias: ast.alias) -> str:
    """The name that an import binds."""
    return alias.asname or alias.name.split(".")[0]


def is_text(statement: ast.AST) -> bool:
    """Whether a statement is a bare string."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """A body's statements after its docstring."""
    return body[1:] if body and is_text(body[0]) else body


def lines_inside_strings(nodes: Iterable[ast.AST]) -> set[int]:
    """Numbers (from 1) of lines that begin inside a string: their leading spaces belong to it."""
    inside: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Constant | ast.JoinedStr) and (node.end_lineno or 0) > node.lineno:
            inside.update(range(node.lineno + 1, (node.end_lineno or 0) + 1))
    return inside


def tidy(text: str) -> str:
    """Drop comments meant for linters and trailing spaces, and more blank lines than two (one inside a block)."""
    inside = lines_inside_strings(ast.walk(ast.parse(text)))
    lines: list[str] = []
    blank = 0
    for number, line in enumerate(text.splitlines(), 1):
        if number in inside:
            lines.append(line)
            blank = 0
            continue
        line = _LINTER_COMMENT.sub("", line).rstrip()
        if line and _RULE.fullmatch(line) and lines and _RULE.fullmatch(lines[-1]):
            lines[-1] = line  # a heading with nothing under it
            blank = 0
            continue
        if line:
            allowed = 1 if line[0] in " )]}" else 2
            opens = bool(lines) and lines[-1].rstrip().endswith(":") and allowed == 1
            lines += [""] * (0 if opens or not lines else min(blank, allowed))
            lines.append(line)
        blank = 0 if line else blank + 1
    return "\n".join(lines) + "\n"
