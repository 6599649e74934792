"""A dataset of one's own files: documents -> split by hash -> tokenizer -> shards -> manifest.

The text is read three times (to check and split it, to train the tokenizer, to encode it) and is never all in memory;
what is held is some 24 bytes a document. Documents are put in the order of the SHA-256 of their names, so that
neighbours in a file, alike as they often are, are no neighbours in training.
"""

from __future__ import annotations

import array
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tqdm import tqdm

from pgolf_core.base.files import UserError, explain_os_errors, sha256_file, write_bytes, write_json
from pgolf_core.lab.data.dataset import (
    MANIFEST,
    MANIFEST_FORMAT,
    SOTU_NAME,
    TOKENIZER_FILE,
    Dataset,
    datasets_root,
    is_dataset_name,
    load_dataset,
    refuse_shared_documents,
    staged,
)
from pgolf_core.lab.data.sotu import TOKENIZER_SETTINGS, Document, shared_passages, train_tokenizer
from pgolf_core.lab.data.survey import LISTED_TRAIN_DOCUMENTS, SPLITS, file_entry, survey
from pgolf_core.lab.data.textfiles import InputFile, find_files, read_documents
from pgolf_core.text.shards import TOKEN_TYPE, write_shard
from pgolf_core.text.tokenizer import SPACE_MARK, Tokenizer

SHARD_TOKENS = 100_000_000
"""Tokens of a full shard, as published (SEEDS 14)."""
TOKENIZER_BYTES = 64_000_000
"""A tokenizer is trained on about this much of a larger training split: documents drawn by hash."""
PASSAGES_BYTES = 16_000_000
"""Up to here the passages that both splits hold are counted, which takes some hundred bytes of memory a byte."""
DEFAULT_VAL_SHARE = 0.1
HASH_RANGE = 2.0**64


@dataclass(frozen=True)
class _Text:
    name: str
    text: str
    payload: bytes
    digest: bytes
    """SHA-256 of the payload; its first eight bytes choose the split, the next eight the tokenizer's sample."""
    split: str


@dataclass(frozen=True)
class _Scan:
    """What the first reading found."""

    documents: dict[str, int]
    utf8_bytes: dict[str, int]
    sha256: str
    """Of all names and texts in order: what the next reading must find again."""


def prepare_text(
    paths: Sequence[Path | str],
    *,
    name: str = "",
    field: str = "text",
    vocab_size: int = 1024,
    tokenizer: Path | str | None = None,
    val_share: float = DEFAULT_VAL_SHARE,
    cache_dir: Path | str | None = None,
    progress: bool = True,
) -> Dataset:
    """A prepared dataset of the documents in `paths` (see textfiles), with a tokenizer trained on its training split.

    A document is validation if its text's SHA-256, read as a number from 0 to 1, lies below `val_share`: copies of one
    text never stand in both splits, and adding documents moves none. `tokenizer` is a SentencePiece model to use
    instead of training one; one that normalises is accepted, and bytes are then those of the normalised text.
    `name` defaults to the first path's. The same files and settings give the same dataset and are not prepared again.
    Raises UserError for every fault of the input, and where `name` is taken by another dataset.
    """
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share} must lie between 0 and 1, as 0.1")
    if not 0 < vocab_size <= 2**16:
        raise UserError(f"--vocab-size {vocab_size} must lie between 1 and 65,536: tokens are stored in 16 bits")
    files = find_files(paths)
    given = Tokenizer(Path(tokenizer).expanduser()) if tokenizer else None
    vocab_size = given.vocab_size if given else vocab_size
    if vocab_size > 2**16:
        raise UserError(f"{given.path} has {vocab_size:,} pieces; tokens are stored in 16 bits, so 65,536 at most")
    name = name or re.sub(r"[^\w.+-]+", "-", Path(os.path.abspath(paths[0])).stem).strip(".-") + f"-sp{vocab_size}"
    if not is_dataset_name(name) or name == SOTU_NAME or name.startswith("fineweb"):
        raise UserError(f"--name '{name}' is not free for a dataset of your own; choose letters, digits and . _ + -")
    reader = _Reader(files, field, given, val_share)
    scan = reader.scan(progress)
    labels = list(dict.fromkeys(file.label.partition("/")[0] for file in files))
    shown = ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
    source = {"files": len(files), "documents_sha256": scan.sha256, "field": field, "val_share": val_share}
    about = {
        "name": name,
        "source": source | {"citation": f"own text: {shown} ({len(files):,} files)"},
        "split_rule": (
            f"A document is validation if the SHA-256 of its text, read as a number from 0 to 1, lies below "
            f"{val_share}; equal texts so stay in one split. Each split is in the order of its documents' hashed names."
        ),
    }
    root = datasets_root(cache_dir)
    if (root / name).is_dir():
        return _same_dataset(load_dataset(root / name), about, given, vocab_size)
    with staged(root, name) as folder:
        what = f"cannot prepare {name} in {root} (PGOLF_CACHE or --cache)"
        with explain_os_errors(what):
            manifest = _fill(folder, reader, scan, about, vocab_size, progress)
        write_json(folder / MANIFEST, manifest)
    return load_dataset(root / name)


def _same_dataset(found: Dataset, about: dict[str, Any], given: Tokenizer | None, vocab_size: int) -> Dataset:
    """The dataset that is there under this name, if it is of the same text and settings."""
    tokenizer = found.manifest["tokenizer"]
    if given:
        same = tokenizer["sha256"] == sha256_file(given.path)
    else:
        same = tokenizer.get("settings") == TOKENIZER_SETTINGS and tokenizer["vocab_size"] == vocab_size
    if not same or any(found.manifest.get(key) != value for key, value in about.items()):
        raise UserError(
            f"dataset {found.name} is there already, of other text or settings; choose another --name, "
            f"or delete {found.folder}"
        )
    return found


class _Reader:
    """The documents of the files, with their splits; every reading gives the same."""

    def __init__(self, files: Sequence[InputFile], field: str, given: Tokenizer | None, val_share: float):
        self.files, self.field, self.given, self.val_share = files, field, given, val_share

    def texts(self) -> Iterator[_Text]:
        for name, text in read_documents(self.files, self.field):
            if self.given and not self.given.lossless:
                text = self._normalised(text, name)
                if not text:
                    raise UserError(f"nothing is left of {name} as the tokenizer normalises it; take it out")
            elif SPACE_MARK in text:
                at = text.index(SPACE_MARK)
                raise UserError(
                    f"{name} holds U+2581 at character {at}, which no tokenizer can tell from a space; replace it"
                )
            payload = text.encode("utf-8")
            digest = hashlib.sha256(payload).digest()
            is_val = int.from_bytes(digest[:8], "big") < self.val_share * HASH_RANGE
            yield _Text(name, text, payload, digest, "val" if is_val else "train")

    def _normalised(self, text: str, name: str) -> str:
        """The text that the tokenizer gives back for this one, and for itself: once is not always enough."""
        for _ in range(8):
            before, text = text, self.given.decode(self.given.encode(text, name))
            if text == before:
                return text
        raise UserError(f"{name} comes back from the tokenizer changed each time; use another --tokenizer")

    def scan(self, progress: bool) -> _Scan:
        """Read everything once; UserError for any fault, or if a split gets nothing."""
        documents, utf8_bytes, whole = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0), hashlib.sha256()
        with _bar(None, "reading", progress) as bar:
            for one in self.texts():
                documents[one.split] += 1
                utf8_bytes[one.split] += len(one.payload)
                _add(whole, one)
                bar.update(len(one.payload))
        for split, what in (("train", "training"), ("val", "validation")):
            if not documents[split]:
                raise UserError(
                    f"{sum(documents.values())} document(s), and none falls into {what} at --val-share "
                    f"{self.val_share}; give more documents (a .txt file is one) or another share"
                )
        return _Scan(documents, utf8_bytes, whole.hexdigest())


def _add(whole: Any, one: _Text) -> None:
    whole.update(hashlib.sha256(one.name.encode("utf-8")).digest() + one.digest)


def _bar(total: int | None, label: str, enabled: bool) -> tqdm:
    return tqdm(total=total, desc=label, unit="B", unit_scale=True, delay=1, mininterval=0.5, disable=not enabled)


# ---------------------------------------------------------------------- tokenizer, shards, manifest


def _fill(
    folder: Path, reader: _Reader, scan: _Scan, about: dict[str, Any], vocab_size: int, progress: bool
) -> dict[str, Any]:
    """Write tokenizer and shards into `folder`; returns the manifest. Nothing in it depends on time or place."""
    path, details = folder / TOKENIZER_FILE, {}
    if reader.given:
        write_bytes(path, reader.given.path.read_bytes())
    else:
        sample, rate = {"documents": 0, "utf8_bytes": 0}, TOKENIZER_BYTES / scan.utf8_bytes["train"]
        write_bytes(path, train_tokenizer(_sample(reader, rate, sample, scan, progress), vocab_size))
        details = {"settings": TOKENIZER_SETTINGS, "sentencepiece": sentencepiece.__version__, "trained_on": sample}
    tokenizer = Tokenizer(path)
    shards, names = _encode(folder, reader, scan, tokenizer, about["name"], progress)
    found = survey(shards, tokenizer, lambda split, index: names[split][index], progress)
    refuse_shared_documents(found["documents"])
    if found["disjointness"]["val_texts_in_train"]:
        raise UserError("a validation text stands in training although texts are split by hash; report this")
    found["disjointness"]["val_groups_in_train"] = 0
    if sum(scan.utf8_bytes.values()) <= PASSAGES_BYTES:
        documents = [Document(one.name, one.name, one.split, one.text) for one in reader.texts()]
        found["disjointness"] |= shared_passages(documents)
    about_tokenizer = {"vocab_size": tokenizer.vocab_size, "kind": "sentencepiece", "lossless": tokenizer.lossless}
    return {"format": MANIFEST_FORMAT, **about, "tokenizer": file_entry(path) | about_tokenizer | details, **found}


def _sample(reader: _Reader, rate: float, sample: dict[str, int], scan: _Scan, progress: bool) -> Iterator[str]:
    """Training texts, or of a large split a share of them chosen by hash; `sample` counts what was given."""
    with _bar(sum(scan.utf8_bytes.values()), "tokenizer", progress) as bar:
        for one in reader.texts():
            if one.split == "train" and int.from_bytes(one.digest[8:16], "big") < rate * HASH_RANGE:
                sample["documents"] += 1
                sample["utf8_bytes"] += len(one.payload)
                yield one.text
            bar.update(len(one.payload))


@dataclass
class _Encoded:
    """Tokens of one split as they came, in a file, and where each document lies in it."""

    path: Path
    listed: int | None
    """Names to keep: of the first documents by key, or all."""
    keys: array.array = field(default_factory=lambda: array.array("Q"))
    lengths: array.array = field(default_factory=lambda: array.array("Q"))
    names: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, name: str, length: int) -> None:
        key = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big")
        self.names.append((key, len(self.keys), name))
        self.keys.append(key)
        self.lengths.append(length)
        if self.listed and len(self.names) > 2 * self.listed:
            self.names = sorted(self.names)[: self.listed]

    def in_order(self) -> Iterator[np.ndarray]:
        """Token ids of every document, by the keys."""
        tokens = np.memmap(self.path, dtype=TOKEN_TYPE, mode="r")
        lengths = np.array(self.lengths, dtype=np.int64)
        ends = np.cumsum(lengths)
        for index in np.argsort(np.array(self.keys, dtype=np.uint64), kind="stable").tolist():
            yield tokens[ends[index] - lengths[index] : ends[index]]


def _encode(
    folder: Path, reader: _Reader, scan: _Scan, tokenizer: Tokenizer, name: str, progress: bool
) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
    """The shards of each split and the names of its documents, in order."""
    limits = {"train": LISTED_TRAIN_DOCUMENTS, "val": None}
    encoded = {split: _Encoded(folder / f".{split}", limits[split]) for split in SPLITS}
    whole = hashlib.sha256()
    with (
        open(encoded["train"].path, "wb") as train_file,
        open(encoded["val"].path, "wb") as val_file,
        _bar(sum(scan.utf8_bytes.values()), "encoding", progress) as bar,
    ):
        files = {"train": train_file, "val": val_file}
        for count, one in enumerate(reader.texts()):
            ids = np.array([tokenizer.bos_id, *tokenizer.encode(one.text, one.name)], dtype=TOKEN_TYPE)
            if tokenizer.bytes.total(ids) != len(one.payload):
                size = len(one.payload)
                raise UserError(f"the tokens of {one.name} do not stand for its {size} bytes; use another --tokenizer")
            files[one.split].write(ids.tobytes())
            encoded[one.split].add(one.name, len(ids))
            _add(whole, one)
            bar.update(len(one.payload))
            if count % 4096 == 0:
                os.utime(folder)  # alive: see dataset.staged
    if whole.hexdigest() != scan.sha256:
        raise UserError("the files changed while they were read; run the command again when nothing writes to them")
    shards = {split: list(_write_shards(folder, name, split, encoded[split])) for split in SPLITS}
    for one in encoded.values():
        one.path.unlink()
    return shards, {split: [entry[2] for entry in sorted(encoded[split].names)] for split in SPLITS}


def _write_shards(folder: Path, name: str, split: str, encoded: _Encoded) -> Iterator[Path]:
    """Cut the documents, in order, into shards of SHARD_TOKENS."""
    buffer, filled, number = np.empty(min(SHARD_TOKENS, sum(encoded.lengths)), dtype=TOKEN_TYPE), 0, 0
    for ids in encoded.in_order():
        while len(ids):
            part = ids[: len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            filled, ids = filled + len(part), ids[len(part) :]
            if filled == len(buffer):
                path = folder / f"{name}_{split}_{number:06d}.bin"
                write_shard(path, buffer)
                yield path
                filled, number = 0, number + 1
    if filled:
        path = folder / f"{name}_{split}_{number:06d}.bin"
        write_shard(path, buffer[:filled])
        yield path
