"""How much of the validation split a claimed score is of, by what logs and submission.json say was scored."""

import functools

from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.shared.tables import some
from pgolf_core.lab.shared.texts import FINEWEB_BYTES, FINEWEB_TRACK, fineweb_tokens
from pgolf_core.lab.verify.evidence.checks import hold, quietly, require
from pgolf_core.lab.verify.evidence.text import implied_bytes
from pgolf_core.lab.verify.reading.claims import Judged
from pgolf_core.lab.verify.reading.folder import claimed
from pgolf_core.lab.verify.reading.logs import Log
from pgolf_core.lab.verify.reading.reviewed import scored_once
from pgolf_core.lab.verify.reading.traces import counted_in
from pgolf_core.lab.verify.reading.untrusted import last_digit, read_number, same_number

WHOLE = 0.98
"""From this share on a split is whole: rows of windows drop its end, and tokenizers count its bytes otherwise."""
LEAST_SCORED = 100_000
"""Fewer tokens on a line with a score are of a window or a chunk."""
LEAST_DIGITS = 1e-3
"""A score with fewer digits than these names no line of a log."""


def whole_split(folder: Judged) -> str:
    """No claimed score is of a part of the split, and its bytes are not more than the split's."""
    if folder.artifacts:
        return scored_once(folder)
    require(folder.track == FINEWEB_TRACK, "of another text than FineWeb's only an artifact tells")
    claims = _claims(folder)
    wrong, said = _by_json(folder), []
    for log in folder.logs:
        tokens = log.val_tokens or _known(log)
        wrong += _cut(log)
        for line, bpb, scored, size in folder.traces[log.name].mentions:
            place = f"{log.name}:{line}"
            its = [one for one in bpb if any(same_number(one, text) for text in claims)]
            if size and its and not WHOLE <= size / FINEWEB_BYTES <= 2 - WHOLE:
                wrong.append(f"{place}: {its[0]} bpb is of {size:,} bytes, the split has {FINEWEB_BYTES:,}")
            elif scored and its and tokens and LEAST_SCORED < scored < WHOLE * tokens:
                wrong.append(f"{place}: {its[0]} bpb is of {scored:,} tokens, the split has {tokens:,}")
            elif its:
                said.append(place)
        said += [f"{log.name} ({log.val_tokens:,} tokens loaded)"] if log.val_tokens else []
    hold(not wrong, some(wrong))
    require(bool(said), "no file says how many tokens or bytes were scored")
    return f"the whole split by {some(dict.fromkeys(said))}; no line with a claimed score names fewer"


def _claims(folder: Judged) -> list[str]:
    """Every claimed bpb with digits enough to be told from others."""
    rows = [*folder.seed_claims.values(), quietly(lambda: folder.claims) or {}]
    found = [quietly(functools.partial(claimed, row, name)) for row in rows for name in ("bpb", "mean_bpb")]
    return [text for text in found if text and last_digit(text) <= LEAST_DIGITS]


def _known(log: Log) -> int | None:
    """Predictions of the split by the one tokenizer that a log names."""
    found = fineweb_tokens(log.vocabularies)
    return found and found[0]


def _cut(log: Log) -> list[str]:
    """A validation split that was short when it was loaded: by its tokenizer's count, or by the bytes of a score."""
    loaded, whole = log.val_tokens, _known(log)
    if not loaded:
        return []
    sizes = [implied_bytes(read_number(one.loss), read_number(one.bpb), loaded) for one in log.finals
             if one.loss and read_number(one.loss) > 0 and read_number(one.bpb) > 0]  # fmt: skip
    if any(WHOLE <= size / FINEWEB_BYTES <= 2 - WHOLE for size in sizes):
        return []  # another tokenizer of that size, by the bytes of the text
    if whole and loaded < WHOLE * whole:
        return [f"{log.name} loads {loaded:,} validation tokens, the split has {whole:,}"]
    if sizes and max(sizes) < WHOLE / 2 * FINEWEB_BYTES and not whole:
        return [f"{log.name} loads {loaded:,} validation tokens, by its scores {max(sizes):,.0f} bytes of the split's "
                f"{FINEWEB_BYTES:,}"]  # fmt: skip
    return []


def _by_json(folder: Judged) -> list[str]:
    """Counts of submission.json that are less than the split, or more bytes than it has."""
    found = []
    known = {one for log in quietly(lambda: folder.logs) or () if (one := _known(log) or log.val_tokens)}
    for key, count in counted_in(quietly(lambda: folder.claims) or {}).items():
        whole = FINEWEB_BYTES if "byte" in key.lower() else max(known, default=0)
        high = 2 - WHOLE if "byte" in key.lower() else 10
        if whole and not WHOLE <= count / whole <= high:
            found.append(f"{SUBMISSION_FILE} {key} {count:,}, the split has {whole:,}")
    return found
