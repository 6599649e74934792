"""Atomic files, hashes, and the one error type that is meant for the reader's eyes."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class UserError(Exception):
    """A mistake or a missing thing outside the program: one or two lines naming the value, the place, the remedy."""


class Refused(Exception):
    """Why a file is no artifact; turned into a UserError that names the file."""


@contextlib.contextmanager
def explain_os_errors(what: str):
    """Turn an OSError (full disk, read-only folder, missing file) inside the block into a one-line UserError."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise UserError(f"{what}: {error.strerror or error}{place}; free space or choose a writable folder") from error


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[str]:
    """The name of a temporary file beside `path`, to be written; renamed at the end: the file is whole or absent."""
    path = Path(path)
    with explain_os_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        try:
            yield name
            with open(name, "rb") as file:  # safetensors puts a file of its own there
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def write_bytes(path: Path | str, payload: bytes) -> None:
    """Write `payload` atomically."""
    with replacing(path) as name:
        Path(name).write_bytes(payload)


def write_text(path: Path | str, text: str) -> None:
    """Atomic UTF-8 text file."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Atomic, indented JSON file; NaN and infinities are refused, since no other JSON reader takes them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or broken one is a UserError that names it."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair could be printed and written nowhere
        return value
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the stage that writes it first") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run its stage again") from None


def sha256_bytes(payload: bytes) -> str:
    """Hexadecimal SHA-256 of `payload`."""
    return hashlib.sha256(payload).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def told_by(path: Path) -> str:
    """What a file is, with the remedy, where it came in place of the one that was meant; else empty."""
    with open(path, "rb") as file:
        head = file.read(256)
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: run `git lfs pull` where it came from"
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        return "is a web page, not the file itself: download the raw file (on the hub: /resolve/, not /blob/)"
    return ""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
