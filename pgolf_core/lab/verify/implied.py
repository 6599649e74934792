"""The bytes that a submission's scores imply: predictions x nats / (ln 2 x bpb), for every pair that its files name.

FineWeb's validation text is 151,080,363 bytes whatever the tokenizer (papers/machinery.md, "Score and windows"), so a
score over other bytes than the text's shows itself, even where nothing can be scored anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pgolf_core.lab.compare.arms import FINEWEB_BYTES, FINEWEB_TRACK, SAME_BYTES
from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.verify.evidence.checks import hold, quietly, require
from pgolf_core.lab.verify.evidence.text import TEXT_OF_TRACK, implied_bytes
from pgolf_core.lab.verify.reading.folder import Submission
from pgolf_core.lab.verify.reading.untrusted import is_number, last_digit, read_number, written

FINEWEB_TOKENS = {"SP1024": 62_021_632, "SP4096": 45_508_608, "SP8192": 40_540_160, "case-op SP8192": 47_851_520}
"""Predictions in the validation split by the published tokenizers (papers/machinery.md, "Score and windows")."""


class Pair(NamedTuple):
    """A loss and a bpb as written, and where."""

    place: str
    loss: str
    bpb: str

    def implied(self, tokens: int) -> float:
        """Bytes of the text, if these are its predictions."""
        return implied_bytes(read_number(self.loss), read_number(self.bpb), tokens)

    def fits(self, tokens: int, real: int, tolerance: float) -> bool:
        """Whether the implied bytes are the real ones, allowing for what the written digits leave open."""
        open_share = sum(0.5 * last_digit(text) / read_number(text) for text in (self.loss, self.bpb))
        return abs(self.implied(tokens) - real) <= (tolerance + open_share) * real + 0.5


def implied_by_every_pair(folder: Submission) -> str:
    """Every claimed and logged pair of loss and bpb against the bytes of the text that it covers."""
    pairs = _pairs(folder)
    require(bool(pairs), "no file names both a loss and a bpb")
    tokens, why = _predictions(folder, pairs)
    real, tolerance = _real_bytes(folder)
    for pair in pairs:
        implied = f"{tokens:,} x {pair.loss} / (ln 2 x {pair.bpb}) = {pair.implied(tokens):,.0f} bytes"
        hold(pair.fits(tokens, real, tolerance), f"{pair.place}: {implied}, the split has {real:,} ({why})")
    about = f"{real:,} bytes over {tokens:,} predictions ({why})"
    evidence = f"{len(pairs)} pairs of loss and bpb imply {about}{_first_targets(folder)}"
    logs = quietly(lambda: folder.logs) or ()
    training = [_pair(f"{log.name}, step {step}", *said) for log in logs for step, *said in log.step_scores]
    other = [pair.place for pair in training if not pair.fits(tokens, real, tolerance)]
    odd = f"{len(other)} validations while training do not ({', '.join(other[:1])}): a part, or another"
    require(not other or folder.track != FINEWEB_TRACK, f"{evidence}; {odd}")
    return f"{evidence}; and so do {len(training)} validations while training" if training and not other else evidence


def _first_targets(folder: Submission) -> str:
    """The pair before quantisation where it covers only the first targets, if the dataset is here to count them."""
    targets, loss, bpb = (folder.said(f"pre_quant_val_{key}") for key in ("targets", "loss", "bpb"))
    if targets in (None, folder.said("val_targets")) or (loss is None and bpb is None):
        return ""
    hold(is_number(loss) and is_number(bpb), "pre_quant_val_loss and pre_quant_val_bpb are no score")
    whole = quietly(lambda: folder.text.targets)
    if whole is None:
        return ""
    hold(type(targets) is int and 0 < targets <= whole, f"pre_quant_val_targets {str(targets)[:30]!r}")
    real, implied = folder.text.bytes_of(targets), implied_bytes(loss, bpb, targets)
    return "; " + hold(abs(implied - real) < 0.5, f"pre_quant {implied:,.1f} of {real:,}")


def _pairs(folder: Submission) -> list[Pair]:
    """Of the whole split by their own account: claimed, and logged after training."""
    claims, found = quietly(lambda: folder.claims) or {}, []
    starts = ["", "int6_zstd_", "mean_"]
    if claims.get("pre_quant_val_targets") in (None, claims.get("val_targets")):
        starts.append("pre_quant_")  # else of the first targets
    tables = {SUBMISSION_FILE: claims}
    tables |= {f"seed {seed}": values for seed, values in (quietly(lambda: folder.seed_claims) or {}).items()}
    for where, values in tables.items():
        for start in starts:
            said: list[Any] = [values.get(f"{start}val_{key}") for key in ("loss", "bpb")]
            if None not in said:
                texts = [written(value) if is_number(value) else "nan" for value in said]
                found.append(_pair(f"{where}, {start}val", *texts))
    for log in quietly(lambda: folder.logs) or ():
        found += [_pair(f"{log.name}, {label or 'score'}", *said) for label, *said in log.finals]
    return found


def _pair(place: str, loss: str, bpb: str) -> Pair:
    """Broken where they are no score."""
    is_score = all(0 < read_number(text) < 1e6 for text in (loss, bpb))
    hold(is_score, f"{place}: loss {loss[:30]} and bpb {bpb[:30]} are no score")
    return Pair(place, loss, bpb)


def _real_bytes(folder: Submission) -> tuple[int, float]:
    """Bytes of the track's validation text and the tolerance; CannotCheck where neither track nor dataset is known."""
    if folder.track == FINEWEB_TRACK:
        return FINEWEB_BYTES, SAME_BYTES
    counted = quietly(lambda: folder.text.total_bytes)
    return TEXT_OF_TRACK[folder.track][1] if counted is None else counted, 0.0


def _predictions(folder: Submission, pairs: list[Pair]) -> tuple[int, str]:
    """How many tokens a score covers, and where that is known from."""
    targets, logs = folder.said("val_targets"), quietly(lambda: folder.logs) or []
    if is_number(targets):
        real = quietly(lambda: folder.text.targets)
        hold(real in (None, targets), f"{SUBMISSION_FILE} says {targets:,} targets, the dataset has {real}")
        return int(targets), f"val_targets of {SUBMISSION_FILE}"
    counts = {log.val_tokens for log in logs if log.val_tokens}
    if len(counts) == 1:
        return counts.pop(), "tokens of val_loader"
    named = {f"SP{size}" for log in logs for size in log.vocabularies} & set(FINEWEB_TOKENS)
    if len(named) == 1:
        return FINEWEB_TOKENS[min(named)], min(named)
    fits = [
        (count, f"as of {name}, which no file names") for name, count in FINEWEB_TOKENS.items()
        if all(abs(pair.implied(count) / FINEWEB_BYTES - 1) < SAME_BYTES for pair in pairs)
    ]  # fmt: skip
    is_known = folder.track == FINEWEB_TRACK and len(fits) == 1
    require(is_known, "no file says how many tokens the validation split has")
    return fits[0]
