"""One recipe over all seeds: what the logs say of settings and code, against each other and the shipped script."""

import re
from collections.abc import Mapping

from pgolf_core.base.files import sha256_bytes
from pgolf_core.lab.shared.tables import some
from pgolf_core.lab.verify.evidence.checks import hold, quietly, require
from pgolf_core.lab.verify.reading.claims import Judged
from pgolf_core.lab.verify.reading.traces import Trace

OF_ONE_RUN = re.compile(
    r"seed|run_?id|log|path|file|dir|rank|device|time_?stamp|date|host|port|pid|wandb|name|prefix|commit|sha|resume|"
    r"ckpt|checkpoint|^load|^save|main|master|is_dist|notes?$", re.I)  # fmt: skip
"""Settings that differ between runs of one recipe."""
LEAST_SETTINGS = 5


def same_recipe(folder: Judged) -> str:
    """Settings, code sizes and embedded scripts of the logs are equal, and every setting is one of the script's."""
    logs = [log for log in folder.runs.values() if log.steps is not None] or list(folder.runs.values())
    traces = [folder.traces[log.name] for log in logs]
    blocks = {trace.name: trace for trace in traces if len(trace.settings) >= LEAST_SETTINGS}
    keys = sorted({key for log in logs for key in log.settings})
    wrong = []
    for key in keys:
        found = {log.settings.get(key) for log in logs}
        wrong += [f"logs differ: {' / '.join(sorted(map(str, found)))}"] if len(found) > 1 else []
    wrong += _unlike_settings(blocks)
    sizes = {log.name: tuple(dict.fromkeys(log.sizes["code_bytes"])) for log in logs if log.sizes["code_bytes"]}
    if len(set(sizes.values())) > 1:
        wrong.append(f"code sizes differ: {some(f'{name} {values[-1]:,}' for name, values in sizes.items())}")
    scripts = {sha256_bytes(log.script.encode()) for log in logs if log.script}
    wrong += ["the logs begin with different scripts"] if len(scripts) > 1 else []
    wrong += _unknown_to_the_script(folder, blocks)
    hold(not wrong, "; ".join(wrong))
    count = len(keys) + (min(len(trace.settings) for trace in blocks.values()) if blocks else 0)
    require(len(logs) > 1, f"there is the log of one seed only ({count} settings in it)")
    hold(count > 0, "no log names a setting")
    also = [what for what, is_so in (("code size", len(sizes) > 1), ("the scripts in the logs", scripts)) if is_so]
    return f"{len(logs)} seeds, equal in {', '.join([f'{count} settings', *also])}"


def _unlike_settings(blocks: Mapping[str, Trace]) -> list[str]:
    """Settings that some logs have and others have otherwise, or not at all."""
    found = []
    for key in sorted({key for trace in blocks.values() for key in trace.settings if not OF_ONE_RUN.search(key)}):
        values = {name: trace.settings.get(key, ("none", 0)) for name, trace in blocks.items()}
        if len({value for value, _ in values.values()}) > 1:
            places = [f"{name}{f':{line}' if line else ''} {value:.40}" for name, (value, line) in values.items()]
            found.append(f"{key} differs: {some(places)}")
    return [*found[:8], *([f"and {len(found) - 8} more settings"] if len(found) > 8 else [])]


def _unknown_to_the_script(folder: Judged, blocks: Mapping[str, Trace]) -> list[str]:
    """Settings of a log that stand nowhere in the shipped code, which so is not what ran; nothing if it is unread."""
    code = quietly(lambda: folder.code) or {}
    if not blocks or not code or any(one.unread for one in code.values()):
        return []
    words = {word.lower() for one in code.values() for word in re.findall(r"[A-Za-z_]\w*", one.source)}
    found = []
    for trace in blocks.values():
        unknown = [f"{key} (line {line})" for key, (_, line) in trace.settings.items() if key.lower() not in words]
        if len(unknown) > len(trace.settings) / 2:
            return []  # the settings are made otherwise, or another file holds them
        found += [f"{trace.name} has settings that the shipped code lacks: {some(unknown)}"] if unknown else []
    return found
