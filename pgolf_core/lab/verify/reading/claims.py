"""What a submission's submission.json and README.md say, held against its logs and against numbers taken anew.

A number is compared as it is written: `1.1248` agrees with 1.12484502, since it is that number rounded to its digits.
A number that nothing here can confirm makes a row `cannot be checked here`, never `holds`.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.shared.tables import some
from pgolf_core.lab.verify.evidence.checks import hold, once, quietly, require
from pgolf_core.lab.verify.evidence.score import OTHER_MACHINE, TOLERANCE
from pgolf_core.lab.verify.reading.folder import Submission, claimed, every_claim
from pgolf_core.lab.verify.reading.untrusted import (
    agrees,
    is_number,
    is_score,
    number,
    read_number,
    same_number,
    written,
)

ANEW, LOGGED, CLAIMED = "taken anew", "logged", "in submission.json"
OF_A_SEED = ("bpb", "loss", "roundtrip_bpb", "steps", "train_seconds", "total_bytes", "model_bytes")
SPREADS = ("val_bpb_std", "std_val_bpb")
COLUMNS = (
    ("raw_bpb", r"^raw|pre-?quant"), ("averaged_bpb", r"^averaged"), ("roundtrip_bpb", r"round-?trip|standard"),
    ("bpb", r"sliding.*bpb|val.?bpb|^bpb$|^sliding$"), ("loss", r"val.?loss|^loss$"), ("steps", r"^steps?$"),
    ("total_bytes", r"total.*bytes|^total$|^bytes.?total"), ("model_bytes", r"artifact|model.*bytes|^file$"),
    ("code_bytes", r"code.*bytes|^code$"), ("train_seconds", r"^train s$"),
)  # fmt: skip
"""What a README's column is called."""
_CELL = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)(?: ?(?:bytes|s))?")
_PROSE = (  # a number with a sign is a difference, no score
    re.compile(r"(?<![-+−±]|\d)(\d\.\d{2,10})[*`\s]{0,4}(?:± ?[\d.]{1,12}[*\s]{0,3})?(?:bits per byte|bpb)\b", re.I),
    re.compile(r"\bbpb[*`:=\s]{1,6}(\d\.\d{2,10})", re.I),
)


@dataclass(frozen=True)
class Fact:
    """One number that a claim can be held against."""

    text: str
    """As written, or all its digits."""
    source: str

    value = property(lambda self: read_number(self.text))

    def __str__(self) -> str:
        return f"{self.text} {self.source}"


Facts = Mapping[str, Fact]
"""Of one seed, by what they are."""


class Judged(Submission):
    """A submission folder and what is known of its numbers."""

    @once
    def known(self) -> dict[int, dict[str, Fact]]:
        """Of every seed: taken anew where that could be, else logged."""
        logs = {seed: log for seed, log in (quietly(lambda: self.runs) or {}).items() if seed is not None}
        found = {seed: {name: Fact(text, LOGGED) for name, text in log.numbers.items()} for seed, log in logs.items()}
        seed = quietly(lambda: self.artifact_seed)
        if seed is not None:
            anew = {"model_bytes": self.artifact.stat().st_size} | (quietly(lambda: self._decisive(seed)) or {})
            if code := quietly(lambda: self.code_bytes):
                anew |= {"code_bytes": code, "total_bytes": anew["model_bytes"] + code}
            found.setdefault(seed, {}).update({name: Fact(written(value), ANEW) for name, value in anew.items()})
        return found

    def _decisive(self, seed: int) -> dict[str, float]:
        """Scores that confirm or refute what is claimed: not those that another machine may find a little otherwise."""
        claims = quietly(lambda: every_claim(self.seed_claims.get(seed) or self.claims)) or {}
        kept = {}
        for kind, start in (("sliding", ""), ("roundtrip", "roundtrip_")):
            score = self.scoring.score(kind)
            for name in ("bpb", "loss") if "n" not in score else ():
                said, value = claims.get(f"{start}{name}"), score[name]
                off = abs(float(said) - value) / value if said else 0.0
                if not TOLERANCE < off <= OTHER_MACHINE or (said and is_score(said, value)):
                    kept[f"{start}{name}"] = value
        return kept

    @once
    def believed(self) -> dict[int, dict[str, Fact]]:
        """The same, and where nothing is known what submission.json says."""
        found: dict[int, dict[str, Fact]] = {}
        for seed in {*self.known, *self.seed_claims}:
            said = every_claim(self.seed_claims.get(seed, {}))
            found[seed] = {name: Fact(text, CLAIMED) for name, text in said.items()} | self.known.get(seed, {})
        return found


def fits(name: str, said: str, known: Facts, least_digits: bool = True) -> bool:
    """Whether a number as written is the fact of that name, rounded; a score to three digits at least, if need be."""
    fact, value = known[name], read_number(said)
    if name == "train_seconds":  # the log's last line is a validation's, up to a step before the clock stopped
        return abs(value - fact.value) <= 0.5 + 0.01 * fact.value or agrees(said, fact.value)
    if name == "model_bytes" and "total_bytes" in known and same_number(said, known["total_bytes"].text):
        return True  # many folders call the total the artifact
    is_scored = name.endswith(("bpb", "loss"))
    if is_scored and least_digits and abs(value - fact.value) >= 1e-3:
        return False  # a single digit would agree with too much
    close = fact.source == ANEW and is_scored and math.isclose(value, fact.value, rel_tol=TOLERANCE)
    return close or (agrees(said, fact.value) if fact.source == ANEW else same_number(said, fact.text))


# ---------------------------------------------------------------------- submission.json


def json_numbers(folder: Judged) -> str:
    """Every number of every seed in submission.json; a seed or score that nothing confirms cannot be checked."""
    _refuse_unlike_means(folder)
    table, compared, unknown = folder.seed_claims or _single(folder), 0, []
    for seed, values in table.items():
        known = folder.known.get(seed, {})
        for name, said in every_claim(values, OF_A_SEED).items():
            if name not in known:
                unknown.append(f"{name} of seed {seed}")
                continue
            hold(fits(name, said, known), f"seed {seed}: {name} {said} in {SUBMISSION_FILE}, {known[name]}")
            compared += 1
    require(compared > 0, "no log and no artifact has a number that it names")
    require(not unknown, f"nothing here confirms {some(unknown)}; {compared} other numbers agree")
    return f"{compared} numbers of {len(table)} seed(s) are the logs' or taken anew"


def before_packing(folder: Judged) -> str:
    """A claimed score before quantisation is a log's last validation; weights before packing are in no folder."""
    said = claimed(folder.claims, "averaged_bpb")
    require(said is not None, f"{SUBMISSION_FILE} names no score before packing")
    logs = (quietly(lambda: folder.runs) or {}).values()
    ends = {log.name: log.step_scores[-1][2] for log in logs if log.step_scores}
    ending = [name for name, bpb in ends.items() if same_number(str(said), bpb)]
    absent = "the weights before packing are not in the folder"
    require(bool(ending), f"{absent}, and no log ends in a validation of {said}")
    return f"{said}, the last validation of {ending[0]}"


def _refuse_unlike_means(folder: Judged) -> None:
    """A number that stands for the whole and for every seed is the seeds' mean, or one of theirs."""
    table = folder.seed_claims.values()
    for key, said in folder.claims.items():
        values: list[Any] = [row.get(key) for row in table]
        if said is None or not values or None in values or not any(map(is_number, (said, *values))):
            continue
        for table_or_row in (folder.claims, *table):
            number(table_or_row, key)
        mean = math.fsum(values) / len(values)
        fitting = (math.isclose(said, one, rel_tol=1e-9) or agrees(written(said), one) for one in (mean, *values))
        hold(any(fitting), f"{key} {said} is neither the mean of its seeds', {mean:.6f}, nor one of them")


def _single(folder: Judged) -> dict[int, Mapping]:
    """A submission.json without a table of seeds claims one run: the one whose score it names; none for a mean."""
    said, every = claimed(folder.claims, "bpb"), folder.known
    scores = {seed: known["bpb"] for seed, known in every.items() if "bpb" in known}
    its = [seed for seed, score in scores.items() if said and same_number(said, score.text)]
    its = its or (list(every) if len(every) == 1 else [])
    return {seed: folder.claims for seed in its[:1]}


def headline(folder: Judged) -> str:
    """The score that the submission is known by: the mean of its seeds, or one seed's; and the spread it claims."""
    values, own = folder.claims, claimed(folder.claims, "bpb")
    said = claimed(values, "mean_bpb") or own
    hold(said is not None, f"{SUBMISSION_FILE} names no val_bpb")
    scores, source = _scores(folder)
    require(bool(scores), f"nothing here confirms {said}")
    mean, one = statistics.fmean(scores.values()), []
    for text in dict.fromkeys(filter(None, (own, said))):
        one = [seed for seed, score in scores.items() if is_score(text, score) or is_score(written(score), float(text))]
        is_known = one or is_score(text, mean) or math.isclose(float(text), mean, rel_tol=2e-6)
        hold(bool(is_known), f"{text} is neither the mean of the seeds' scores, {mean:.6f}, nor one of them ({source})")
    for key in (key for key in SPREADS if values.get(key) is not None):
        std, spread = statistics.stdev(scores.values()) if len(scores) > 1 else math.nan, number(values, key)
        is_spread = math.isclose(spread, std, rel_tol=1e-3, abs_tol=1e-9) or agrees(written(spread), std)
        hold(is_spread, f"a standard deviation of {spread} is claimed, the scores have {std:.6f}")
    which = "" if one or len(scores) < 2 else "the mean; "
    if one and len(scores) > 1 and not agrees(str(said), mean):
        which = f"of seed {one[0]}, not the mean; "
    evidence = f"{said}: {which}mean over {len(scores)} seed(s) {mean:.6f}, {source}"
    require(source != CLAIMED, f"the seeds' scores are only {CLAIMED} ({evidence})")
    return evidence


def _scores(folder: Judged) -> tuple[dict[int, float], str]:
    """Scores of all seeds from one source: logs and artifacts where they have every seed, else submission.json."""
    known = {seed: facts["bpb"].value for seed, facts in folder.known.items() if "bpb" in facts}
    seeds = folder.seeds or list(known)
    if seeds and set(seeds) <= set(known):
        return {seed: known[seed] for seed in seeds}, "logged or taken anew"
    table = {seed: claimed(values, "bpb") for seed, values in folder.seed_claims.items()}
    return {seed: float(text) for seed, text in table.items() if text}, CLAIMED


# ---------------------------------------------------------------------- README.md


def readme_numbers(folder: Judged) -> str:
    """Every cell of README's tables that is a seed's known number, the rows of means, and scores named in prose."""
    compared, skipped = {ANEW: 0, LOGGED: 0, CLAIMED: 0}, 0
    for header, rows in tables(folder.readme):
        names = [
            next((name for name, pattern in COLUMNS if re.search(pattern, cell.lower())), "") for cell in header[1:]
        ]
        for first, *cells in rows:
            known = _of_row(first.strip().lower(), folder.believed)
            for name, cell in zip(names, cells, strict=False) if known is not None else ():
                found = _CELL.fullmatch(cell)
                if found and known and name in known:
                    is_it = fits(name, found[1], known, least_digits=False)
                    hold(is_it, f"README.md, {first}: {name} {found[1]}, {known[name]}")
                    compared[known[name].source] += 1
                else:
                    skipped += bool(found)
    strange = _strange_scores(folder)
    counts = ", ".join(f"{count} {source}" for source, count in compared.items() if count)
    require(not strange, f"README.md names {', '.join(strange[:3])} bpb, no number of this folder; cells: {counts}")
    agreed = f"{compared[CLAIMED]} cells agree with {SUBMISSION_FILE}, and nothing confirms either; {counts}"
    require(not compared[CLAIMED], agreed)
    require(bool(counts), "no table of README.md has a number that was logged or taken anew")
    return f"cells that agree: {counts}{f'; not compared, since of other columns: {skipped}' if skipped else ''}"


def _of_row(first: str, believed: Mapping[int, Facts]) -> Facts | None:
    """The facts of the seed that a row begins with, or of all seeds' mean or spread; None for another row."""
    seed = re.fullmatch(r"(?:seed )?(\d{1,19})", first)
    if seed:
        return believed.get(int(seed[1]))
    if first not in ("mean", "std"):
        return None
    made = {}
    for name in {name for facts in believed.values() for name in facts}:
        facts = [known[name] for known in believed.values() if name in known]
        if len(facts) == len(believed) and (first == "mean" or len(facts) > 1):
            values, sources = [fact.value for fact in facts], {fact.source for fact in facts}
            value = statistics.fmean(values) if first == "mean" else statistics.stdev(values)
            least = next(source for source in (CLAIMED, LOGGED, ANEW) if source in sources)
            made[name] = Fact(written(value), least)
    return made


def _strange_scores(folder: Judged) -> list[str]:
    """Scores named in prose that are no number of this folder: another's, or wrong."""
    rows = [*folder.believed.values(), _of_row("mean", folder.believed) or {}]
    values = [fact.value for known in rows for name, fact in known.items() if name.endswith("bpb")]
    values += [float(value) for key, value in folder.claims.items() if "bpb" in key and is_number(value)]
    prose = "\n".join(line for line in folder.readme.splitlines() if not line.lstrip().startswith("|"))
    named = dict.fromkeys(found[1] for pattern in _PROSE for found in pattern.finditer(prose))
    return [text for text in named if not any(agrees(text, value) for value in values)]


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """(header, rows) of every Markdown table, cells without their marks."""
    for has_bars, group in itertools.groupby(text.splitlines(), key=lambda line: "|" in line):
        lines = list(group) if has_bars else []
        ruler = next((at for at, line in enumerate(lines) if at and "-" in line and set(line) <= set("-|: \t")), 0)
        if ruler:
            yield _cells(lines[ruler - 1]), [_cells(line) for line in lines[ruler + 1 :]]


def _cells(line: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", line[:5000].strip().strip("|"))
    return [re.sub(r"[*`\\]", "", part).strip() for part in parts]
