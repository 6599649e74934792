"""The stream in the recipe's order, and the micro-batches of one step."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from pgolf_core.recipes.recipe import Data
from pgolf_core.text.packed import PackedStream, document_starts
from pgolf_core.text.ranked import RankedStream
from pgolf_core.text.shards import TokenStream


def open_stream(data: Data, paths: Sequence[Path], vocab_size: int, seed: int) -> TokenStream:
    """The shards' tokens in the order that the recipe names."""
    kind = PackedStream if data.order == "packed" else RankedStream if data.order == "ranked" else TokenStream
    return kind(paths, vocab_size, seed=seed)


def micro_batches(inputs: Tensor, targets: Tensor, data: Data) -> Iterator[tuple[Tensor, ...]]:
    """A step's rows [B, T] in parts of as many tokens as micro_batch_seqs x seq_len: inputs and targets.

    With data.order = packed also where attention begins anew (`document_starts`).
    """
    size = max(data.micro_batch_seqs * data.seq_len // inputs.size(1), 1)
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        yield (x, y, document_starts(x, data.seq_len)) if data.order == "packed" else (x, y)
