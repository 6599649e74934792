"""Whether a token was scored before the model was adapted to it, where a log or a trace of events shows the order."""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgolf_core.lab.shared.tables import some
from pgolf_core.lab.verify.evidence.checks import hold, quietly, require
from pgolf_core.lab.verify.reading.claims import Judged
from pgolf_core.lab.verify.reading.traces import Epoch, Trace
from pgolf_core.lab.verify.reading.untrusted import read_text

ADAPTED = re.compile(r"ttt|test.?time|n.?gram|slot|lora|ppm|adapt", re.I)
"""Words of labels and settings that tell of an adaptation while scoring."""
OFF = re.compile(r"^(?:0|false|none|off|)$", re.I)
SWITCH = re.compile(r"(?:ttt|ngram|slot|ppm|tent)\w*_?enabled?$|^(?:use_)?(?:ttt|ngram|slot|ppm)$", re.I)
KIND_KEYS, SPAN_KEYS = ("event", "kind", "op", "phase", "type"), ("chunk", "chunk_id", "ci", "doc")
OF_EVENTS = re.compile(r"(?:trace|event|ttt|order|audit|score.?first)[^/]*\.jsonl$", re.I)
"""Names of files of events; a file of metrics trains and scores other texts."""
SCORES = re.compile(r"score|eval", re.I)
LEARNS = re.compile(r"train|update|adapt|learn|step|fit", re.I)
MAX_EVENTS = 200_000


def score_first(folder: Judged) -> str:
    """An adaptation comes after the score of what it learns from, by a trace, or by a log's phases and epochs."""
    traces = [folder.traces[log.name] for log in folder.logs]
    wrong, shown = [], []
    for name, path in folder.files.items():
        if OF_EVENTS.search(name):
            found = _events(name, path)
            wrong += (found or [])[:1]
            shown += [name] if found is not None and not found else []
    for trace in traces:
        wrong += _epochs_first(trace)
        early = [phase for phase in trace.phases if phase.adapted > phase.scored]
        wrong += [f"{trace.name}:{phase.line}: adapted to {phase.adapted:,} documents when {phase.scored:,} were scored"
                  for phase in early[:2]]  # fmt: skip
        shown += [f"{trace.name} ({len(trace.phases)} phases)"] if trace.phases and not early else []
    hold(not wrong, some(wrong))
    if shown:
        return f"scored before it was learned from: {some(shown)}"
    names = _named(folder, traces)
    require(not names, f"the logs tell of an adaptation ({some(names)}) and not of its order")
    return f"no score, setting or line of {len(traces)} log(s) tells of an adaptation while scoring"


def _epochs_first(trace: Trace) -> list[str]:
    """Whole epochs over the text before its only score: the second began when all of it had been learned from.

    An adaptation chunk by chunk begins its epochs again with every chunk; one that never does has no chunks.
    """
    by_name: dict[str, list[Epoch]] = {}
    for epoch in trace.epochs:
        by_name.setdefault(epoch.name, []).append(epoch)
    found = []
    for name, epochs in by_name.items():
        numbers = [epoch.number for epoch in epochs]
        is_whole = numbers == sorted(numbers) and len(set(numbers)) > 1 and max(numbers) == epochs[-1].of
        after = next((line for line, text in trace.finals if line > epochs[-1].line and not _is_before(text)), None)
        if is_whole and after:
            found.append(
                f"{trace.name}:{epochs[0].line} to {epochs[-1].line}: {name} ran {max(numbers)} epochs over the text, "
                f"and its score follows in line {after}"
            )
    return found


def _is_before(text: str) -> bool:
    return bool(re.search(r"epoch|running|chunk", text, re.I))


def _named(folder: Judged, traces: list[Trace]) -> list[str]:
    """Where logs tell of an adaptation: labels of scores, and switches that are on."""
    found = [f"{log.name}: {one.label}" for log in folder.logs for one in log.finals if ADAPTED.search(
        re.sub(r"(?:no|pre|without|before)[ _-]?(?:ttt|slot|n-?gram)", "", one.label, flags=re.I))]  # fmt: skip
    for trace in traces:
        found += [f"{trace.name}:{line} {key}: {value:.20}" for key, (value, line) in trace.settings.items()
                  if SWITCH.search(key) and not OFF.match(value)]  # fmt: skip
        found += [f"{trace.name}:{epoch.line} {epoch.name}" for epoch in trace.epochs[:1]]
    return list(dict.fromkeys(found))


def _events(name: str, path: Path) -> list[str] | None:
    """What a file of events shows out of order; None for a file that is no such trace."""
    scored: set[Any] = set()
    last, wrong, kinds = -1.0, [], set()
    for at, line in enumerate((quietly(lambda: read_text(path)) or "").splitlines()[:MAX_EVENTS], 1):
        row = quietly(functools.partial(json.loads, line))
        kind = next((str(row[key]) for key in KIND_KEYS if key in row), "") if isinstance(row, dict) else ""
        span = _span(row) if kind and isinstance(row, dict) else None
        if span is None:
            continue
        end, key = span
        if SCORES.search(kind):
            kinds.add("score")
            scored.add(key)
            last = max(last, end)  # of spans that end somewhere, the text up to the last end is scored
        elif LEARNS.search(kind):
            kinds.add("learn")
            if end > last if key == "end" else key not in scored:
                what = key if key != "end" else f"tokens up to {end:g}"
                wrong.append(f"{name}:{at}: {kind} of {what} before its score")
    return wrong if kinds == {"score", "learn"} else None


def _span(row: Mapping[str, Any]) -> tuple[float, Any] | None:
    """(where it ends, what it is) of one event: a numbered chunk, or tokens up to an end."""
    for key in SPAN_KEYS:
        if type(row.get(key)) in (int, str):
            return -1.0, f"{key} {row[key]}"
    end = row.get("end", row.get("tokens_end"))
    return (float(end), "end") if type(end) is int else None
