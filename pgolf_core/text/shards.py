"""Shards of tokens, the stream over them, and which tokens one optimiser step sees.

Shard format: 256 little-endian int32 words (magic, version, number of tokens, zeros), then that many
little-endian uint16 tokens and nothing else. Every document begins with BOS.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pgolf_core.base.files import UserError, told_by
from pgolf_core.recipes.recipe import Data
from pgolf_core.text.tokenizer import Tokenizer

SHARD_MAGIC = 20240520
SHARD_VERSION = 1
HEADER_WORDS = 256
HEADER_BYTES = 4 * HEADER_WORDS
TOKEN_TYPE = np.dtype("<u2")
_SIDECAR = re.compile(
    r"(^|[^a-z]|val|train|n)(bytes|byte[._-]?(counts?|len\w*|sizes?))([._-]|$)|(val|train)[._-](len\w*|counts?|sizes?)[._-]",
    re.IGNORECASE,
)
_PROSE = (".md", ".txt", ".json", ".py", ".sh", ".ipynb", ".html", ".csv", ".log", ".model", ".vocab")
CASE_MARKS = "\ue001\ue002\ue003\ue004"
"""What such a changed text marks its capitals with."""
NEEDS_SIDECAR = (
    "this text was changed (marks for capitals) and original bytes are not counted; use unchanged text or "
    "data.bytes=sidecar"
)
_WINDOW = 2**16
"""Tokens of a shard's beginning, middle and end that a sample is drawn from."""


def is_sidecar(path: str) -> bool:
    """Whether a relative path says that the file holds each token's original bytes: of a text that was changed."""
    return any(map(_SIDECAR.search, path.split("/"))) and not path.lower().endswith(_PROSE)


def shard_tokens(path: Path | str, sidecar: bool = False) -> int:
    """Number of tokens a shard declares, its header and size checked and its tokens left unread; or a sidecar's.

    Raises UserError for a file that is missing, foreign, of another version, truncated or too long.
    """
    path = Path(path)
    remedy = "delete its dataset and prepare it again"
    if is_sidecar(path.name) and not sidecar:
        raise UserError(f"{path} is a byte sidecar, no shard: {NEEDS_SIDECAR}")
    if not path.is_file():
        raise UserError(f"shard {path} does not exist; {remedy}")
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read shard {path}: {error.strerror}") from None
    words = np.frombuffer(head[: len(head) // 4 * 4], dtype="<i4")
    if SHARD_MAGIC not in words[:1]:
        instead = told_by(path) or f"is not a shard of tokens (its first word is not {SHARD_MAGIC})"
        raise UserError(f"{path} {instead}; {remedy}")
    if len(words) < HEADER_WORDS:
        raise UserError(f"shard {path} is truncated: {size} bytes, shorter than its header; {remedy}")
    if words[1] != SHARD_VERSION:
        raise UserError(f"shard {path} has format version {words[1]}, this program reads {SHARD_VERSION}; {remedy}")
    expected = HEADER_BYTES + TOKEN_TYPE.itemsize * int(words[2])
    if size != expected:
        fault = "truncated" if size < expected else "too long"
        raise UserError(f"shard {path} is {fault}: {size} bytes where its header promises {expected}; {remedy}")
    return int(words[2])


def read_shard(path: Path | str, vocab_size: int | None = None, sidecar: bool = False) -> np.ndarray:
    """Tokens [n] uint16 of a shard, mapped from the file. With `vocab_size`, every token is checked to lie below it.

    With `sidecar` the bytes of tokens, of a file of such.
    """
    if shard_tokens(path, sidecar) == 0:
        return np.zeros(0, dtype=np.uint16)  # an empty range of a file cannot be mapped
    tokens = np.memmap(path, dtype=TOKEN_TYPE, mode="r", offset=HEADER_BYTES)
    if vocab_size is not None:
        _check_tokens(tokens, vocab_size, f"shard {path}")
    return tokens


def load_tokens(paths: Sequence[Path | str], vocab_size: int | None = None) -> np.ndarray:
    """All tokens [n] uint16 of the shards in sorted order, in memory."""
    return np.concatenate([read_shard(path, vocab_size) for path in _sorted(paths)])


def prove(paths: Sequence[Path | str], tokenizer: Tokenizer, sidecar: bool = False) -> int:
    """How many documents of a sample, some of every shard, were decoded and encoded again: they give their own tokens.

    UserError where more than one in twenty do not, or one in four of a shard: they are of another tokenizer, even one
    of the same size, or damaged; and without `sidecar` for a tokenizer whose pieces mark capitals.
    """
    marks = [piece for piece in map(tokenizer.piece, range(tokenizer.vocab_size)) if piece and piece in CASE_MARKS]
    if marks and not sidecar:
        raise UserError(f"{tokenizer.path} has pieces for case marks (U+{ord(marks[0]):04X}): {NEEDS_SIDECAR}")
    for folder in sorted({Path(path).parent for path in paths}):
        if not sidecar and (beside := sorted(name for name in os.listdir(folder) if is_sidecar(name))):
            raise UserError(f"{folder / beside[0]} is a byte sidecar: {NEEDS_SIDECAR}")
    sampled = 0
    failed: list[str] = []
    for path in _sorted(paths):
        before = sampled, len(failed)
        tokens = read_shard(path)
        for begin in sorted({0, max(0, len(tokens) // 2 - _WINDOW), max(0, len(tokens) - _WINDOW)}):
            window = np.asarray(tokens[begin : begin + _WINDOW])
            _check_tokens(window, tokenizer.vocab_size, f"shard {path}", begin)
            if len(window) >= 64 and not window[-64:].any():
                raise UserError(f"shard {path} holds zeros in place of tokens: it came broken off; get it again")
            starts, words = np.flatnonzero(window == tokenizer.bos_id), []
            if not len(starts) and len(window) > 512:  # inside one long document: from a word, or else a character, on
                pieces = [tokenizer.piece(int(token)) for token in window[:256]]
                words = [at for at, piece in enumerate(pieces) if re.match("▁[^▁]", piece)]
                inner = [at for at, piece in enumerate(pieces) if not re.match("▁|<0x[89AB]", piece)]
                starts = np.array([*words, *inner, 0])[:1] - 1
            ends = [*starts[1:].tolist(), len(window)]
            for at in range(0, len(starts), max(1, len(starts) // 8)):
                ids = window[starts[at] + 1 : min(ends[at], starts[at] + 513)]
                whole = at + 1 < len(starts) and ends[at] <= starts[at] + 513
                sampled += 1
                if not _comes_back(ids, tokenizer, whole, bool(words)):
                    failed.append(f"{path}, position {begin + max(0, starts[at])}")
        if len(failed) - before[1] > (sampled - before[0]) / 4 or len(failed) > sampled / 20:
            raise UserError(
                f"{len(failed)} of {sampled} documents do not encode to their own tokens (first: {failed[0]}): the "
                f"tokenizer {tokenizer.path} did not make them; name the one that did"
            )
    return sampled


def _comes_back(ids: np.ndarray, tokenizer: Tokenizer, whole: bool, after_word: bool) -> bool:
    """Whether a document's tokens are those of its own text; of a part the last word is not asked."""
    try:
        text = tokenizer.decode(ids)
        again = tokenizer.encode("a " + text.lstrip(" ") if after_word else text)[after_word:]
    except UserError:
        return False
    compared = None if whole else max(0, len(ids) - 64)
    return again[:compared] == ids[:compared].tolist()


class TokenStream:
    """The sorted shards one after another, wrapping forever: read in order, or window by shuffled window.

    `position` counts the tokens taken since the start of the first pass. A stream opened at a saved position goes on
    exactly where the other stopped. Headers and sizes are checked here, token ids as they are taken.
    """

    def __init__(self, paths: Sequence[Path | str], vocab_size: int | None = None, position: int = 0, seed: int = 0):
        self.paths = _sorted(paths)
        self.vocab_size = vocab_size
        self.position = position
        self.seed = seed
        self._pass: tuple[int, int, np.ndarray] | None = None
        self._shards = [read_shard(path) for path in self.paths]
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        self.total_tokens = int(self._ends[-1])
        if self.total_tokens == 0:
            raise UserError(f"the shards in {self.paths[0].parent} hold no tokens; prepare the dataset again")

    def take(self, n: int) -> np.ndarray:
        """The next `n` tokens, [n] uint16."""
        taken = self._read(self.position, n)
        self.position += n
        return taken

    def take_shuffled(self, count: int, length: int) -> np.ndarray:
        """The next `count` windows of `length` + 1 tokens in the seed's random order, [count, length + 1] uint16.

        A pass cuts the split into windows from a random offset below `length` and visits each once, so that no two
        passes show the same windows; a pass of less than one window is one window. Counts `length` tokens a window.
        """
        per_pass = max(1, self.total_tokens // length - 1)
        windows = np.empty((count, length + 1), dtype=np.uint16)
        for row in range(count):
            number, at = divmod(self.position // length, per_pass)
            if self._pass is None or self._pass[0] != number:
                generator = np.random.default_rng((self.seed, number))
                self._pass = number, int(generator.integers(length)), generator.permutation(per_pass)
            _, offset, order = self._pass
            windows[row] = self._read(offset + int(order[at]) * length, length + 1)
            self.position += length
        return windows

    def own_spans(self, data: Data, rank: int, ranks: int, seq_len: int) -> np.ndarray:
        """What one rank trains on in the next step: spans of n + 1 tokens, [spans, n + 1] uint16 (see `step_batch`)."""
        if data.order == "shuffled":
            spans = self.take_shuffled(data.batch_tokens // seq_len, seq_len)
        else:
            n = data.batch_tokens // data.spans_per_step
            spans = self.take(data.spans_per_step * (n + 1)).reshape(data.spans_per_step, n + 1)
        own = len(spans) // ranks
        return spans[rank * own : (rank + 1) * own]

    def _read(self, position: int, n: int) -> np.ndarray:
        taken = np.empty(n, dtype=np.uint16)
        filled = 0
        while filled < n:
            at = (position + filled) % self.total_tokens
            index = int(np.searchsorted(self._ends, at, side="right"))
            shard = self._shards[index]
            offset = at - int(self._ends[index] - len(shard))
            part = shard[offset : offset + n - filled]
            if self.vocab_size is not None:
                _check_tokens(part, self.vocab_size, f"shard {self.paths[index]}", offset)
            taken[filled : filled + len(part)] = part
            filled += len(part)
        return taken


def seq_len_at(data: Data, used: float) -> int:
    """Tokens of a row when `used` in [0, 1] of the budget is gone: longer ones may end a run, packed ones are spans."""
    if data.order == "packed":
        return data.batch_tokens // data.spans_per_step
    return data.final_seq_len if data.final_seq_len and used >= 1 - data.final_fraction else data.seq_len


def step_batch(
    stream: TokenStream, data: Data, rank: int = 0, ranks: int = 1, seq_len: int = 0
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one optimiser step, each int64 [batch_tokens // seq_len // ranks, seq_len]: this rank's.

    The step takes `spans_per_step` contiguous spans of n + 1 tokens: inputs are the first n, targets the last. With 8
    spans this is the published partition; with data.order = shuffled they are windows of `seq_len` (0: the first).
    Ranks get equally many whole spans, so that the step's tokens are the same however many ranks there are; a
    RankedStream's are not.
    """
    seq_len = seq_len or seq_len_at(data, 0.0)
    tokens = torch.from_numpy(stream.own_spans(data, rank, ranks, seq_len).astype(np.int64))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    # contiguous, as in the warm-up: other strides would be compiled anew, on the clock
    return inputs.reshape(-1, seq_len).contiguous(), targets.reshape(-1, seq_len).contiguous()


def check_enough(total_tokens: int, recipe_data: Data, what: str) -> None:
    """UserError if `what` is too short for one step: its batch would hold some tokens twice."""
    needed = recipe_data.batch_tokens + recipe_data.spans_per_step
    if total_tokens < needed:
        raise UserError(
            f"{what} has {total_tokens:,} tokens, but one step of data.batch_tokens = {recipe_data.batch_tokens} needs "
            f"{needed:,}; lower data.batch_tokens or choose a longer corpus"
        )


def check_ranks(ranks: int, data: Data) -> None:
    """UserError if the spans of a step cannot be shared out equally among this many ranks."""
    spans = data.spans_per_step
    if spans % ranks:
        fitting = ", ".join(str(n) for n in range(1, spans + 1) if spans % n == 0)
        raise UserError(f"{ranks} processes do not divide data.spans_per_step = {spans}; use --nproc of {fitting}")


def _check_tokens(tokens: np.ndarray, vocab_size: int, place: str, offset: int = 0) -> None:
    if len(tokens) and int(tokens.max()) >= vocab_size:
        at = int(np.argmax(tokens >= vocab_size))
        raise UserError(
            f"{place} holds token {tokens[at]} at position {offset + at}, but the vocabulary has {vocab_size} pieces; "
            "it was made with another tokenizer: choose the recipe or --data that fits"
        )


def _sorted(paths: Sequence[Path | str]) -> list[Path]:
    if not paths:
        raise UserError("no shards to read: the dataset lists none; prepare it again")
    return sorted(Path(path) for path in paths)
