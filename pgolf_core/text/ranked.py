"""The loader of PR 1493: every rank draws windows of its own shards, in an order that follows from the rank alone."""

import numpy as np

from pgolf_core.base.files import UserError
from pgolf_core.recipes.recipe import Data
from pgolf_core.text.shards import TokenStream


class RankedStream(TokenStream):
    """Shuffled windows by rank: rank r of w owns the sorted shards r, r + w, ... and draws from its own generator.

    Each shard is cut into windows from a random phase, listed in random order; a window is the last of the list of a
    shard that is drawn in proportion to what its list still holds. When every list is empty, all are made anew. The
    recipe's seed decides nothing here, and a step's tokens depend on how many ranks there are: both as in PR 1493, and
    unlike the orders of TokenStream. `position` counts the tokens that each rank has taken.
    """

    _drawn = -1
    """Windows drawn so far by the generator; negative: there is none yet."""

    def own_spans(self, data: Data, rank: int, ranks: int, seq_len: int) -> np.ndarray:
        """The next windows of this rank, [data.batch_tokens / seq_len / ranks, seq_len + 1] uint16.

        UserError for a rank without a shard, or whose shards are all shorter than a window.
        """
        self._mine = range(rank, len(self._shards), ranks)
        done = self.position // seq_len
        if not 0 <= self._drawn <= done:
            self._generator, self._drawn = np.random.default_rng(rank), 0
            self._lists = self._cut(seq_len)
            if not any(self._lists):
                raise UserError(
                    f"data.order = ranked gives process {rank} of {ranks} no window of {seq_len} tokens: the training "
                    f"split has {len(self._shards)} shards; take fewer processes or data.order = shuffled"
                )
        while self._drawn < done:  # a resumed run draws again what the one before it drew
            self._draw(seq_len)
        spans = [self._read(self._draw(seq_len), seq_len + 1) for _ in range(data.batch_tokens // seq_len // ranks)]
        self.position += len(spans) * seq_len
        return np.stack(spans)

    def _cut(self, length: int) -> list[list[int]]:
        """First tokens of the windows of each shard that is this rank's, in the order from the last on."""
        lists = []
        for tokens in (len(self._shards[index]) for index in self._mine):
            most = min(length - 1, max(0, tokens - length - 1))
            phase = int(self._generator.integers(most + 1)) if most else 0
            count = max(0, (tokens - 1 - phase) // length)
            lists.append((phase + length * self._generator.permutation(count)).tolist())
        return lists

    def _draw(self, length: int) -> int:
        """Where the next window begins in the whole split."""
        if not any(self._lists):
            self._lists = self._cut(length)
        left = np.array([len(starts) for starts in self._lists], np.float64)
        chosen = int(self._generator.choice(len(left), p=left / left.sum()))
        index = self._mine[chosen]
        self._drawn += 1
        return int(self._ends[index]) - len(self._shards[index]) + self._lists[chosen].pop()
