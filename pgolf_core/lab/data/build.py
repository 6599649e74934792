"""Documents -> tokenizer -> shards -> manifest: how a corpus of texts becomes a prepared dataset.

The texts are read three times (to count them, to train the tokenizer, to encode them) and only those of a small corpus
are ever all in memory, for its shared passages; else what is held is some 24 bytes a document. Documents are put in the
order of the SHA-256 of their names, so that neighbours in a file, alike as they often are, are none in training.
"""

import array
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from pgolf_core.base.files import UserError, write_bytes
from pgolf_core.lab.data.dataset import refuse_normalising, refuse_shared_documents
from pgolf_core.lab.data.survey import LISTED_TRAIN_DOCUMENTS, SPLITS, TOKENIZER_FILE, Split, long_bar, survey
from pgolf_core.text.caseops import CASEOPS, CaseTokenizer, to_cases
from pgolf_core.text.shards import CASE_MARKS, HEADER_WORDS, SHARD_MAGIC, SHARD_VERSION, TOKEN_TYPE
from pgolf_core.text.tokenizer import SPACE_MARK, Tokenizer

SHARD_TOKENS = 100_000_000
"""Tokens of a full shard, as published."""
TOKENIZER_BYTES = 64_000_000
"""A tokenizer is trained on about this much of a larger training split: documents drawn by hash."""
PASSAGES_BYTES = 16_000_000
"""Up to here the passages that both splits hold are counted, which takes some hundred bytes of memory a byte."""
WINDOW_BYTES = 64
"""Length of the passages that are looked up in the other split: a line of text, too long to repeat by chance."""

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


def tokenizer_settings(caseops: bool) -> dict[str, Any]:
    """How a tokenizer is trained: of text with case marks, each mark is a piece of its own and part of no other."""
    return TOKENIZER_SETTINGS | ({"user_defined_symbols": list(CASE_MARKS)} if caseops else {})


@dataclass(frozen=True)
class Document:
    """One text and where it belongs."""

    name: str
    split: str
    """train or val."""
    text: str

    @cached_property
    def payload(self) -> bytes:
        """The text in UTF-8."""
        return self.text.encode("utf-8")

    @cached_property
    def digests(self) -> tuple[bytes, bytes]:
        """SHA-256 of the name and of the payload."""
        return hashlib.sha256(self.name.encode("utf-8")).digest(), hashlib.sha256(self.payload).digest()


@dataclass(frozen=True)
class Corpus:
    """What a dataset is made of."""

    about: dict[str, Any]
    """The manifest's first entries: name, source, split_rule."""
    documents: Callable[[], Iterable[Document]]
    """Every call reads them anew, and the same ones."""
    vocab_size: int = 1024
    """Pieces of the lossless tokenizer that is trained on the training split."""
    tokenizer: Tokenizer | None = None
    """One to use instead."""
    shard_prefix: str = ""
    """Beginning of the shards' names; the dataset's name where it is empty."""

    @property
    def caseops(self) -> bool:
        """Whether the text's capitals become marks."""
        return self.about.get("transform") == CASEOPS


@dataclass(frozen=True)
class Scan:
    """What a reading of all documents found."""

    documents: dict[str, int]
    utf8_bytes: dict[str, int]
    sha256: str
    """Of all names and texts in order: what the next reading must find again."""


def scan_documents(documents: Iterable[Document], progress: bool) -> Scan:
    """Read everything once: documents and bytes of each split."""
    counts, sizes, whole = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0), hashlib.sha256()
    with long_bar(None, "reading", progress, "B") as bar:
        for document in documents:
            counts[document.split] += 1
            sizes[document.split] += len(document.payload)
            whole.update(b"".join(document.digests))
            bar.update(len(document.payload))
    return Scan(counts, sizes, whole.hexdigest())


def fill_dataset(folder: Path, corpus: Corpus, scan: Scan, progress: bool) -> dict[str, Any]:
    """Write tokenizer and shards into `folder`; returns the manifest. Nothing in it depends on time or place.

    Raises UserError where texts have too little in them for the vocabulary, cannot be told from their tokens, stand in
    both splits, or differ from the `scan`.
    """
    path, details = folder / TOKENIZER_FILE, {}
    if corpus.tokenizer:
        write_bytes(path, corpus.tokenizer.path.read_bytes())
    else:
        needed = {"required_chars": SPACE_MARK}  # of a text with hardly any spaces: alone they make no piece
        for more in ({}, needed):
            sample = {"documents": 0, "utf8_bytes": 0}
            texts = _sample(corpus, scan, sample, progress)
            write_bytes(path, train_tokenizer(texts, corpus.vocab_size, corpus.caseops, **more))
            details = {"settings": tokenizer_settings(corpus.caseops), **more}
            details |= {"sentencepiece": sentencepiece.__version__, "trained_on": sample}
            if Tokenizer(path).lossless:
                break
        refuse_normalising(Tokenizer(path))
    tokenizer = (CaseTokenizer if corpus.caseops else Tokenizer)(path)
    shards, names = _encode(folder, corpus, scan, tokenizer, progress)
    splits = [Split(split, paths, tokenizer, progress) for split, paths in shards.items()]
    manifest = survey(corpus.about, details, splits, lambda split, index: names[split][index])
    shared = refuse_shared_documents(manifest["documents"])
    if manifest["disjointness"]["val_texts_in_train"]:
        raise UserError("a validation text stands in training, far down the list of documents; put both in one split")
    manifest["disjointness"] |= shared
    if sum(scan.utf8_bytes.values()) <= PASSAGES_BYTES:
        manifest["disjointness"] |= shared_passages(list(corpus.documents()))
    return manifest


# ---------------------------------------------------------------------- tokenizer


def check_pieces(vocab_size: int, what: str = "--vocab-size") -> None:
    """UserError, naming `what` was given, for a number of pieces that tokens of 16 bits cannot tell apart."""
    if not 0 < vocab_size <= 2**16:
        raise UserError(f"{what} {vocab_size}: pieces must be between 1 and 65,536, since tokens are stored in 16 bits")


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024, caseops: bool = False, **more: Any) -> bytes:
    """A lossless SentencePiece BPE model file trained on `texts`: the same texts give the same bytes.

    With `caseops` on the texts with marks for their capitals; `more` are further settings of the trainer.

    Raises UserError where the texts have too little in them for that many pieces.
    """
    model = io.BytesIO()
    # The trainer skips a text that holds U+2585, its mark for the unknown; cut there, only that character is skipped.
    # Nor may a plain text's own U+E001 to U+E004 become pieces, by which changed text is known.
    changed, skipped = (map(to_cases, texts), "\u2585") if caseops else (texts, "\u2585" + CASE_MARKS)
    parts = (part for text in changed for part in re.split(f"[{skipped}]", text) if part)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=parts,
            model_writer=model,
            vocab_size=vocab_size,
            minloglevel=2,
            **tokenizer_settings(caseops),
            **more,
        )
    except RuntimeError as error:
        reason = _in_our_words(str(error).rpartition("] ")[2])
        raise UserError(f"cannot train a tokenizer of {vocab_size} pieces on this text: {reason}") from None
    return model.getvalue()


def _in_our_words(reason: str) -> str:
    """Why SentencePiece trains no tokenizer; it names its own options, a reader has ours."""
    if most := re.search(r"too high .*<= (\d+)", reason):
        return f"it is enough for {most[1]}; give more text, or --vocab-size {most[1]}"
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", reason):
        return f"bytes and different characters alone are {least[1]}; give a larger --vocab-size"
    return reason or "no text"


def _sample(corpus: Corpus, scan: Scan, sample: dict[str, int], progress: bool) -> Iterator[str]:
    """Training texts, or of a large split a share of them chosen by hash; `sample` counts what was given."""
    share = TOKENIZER_BYTES / max(scan.utf8_bytes["train"], 1)
    with long_bar(sum(scan.utf8_bytes.values()), "tokenizer", progress, "B") as bar:
        for document in corpus.documents():
            if document.split == "train" and hash_share(document.digests[1][8:]) < share:
                sample["documents"] += 1
                sample["utf8_bytes"] += len(document.payload)
                yield document.text
            bar.update(len(document.payload))


def hash_share(digest: bytes) -> float:
    """The first eight bytes of a hash as a number from 0 to 1."""
    return int.from_bytes(digest[:8], "big") / 2.0**64


# ---------------------------------------------------------------------- shards


def _encode(
    folder: Path, corpus: Corpus, scan: Scan, tokenizer: Tokenizer, progress: bool
) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
    """The shards of each split, and in the same order the names of its documents, or of the first of very many."""
    rows = {split: array.array("Q") for split in SPLITS}  # of each document the hash of its name, start and length
    names: dict[str, list[tuple[int, str]]] = {split: [] for split in SPLITS}
    share = {"train": 2 * LISTED_TRAIN_DOCUMENTS / max(scan.documents["train"], 1), "val": 1.0}  # to be named, and more
    whole, path = hashlib.sha256(), folder / ".tokens"
    with open(path, "wb") as file, long_bar(sum(scan.utf8_bytes.values()), "encoding", progress, "B") as bar:
        for document in corpus.documents():
            if isinstance(tokenizer, CaseTokenizer) and document.split == "val":
                plain, sizes = tokenizer.encode_with_bytes(document.text, document.name)
                sizes.insert(0, 0)  # of BOS
            else:
                plain, sizes = tokenizer.encode(document.text, document.name), []
            ids = np.array([tokenizer.bos_id, *plain], dtype=TOKEN_TYPE)
            if tokenizer.bytes.total(ids) != (size := len(document.payload)):
                fault = f"the tokens of {document.name} do not stand for its {size} bytes"
                raise UserError(f"{fault}; use another --tokenizer")
            name_digest, _ = document.digests
            key = int.from_bytes(name_digest[:8], "big")
            rows[document.split].extend((key, file.tell() // TOKEN_TYPE.itemsize, len(ids)))
            file.write(ids.tobytes() + np.array(sizes, dtype=TOKEN_TYPE).tobytes())
            if hash_share(name_digest) <= share[document.split]:
                names[document.split].append((key, document.name))
            whole.update(b"".join(document.digests))
            bar.update(size)
    if whole.hexdigest() != scan.sha256:
        raise UserError("the files changed while they were read; run the command again when nothing writes to them")
    shards = {}
    for split in SPLITS:
        table = np.array(rows[split], dtype=np.uint64).reshape(-1, 3)
        spans = table[np.argsort(table[:, 0], kind="stable"), 1:].tolist()
        prefix = f"{corpus.shard_prefix or corpus.about['name']}_{split}"
        shards[split] = _write_shards(folder / prefix, path, spans)
        if isinstance(tokenizer, CaseTokenizer) and split == "val":
            _write_shards(folder / f"{prefix}_bytes", path, [(start + length, length) for start, length in spans])
    path.unlink()
    return shards, {split: [name for _, name in sorted(names[split])] for split in SPLITS}


def write_shard(path: Path | str, tokens: np.ndarray) -> None:
    """Write token ids [n], each below 65,536, as one shard; atomic."""
    tokens = np.asarray(tokens)
    for token in (int(tokens.min()), int(tokens.max())) if tokens.size else ():
        if not 0 <= token < 2**16:
            raise UserError(f"{path}: token {token} does not fit 16 bits; use a vocabulary of at most 65,536")
    header = np.zeros(HEADER_WORDS, dtype="<i4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, tokens.size
    write_bytes(path, header.tobytes() + tokens.astype(TOKEN_TYPE).tobytes())


def _write_shards(prefix: Path, source: Path, spans: Iterable[tuple[int, int]]) -> list[Path]:
    """The (start, length) of the source's numbers, one after another, in shards of SHARD_TOKENS."""
    whole, ordered, paths = np.memmap(source, dtype=TOKEN_TYPE, mode="r"), prefix.with_name(".ordered"), []
    with open(ordered, "wb") as file:
        for start, length in spans:
            file.write(whole[start : start + length].tobytes())
    stream = np.memmap(ordered, dtype=TOKEN_TYPE, mode="r")
    for number, start in enumerate(range(0, len(stream), SHARD_TOKENS)):
        paths.append(prefix.with_name(f"{prefix.name}_{number:06d}.bin"))
        write_shard(paths[-1], stream[start : start + SHARD_TOKENS])
    ordered.unlink()
    return paths


# ---------------------------------------------------------------------- passages


def shared_passages(documents: Sequence[Document]) -> dict[str, int]:
    """How many of the validation text's windows of WINDOW_BYTES bytes stand word for word in training.

    Addresses quote one another and the same laws, so this is not zero; a copied document would show as a large share.
    """
    none = np.zeros(0, np.uint64)
    train, val = (
        np.concatenate([none, *(_window_hashes(one.payload) for one in documents if one.split == split)])
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
