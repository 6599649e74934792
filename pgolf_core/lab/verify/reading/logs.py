"""Training logs as `pgolf verify` reads them, ours and the published ones (papers/machinery.md, "Log lines").

Only lines of known forms are read, each cut to a bounded length; whatever else a log holds is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgolf_core.lab.verify.evidence.checks import hold
from pgolf_core.lab.verify.reading.untrusted import agrees, read_number, read_text

MAX_LINES = 300_000
ALWAYS_LOGGED = 10
"""Training steps up to this one have their line, as has every validation."""
MAX_LINE = 2_000
NUMBER = r"([-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?)"
STEP_LINE = re.compile(
    rf"^step:(\d{{1,12}})/\d+ (?:train_loss:{NUMBER}|val_loss:{NUMBER} val_bpb:{NUMBER}) train_time:(\d{{1,15}})ms"
)
SIZES = {"serialized model": "model", "code size": "code", "total submission size": "total"}
_SCORE = re.compile(rf"^(.{{0,120}}?)\bval_loss:\s*{NUMBER}\s+val_bpb:\s*{NUMBER}")
_STEP = re.compile(r"^\s*(?:step:\s*)?(\d{1,12})\s*/\s*\d{1,12}\b")
_TIME = re.compile(rf"\b(train|eval)_time:\s*{NUMBER}\s*(ms|s|m)\b")
_SEED = re.compile(r"^\s*seed:\s*(\d{1,19})\s*$")
_VAL_TOKENS = re.compile(r"\bval_loader:.{0,500}?\btokens:\s*([\d,]{1,20})|^\s*val_tokens:\s*([\d,]{1,20})\s*$")
_BYTES = re.compile(rf"^\s*({'|'.join(SIZES)})[^:]{{0,60}}:\s*([\d,]{{1,15}}) *bytes", re.IGNORECASE)
_VOCAB = re.compile(r"fineweb_(\d{3,6})_bpe|\bsp(\d{3,6})\b|\bvocab_size[:=]\s*(\d{3,6})", re.I)
_RULER = re.compile(r"^={60,}$")
SETTINGS = ("model_params:", "world_size:", "attention_mode:", "tie_embeddings:", "train_batch_tokens:",
            "mtp_num_heads:", "sdp_backends:", "xsa_active_layers:")  # fmt: skip
"""Lines of a log's head that are one recipe's, and so equal over its seeds."""
MILLISECONDS = {"ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass
class Log:
    """What one log says; numbers as written, so that their digits tell how exact they are."""

    name: str
    seed: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    val_tokens: int | None = None
    vocabularies: set[int] = field(default_factory=set)
    steps: int | None = None
    times: dict[str, list[float]] = field(default_factory=lambda: {"train": [], "eval": []})
    """Milliseconds, as often as they are told."""
    step_scores: list[tuple[int, str, str]] = field(default_factory=list)
    """(step, val_loss, val_bpb) of the validations while training."""
    finals: list[tuple[str, str, str]] = field(default_factory=list)
    """(label, val_loss, val_bpb) of the scores after training, in order."""
    sizes: dict[str, list[int]] = field(default_factory=lambda: {f"{part}_bytes": [] for part in SIZES.values()})
    """model_bytes, code_bytes and total_bytes, each as often as it is told."""
    computed_on: str = ""
    """This project's line of device, threads, dtype and kernel; empty in other logs."""
    script: str = ""
    """The script that the log begins with, empty where it has none."""

    train_ms = property(lambda self: max(self.times["train"], default=None))

    @property
    def score(self) -> tuple[str, str, str] | None:
        """The final score that counts: the last sliding one with the most digits, else the last of all."""
        candidates = [one for one in self.finals if "sliding" in one[0].lower()] or self.finals
        return max(candidates, key=lambda one: (len(one[2]), candidates.index(one)), default=None)

    @property
    def numbers(self) -> dict[str, str]:
        """{what it is: as written} of the run as a whole."""
        _, loss, bpb = self.score or ("", "", "")
        seconds = "" if self.train_ms is None else format(self.train_ms / 1000, ".3f")
        found = {"steps": self.steps, "loss": loss, "bpb": bpb, "train_seconds": seconds}
        found |= {name: values[-1] for name, values in self.sizes.items() if values}
        return {name: str(value) for name, value in found.items() if value}


def read_log(path: Path, name: str) -> Log:
    """One log; Broken for one that is too large or has too many lines."""
    lines = read_text(path).split("\n")
    hold(len(lines) <= MAX_LINES, f"{name} has more than {MAX_LINES:,} lines")
    named = re.search(r"seed[_-]?(\d{1,19})\b", Path(name).name)
    log = Log(name, int(named[1]) if named else None)
    ruler = next((index for index, line in enumerate(lines) if _RULER.match(line.strip())), None)
    if ruler is not None and any(line.startswith(("import ", "from ")) for line in lines[:ruler]):
        log.script, lines = "\n".join(lines[:ruler]), lines[ruler:]
    for line in lines:
        if ":" in line:
            _read_line(log, line.rstrip("\r")[:MAX_LINE])
    return log


def _read_line(log: Log, line: str) -> None:
    step = _STEP.match(line)
    if line.startswith("device: ") and "| compute: " in line:
        log.computed_on = line.strip()
    elif found := _SEED.match(line):
        log.seed = int(found[1])
    elif found := _VAL_TOKENS.search(line):
        log.val_tokens = _whole(found[1] or found[2])
    elif found := _BYTES.match(line):
        log.sizes[f"{SIZES[found[1].lower()]}_bytes"].append(_whole(found[2]))
    elif found := _SCORE.match(line):
        if step:
            log.step_scores.append((int(step[1]), found[2], found[3]))
        elif not found[1].strip().startswith(("#", "sliding_eval")):
            log.finals.append((found[1].strip(" :"), found[2], found[3]))
    log.settings |= {start: line.strip() for start in SETTINGS if line.startswith(start)}
    log.vocabularies |= {int("".join(size)) for size in _VOCAB.findall(line)}
    if step:
        log.steps = max(log.steps or 0, int(step[1]))
    for part, time, unit in _TIME.findall(line):
        log.times[part].append(MILLISECONDS[unit] * read_number(time))


def _whole(text: str) -> int:
    return int(text.replace(",", "") or 0)


def agreed_steps(
    text: str, train: Mapping[int, Mapping[str, Any]], val: Mapping[int, Mapping[str, Any]], was_resumed: bool
) -> int:
    """How many lines of train.log say the same as the metrics, all; Broken at the first that does not.

    Of a step that was trained twice, after a kill, the last line counts; a line of a step that is in no metrics may
    stand in the log of a resumed run alone.
    """
    matches = (STEP_LINE.match(line[:MAX_LINE]) for line in text.splitlines()[:MAX_LINES])
    lines = {("train" if found[2] else "val", int(found[1])): found for found in matches if found}
    logged = [("val", step) for step in val] + [("train", step) for step in train if step <= ALWAYS_LOGGED]
    missing = [f"{kind} {step}" for kind, step in logged if (kind, step) not in lines]
    hold(not missing, f"train.log has no line of step {', '.join(missing[:3])}")
    compared = 0
    for (kind, step), found in lines.items():
        row = (train if kind == "train" else val).get(step)
        hold(was_resumed or row is not None, f"train.log has step {step}, which metrics.jsonl has not")
        if row is None:
            continue
        said = {"loss": found[2] or found[3]} | ({"bpb": found[4]} if kind == "val" else {})
        for key, text in said.items():
            hold(agrees(text, float(row[key])), f"step {step}: {key} {text} in train.log, {row[key]} in metrics.jsonl")
        is_timed = agrees(found[5], 1000 * float(row["seconds"]))
        hold(is_timed, f"step {step}: {found[5]} ms in train.log, {row['seconds']} s in metrics.jsonl")
        compared += 1
    return compared
