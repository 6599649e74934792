"""What every check of `pgolf verify` is made of: a verdict with its evidence, and bounded reading of untrusted files.

Nothing here executes, unpickles or unpacks. A path is followed only inside the reviewed folder, and a file is read only
after its size has been found small enough.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError

HOLDS, FAILS, UNKNOWN, SAMPLED = "holds", "fails", "cannot be checked here", "sampled"
VERDICTS = (HOLDS, FAILS, UNKNOWN, SAMPLED)
"""`sampled` stands where a part was scored, chosen at random, and the claim lies within its 95 % interval."""
MAX_TEXT_BYTES = 16 * 2**20
"""A log holds its whole script and some thousand lines; the published ones have well below a megabyte."""
MAX_JSON_BYTES = 4 * 2**20
MAX_FILES = 10_000
"""Files and folders of one reviewed folder that are looked at; one with more is not judged."""
MAX_DEPTH = 8
MAX_EVIDENCE = 600
Row = tuple[str, str, str]


class Broken(Exception):
    """The claim is false, with the evidence."""


class CannotCheck(Exception):
    """Something that is needed is not here."""


class OnlySampled(Exception):
    """Found within the interval of a random sample, with the evidence."""


def judge(name: str, test: Callable[[], str]) -> Row:
    """Run one check: it returns its evidence, or raises."""
    try:
        verdict, evidence = HOLDS, test()
    except CannotCheck as reason:
        verdict, evidence = UNKNOWN, f"because {reason}"
    except OnlySampled as found:
        verdict, evidence = SAMPLED, str(found)
    except (Broken, UserError) as reason:
        verdict, evidence = FAILS, str(reason)
    except Exception as error:  # damaged files break things in ways nobody lists; each is a finding, not a crash
        verdict, evidence = FAILS, f"{type(error).__name__}: {error}"
    return plain(name), verdict, plain(evidence)


def plain(text: str) -> str:
    """One line of printable characters, shortened: what a hostile file says must not steer a terminal."""
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= MAX_EVIDENCE else line[: MAX_EVIDENCE - 1] + "…"


def hold(is_held: bool, evidence: str) -> str:
    """The evidence, if the claim is held; else Broken with it."""
    if not is_held:
        raise Broken(evidence)
    return evidence


def needed(what: str, read: Callable[[], Any]) -> Any:
    """What another check already judges: without it, this one cannot be made."""
    try:
        return read()
    except CannotCheck:
        raise
    except Exception:
        raise CannotCheck(f"it needs {what}") from None


def number(values: dict[str, Any], key: str) -> float:
    """A finite number by its key; Broken where it is missing or none."""
    value = values.get(key)
    if not is_number(value):
        raise Broken(f"no number '{key}' ({str(value)[:40]!r})")
    return value


def is_number(value: Any) -> bool:
    """Whether this is a finite number that a float can hold; a bool is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


# ---------------------------------------------------------------------- bounded reading


def list_files(folder: Path) -> dict[str, Path]:
    """{path within the folder: file} of every regular file, in order; links are left out and not followed.

    Broken for a folder of more than MAX_FILES entries. Deeper than MAX_DEPTH nothing is looked at.
    """
    found, seen = {}, 0
    for place, names, files in os.walk(folder, followlinks=False, onerror=None):
        inside = Path(place).relative_to(folder)
        if len(inside.parts) >= MAX_DEPTH:
            names.clear()
        names.sort()
        seen += len(names) + len(files)
        if seen > MAX_FILES:
            raise Broken(f"more than {MAX_FILES:,} files and folders; nothing that is reviewed needs so many")
        for name in files:
            path = Path(place, name)
            if stat.S_ISREG(path.lstat().st_mode):
                found[(inside / name).as_posix()] = path
    return dict(sorted(found.items()))


def read_bytes(path: Path, limit: int) -> bytes:
    """A regular file's content; CannotCheck where there is none, Broken where it is larger than `limit` bytes."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # a link leads elsewhere, a pipe could be read for ever
            raise Broken(f"{path.name} is no plain file")
        with open(path, "rb") as file:
            payload = file.read(limit + 1)
    except FileNotFoundError:
        raise CannotCheck(f"there is no {path.name}") from None
    except OSError as error:
        raise Broken(f"cannot read {path.name}: {error.strerror}") from None
    if len(payload) > limit:
        raise Broken(f"{path.name} is larger than the {limit:,} bytes that are read")
    return payload


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """A file as text, its invalid bytes replaced: what is looked for in it is plain ASCII."""
    return read_bytes(path, limit).decode("utf-8", errors="replace")


def json_object(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object; Broken for whatever else the file holds. A missing file is Broken too."""
    try:
        values = json.loads(read_bytes(path, limit).decode("utf-8"))
    except CannotCheck as missing:
        raise Broken(str(missing)) from None
    except (ValueError, RecursionError) as error:
        raise Broken(f"{path.name} is not valid JSON ({str(error)[:100]})") from None
    if not isinstance(values, dict):
        raise Broken(f"{path.name} is not a JSON object")
    return values


def json_lines(path: Path, limit: int = MAX_TEXT_BYTES) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; Broken at the first line that is none."""
    found = []
    for count, line in enumerate(read_text(path, limit).splitlines(), 1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise Broken(f"{path.name}, line {count}, is no JSON object")
        found.append(values)
    return found


def shown_decimals(text: str) -> int:
    """Digits after the point of a number as written: what its last digit leaves open is half a unit there."""
    match = re.fullmatch(r"[-+]?[\d,]*\.(\d+)", text.strip())
    return len(match[1]) if match else 0


def agrees(said: str, value: float) -> bool:
    """Whether a number as written, thousands separated or not, is `value` rounded, or cut, to its own digits."""
    unit, written = 10.0 ** -shown_decimals(said), float(said.replace(",", ""))
    if not (math.isfinite(written) and math.isfinite(value)):
        return False
    slack = 1e-9 * max(unit, abs(value))
    return abs(written - value) <= unit / 2 + slack or -slack <= abs(value) - abs(written) < unit


def quietly(read: Callable[[], Any]) -> Any:
    """What is read, or None where another row says why it cannot be."""
    try:
        return read()
    except Exception:
        return None


class once:
    """A property that is read once and keeps even its exception, so that no check repeats another's failing hour."""

    def __init__(self, read: Callable[[Any], Any]):
        self.read, self.__doc__ = read, read.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        kept = instance.__dict__.setdefault("_once", {})
        if self.name not in kept:
            try:
                kept[self.name] = self.read(instance), None
            except Exception as error:
                kept[self.name] = None, error
        value, error = kept[self.name]
        if error is not None:
            raise error
        return value
