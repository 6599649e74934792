"""What a log shows beside its numbers: settings, how much of the split a score is of, and in which order it adapted.

Lines keep their numbers in the file, so that a row can name them. Only lines of known wording are read.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pgolf_core.lab.verify.reading.untrusted import read_number, read_text

MAX_LINE = 2_000
MAX_LINES = 300_000
MAX_EVENTS = 100_000
STILL_OF_IT = 4
"""Lines after which a count of tokens belongs to no score any more."""
_SETTING = re.compile(r"(?:^|.{0,60}?\s)\s([A-Za-z_]\w{0,60}): ?(.{0,300})$")
_RULER = re.compile(r"^\s*={60,}\s*$")
_COUNT = r"\s*[=:]\s*(\d[\d,]{3,18})(?![\d.])"
_OF = r"(?<![A-Za-z_])(?:(?:scored|total|eval|val|num|n)_)?"
_TOKENS = re.compile(rf"{_OF}(?:subset|tokens|positions)(?:_tokens)?{_COUNT}", re.I)
_BYTES = re.compile(rf"{_OF}bytes{_COUNT}", re.I)
_BPB = re.compile(r"(?:bpb|bits_per_byte)\w{0,20}\s*[=:]\s*(\d\.\d{2,12})", re.I)
_STEP = re.compile(r"^\W{0,4}(?:step\W{0,3})?\d{1,12}\s*/\s*\d{1,12}\b|^\W{0,4}step\b", re.I)
_FINAL = re.compile(r"bpb\w{0,20}\s*[=:]\s*\d\.\d{4,}", re.I)
_EPOCH = re.compile(r"\b(?=\w{0,40}ttt)(\w{1,40})[_: ]epoch[: =]{1,2}(\d{1,6})\s*/\s*(\d{1,6})\b", re.I)
_PHASE = re.compile(r"\bphase:\s*(\d{1,6})/\d{1,6}\s+pd:\s*(\d{1,12})\s+gd:\s*(\d{1,12})\b")


_SCORED_KEY = re.compile(
    r"(?!.*(?:chunk|batch|window|seq|context|prefix|train|target|step))(?=.*(?:eval|val|scored|subset))"
    r"(?=.*(?:token|byte)).*(?:count|scored|tokens|subset).*", re.I)  # fmt: skip
"""Keys of submission.json that count what was scored."""


class Mention(NamedTuple):
    """A line with scores, and the tokens or bytes that it says they are of."""

    line: int
    bpb: tuple[str, ...]
    tokens: int | None
    bytes: int | None


class Epoch(NamedTuple):
    """A line that tells of an epoch of an adaptation to the text that is scored."""

    line: int
    name: str
    number: int
    of: int


class Phase(NamedTuple):
    """A line that tells after which documents were scored the model was adapted to which."""

    line: int
    scored: int
    adapted: int


@dataclass
class Trace:
    """One log."""

    name: str
    settings: dict[str, tuple[str, int]] = field(default_factory=dict)
    """{key: (value, line)} of the block that begins with `Hyperparameters:`."""
    mentions: list[Mention] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    finals: list[tuple[int, str]] = field(default_factory=list)
    """(line, text) of every line with a score of four digits or more, but those of steps and epochs."""


def read_trace(path: Path, name: str) -> Trace:
    """One log; an embedded script before the first ruler is passed over."""
    lines = read_text(path).split("\n")[:MAX_LINES]
    ruler = next((index for index, line in enumerate(lines) if _RULER.match(line)), None)
    has_script = ruler is not None and any(line.startswith(("import ", "from ")) for line in lines[:ruler])
    trace, is_block = Trace(name), False
    pending: tuple[int, int | None, int | None] = (-STILL_OF_IT - 1, None, None)
    for at, text in enumerate(lines):
        if has_script and ruler is not None and at < ruler:
            continue
        line = text[:MAX_LINE].rstrip("\r")
        if line.rstrip().endswith("Hyperparameters:"):
            is_block = True
            continue
        found = _SETTING.match(line) if is_block else None
        is_block = found is not None
        if found:
            trace.settings[found[1]] = found[2].strip(), at + 1
        elif ":" in line or "=" in line:
            pending = _read_line(trace, line, at + 1, pending)
    return trace


def _read_line(trace: Trace, line: str, at: int, pending: tuple) -> tuple[int, int | None, int | None]:
    """Whatever a line tells; returns the last line with a count, and its counts, for a score that follows it."""
    if found := _EPOCH.search(line):
        trace.epochs.append(Epoch(at, found[1], int(found[2]), int(found[3])))
        return pending
    if found := _PHASE.search(line):
        trace.phases.append(Phase(at, int(found[2]), int(found[3])))
        return pending
    if _STEP.match(line) or len(trace.mentions) + len(trace.finals) > MAX_EVENTS:
        return pending
    if _FINAL.search(line):
        trace.finals.append((at, line.strip()))
    tokens, size = (_count(found) for found in (_TOKENS.search(line), _BYTES.search(line)))
    named = tuple(_BPB.findall(line)) if "b" in line else ()
    if named and tokens is None and size is None and at - pending[0] <= STILL_OF_IT:
        _, tokens, size = pending
    if named and (tokens or size):
        trace.mentions.append(Mention(at, named, tokens, size))
    return (at, tokens, size) if not named and (tokens or size) else pending


def _count(found: re.Match[str] | None) -> int | None:
    return int(read_number(found[1])) if found else None


def counted_in(claims: dict[str, Any]) -> dict[str, int]:
    """{key: count} of the tokens and bytes that submission.json says were scored."""
    return {
        key: value for key, value in claims.items() if _SCORED_KEY.fullmatch(key) and type(value) is int and value > 0
    }
