"""Where things are: the repository, the package, and what a child process must know of them."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pgolf_core
from pgolf_core.base.files import UserError, explain_os_errors, sha256_bytes, sha256_file

SCRIPT = "train_gpt.py"
"""A recipe's one script, beside its seeds and in a submission."""
RECIPE_FILE = "recipe.json"
SEED_FOLDER = re.compile(r"seed(\d+)")
"""The name of a seed's folder, in its run's."""
ENV_FILE = "env.json"
DATA_FILE = "data.json"
AVERAGING_FILE = "averaging.json"
LEDGER_FILE = "ledger.json"
SUMMARY_FILE = "summary.json"
REPORT = "report.md"
TRAINING = "stages/03_train.json"
SUBMISSION_FILE = "submission.json"
MANIFEST = "manifest.json"
"""Beside the shards of a prepared dataset: it names them."""

CORE_DIR = Path(__file__).resolve().parents[2]


def find_root() -> Path:
    """The repository: the folder with pyproject.toml and notebooks/ above the package, whatever the working folder."""
    for folder in CORE_DIR.parents:
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise UserError(f"no repository with pyproject.toml and notebooks/ above {CORE_DIR}; run pgolf from its git clone")


def short_path(path: Path | str) -> str:
    """`path` relative to the repository if it lies inside, else absolute: what people read and notebooks record."""
    path = Path(os.path.abspath(path))
    root = find_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


@contextlib.contextmanager
def whole_folder(target: Path, replaces: bool = False) -> Iterator[Path]:
    """A hidden folder beside `target`, to be filled; it takes that name and place at the end, whole or not at all.

    UserError where it cannot, as where a folder with files has come to be there and it `replaces` none.
    """
    with explain_os_errors(f"cannot write {short_path(target)}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield made
            made.chmod(0o755)
            if replaces and target.exists():
                shutil.rmtree(target)
            made.rename(target)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def child_environment() -> dict[str, str]:
    """The environment of a process that must import this very package, wherever it starts."""
    paths = filter(None, (str(CORE_DIR.parent), os.environ.get("PYTHONPATH")))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def core_sha256() -> str:
    """SHA-256 over names and bytes of the core's files, in the order of its rooms."""
    parts = (f"{room} {sha256_file(CORE_DIR / (room.replace('.', '/') + '.py'))}\n" for room in pgolf_core.ROOMS)
    return sha256_bytes("".join(parts).encode())
