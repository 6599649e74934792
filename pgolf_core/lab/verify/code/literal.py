"""Literal bytes of a submission: the packed file and every code file that runs, as they lie in the folder."""

from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.shared.tables import so_many, some
from pgolf_core.lab.verify.evidence.checks import hold, quietly, require
from pgolf_core.lab.verify.reading.claims import Judged
from pgolf_core.lab.verify.reading.keys import Claim, claimed, claims_of, is_of_file
from pgolf_core.recipes.recipe import TRACK_CAP_BYTES


def code_bytes(folder: Judged) -> str:
    """Every claimed and logged size of the code is that of the code that runs, or of one of its files."""
    size, names = folder.code_bytes, list(folder.code)
    said = {one.key: int(float(one.text)) for one in claims_of(folder.claims) if one.name == "code_bytes"}
    logs = quietly(lambda: folder.logs) or ()
    logged = {log.name: values for log in logs if (values := log.sizes["code_bytes"])}
    evidence = f"{some(names)}: {size:,} bytes"
    if len(names) > 1:
        evidence = f"{some(f'{name} {code.size:,}' for name, code in folder.code.items())}: {size:,} bytes in all"
    require(bool(said or logged), f"no file says how many bytes the code has; {evidence}")
    sizes = {size, *(code.size for code in folder.code.values())}
    wrong = [f"{key} {value:,}" for key, value in said.items() if value not in sizes]
    wrong += [f"{name}'s code size {values[-1]:,}" for name, values in logged.items() if not sizes & set(values)]
    hold(not wrong, f"{evidence}; claimed: {some(wrong)}")
    parts = [value for values in (list(said.values()), *logged.values()) for value in values if value != size]
    note = f"; {min(parts):,} is claimed, which is one of these files alone" if parts else ", as claimed"
    return f"{evidence}{note}"


def cap(folder: Judged) -> str:
    """Literal bytes where they are known; and every claimed and logged total."""
    limit, logs = TRACK_CAP_BYTES[folder.track], quietly(lambda: folder.logs) or ()
    sizes = [(where, one) for where, row in folder.tables.items() for one in claims_of(row)
             if one.name in ("total_bytes", "model_bytes") and one.statistic in ("", "max")]  # fmt: skip
    files = [(where, one) for where, one in sizes if one.name == "model_bytes" and is_of_file(one.key)]
    wholes = {float(one.text) for _, one in sizes if one.name == "total_bytes"}
    others = [(where, one) for where, one in sizes if (where, one) not in files]
    artifacts = {where: float(one.text) for where, one in others if one.name == "model_bytes"}
    totals = [(f"{where} {one.key}", float(one.text)) for where, one in others]
    totals += [(log.name, log.last_sizes["total_bytes"]) for log in logs if log.sizes["total_bytes"]]
    over = [f"{what} {total:,.0f}" for what, total in totals if total > limit]
    hold(not over, f"over the cap of {limit:,}: {some(over)}")
    code, weights = quietly(lambda: folder.code_bytes) or 0, folder.weights
    heavy = [f"{name} and code {size + code:,}" for name, size in weights.items() if size + code > limit]
    weighed = f"over the cap of {limit:,}: {some(heavy)}"
    # of several files in another's format, one may be the weights before packing, which do not count
    hold(not heavy or (not folder.artifacts and len(heavy) < len(weights)), weighed)
    if folder.artifacts:
        return _own_file(folder, limit)
    literal = _literal(folder, files, code) if code else []
    much = [text for text, total, _ in literal if total > limit]
    hold(not much, f"over the cap of {limit:,}: {some(much)}")
    said = "; ".join(f"{what} {total:,.0f}" for what, total in totals[:4]) or "no total is named"
    require(not heavy, f"{folder.no_artifact}; {weighed}")
    # sizes of an artifact that may be with the code or without it, where no log tells
    is_told = any(log.sizes["total_bytes"] or log.sizes["model_bytes"] for log in logs)
    open_sizes = {} if is_told or wholes & set(artifacts.values()) else artifacts
    packed = [f"{where} {value:,.0f}" for where, value in open_sizes.items() if value + code > limit]
    require(not packed, f"over the cap of {limit:,} with the code, {code:,} bytes, if it is without it: {some(packed)}")
    require(bool(literal), f"{folder.no_artifact}; within the cap of {limit:,} by its own words: {said}")
    largest, total, its_log = max(literal, key=lambda one: one[1])
    other = f"; the log's sum is {its_log:,}" if its_log not in (None, total) else ""
    by = so_many(len(literal), "packed size")
    return f"{largest}{other}; cap {limit:,}, by {by} that the logs or {SUBMISSION_FILE} name"


def _literal(folder: Judged, files: list[tuple[str, Claim]], code: int) -> list[tuple[str, int, int | None]]:
    """(sum in words, sum, the log's own sum) of every packed size that a log names, else of the first claimed."""
    found: list[tuple[str, int, int | None]] = []
    for log in quietly(lambda: folder.used_logs) or ():
        total, own, model = map(log.last_sizes.get, ("total_bytes", "code_bytes", "model_bytes"))
        if model is None and total is not None and own is not None:
            model = total - own
        if model is not None:
            other = f" (logged sum {total:,})" if total not in (None, model + code) else ""
            found.append((f"{log.name}: {model:,} + code {code:,} = {model + code:,}{other}", model + code, total))
    claims = [(f"{where} {one.key}", int(float(one.text))) for where, one in files[:1]]
    return found or [(f"{name} {size:,} + code {code:,} = {size + code:,}", size + code, None) for name, size in claims]


def _own_file(folder: Judged, limit: int) -> str:
    """A file in this project's format: its size, and what is claimed and logged of it."""
    code, size, seed = folder.code_bytes, folder.artifact.stat().st_size, folder.artifact_seed
    evidence = f"file {size:,} + code {code:,} = {size + code:,}; cap {limit:,}"
    log = (quietly(lambda: folder.runs) or {}).get(seed)
    for name, value in {"total_bytes": size + code, "model_bytes": size}.items():
        for where in (SUBMISSION_FILE, f"seed {seed}"):
            text = claimed(folder.tables.get(where, {}), name)
            hold(text is None or float(text) == value, f"{evidence}; {where} claims {name} {text}")
        logged = log.sizes[name] if log else []
        hold(not logged or value in logged, f"{evidence}; the log of seed {seed} says {logged[-1:]}")
    return evidence
