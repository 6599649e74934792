"""What an expression can be once the recipe is known: one of a few constants, an object of a known class, or unknown.

Sound, not clever: a name counts only if it is bound once, an attribute only if its class alone assigns it, once, in
`__init__`, a parameter only if every call of its function is in sight. What a section of the recipe holds is the
recipe's own, since one script holds one recipe.
"""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pgolf_core.lab.export_source import Function, Scope, Source, parameters

MAX_CHOICES = 16


@dataclass(frozen=True)
class Choices:
    """One of these constants (numbers, strings, None, tuples of such)."""

    values: tuple[Any, ...]

    @property
    def truth(self) -> bool | None:
        """Whether it counts as true, if that is certain."""
        truths = {bool(value) for value in self.values}
        return truths.pop() if len(truths) == 1 else None


@dataclass(frozen=True)
class Object:
    """Some instance of a class of the script; never None."""

    kind: str

    truth = None


Value = Choices | Object | None
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b, ast.IsNot: lambda a, b: a is not b,
}  # fmt: skip
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv, ast.Mod: operator.mod,
}  # fmt: skip
_PURE_CALLS = {"len", "tuple", "list", "dict", "bool", "min", "max", "time.perf_counter", "time.monotonic"}


def choices(values: Iterable[Any]) -> Value:
    """Choices without repetition (1, 1.0 and True stay apart); unknown if there are none or too many."""
    found = {(type(value), repr(value)): value for value in values}
    return Choices(tuple(found.values())) if 0 < len(found) <= MAX_CHOICES else None


def is_pure(node: ast.AST) -> bool:
    """Whether leaving an expression out can change nothing else."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and ast.unparse(part.func) not in _PURE_CALLS:
            return False
        if isinstance(part, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            return False
    return True


class Values:
    """Looks expressions of one source up. `known` maps (class, attribute) to the possible constants of every instance,
    and (class, attribute) of a section inside the recipe to the Object that it is."""

    def __init__(self, source: Source, known: Mapping[tuple[str, str], Value]):
        self.source, self.known = source, known
        self.classes = {n.name: n for n in source.tree.body if isinstance(n, ast.ClassDef)}
        self.functions = {n.name: n for n in source.tree.body if isinstance(n, Function)}
        self._busy: set[int] = set()
        self._circles = 0
        self._cache: dict[int, Value] = {}
        self._bindings: dict[tuple[int, str], list[ast.AST]] = {}
        self._stores: dict[str, list[ast.Attribute]] = {}
        self._calls: dict[str, list[ast.Call] | None] = {}
        annotations = self._annotations()
        for node in source.nodes:
            if isinstance(node, ast.Name):
                if not isinstance(node.ctx, ast.Load):
                    scope = source.scope_of(node).find(node.id)
                    self._bindings.setdefault((id(scope), node.id), []).append(node)
                elif id(node) not in annotations and source.is_global(node):
                    self._note_use(node)
            elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
                self._stores.setdefault(node.attr, []).append(node)
            elif isinstance(node, Function | ast.Lambda):
                for argument in parameters(node):
                    self._bindings.setdefault((id(source.scope_of(node)), argument.arg), []).append(argument)

    # ------------------------------------------------------------------ expressions

    def of(self, node: ast.AST | None) -> Value:
        """The value of an expression, None if it is unknown."""
        if node is None:
            return None
        if id(node) in self._busy:
            self._circles += 1
            return None
        if id(node) in self._cache:
            return self._cache[id(node)]
        before = self._circles
        self._busy.add(id(node))
        found = self._of(node)
        self._busy.discard(id(node))
        if self._circles == before or not self._busy:  # inside a circle an answer may be too cautious: ask again later
            self._cache[id(node)] = found
        return found

    def truth(self, node: ast.AST) -> bool | None:
        """Whether a condition holds, if that is certain and leaving it out changes nothing else."""
        if isinstance(node, ast.BoolOp):
            decides = isinstance(node.op, ast.Or)
            truths = [self.truth(part) for part in node.values]
            if decides in truths and all(map(is_pure, node.values[: truths.index(decides)])):
                return decides
            return (not decides) if all(truth is (not decides) for truth in truths) else None
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.truth(node.operand)
            return None if inner is None else not inner
        value = self.of(node)
        return value.truth if value is not None and is_pure(node) else None

    def _of(self, node: ast.AST) -> Value:
        match node:
            case ast.Constant(value=value):
                return Choices((value,)) if isinstance(value, int | float | str | None | bool) else None
            case ast.Tuple():
                return self._product([self.of(part) for part in node.elts], lambda *parts: parts)
            case ast.Name():
                return self._of_name(node)
            case ast.Attribute():
                return self._of_attribute(node)
            case ast.IfExp():
                truth = self.truth(node.test)
                return self.of((node.orelse, node.body)[truth]) if truth is not None else self._join(
                    [self.of(node.body), self.of(node.orelse)]
                )  # fmt: skip
            case ast.BoolOp():
                truth = self.truth(node)
                bare = all(isinstance(part, ast.Compare) or _is_not(part) for part in node.values)
                return Choices((truth,)) if truth is not None and bare else None
            case ast.UnaryOp(op=ast.Not()):
                truth = self.truth(node.operand)
                return Choices((not truth,)) if truth is not None else None
            case ast.UnaryOp(op=ast.USub()):
                return self._product([self.of(node.operand)], operator.neg)
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                return self._product([self.of(node.left), self.of(node.right)], _ARITHMETIC[type(node.op)])
            case ast.Compare():
                return self._of_compare(node)
            case ast.ListComp() | ast.GeneratorExp():
                source = self.of(node.generators[0].iter)
                return Choices(((),)) if source == Choices(((),)) else None
            case ast.Call():
                return self._of_call(node)
        return None

    def _of_compare(self, node: ast.Compare) -> Value:
        sides = [node.left, *node.comparators]
        results = []
        for left, comparison, right in zip(sides, node.ops, sides[1:], strict=False):
            a, b = self.of(left), self.of(right)
            if isinstance(comparison, ast.Is | ast.IsNot) and isinstance(a, Object) and b == Choices((None,)):
                results.append(Choices((isinstance(comparison, ast.IsNot),)))
            elif isinstance(comparison, ast.In | ast.NotIn) and b == Choices(((),)):
                results.append(Choices((isinstance(comparison, ast.NotIn),)))
            else:
                results.append(self._product([a, b], _COMPARISONS[type(comparison)]))
        truths = [result.truth if result else None for result in results]
        if False in truths:
            return Choices((False,))
        return Choices((True,)) if all(truths) else None

    def _of_call(self, node: ast.Call) -> Value:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        arguments = node.args
        if name in self.classes and self.source.is_global(node.func):  # type: ignore[arg-type]
            return Object(name)
        if name == "len" and len(arguments) == 1:
            return self._product([self.of(arguments[0])], len)
        if name == "next" and len(arguments) == 2 and self.of(arguments[0]) == Choices(((),)):
            return self.of(arguments[1])
        return None

    def _product(self, operands: list[Value], compute: Callable[..., Any]) -> Value:
        if not all(isinstance(operand, Choices) for operand in operands):
            return None
        try:
            return choices(compute(*parts) for parts in itertools.product(*(o.values for o in operands)))  # type: ignore[union-attr]
        except (TypeError, ValueError, ArithmeticError):
            return None

    def _join(self, found: list[Value]) -> Value:
        if found and all(isinstance(value, Choices) for value in found):
            return choices(itertools.chain.from_iterable(value.values for value in found))  # type: ignore[union-attr]
        same = len(set(found)) == 1
        return found[0] if same else None

    # ------------------------------------------------------------------ names and attributes

    def _of_name(self, node: ast.Name) -> Value:
        scope = self.source.scope_of(node).find(node.id)
        bound = self._bindings.get((id(scope), node.id), []) if scope is not None else []
        if len(bound) != 1 or node.id in getattr(scope, "elsewhere", ()):
            return None
        (binding,) = bound
        if isinstance(binding, ast.arg):
            return self.of_parameter(binding, scope)
        return self.of(self.bound_to(binding)) if isinstance(binding, ast.Name) else None

    def bound_to(self, target: ast.expr) -> ast.expr | None:
        """The expression whose value an assignment gives to this target; None where it is not plain to see."""
        statement = self.source.parents[id(target)]
        if isinstance(statement, ast.AnnAssign):
            return statement.value
        if isinstance(statement, ast.Assign):
            return statement.value
        if isinstance(statement, ast.Tuple):
            assignment = self.source.parents[id(statement)]
            value = assignment.value if isinstance(assignment, ast.Assign) else None
            if isinstance(value, ast.Tuple) and len(value.elts) == len(statement.elts):
                return value.elts[statement.elts.index(target)]
        return None

    def of_parameter(self, argument: ast.arg, scope: Scope | None) -> Value:
        """A parameter's value: the method's own object, a class by annotation, or what all calls agree on."""
        if id(argument) in self._busy:
            self._circles += 1
            return None
        if scope is None or not isinstance(scope.node, Function):
            return None
        function = scope.node
        owner = self.source.parents[id(function)]
        if isinstance(owner, ast.ClassDef) and owner.name in self.classes:
            if argument is (function.args.args or [None])[0] and not _is_static(function):
                return Object(owner.name)
            if (owner.name, f"{function.name}.{argument.arg}") in self.known:
                return self.known[owner.name, f"{function.name}.{argument.arg}"]
        note = argument.annotation
        if isinstance(note, ast.Name) and note.id in self.classes:
            return Object(note.id)
        self._busy.add(id(argument))
        passed = self.passed(function, argument.arg)
        found = self._join([self.of(value) for value in passed]) if passed else None
        self._busy.discard(id(argument))
        return found

    def passed(self, function: ast.AST, name: str) -> list[ast.expr] | None:
        """The expressions given to a parameter at every call, defaults included; None if a call may be out of sight."""
        calls = self.calls_of(function)
        if calls is None:
            return None
        a = function.args  # type: ignore[attr-defined]
        names = [argument.arg for argument in (*a.posonlyargs, *a.args)]
        defaults = dict(zip(reversed(names), reversed(a.defaults), strict=False))
        defaults |= {k.arg: d for k, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d is not None}
        if function not in self.functions.values():
            names = names[1:]  # __init__: self
        found = []
        for call in calls:
            by_name = {keyword.arg: keyword.value for keyword in call.keywords}
            by_place = dict(zip(names, call.args, strict=False))
            value = by_name.get(name) or by_place.get(name) or defaults.get(name)
            if value is None:
                return None
            found.append(value)
        return found

    def calls_of(self, function: ast.AST) -> list[ast.Call] | None:
        """Every call of a module-level function, or of the class whose `__init__` it is; None if some may be hidden."""
        owner = self.source.parents[id(function)]
        if isinstance(owner, ast.ClassDef) and getattr(function, "name", "") == "__init__":
            return self._calls.get(owner.name, [])
        if self.functions.get(getattr(function, "name", "")) is function:
            return self._calls.get(function.name, [])  # type: ignore[attr-defined]
        return None

    def _note_use(self, node: ast.Name) -> None:
        parent = self.source.parents[id(node)]
        calls = self._calls.setdefault(node.id, [])
        plain = isinstance(parent, ast.Call) and parent.func is node
        if plain and (any(isinstance(a, ast.Starred) for a in parent.args) or any(not k.arg for k in parent.keywords)):
            plain = False
        if not plain:
            self._calls[node.id] = None
        elif calls is not None:
            calls.append(parent)  # type: ignore[arg-type]

    def _annotations(self) -> set[int]:
        found: set[int] = set()
        for node in self.source.nodes:
            notes = [getattr(node, "annotation", None), getattr(node, "returns", None)]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                notes += node.args[1:]
            found.update(id(part) for note in notes if isinstance(note, ast.AST) for part in ast.walk(note))
        return found

    def _of_attribute(self, node: ast.Attribute) -> Value:
        owner = self.of(node.value)
        if not isinstance(owner, Object):
            return None
        if (owner.kind, node.attr) in self.known:
            return self.known[owner.kind, node.attr]
        stores = self._stores.get(node.attr, [])
        mine = [store for store in stores if self._class_of_self(store) == owner.kind]
        foreign = [store for store in stores if self._class_of_self(store) is None]
        if len(mine) != 1 or foreign or self._is_inherited(owner.kind):
            return None
        scope = self._function_of(mine[0])
        if getattr(scope, "name", "") != "__init__":
            return None
        return self.of(self.bound_to(mine[0]))

    def _is_inherited(self, kind: str) -> bool:
        return any(isinstance(base, ast.Name) and base.id == kind for c in self.classes.values() for base in c.bases)

    def _function_of(self, node: ast.AST) -> ast.AST | None:
        return next((parent for parent in self.source.above(node) if isinstance(parent, Function | ast.Lambda)), None)

    def _class_of_self(self, store: ast.Attribute) -> str | None:
        """The class whose method stores on its own `self`; None for a store on anything else."""
        function = self._function_of(store)
        owner = self.source.parents.get(id(function))
        if not isinstance(store.value, ast.Name) or not isinstance(owner, ast.ClassDef):
            return None
        first = (function.args.args or [None])[0]  # type: ignore[union-attr]
        return owner.name if first is not None and store.value.id == first.arg else None


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _is_static(function: ast.AST) -> bool:
    return any(ast.unparse(d) in ("staticmethod", "classmethod") for d in function.decorator_list)  # type: ignore[attr-defined]
