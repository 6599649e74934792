"""Untrusted files: read within bounds, and their numbers as they are written.

Nothing here executes, unpickles or unpacks. A path is followed only inside the reviewed folder, and a file is read only
after its size has been found small enough.
"""

import json
import math
import os
import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from pgolf_core.base.files import UserError
from pgolf_core.base.names import SEED_RESULT
from pgolf_core.lab.shared.places import RECIPE_FILE, SUBMISSION_FILE
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck, Found, hold

MAX_TEXT_BYTES = 16 * 2**20
"""A log holds its whole script and some thousand lines; the published ones have well below a megabyte."""
MAX_JSON_BYTES = 4 * 2**20
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


def _decoded(payload: bytes, errors: str) -> str:
    """UTF-8, or what a byte order mark names."""
    return payload.decode("utf-16" if payload.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig", errors)


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
            hold(repr(value) == repr(values[key]), f"{place} has {key!r:.40} twice, with two values")
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


# ---------------------------------------------------------------------- numbers


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number that a float can hold; a bool is none."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def number(values: Mapping[str, Any], key: str) -> float:
    """A finite number by its key; Broken where it is missing or none."""
    value: Any = values.get(key)
    hold(is_number(value), f"no number '{key}' ({str(value)[:40]!r})")
    return value


def written(value: float) -> str:
    """A number with all its digits, never in powers of ten."""
    return str(value) if isinstance(value, int) else format(value, "f") if abs(value) < 1e-4 else repr(float(value))


def read_number(text: str) -> float:
    """A number as written, thousands separated or not."""
    return float(text.replace(",", ""))


def last_digit(text: str) -> float:
    """What one in the last digit of a number as written is worth: half of it is what the digits leave open."""
    decimals = text.strip().partition(".")[2]
    return 10.0 ** -len(decimals) if decimals.isdecimal() else 1.0


def agrees(said: str, value: float) -> bool:
    """Whether a number as written is `value` rounded, or cut, to its own digits."""
    unit, told = last_digit(said), read_number(said)
    if not (math.isfinite(told) and math.isfinite(value)):
        return False
    slack = 1e-9 * max(unit, abs(value))
    return abs(told - value) <= unit / 2 + slack or -slack <= abs(value) - abs(told) < unit


def same_number(one: str, other: str) -> bool:
    """Whether two written numbers can be one: either is the other rounded to its own digits."""
    return agrees(one, read_number(other)) or agrees(other, read_number(one))


def near(said: str, value: float) -> bool:
    """Whether a mean or a spread as written is `value`, up to one in its last digit: it may be of rounded numbers."""
    off, unit = abs(read_number(said) - value), last_digit(said) * (1 + 1e-9)
    return agrees(said, value) or ("." in said and off <= min(unit, abs(value) / 2))


def is_score(said: str, value: float) -> bool:
    """Whether a score as written is `value`: rounded to its digits, and to three at least."""
    return agrees(said, value) and abs(float(said) - value) < 1e-3
