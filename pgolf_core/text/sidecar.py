"""Bytes of the original text for each validation token, where the tokens alone do not tell them.

A text that was changed (text.caseops) comes with a sidecar: beside x_val_000000.bin a file x_val_bytes_000000.bin of
the same form, with the bytes of every token in place of it; of BOS none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pgolf_core.base.files import UserError
from pgolf_core.text.shards import CASE_MARKS, load_tokens, read_shard, shard_tokens
from pgolf_core.text.tokenizer import TokenBytes, Tokenizer


@dataclass(frozen=True)
class SidecarBytes(TokenBytes):
    """Bytes by a token's place in one stream."""

    stream: np.ndarray
    """[n] uint16: the tokens."""
    sizes: np.ndarray
    """[n] uint16: the bytes of each."""

    def count(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """As TokenBytes', of a beginning of that stream; UserError for other tokens."""
        n = len(targets)
        if not (np.array_equal(self.stream[:n], previous) and np.array_equal(self.stream[1 : n + 1], targets)):
            raise UserError("bytes by a sidecar are known for its whole stream, from the start; these are other tokens")
        return self.sizes[1 : n + 1].astype(np.int64)


def has_case_marks(tokenizer: Tokenizer) -> bool:
    """Whether the pieces are of text whose capitals are marks: each mark has one."""
    return {*CASE_MARKS} <= {*map(tokenizer.piece, range(tokenizer.vocab_size))}


def sidecar_of(shard: Path) -> Path:
    """Where the sidecar of a validation shard lies, if it has one."""
    head, _, tail = shard.name.rpartition("val_")
    return shard.with_name(f"{head}val_bytes_{tail}")


def sidecar_bytes(shards: Sequence[Path], tokenizer: Tokenizer) -> SidecarBytes:
    """The sidecars of these shards; UserError for one that is missing, of another length, or gives BOS bytes."""
    paths = sorted(shards)
    for path in paths:
        beside = sidecar_of(path)
        if (there := shard_tokens(beside, True)) != (wanted := shard_tokens(path)):
            raise UserError(f"{beside} holds the bytes of {there} tokens, its shard has {wanted}; get both again")
    stream = load_tokens(paths, tokenizer.vocab_size)
    sizes = np.concatenate([read_shard(sidecar_of(path), sidecar=True) for path in paths])
    if sizes[stream == tokenizer.bos_id].any():
        raise UserError(f"{sidecar_of(paths[0])} gives BOS bytes of text: it is no sidecar of its shards")
    table = tokenizer.bytes
    return SidecarBytes(table.base, table.leading_space, table.boundary, stream, sizes)


def split_bytes(shards: Sequence[Path], tokenizer: Tokenizer) -> TokenBytes:
    """What the bytes of a validation split are counted by: its sidecar where there is one, else the tokenizer's table.

    UserError where a sidecar is missing that these tokens need.
    """
    if has_case_marks(tokenizer) or any(sidecar_of(path).exists() for path in shards):
        return sidecar_bytes(shards, tokenizer)
    return tokenizer.bytes
