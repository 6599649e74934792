"""What a step's tokens become: the stream in the recipe's order, rows, and the micro-batches of one step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from pgolf_core.recipes.recipe import Data
from pgolf_core.text.packed import PackedStream, document_starts
from pgolf_core.text.ranked import RankedStream
from pgolf_core.text.shards import TokenStream, seq_len_at


def open_stream(data: Data, paths: Sequence[Path], vocab_size: int, seed: int) -> TokenStream:
    """The shards' tokens in the order that the recipe names."""
    if data.order == "packed":
        return PackedStream(paths, vocab_size)
    return (RankedStream if data.order == "ranked" else TokenStream)(paths, vocab_size, seed=seed)


def row_len_at(data: Data, used: float) -> int:
    """Tokens of a row when `used` in [0, 1] of the budget is gone: a sequence, or with data.order = packed a span."""
    return data.batch_tokens // data.spans_per_step if data.order == "packed" else seq_len_at(data, used)


def micro_batches(inputs: Tensor, targets: Tensor, data: Data) -> Iterator[tuple[Tensor, ...]]:
    """A step's rows [B, T] in parts of as many tokens as micro_batch_seqs x seq_len: inputs and targets.

    With data.order = packed also where attention begins anew (`document_starts`).
    """
    size = max(data.micro_batch_seqs * data.seq_len // inputs.size(1), 1)
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        yield (x, y, document_starts(x, data.seq_len)) if data.order == "packed" else (x, y)
