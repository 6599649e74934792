"""What a submission's submission.json says, held against its logs and against numbers taken anew.

A number is compared as it is written: `1.1248` agrees with 1.12484502, since it is that number rounded to its digits.
A number that nothing here can confirm makes a row `cannot be checked here`, never `holds`.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.shared.settings import is_number
from pgolf_core.lab.shared.tables import so_many, some
from pgolf_core.lab.verify.evidence.checks import hold, once, quietly, require
from pgolf_core.lab.verify.evidence.score import OTHER_MACHINE, TOLERANCE
from pgolf_core.lab.verify.reading.folder import Submission
from pgolf_core.lab.verify.reading.keys import (
    claimed,
    claims_as,
    claims_of,
    every_claim,
    is_of_file,
    is_rounded,
    meaning,
    nested,
    seeds_elsewhere,
)
from pgolf_core.lab.verify.reading.logs import ADAPTED, BEFORE, PACKED, SLIDING, Log, Score
from pgolf_core.lab.verify.reading.numbers import (
    agrees,
    last_digit,
    near,
    read_number,
    same_number,
    same_score,
    written,
)
from pgolf_core.lab.verify.reading.reviewed import BUDGET_SECONDS

UNNAMED = -1
"""The seed of a log that names none, where no log names one."""
ANEW, LOGGED, CLAIMED = "taken anew", "logged", "in submission.json"
JUDGED_ELSEWHERE = ("code_bytes", "eval_seconds")
"""What other rows judge."""
READ_ELSEWHERE = ("val_targets", "val_bytes", "pre_quant_val_targets", "adapting_seconds")
"""Numbers of submission.json, by their keys, that other rows judge."""
OF_RESULTS = re.compile(r"bpb|loss|nats|bytes|steps?_|_steps?|seconds|time", re.I)
"""Keys of results; what else has a number is no claim of a run's."""
ALSO = {"model_bytes": ("total_bytes", "artifact_bytes"), "total_bytes": ("artifact_bytes",)}
"""What else a claimed size may be: many folders call the total the artifact, and logs do too."""


@dataclass(frozen=True)
class Fact:
    """One number that a claim can be held against."""

    text: str
    """As written, or all its digits."""
    source: str
    label: str = ""
    """What the log's line calls it."""

    value = property(lambda self: read_number(self.text))

    def __str__(self) -> str:
        return f"{self.text} {self.source}{f' as {self.label}' if self.label else ''}"


Facts = Mapping[str, Sequence[Fact]]
"""Of one seed, by what they are: the one that counts, then those of the logs' other lines, which a claim may be too."""


class Judged(Submission):
    """A submission folder and what is known of its numbers."""

    @once
    def known(self) -> dict[int, dict[str, list[Fact]]]:
        """Of every seed: taken anew where that could be, else logged; logs that name none count where no log does."""
        logs = dict(quietly(lambda: self.logs_of) or {})
        unnamed = logs.pop(None, [])
        logs = logs or ({UNNAMED: unnamed} if unnamed else {})
        found = {seed: self._logged(seed, its) for seed, its in logs.items() if seed is not None}
        seed = quietly(lambda: self.artifact_seed)
        if seed is not None:
            anew = {"model_bytes": self.artifact.stat().st_size} | (quietly(lambda: self._decisive(seed)) or {})
            if code := quietly(lambda: self.code_bytes):
                anew |= {"code_bytes": code, "total_bytes": anew["model_bytes"] + code}
            found.setdefault(seed, {}).update({name: [Fact(written(value), ANEW)] for name, value in anew.items()})
        return found

    def _logged(self, seed: int, logs: list[Log]) -> dict[str, list[Fact]]:
        """What the logs of a seed say, in the order of their weight; of scores the claimed one, if a line has it."""
        every: dict[str, list[Fact]] = {
            "steps": [Fact(str(log.steps), LOGGED) for log in logs if log.steps],
            "train_seconds": [Fact(f"{log.train_ms / 1000:.3f}", LOGGED) for log in logs if log.train_ms is not None],
        }
        scored = [f"{ms / 1000:.3f}" for log in logs for part in ("total_eval", "eval") for ms in log.times[part]]
        every["eval_seconds"] = [Fact(text, LOGGED) for text in scored]
        for name in logs[0].sizes:  # what is told last first
            every[name] = [Fact(str(size), LOGGED) for log in logs for size in log.sizes[name][::-1]]
        said = claimed(self.seed_claims.get(seed) or self.claims, "bpb")
        lines = [line._replace(label=line.label or "val_bpb") for log in logs for line in log.finals]
        lines.sort(key=lambda line: (not (said and same_score(said, line.bpb)), -line.kind, -len(line.bpb)))
        before = [line for line in lines if line.kind == BEFORE]
        ends = [end for log in logs for end in log.step_scores[-1:]]
        before += [Score(f"validation of step {step}", loss, bpb) for step, loss, bpb in ends]
        packed = [line for line in lines if line.kind > BEFORE]
        # what was scored before packing is no submission's score, but where no log has another and it is claimed
        packed = packed or [line for line in before if said and same_score(said, line.bpb)]
        starts = {"frozen_": SLIDING, "sliding_": SLIDING, "roundtrip_": PACKED, "adapted_": ADAPTED}
        of_kind = {start: [line for line in lines if line.said_kind == kind] for start, kind in starts.items()}
        for start, kept in {"": packed, "averaged_": before, **of_kind}.items():
            every[f"{start}bpb"] = [Fact(line.bpb, LOGGED, line.label) for line in kept]
            every[f"{start}loss"] = [Fact(line.loss, LOGGED, line.label) for line in kept if line.loss]
        return {name: facts for name, facts in every.items() if facts}

    def _decisive(self, seed: int) -> dict[str, float]:
        """Scores that confirm or refute what is claimed: not those that another machine may find a little otherwise."""
        claims, kept = every_claim(self.seed_claims.get(seed) or self.claims), {}
        frozen = "frozen_" if "frozen_bpb" in claims else ""
        for kind, start in (("sliding", frozen), ("roundtrip", "roundtrip_")):
            score = self.scoring.score(kind)
            for name in ("bpb", "loss") if "n" not in score else ():
                said, value = claims.get(f"{start}{name}"), score[name]
                off = abs(float(said) - value) / value if said else 0.0
                if not TOLERANCE < off <= OTHER_MACHINE or (said and same_score(said, written(value))):
                    kept[f"{start}{name}"] = value
        return kept

    @once
    def believed(self) -> dict[int, dict[str, list[Fact]]]:
        """The same, and where nothing is known what submission.json says."""
        found: dict[int, dict[str, list[Fact]]] = {}
        is_one = len(self.seeds) < 2 and not self.known
        table = self.seed_claims or ({UNNAMED: self.claims} if is_one else _single(self))
        for seed in {*self.known, *table}:
            said, known = every_claim(table.get(seed, {})), self.known.get(seed, {})
            its = {name: [agreeing(name, text, known) or Fact(text, CLAIMED)] for name, text in said.items()}
            found[seed] = its | known
        return found

    @once
    def lines(self) -> tuple[dict[str, dict[int, float]], str]:
        """{what the lines are called: scores of all seeds}, from one source: logs and artifacts where they have every
        seed, else submission.json. The lines that the seeds' own claims name come first.
        """
        known = {seed: facts["bpb"] for seed, facts in self.known.items() if "bpb" in facts}
        seeds = self.seeds or list(known)
        if not seeds or not set(seeds) <= set(known):
            table = {seed: claimed(values, "bpb") for seed, values in self.seed_claims.items()}
            scores = {seed: float(text) for seed, text in table.items() if text}
            return ({"": scores} if scores else {}), CLAIMED
        first = {known[seed][0].label for seed in seeds}
        found = {", ".join(sorted(filter(None, first))): {seed: known[seed][0].value for seed in seeds}}
        lines = {seed: {fact.label: fact.value for fact in known[seed][:0:-1]} for seed in seeds}
        for label in lines[seeds[0]]:
            if all(label in lines[seed] for seed in seeds):
                found.setdefault(label, {seed: lines[seed][label] for seed in seeds})
        return found, "logged or taken anew"

    @once
    def spreads(self) -> list[float]:
        """Standard deviations of the seeds' scores, by every line that all of them have, and as claimed."""
        every = [list(scores.values()) for scores in self.lines[0].values()]
        every.append([float(its) for row in self.seed_claims.values() if (its := claimed(row, "bpb"))])
        return [one for scores in every for one in spreads(scores)]

    def elsewhere(self, name: str, said: str) -> str:
        """Which other seed of the folder has a claimed size; empty for none, and for what is no size."""
        known = self.known if name.endswith("bytes") else {}
        return next((f"{_of(seed)}'s" for seed, its in known.items() if agreeing(name, said, its)), "")


def agreeing(name: str, said: str, known: Facts, least_digits: bool = True) -> Fact | None:
    """The fact of that name, or another of the same lines, that a number as written is, rounded; None if there is none.

    A score must agree to three digits at least, if need be, and one of several lines always.
    """
    facts = [fact for key in (name, *ALSO.get(name, ())) for fact in known.get(key, ())]
    return next((fact for fact in facts if _fits(name, said, fact, least_digits or fact is not facts[0])), None)


def _fits(name: str, said: str, fact: Fact, least_digits: bool) -> bool:
    value = read_number(said)
    if name == "train_seconds":  # the log's last line is a validation's, up to a step before the clock stopped
        off = 0.5 + 0.01 * fact.value
        is_the_budget = value == BUDGET_SECONDS and fact.value <= value + off  # which many files name for the time
        return is_the_budget or abs(value - fact.value) <= off or agrees(said, fact.value)
    is_scored = name.endswith(("bpb", "loss"))
    if is_scored and least_digits and abs(value - fact.value) >= 1e-3:
        return False  # a single digit would agree with too much
    close = fact.source == ANEW and is_scored and math.isclose(value, fact.value, rel_tol=TOLERANCE)
    return close or (agrees(said, fact.value) if fact.source == ANEW else same_number(said, fact.text))


# ---------------------------------------------------------------------- submission.json


def json_numbers(folder: Judged) -> str:
    """Every number of every seed in submission.json; a seed or score that nothing confirms cannot be checked."""
    read = _agree_among_themselves(folder)
    table, compared, unknown, strays, early = folder.seed_claims or _single(folder), 0, [], [], []
    labels: dict[str, None] = {}
    for seed, values in table.items():
        known, headline = folder.known.get(seed, {}), every_claim(values)
        for key, name, statistic, said in claims_of(values):
            if statistic or name in JUDGED_ELSEWHERE:
                continue
            if name.startswith("averaged_"):
                is_logged = name in known and agreeing(name, said, known)
                early += [f"{key} {said} of {_of(seed)}"] if name in known and not is_logged else []
                continue
            kind = name.rpartition("_")[2] if name.endswith(("bpb", "loss")) else name
            if headline.get(kind) == said:
                name = kind
            facts = known if name in known else {name: known.get(kind, ())}
            fact = agreeing(name, said, facts)
            if fact is None and name not in known:
                unknown.append(f"{key} of {_of(seed)}")
                continue
            if fact is None and (where := folder.elsewhere(name, said)):
                strays.append(f"{name} {said} of {_of(seed)} is {where}")
            else:
                hold(fact is not None, f"{_of(seed)}: {name} {said} in {SUBMISSION_FILE}, {every_text(name, known)}")
            compared += 1
            labels |= {fact.label: None} if fact and fact.label else {}
    agreed, larger, rest = _of_some_seed(folder)
    compared, unknown, rest = compared + agreed, unknown + larger, rest + _unread(folder, read)
    require(compared > 0, "no log and no artifact has a number that it names")
    require(not unknown, f"nothing here confirms {some(unknown)}; {compared} other numbers agree")
    named = f"; scores as {', '.join(list(labels)[:4])}" if labels else ""
    aside = f"; but {some(strays)}" if strays else ""
    aside += f"; before packing, and no log has {some(early)}" if early else ""
    aside += f"; not checked: {some(rest)}" if rest else ""
    return f"the logs' or taken anew: {so_many(compared, 'number')} of {so_many(len(table), 'seed')}{named}{aside}"


def _of_some_seed(folder: Judged) -> tuple[int, list[str], list[str]]:
    """Sizes, steps and times of the whole that no seed's row has: how many are a seed's or the seeds' mean, which sizes
    are larger than what the logs count, of which more may be a part, and which no log names."""
    rows = folder.seed_claims.values()
    in_rows = {claim.name for row in rows for claim in claims_of(row)} | set(JUDGED_ELSEWHERE)
    compared, larger, unlogged = 0, [], []
    for key, name, statistic, said in claims_of(folder.claims) if rows else ():
        every = [its for its in folder.known.values() if name in its]
        if statistic or name in in_rows or name.endswith(("bpb", "loss")):
            continue
        if not every:
            unlogged.append(key)
            continue
        mean = statistics.fmean(its[name][0].value for its in every)
        is_theirs = any(agreeing(name, said, its) for its in every) or near(said, mean)
        is_larger = name.endswith("bytes") and all(read_number(said) > its[name][0].value for its in every)
        texts = some([every_text(name, its) for its in every])
        wrong = f"{key} {said} in {SUBMISSION_FILE} is neither a seed's nor their mean: {texts}"
        hold(is_theirs or is_larger, wrong)
        larger += [] if is_theirs else [key]
        compared += is_theirs
    return compared, larger, unlogged


def _unread(folder: Judged, read: set[str]) -> list[str]:
    """Scores, sizes, steps and seconds of submission.json that no check looks at; `read` of the whole are looked at."""
    found: dict[str, None] = {}
    for where, table in folder.tables.items():
        for key, value in table.items():
            name, statistic, *_ = meaning(key)
            is_judged = name and (not statistic or (name in ("bpb", "loss") and statistic == "mean"))
            is_read = is_judged or key in READ_ELSEWHERE or (where == SUBMISSION_FILE and key in read)
            if is_rounded(key, value) or (is_number(value) and OF_RESULTS.search(key) and not is_read):
                found[f"{key:.40}"] = None
    inner = [key for key, value in nested(folder.claims).items() if is_number(value) and OF_RESULTS.search(key)]
    return [*found, *(f"{key:.60}" for key in inner)]


def _of(seed: int) -> str:
    return "the log" if seed == UNNAMED else f"seed {seed}"


def every_text(name: str, known: Facts) -> str:
    """What the logs have in place of a claim, in all their lines."""
    facts, early = (list(dict.fromkeys(map(str, known.get(key, ())))) for key in (name, f"averaged_{name}"))
    packed = "; ".join(facts[:6])
    return f"{packed}; before packing {early[0]}" if early and early[0] not in facts else packed


def _agree_among_themselves(folder: Judged) -> set[str]:
    """The keys of the whole that the seeds' own numbers bear out; Broken for one that they contradict.

    A mean or a spread is the seeds', what has no such word their mean or one of theirs, and a largest one is no smaller
    than any of them. A file that names further seeds may mean all of them.
    """
    own, read = _stems(folder.claims), {key for key in folder.claims if meaning(key)[:2] == ("bpb", "std")}
    sizes = {one.name: float(one.text) for one in claims_of(folder.claims)
             if not one.statistic and (one.name != "model_bytes" or is_of_file(one.key))}  # fmt: skip
    parts = sizes.get("model_bytes", 0) + sizes.get("code_bytes", 0)
    whole = sizes.get("total_bytes", parts) if {"model_bytes", "code_bytes"} <= set(sizes) else parts
    hold(whole >= parts, f"a total of {whole:,.0f} bytes is claimed, file and code have {parts:,.0f}")
    rows = [_by_stem(row) for row in folder.seed_claims.values()]
    is_of_these = len(seeds_elsewhere(folder.claims) | set(folder.seed_claims)) == len(rows)
    for key, (stem, statistic, said) in own.items():
        texts = [row.get(stem, "") for row in rows]
        is_score_of_all = stem == "bpb" and statistic in ("", "mean", "std")  # which `headline` judges, by every line
        is_of_more = statistic in ("mean", "std") and not is_of_these
        if not rows or not all(texts) or is_score_of_all or is_of_more or stem == "seed":
            continue
        values, unit = [read_number(text) for text in texts], max(map(_half_a_digit, texts))
        told, mean = read_number(said), statistics.fmean(values)
        if statistic in ("max", "min"):
            most = max(values) if statistic == "max" else min(values)
            off = most - told if statistic == "max" else told - most
            hold(off <= unit + _half_a_digit(said), f"{key} {said} is claimed, and a seed has {most:.10g}")
        else:
            made = spreads(values) if statistic == "std" else [mean, *(() if statistic == "mean" else values)]
            is_timed = not stem.endswith(("bpb", "loss", "bytes", "steps"))  # and may be a mean of rounded ones
            slack = max(unit, (1e-4 if is_timed else 1e-9) * abs(told))
            close = any(near(said, one) or abs(told - one) <= slack for one in made)
            text = ", ".join(f"{one:.10g}" for one in made) if statistic == "std" else f"{mean:.6f}"
            what = {"std": f"none of the standard deviations of its seeds', {text}",
                    "mean": f"not the mean of its seeds', {text}"}  # fmt: skip
            wrong = what.get(statistic, f"neither the mean of its seeds', {text}, nor one of them")
            hold(close or not made, f"{key} {told:.10g} is {wrong}")
        read.add(key)
    return read


def _half_a_digit(text: str) -> float:
    """What rounding leaves open of a number as written; a whole one is not rounded."""
    return last_digit(text) / 2 if "." in text else 0.0


def _stems(values: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
    """{key: (what it is, statistic, as written)} of a table's numbers, whether or not their names are known."""
    known = {one.key: one for one in claims_of(values)}
    found = {}
    for key, value in values.items():
        name, statistic, _, rest = meaning(key)
        if key in known:
            found[key] = name, statistic, known[key].text
        elif is_number(value) and not name:
            found[key] = rest, statistic, written(value)
    return found


def _by_stem(row: Mapping[str, Any]) -> dict[str, str]:
    """{what it is: as written, with the most digits} of a seed's numbers."""
    found = sorted(_stems(row).values(), key=lambda one: len(one[2].partition(".")[2]))
    return {stem: said for stem, _, said in found} | every_claim(row)


def _single(folder: Judged) -> dict[int, Mapping]:
    """A submission.json without a table of seeds claims one run: the one whose score it names; none for a mean."""
    said, every = claimed(folder.claims, "bpb"), folder.known
    scores = {seed: known["bpb"][0] for seed, known in every.items() if "bpb" in known}
    its = [seed for seed, score in scores.items() if said and same_number(said, score.text)]  # by the claimed line
    its = its or (list(every) if len(every) == 1 else [])
    return {seed: folder.claims for seed in its[:1]}


def headline(folder: Judged) -> str:
    """The score that the submission is known by: the mean of its seeds, or one seed's; and the spread it claims."""
    values, said_so = folder.claims, claims_of(folder.claims)
    texts = list(dict.fromkeys(text for statistic in ("mean", "") for text in claims_as(said_so, "bpb", statistic)))
    require(bool(texts), f"{SUBMISSION_FILE} names no score")
    said = texts[0]
    ways, source = folder.lines
    require(bool(ways), f"nothing here confirms {said}")
    label = next(iter(ways))
    for text in texts[::-1]:
        fitting = [name for name, scores in ways.items() if _one_of(text, scores) or _is_mean(text, scores)]
        mean = statistics.fmean(ways[label].values())
        wrong = f"{text} is neither the mean of the seeds' scores, {mean:.6f}, nor one of them ({source})"
        lines = f", in none of these lines: {', '.join(list(filter(None, ways))[:6])}" if len(ways) > 1 else ""
        hold(bool(fitting), f"{wrong}{lines}")
        label = fitting[0]
    if spread := claimed(values, "bpb", "std"):
        known = folder.spreads
        is_one = any(near(spread, one) or math.isclose(float(spread), one, rel_tol=1e-3) for one in known)
        hold(is_one, f"a standard deviation of {spread} is claimed, the scores have "
             f"{some([f'{one:.7f}' for one in known] or ['none'])} (of a sample, of all)")  # fmt: skip
    scores = ways[label]
    mean, which = statistics.fmean(scores.values()), "" if len(scores) < 2 else "the mean; "
    if len(scores) > 1 and not _is_mean(str(said), scores):
        which = f"of {_of(_one_of(str(said), scores)[0])}, not the mean; "
    source_as = f"{source} as {label}" if label else source
    evidence = f"{said}: {which}mean over {so_many(len(scores), 'seed')} {mean:.6f}, {source_as}"
    require(source != CLAIMED, f"the seeds' scores are only {CLAIMED} ({evidence})")
    return evidence


def _one_of(text: str, scores: Mapping[int, float]) -> list[int]:
    """Seeds whose score this is."""
    return [seed for seed, one in scores.items() if same_score(text, written(one))]


def _is_mean(text: str, scores: Mapping[int, float]) -> bool:
    mean = statistics.fmean(scores.values())
    return abs(float(text) - mean) < 1e-3 and (near(text, mean) or math.isclose(float(text), mean, rel_tol=2e-6))


def spreads(values: list[float]) -> list[float]:
    """Standard deviations, of a sample and of all."""
    return [statistics.stdev(values), statistics.pstdev(values)] if len(values) > 1 else []
