"""Files whole or absent, and errors in a line."""

import hashlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from refused import refused

from pgolf_core.base import files
from pgolf_core.base.files import canonical_json, explain_os_errors, read_json, write_bytes, write_json

FULL_DISK = """
import resource, signal, sys
from pgolf_core.base.files import UserError, write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_bytes(sys.argv[1], bytes(100_000))
except UserError as error:
    print(error)
"""


def test_a_file_is_written_into_a_new_folder_readable_by_all_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for payload in (b"old" * 100, b"new"):
        write_bytes(path, payload)
        assert path.read_bytes() == payload and os.listdir(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert files.sha256_file(path) == files.sha256_bytes(b"new") == hashlib.sha256(b"new").hexdigest()


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path: Path) -> None:
    """A real limit on the size of files, in a process of its own: the write fails, the old file stays whole."""
    path = tmp_path / "weights"
    write_bytes(path, b"old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"cannot write {path}: File too large; free space or choose a writable.*\n", done.stdout)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["weights"]


def test_json_is_read_as_written_and_numbers_that_no_reader_takes_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None, "é"], "a": 0.5})
    assert read_json(tmp_path / "a.json") == {"b": [1, None, "é"], "a": 0.5}
    assert canonical_json({"b": 1, "a": [True]}) == '{"a":[true],"b":1}'
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError):
            canonical_json({"a": value})
        with pytest.raises(ValueError):
            write_json(tmp_path / "b.json", {"a": value})
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("payload", [None, b"", b"{", b"\xff", b"[" * 200_000, b'["\\ud800"]'])
def test_json_that_is_missing_or_broken_is_one_line_that_names_it(tmp_path: Path, payload: bytes | None) -> None:
    path = tmp_path / "a.json"
    if payload is not None:
        path.write_bytes(payload)
    with refused(r"a\.json (does not exist|is not valid JSON)"):
        read_json(path)
    with refused("cannot read"):
        read_json(tmp_path)


def test_an_error_of_the_system_names_what_where_and_the_remedy() -> None:
    words = r"^cannot clear a: No such .* \(/none/b\); free space or choose a writable"
    with refused(words), explain_os_errors("cannot clear a"):
        os.stat("/none/b")
