"""Untrusted files, read within bounds.

Nothing here executes, unpickles or unpacks. A path is followed only inside the reviewed folder, and a file is read only
after its size has been found small enough.
"""

import io
import json
import os
import stat
import tokenize
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, sha256_bytes
from pgolf_core.base.names import SEED_RESULT
from pgolf_core.lab.shared.places import RECIPE_FILE, SUBMISSION_FILE
from pgolf_core.lab.shared.settings import is_number
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck, Found, hold

MAX_TEXT_BYTES = 16 * 2**20
"""A log holds its whole script and some thousand lines; the published ones have well below a megabyte."""
MAX_JSON_BYTES = 4 * 2**20
MAX_ARRAYS_BYTES = 2**28
"""Of scores.npz and adapt.npz: a million windows have 8 MB."""
MAX_FILES = 10_000
"""Files and folders of one reviewed folder that are looked at; one with more is not judged."""
MAX_DEPTH = 8
OWN_KEYS = {RECIPE_FILE: {"schedule", "optim", "eval"}, SEED_RESULT: {"recipe_sha256", "stopped_by"}}
"""Some keys of the files by which a seed's folder is known."""


def list_files(folder: Path) -> dict[str, Path]:
    """{path within the folder: file} of every regular file, in order; links are left out and not followed.

    Broken for a folder of more than MAX_FILES entries. Deeper than MAX_DEPTH nothing is looked at.
    """
    found: dict[str, Path] = {}
    seen = 0
    for place, names, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        if len(inside.parts) >= MAX_DEPTH:
            names.clear()
        names.sort()
        seen += len(names) + len(files)
        hold(seen <= MAX_FILES, f"more than {MAX_FILES:,} files and folders; nothing that is reviewed needs so many")
        paths = {(inside / name).as_posix(): Path(place, name) for name in files}
        found |= {name: path for name, path in paths.items() if stat.S_ISREG(path.lstat().st_mode)}
    return dict(sorted(found.items()))


def read_bytes(path: Path, limit: int) -> bytes:
    """A regular file's content; CannotCheck where there is none, Broken where it is larger than `limit` bytes."""
    try:
        is_plain = stat.S_ISREG(os.lstat(path).st_mode)  # a link leads elsewhere, a pipe could be read for ever
        hold(is_plain, f"{path.name} is no plain file")
        with open(path, "rb") as file:
            payload = file.read(limit + 1)
    except FileNotFoundError:
        raise CannotCheck(f"there is no {path.name}") from None
    except OSError as error:
        raise Broken(f"cannot read {path.name}: {error.strerror}") from None
    hold(len(payload) <= limit, f"{path.name} is larger than the {limit:,} bytes that are read")
    return payload


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """A file as text, its invalid bytes replaced: what is looked for in it is plain ASCII."""
    return _decoded(read_bytes(path, limit), "replace")


def read_code(path: Path, limit: int) -> str:
    """A file of Python as text, by the encoding that it declares: a packed one may hold raw bytes in Latin 1."""
    payload = read_bytes(path, limit)
    try:
        return payload.decode(tokenize.detect_encoding(io.BytesIO(payload).readline)[0], "replace")
    except (SyntaxError, LookupError, ValueError):
        return _decoded(payload, "replace")


def _decoded(payload: bytes, errors: str) -> str:
    """UTF-8, or what a byte order mark names."""
    return payload.decode("utf-16" if payload.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig", errors)


def hold_hash(path: Path, said: Any) -> None:
    """Broken unless a file of at most MAX_ARRAYS_BYTES has the SHA-256 that is claimed."""
    found = sha256_bytes(read_bytes(path, MAX_ARRAYS_BYTES))
    hold(found == said, f"{path.name} has the hash {found:.12}…, {said!s:.12}… is claimed")


def strictly(path: Path, read: Callable[[Path], Found]) -> Found:
    """What a reader that refuses damage makes of a small file; Broken where the file is missing."""
    try:
        read_bytes(path, MAX_JSON_BYTES)
    except CannotCheck as missing:
        raise Broken(str(missing)) from None
    return read(path)


def json_object(path: Path) -> dict[str, Any]:
    """A JSON object; Broken for whatever else the file holds and where it is missing."""
    try:
        values = strictly(path, lambda path: _parsed(_decoded(path.read_bytes(), "strict"), path.name))
    except (ValueError, RecursionError) as error:
        raise Broken(f"{path.name} is not valid JSON ({error})") from None
    hold(isinstance(values, dict), f"{path.name} is not a JSON object")
    return values


def _parsed(text: str, place: str) -> Any:
    """What a JSON text holds; Broken for a key with two values, of which other readers might take the first."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        for key, value in pairs:
            is_same = value is values[key] or repr(value) == repr(values[key])
            hold(is_same, f"{place} has {key!r:.40} twice, with two values")
        return values

    return json.loads(text, object_pairs_hook=once)


def is_own_run(folder: Path) -> bool:
    """Whether a folder is of a seed that this project ran, by its recipe.json or result.json, whole or damaged.

    A submission's folder is none, and what others keep under these names has other keys.
    """
    if (folder / SUBMISSION_FILE).exists():
        return False
    for path, keys in ((folder / name, keys) for name, keys in OWN_KEYS.items()):
        try:
            if os.path.lexists(path) and keys <= set(json_object(path)):
                return True
        except (Broken, UserError):  # damaged: another row says so
            return True
    return False


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; Broken at the first line that is none."""
    found = []
    for count, line in enumerate(read_text(path).splitlines(), 1):
        try:
            values = _parsed(line, f"{path.name}, line {count},")
        except (ValueError, RecursionError):
            values = None
        hold(isinstance(values, dict), f"{path.name}, line {count}, is no JSON object")
        found.append(values)
    return found


def number(values: Mapping[str, Any], key: str) -> float:
    """A finite number by its key; Broken where it is missing or none."""
    value: Any = values.get(key)
    hold(is_number(value), f"no number '{key}' ({str(value)[:40]!r})")
    return value
