"""What the logs of a submission show beside their numbers: one recipe over all seeds, how much of the split a claimed
score is of, and whether the text was scored before the model learned from it."""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgolf_core.base.files import sha256_bytes
from pgolf_core.lab.shared.tables import so_many, some
from pgolf_core.lab.shared.texts import FINEWEB_BYTES, FINEWEB_TRACK, fineweb_tokens
from pgolf_core.lab.verify.evidence.checks import hold, quietly, require
from pgolf_core.lab.verify.evidence.text import implied_bytes
from pgolf_core.lab.verify.reading.claims import Judged
from pgolf_core.lab.verify.reading.keys import claimed
from pgolf_core.lab.verify.reading.logs import Epoch, Log
from pgolf_core.lab.verify.reading.numbers import last_digit, read_number, same_number
from pgolf_core.lab.verify.reading.reviewed import scored_once
from pgolf_core.lab.verify.reading.untrusted import read_text

OF_ONE_RUN = re.compile(
    r"seed|run_?id|log|path|file|dir|rank|device|time_?stamp|date|host|port|pid|wandb|name|prefix|commit|sha|resume|"
    r"ckpt|checkpoint|^load|^save|main|master|is_dist|notes?$|job|node|uuid|start_?time|started", re.I)  # fmt: skip
"""Settings that differ between runs of one recipe."""
LEAST_SETTINGS = 5
WHOLE = 0.98
"""From this share on a split is whole: rows of windows drop its end, and tokenizers count its bytes otherwise."""
LEAST_SCORED = 100_000
"""Fewer tokens on a line with a score are of a window or a chunk."""
MOST_BYTES = 8
"""Of a token on average, by any tokenizer of two-byte ids on this text; the published ones have 2.4 to 3.7."""
LEAST_DIGITS = 1e-3
"""A score with fewer digits than these names no line of a log."""
SCORED_KEY = re.compile(
    r"(?!.*(?:chunk|batch|window|seq|context|prefix|train|target|step|per_(?!seed)|max|limit|budget))"
    r"(?=.*(?:eval|val|scored|subset))(?=.*(?:token|byte)).*(?:count|scored|tokens|subset).*", re.I)  # fmt: skip
"""Keys of submission.json that count what was scored; a speed or a bound is no such count."""
ADAPTED = re.compile(r"ttt|test.?time|n.?gram|slot|lora|ppm|adapt", re.I)
"""Words of labels and settings that tell of an adaptation while scoring."""
OFF = re.compile(r"^(?:0|false|none|off|)$", re.I)
SWITCH = re.compile(r"(?:ttt|ngram|slot|ppm|tent)\w*_?enabled?$|^(?:use_)?(?:ttt|ngram|slot|ppm)$", re.I)
KIND_KEYS, SPAN_KEYS = ("event", "kind", "op", "phase", "type"), ("chunk", "chunk_id", "ci", "doc")
OF_EVENTS = re.compile(r"(?:trace|event|ttt|order|audit|score.?first)[^/]*\.jsonl$", re.I)
"""Names of files of events; a file of metrics trains and scores other texts."""
SCORES = re.compile(r"score|eval", re.I)
LEARNS = re.compile(r"train|update|adapt|learn|step|fit", re.I)
ON_THE_WAY = re.compile(r"epoch|running|chunk", re.I)
MAX_EVENTS = 200_000
Block = Mapping[str, tuple[str, int]]
"""{setting: (value, line)} of one log."""


# ---------------------------------------------------------------------- one recipe


def same_recipe(folder: Judged) -> str:
    """Settings, code sizes and embedded scripts of the logs are equal, and every setting is one of the script's."""
    logs = [log for log in folder.runs.values() if log.steps is not None] or list(folder.runs.values())
    blocks = {log.name: log.block for log in logs if len(log.block) >= LEAST_SETTINGS}
    keys = sorted({key for log in logs for key in log.settings})
    found = ({log.settings.get(key) for log in logs} for key in keys)
    wrong = [f"logs differ: {' / '.join(sorted(map(str, lines)))}" for lines in found if len(lines) > 1]
    wrong += _unlike_settings(blocks)
    sizes = {log.name: tuple(dict.fromkeys(log.sizes["code_bytes"])) for log in logs if log.sizes["code_bytes"]}
    if len(set(sizes.values())) > 1:
        wrong.append(f"code sizes differ: {some(f'{name} {values[-1]:,}' for name, values in sizes.items())}")
    scripts = {sha256_bytes(log.script.encode()) for log in logs if log.script}
    wrong += ["the logs begin with different scripts"] if len(scripts) > 1 else []
    wrong += _unknown_to_the_script(folder, blocks)
    hold(not wrong, "; ".join(wrong))
    count = len(keys) + (min(map(len, blocks.values())) if blocks else 0)
    require(len(logs) > 1, f"there is the log of one seed only ({so_many(count, 'setting')} in it)")
    require(count > 0, "no log names a setting")
    also = [what for what, is_so in (("code size", len(sizes) > 1), ("the scripts in the logs", scripts)) if is_so]
    return f"{len(logs)} seeds, equal in {', '.join([so_many(count, 'setting'), *also])}"


def _unlike_settings(blocks: Mapping[str, Block]) -> list[str]:
    """Settings that some logs have and others have otherwise, or not at all."""
    found = []
    for key in sorted({key for block in blocks.values() for key in block if not OF_ONE_RUN.search(key)}):
        values = {name: block.get(key, ("none", 0)) for name, block in blocks.items()}
        if len({value for value, _ in values.values()}) > 1:
            places = [f"{name}{f':{line}' if line else ''} {value:.40}" for name, (value, line) in values.items()]
            found.append(f"{key} differs: {some(places)}")
    return [*found[:8], *([f"and {len(found) - 8} more settings"] if len(found) > 8 else [])]


def _unknown_to_the_script(folder: Judged, blocks: Mapping[str, Block]) -> list[str]:
    """Settings of a log that stand nowhere in the shipped code, which so is not what ran; nothing if it is unread."""
    code = quietly(lambda: folder.code) or {}
    if not blocks or not code or any(one.unread for one in code.values()):
        return []
    words = {word.lower() for one in code.values() for word in re.findall(r"[A-Za-z_]\w*", one.source)}
    found = []
    for name, block in blocks.items():
        unknown = [f"{key} (line {line})" for key, (_, line) in block.items() if key.lower() not in words]
        if len(unknown) > len(block) / 2:
            return []  # the settings are made otherwise, or another file holds them
        found += [f"{name} has settings that the shipped code lacks: {some(unknown)}"] if unknown else []
    return found


# ---------------------------------------------------------------------- the whole split


def whole_split(folder: Judged) -> str:
    """No claimed score is of a part of the split, and its bytes are not more than the split's."""
    if folder.artifacts:
        return scored_once(folder)
    require(folder.track == FINEWEB_TRACK, "of another text than FineWeb's only an artifact tells")
    rows = [*folder.seed_claims.values(), quietly(lambda: folder.claims) or {}]
    every = [claimed(row, "bpb", statistic) for row in rows for statistic in ("", "mean")]
    claims = [text for text in every if text and last_digit(text) <= LEAST_DIGITS]
    wrong, said = _by_json(folder), []
    for log in folder.logs:
        tokens = log.val_tokens or _known(log)
        cut, is_whole = _loaded(log)
        wrong += cut
        for line, bpb, scored, size in log.mentions:
            place = f"{log.name}:{line}"
            its = [one for one in bpb if any(same_number(one, text) for text in claims)]
            if size and its and not WHOLE <= size / FINEWEB_BYTES <= 2 - WHOLE:
                wrong.append(f"{place}: {its[0]} bpb is of {size:,} bytes, the split has {FINEWEB_BYTES:,}")
            elif scored and its and tokens and LEAST_SCORED < scored < WHOLE * tokens:
                wrong.append(f"{place}: {its[0]} bpb is of {scored:,} tokens, the split has {tokens:,}")
            elif its:
                said.append(place)
        said += [f"{log.name} ({log.val_tokens:,} tokens loaded)"] if is_whole else []
    hold(not wrong, some(wrong))
    require(bool(said), "no file says how many tokens or bytes were scored")
    return f"the whole split by {some(dict.fromkeys(said))}; no line with a claimed score names fewer"


def _known(log: Log) -> int | None:
    """Predictions of the split by the one tokenizer that a log names."""
    found = fineweb_tokens(log.vocabularies)
    return found and found[0]


def _loaded(log: Log) -> tuple[list[str], bool]:
    """A validation split that was short when it was loaded, and whether it is known to have been whole: by its
    tokenizer's count, by the bytes of a score, or by the most bytes that a token has on average.
    """
    loaded, whole = log.val_tokens, _known(log)
    if not loaded:
        return [], False
    sizes = [implied_bytes(read_number(one.loss), read_number(one.bpb), loaded) for one in log.finals
             if one.loss and read_number(one.loss) > 0 and read_number(one.bpb) > 0]  # fmt: skip
    if any(WHOLE <= size / FINEWEB_BYTES <= 2 - WHOLE for size in sizes):
        return [], True  # another tokenizer of that size, by the bytes of the text
    fault = ""
    if whole and loaded < WHOLE * whole:
        fault = f"the split has {whole:,}"
    elif sizes and max(sizes) < WHOLE / 2 * FINEWEB_BYTES and not whole:
        fault = f"by its scores {max(sizes):,.0f} bytes of the split's {FINEWEB_BYTES:,}"
    elif loaded * MOST_BYTES < WHOLE * FINEWEB_BYTES:
        fault = f"too few for the split's {FINEWEB_BYTES:,} bytes"
    return [f"{log.name} loads {loaded:,} validation tokens, {fault}"] if fault else [], bool(whole) and not fault


def _by_json(folder: Judged) -> list[str]:
    """Counts of submission.json that are less than the split, or more bytes than it has."""
    found = []
    known = {one for log in quietly(lambda: folder.logs) or () if (one := _known(log) or log.val_tokens)}
    counts = [(where, *one) for where, row in (quietly(lambda: folder.tables) or {}).items()
              for one in counted_in(row).items()]  # fmt: skip
    for where, key, count in counts:
        whole, high = (FINEWEB_BYTES, 2 - WHOLE) if "byte" in key.lower() else (max(known, default=0), 10)
        if whole and not WHOLE <= count / whole <= high:
            found.append(f"{where} {key} {count:,}, the split has {whole:,}")
    return found


def counted_in(claims: Mapping[str, Any]) -> dict[str, int]:
    """{key: count} of the tokens and bytes that submission.json says were scored."""
    return {key: n for key, n in claims.items() if SCORED_KEY.fullmatch(key) and type(n) is int and n > 0}


# ---------------------------------------------------------------------- scored first


def score_first(folder: Judged) -> str:
    """An adaptation comes after the score of what it learns from, by a trace, or by a log's phases and epochs."""
    wrong, shown = [], []
    for name, path in folder.files.items():
        if OF_EVENTS.search(name):
            found = _events(name, path)
            wrong += (found or [])[:1]
            shown += [name] if found is not None and not found else []
    for log in folder.logs:
        wrong += _epochs_first(log)
        early = [phase for phase in log.phases if phase.adapted > phase.scored]
        wrong += [f"{log.name}:{phase.line}: adapted to {phase.adapted:,} documents when {phase.scored:,} were scored"
                  for phase in early[:2]]  # fmt: skip
        shown += [f"{log.name} ({so_many(len(log.phases), 'phase')})"] if log.phases and not early else []
    hold(not wrong, some(wrong))
    if shown:
        return f"scored before it was learned from: {some(shown)}"
    names = _named(folder.logs)
    require(not names, f"the logs tell of an adaptation ({some(names)}) and not of its order")
    return f"no score, setting or line of {so_many(len(folder.logs), 'log')} tells of an adaptation while scoring"


def _epochs_first(log: Log) -> list[str]:
    """Whole epochs over the text before its only score: the second began when all of it had been learned from.

    An adaptation chunk by chunk begins its epochs again with every chunk; one that never does has no chunks.
    """
    by_name: dict[str, list[Epoch]] = {}
    for epoch in log.epochs:
        by_name.setdefault(epoch.name, []).append(epoch)
    found = []
    for name, epochs in by_name.items():
        numbers = [epoch.number for epoch in epochs]
        is_whole = numbers == sorted(numbers) and len(set(numbers)) > 1 and max(numbers) == epochs[-1].of
        after = [line for line, text in log.scored_lines if line > epochs[-1].line and not ON_THE_WAY.search(text)]
        if is_whole and after:
            ran = f"{log.name}:{epochs[0].line} to {epochs[-1].line}: {name} ran {max(numbers)} epochs over the text"
            found.append(f"{ran}, and its score follows in line {after[0]}")
    return found


def _named(logs: list[Log]) -> list[str]:
    """Where logs tell of an adaptation: labels of scores, switches that are on, and lines of their own."""
    found = [f"{log.name}: {one.label}" for log in logs for one in log.finals if ADAPTED.search(one.words)]
    for log in logs:
        found += [f"{log.name}:{line} {key}: {value:.20}" for key, (value, line) in log.block.items()
                  if SWITCH.search(key) and not OFF.match(value)]  # fmt: skip
        found += [f"{log.name}:{epoch.line} {epoch.name}" for epoch in log.epochs[:1]]
        found += [f"{log.name}:{line} {text}" for line, text in log.told]
    return list(dict.fromkeys(found))


def _events(name: str, path: Path) -> list[str] | None:
    """What a file of events shows out of order; None for a file that is no such trace."""
    scored: set[Any] = set()
    last, wrong, kinds = -1, [], set()
    for at, line in enumerate((quietly(lambda: read_text(path)) or "").splitlines()[:MAX_EVENTS], 1):
        row = quietly(functools.partial(json.loads, line))
        if not isinstance(row, dict):
            continue
        kind = next((str(row[key]) for key in KIND_KEYS if key in row), "")
        chunk = next((f"{key} {row[key]}" for key in SPAN_KEYS if type(row.get(key)) in (int, str)), "")
        end: Any = row.get("end", row.get("tokens_end"))
        if not chunk and type(end) is not int:
            continue  # neither a numbered chunk nor tokens up to an end
        if SCORES.search(kind):
            kinds.add("score")
            scored.add(chunk)
            last = last if chunk else max(last, end)  # the text up to the last end is scored
        elif LEARNS.search(kind):
            kinds.add("learn")
            if chunk not in scored if chunk else end > last:
                wrong.append(f"{name}:{at}: {kind} of {chunk or f'tokens up to {end:,}'} before its score")
    return wrong if kinds == {"score", "learn"} else None
