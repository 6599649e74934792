"""One pass over a script's text: take the branches that the recipe decides, drop what it leaves without effect."""

from __future__ import annotations

import ast
import re

from pgolf_core.files import UserError
from pgolf_core.lab.export_source import (
    Edits,
    Function,
    Source,
    blocks,
    is_text,
    lines_inside_strings,
    parameters,
    without_docstring,
)
from pgolf_core.lab.export_values import Choices, Object, Values, is_pure

_ATOMS = ast.Name | ast.Constant | ast.Attribute | ast.Call | ast.Subscript
_LEAVES = ast.Return | ast.Raise | ast.Continue | ast.Break


def fold_branches(source: Source, values: Values, edits: Edits) -> None:
    """`if`, conditional expressions, `and`/`or`, loops over nothing: keep what will run."""
    for node in source.nodes:
        if isinstance(node, ast.If):
            truth = values.truth(node.test)
            if truth is not None:
                _take_branch(source, edits, node, truth)
            else:
                _shorten(source, values, edits, node.test)
        elif isinstance(node, ast.For) and values.of(node.iter) == Choices(((),)) and not node.orelse:
            edits.remove(node)
        elif isinstance(node, ast.IfExp) and not source.in_f_string(node):
            truth = values.truth(node.test)
            if truth is not None:
                _replace(source, edits, node, source.slice(node.body if truth else node.orelse))
            else:
                _shorten(source, values, edits, node.test)
        elif isinstance(node, ast.BoolOp | ast.Compare) and not source.in_f_string(node):
            _fold_value(source, values, edits, node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "next":
            value = values.of(node)
            if isinstance(value, Choices) and len(value.values) == 1:
                edits.replace(source.span(node), repr(value.values[0]))
        for block in blocks(node):
            for index, statement in enumerate(block[:-1]):
                if isinstance(statement, _LEAVES):
                    for dead in block[index + 1 :]:
                        edits.remove(dead)
                    break


def drop_mentions(source: Source, values: Values, edits: Edits, dropped: set[str]) -> None:
    """Take out every mention of these functions, methods and attributes: `name`, or `Class.name` for a method alone.

    What goes is the keyword argument (with its dataclass's field), else the statement, else the `if` that stands for
    nothing but it. Raises UserError where a return would have to go.
    """
    plain = {name for name in dropped if "." not in name}
    for node in source.nodes:
        if isinstance(node, Function):
            owner = source.parents[id(node)]
            if isinstance(owner, ast.ClassDef) and {node.name, f"{owner.name}.{node.name}"} & dropped:
                edits.remove(node)
        named = isinstance(node, ast.Name) and node.id in plain and source.is_global(node)
        if not named and not (isinstance(node, ast.Attribute) and node.attr in plain):
            continue
        inside = [parent for parent in source.above(node) if isinstance(parent, Function)]
        if any(function.name in plain for function in inside):
            continue
        keyword = next((parent for parent in source.above(node) if isinstance(parent, ast.keyword | ast.stmt)), None)
        if isinstance(keyword, ast.keyword) and _drop_field(source, values, edits, keyword):
            continue
        statement = source.statement_of(node)
        above = source.parents[id(statement)]
        if isinstance(above, ast.If) and statement in above.body and not above.orelse:
            statement = above
        if isinstance(statement, ast.Return | Function | ast.ClassDef):
            raise UserError(f"the export cannot leave out {ast.unparse(node)} in `{ast.unparse(statement)[:80]}`")
        edits.remove(statement)


def drop_idle(source: Source, values: Values, edits: Edits) -> None:
    """Locals that nobody reads, calls of methods that do nothing, and parameters that nobody reads and nobody needs."""
    reads = _reads(source)
    attributes = [node for node in source.nodes if isinstance(node, ast.Attribute)]
    read_attributes = {
        node.attr
        for node in attributes
        if isinstance(node.ctx, ast.Load) or isinstance(source.parents[id(node)], ast.AugAssign)
    }
    for node in source.nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            _drop_store(source, values, edits, node, reads, read_attributes)
    for kind in values.classes.values():
        for method in kind.body:
            if isinstance(method, Function) and _does_nothing(method):
                calls = [a for a in attributes if a.attr == method.name and values.of(a.value) == Object(kind.name)]
                _drop_calls(source, edits, calls)
    for function in [node for node in source.nodes if isinstance(node, Function)]:
        for argument in parameters(function):
            _drop_parameter(source, values, edits, function, argument, reads)


# ---------------------------------------------------------------------- branches


def _take_branch(source: Source, edits: Edits, node: ast.If, truth: bool) -> None:
    keyword = source.text[source.at(node.lineno, node.col_offset) :]
    if node.body[0].lineno == node.lineno:
        return  # not on lines of its own
    if keyword.startswith("elif"):
        _take_elif(source, edits, node, truth)
        return
    start, end = source.line_start(node.lineno), source.line_start((node.end_lineno or 0) + 1)
    if truth:
        edits.replace((start, end), _dedented(source, node, node.body, _header_end(source, node)))
    elif not node.orelse:
        edits.remove(node)
    elif _is_elif(source, node):
        inner = node.orelse[0]
        at = source.at(inner.lineno, inner.col_offset)
        edits.replace((source.at(node.lineno, node.col_offset), at + len("elif")), "if")
    else:
        edits.replace((start, end), _dedented(source, node, node.orelse, _else_line(source, node) + 1))


def _take_elif(source: Source, edits: Edits, node: ast.If, truth: bool) -> None:
    start, end = source.line_start(node.lineno), source.line_start((node.end_lineno or 0) + 1)
    if truth:
        body = source.text[source.line_start(_header_end(source, node)) : source.line_start(_last_line(node.body) + 1)]
        edits.replace((start, end), " " * node.col_offset + "else:\n" + body)
    elif not node.orelse:
        edits.replace((start, end), "")
    else:
        line = node.orelse[0].lineno if _is_elif(source, node) else _else_line(source, node)
        edits.replace((start, source.line_start(line)), "")


def _is_elif(source: Source, node: ast.If) -> bool:
    inner = node.orelse[0] if len(node.orelse) == 1 else None
    return isinstance(inner, ast.If) and source.text.startswith("elif", source.at(inner.lineno, inner.col_offset))


def _header_end(source: Source, node: ast.If) -> int:
    """The first line after the colon of the `if`, which the test does not reach any more."""
    line = node.test.end_lineno or node.lineno
    while not source.text[source.line_start(line) : source.line_start(line + 1)].split("#")[0].rstrip().endswith(":"):
        line += 1
    return line + 1


def _else_line(source: Source, node: ast.If) -> int:
    line = node.orelse[0].lineno
    while not re.match(rf" {{{node.col_offset}}}else\s*:", source.text[source.line_start(line) :]):
        line -= 1
    return line


def _last_line(block: list[ast.stmt]) -> int:
    return block[-1].end_lineno or block[-1].lineno


def _dedented(source: Source, node: ast.If, block: list[ast.stmt], first_line: int) -> str:
    """A branch's lines moved left to where its `if` stood; lines inside strings stay as they are."""
    last = _last_line(block)
    shift = block[0].col_offset - node.col_offset
    fixed = lines_inside_strings(source.nodes)
    moved = []
    for number in range(first_line, last + 1):
        line = source.text[source.line_start(number) : source.line_start(number + 1)]
        moved.append(
            line if number in fixed or not line.strip() else line[min(shift, len(line) - len(line.lstrip())) :]
        )
    return "".join(moved)


def _replace(source: Source, edits: Edits, node: ast.expr, text: str) -> None:
    """Put `text` in place of an expression, and of parentheses around it that it no longer needs."""
    start, end = source.span(node)
    around = source.text[max(start - 2, 0) : start], source.text[end : end + 1]
    simple = isinstance(ast.parse(f"({text})", mode="eval").body, _ATOMS)
    if simple and around[1] == ")" and re.fullmatch(r"[^\w)\]]\(", around[0]):
        start, end = start - 1, end + 1
    edits.replace((start, end), text)


def _shorten(source: Source, values: Values, edits: Edits, test: ast.expr) -> None:
    """Leave out the parts of a condition that are certain and do not decide it."""
    if not isinstance(test, ast.BoolOp) or source.in_f_string(test):
        return
    idle = not isinstance(test.op, ast.Or)  # True in `and`, False in `or`
    left = [part for part in test.values if values.truth(part) is not idle]
    if len(left) < len(test.values) and left:
        word = " or " if isinstance(test.op, ast.Or) else " and "
        edits.replace(source.span(test), word.join(_operand(source, part, len(left) > 1) for part in left))


def _operand(source: Source, node: ast.expr, joined: bool) -> str:
    text = source.slice(node)
    return f"({text})" if joined and isinstance(node, ast.BoolOp | ast.IfExp | ast.Lambda) else text


def _fold_value(source: Source, values: Values, edits: Edits, node: ast.BoolOp | ast.Compare) -> None:
    """`None or x` is x, as is `True and x`; a comparison that is certain is its result."""
    if isinstance(node, ast.BoolOp) and values.truth(node.values[0]) is isinstance(node.op, ast.And):
        rest = node.values[1:]
        text = source.slice(rest[0]) if len(rest) == 1 else source.text[source.span(rest[0])[0] : source.span(node)[1]]
        _replace(source, edits, node, text)
        return
    truth = values.truth(node)
    value = values.of(node)
    if truth is not None and isinstance(value, Choices) and value.values == (truth,):
        edits.replace(source.span(node), str(truth))


# ---------------------------------------------------------------------- without effect


def _reads(source: Source) -> set[tuple[int, str]]:
    """(scope, name) of every name that is read."""
    return {
        (id(source.scope_of(node).find(node.id)), node.id)
        for node in source.nodes
        if isinstance(node, ast.Name)
        and (isinstance(node.ctx, ast.Load) or isinstance(source.parents[id(node)], ast.AugAssign))
    }


def _drop_store(
    source: Source,
    values: Values,
    edits: Edits,
    node: ast.Assign | ast.AnnAssign,
    reads: set[tuple[int, str]],
    read_attributes: set[str],
) -> None:
    """An assignment to a local or an attribute of self that nobody reads, whose value has no effect; of a pair of
    tuples, only the idle places."""

    def idle(target: ast.expr, value: ast.expr | None) -> bool:
        if isinstance(target, ast.Attribute):
            plain_value = is_pure(value) if value is not None else False
            return target.attr not in read_attributes and plain_value and _is_plain_self(source, target)
        if not isinstance(target, ast.Name) or not _is_idle(source, target, reads):
            return False
        return _is_effectless(value) or values.of(value) is not None

    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if len(targets) != 1:
        return
    (target,), value = targets, node.value
    if not isinstance(target, ast.Tuple):
        if idle(target, value):
            edits.remove(node)
        return
    if not isinstance(value, ast.Tuple) or len(target.elts) != len(value.elts):
        return
    pairs = list(zip(target.elts, value.elts, strict=True))
    kept = [pair for pair in pairs if not idle(*pair)]
    if not kept:
        edits.remove(node)
    elif len(kept) < len(pairs):
        left, right = (", ".join(source.slice(part) for part in side) for side in zip(*kept, strict=True))
        edits.replace(source.span(node), f"{left} = {right}")


def _is_plain_self(source: Source, target: ast.Attribute) -> bool:
    """Whether this stores on `self` in a class without bases: torch's modules take note of what is stored on them."""
    above = list(source.above(target))
    kind = next((parent for parent in above if isinstance(parent, ast.ClassDef)), None)
    return kind is not None and not kind.bases and isinstance(target.value, ast.Name) and target.value.id == "self"


def _is_idle(source: Source, target: ast.Name, reads: set[tuple[int, str]]) -> bool:
    scope = source.scope_of(target).find(target.id)
    local = scope is not None and isinstance(scope.node, Function)
    return local and (id(scope), target.id) not in reads


def _is_effectless(node: ast.AST | None) -> bool:
    """Pure, or a constructor of plain containers from attributes, as `{name: tuple(p.shape) for …}`."""
    if node is None:
        return False
    calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
    return is_pure(node) or all(
        (isinstance(call.func, ast.Attribute) and call.func.attr == "items") or is_pure(call) for call in calls
    )


def _does_nothing(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    body = without_docstring(method.body)
    return all(isinstance(s, ast.Pass) or (isinstance(s, ast.Return) and s.value is None) for s in body)


def _drop_calls(source: Source, edits: Edits, functions: list[ast.Attribute]) -> None:
    """Statements that do nothing but call one of these, with arguments that have no effect."""
    for function in functions:
        statement = source.statement_of(function)
        if _is_lone_call(statement, function):
            edits.remove(statement)


def _is_lone_call(statement: ast.stmt, function: ast.expr) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or call.func is not function:
        return False
    return all(is_pure(part) for part in (*call.args, *call.keywords))


def _drop_parameter(
    source: Source,
    values: Values,
    edits: Edits,
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    argument: ast.arg,
    reads: set[tuple[int, str]],
) -> None:
    """A parameter that is never read, where every call leaves it out or gives by keyword something without effect."""
    a = function.args
    with_default = {x.arg for x in a.args[len(a.args) - len(a.defaults) :]}
    with_default |= {x.arg for x, default in zip(a.kwonlyargs, a.kw_defaults, strict=True) if default is not None}
    if argument.arg not in with_default or (id(source.scope_of(function)), argument.arg) in reads:
        return
    calls = values.calls_of(function)
    if not calls:
        return
    place = [x.arg for x in a.args].index(argument.arg) if argument in a.args else len(a.args)
    if source.parents[id(function)] is not source.tree:
        place -= 1  # self
    if any(len(call.args) > place and argument in a.args for call in calls):
        return
    given = [keyword for call in calls for keyword in call.keywords if keyword.arg == argument.arg]
    if not all(is_pure(keyword.value) for keyword in given):
        return
    default = next(d for x, d in _defaults(a) if x is argument)
    start, group = source.span(argument)[0], edits.new_group()
    if a.kwonlyargs == [argument] and a.vararg is None:
        start = source.text.rindex("*", 0, start)  # a bare star with nothing after it is an error
    edits.replace(_with_comma(source, start, source.span(default)[1]), "", group)
    for keyword in given:
        edits.replace(_with_comma(source, *source.span(keyword)), "", group)


def _defaults(a: ast.arguments) -> list[tuple[ast.arg, ast.expr]]:
    placed = zip(a.args[len(a.args) - len(a.defaults) :], a.defaults, strict=True)
    return [*placed, *((x, d) for x, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d is not None)]


def _drop_field(source: Source, values: Values, edits: Edits, keyword: ast.keyword) -> bool:
    """Take a keyword argument out, and the field it fills; False if the call makes no dataclass of the script."""
    call = source.parents[id(keyword)]
    name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
    if name not in values.classes:
        return False
    fields = [s for s in values.classes[name].body if isinstance(s, ast.AnnAssign)]
    for statement in fields:
        if ast.unparse(statement.target) == keyword.arg:
            edits.replace(_with_comma(source, *source.span(keyword)), "")
            edits.remove(statement)
            return True
    return False


def _with_comma(source: Source, start: int, end: int) -> tuple[int, int]:
    """A list's entry with the comma behind it, or else the one before; a line of its own goes whole."""
    text = source.text
    after = re.compile(r"\s*,[ \t]*").match(text, end)
    if after:
        end = after.end()
        line = text.rindex("\n", 0, start) + 1
        if not text[line:start].strip() and text[end : end + 1] == "\n":
            return line, end + 1
        return start, end
    before = re.compile(r",\s*$").search(text, 0, start)
    return (before.start() if before else start), end


def is_heading(statement: ast.stmt, mark: str) -> bool:
    """Whether a module-level statement is a room's heading."""
    return is_text(statement) and statement.value.value.startswith(mark)  # type: ignore[attr-defined]
