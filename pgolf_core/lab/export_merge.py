"""Rooms of the package become one text: in import order, their imports of each other gone, no two names the same."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from pgolf_core.files import UserError
from pgolf_core.lab.export_source import Edits, Function, Source, bound_name, is_text

PACKAGE = "pgolf_core"
ROOM_MARK = "\x00room "
"""Begins the module-level strings that stand for a room's heading until the text is finished."""


@dataclass
class Room:
    """One file of the package, and what its imported names stand for."""

    name: str
    """Dotted, without the package: grid, lab.export_main."""
    source: Source
    aliases: dict[str, str] = field(default_factory=dict)
    """Local name of an imported room -> that room."""
    borrowed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Local name -> (room, name there)."""
    outside: dict[str, str] = field(default_factory=dict)
    """Local name -> the import line that binds it, for everything outside the package."""

    @property
    def own(self) -> set[str]:
        """Names that this room defines at its top level."""
        imported = {*self.aliases, *self.borrowed, *self.outside}
        return self.source.module.bound - imported - {"annotations"}


def read_rooms(last: str, texts: dict[str, str] | None = None) -> list[Room]:
    """The room `last` and all it imports inside the package, each after those it imports; `texts` stand in for files.

    Raises UserError for an import that cannot be merged (relative, starred, or of the package inside a function).
    """
    rooms: dict[str, Room] = {}
    root = Path(__file__).resolve().parent.parent

    def read(name: str) -> None:
        if name in rooms:
            return
        text = (texts or {}).get(name)
        if text is None:
            text = (root / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
        room = Room(name, Source(text))
        for node in room.source.nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                _bind(room, node, root, texts or {})
        for other in dict.fromkeys([*room.aliases.values(), *(owner for owner, _ in room.borrowed.values())]):
            read(other)
        rooms[name] = room

    read(last)
    return list(rooms.values())


def merge(rooms: list[Room], patches: dict[str, list[tuple[str, str]]]) -> tuple[str, dict[str, str]]:
    """One text of all rooms, and the import line of every outside name.

    `patches` maps a room to (old, new) texts, each of which must be found exactly once. Raises UserError otherwise, and
    for names that collide and cannot be told apart.
    """
    rooms = [dataclasses.replace(room, source=Source(_patched(room, patches.get(room.name, [])))) for room in rooms]
    imports: dict[str, str] = {}
    for room in rooms:
        for name, line in room.outside.items():
            imports[name] = _joined(room, name, line, imports.get(name, line))
    merged = _merged_names(rooms, imports)
    parts = [_rewritten(room, merged) for room in rooms]
    return "\n\n".join(parts), imports


def _joined(room: Room, name: str, line: str, earlier: str) -> str:
    """The import lines that bind a name in two rooms: `import a` and `import a.b` go together, others must agree."""
    lines = sorted({*line.split("\n"), *earlier.split("\n")})
    if len(lines) > 1 and not all(text.startswith("import ") and " as " not in text for text in lines):
        raise UserError(f"{room.name} imports {name} as `{line}`, an earlier room as `{earlier}`; use one of them")
    return "\n".join(lines)


def _patched(room: Room, patches: list[tuple[str, str]]) -> str:
    text = room.source.text
    for old, new in patches:
        if text.count(old) != 1:
            raise UserError(
                f"the export replaces this in {room.name}, which holds it {text.count(old)} times: {old.strip()!r}; "
                "bring pgolf_core/lab/export_parts.py up to date with the core"
            )
        text = text.replace(old, new)
    return text


def _bind(room: Room, node: ast.Import | ast.ImportFrom, root: Path, texts: dict[str, str]) -> None:
    module = getattr(node, "module", None) or ""
    names = [module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    own = any(name.split(".")[0] == PACKAGE for name in names)
    inside = room.source.parents[id(node)] is not room.source.tree
    if getattr(node, "level", 0) or (own and (inside or isinstance(node, ast.Import))):
        place = f"{room.name}, line {node.lineno}"
        raise UserError(f"{place}: `{ast.unparse(node)}` cannot be merged; import by full name on top")
    for alias in node.names:
        name = bound_name(alias)
        if inside or module == "__future__":
            continue  # stays where it is, or stands on top of every script
        if not own:
            asname = f" as {alias.asname}" if alias.asname else ""
            start = f"from {module} import " if isinstance(node, ast.ImportFrom) else "import "
            line = f"{start}{alias.name}{asname}"
            if isinstance(node, ast.Import) and not alias.asname and room.outside.get(name):
                line = "\n".join(sorted({*room.outside[name].split("\n"), line}))  # import a, import a.b
            room.outside[name] = line
            continue
        owner = module.removeprefix(PACKAGE).removeprefix(".")
        inner = f"{owner}.{alias.name}" if owner else alias.name
        if inner in texts or (root / f"{inner.replace('.', '/')}.py").is_file():
            room.aliases[name] = inner
        else:
            room.borrowed[name] = (owner, alias.name)


def _uses(room: Room) -> list[tuple[ast.expr, ast.Name, tuple[str, str]]]:
    """Every expression that means a room's top-level name: (what to replace, its Name, (room, name))."""
    found: list[tuple[ast.expr, ast.Name, tuple[str, str]]] = []
    own = room.own
    for node in room.source.nodes:
        if not isinstance(node, ast.Name) or not room.source.is_global(node):
            continue
        if node.id in room.aliases:
            parent = room.source.parents[id(node)]
            if not isinstance(parent, ast.Attribute):
                place = f"{room.name}, line {node.lineno}"
                raise UserError(f"{place}: the room '{node.id}' is used as a value; name what you need")
            found.append((parent, node, (room.aliases[node.id], parent.attr)))
        elif node.id in room.borrowed:
            found.append((node, node, room.borrowed[node.id]))
        elif node.id in own:
            found.append((node, node, (room.name, node.id)))
    return found


def _merged_names(rooms: list[Room], imports: dict[str, str]) -> dict[tuple[str, str], str]:
    """A name for every room's top-level definition: its own, or with the room in front where another one is in its way.

    In the way are the same name of another room or import, and a local name wherever the definition is used from afar.
    """
    shadowed: set[tuple[str, str]] = set()
    every_name = {n.id for room in rooms for n in room.source.nodes if isinstance(n, ast.Name)} | {*imports}
    for room in rooms:
        for _, name, target in _uses(room):
            local = room.source.scope_of(name).find(target[1])
            if target[0] != room.name and local not in (None, room.source.module):
                shadowed.add(target)
    merged: dict[tuple[str, str], str] = {}
    taken = set(imports)
    for room in rooms:
        for name in sorted(room.own):
            new = name
            if name in taken or (room.name, name) in shadowed:
                bare = name.lstrip("_")
                new = "_" * (len(name) - len(bare)) + f"{room.name.split('.')[-1]}_{bare}"
                if new in taken or new in every_name:
                    raise UserError(f"{room.name}.{name} collides with another, and {new} is taken too; rename one")
            taken.add(new)
            merged[room.name, name] = new
    return merged


def _rewritten(room: Room, merged: dict[tuple[str, str], str]) -> str:
    """A room's text under its heading, without imports, every name as merged."""
    source, edits = room.source, Edits(room.source)
    heading = ""
    for index, statement in enumerate(source.tree.body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            edits.replace(source.line_span(statement), "")
        elif index == 0 and is_text(statement):
            heading = statement.value.value  # type: ignore[attr-defined]
            edits.replace(source.line_span(statement), "")
    for expression, _, target in _uses(room):
        if target not in merged:
            raise UserError(f"{room.name}, line {expression.lineno}: {'.'.join(target)} does not exist")
        if source.slice(expression) == merged[target]:
            continue
        if source.in_f_string(expression):
            raise UserError(f"{room.name}, line {expression.lineno}: {target[1]} would be renamed inside an f-string")
        edits.replace(source.span(expression), merged[target])
    for statement in source.tree.body:
        if isinstance(statement, Function | ast.ClassDef) and merged[room.name, statement.name] != statement.name:
            word = "class " if isinstance(statement, ast.ClassDef) else "def "
            start = source.text.index(word, source.at(statement.lineno, statement.col_offset)) + len(word)
            edits.replace((start, start + len(statement.name)), merged[room.name, statement.name])
    for node in source.nodes:
        if isinstance(node, ast.Global) and any(merged[room.name, name] != name for name in node.names):
            raise UserError(f"{room.name}, line {node.lineno}: a global statement names what must be renamed")
    return f"{ROOM_MARK + room.name + ': ' + heading!r}\n\n\n" + edits.apply().strip("\n") + "\n"
