"""What notebook 01 looks at: documents, lengths of tokens, reference points in bits, and wrong denominators.

A stream's targets are its tokens 1..n-1, as everywhere: the first token is never predicted.
"""

import itertools
import lzma
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zstandard

from pgolf_core.base.files import UserError, sha256_bytes
from pgolf_core.lab.data.build import train_tokenizer
from pgolf_core.text.caseops import CaseTokenizer, to_cases
from pgolf_core.text.shards import CASE_MARKS
from pgolf_core.text.tokenizer import SPACE_MARK, TokenBytes, Tokenizer

SPLIT_NAMES = {"train": "train", "val": "validation"}
"""The manifest's splits as tables and figures call them."""
VISIBLE = str.maketrans({SPACE_MARK: "␣", "\n": "\\n", "\t": "\\t", "\r": "\\r"})


def documents_table(manifest: dict[str, Any]) -> pd.DataFrame:
    """One row per document in order, as the manifest has it, with split, bytes_per_token (BOS left out), position, and
    year, which is missing where the name does not begin with one."""
    table = pd.DataFrame(manifest["documents"])
    table["split"] = table["split"].map(SPLIT_NAMES)
    table["bytes_per_token"] = table["utf8_bytes"] / (table["tokens"] - 1).clip(lower=1)
    table["position"] = np.arange(len(table))
    table["year"] = pd.to_numeric(table["name"].str.extract(r"^(\d{4})-")[0]).astype("Int64")
    return table


def totals_table(manifest: dict[str, Any]) -> pd.DataFrame:
    """Documents, utf8_bytes, tokens and bytes per token (BOS left out) of whole splits, also those listed in part."""
    table = pd.DataFrame({SPLIT_NAMES[split]: total for split, total in manifest["totals"].items()}).T
    table["bytes per token"] = table["utf8_bytes"] / (table["tokens"] - table["documents"]).clip(lower=1)
    return table.rename_axis("split")


def compression_by(table: pd.DataFrame, column: str, width: int) -> pd.DataFrame:
    """Bytes per token (sum over sum, BOS left out) of every split in bins of `width` of a column, by the bins' lower
    ends; NaN where a split has no text."""
    text = table.assign(tokens=table["tokens"] - 1)
    sums = text.groupby([text[column] // width * width, "split"])[["utf8_bytes", "tokens"]].sum()
    return (sums["utf8_bytes"] / sums["tokens"]).unstack("split")


def off_the_rule(table: pd.DataFrame) -> list[str]:
    """Names of documents whose split is not what the corpus' rule says, worked out again from their names alone:
    validation if the SHA-256 of the name without its last "-number" is divisible by ten."""
    tenth = [int(sha256_bytes(name.rpartition("-")[0].encode()), 16) % 10 == 0 for name in table["name"]]
    return table["name"][table["split"] != np.where(tenth, "validation", "train")].tolist()


def sums_by_document(values: np.ndarray, tokens: np.ndarray, bos_id: int) -> np.ndarray:
    """Sum over each document of one value per token [n] (bytes, bits); a document is its BOS and what follows."""
    starts = np.flatnonzero(np.asarray(tokens) == bos_id)
    assert len(starts) and starts[0] == 0, "a stream begins with BOS"
    return np.add.reduceat(values, starts)


def bytes_of_stream(token_bytes: TokenBytes, tokens: np.ndarray) -> np.ndarray:
    """Bytes of every token of a stream that begins with BOS, int64 [n]; the first one's are zero."""
    return np.concatenate(([0], token_bytes.count(tokens[:-1], tokens[1:])), dtype=np.int64)


def entropy_bits(counts: np.ndarray) -> float:
    """Order-0 entropy in bits per symbol: what an ideal coder needs that knows these very counts."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def visible_piece(piece: str) -> str:
    """A piece with its spaces and line breaks made visible, for tables and labels."""
    return piece.translate(VISIBLE)


def piece_table(tokenizer: Tokenizer, tokens: np.ndarray) -> pd.DataFrame:
    """Every piece that occurs, most frequent first: piece, bytes, count, share of tokens and of bytes, rank, and the
    share of bytes covered by it and all before it."""
    counts = np.bincount(tokens, minlength=tokenizer.vocab_size)
    lengths = tokenizer.bytes.base.astype(np.int64) + tokenizer.bytes.leading_space
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    pieces = [visible_piece(tokenizer.piece(token)) for token in order]
    table = pd.DataFrame({"piece": pieces, "bytes": lengths[order], "count": counts[order]})
    table["token_share"] = table["count"] / len(tokens)
    table["byte_share"] = table["count"] * table["bytes"] / (counts * lengths).sum()
    table["bytes_covered"] = table["byte_share"].cumsum()
    return table.set_index(pd.RangeIndex(1, len(table) + 1, name="rank"))


def unigram_bits(train: np.ndarray, targets: np.ndarray, vocab_size: int) -> np.ndarray:
    """-log2 p(target), float64 [n], of a model that knows how frequent each token is in training, by Laplace's rule:
    p(t) = (count(t) + 1) / (N + V), so that an unseen token costs finitely many bits."""
    counts = np.bincount(train, minlength=vocab_size)
    return -np.log2((counts[targets] + 1) / (len(train) + vocab_size))


def bigram_bits(train: np.ndarray, previous: np.ndarray, targets: np.ndarray, vocab_size: int) -> np.ndarray:
    """-log2 p(target | previous), float64 [n], of pair counts from training, smoothed after Witten and Bell (1991).

    p(t|s) = (c(s,t) + D(s) p(t)) / (c(s) + D(s)), with D(s) the number of different successors of s and p(t) the
    unigram: it has no setting to choose, and a context that was never seen falls back on the unigram. Memory is
    proportional to the training tokens, not to V^2.
    """
    pairs, counts = np.unique(train[:-1].astype(np.int64) * vocab_size + train[1:], return_counts=True)
    context = pairs // vocab_size
    followed = np.bincount(context, weights=counts, minlength=vocab_size)
    successors = np.bincount(context, minlength=vocab_size)
    wanted = previous.astype(np.int64) * vocab_size + targets
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    seen = counts[place] * (pairs[place] == wanted)
    fallback = np.exp2(-unigram_bits(train, targets, vocab_size))
    total, different = followed[previous], successors[previous]
    return -np.log2(np.where(total > 0, (seen + different * fallback) / np.maximum(total + different, 1), fallback))


def compressed_bits_per_byte(payload: bytes) -> dict[str, float]:
    """Bits per byte of two general compressors at their strongest, on this text alone (no training text, no model)."""
    strongest = lzma.compress(payload, preset=9 | lzma.PRESET_EXTREME)
    packed = {"zstd -22": zstandard.ZstdCompressor(level=22).compress(payload), "xz -9e": strongest}
    return {name: 8 * len(one) / len(payload) for name, one in packed.items()}


CASE_SIGNS = str.maketrans(dict(zip(CASE_MARKS, ("⟨T⟩", "⟨A⟩", "⟨C⟩", "⟨E⟩"), strict=True)))
CASE_BYTES = 2_000_000
"""Of training text at most, that two tokenizers are trained on for a comparison: seconds."""


def shown_cases(text: str) -> str:
    """The text as CaseOps changes it, its marks made visible."""
    return to_cases(text).translate(CASE_SIGNS)


def case_table(train: Sequence[str], val: Sequence[str], vocab_size: int) -> pd.DataFrame:
    """What CaseOps does at an equal vocabulary: tokenizers trained on the training texts, without it and with it.

    One row each: tokens and bytes per token of the validation texts (BOS left out), the share of tokens that are marks,
    and the bigram's bits per byte, both learned on the first CASE_BYTES of training. Bytes are the original's. NaN
    where the text has no tokenizer of so many pieces: too little text, or too many different characters.
    """
    enough = itertools.accumulate(len(text.encode("utf-8")) for text in train)
    train = [text for text, size in zip(train, enough, strict=True) if size <= CASE_BYTES] or train[:1]
    num_bytes = sum(len(text.encode("utf-8")) for text in val)
    rows = {}
    for name, is_changed in (("as it is", False), ("with case marks", True)):
        try:
            model = train_tokenizer(train, vocab_size, is_changed)
        except UserError:
            rows[name] = [math.nan] * 4
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.model"
            path.write_bytes(model)
            tokenizer = (CaseTokenizer if is_changed else Tokenizer)(path)
        learned, tokens = (
            np.concatenate([[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]) for texts in (train, val)
        )
        bits = bigram_bits(learned, tokens[:-1], tokens[1:], vocab_size).sum()
        pieces = len(tokens) - len(val)
        marks = [token for token in range(vocab_size) if is_changed and tokenizer.piece(token) in CASE_MARKS]
        rows[name] = [pieces, num_bytes / pieces, np.isin(tokens, marks).sum() / pieces, bits / num_bytes]
    columns = ["tokens", "bytes per token", "marks", "bigram bpb"]
    return pd.DataFrame(rows, index=columns).T.rename_axis("text")


def wrong_denominators(tokenizer: Tokenizer, tokens: np.ndarray, text: str) -> dict[str, int]:
    """Denominators that look like the UTF-8 bytes of a text and are not; a larger one makes every model look better."""
    counts = np.bincount(tokens[1:], minlength=tokenizer.vocab_size)
    pieces = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
    spaced = int(counts @ [piece.startswith(SPACE_MARK) for piece in pieces])
    return {
        "characters instead of bytes": len(text),
        "leading spaces counted twice": tokenizer.bytes.total(tokens) + spaced,
        "pieces as the model file writes them": int(counts @ [len(piece.encode("utf-8")) for piece in pieces]),
    }
