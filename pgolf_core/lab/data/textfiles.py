"""Documents out of files of one's own: text files (a file is a document, or cut), JSON lines or arrays, Parquet rows.

Files are read piece by piece and never changed: what stands in them is the text, byte for byte. What cannot be used is
counted by kind, so that one reading tells every fault.
"""

import bz2
import functools
import gzip
import io
import itertools
import json
import lzma
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from pgolf_core.base.files import UserError, told_by
from pgolf_core.lab.shared.tables import so_many

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PARQUET_ROWS = 256
"""Rows in memory at a time."""
FIRST_LINES = 10
"""Of a text that are looked at: are they JSON?"""
KEY_TWICE = "an object has a key twice"
"""Which of its values is the text, nothing says."""
FEWEST_PIECES = 20
"""Of one text that is cut by itself: from here on both splits get some."""
CUTS = ("blank-lines", "lines", "none")
OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: io.BufferedReader(_Zstandard(path)),
}


class _Zstandard(io.RawIOBase):
    """The content of a .zst file, all its frames; EOFError where the last is cut: zstandard.open just ends there."""

    def __init__(self, path: Path):
        self._parts, self._held = self._unpacked(path), b""

    def _unpacked(self, path: Path) -> Iterator[bytes]:
        frame, rest = None, b""
        with open(path, "rb") as file:
            while packed := rest or file.read(2**16):
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(packed)
                frame, rest = (None, frame.unused_data) if frame.eof else (frame, b"")
        if frame:
            raise EOFError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held and (part := next(self._parts, None)) is not None:
            self._held = part
        size = min(len(buffer), len(self._held))
        buffer[:size], self._held = self._held[:size], self._held[size:]
        return size


@dataclass(frozen=True)
class InputFile:
    """One file to read."""

    path: Path
    label: str
    """Its place below what the user named, with forward slashes: no path of the machine."""
    split: str = ""
    """train or val where the user says so."""

    @property
    def kind(self) -> str:
        """Its ending, without that of a compression."""
        return endings(self.path)[0]


class Faults:
    """What cannot be used: how many documents of each kind, and the first places."""

    def __init__(self) -> None:
        self.places: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()
        self.fields = ""
        """Those that hold texts, where the one that was asked for has none."""

    def add(self, kind: str, place: str) -> None:
        """Count one more."""
        self.counts[kind] += 1
        if self.counts[kind] <= 3:
            self.places.setdefault(kind, []).append(place)

    def __str__(self) -> str:
        parts = []
        for kind, number in sorted(self.counts.items()):
            more = ", …" if number > 3 else ""
            parts.append(f"{number:,} {kind} ({', '.join(self.places[kind])}{more})")
        fields = f" (fields there: {self.fields}; --field names one)" if self.fields else ""
        return "; ".join(parts) + fields


def endings(path: Path) -> tuple[str, str]:
    """Of a file's name in small letters: its kind, and its compression's ending or nothing."""
    stem, ending = os.path.splitext(path.name.lower())
    kind = os.path.splitext(stem)[1]
    return (kind, ending) if ending in OPENERS and kind != ".parquet" else (ending, "")


def find_files(paths: Sequence[Path | str], left_out: Counter[str] | None = None, split: str = "") -> list[InputFile]:
    """The files that `paths` name; folders are walked in sorted order, `left_out` counts by ending what is not read.

    Raises UserError for a path that is missing, of another kind, without such files, or given twice.
    """
    found: list[InputFile] = []
    known = f"{', '.join(READERS)} files, also with {', '.join(OPENERS)} after it"
    for given in map(Path, paths):
        path = Path(os.path.abspath(given.expanduser()))
        if path.is_file():
            if endings(path)[0] not in READERS:
                raise UserError(f"{given}: only {known}, and folders of them can be read")
            found.append(InputFile(path, in_utf8(path.name), split))
        elif path.is_dir():
            before, skipped = len(found), Counter[str]()
            for file in sorted([path, *path.rglob("*")], key=lambda file: file.relative_to(path).as_posix()):
                place = file.relative_to(path)
                if file.is_symlink() and file.is_dir() and file != path:
                    skipped["link to a folder"] += 1
                elif file.is_dir():
                    skipped["folder that may not be read"] += not os.access(file, os.R_OK | os.X_OK)
                elif any(part[0] == "." for part in place.parts):
                    skipped["hidden"] += 1
                elif not file.exists():
                    skipped["link to nothing"] += 1
                elif not file.is_file() or endings(file)[0] not in READERS:
                    skipped[in_utf8("".join(endings(file))) or "without ending"] += 1
                else:
                    found.append(InputFile(file, in_utf8(f"{path.name}/{place.as_posix()}"), split))
            if len(found) == before:
                raise UserError(f"folder {given} holds no {known} (there: {counted(skipped) or 'nothing'})")
            if left_out is not None:
                left_out.update(+skipped)
        else:
            fault = "is neither a file nor a folder (a pipe?)" if path.exists() else "does not exist"
            raise UserError(f"{given} {fault}; name files or folders to read")
    seen: set[Path | str] = set()
    for one in found:
        for key, fault in ((one.path.resolve(), "is given twice"), (one.label, "has the name of another input")):
            if key in seen:
                raise UserError(f"{one.path} {fault}; name it once, or rename it")
            seen.add(key)
    return found


def in_utf8(path: str) -> str:
    """The path as text: bytes of it that are not UTF-8, as in names from old archives, are spelled out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def counted(numbers: Counter[str]) -> str:
    """As `2 .csv, 1 hidden`."""
    return ", ".join(f"{number:,} {what}" for what, number in sorted(numbers.items()) if number)


def read_documents(
    files: Sequence[InputFile], faults: Faults, field: str = "text", cut: str = ""
) -> Iterator[tuple[InputFile, str, str]]:
    """(file, name, text) of every document in order. `field` is the key in JSON and the column in .parquet; `cut` is
    one of CUTS, for text files.

    A name is the file's label, with the line, row or piece (from 1) after a colon. What holds no text is counted in
    `faults`; a file that cannot be read at all is a UserError.
    """
    for file in files:
        is_empty = True
        try:
            if (instead := told_by(file.path)) and ("LFS" in instead or file.kind not in TEXTS):
                raise UserError(f"{file.path} {instead}")
            for place, value in READERS[file.kind](file, field, cut, faults):
                is_empty, name = False, f"{file.label}{place}"
                fault = value.kind if isinstance(value, Fault) else "" if value else "without text"
                if not fault and re.search("[\ud800-\udfff]", value):
                    fault = "with a lone surrogate"
                if fault:
                    faults.add(fault, name)
                else:
                    yield file, name, value
        except EOFError:
            raise UserError(f"{file.path} is cut short: its compressed end is missing; get it again") from None
        except (OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            raise UserError(f"cannot read {file.path}: {getattr(error, 'strerror', '') or error}") from None
        if is_empty:
            faults.add("without documents", file.label)


@dataclass(frozen=True)
class Fault:
    """What stands in place of a text."""

    kind: str


Read = Iterator[tuple[str, Any]]
"""The place inside the file, and the text or the Fault, of each document."""


def _opened(file: InputFile) -> IO[bytes]:
    """The file's bytes, unpacked, a byte order mark of JSON still there."""
    return OPENERS.get(endings(file.path)[1], functools.partial(open, mode="rb"))(file.path)


def _decoded(payload: bytes) -> str | Fault:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        return Fault("not in UTF-8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(KEY_TWICE)
    return found


_json = functools.partial(json.loads, object_pairs_hook=_object)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _holds_json_lines(file: InputFile) -> bool:
    """Whether a text begins with two lines that are JSON objects, or has only such after a first line, as a title."""
    with _opened(file) as source:
        are_objects = list(map(_is_object, itertools.islice(filter(bytes.strip, source), FIRST_LINES)))
    return are_objects[:2] == [True, True] or (len(are_objects) > 2 and all(are_objects[1:]))


def _read_text(file: InputFile, field: str, cut: str, faults: Faults) -> Read:
    if _holds_json_lines(file):
        yield "", Fault("of JSON lines, no text (name it .jsonl)")
        return
    with _opened(file) as source:
        is_cut = cut not in ("", "none")
        for number, piece in enumerate(pieces(source, cut) if is_cut else [source.read()], 1):
            text = _decoded(piece)
            has_nul = isinstance(text, str) and "\0" in text
            yield f":{number}" * is_cut, Fault("with NUL bytes, so no text (an archive?)") if has_nul else text


def pieces(source: IO[bytes], cut: str) -> Iterator[bytes]:
    """The bytes of a text in pieces that end with a line, or with the blank lines after a paragraph; none are lost."""
    held: list[bytes] = []
    has_text = was_blank = False
    for line in iter(source.readline, b""):
        blank = not line.strip()
        if has_text and not blank and (was_blank or cut == "lines"):
            yield b"".join(held)
            held, has_text = [], False
        held.append(line)
        has_text, was_blank = has_text or not blank, blank
    if held:
        yield b"".join(held)


def cut_of(file: InputFile) -> tuple[str, int]:
    """How one text alone is cut into documents, at blank lines or at lines, and into how many at least.

    UserError with a way to cut it where both give too few.
    """
    found = {}
    for cut in CUTS[:2]:
        with _opened(file) as source:
            found[cut] = sum(1 for _ in pieces(source, cut))
        if found[cut] >= FEWEST_PIECES:
            return cut, found[cut]
    with _opened(file) as source:
        payload = source.read()
    how = f"fold -s -w {len(payload) // 50}"
    if max(map(len, payload.split()), default=0) > len(payload) // 50:  # fold would cut it inside of characters
        characters = len(payload.decode("utf-8", "replace"))
        how = f"LC_ALL=C.UTF-8 sed -E 's/.{{{min(characters // 50, 1000)}}}/&\\n/g'"
    fold = f", or cut it: `{how} FILE > lines.txt`" if len(payload) >= 1000 else ""
    raise UserError(
        f"{file.path} is one text of {so_many(found['blank-lines'], 'paragraph')} and {so_many(found['lines'], 'line')}"
        f", too few for two splits: give more files,{' or' * (not fold)} --train and --val{fold}"
    )


def _value(value: Any, field: str, faults: Faults) -> str | Fault:
    """The text of one JSON value: itself, or what its field holds."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return Fault("not a JSON object or text")
    found: Any = value
    for key in [field] if field in value else field.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, str):
        return found
    if field in value and value[field] is None:
        return Fault("without text")
    faults.fields = faults.fields or ", ".join(_texts_in(value)[:8])
    return Fault(f"with no text in '{field}'" if field in value else f"without a field '{field}'")


def _texts_in(value: dict[str, Any], prefix: str = "") -> list[str]:
    """The fields that hold texts, inner ones as `outer.inner`."""
    names = []
    for key, one in value.items():
        names += [prefix + key] if isinstance(one, str) else []
        names += _texts_in(one, f"{prefix}{key}.") if isinstance(one, dict) and prefix.count(".") < 3 else []
    return names


def _read_lines(file: InputFile, field: str, cut: str, faults: Faults) -> Read:
    with _opened(file) as source:
        for number, line in enumerate(iter(source.readline, b""), 1):
            text = _decoded(line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line)
            if isinstance(text, str) and not text.strip():
                continue
            try:
                yield f":{number}", _value(_json(text), field, faults) if isinstance(text, str) else text
            except (ValueError, RecursionError) as error:
                yield f":{number}", Fault("with a key twice" if KEY_TWICE in str(error) else "that are not JSON")


def _read_json(file: InputFile, field: str, cut: str, faults: Faults) -> Read:
    """An array of texts or objects, an object that holds one such array, one object, columns, or lines after all."""
    with _opened(file) as source:
        payload = source.read().removeprefix(BYTE_ORDER_MARK)
    try:
        values = _json(payload)
    except (ValueError, RecursionError) as error:
        if "Extra data" not in str(error):
            raise UserError(f"{file.path} is not JSON ({error}); mend it, or name lines of JSON .jsonl") from None
        yield from _read_lines(file, field, cut, faults)
        return
    if isinstance(values, dict):
        arrays = [value for value in values.values() if isinstance(value, list)]
        if isinstance(values.get(field), list):
            values = values[field]
        elif field not in values:
            values = arrays[0] if len(arrays) == 1 else values
        elif any(isinstance(one, dict) and field in one for array in arrays for one in array):
            raise UserError(f"{file.path} has a '{field}' and an array of them too; keep one of the two")
    for number, value in enumerate(values if isinstance(values, list) else [values], 1):
        yield f":{number}", _value(value, field, faults)


def _read_parquet(file: InputFile, field: str, cut: str, faults: Faults) -> Read:
    try:
        import pyarrow.parquet
    except ImportError:
        remedy = f"`{sys.executable} -m pip install pyarrow`"
        raise UserError(f"{file.path}: reading .parquet needs pyarrow; run {remedy}") from None
    number = 0
    try:  # read page by page: by default a whole group of rows would be fetched ahead
        with pyarrow.parquet.ParquetFile(file.path, pre_buffer=False, buffer_size=2**16) as table:
            if field not in table.schema_arrow.names:
                known = ", ".join(table.schema_arrow.names[:8]) or "none"
                raise UserError(f"{file.path} has no column '{field}' (its columns: {known}); name one with --field")
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=[field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield f":{number}", _value({field: text}, field, faults)
    except UnicodeDecodeError:
        raise UserError(f"{file.path}: text after row {number} is not UTF-8; convert it") from None
    except (ValueError, OSError) as error:  # what pyarrow raises for a foreign, cut or damaged file
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(f"{file.path} cannot be read as Parquet: {reason}") from None


TEXTS = (".txt", ".md", ".text")
READERS: dict[str, Callable[[InputFile, str, str, Faults], Read]] = {
    **dict.fromkeys(TEXTS, _read_text),
    **dict.fromkeys((".jsonl", ".ndjson"), _read_lines),
    ".json": _read_json,
    ".parquet": _read_parquet,
}
