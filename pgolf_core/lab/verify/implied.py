"""The bytes that a submission's scores imply: predictions x nats / (ln 2 x bpb), for every pair that its files name.

FineWeb's validation text is 151,080,363 bytes whatever the tokenizer (SEEDS.md 1.8 and 15), so a score over other bytes
than the text's shows itself, even where nothing can be scored anew.
"""

from __future__ import annotations

import math

from pgolf_core.lab.compare.arms import FINEWEB_BYTES, FINEWEB_TRACK, SAME_BYTES
from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.verify import run_bytes as verify_bytes
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck, hold, is_number, quietly
from pgolf_core.lab.verify.reading import claims as verify_claims
from pgolf_core.lab.verify.reading.folder import Submission
from pgolf_core.lab.verify.reading.logs import Log
from pgolf_core.lab.verify.run_bytes import implied_bytes

FINEWEB_TOKENS = {1024: 62_021_632, 4096: 45_508_608, 8192: 40_540_160}
"""Predictions in the validation split by vocabulary (SEEDS.md 15)."""
OTHER_FINEWEB_TOKENS = {"case-op SP8192": 47_851_520}
Pair = tuple[str, str, str]
"""(where it stands, loss, bpb) as written."""


def implied_by_every_pair(folder: Submission) -> str:
    """Every claimed and logged pair of loss and bpb against the bytes of the text that it covers."""
    pairs = _pairs(folder)
    if not pairs:
        raise CannotCheck("no file names both a loss and a bpb")
    tokens, why = _predictions(folder, pairs)
    real, tolerance = _known_bytes(folder)
    for what, loss, bpb in pairs:
        implied = implied_bytes(float(loss), float(bpb), tokens)
        evidence = (
            f"{what}: {tokens:,} x {loss} / (ln 2 x {bpb}) = {implied:,.0f} bytes, the split has {real:,} ({why})"
        )
        hold(_is_near(implied, real, tolerance, loss, bpb), evidence)
    parts = _part_of_split(folder)
    training = [pair for log in quietly(lambda: folder.logs) or () for pair in _while_training(log)]
    other = [
        what for what, loss, bpb in training
        if not _is_near(implied_bytes(float(loss), float(bpb), tokens), real, tolerance, loss, bpb)
    ]  # fmt: skip
    evidence = f"{len(pairs)} pairs of loss and bpb imply {real:,} bytes over {tokens:,} predictions ({why}){parts}"
    if other and folder.track == FINEWEB_TRACK:
        raise CannotCheck(
            f"{evidence}; {len(other)} validations while training do not ({other[0]}): a part, or another"
        )
    return f"{evidence}; and so do {len(training)} validations while training" if training and not other else evidence


def _is_near(implied: float, real: int, tolerance: float, loss: str, bpb: str) -> bool:
    """Whether implied bytes are the real ones, allowing for what the written digits leave open."""
    open_share = sum(0.5 * 10.0 ** -len(text.partition(".")[2]) / float(text) for text in (loss, bpb))
    return abs(implied - real) <= (tolerance + open_share) * real + 0.5


def _part_of_split(folder: Submission) -> str:
    """The pair before quantisation where it covers only the first targets, if the dataset is here to count them."""
    values = folder.claims
    targets, loss, bpb = (values.get(f"pre_quant_val_{key}") for key in ("targets", "loss", "bpb"))
    if targets is None or targets == values.get("val_targets") or (loss is None and bpb is None):
        return ""
    hold(is_number(loss) and is_number(bpb), "pre_quant_val_loss and pre_quant_val_bpb are no score")
    tokens = quietly(lambda: folder.tokens)
    if tokens is None:
        return ""
    hold(type(targets) is int and 0 < targets < len(tokens), f"pre_quant_val_targets {str(targets)[:30]!r}")
    real = folder.tokenizer.bytes.total(tokens[: targets + 1])
    implied = implied_bytes(loss, bpb, targets)
    return "; " + hold(abs(implied - real) < 0.5, f"pre_quant {implied:,.1f} of {real:,}")


def _pairs(folder: Submission) -> list[Pair]:
    """Of the whole split by their own account: claimed, and logged after training."""
    found = []
    tables = [(SUBMISSION_FILE, folder.claims)] if quietly(lambda: folder.claims) else []
    tables += [(f"seed {seed}", values) for seed, values in (quietly(lambda: folder.seed_claims) or {}).items()]
    for where, values in tables:
        for start in ("", "pre_quant_", "int6_zstd_", "mean_"):
            loss, bpb = values.get(f"{start}val_loss"), values.get(f"{start}val_bpb")
            part = folder.claims.get("pre_quant_val_targets")
            if start == "pre_quant_" and part is not None and part != folder.claims.get("val_targets"):
                continue  # of the first targets: see _part_of_split
            if loss is None or bpb is None:
                continue
            is_score = is_number(loss) and is_number(bpb) and 0 < loss < 1e6 and 0 < bpb < 1e6
            hold(is_score, f"{where}: {start}val_loss {str(loss)[:30]} and val_bpb {str(bpb)[:30]} are no score")
            found.append((f"{where}, {start}val", verify_claims.written(loss), verify_claims.written(bpb)))
    for log in quietly(lambda: folder.logs) or ():
        found += [(f"{log.name}, {label or 'score'}", *_plain(loss, bpb)) for label, loss, bpb in log.finals]
    return found


def _while_training(log: Log) -> list[Pair]:
    return [(f"{log.name}, step {step}", *_plain(loss, bpb)) for step, loss, bpb in log.step_scores]


def _plain(loss: str, bpb: str) -> tuple[str, str]:
    """Both without separators; Broken where they are no score."""
    texts = loss.replace(",", ""), bpb.replace(",", "")
    if not all(0 < float(text) < 1e6 for text in texts):
        raise Broken(f"loss {loss[:30]} and bpb {bpb[:30]} are no score")
    return texts


def _known_bytes(folder: Submission) -> tuple[int, float]:
    """Bytes of the track's validation text and the tolerance; CannotCheck where neither track nor dataset is known."""
    if folder.track == FINEWEB_TRACK:
        return FINEWEB_BYTES, SAME_BYTES
    counted = quietly(lambda: folder.tokenizer.bytes.total(folder.tokens))
    if counted is not None:
        return counted, 0.0
    return verify_bytes.TEXT_OF_TRACK[folder.track][1], 0.0


def _predictions(folder: Submission, pairs: list[Pair]) -> tuple[int, str]:
    """How many tokens a score covers, and where that is known from."""
    if is_number(folder.claims.get("val_targets")):
        targets = int(folder.claims["val_targets"])
        real = quietly(lambda: len(folder.tokens) - 1)
        hold(real is None or real == targets, f"submission.json says {targets:,} targets, the dataset has {real}")
        return targets, "val_targets of submission.json"
    logs: list[Log] = quietly(lambda: folder.logs) or []
    counts = {log.val_tokens for log in logs if log.val_tokens}
    if len(counts) == 1:
        return counts.pop(), "tokens of val_loader"
    vocabularies = {size for log in logs for size in log.vocabularies} & set(FINEWEB_TOKENS)
    if len(vocabularies) == 1:
        size = vocabularies.pop()
        return FINEWEB_TOKENS[size], f"SP{size}"
    fitting = _fitting_vocabulary(pairs) if folder.track == FINEWEB_TRACK else None
    if fitting:
        return fitting
    raise CannotCheck("no file says how many tokens the validation split has")


def _fitting_vocabulary(pairs: list[Pair]) -> tuple[int, str] | None:
    """The one published tokenizer with which every pair implies the text's bytes, if there is one."""
    known = {f"SP{size}": count for size, count in FINEWEB_TOKENS.items()} | OTHER_FINEWEB_TOKENS
    ratios = [float(loss) / (math.log(2) * float(bpb)) for _, loss, bpb in pairs]
    fits = [name for name, count in known.items()
            if all(abs(count * ratio / FINEWEB_BYTES - 1) < SAME_BYTES for ratio in ratios)]  # fmt: skip
    return (known[fits[0]], f"as of {fits[0]}, which no file names") if len(fits) == 1 else None
