"""Training logs as `pgolf verify` reads them: this project's and the published ones' (SEEDS.md 1.11 and 15).

Only lines of known forms are read, each cut to a bounded length; whatever else a log holds is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgolf_core.lab.verify.evidence.checks import Broken, agrees, read_text

MAX_LINES = 300_000
ALWAYS_LOGGED = 10
"""Training steps up to this one have their line, as has every validation."""
MAX_LINE = 2_000
NUMBER = r"([-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?)"
STEP_LINE = re.compile(
    rf"^step:(\d{{1,12}})/\d+ (?:train_loss:{NUMBER}|val_loss:{NUMBER} val_bpb:{NUMBER}) train_time:(\d{{1,15}})ms"
)
_SCORE = re.compile(rf"^(.{{0,120}}?)\bval_loss:\s*{NUMBER}\s+val_bpb:\s*{NUMBER}(.{{0,200}})")
_STEP = re.compile(r"^\s*(?:step:\s*)?(\d{1,12})\s*/\s*\d{1,12}\b")
_TRAIN_TIME = re.compile(rf"\btrain_time:\s*{NUMBER}\s*(ms|s|m)\b")
_EVAL_TIME = re.compile(rf"\beval_time:\s*{NUMBER}\s*ms\b")
_SEED = re.compile(r"^\s*seed:\s*(\d{1,19})\s*$")
_VAL_TOKENS = re.compile(r"\bval_loader:.{0,500}?\btokens:\s*([\d,]{1,20})|^\s*val_tokens:\s*([\d,]{1,20})\s*$")
_BYTES = re.compile(r"^\s*(serialized model|code size|total submission size)([^:]{0,60}):\s*([\d,]{1,15}) *bytes", re.I)
_VOCAB = re.compile(r"fineweb_(\d{3,6})_bpe|\bsp(\d{3,6})\b|\bvocab_size[:=]\s*(\d{3,6})", re.I)
_RULER = re.compile(r"^={60,}$")
SETTINGS = ("model_params:", "world_size:", "attention_mode:", "tie_embeddings:", "train_batch_tokens:",
            "mtp_num_heads:", "sdp_backends:", "xsa_active_layers:")  # fmt: skip
"""Lines of a log's head that are one recipe's, and so equal over its seeds."""


@dataclass
class Log:
    """What one log says; numbers as written, so that their digits tell how exact they are."""

    name: str
    seed: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    val_tokens: int | None = None
    vocabularies: set[int] = field(default_factory=set)
    steps: int | None = None
    train_ms: float | None = None
    eval_ms: list[float] = field(default_factory=list)
    step_scores: list[tuple[int, str, str]] = field(default_factory=list)
    """(step, val_loss, val_bpb) of the validations while training."""
    finals: list[tuple[str, str, str]] = field(default_factory=list)
    """(label, val_loss, val_bpb) of the scores after training, in order."""
    model_bytes: list[int] = field(default_factory=list)
    code_bytes: list[int] = field(default_factory=list)
    total_bytes: list[int] = field(default_factory=list)
    computed_on: str = ""
    """This project's line of device, threads, dtype and kernel; empty in other logs."""
    script: str = ""
    """The script that the log begins with, empty where it has none."""

    @property
    def score(self) -> tuple[str, str, str] | None:
        """The final score that counts: the last sliding one with the most digits, else the last of all."""
        sliding = [one for one in self.finals if "sliding" in one[0].lower()]
        candidates = sliding or self.finals
        return max(candidates, key=lambda one: (len(one[2]), candidates.index(one)), default=None)


def read_log(path: Path, name: str) -> Log:
    """One log; Broken for one that is too large or has too many lines."""
    text = read_text(path)
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise Broken(f"{name} has more than {MAX_LINES:,} lines")
    log = Log(name)
    named = re.search(r"seed[_-]?(\d{1,19})\b", Path(name).name)
    log.seed = int(named[1]) if named else None
    ruler = next((index for index, line in enumerate(lines) if _RULER.match(line.strip())), None)
    if ruler is not None and any(line.startswith(("import ", "from ")) for line in lines[:ruler]):
        log.script, lines = "\n".join(lines[:ruler]), lines[ruler:]
    for line in lines:
        _read_line(log, line.rstrip("\r")[:MAX_LINE])
    return log


def _read_line(log: Log, line: str) -> None:
    if ":" not in line:
        return
    if line.startswith("device: ") and "| compute: " in line:
        log.computed_on = line.strip()
    elif found := _SEED.match(line):
        log.seed = int(found[1])
    elif found := _VAL_TOKENS.search(line):
        log.val_tokens = _whole(found[1] or found[2])
    elif found := _BYTES.match(line):
        {"s": log.model_bytes, "c": log.code_bytes, "t": log.total_bytes}[found[1][0].lower()].append(_whole(found[3]))
    elif found := _SCORE.match(line):
        step = _STEP.match(found[1])
        if step:
            log.step_scores.append((int(step[1]), found[2], found[3]))
        elif not found[1].strip().startswith(("#", "sliding_eval")):
            log.finals.append((found[1].strip(" :"), found[2], found[3]))
    for start in SETTINGS:
        if line.startswith(start):
            log.settings[start] = line.strip()
    for found in _VOCAB.finditer(line):
        log.vocabularies.add(int(found[1] or found[2] or found[3]))
    step, time = _STEP.match(line), _TRAIN_TIME.search(line)
    if step:
        log.steps = max(log.steps or 0, int(step[1]))
    if time:
        scale = {"ms": 1.0, "s": 1e3, "m": 6e4}[time[2]]
        log.train_ms = max(log.train_ms or 0.0, scale * float(time[1].replace(",", "")))
    if found := _EVAL_TIME.search(line):
        log.eval_ms.append(float(found[1].replace(",", "")))


def _whole(text: str) -> int:
    return int(text.replace(",", "") or 0)


def agreed_steps(
    text: str, train: Mapping[int, Mapping[str, Any]], val: Mapping[int, Mapping[str, Any]], was_resumed: bool
) -> int:
    """How many lines of train.log say the same as the metrics, all; Broken at the first that does not.

    Of a step that was trained twice, after a kill, the last line counts; a line of a step that is in no metrics may
    stand in the log of a resumed run alone.
    """
    lines: dict[tuple[str, int], re.Match[str]] = {}
    for line in text.splitlines()[:MAX_LINES]:
        if found := STEP_LINE.match(line[:MAX_LINE]):
            lines["train" if found[2] else "val", int(found[1])] = found
    logged = [("val", step) for step in val] + [("train", step) for step in train if step <= ALWAYS_LOGGED]
    missing = [f"{kind} {step}" for kind, step in logged if (kind, step) not in lines]
    if missing:
        raise Broken(f"train.log has no line of step {', '.join(missing[:3])}")
    compared = 0
    for (kind, step), found in lines.items():
        row = (train if kind == "train" else val).get(step)
        if row is None:
            if was_resumed:
                continue
            raise Broken(f"train.log has step {step}, which metrics.jsonl has not")
        said = {"loss": found[2] or found[3]} | ({"bpb": found[4]} if kind == "val" else {})
        for key, written in said.items():
            if not agrees(written, float(row[key])):
                raise Broken(f"step {step}: {key} {written} in train.log, {row[key]} in metrics.jsonl")
        if not agrees(found[5], 1000 * float(row["seconds"])):
            raise Broken(f"step {step}: {found[5]} ms in train.log, {row['seconds']} s in metrics.jsonl")
        compared += 1
    return compared
