"""What a submission's submission.json and README.md say, held against its logs and against numbers taken anew.

A number is compared as it is written: `1.1248` agrees with 1.12484502, since it is that number rounded to its digits.
A number that nothing here can confirm makes a row `cannot be checked here`, never `holds`.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck, agrees, is_number
from pgolf_core.lab.verify.reading.folder import Submission

ANEW, LOGGED, CLAIMED = "taken anew", "logged", "in submission.json"
KEYS = {
    "bpb": ("val_bpb", "bpb", "val_bpb_exact", "sliding_val_bpb"), "loss": ("val_loss", "loss", "val_loss_exact"),
    "steps": ("steps", "step_stop"), "train_seconds": ("train_seconds", "wallclock_seconds"),
    "total_bytes": ("bytes_total", "total_bytes"),
    "model_bytes": ("bytes_model", "bytes_model_int6_zstd", "model_bytes", "artifact_bytes"),
    "roundtrip_bpb": ("int6_zstd_val_bpb",), "averaged_bpb": ("pre_quant_val_bpb",),
}  # fmt: skip
"""Names of one number in the merged records' submission.json (SEEDS.md 4.5 to 8.6)."""
SPREADS = ("val_bpb_std", "std_val_bpb")
MEANS = ("mean_val_bpb", "val_bpb_mean")
COLUMNS = (
    ("raw_bpb", r"^raw|pre-?quant"), ("averaged_bpb", r"^averaged"), ("roundtrip_bpb", r"round-?trip|standard"),
    ("bpb", r"sliding.*bpb|val.?bpb|^bpb$|^sliding$"), ("loss", r"val.?loss|^loss$"), ("steps", r"^steps?$"),
    ("total_bytes", r"total.*bytes|^total$|^bytes.?total"), ("model_bytes", r"artifact|model.*bytes|^file$"),
    ("code_bytes", r"code.*bytes|^code$"), ("train_seconds", r"^train s$"),
)  # fmt: skip
"""What a README's column is called."""
MAX_CELLS = 20_000
_CELL = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)(?: ?(?:bytes|s))?")
_PROSE = re.compile(r"(\d\.\d{2,10})[*`\s]{0,4}(?:± ?[\d.]{1,12}[*\s]{0,3})?(?:bits per byte|bpb)\b", re.I)
_PROSE_AFTER = re.compile(r"\bbpb[*`:=\s]{1,6}(\d\.\d{2,10})", re.I)


@dataclass(frozen=True)
class Fact:
    """One number that a claim can be held against."""

    text: str
    """As written, or all its digits."""
    source: str

    @property
    def value(self) -> float:
        return float(self.text.replace(",", ""))


def same_number(one: str, other: str) -> bool:
    """Whether two written numbers can be one: either is the other rounded to its own digits."""
    return agrees(one, float(other.replace(",", ""))) or agrees(other, float(one.replace(",", "")))


def is_score(text: str, value: float) -> bool:
    """Whether a score as written is `value`: rounded to its digits, and to three at least."""
    return agrees(text, value) and abs(float(text) - value) < 1e-3


def written(value: Any) -> str:
    """A JSON number with all its digits, never in powers of ten."""
    return str(value) if isinstance(value, int) else format(value, "f") if abs(value) < 1e-4 else repr(float(value))


# ---------------------------------------------------------------------- what is known


def facts(folder: Submission, anew: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, Fact]]:
    """{seed: {name: fact}}: taken anew where it could be, else logged."""
    found: dict[int, dict[str, Fact]] = {}
    for seed, log in _runs(folder).items():
        if seed is None:
            continue
        own = found.setdefault(seed, {})
        if log.score:
            own |= {"loss": Fact(log.score[1], LOGGED), "bpb": Fact(log.score[2], LOGGED)}
        if log.steps:
            own["steps"] = Fact(str(log.steps), LOGGED)
        if log.train_ms is not None:
            own["train_seconds"] = Fact(format(log.train_ms / 1000, ".3f"), LOGGED)
        if log.total_bytes:
            own["total_bytes"] = Fact(str(log.total_bytes[-1]), LOGGED)
        if log.model_bytes:
            own["model_bytes"] = Fact(str(log.model_bytes[-1]), LOGGED)
        if log.code_bytes:
            own["code_bytes"] = Fact(str(log.code_bytes[-1]), LOGGED)
    for seed, values in anew.items():
        found.setdefault(seed, {}).update({name: Fact(written(value), ANEW) for name, value in values.items()})
    return found


def _runs(folder: Submission) -> dict[int | None, Any]:
    try:
        return folder.runs
    except (CannotCheck, Broken):
        return {}


def claimed(values: Mapping[str, Any], name: str) -> str | None:
    """A number of submission.json under any of its names; Broken where it is there and is none."""
    for key in KEYS[name]:
        if key in values and values[key] is not None:
            if isinstance(values[key], str) and re.fullmatch(r"\d{1,15}(\.\d{1,15})?", values[key], re.ASCII):
                return values[key]
            if not is_number(values[key]):
                raise Broken(f"{key} is no number ({str(values[key])[:40]!r})")
            return written(values[key])
    return None


# ---------------------------------------------------------------------- submission.json


def json_against_facts(folder: Submission, known: Mapping[int, Mapping[str, Fact]]) -> str:
    """Every number of every seed in submission.json; a seed or score that nothing confirms cannot be checked."""
    _refuse_unlike_means(folder)
    table = folder.seed_claims or _single(folder, known)
    compared, open_ends = 0, []
    for seed, values in table.items():
        for name in ("bpb", "loss", "roundtrip_bpb", "steps", "train_seconds", "total_bytes", "model_bytes"):
            said = claimed(values, name)
            if said is None:
                continue
            fact = known.get(seed, {}).get(name)
            if fact is None:
                open_ends.append(f"{name} of seed {seed}")
            elif not _is_fact(name, said, fact, known[seed]):
                raise Broken(f"seed {seed}: {name} {said} in submission.json, {fact.text} {fact.source}")
            else:
                compared += 1
    if not compared:
        raise CannotCheck("no log and no artifact has a number that it names")
    if open_ends:
        more = f" and {len(open_ends) - 3} more" if len(open_ends) > 3 else ""
        raise CannotCheck(f"nothing here confirms {', '.join(open_ends[:3])}{more}; {compared} other numbers agree")
    return f"{compared} numbers of {len(table)} seed(s) are the logs' or taken anew"


def before_packing(folder: Submission) -> str:
    """A claimed score before quantisation is a log's last validation; weights before packing are in no folder."""
    said = claimed(folder.claims, "averaged_bpb")
    if said is None:
        raise CannotCheck("submission.json names no score before packing")
    for log in _runs(folder).values():
        if log.step_scores and same_number(said, log.step_scores[-1][2]):
            return f"{said}, the last validation of {log.name}"
    raise CannotCheck(f"the weights before packing are not in the folder, and no log ends in a validation of {said}")


def _refuse_unlike_means(folder: Submission) -> None:
    """A number that stands for the whole and for every seed is the seeds' mean, or one of theirs."""
    table = folder.seed_claims.values()
    for key, said in folder.claims.items():
        values = [row.get(key) for row in table]
        if said is None or not values or None in values or not any(map(is_number, (said, *values))):
            continue
        for value in (said, *values):
            if not is_number(value):
                raise Broken(f"{key} is no number ({str(value)[:40]!r})")
        mean = math.fsum(values) / len(values)
        if not any(
            math.isclose(said, value, rel_tol=1e-9) or agrees(written(said), value) for value in (mean, *values)
        ):
            raise Broken(f"{key} {said} is neither the mean of its seeds', {mean:.6f}, nor one of them")


def _single(folder: Submission, known: Mapping[int, Mapping[str, Fact]]) -> dict[int, Mapping[str, Any]]:
    """A submission.json without a table of seeds claims one run: the one whose score it names."""
    said = claimed(folder.claims, "bpb")
    for seed, values in known.items():
        if said and "bpb" in values and same_number(said, values["bpb"].text):
            return {seed: folder.claims}
    if len(known) == 1:
        return {next(iter(known)): folder.claims}
    if said and known and all("bpb" in values for values in known.values()):
        mean = statistics.fmean(values["bpb"].value for values in known.values())
        if _near(said, mean, known):
            return {}
        raise Broken(f"val_bpb {said} is no seed's logged score and not their mean, {mean:.6f}")
    return {}


def _is_fact(name: str, said: str, fact: Fact, others: Mapping[str, Fact]) -> bool:
    if name == "train_seconds":
        return abs(float(said) - fact.value) <= 0.5 + 0.01 * fact.value
    if name == "model_bytes" and "total_bytes" in others and same_number(said, others["total_bytes"].text):
        return True  # many folders call the total the artifact
    if name in ("bpb", "loss", "roundtrip_bpb"):
        if abs(float(said) - fact.value) >= 1e-3:
            return False  # a single digit would agree with too much
        if fact.source == ANEW:
            return math.isclose(float(said), fact.value, rel_tol=1e-6) or agrees(said, fact.value)
    return same_number(said, fact.text)


def headline(folder: Submission, known: Mapping[int, Mapping[str, Fact]]) -> str:
    """The score that the submission is known by: the mean of its seeds, or one seed's; and the spread it claims."""
    values = folder.claims
    said = next((written(values[key]) for key in MEANS if is_number(values.get(key))), None) or claimed(values, "bpb")
    if said is None:
        raise Broken("submission.json names no val_bpb")
    scores, source = _scores(folder, known)
    if not scores:
        raise CannotCheck(f"nothing here confirms {said}")
    mean = statistics.fmean(scores.values())
    own = claimed(values, "bpb")
    one: list[int] = []
    for text in dict.fromkeys(filter(None, (own, said))):
        one = [seed for seed, score in scores.items() if is_score(text, score) or is_score(written(score), float(text))]
        if not (is_score(text, mean) or math.isclose(float(text), mean, rel_tol=2e-6) or one):
            raise Broken(f"{text} is neither the mean of the seeds' scores, {mean:.6f}, nor one of them ({source})")
    spread = next((values[key] for key in SPREADS if is_number(values.get(key))), None)
    odd = [key for key in SPREADS if values.get(key) is not None and not is_number(values[key])]
    if odd:
        raise Broken(f"{odd[0]} is no number ({str(values[odd[0]])[:40]!r})")
    if spread is not None:
        std = statistics.stdev(scores.values()) if len(scores) > 1 else math.nan
        if not (math.isclose(spread, std, rel_tol=1e-3, abs_tol=1e-9) or agrees(written(spread), std)):
            raise Broken(f"a standard deviation of {spread} is claimed, the scores have {std:.6f}")
    which = "" if one or len(scores) < 2 else "the mean; "
    which = f"of seed {one[0]}, not the mean; " if one and len(scores) > 1 and not agrees(said, mean) else which
    evidence = f"{said}: {which}mean over {len(scores)} seed(s) {mean:.6f}, {source}"
    if source == CLAIMED:
        raise CannotCheck(f"the seeds' scores are only {CLAIMED} ({evidence})")
    return evidence


def _scores(folder: Submission, known: Mapping[int, Mapping[str, Fact]]) -> tuple[dict[int, float], str]:
    """Scores of all seeds from one source: logs and artifacts where they have every seed, else submission.json."""
    seeds = folder.seeds or [seed for seed in known if "bpb" in known[seed]]
    if seeds and all("bpb" in known.get(seed, {}) for seed in seeds):
        return {seed: known[seed]["bpb"].value for seed in seeds}, "logged or taken anew"
    table = {seed: claimed(values, "bpb") for seed, values in folder.seed_claims.items()}
    return {seed: float(text) for seed, text in table.items() if text}, CLAIMED


def _near(said: str, value: float, known: Mapping[int, Mapping[str, Fact]]) -> bool:
    digits = min((len(values["bpb"].text.partition(".")[2]) for values in known.values()), default=8)
    return agrees(said, value) or abs(float(said) - value) <= 0.5 * 10.0**-digits


# ---------------------------------------------------------------------- README.md


def readme_against_facts(folder: Submission, known: Mapping[int, Mapping[str, Fact]]) -> str:
    """Every cell of README's tables that is a seed's known number, the rows of means, and scores named in prose."""
    compared, skipped = {ANEW: 0, LOGGED: 0, CLAIMED: 0}, 0
    believed = {seed: _with_claims(folder, seed, known) for seed in {*known, *folder.seed_claims}}
    for header, rows in tables(folder.readme):
        names = [_column(cell) for cell in header]
        for row in rows:
            which = _which(row[0], believed)
            if which is None:
                continue
            for name, cell in zip(names[1:], row[1:], strict=False):
                found = _CELL.fullmatch(cell)
                fact = _fact(which, name, believed) if name and found else None
                if fact is None:
                    skipped += bool(found)
                    continue
                if not _shown(found[1], name, fact, believed.get(which, {}) if isinstance(which, int) else {}):
                    raise Broken(f"README.md, {row[0]}: {name} {found[1]}, {fact.text} {fact.source}")
                compared[fact.source] += 1
    strange = _strange_scores(folder, believed)
    counts = ", ".join(f"{count} {source}" for source, count in compared.items() if count)
    if strange:
        raise CannotCheck(f"README.md names {', '.join(strange[:3])} bpb, no number of this folder; cells: {counts}")
    if compared[CLAIMED]:
        raise CannotCheck(
            f"{compared[CLAIMED]} cells agree with submission.json, and nothing confirms either; {counts}"
        )
    if not counts:
        raise CannotCheck("no table of README.md has a number that was logged or taken anew")
    return f"cells that agree: {counts}{f'; not compared, since of other columns: {skipped}' if skipped else ''}"


def _with_claims(folder: Submission, seed: int, known: Mapping[int, Mapping[str, Fact]]) -> dict[str, Fact]:
    values = folder.seed_claims.get(seed, {})
    said = {name: claimed(values, name) for name in KEYS}
    return {name: Fact(text, CLAIMED) for name, text in said.items() if text} | dict(known.get(seed, {}))


def _fact(which: int | str, name: str, believed: Mapping[int, Mapping[str, Fact]]) -> Fact | None:
    if isinstance(which, int):
        return believed[which].get(name)
    facts = [values[name] for values in believed.values() if name in values]
    if len(facts) < len(believed) or (which == "std" and len(facts) < 2):
        return None
    values = [fact.value for fact in facts]
    value = statistics.fmean(values) if which == "mean" else statistics.stdev(values)
    sources = {fact.source for fact in facts}
    return Fact(written(value), next(source for source in (CLAIMED, LOGGED, ANEW) if source in sources))


def _shown(said: str, name: str, fact: Fact, others: Mapping[str, Fact]) -> bool:
    if agrees(said, fact.value) or (fact.source != ANEW and same_number(said, fact.text)):
        return True
    if name == "train_seconds":  # the log's last line is a validation's, up to a step before the clock stopped
        return abs(float(said.replace(",", "")) - fact.value) <= 0.5 + 0.01 * fact.value
    return name == "model_bytes" and "total_bytes" in others and agrees(said, others["total_bytes"].value)


def _column(cell: str) -> str:
    text = cell.strip().lower()
    return next((name for name, pattern in COLUMNS if re.search(pattern, text)), "")


def _which(cell: str, believed: Mapping[int, Any]) -> int | str | None:
    text = cell.strip().lower()
    number = re.fullmatch(r"(?:seed )?(\d{1,19})", text)
    if number:
        return int(number[1]) if int(number[1]) in believed else None
    return text if text in ("mean", "std") else None


def _strange_scores(folder: Submission, believed: Mapping[int, Mapping[str, Fact]]) -> list[str]:
    """Scores named in prose that are no number of this folder: another's, or wrong."""
    values = [fact.value for seed in believed.values() for name, fact in seed.items() if name.endswith("bpb")]
    values += [float(value) for key, value in folder.claims.items() if "bpb" in key and is_number(value)]
    if believed and all("bpb" in seed for seed in believed.values()):
        values.append(statistics.fmean(seed["bpb"].value for seed in believed.values()))
    prose = "\n".join(line for line in folder.readme.splitlines() if not line.lstrip().startswith("|"))
    named = [found[1] for pattern in (_PROSE, _PROSE_AFTER) for found in pattern.finditer(prose)]
    return [text for text in dict.fromkeys(named) if not any(agrees(text, value) for value in values)]


def tables(text: str) -> Iterable[tuple[list[str], list[list[str]]]]:
    """(header, rows) of every Markdown table, cells without their marks; at most MAX_CELLS cells of all."""
    lines, left = text.splitlines(), MAX_CELLS
    index = 0
    while index + 1 < len(lines):
        if "|" in lines[index] and re.fullmatch(r"[\s|:-]{3,2000}", lines[index + 1]) and "-" in lines[index + 1]:
            header, rows = _cells(lines[index]), []
            index += 2
            while index < len(lines) and "|" in lines[index] and left > 0:
                rows.append(_cells(lines[index]))
                left -= len(rows[-1])
                index += 1
            yield header, [row for row in rows if row]
        else:
            index += 1


def _cells(line: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", line[:5000].strip().strip("|"))
    return [re.sub(r"[*`\\]", "", part).strip() for part in parts]
