"""Training logs as `pgolf verify` reads them, ours and the published ones (papers/machinery.md, "Log lines").

Only lines of known forms are read, each cut to a bounded length; whatever else a log holds is passed over. Settings,
events, and scores with what they are of keep the number of their line, so that a row can name it.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pgolf_core.lab.verify.evidence.checks import hold
from pgolf_core.lab.verify.reading.numbers import agrees, read_number
from pgolf_core.lab.verify.reading.sizes import PARTS, sizes_of
from pgolf_core.lab.verify.reading.untrusted import read_text

MAX_LINES, MAX_EVENTS = 300_000, 100_000
ALWAYS_LOGGED = 10
"""Training steps up to this one have their line, as has every validation."""
MAX_LINE = 2_000
NUMBER = r"([-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?)"
STEP_LINE = re.compile(
    rf"^step:(\d{{1,12}})/\d+ (?:train_loss:{NUMBER}|val_loss:{NUMBER} val_bpb:{NUMBER}) train_time:(\d{{1,15}})ms"
)
BEFORE, PACKED, SLIDING, ADAPTED = range(4)
"""Kinds of scores: of weights before packing, of the packed file, with a sliding window, adapted while scoring."""
MIXTURES = r"(?<![a-z])n.?gram|knn|cache|mix(?!ed)|tilt|ppm|hedge|ensemble"
"""Words for the model's probabilities mixed with those of something else, one way to adapt."""
KINDS = (
    (BEFORE, r"pre.?quant|before.?quant|unquant"),
    (ADAPTED, rf"adapted|ttt|test.?time|lora|slot|{MIXTURES}"),
    (SLIDING, r"slid|window|stride"),
    (PACKED, r"quant|int\d|round.?trip|zlib|zstd|lzma|brotli"),
    (BEFORE, r"ema\b|post_ema|swa\b|diagnostic|raw|averag|bf16|float|(?<![a-z])fp(?:16|32)?(?![a-z\d])|post.?train|"
             r"(?<![a-z])trained"),
)  # fmt: skip
"""What a score's label says of its kind, the first that fits; one that says nothing is of the packed file."""
_UNADAPTED = re.compile(r"(?:(?<![a-z])no|pre|without|before)[ _-]?(?:adapted|ttt|slot|n-?gram)|unadapted", re.I)
_PASSING = re.compile(
    r"\d\s*/\s*\d|%|#|(?<![a-z])(?:chunk|batch|epoch|phase|doc)\W{0,3}\d|sliding_eval|(?<![a-z])running|"
    r"(?:(?<![a-z_])|_(?=[a-z]{1,11}$))(?:calib(?![a-z])|delta|gain|diff|improve|target|baseline|best|std|worst|mean)",
    re.I)  # fmt: skip
"""Labels of scores on the way and of differences, which are no final ones."""
_TAG = re.compile(r"[\w.=-]{1,150}:\s+(?=(?:step|final)[\w:])", re.I)
"""The name of a run before a line that was gathered with those of other runs."""
_PREFIX = re.compile(
    r"(?:(?:\[?(?:rank|gpu)[ :_]?\d{1,4}\]?|\[\d{1,4}\]|[\[(]?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,:+Z]{0,12}[\])]?|"
    r"[\[(]?\d\d:\d\d:\d\d[\d.,]{0,8}[\])]?|\[\s?\d{1,9}(?:\.\d{1,6})?s\]|"
    r"\[?(?:INFO|WARNING|DEBUG)\b\]?)[\s:|>-]*)+", re.I)  # fmt: skip
"""What a logger or a launcher puts before a line: date, time, rank, level."""
_VAL = r"(?<!\w)(?!train(?:ing)?_)(\w{0,60}?)_?(?:val(?:idation)?[_ ]?)?"
_BPB = re.compile(
    rf"{_VAL}bpb(?:[\"'*)]{{0,2}}\s*[:=| ]\s*[\"'*]{{0,2}}|\s?\(([^():=]{{1,60}})\)\s?[:=]\s*){NUMBER}", re.I
)
"""The score's name, what stands in brackets after it, and its value."""
_LOSS = re.compile(rf"{_VAL}loss[\"']?\s*[:=| ]\s*{NUMBER}", re.I)
_STEP = re.compile(r"\W{0,4}(?:(?:step|iter)\b\W{0,3}(\d{1,12})\b|(\d{1,12})\s*/\s*\d{1,12}\b(?!/))", re.I)
_STOP = re.compile(r"stopping_early.{0,200}?\bstep:\s*(\d{1,12})()/")
_TIME = re.compile(rf"\b(train|eval|total_eval)(?:ing)?[_ ]time[:=]\s*{NUMBER}\s*(ms|s|m)\b", re.I)
_STEP_TIME = re.compile(rf"\s(?:t|elapsed)[:=]\s*{NUMBER}\s*(ms|s|m)\b")
"""On the line of a step, the clock of all steps so far."""
_SCORE_TIME = re.compile(rf"\s(?:eval|time|elapsed)[:=]\s*{NUMBER}\s*(ms|s|m)\b")
_SECONDS = re.compile(rf"\b(train|eval)_seconds\s*[:=]\s*{NUMBER}()(?!\S)")
_DONE = re.compile(
    rf"^(?=.{{0,60}}(?:ttt|n-?gram|slot|eval))(.{{0,60}}?)[: ]done\b.{{0,200}}?"
    rf"\b(?:elapsed|total_time|in)[:= ]\s*{NUMBER}\s*(ms|s|m)\b", re.I)  # fmt: skip
_HESSIANS = re.compile(rf"\b(collected \d{{1,9}} hessians) in {NUMBER}\s*(ms|s|m)\b", re.I)
_SEED = re.compile(r"[\"']?seed[\"']?\s*[:=]\s*(\d{1,19})\s*,?$", re.I)
_SEED_IN_LINE = re.compile(
    r"(?!.{0,200}(?:calib|data|shuffl|sampl|eval|probe))(?=(?:[^:=]{0,60}[:=]){3}).{0,200}?\bseed[:=]\s*"
    r"(\d{1,19})(?!\S)", re.I)  # fmt: skip
"""Among other settings, where no line and no name has one."""
_SEED_IN_NAME = re.compile(r"(?:seed|(?<![a-z])s)[_=-]?(\d{1,19})(?!\d)", re.I)
_VAL_TOKENS = re.compile(
    r"\bval_loader:(?:.{0,500}?\btokens|bytes):\s*([\d,]{1,20})|"
    r"^val(?:idation)?[ _]tokens\s*[:=]\s*([\d,]{1,20})(?!\S)|"
    r"^([\d,]{1,20}) val(?:idation)? tokens\b", re.I)  # fmt: skip
"""What is loaded to be scored; of a tokenizer of bytes it is bytes."""
_VOCAB = re.compile(r"fineweb_(\d{3,6})_bpe|\bsp(\d{3,6})\b|\bvocab_size[:=]\s*(\d{3,6})", re.I)
_RULER = re.compile(r"^={60,}$")
_TELLS = re.compile(
    r"(?!(?:no|pre|without|before)[_ -])(?:(?:\w{0,20}_)?(?:ttt|n_?gram|ppm|slot)"
    r"(?:_(?:cache|mix\w{0,9}|tilt|sliding|phased|lora|eval|chunk|train|enabled))?\b(?:\s(?!skip|off|disabled)\w{1,20})?"
    r"\s?[:=\[]|"
    r".{0,80}\b(?:ttt|n-?gram|ppm|slot) (?:eval|adapt|scor|mix|cache))"
    r"(?!\s?(?:0\b|false|no|off|disabled|skip)).{0,30}", re.I)  # fmt: skip
"""A line on an adaptation while scoring, which is not switched off."""
MAX_TOLD = 3
PRINTED = "Source code:"
"""Between two rulers; the script follows, up to the next ruler."""
SETTINGS = ("model_params:", "world_size:", "attention_mode:", "tie_embeddings:", "train_batch_tokens:",
            "mtp_num_heads:", "sdp_backends:", "xsa_active_layers:")  # fmt: skip
"""Lines of a log's head that are one recipe's, and so equal over its seeds."""
STILL_OF_IT = 4
"""Lines after which a count of tokens belongs to no score any more."""
_SETTING = re.compile(r"(?:^|.{0,60}?\s)\s([A-Za-z_]\w{0,60}): ?(.{0,300})$")
_COUNT = r"\s*[=:]\s*(\d[\d,]{3,18})(?![\d.])"
_OF = r"(?<![A-Za-z_])(?:(?:scored|total|eval|val|num|n)_)?"
_TOKENS_OF = re.compile(rf"{_OF}(?:subset|tokens|positions)(?:_tokens)?{_COUNT}", re.I)
_BYTES_OF = re.compile(rf"{_OF}bytes{_COUNT}", re.I)
_NAMED_BYTES_OF = re.compile(rf"(?<![A-Za-z_])(?:scored|eval|val|num|n)_bytes{_COUNT}", re.I)
_OF_A_FILE = re.compile(r"model|artifact|serial|submission|payload|\bcode|checkpoint|ckpt|saved", re.I)
"""Lines that tell of the bytes of a file and not of a text."""
_OF_A_PART = re.compile(r"rank|short|long|chunk|batch|progress|train|calib|prefix", re.I)
"""Lines whose count is of a part on the way, and so of no score that follows."""
_NAMED_BPB = re.compile(r"(?:bpb|bits_per_byte)\w{0,20}\s*[=:]\s*(\d\.\d{2,12})", re.I)
_OF_A_STEP = re.compile(r"^\W{0,4}(?:step\W{0,3})?\d{1,12}\s*/\s*\d{1,12}\b|^\W{0,4}step\b", re.I)
_FINAL = re.compile(r"bpb\w{0,20}\s*[=:]\s*\d\.\d{4,}", re.I)
_EPOCH = re.compile(r"\b(?=\w{0,40}ttt)(\w{1,40})[_: ]epoch[: =]{1,2}(\d{1,6})\s*/\s*(\d{1,6})\b", re.I)
_PHASE = re.compile(r"\bphase:\s*(\d{1,6})/\d{1,6}\s+pd:\s*(\d{1,12})\s+gd:\s*(\d{1,12})\b")
TIMERS = ("train", "rounded", "eval", "total_eval")
MILLISECONDS = {"ms": 1.0, "s": 1e3, "": 1e3, "m": 6e4}


class Score(NamedTuple):
    """One line's score, numbers as written; the loss is empty where the line has none."""

    label: str
    loss: str
    bpb: str
    is_early: bool = False
    """Whether the log tells the size of the packed file after it, and another score after that."""

    @property
    def words(self) -> str:
        """The label in small letters, without what says that nothing was adapted."""
        return _UNADAPTED.sub("", self.label).lower()

    @property
    def kind(self) -> int:
        """BEFORE, PACKED, SLIDING or ADAPTED, by the label's words; a later kind outranks an earlier one."""
        return PACKED if self.said_kind is None else self.said_kind

    @property
    def said_kind(self) -> int | None:
        """The same; None for a label that says nothing of it."""
        found = [kind for kind, pattern in KINDS if re.search(pattern, self.words)]
        is_before = self.is_early and BEFORE in found and PACKED not in found
        return BEFORE if is_before else next(iter(found), None)


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
class Log:
    """What one log says; numbers as written, so that their digits tell how exact they are."""

    name: str
    seed: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    val_tokens: int | None = None
    vocabularies: set[int] = field(default_factory=set)
    steps: int | None = None
    times: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in TIMERS})
    """Milliseconds, as often as they are told; of training the ones in minutes, which are rounded, are apart."""
    after: dict[str, float] = field(default_factory=dict)
    """Milliseconds of work on the weights between the clock's stop and packing, by what it is."""
    step_scores: list[tuple[int, str, str]] = field(default_factory=list)
    """(step, val_loss, val_bpb) of the validations while training; the loss is empty where a line has none."""
    finals: list[Score] = field(default_factory=list)
    """The scores after training, in order."""
    sizes: dict[str, list[int]] = field(default_factory=lambda: {f"{part}_bytes": [] for part in PARTS})
    """model_bytes, code_bytes, total_bytes and artifact_bytes, each as often as it is told."""
    computed_on: str = ""
    """This project's line of device, threads, dtype and kernel; empty in other logs."""
    script: str = ""
    """The script that the log begins with, empty where it has none."""
    block: dict[str, tuple[str, int]] = field(default_factory=dict)
    """{setting: (value, line)} of the lines after `Hyperparameters:`."""
    mentions: list[Mention] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    told: list[tuple[int, str]] = field(default_factory=list)
    """(line, its beginning) of the first lines that tell of an adaptation while scoring."""
    scored_lines: list[tuple[int, str]] = field(default_factory=list)
    """(line, text) of every line with a score of four digits or more, but those of steps and epochs."""
    counted: tuple[int, int | None, int | None] = (-STILL_OF_IT - 1, None, None)
    """The last line that counts without a score, its tokens and bytes: of a score that follows soon."""

    packed_at: int | None = None
    """How many final scores stand before the first packed size."""

    train_ms = property(lambda self: max(self.times["train"] or self.times["rounded"], default=None))
    eval_ms = property(lambda self: max(self.times["total_eval"] or self.times["eval"], default=None))
    """The log's own total of scoring, else its longest timer, since timers overlap."""

    @property
    def last_sizes(self) -> dict[str, int]:
        """Each of `sizes` that is told, as it is told last."""
        return {name: values[-1] for name, values in self.sizes.items() if values}


def read_log(path: Path, name: str) -> Log:
    """One log; Broken for one that is too large or has too many lines."""
    lines = read_text(path).split("\n")
    hold(len(lines) <= MAX_LINES, f"{name} has more than {MAX_LINES:,} lines")
    named = _SEED_IN_NAME.search(Path(name).stem)
    log = Log(name)
    start = next((index for index, line in enumerate(lines) if _RULER.match(line.strip())), 0)
    if any(line.startswith(("import ", "from ")) for line in lines[:start]):
        log.script, lines = "\n".join(lines[:start]), lines[start:]
    else:
        start = 0
    lines = _without_printed(lines)
    seeds: set[int] = set()
    other_seeds: set[int] = set()
    is_block = False
    for at, text in enumerate(lines, start + 1):
        line = text[:MAX_LINE].rstrip("\r")
        is_head = line.rstrip().endswith("Hyperparameters:")
        found = _SETTING.match(line) if is_block and not is_head else None
        is_block = is_head or found is not None
        if found:
            log.block[found[1]] = found[2].strip(), at
        elif not is_block and (":" in line or "=" in line):
            _read_events(log, line, at)
        if any(mark in line for mark in (":", "=", "|", " tokens", " eval")):
            line = line.strip()
            line = line[found.end() :] if (found := _PREFIX.match(line)) else line
            line = line[found.end() :] if (found := _TAG.match(line)) else line
            seeds |= {int(found[1])} if (found := _SEED.match(line)) else set()
            other_seeds |= {int(found[1])} if "seed" in line and (found := _SEED_IN_LINE.match(line)) else set()
            _read_line(log, line, line.lower())
            is_other = is_block or "bpb" in line or len(log.told) == MAX_TOLD
            if not is_other and (tells := _TELLS.match(line)):
                log.told.append((at, tells[0]))
    seeds = seeds or ({int(named[1])} if named else other_seeds)
    log.seed = seeds.pop() if len(seeds) == 1 else None
    if log.packed_at is not None and log.packed_at < len(log.finals):
        early = log.finals[: log.packed_at]
        log.finals = [*(one._replace(is_early=True) for one in early), *log.finals[log.packed_at :]]
    return log


def _without_printed(lines: list[str]) -> list[str]:
    """The lines, empty where a script stands between rulers under its heading."""
    rulers = [at for at, line in enumerate(lines) if _RULER.match(line.strip())]
    heads = [at for before, at in itertools.pairwise(rulers) if "".join(lines[before + 1 : at]).strip() == PRINTED]
    if not heads:
        return lines
    start = heads[0] + 1
    end = next((at for at in rulers if at >= start), len(lines))
    return [*lines[:start], *[""] * (end - start), *lines[end:]]


def _read_line(log: Log, line: str, low: str) -> None:
    """One line, and the same in small letters, by which most lines need no slower look."""
    step, scores = _STEP.match(line), len(log.finals)
    if line.startswith("device: ") and "| compute: " in line:
        log.computed_on = line
    elif ("tokens" in low or "val_loader" in low) and (found := _VAL_TOKENS.search(line)):
        log.val_tokens = _whole(found[1] or found[2] or found[3])
    elif "bpb" in low:
        _read_scores(log, line, int(step[1] or step[2]) if step else None)
    if any(word in low for word in ("bytes", "size", "artifact", "code:")):
        for part, size in sizes_of(line):
            log.sizes[f"{part}_bytes"].append(size)
            log.packed_at = len(log.finals) if log.packed_at is None and part != "code" else log.packed_at
    if line.startswith(SETTINGS):
        log.settings[line.partition(":")[0] + ":"] = line
    if "sp" in low or "_bpe" in low or "vocab" in low:
        log.vocabularies |= {int("".join(size)) for size in _VOCAB.findall(line)}
    step = step or _STOP.match(line)
    if step:
        log.steps = max(log.steps or 0, int(step[1] or step[2]))
    times = (_TIME.findall(line) if "time" in low else []) or _SECONDS.findall(line)
    if not times and (step or len(log.finals) > scores):
        part, pattern = ("train", _STEP_TIME) if step else ("eval", _SCORE_TIME)
        times = [(part, *told) for told in pattern.findall(line)]
    for part, time, unit in times:
        part = "rounded" if (part, unit) == ("train", "m") else part.lower()
        log.times[part].append(MILLISECONDS[unit.lower()] * read_number(time))
    is_work = "done" in low or "hessians" in low
    for what, time, unit in (*_DONE.findall(line), *_HESSIANS.findall(line)) if is_work else ():
        spent = MILLISECONDS[unit.lower()] * read_number(time)
        if re.search(r"pre.?quant|hessians", what, re.I):
            log.after[what.strip()] = max(log.after.get(what.strip(), 0.0), spent)
        elif not re.search(r"warm|compil", what, re.I):
            log.times["eval"].append(spent)


def _read_scores(log: Log, line: str, step: int | None) -> None:
    """Every bpb of a line, the first with the loss nearest before it."""
    first: re.Match | None = None
    for found in _BPB.finditer(line):
        losses = [] if first else list(_LOSS.finditer(line, 0, found.start()))
        loss = losses[-1] if losses else None
        first = first or (losses[0] if losses else found)
        named = (loss[1] if loss else found[1]), found[2]
        label = " ".join(filter(None, (line[: first.start()].strip(), *named))).strip(" :|=-_,\"'*{")[:120]
        if step is not None:
            if not found[1]:
                log.step_scores.append((step, loss[2] if loss else "", found[3]))
        elif not _PASSING.search(label):
            log.finals.append(Score(label, loss[2] if loss else "", found[3]))


def _read_events(log: Log, line: str, at: int) -> None:
    """What a line tells of scores and of an adaptation."""
    if found := _EPOCH.search(line):
        log.epochs.append(Epoch(at, found[1], int(found[2]), int(found[3])))
    elif found := _PHASE.search(line):
        log.phases.append(Phase(at, int(found[2]), int(found[3])))
    if found or _OF_A_STEP.match(line) or len(log.mentions) + len(log.scored_lines) > MAX_EVENTS:
        return
    if _FINAL.search(line):
        log.scored_lines.append((at, line.strip()))
    of_tokens = _TOKENS_OF.search(line)
    of_bytes = None if _OF_A_FILE.search(line) else (_BYTES_OF if of_tokens else _NAMED_BYTES_OF).search(line)
    tokens, size = (_whole(found[1]) if found else None for found in (of_tokens, of_bytes))
    named = tuple(_NAMED_BPB.findall(line)) if "b" in line else ()
    if named and tokens is None and size is None and at - log.counted[0] <= STILL_OF_IT:
        _, tokens, size = log.counted
    if named and (tokens or size):
        log.mentions.append(Mention(at, named, tokens, size))
    elif (tokens or size) and not _OF_A_PART.search(line):
        log.counted = at, tokens, size


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
