"""What a manifest says of finished shards: tokens, bytes, documents, and how many texts stand in both splits.

Shards are mapped and read piece by piece, so a corpus may be far larger than the memory. Sixteen million training
documents are not listed one by one: a manifest names every validation document and the first training documents.
"""

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pgolf_core.base.files import UserError, sha256_bytes, sha256_file
from pgolf_core.text.caseops import CaseTokenizer
from pgolf_core.text.shards import read_shard, shard_tokens
from pgolf_core.text.sidecar import sidecar_bytes, sidecar_of
from pgolf_core.text.tokenizer import Tokenizer

MANIFEST_FORMAT = 1
TOKENIZER_FILE = "tokenizer.model"
SPLITS = ("train", "val")
LISTED_TRAIN_DOCUMENTS = 20_000
"""Training documents that a large dataset's manifest names; enough for every table and figure about documents."""
CHUNK_TOKENS = 2**22
NORMALISED_SHARE = 0.01
"""How far a sidecar's bytes may be from those of the text that a normalising tokenizer gives back: they count what
stood there before it, and on PR 1855's validation text the two agree to 0.01 %."""


@dataclass(frozen=True)
class Split:
    """The finished shards of one split, and the tokenizer that they are of."""

    name: str
    paths: Sequence[Path]
    tokenizer: Tokenizer
    progress: bool = False

    def documents(self) -> Iterator[np.ndarray]:
        """Token ids [n] uint16 of each document, its BOS first; a document may go on in the next shard.

        Only the stream's very first piece can lack a BOS: where a stream does not begin with one.
        """
        begun = np.zeros(0, dtype=np.uint16)
        for path in sorted(self.paths):
            tokens = np.asarray(read_shard(path, self.tokenizer.vocab_size))
            starts = np.flatnonzero(tokens == self.tokenizer.bos_id).tolist()
            begun = np.concatenate((begun, tokens[: starts[0]] if starts else tokens))
            if not starts:
                continue
            if len(begun):
                yield begun
            for start, end in itertools.pairwise(starts):
                yield tokens[start:end]
            begun = np.array(tokens[starts[-1] :])
        if len(begun):
            yield begun

    def totals(self) -> dict[str, int]:
        """Documents, bytes and tokens."""
        tokens = sum(map(shard_tokens, self.paths))
        found = {"documents": 0, "utf8_bytes": 0, "tokens": tokens}
        previous = self.tokenizer.bos_id  # before the first token: no leading space counts
        with long_bar(tokens, f"counting {self.name}", self.progress, "token") as bar:
            for path in sorted(self.paths):
                shard = np.asarray(read_shard(path, self.tokenizer.vocab_size))
                for start in range(0, len(shard), CHUNK_TOKENS):
                    chunk = np.append(previous, shard[start : start + CHUNK_TOKENS])
                    zeros = np.flatnonzero(chunk == 0)  # no text gives so many of them in a row
                    if (zeros[63:] - zeros[:-63] == 63).any():
                        raise UserError(f"{path} holds zeros in place of tokens: it came broken off; get it again")
                    found["documents"] += int(np.count_nonzero(chunk[1:] == self.tokenizer.bos_id))
                    found["utf8_bytes"] += self.tokenizer.bytes.total(chunk)
                    previous = int(chunk[-1])
                    bar.update(len(chunk) - 1)
        if isinstance(self.tokenizer, CaseTokenizer):  # whose bytes are known of whole documents
            table = self.tokenizer.bytes
            found["utf8_bytes"] = self._sidecar_total() if self.sidecars() else sum(map(table.total, self.documents()))
        return found

    def sidecars(self) -> list[Path]:
        """The files of original bytes beside these shards, if their text was changed and they are of validation."""
        is_changed = isinstance(self.tokenizer, CaseTokenizer) and self.name == "val"
        return [sidecar_of(path) for path in sorted(self.paths)] if is_changed else []

    def _sidecar_total(self) -> int:
        """Bytes by the sidecars; UserError where they are not the text's: exactly, of a normalising tokenizer about."""
        found = sidecar_bytes(self.paths, self.tokenizer)
        place, stream, sizes = self.sidecars()[0], found.stream, found.sizes.astype(np.int64)
        counted = np.append(0, self.tokenizer.bytes.count(stream[:-1], stream[1:]))
        starts = np.append(0, np.flatnonzero(stream[1:] == self.tokenizer.bos_id) + 1)
        said, own = np.add.reduceat(sizes, starts), np.add.reduceat(counted, starts)
        marks = np.isin(stream, np.flatnonzero(self.tokenizer.bytes.base == 0)) & (counted == 0)
        if sizes[marks].any():
            raise UserError(f"{place} gives bytes of text to BOS or to a case mark: it is no sidecar of its shards")
        if self.tokenizer.lossless and (said != own).any():
            at = int(np.argmax(said != own))
            raise UserError(f"{place} counts {said[at]:,} bytes of document {at}, whose text has {own[at]:,}")
        if abs(int(sizes.sum()) - int(counted.sum())) > NORMALISED_SHARE * counted.sum():
            fault = f"counts {sizes.sum():,} bytes, and the tokens' text has {counted.sum():,}"
            raise UserError(f"{place} {fault}: no normalising makes that much of a difference")
        return int(sizes.sum())

    def listed(self, limit: int) -> Iterator[tuple[dict[str, Any], str]]:
        """For the first `limit` documents: sha256 and utf8_bytes of the decoded text, and tokens; and that text.

        Raises UserError where the split has no BOS at its beginning, or where decoded text and byte table disagree.
        """
        with long_bar(limit, f"listing {self.name}", self.progress, "document") as bar:
            for index, ids in enumerate(itertools.islice(self.documents(), limit)):
                if ids[0] != self.tokenizer.bos_id:
                    fault = f"do not begin with BOS (id {self.tokenizer.bos_id}): not shards of this tokenizer"
                    raise UserError(f"the {self.name} shards {fault}")
                text, counted = self.tokenizer.decode(ids), self.tokenizer.bytes.total(ids)
                payload = text.encode("utf-8")
                if counted != len(payload):
                    fault = f"its tokens count {counted} bytes, its text has {len(payload)}; another tokenizer's?"
                    raise UserError(f"{self.name} document {index}: {fault}")
                yield {"sha256": sha256_bytes(payload), "utf8_bytes": len(payload), "tokens": len(ids)}, text
                bar.update()

    def digests(self) -> Iterator[bytes]:
        """A hash of the tokens after BOS of each document that has some."""
        with long_bar(None, f"comparing {self.name}", self.progress, "document") as bar:
            for ids in self.documents():
                bar.update()
                if len(ids) > 1:
                    yield hashlib.sha256(ids[1:].tobytes()).digest()[:16]


def count_shared(train: Split, val: Split) -> int:
    """How many validation documents have exactly the tokens, and so the text, of some training document."""
    wanted = list(val.digests())
    found = set(wanted).intersection(train.digests())
    return sum(digest in found for digest in wanted)


def survey(
    about: dict[str, Any], about_tokenizer: dict[str, Any], splits: Sequence[Split], name_of: Callable[[str, int], str]
) -> dict[str, Any]:
    """The manifest of finished shards: `about` (name, source, split_rule), then what files and tokens say.

    `splits` are train and val; `name_of(split, index)` names a document by its place. Text and bytes are of the decoded
    tokens. Raises UserError for shards that no score could be trusted on (see Split.listed).
    """
    shards, documents, totals = [], [], {}
    sidecars: list[dict[str, Any]] = []
    for split in splits:
        totals[split.name] = split.totals()
        if not totals[split.name]["documents"]:
            bos = split.tokenizer.bos_id
            raise UserError(f"the {split.name} shards hold no document: BOS (id {bos}) stands nowhere in them")
        for path in sorted(split.paths):
            shards.append(_file_entry(path) | {"split": split.name, "tokens": shard_tokens(path)})
        sidecars += map(_file_entry, split.sidecars())
        limit = LISTED_TRAIN_DOCUMENTS if split.name == "train" else totals[split.name]["documents"]
        for index, (entry, _) in enumerate(split.listed(limit)):
            name = name_of(split.name, index)
            documents.append({"name": name, "group": name, "split": split.name} | entry)
    all_listed = len(documents) == sum(total["documents"] for total in totals.values())
    tokenizer = splits[0].tokenizer
    known = {"vocab_size": tokenizer.vocab_size, "kind": "sentencepiece", "lossless": tokenizer.lossless}
    return {
        "format": MANIFEST_FORMAT,
        **about,
        "tokenizer": _file_entry(tokenizer.path) | known | about_tokenizer,
        "shards": shards,
        **({"sidecars": sidecars} if sidecars else {}),
        "totals": totals,
        "disjointness": {"val_texts_in_train": count_shared(*splits)},
        **({} if all_listed else {"listed_train_documents": LISTED_TRAIN_DOCUMENTS}),
        "documents": documents,
    }


def _file_entry(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def long_bar(total: int | None, label: str, enabled: bool, unit: str) -> tqdm:
    """A bar that appears only for work of more than a few seconds: on a terminal's standard error, which leaves
    printed JSON whole, and in notebooks on standard output, since they show the other in red.
    """
    shown = {"delay": 3, "mininterval": 0.5, "file": sys.stderr if sys.stderr.isatty() else sys.stdout}
    return tqdm(total=total, desc=label, unit=unit, unit_scale=True, disable=not enabled, **shown)
