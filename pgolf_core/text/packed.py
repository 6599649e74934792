"""The loader of PR 1855: long rows of whole documents, one after another, and where attention may not look back."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgolf_core.base.files import UserError
from pgolf_core.recipes.recipe import Data
from pgolf_core.text.shards import TokenStream
from pgolf_core.text.tokenizer import BOS

_LOOK_TOKENS = 2**16
"""How much of a shard is read at a time where its first document is looked for."""


class PackedStream(TokenStream):
    """The shards in order, each from its first document on; a step's spans never reach over a shard's end.

    Ranks r of w take spans in turn: of every w spans of n + 1 tokens rank r gets the r-th. Where w more of them are not
    left in a shard, its rest is dropped, so that what is dropped depends on how many ranks there are. The recipe's seed
    decides nothing. `position` is the place of the next token, dropped ones counted.
    """

    def own_spans(self, data: Data, rank: int, ranks: int, seq_len: int) -> np.ndarray:
        """The next spans of this rank, uint16 [data.spans_per_step / ranks, data.batch_tokens / spans_per_step + 1].

        UserError where no shard holds as much from a document's start on.
        """
        tokens, spans = data.batch_tokens // data.spans_per_step + 1, []
        for _ in range(data.spans_per_step // ranks):
            self._go_where_there_are(ranks * tokens)
            spans.append(self._read(self.position + rank * tokens, tokens))
            self.position += ranks * tokens
        return np.stack(spans)

    def _go_where_there_are(self, tokens: int) -> None:
        """Move on to the next place in one shard, its first document's start or later, with so many tokens left."""
        for _ in range(len(self._shards) + 1):
            at = self.position % self.total_tokens
            index = int(np.searchsorted(self._ends, at, side="right"))
            end, shard = int(self._ends[index]), self._shards[index]
            first = at + _first_document(shard) if at == end - len(shard) else at
            if first + tokens <= end:
                self.position += first - at
                return
            self.position += end - at
        raise UserError(
            f"data.order = packed takes {tokens:,} tokens at a time, and no training shard has as many from a "
            f"document's start (token {BOS}) on; take a smaller data.batch_tokens or more data.spans_per_step"
        )


def _first_document(shard: np.ndarray) -> int:
    """Where a shard's first document starts; its length where none does."""
    for start in range(0, len(shard), _LOOK_TOKENS):
        found = np.flatnonzero(shard[start : start + _LOOK_TOKENS] == BOS)
        if len(found):
            return start + int(found[0])
    return len(shard)


def document_starts(inputs: Tensor, longest: int, multiple: int = 256) -> Tensor:
    """Where attention begins anew in packed rows: inputs int64 [rows, n] -> int32 [a multiple of `multiple`].

    Places in the flattened rows, rising: of every row's first token, of every BOS, and of every `longest`-th token
    after one of those; then rows x n, at least once. PR 1855 fills up to a multiple of 64 and compiles a graph for each
    length; the coarser one here has one graph for nearly all steps.
    """
    begins = inputs == BOS
    begins[:, 0] = True
    bounds = [*begins.flatten().nonzero().flatten().tolist(), inputs.numel()]
    starts = [place for start, end in itertools.pairwise(bounds) for place in range(start, end, longest)]
    filled = torch.tensor([*starts, bounds[-1]], dtype=torch.int32)
    return F.pad(filled, (0, -len(filled) % multiple), value=bounds[-1])
