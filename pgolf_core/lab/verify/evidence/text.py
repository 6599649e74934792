"""The scored text of `pgolf verify`: its dataset is whole, each target is scored once, and its bytes are the text's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgolf_core.lab.shared.texts import FINEWEB_BYTES, FINEWEB_TRACK, SAME_BYTES, SOTU_EXPECTED, SOTU_PREFIX
from pgolf_core.lab.verify.evidence.checks import hold, once, require
from pgolf_core.lab.verify.reading.untrusted import number

if TYPE_CHECKING:
    import numpy as np

    from pgolf_core.lab.data.dataset import Dataset

TEXT_OF_TRACK = {FINEWEB_TRACK: ("fineweb", FINEWEB_BYTES, SAME_BYTES),
                 "local_10min_1mb": (SOTU_PREFIX, SOTU_EXPECTED["val"][1], 0.0)}  # fmt: skip
"""Track -> beginning of its datasets' names, bytes of its validation text, and how far a tokenizer's own count may
differ (FineWeb's tokenizers normalise, each in its way)."""
MAX_WINDOWS = 4_000_000
TRIPLE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Way:
    """How a score is taken."""

    seq_len: int
    stride: int
    """Of the sliding score; the round-trip score has stride = window."""
    batch_seqs: int = 32
    autocast: str = "auto"
    document_mask: bool = False


class Text:
    """The validation text of a prepared dataset; what is proved of it is proved once, whichever seed asks."""

    def __init__(self, dataset: Dataset, progress: bool):
        self.dataset, self.progress = dataset, progress

    tokenizer = once(lambda self: self.dataset.tokenizer())
    token_bytes = once(lambda self: self.dataset.token_bytes())
    targets = once(lambda self: len(self.tokens) - 1)
    total_bytes = once(lambda self: self.bytes_of(self.targets))

    @once
    def tokens(self) -> np.ndarray:
        """The stream, uint16 [T]."""
        from pgolf_core.text.shards import load_tokens

        return load_tokens(self.dataset.val_paths, self.tokenizer.vocab_size)

    def bytes_of(self, targets: int) -> int:
        """Bytes of the first targets, by the tokenizer's own count or the sidecar's."""
        return self.token_bytes.total(self.tokens[: targets + 1])

    @once
    def whole(self) -> str:
        """File hashes, documents out of the shards, and splits that are apart, all read again."""
        dataset = self.dataset
        return f"{dataset.name}, manifest {dataset.manifest_sha256:.12}…: {dataset.verify(self.progress)}"

    @once
    def decoded(self) -> str:
        """The documents decoded are as many bytes of UTF-8 as the tokens count."""
        from pgolf_core.lab.data.dataset import validation_documents
        from pgolf_core.lab.data.survey import NORMALISED_SHARE

        text = sum(len(text.encode("utf-8")) for _, text in validation_documents(self.dataset))
        kind = "" if self.tokenizer.lossless else " (of the text as the tokenizer normalises it)"
        tolerance = NORMALISED_SHARE if kind and self.dataset.is_changed else 0.0
        counted = "sidecar" if self.dataset.is_changed else "tokens"
        hold(abs(self.total_bytes - text) <= tolerance * text, f"text {text:,}{kind}, {counted} {self.total_bytes:,}")
        same = f"its {counted} {self.total_bytes:,}, of the text before" if tolerance else f"its {counted} the same"
        return f"{self.dataset.name}: text {text:,} bytes{kind}, {same}"

    @once
    def documents(self) -> str:
        """The stream holds as many documents as the manifest lists, none left out."""
        found = int((self.tokens == self.tokenizer.bos_id).sum())
        listed = self.dataset.manifest["totals"]["val"]["documents"]
        return hold(found == listed, f"{found:,} documents in the stream, {listed:,} in the manifest")

    def scored_once(self, way: Way) -> str:
        """Every target of the stream exactly once, at both strides, and all documents in it."""
        from pgolf_core.lab.look.n06_scoring import times_scored
        from pgolf_core.network.score import plan_windows

        window, stride, targets = way.seq_len, way.stride, self.targets
        hold(1 <= stride <= window, f"a window of {window} and a stride of {stride} are no way to score")
        is_planned = targets <= MAX_WINDOWS * stride
        require(is_planned, f"a stride of {stride} over {targets:,} targets makes more than {MAX_WINDOWS:,} windows")
        for step in (window, stride):
            wrong = int((times_scored(plan_windows(targets, window, step), targets) != 1).sum())
            hold(wrong == 0, f"stride {step}: {wrong:,} targets not scored exactly once")
        return f"{targets:,} targets, window {window}, strides {window} and {stride}; {self.documents}"

    def is_of_track(self, track: str) -> str:
        """CannotCheck for another dataset than the track's; Broken where its bytes are not the known ones."""
        require(track in TEXT_OF_TRACK, f"the text of track '{str(track)[:40]}' is not known")
        name, known, tolerance = TEXT_OF_TRACK[track]
        other = f"the score is of {self.dataset.name}, and {track} compares scores on {name}* ({known:,} bytes)"
        require(self.dataset.name.startswith(name), other)
        how = f"within {tolerance:.1%}" if tolerance else "exactly"
        evidence = f"{self.total_bytes:,} bytes; {track} has {known:,}, {how}"
        return hold(abs(self.total_bytes - known) <= tolerance * known, evidence)

    def implied(self, what: str, values: Mapping[str, Any], targets: Any) -> str:
        """Loss and bpb of the stream's first targets, held against the bytes of those."""
        hold(type(targets) is int and 0 < targets <= self.targets, f"{what}: {str(targets)[:30]!r} targets")
        implied, real = implied_bytes(number(values, "loss"), number(values, "bpb"), targets), self.bytes_of(targets)
        return hold(abs(implied - real) < min(0.5, TRIPLE_TOLERANCE * real), f"{what} {implied:,.1f} of {real:,}")


def implied_bytes(loss: float, bpb: float, targets: int) -> float:
    """bpb = targets x nats / (ln 2 x bytes), solved for the bytes; Broken for a score that is none."""
    hold(bpb > 0 and loss > 0, f"loss {loss} and bpb {bpb} are no score")
    return targets * loss / (math.log(2) * bpb)
