"""A dataset of one's own files, split by the hash of each text."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.lab.data.build import TOKENIZER_SETTINGS, Corpus, Document, fill_dataset, hash_share, scan_documents
from pgolf_core.lab.data.dataset import SOTU_NAME, Dataset, datasets_root, is_dataset_name, load_dataset, make_dataset
from pgolf_core.lab.data.textfiles import InputFile, find_files, read_documents
from pgolf_core.text.tokenizer import SPACE_MARK, Tokenizer

MAX_VOCAB_SIZE = 2**16
"""Tokens are stored in 16 bits."""
SPLIT_RULE = (
    "A document is validation if the SHA-256 of its text, read as a number from 0 to 1, lies below {}; equal texts so "
    "stay in one split. Each split is in the order of its documents' hashed names."
)


@dataclass(frozen=True)
class TextRequest:
    """What a dataset of one's own files is to be made of."""

    paths: Sequence[Path | str]
    """Files, and folders of them (see textfiles)."""
    name: str = ""
    """Of the dataset; by default the first path's, and -sp with the vocabulary."""
    field: str = "text"
    """Key in .jsonl, column in .parquet that holds the text."""
    vocab_size: int = 1024
    """Pieces of the lossless tokenizer that is trained on the training split."""
    tokenizer: Path | str | None = None
    """A SentencePiece model to use instead; with one that normalises, text and bytes are of the normalised text."""
    val_share: float = 0.1
    """A document is validation if its text's SHA-256, read as a number from 0 to 1, lies below this."""


def prepare_text(request: TextRequest, cache_dir: Path | str | None = None, progress: bool = True) -> Dataset:
    """A prepared dataset of the documents in the request's files.

    Copies of one text never stand in both splits, and adding documents moves none. The same files and settings give
    the same dataset and are not prepared again. Raises UserError for every fault of the input, and where the name is
    taken by another dataset.
    """
    if not 0 < request.val_share < 1:
        raise UserError(f"--val-share {request.val_share} must lie between 0 and 1, as 0.1")
    files = find_files(request.paths)
    given = Tokenizer(Path(request.tokenizer).expanduser()) if request.tokenizer else None
    vocab_size = given.vocab_size if given else request.vocab_size
    if not 0 < vocab_size <= MAX_VOCAB_SIZE:
        what = f"{request.tokenizer} of" if given else "--vocab-size"
        raise UserError(f"{what} {vocab_size}: pieces must be between 1 and 65,536, since tokens are stored in 16 bits")
    stem = re.sub(r"[^\w.+-]+", "-", Path(os.path.abspath(request.paths[0])).stem).strip(".-")
    name = request.name or f"{stem}-sp{vocab_size}"
    if not is_dataset_name(name) or name == SOTU_NAME or name.startswith("fineweb"):
        raise UserError(f"--name '{name}' is not free for a dataset of your own; choose letters, digits and . _ + -")
    scan = scan_documents(_documents(files, request, given), progress)
    for split, what in (("train", "training"), ("val", "validation")):
        if not scan.documents[split]:
            fault = f"{sum(scan.documents.values())} document(s), and none falls into {what}"
            remedy = "give more documents (a .txt file is one) or another share"
            raise UserError(f"{fault} at --val-share {request.val_share}; {remedy}")
    labels = list(dict.fromkeys(file.label.partition("/")[0] for file in files))
    shown = ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
    source = {"files": len(files), "documents_sha256": scan.sha256, "field": request.field}
    source |= {"val_share": request.val_share, "citation": f"own text: {shown} ({len(files):,} files)"}
    about = {"name": name, "source": source, "split_rule": SPLIT_RULE.format(request.val_share)}
    corpus = Corpus(about, lambda: _documents(files, request, given), vocab_size, given)
    root = datasets_root(cache_dir)
    if not (root / name).is_dir():
        make_dataset(root, name, lambda folder: fill_dataset(folder, corpus, scan, progress))
    found = load_dataset(root / name)
    tokenizer = found.manifest["tokenizer"]
    if given:
        same = tokenizer["sha256"] == sha256_file(given.path)
    else:
        same = tokenizer.get("settings") == TOKENIZER_SETTINGS and tokenizer["vocab_size"] == vocab_size
    if not same or any(found.manifest.get(key) != value for key, value in about.items()):
        remedy = f"choose another --name, or delete {found.folder}"
        raise UserError(f"dataset {name} is there already, of other text or settings; {remedy}")
    return found


def _documents(files: Sequence[InputFile], request: TextRequest, given: Tokenizer | None) -> Iterator[Document]:
    """The documents of the files, with their splits; every reading gives the same."""
    for name, text in read_documents(files, request.field):
        if given and not given.lossless:
            text = _normalised(text, name, given)
        elif SPACE_MARK in text:
            fault = f"holds U+2581 at character {text.index(SPACE_MARK)}, which no tokenizer can tell from a space"
            raise UserError(f"{name} {fault}; replace it")
        is_val = hash_share(hashlib.sha256(text.encode("utf-8")).digest()) < request.val_share
        yield Document(name, "val" if is_val else "train", text)


def _normalised(text: str, name: str, tokenizer: Tokenizer) -> str:
    """The text that the tokenizer gives back for this one, and for itself: once is not always enough."""
    for _ in range(8):
        before, text = text, tokenizer.decode(tokenizer.encode(text, name))
        if not text:
            raise UserError(f"nothing is left of {name} as the tokenizer normalises it; take it out")
        if text == before:
            return text
    raise UserError(f"{name} comes back from the tokenizer changed each time; use another --tokenizer")
