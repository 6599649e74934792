"""Prepared datasets: where they lie, opening them, reading their documents back, and checking them.

A prepared dataset is a folder `<cache>/datasets/<name>` holding tokenizer.model, shards and manifest.json. It is made
in a hidden folder beside its place and renamed at the end, so it is there whole or not at all; of two processes that
prepare the same dataset at once, the first to finish wins and the other takes what it finds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from pgolf_core.base.files import UserError, explain_os_errors, read_json, sha256_bytes, sha256_file
from pgolf_core.lab.data.survey import SPLITS, count_shared, long_bar, stream_documents
from pgolf_core.text.shards import shard_tokens
from pgolf_core.text.tokenizer import Tokenizer, refuse_normalising

MANIFEST_FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER_FILE = "tokenizer.model"
DOCUMENT_KEYS = {"name", "group", "split", "sha256", "utf8_bytes", "tokens"}
PARTIAL = ".partial-"
"""Prefix of the folders that datasets are made in."""
SOTU_NAME = "sotu-sp1024"


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset; `manifest` is manifest.json as read, and `manifest_sha256` the hash of that file's bytes."""

    name: str
    folder: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    tokenizer_path: Path
    train_paths: list[Path]
    val_paths: list[Path]

    @property
    def vocab_size(self) -> int:
        """Pieces of the tokenizer."""
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def has_published_split(self) -> bool:
        """The split was made elsewhere and is kept as it is, though some text may stand in both halves."""
        return self.manifest.get("published_split", False)

    @property
    def lists_all(self) -> bool:
        """The manifest names every document; a large dataset's names all of validation and the first of training."""
        return "listed_train_documents" not in self.manifest

    def tokenizer(self) -> Tokenizer:
        """The dataset's tokenizer; one that claims to be lossless and is not is a UserError."""
        tokenizer = Tokenizer(self.tokenizer_path)
        if self.manifest["tokenizer"]["lossless"]:
            refuse_normalising(tokenizer)
        if tokenizer.vocab_size != self.vocab_size:
            raise damaged(self.folder, f"its tokenizer has {tokenizer.vocab_size} pieces, not {self.vocab_size}")
        return tokenizer

    def verify(self, progress: bool = False) -> str:
        """Read everything again: file hashes, every listed document's text out of the shards, and that the splits are
        apart (for a published split: how many validation texts stand in training, as the manifest says).

        Returns what was checked, in words. Raises UserError with the first thing that does not hold.
        """
        files = [self.manifest["tokenizer"], *self.manifest["shards"]]
        with long_bar(sum(entry["bytes"] for entry in files), "hashing files", progress, "byte") as bar:
            for entry in files:
                if sha256_file(self.folder / entry["file"]) != entry["sha256"]:
                    raise damaged(self.folder, f"{entry['file']} has another SHA-256 than the manifest says")
                bar.update(entry["bytes"])
        with long_bar(len(self.manifest["documents"]), "decoding documents", progress, "document") as bar:
            for split in SPLITS:
                for entry, text in _read_documents(self, split):
                    payload = text.encode("utf-8")
                    if sha256_bytes(payload) != entry["sha256"] or len(payload) != entry["utf8_bytes"]:
                        raise damaged(self.folder, f"the tokens of {entry['name']} do not give its text")
                    bar.update()
        if not self.has_published_split:
            refuse_shared_documents(self.manifest["documents"])
            if self.lists_all:
                return "tokenizer, shards and documents"
        shared, said = self._count_shared(progress), self.manifest["disjointness"]["val_texts_in_train"]
        if shared != said or (shared and not self.has_published_split):
            raise damaged(self.folder, f"{shared} validation texts stand in training, {said} by its manifest")
        listed = (
            "documents"
            if self.lists_all
            else f"all val and {self.manifest['listed_train_documents']:,} train documents"
        )
        split = "published" if self.has_published_split else "own"
        return f"tokenizer, shards and {listed}; {split} split, {shared:,} validation texts stand in training"

    def _count_shared(self, progress: bool) -> int:
        return count_shared(self.train_paths, self.val_paths, self.tokenizer(), progress)


# ---------------------------------------------------------------------- where datasets lie


def default_cache_dir() -> Path:
    """The user's cache folder for this program; the environment variable PGOLF_CACHE overrides it."""
    return Path(os.environ.get("PGOLF_CACHE") or platformdirs.user_cache_dir("pgolf")).expanduser()


def datasets_root(cache_dir: Path | str | None = None) -> Path:
    """The folder that prepared datasets lie in."""
    return (Path(cache_dir).expanduser() if cache_dir else default_cache_dir()) / "datasets"


def is_dataset_name(name: str) -> bool:
    """Whether `name` can be a dataset's: one plain folder's name, not hidden."""
    return re.fullmatch(r"\w[\w.+-]*", name) is not None


@explain_os_errors("cannot read the prepared datasets")
def open_dataset(name: str = SOTU_NAME, cache_dir: Path | str | None = None) -> Dataset:
    """A prepared dataset by name, its files' sizes and headers checked (`verify` reads them whole).

    Raises UserError with the command that makes it where it is missing, and with the remedy where it is damaged.
    """
    root = datasets_root(cache_dir)
    if not is_dataset_name(name) or not (root / name).is_dir():
        prepared = ", ".join(dataset.name for dataset in prepared_datasets(cache_dir)) or "none"
        known = name == SOTU_NAME or name.startswith("fineweb")
        command = (_command(name) if known else _command(SOTU_NAME)) + (f" --cache {cache_dir}" if cache_dir else "")
        remedy = f"run `{command}`" + (
            "" if known else f", which prepares {SOTU_NAME}, or `pgolf data text` on your own"
        )
        raise UserError(f"dataset '{name}' is not prepared in {root} (prepared: {prepared}); {remedy}")
    return load_dataset(root / name)


@explain_os_errors("cannot read the prepared datasets")
def prepared_datasets(cache_dir: Path | str | None = None) -> list[Dataset]:
    """Every whole dataset in the cache folder, by name."""
    found = []
    for path in sorted(datasets_root(cache_dir).glob(f"[!.]*/{MANIFEST}")):
        with contextlib.suppress(UserError):
            found.append(load_dataset(path.parent))
    return found


def validation_documents(dataset: Dataset) -> list[tuple[str, str]]:
    """(name, text) of every validation document, decoded from the shards, in their order."""
    return [(entry["name"], text) for entry, text in _read_documents(dataset, "val")]


def _command(name: str) -> str:
    """The command that makes a dataset of this name."""
    if name.startswith("fineweb"):
        variant = name.rpartition("-")[2]
        return f"pgolf data fineweb --variant {variant if variant[:2] == 'sp' else 'sp1024'}"
    return "pgolf data sotu" if name == SOTU_NAME else "pgolf data text"


def damaged(folder: Path, fault: str) -> UserError:
    """The error that names a dataset's fault and the remedy."""
    return UserError(
        f"dataset {folder} is damaged: {fault}; delete that folder and run `{_command(folder.name)}` again"
    )


def load_dataset(folder: Path) -> Dataset:
    """The dataset in a folder, its manifest, sizes and headers checked; UserError with the remedy if damaged."""
    try:
        manifest, digest = read_json(folder / MANIFEST), sha256_file(folder / MANIFEST)
    except UserError:
        raise damaged(folder, "manifest.json is missing or broken") from None
    try:
        if manifest["format"] != MANIFEST_FORMAT:
            raise damaged(folder, f"its manifest has format {manifest['format']!r}, not {MANIFEST_FORMAT}")
        sizes = {entry["file"]: int(entry["bytes"]) for entry in (manifest["tokenizer"], *manifest["shards"])}
        paths = {split: [folder / s["file"] for s in manifest["shards"] if s["split"] == split] for split in SPLITS}
        counts = {folder / shard["file"]: int(shard["tokens"]) for shard in manifest["shards"]}
        complete = all(manifest["totals"][split]["tokens"] == sum(map(counts.get, paths[split])) for split in SPLITS)
        known = {"vocab_size", "lossless", "sha256"} <= set(manifest["tokenizer"])
        known &= all(set(entry) == DOCUMENT_KEYS for entry in manifest["documents"])
        known &= "listed_train_documents" not in manifest or "val_texts_in_train" in manifest["disjointness"]
        name, tokenizer_path = str(manifest["name"]), folder / manifest["tokenizer"]["file"]
    except (KeyError, TypeError, ValueError, AttributeError):
        complete = known = False
    if not (complete and known and name == folder.name and all(Path(file).name == file for file in sizes)):
        raise damaged(folder, "its manifest is not of the form this program writes")
    for file, size in sizes.items():
        if not (folder / file).is_file() or (folder / file).stat().st_size != size:
            raise damaged(folder, f"{file} is missing or has not the {size} bytes it should have")
    for shard, tokens in counts.items():
        if shard_tokens(shard) != tokens:
            raise damaged(folder, f"{shard.name} declares another number of tokens than the manifest")
    return Dataset(name, folder, manifest, digest, tokenizer_path, paths["train"], paths["val"])


def _read_documents(dataset: Dataset, split: str) -> Iterator[tuple[dict[str, Any], str]]:
    """(manifest entry, decoded text) of each listed document of a split, cut at BOS."""
    tokenizer = dataset.tokenizer()
    paths = dataset.train_paths if split == "train" else dataset.val_paths
    documents = stream_documents(paths, tokenizer.bos_id, tokenizer.vocab_size)
    wrong = damaged(dataset.folder, f"the {split} shards do not hold the documents that the manifest lists")
    for entry in (entry for entry in dataset.manifest["documents"] if entry["split"] == split):
        ids = next(documents, None)
        if ids is None or ids[0] != tokenizer.bos_id or len(ids) != entry["tokens"]:
            raise wrong
        yield entry, tokenizer.decode(ids)
    if (split == "val" or dataset.lists_all) and next(documents, None) is not None:
        raise wrong


# ---------------------------------------------------------------------- making one


@contextlib.contextmanager
def staged(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder to make dataset `name` in; at the end of the block it becomes `root/<name>`.

    Nothing is left behind on an error or an interruption. A dataset that appeared meanwhile is kept instead. Whoever
    works longer than an hour without making a file there touches the folder.
    """
    target = root / name
    what = f"cannot prepare {name} in {root} (PGOLF_CACHE or --cache)"
    with explain_os_errors(what):
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f"{PARTIAL}*"):  # by a killed preparation: a living one makes a file within the hour
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > 3600:
                    shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=root))
    try:
        yield folder
        with explain_os_errors(what):
            folder.chmod(0o755)
            try:
                folder.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_shared_documents(documents: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The proof that no validation document is in training: UserError if a text or a group is in both splits.

    Takes the manifest's entries (name, group, split, sha256) and returns the counts of shared ones, all zero.
    """
    counts = {}
    for key, what in (("sha256", "text"), ("group", "group")):
        train = {entry[key]: entry["name"] for entry in documents if entry["split"] == "train"}
        shared = [entry for entry in documents if entry["split"] == "val" and entry[key] in train]
        if shared:
            names = f"{shared[0]['name']} and training document {train[shared[0][key]]}"
            raise UserError(f"validation document {names} have the same {what}; put both in one split")
        counts[f"val_{what}s_in_train"] = len(shared)
    return counts
