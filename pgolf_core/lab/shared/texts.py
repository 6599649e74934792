"""The texts that the tracks compare scores on, by name and size; known without opening a dataset."""

from collections.abc import Iterable

SOTU_NAME, SOTU_PREFIX = "sotu-sp1024", "sotu-sp"
"""That corpus in 1,024 pieces; in any number of them its name begins so."""
SOTU_EXPECTED = {"train": (230, 11_330_866), "val": (19, 854_885)}
"""Documents and UTF-8 bytes of each split: scores compare only on exactly this text."""
SOTU_DEV_PREFIX = "sotu-dev-sp"
"""The same corpus for choosing by: its validation documents left out, and some of training held out in their place."""
SOTU_DEV_EXPECTED = {"train": (212, 10_583_906), "val": (18, 746_960)}
FINEWEB_TRACK = "10min_16mb"
FINEWEB_TOKENS = {"SP1024": 62_021_632, "SP4096": 45_508_608, "SP8192": 40_540_160, "case-op SP8192": 47_851_520}
"""Predictions in the validation split by the published tokenizers (papers/machinery.md, "Score and windows")."""
FINEWEB_TARGETS, FINEWEB_BYTES = FINEWEB_TOKENS["SP1024"], 151_080_363
"""What a published score of 1,024 pieces covers: tokens, and the bytes of their text (papers/records)."""
SAME_BYTES, SAME_TARGETS = 1e-3, 1e-4
"""FineWeb only: tokenizers that normalise count its bytes a little differently, published scores drop the tail."""


def fineweb_tokens(vocabularies: Iterable[int]) -> tuple[int, str] | None:
    """(predictions of the split, name) of the one published tokenizer whose number of pieces is named; else None."""
    named = {f"SP{size}" for size in vocabularies} & set(FINEWEB_TOKENS)
    return (FINEWEB_TOKENS[name], name) if len(named) == 1 and (name := min(named)) else None
