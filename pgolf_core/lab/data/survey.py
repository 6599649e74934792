"""What a manifest says of finished shards: tokens, bytes, documents, and how many texts stand in both splits.

Shards are mapped and read piece by piece, so a corpus may be far larger than the memory. Sixteen million training
documents are not listed one by one: a manifest names every validation document and the first training documents.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pgolf_core.base.files import UserError, sha256_bytes, sha256_file
from pgolf_core.text.shards import read_shard, shard_tokens
from pgolf_core.text.tokenizer import Tokenizer

SPLITS = ("train", "val")
LISTED_TRAIN_DOCUMENTS = 20_000
"""Training documents that a large dataset's manifest names; enough for every table and figure about documents."""
CHUNK_TOKENS = 2**22


def file_entry(path: Path) -> dict[str, Any]:
    """A file as manifests name it: file, bytes, sha256."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def stream_documents(paths: Sequence[Path], bos_id: int, vocab_size: int) -> Iterator[np.ndarray]:
    """Token ids [n] uint16 of each document of a split, its BOS first; a document may go on in the next shard.

    Only the stream's very first piece can lack a BOS: where a stream does not begin with one.
    """
    begun = np.zeros(0, dtype=np.uint16)
    for path in sorted(paths):
        tokens = np.asarray(read_shard(path, vocab_size))
        starts = np.flatnonzero(tokens == bos_id).tolist()
        head = tokens[: starts[0]] if starts else tokens
        begun = np.concatenate((begun, head))
        if not starts:
            continue
        if len(begun):
            yield begun
        for start, end in itertools.pairwise(starts):
            yield tokens[start:end]
        begun = np.array(tokens[starts[-1] :])
    if len(begun):
        yield begun


def count_shared(
    train_paths: Sequence[Path], val_paths: Sequence[Path], tokenizer: Tokenizer, progress: bool = False
) -> int:
    """How many validation documents have exactly the tokens, and so the text, of some training document."""
    found: set[bytes] = set()
    val = [_digest(ids) for ids in stream_documents(val_paths, tokenizer.bos_id, tokenizer.vocab_size) if len(ids) > 1]
    wanted = set(val)
    with long_bar(sum(map(shard_tokens, train_paths)), "comparing splits", progress) as bar:
        for ids in stream_documents(train_paths, tokenizer.bos_id, tokenizer.vocab_size):
            digest = _digest(ids)
            if digest in wanted:
                found.add(digest)
            bar.update(len(ids))
    return sum(digest in found for digest in val)


def survey(
    shards: dict[str, Sequence[Path]], tokenizer: Tokenizer, name_of: Callable[[str, int], str], progress: bool
) -> dict[str, Any]:
    """The manifest's shards, totals, disjointness and documents, from the shards alone; listed_train_documents too
    where not all are listed.

    `shards` are the files of each split; `name_of(split, index)` names a document by its place. Text and bytes are of
    the decoded tokens. Raises UserError for a split without BOS at its beginning, or where decoded text and the
    byte table disagree: no score on such data could be trusted.
    """
    entries, totals, documents = [], {}, []
    for split in SPLITS:
        totals[split] = {"documents": 0, "utf8_bytes": 0, "tokens": 0}
        previous = tokenizer.bos_id
        with long_bar(sum(map(shard_tokens, shards[split])), f"counting {split}", progress) as bar:
            for path in sorted(shards[split]):
                counts, previous = _count_shard(path, tokenizer, previous)
                entries.append(file_entry(path) | {"split": split, "tokens": counts["tokens"]})
                totals[split] = {key: totals[split][key] + counts[key] for key in totals[split]}
                bar.update(counts["tokens"])
        listed = totals[split]["documents"] if split == "val" else LISTED_TRAIN_DOCUMENTS
        stream = stream_documents(shards[split], tokenizer.bos_id, tokenizer.vocab_size)
        with long_bar(min(listed, totals[split]["documents"]), f"listing {split}", progress, "document") as bar:
            for index, ids in enumerate(itertools.islice(stream, listed)):
                documents.append(_document(ids, split, name_of(split, index), tokenizer))
                bar.update()
    shared = count_shared(shards["train"], shards["val"], tokenizer, progress)
    found = {"shards": entries, "totals": totals, "disjointness": {"val_texts_in_train": shared}}
    if len(documents) < sum(total["documents"] for total in totals.values()):
        found["listed_train_documents"] = LISTED_TRAIN_DOCUMENTS
    return found | {"documents": documents}


def long_bar(total: int, label: str, enabled: bool, unit: str = "token") -> tqdm:
    """A bar that appears only for work of more than a few seconds: on a terminal's standard error, which leaves
    printed JSON whole, and in notebooks on standard output, since they show the other in red.
    """
    file = sys.stderr if sys.stderr.isatty() else sys.stdout
    options = {"unit_scale": True, "delay": 3, "mininterval": 0.5, "file": file}
    return tqdm(total=total, desc=label, unit=unit, disable=not enabled, **options)


def _document(ids: np.ndarray, split: str, name: str, tokenizer: Tokenizer) -> dict[str, Any]:
    if ids[0] != tokenizer.bos_id:
        raise UserError(
            f"the {split} shards do not begin with BOS (id {tokenizer.bos_id}): not shards of this tokenizer"
        )
    payload = tokenizer.decode(ids).encode("utf-8")
    counted = tokenizer.bytes.total(ids)
    if counted != len(payload):
        raise UserError(f"{name}: its tokens count {counted} bytes, its text has {len(payload)}; another tokenizer's?")
    entry = {"name": name, "group": name, "split": split, "sha256": sha256_bytes(payload)}
    return entry | {"utf8_bytes": len(payload), "tokens": len(ids)}


def _count_shard(path: Path, tokenizer: Tokenizer, previous: int) -> tuple[dict[str, int], int]:
    """Documents, bytes and tokens of one shard, given the token before it; and its own last token."""
    tokens = np.asarray(read_shard(path, tokenizer.vocab_size))
    counts = {"documents": 0, "utf8_bytes": 0, "tokens": len(tokens)}
    for start in range(0, len(tokens), CHUNK_TOKENS):
        chunk = np.append(previous, tokens[start : start + CHUNK_TOKENS])
        counts["documents"] += int(np.count_nonzero(chunk[1:] == tokenizer.bos_id))
        counts["utf8_bytes"] += tokenizer.bytes.total(chunk)
        previous = int(chunk[-1])
    return counts, previous


def _digest(ids: np.ndarray) -> bytes:
    return hashlib.sha256(ids[1:]).digest()[:16]
