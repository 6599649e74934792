"""A dataset of one's own files, split by the hash of each text or as the user says."""

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.lab.data.build import (
    Corpus,
    Document,
    check_pieces,
    fill_dataset,
    hash_share,
    scan_documents,
    tokenizer_settings,
)
from pgolf_core.lab.data.dataset import (
    Dataset,
    datasets_root,
    is_dataset_name,
    is_sotu_name,
    load_dataset,
    make_dataset,
)
from pgolf_core.lab.data.survey import SPLITS
from pgolf_core.lab.data.textfiles import TEXTS, Faults, InputFile, counted, cut_of, endings, find_files, read_documents
from pgolf_core.lab.shared.tables import so_many, some
from pgolf_core.lab.shared.usage import note
from pgolf_core.text.caseops import CASEOPS, CaseTokenizer
from pgolf_core.text.sidecar import has_case_marks
from pgolf_core.text.tokenizer import SPACE_MARK, Tokenizer

SPLIT_RULE = (
    "A document is validation if the SHA-256 of its text, read as a number from 0 to 1, lies below {}; equal texts so "
    "stay in one split. Each split is in the order of its documents' hashed names."
)
FEW_PIECES, MANY_PIECES, MANY_BYTES = 1024, 8192, 4_000_000
"""Where none are named: from so much training text on as many pieces as `local` has, whose own text is about as long
(findings/2026-11-29-pieces-of-local.md)."""
OWN_SPLIT_RULE = (
    "The files of each split are as given; no text stands in both. Each split is in the order of its documents' hashed "
    "names."
)


@dataclass(frozen=True)
class TextRequest:
    """What a dataset of one's own files is to be made of."""

    paths: Sequence[Path | str] = ()
    """Files, and folders of them (see textfiles)."""
    train: Sequence[Path | str] = ()
    """With `val`, instead of `paths`: the files of each split."""
    val: Sequence[Path | str] = ()
    name: str = ""
    """Of the dataset; by default the first path's, and -sp with the vocabulary."""
    field: str = "text"
    """Key in JSON, column in .parquet that holds the text."""
    vocab_size: int | None = None
    """Pieces of the lossless tokenizer that is trained on the training split; None: few or many, by MANY_BYTES."""
    tokenizer: Path | str | None = None
    """A SentencePiece model to use instead; with one that normalises, text and bytes are of the normalised text."""
    val_share: float = 0.1
    """A document is validation if its text's SHA-256, read as a number from 0 to 1, lies below this."""
    cut: str = ""
    """How text files become documents, one of textfiles.CUTS; by default a file is one, unless it is the only one."""
    caseops: bool = False
    """Put marks for the text's capitals, exactly undone (text.caseops); bytes are of the text as it was."""
    skip_faulty: bool = False
    """Leave out documents that cannot be used instead of refusing them; the manifest counts them."""


def prepare_text(request: TextRequest, cache_dir: Path | str | None = None, progress: bool = True) -> Dataset:
    """A prepared dataset of the documents in the request's files.

    Copies of one text never stand in both splits, and adding documents moves none. The same files and settings give
    the same dataset and are not prepared again. Raises UserError for every fault of the input, all of them at once,
    and where the name is taken by another dataset.
    """
    if not 0 < request.val_share < 1:
        raise UserError(f"--val-share {request.val_share} must lie between 0 and 1, as 0.1")
    reading = _Reading(request)
    given = reading.given
    chosen = given.vocab_size if given else request.vocab_size
    if chosen is not None:
        check_pieces(chosen, f"{request.tokenizer} of" if given else "--vocab-size")
    first = Path(os.path.abspath(Path((request.paths or request.train)[0]).expanduser()))
    stem = re.sub(r"[^\w.+-]+", "-", first.name if first.is_dir() else first.stem).strip(".-")
    beginning = f"{stem}{f'-{CASEOPS}' if request.caseops else ''}-sp"
    name = request.name or f"{beginning}{chosen or FEW_PIECES}"  # whatever number it will be
    if not is_dataset_name(name) or is_sotu_name(name) or name.startswith("fineweb"):
        raise UserError(f"--name '{name}' is not free for a dataset of your own; choose letters, digits and . _ + -")
    scan = scan_documents(reading.documents(), progress)
    if faulty := reading.faults.counts.total():
        if not request.skip_faulty:
            remedy = "mend them, or give --skip-faulty to leave them out"
            raise UserError(f"{so_many(faulty, 'document')} cannot be used: {reading.faults}; {remedy}")
        note(f"left out {so_many(faulty, 'document')}: {reading.faults}")
    reading.refuse_empty_splits(scan.documents)
    vocab_size = chosen or (MANY_PIECES if scan.utf8_bytes["train"] >= MANY_BYTES else FEW_PIECES)
    name = request.name or f"{beginning}{vocab_size}"
    rule = OWN_SPLIT_RULE if request.train else SPLIT_RULE.format(request.val_share)
    about = {"name": name, "source": reading.source(scan.sha256), "split_rule": rule}
    about |= {"transform": CASEOPS} if request.caseops else {}
    corpus = Corpus(about, reading.documents, vocab_size, given)
    root = datasets_root(cache_dir)
    if (root / name).is_dir():
        found = load_dataset(root / name)
    else:
        found = make_dataset(root, name, lambda folder: fill_dataset(folder, corpus, scan, progress))
    settings = tokenizer_settings(request.caseops)
    known = {"sha256": sha256_file(given.path)} if given else {"settings": settings, "vocab_size": vocab_size}
    if not (known.items() <= found.manifest["tokenizer"].items() and about.items() <= found.manifest.items()):
        remedy = f"choose another --name, or delete {found.folder}"
        raise UserError(f"dataset {name} is there already, of other text or settings; {remedy}")
    return found


class _Reading:
    """The request's files as documents, each reading the same, and what the last one found."""

    def __init__(self, request: TextRequest):
        self.request, self.faults = request, Faults()
        self.lowest, self.highest = 1.0, 0.0  # of all texts' hashes, read as numbers from 0 to 1
        kind = CaseTokenizer if request.caseops else Tokenizer
        self.given = kind(Path(request.tokenizer).expanduser()) if request.tokenizer else None
        if self.given and not request.caseops and has_case_marks(self.given):
            raise UserError(f"--tokenizer {request.tokenizer} is of text with marks for capitals; give --caseops too")
        self.files: list[InputFile] = []
        self.left_out: Counter[str] = Counter()
        for split, paths in (("val", request.val), ("train", request.train), ("", request.paths)):
            self.files += find_files(paths, self.left_out, split)
        if not self.files:
            raise UserError("no files to read: name at least one file or folder")
        kinds = {file.kind in TEXTS for file in self.files}
        if request.cut and True not in kinds:
            raise UserError(f"--cut {request.cut} is for {some(TEXTS)}, and none is named; leave it out")
        if request.field != TextRequest.field and False not in kinds:
            raise UserError(f"--field {request.field} is for JSON and .parquet, and none is named; leave it out")
        read = Counter("".join(endings(file.path)) for file in self.files)
        if self.left_out or len(read) > 1:
            note(f"read: {counted(read)}; not read: {counted(self.left_out) or 'none'}")
        self.cut = request.cut
        if not self.cut and len(self.files) == 1 and self.files[0].kind in TEXTS:
            self.cut, number = cut_of(self.files[0])
            how = f"at {self.cut.replace('-', ' ')} into {number:,} documents"
            note(f"{self.files[0].label} is the only text: cut {how} (--cut chooses)")

    def documents(self) -> Iterator[Document]:
        """Those that can be used, with their splits: validation first where the user says which are."""
        self.faults, validation = Faults(), set()
        for file, name, text in read_documents(self.files, self.faults, self.request.field, self.cut):
            if self.given and not self.given.lossless:
                text = _normalised(text, name, self.given, self.faults)
            elif SPACE_MARK in text:
                self.faults.add("with U+2581, which no tokenizer can tell from a space", name)
                continue
            if not text:
                continue
            digest = hashlib.sha256(text.encode("utf-8")).digest()
            share, split = hash_share(digest), file.split
            self.lowest, self.highest = min(self.lowest, share), max(self.highest, share)
            if split == "val":
                validation.add(digest[:16])
            elif split and digest[:16] in validation:
                self.faults.add("of training that stand in validation too", name)
                continue
            yield Document(name, split or ("val" if share < self.request.val_share else "train"), text)

    def refuse_empty_splits(self, counts: dict[str, int]) -> None:
        """UserError with what would fill it where a split has no document."""
        empty = next((split for split in SPLITS if not counts[split]), None)
        if not empty:
            return
        what = {"train": "training", "val": "validation"}[empty]
        fault = f"{so_many(sum(counts.values()), 'document')}, and none falls into {what}"
        if not any(counts.values()):
            raise UserError(f"no document is left that can be used: {self.faults or 'the files hold none'}; mend them")
        if self.request.train:
            raise UserError(f"{fault}; give other files to --{empty}")
        ways = "--cut lines, " if self.cut in ("", "none") and any(file.kind in TEXTS for file in self.files) else ""
        if self.lowest >= self.highest:
            raise UserError(f"{fault}; one text cannot be in both: give more documents, {ways}or --train and --val")
        share = math.ceil(self.lowest * 1e4 + 1e-6) / 1e4
        if empty == "train":
            share = math.floor(self.highest * 1e4) / 1e4
        if not self.lowest < share <= self.highest:
            share = (self.lowest + self.highest) / 2
        fault = f"{fault} at --val-share {self.request.val_share}"
        raise UserError(f"{fault}; give more documents, {ways}or --val-share {share:.6g}")

    def source(self, documents_sha256: str) -> dict[str, Any]:
        """The manifest's words on the files; keys for what is unusual are there only if it is."""
        labels = list(dict.fromkeys(file.label.partition("/")[0] for file in self.files))
        about = {"files": len(self.files), "documents_sha256": documents_sha256, "field": self.request.field}
        about |= {"val_share": self.request.val_share} if not self.request.train else {"splits": "given"}
        about |= {"citation": f"own text: {some(labels)} ({so_many(len(self.files), 'file')})"}
        skipped = dict(sorted(self.faults.counts.items()))
        unusual = {"cut": self.cut, "left_out": dict(self.left_out), "skipped": skipped}
        return about | {key: value for key, value in unusual.items() if value}


def _normalised(text: str, name: str, tokenizer: Tokenizer, faults: Faults) -> str:
    """The text that the tokenizer gives back for this one, and for itself: once is not always enough. "" is a fault."""
    for _ in range(8):
        before, text = text, tokenizer.decode(tokenizer.encode(text, name))
        if not text:
            faults.add("of which the tokenizer leaves nothing", name)
        if text in ("", before):
            return text
    faults.add("that the tokenizer changes anew each time", name)
    return ""
