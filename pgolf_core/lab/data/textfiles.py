"""Documents out of files of one's own: .txt (a file is a document), .jsonl (a line is one), .parquet (a row is one).

Files are read piece by piece and never changed: what stands in them is the text, byte for byte.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgolf_core.base.files import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PARQUET_ROWS = 256
"""Rows in memory at a time."""


@dataclass(frozen=True)
class InputFile:
    """One file to read."""

    path: Path
    label: str
    """Its place below what the user named, with forward slashes: no path of the machine."""


def find_files(paths: Sequence[Path | str]) -> list[InputFile]:
    """The files that `paths` name; folders are walked in sorted order, hidden entries and other kinds left out.

    Raises UserError for a path that is missing, of another kind, without such files, or given twice.
    """
    found: list[InputFile] = []
    for given in map(Path, paths):
        path = Path(os.path.abspath(given.expanduser()))
        if path.is_file():
            if path.suffix.lower() not in READERS:
                raise UserError(f"{given}: only {', '.join(READERS)} files and folders of them can be read")
            found.append(InputFile(path, path.name))
        elif path.is_dir():
            below = {file.relative_to(path): file for file in path.rglob("*") if file.suffix.lower() in READERS}
            inside = {place.as_posix(): file for place, file in below.items() if file.is_file()}
            inside = {name: inside[name] for name in sorted(inside) if not re.search(r"(^|/)\.", name)}
            if not inside:
                raise UserError(f"folder {given} holds no {', '.join(READERS)} file")
            found += [InputFile(file, f"{path.name}/{name}") for name, file in inside.items()]
        else:
            raise UserError(f"{given} does not exist; name files or folders to read")
    seen: set[Path | str] = set()
    for file in found:
        for key, fault in ((file.path.resolve(), "is given twice"), (file.label, "has the name of another input")):
            if key in seen:
                raise UserError(f"{file.path} {fault}; name it once, or rename it")
            seen.add(key)
    if not found:
        raise UserError("no files to read: name at least one file or folder")
    return found


def read_documents(files: Sequence[InputFile], field: str = "text") -> Iterator[tuple[str, str]]:
    """(name, text) of every document in order. `field` is the key in .jsonl and the column in .parquet.

    A name is the file's label, with the line or row (from 1) after a colon. Raises UserError naming file and line for
    text that is not UTF-8, a missing field, an empty document, or a file without documents.
    """
    for file in files:
        is_empty = True
        try:
            for place, text in READERS[file.path.suffix.lower()](file.path, field):
                is_empty = False
                name = f"{file.label}{place}"
                if not text:
                    raise UserError(f"{name} holds no text; take it out")
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError as error:
                    fault = f"is no valid text: lone surrogate at character {error.start}"
                    raise UserError(f"{name} {fault}; repair it") from None
                yield name, text
        except OSError as error:
            raise UserError(f"cannot read {file.path}: {error.strerror or error}") from None
        if is_empty:
            raise UserError(f"{file.path} holds no documents; take it out")


def _read_txt(path: Path, field: str) -> Iterator[tuple[str, str]]:
    try:
        yield "", path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}; convert it to UTF-8") from None


def _read_jsonl(path: Path, field: str) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: line {number} is not UTF-8 at its byte {error.start}; convert it") from None
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}: line {number} is not JSON ({error}); one object a line is needed") from None
            if not isinstance(value, dict):
                raise UserError(f"{path}: line {number} is no JSON object; one object a line is needed")
            if not isinstance(value.get(field), str):
                fault = f"no text in '{field}'" if field in value else f"no field '{field}'"
                known = ", ".join(list(value)[:8]) or "none"
                raise UserError(f"{path}: line {number} has {fault} (its fields: {known}); name one with --field")
            yield f":{number}", value[field]


def _read_parquet(path: Path, field: str) -> Iterator[tuple[str, str]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: reading .parquet needs pyarrow; run `pip install 'pgolf[parquet]'`") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            if field not in table.schema_arrow.names:
                known = ", ".join(table.schema_arrow.names[:8]) or "none"
                raise UserError(f"{path} has no column '{field}' (its columns: {known}); name one with --field")
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=[field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if not isinstance(text, str):
                        raise UserError(f"{path}: row {number} of column '{field}' is no text; name another --field")
                    yield f":{number}", text
    except UnicodeDecodeError:
        raise UserError(f"{path}: text after row {number} is not UTF-8; convert it") from None
    except (ValueError, OSError) as error:  # what pyarrow raises for a foreign, cut or damaged file
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(f"{path} cannot be read as Parquet: {reason}") from None


READERS: dict[str, Callable[[Path, str], Iterator[tuple[str, str]]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
"""By file ending: (path, field) -> (place inside the file, text) of each document."""
