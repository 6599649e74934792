"""Prepared datasets: where they lie, opening them, reading their documents back, checking them, and making one.

A prepared dataset is a folder `<cache>/datasets/<name>` holding tokenizer.model, shards and manifest.json. It is made
in a hidden folder beside its place and renamed at the end, so it is there whole or not at all. Each name has a lock:
of two processes that prepare the same dataset at once, the second waits and takes what the first has made.
"""

import contextlib
import functools
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from pgolf_core.base.files import UserError, explain_os_errors, read_json, sha256_file, write_json
from pgolf_core.lab.data.survey import MANIFEST_FORMAT, SPLITS, Split, count_shared, long_bar
from pgolf_core.lab.shared.places import MANIFEST, find_root
from pgolf_core.lab.shared.texts import SOTU_DEV_PREFIX, SOTU_NAME, SOTU_PREFIX
from pgolf_core.text.caseops import CASEOPS, CaseTokenizer
from pgolf_core.text.shards import shard_tokens
from pgolf_core.text.sidecar import sidecar_of, split_bytes
from pgolf_core.text.tokenizer import TokenBytes, Tokenizer

DOCUMENT_KEYS = {"name", "group", "split", "sha256", "utf8_bytes", "tokens"}
FETCHED = "fetched.json"
"""Beside the manifest of published shards: where they were fetched."""
PARTIAL = ".partial-"
"""Prefix of the folders that datasets are made in; of a killed preparation they are swept by the next one."""
CASEOPS_REPOSITORY = "romeerp/parameter-golf-caseops-v1"
"""Where PR 2135 says that the CaseOps shards lie; PR 1855 names their folder alone."""
HASHED_ON_OPENING = 2**25
"""Files up to this many bytes are hashed whenever a dataset is opened, larger ones by `verify` and where newer."""


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
        """The dataset's tokenizer; one that claims to be lossless and is not is a UserError.

        Of a text that was changed it takes and gives the original one.
        """
        return self._tokenizer

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = (CaseTokenizer if self.is_changed else Tokenizer)(self.tokenizer_path)
        if self.manifest["tokenizer"]["lossless"]:
            refuse_normalising(tokenizer)
        if tokenizer.vocab_size != self.vocab_size:
            raise damaged(self.folder, f"its tokenizer has {tokenizer.vocab_size} pieces, not {self.vocab_size}")
        return tokenizer

    @property
    def is_changed(self) -> bool:
        """The tokens are of text with marks for its capitals, and a sidecar has the original's bytes."""
        return self.manifest.get("transform") == CASEOPS

    @property
    def files(self) -> list[dict[str, Any]]:
        """The manifest's entries of the tokenizer, every shard and every sidecar."""
        return [self.manifest["tokenizer"], *self.manifest["shards"], *self.manifest.get("sidecars", ())]

    @property
    def sidecar_paths(self) -> list[Path]:
        """The files of original bytes, where the text was changed."""
        return [self.folder / entry["file"] for entry in self.manifest.get("sidecars", ())]

    def check_bytes(self, said: str) -> None:
        """UserError where a recipe's data.bytes is not how this dataset's bytes are counted."""
        has = "sidecar" if self.is_changed else "table"
        if said != has:
            fault = f"data.bytes = {said}, and dataset {self.name} counts bytes by its {has}"
            raise UserError(f"{fault}; pass --set data.bytes={has} or another --data")

    def token_bytes(self) -> TokenBytes:
        """What the bytes of validation are counted by."""
        return split_bytes(self.val_paths, self.tokenizer())

    def verify(self, progress: bool = False) -> str:
        """Read everything again and hold it against the manifest: file hashes, totals, every listed document's text,
        and that the splits are apart (for a published split: how many validation texts stand in training).

        Returns what was checked, in words. Raises UserError with the first thing that does not hold.
        """
        with long_bar(sum(entry["bytes"] for entry in self.files), "hashing files", progress, "byte") as bar:
            for entry in self.files:
                if sha256_file(self.folder / entry["file"]) != entry["sha256"]:
                    raise damaged(self.folder, f"{entry['file']} has another SHA-256 than the manifest says")
                bar.update(entry["bytes"])
        splits = self.splits(progress)
        for split in splits:
            for _ in _read_documents(self, split):
                pass
        if not self.has_published_split:
            refuse_shared_documents(self.manifest["documents"])
        shared, said = count_shared(*splits), self.manifest["disjointness"]["val_texts_in_train"]
        if shared != said or (shared and not self.has_published_split):
            raise damaged(self.folder, f"{shared} validation texts stand in training, {said} by its manifest")
        listed = self.manifest.get("listed_train_documents")
        documents = "documents" if listed is None else f"all val and {listed:,} train documents"
        whose = "published" if self.has_published_split else "own"
        return f"tokenizer, shards and {documents}; {whose} split, {shared:,} validation texts stand in training"

    def splits(self, progress: bool = False) -> tuple[Split, Split]:
        """Train and val."""
        tokenizer = self.tokenizer()
        return Split("train", self.train_paths, tokenizer, progress), Split("val", self.val_paths, tokenizer, progress)


# ---------------------------------------------------------------------- where datasets lie


def datasets_root(cache_dir: Path | str | None = None) -> Path:
    """The folder that prepared datasets lie in: in `cache_dir`, else in PGOLF_CACHE, else in the user's cache.

    A relative one is taken from the repository's root, since notebooks run in another folder than commands.
    """
    cache = Path(cache_dir or os.environ.get("PGOLF_CACHE") or platformdirs.user_cache_dir("pgolf")).expanduser()
    return (cache if cache.is_absolute() else find_root() / cache) / "datasets"


def is_dataset_name(name: str) -> bool:
    """Whether `name` can be a dataset's: one plain folder's name, not hidden."""
    return re.fullmatch(r"\w[\w.+-]*", name) is not None


def is_sotu_name(name: str) -> bool:
    """Whether `name` is the State of the Union corpus, or its development split, with a tokenizer of some size."""
    return re.fullmatch(rf"({SOTU_PREFIX}|{SOTU_DEV_PREFIX})[1-9]\d*", name) is not None


@explain_os_errors("cannot read the prepared datasets")
def open_dataset(name: str = SOTU_NAME, cache_dir: Path | str | None = None) -> Dataset:
    """A prepared dataset by name, its files' sizes and headers checked (`verify` reads them whole).

    Raises UserError with the command that makes it where it is missing, and with the remedy where it is damaged.
    """
    root = datasets_root(cache_dir)
    if not is_dataset_name(name) or not (root / name).is_dir():
        prepared = ", ".join(dataset.name for dataset in prepared_datasets(cache_dir)) or "none"
        fault = f"dataset '{name}' is not prepared in {root} (prepared: {prepared})"
        known = is_sotu_name(name) or (is_dataset_name(name) and name.startswith("fineweb"))
        cache = f" --cache {shlex.quote(str(root.parent))}" if cache_dir else ""
        other = "" if known else f", which prepares {SOTU_NAME}, or `pgolf data text` on your own"
        raise UserError(f"{fault}; run `{_command(name if known else SOTU_NAME)}{cache}`{other}")
    return load_dataset(root / name)


@explain_os_errors("cannot read the prepared datasets")
def prepared_datasets(cache_dir: Path | str | None = None, tell: Callable[[str], object] = str) -> list[Dataset]:
    """Every whole dataset in the cache folder, by name; `tell` is given the fault of each that is not."""
    found = []
    for path in sorted(datasets_root(cache_dir).glob(f"[!.]*/{MANIFEST}")):
        try:
            found.append(load_dataset(path.parent))
        except UserError as error:
            tell(str(error))
    return found


def validation_documents(dataset: Dataset) -> list[tuple[str, str]]:
    """(name, text) of every validation document, decoded from the shards, in their order."""
    return list(_read_documents(dataset, dataset.splits()[1]))


def _read_documents(dataset: Dataset, split: Split) -> Iterator[tuple[str, str]]:
    """(name, text) of each listed document of a split; UserError where texts or totals are not the manifest's."""
    others = damaged(dataset.folder, f"the {split.name} shards do not hold the documents that the manifest lists")
    said = [entry for entry in dataset.manifest["documents"] if entry["split"] == split.name]
    for entry, (found, text) in zip(said, split.listed(len(said)), strict=False):
        if found["tokens"] != entry["tokens"]:
            raise others
        if found != {key: entry[key] for key in found}:
            raise damaged(dataset.folder, f"the tokens of {entry['name']} do not give its text")
        yield entry["name"], text
    totals, all_listed = split.totals(), split.name == "val" or dataset.lists_all
    if totals != dataset.manifest["totals"][split.name] or (all_listed and totals["documents"] != len(said)):
        raise others


def load_dataset(folder: Path) -> Dataset:
    """The dataset in a folder, its manifest, sizes and headers checked; UserError with the remedy if damaged."""
    try:
        manifest, digest = read_json(folder / MANIFEST), sha256_file(folder / MANIFEST)
    except UserError:
        raise damaged(folder, f"{MANIFEST} is missing or broken") from None
    try:
        if manifest["format"] != MANIFEST_FORMAT:
            raise damaged(folder, f"its manifest has format {manifest['format']!r}, not {MANIFEST_FORMAT}")
        shards, sidecars = manifest["shards"], manifest.get("sidecars", ())
        entries = (manifest["tokenizer"], *shards, *sidecars)
        paths = {split: [folder / s["file"] for s in shards if s["split"] == split] for split in SPLITS}
        sums = {split: sum(int(s["tokens"]) for s in shards if s["split"] == split) for split in SPLITS}
        known = sums == {split: manifest["totals"][split]["tokens"] for split in SPLITS}
        known &= {"vocab_size", "lossless"} <= set(manifest["tokenizer"])
        known &= all(set(entry) == DOCUMENT_KEYS for entry in manifest["documents"])
        known &= "listed_train_documents" not in manifest or "val_texts_in_train" in manifest["disjointness"]
        beside = [sidecar_of(path).name for path in sorted(paths["val"])] if "transform" in manifest else []
        known &= manifest.get("transform", CASEOPS) == CASEOPS
        known &= beside == [entry["file"] for entry in sidecars]
        known &= manifest["name"] == folder.name and all(Path(entry["file"]).name == entry["file"] for entry in entries)
        known &= all({"sha256"} <= set(entry) and int(entry["bytes"]) >= 0 for entry in entries)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        known = False
    if not known:
        raise damaged(folder, "its manifest is not of the form this program writes")
    for entry in entries:
        path, size = folder / entry["file"], entry["bytes"]
        if not path.is_file() or path.stat().st_size != size:
            raise damaged(folder, f"{path.name} is missing or has not the {size} bytes it should have")
        if "tokens" in entry and shard_tokens(path) != entry["tokens"]:
            raise damaged(folder, f"{path.name} declares another number of tokens than the manifest")
        if is_changed(path, size, entry["sha256"]):
            raise damaged(folder, f"{path.name} has another SHA-256 than the manifest says")
    tokenizer = folder / manifest["tokenizer"]["file"]
    return Dataset(folder.name, folder, manifest, digest, tokenizer, paths["train"], paths["val"])


def is_changed(path: Path, size: int, sha256: str) -> bool:
    """Whether a file is not the manifest's beside it: a large one is only hashed if it is newer than the manifest."""
    newer = path.stat().st_mtime_ns > path.with_name(MANIFEST).stat().st_mtime_ns
    return (newer or size <= HASHED_ON_OPENING) and sha256_file(path) != sha256


def damaged(folder: Path, fault: str) -> UserError:
    """The error that names a dataset's fault and the remedy."""
    is_named = (folder / FETCHED).is_file() and not folder.name.startswith("fineweb10B-")
    command = f"pgolf data fineweb --name {folder.name} ..." if is_named else _command(folder.name)
    return UserError(f"dataset {folder} is damaged: {fault}; delete that folder and run `{command}` again")


def _command(name: str) -> str:
    """The command that makes a dataset of this name."""
    if name.startswith("fineweb") and CASEOPS in name:
        return f"pgolf data fineweb --variant {name.replace('-', '_')} --repository {CASEOPS_REPOSITORY}"
    if name.startswith("fineweb"):
        found = re.search(r"-(sp\d+)$", name)
        variant = found[1] if found else "sp1024"
        return f"pgolf data fineweb --variant {variant}" + f" --name {name}" * (name != f"fineweb10B-{variant}")
    if not is_sotu_name(name):
        return "pgolf data text"
    pieces = name.rpartition("-sp")[2]
    split = " --development" if name.startswith(SOTU_DEV_PREFIX) else ""
    return f"pgolf data sotu{split}" + ("" if pieces == "1024" else f" --vocab-size {pieces}")


# ---------------------------------------------------------------------- making one


@contextlib.contextmanager
def locked(root: Path, name: str, wait_seconds: float = 60.0) -> Iterator[None]:
    """One preparation of a dataset at a time; the lock is the kernel's, so it goes with a killed process.

    Raises UserError where another one holds it for longer, and for an OSError inside.
    """
    with explain_os_errors(f"cannot prepare {name} in {root} (PGOLF_CACHE or --cache)"):
        root.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(root / f".{name}.lock", timeout=wait_seconds):
                yield
        except filelock.Timeout:
            raise UserError(f"{name} is being prepared in {root} by another process; wait for it") from None


def make_dataset(root: Path, name: str, fill: Callable[[Path], dict[str, Any]]) -> Dataset:
    """The dataset `root/<name>` out of the files that `fill` writes into a folder and the manifest that it returns.

    Nothing is left behind on an error or an interruption. A dataset that appeared meanwhile is kept instead.
    """
    for left in root.glob(f"{PARTIAL}*"):
        with contextlib.suppress(UserError), locked(root, left.name.removeprefix(PARTIAL), wait_seconds=0):
            shutil.rmtree(left)
    with locked(root, name):
        folder = root / f"{PARTIAL}{name}"
        shutil.rmtree(folder, ignore_errors=True)
        if not (root / name).is_dir():
            try:
                folder.mkdir()
                write_json(folder / MANIFEST, fill(folder))
                folder.rename(root / name)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return load_dataset(root / name)


def refuse_shared_documents(documents: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The proof that no validation document is in training: UserError if a text or a group is in both splits.

    Takes the manifest's entries (name, group, split, sha256) and returns the counts of shared ones, all zero.
    """
    for key, what in (("sha256", "text"), ("group", "group")):
        train = {entry[key]: entry["name"] for entry in documents if entry["split"] == "train"}
        for entry in documents:
            if entry["split"] == "val" and entry[key] in train:
                names = f"{entry['name']} and training document {train[entry[key]]}"
                raise UserError(f"validation document {names} have the same {what}; put both in one split")
    return {"val_texts_in_train": 0, "val_groups_in_train": 0}


def refuse_normalising(tokenizer: Tokenizer) -> None:
    """UserError if a tokenizer that claims to be lossless would change some text. Published ones are not asked."""
    if tokenizer.objections:
        raise UserError(
            f"tokenizer {tokenizer.path} is not lossless: {', '.join(tokenizer.objections)}; "
            "train one with identity normalisation, or mark the dataset's tokenizer as published"
        )
