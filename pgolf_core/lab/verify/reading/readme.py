"""What a submission's README.md says: the cells of its tables and the scores in its prose, held against what is known.

A cell may be any score of its seed's logs, since tables show several; a mean or a spread is that of the cells above it.
"""

import itertools
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence

from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.shared.settings import is_number
from pgolf_core.lab.shared.tables import so_many, some
from pgolf_core.lab.verify.evidence.checks import hold, require
from pgolf_core.lab.verify.reading.claims import ANEW, CLAIMED, LOGGED, Fact, Judged, agreeing, every_text, spreads
from pgolf_core.lab.verify.reading.keys import meaning
from pgolf_core.lab.verify.reading.numbers import agrees, last_digit, near, read_number

_SIZED = re.compile(r"total|artifact|file|code", re.I)
"""Columns that leave out `bytes`."""
_CELL = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)(?: ?(bytes|ms|[sb]|bpb))?(?: ?(?:±|\(std).{0,40})?", re.I)
_MEAN = re.compile(r"(?:\d.seed )?(?:(mean|average|avg)|std|stdev|σ)\b.{0,30}")
_PROSE = (  # a number with a sign is a difference, no score
    re.compile(r"(?<![-+−±]|\d)(\d\.\d{2,10})[*`\s]{0,4}(?:± ?[\d.]{1,12}[*\s]{0,3})?(?:bits per byte|bp[bp])\b"
               r"(?!\W{1,4}(?:improve|reduc|gain|gap|better|worse))", re.I),
    re.compile(r"(?:\b|(?<=val_)(?<!delta_val_)|(?<=mean_))bp[bp][*`:=~≈\s]{1,6}(\d\.\d{2,10})", re.I),
)  # fmt: skip
_SPREAD = re.compile(r"(?:\bstd(?:dev)?\.?(?: dev\w*)?[*`:=~\s]{1,4}|\d[*`]{0,2} ?± ?)(\d\.\d{3,10})(?![\d.])", re.I)
_LISTED = re.compile(r"[:=]\s*(\d[\d,]*(?:\.\d+)?)(?![\d.]|,\d)(?: ?(bytes|ms|s|b)\b)?(?!\s?[%×a-z])", re.I)
"""A number after its name, with its unit; another unit makes it none."""
_PAIR = re.compile(r"\w+\s?[:=]\s?\d[\d.,]*(?:m?s\b)?")
"""A name and its number before another name on the same line."""


def readme_numbers(folder: Judged) -> str:
    """Every cell of README's tables that is a seed's known number, and the rows of means."""
    compared, twice, strays = {ANEW: 0, LOGGED: 0, CLAIMED: 0}, 0, []
    judged: list[tuple[int | None, bool, list[tuple[str, list[tuple[str, Fact | None]] | None]]]] = []
    for header, rows in tables(folder.readme):
        seeds = [_seed_of(header[0], first) for first, *_ in rows]
        numbered = [seed for seed in seeds if seed is not None]
        if len(set(numbered)) < len(numbered):
            twice += len(rows)  # of several settings, and nothing says which is the folder's
            continue
        above: list[list[tuple[str, Fact | None]]] = [[] for _ in header[1:]]
        for seed, (first, *cells) in zip(seeds, rows, strict=True):
            known = {} if seed is None else folder.believed.get(seed, {})
            mean = _MEAN.fullmatch(first.lower())
            strange, is_theirs = [], mean is not None
            for column, head, cell in zip(above, header[1:], cells, strict=False):
                found, is_sure = _CELL.fullmatch(cell), True
                if not found or not (mean or known):
                    continue
                name, said = _named(head, found[1], found[2] or "")
                if mean:
                    fact, expected = _mean(bool(mean[1]), said, column)
                else:
                    fact, expected, is_sure = _known(name, said, known)
                    column.append((said, fact))
                if fact:
                    compared[fact.source] += 1
                    is_theirs = True
                elif expected and not mean and (where := folder.elsewhere(name, said)):
                    strays.append(f"{first}: {name} {said} is {where}")
                else:
                    text = f"{first}: {name or head} {said}, {expected}" if expected else ""
                    strange.append((text, None if is_sure else column))
            judged.append((seed, is_theirs, strange))
    ours = {seed for seed, is_theirs, _ in judged if is_theirs}
    wrong = [
        text for seed, is_theirs, strange in judged for text, column in strange
        if text and (is_theirs or seed not in ours) and (column is None or any(fact for _, fact in column))
    ]  # fmt: skip
    skipped = sum(len(strange) for *_, strange in judged)
    hold(not wrong, f"README.md, {'; '.join(wrong)}")
    counts = ", ".join(f"{count} {source}" for source, count in compared.items() if count)
    agreed = f"{so_many(compared[CLAIMED], 'cell')} as in {SUBMISSION_FILE}, and nothing confirms either; {counts}"
    require(not compared[CLAIMED], agreed)
    require(bool(counts), "no table of README.md has a number that was logged or taken anew")
    aside = f"; but {some(strays)}" if strays else ""
    aside += f"; not compared, since of other columns: {skipped}" if skipped else ""
    aside += f"; nor {so_many(twice, 'row')} of tables that have a seed twice" if twice else ""
    return f"cells that agree: {counts}{aside}"


def readme_prose(folder: Judged) -> str:
    """Every score and spread, and of a single run what lists and rows of two columns name; another's may stand there,
    and so a strange one is no failure."""
    prose, wide = _prose(folder.readme), folder.spreads
    known = [facts for its in folder.believed.values() for name, facts in its.items() if name.endswith("bpb")]
    values = [fact.value for facts in known for fact in facts]
    values += [float(value) for key, value in folder.claims.items() if "bpb" in key and is_number(value)]
    means = [statistics.fmean(scores.values()) for scores in folder.lines[0].values()]
    named = dict.fromkeys(found[1] for form in _PROSE for found in form.finditer(prose) if _is_own(found))
    ours = {text for text in named if any(agrees(text, one) for one in values) or any(near(text, one) for one in means)}
    strange = [f"{text} bpb" for text in named if text not in ours and float(text) >= 0.1]  # less is a difference
    strange += [f"a spread of {text}" for text in dict.fromkeys(_SPREAD.findall(folder.readme))
                if wide and not any(near(text, one) for one in wide)]  # fmt: skip
    odd, agreed = _listed(folder, prose)
    require(not strange + odd, f"README.md names {', '.join(strange + odd)}, no number of this folder")
    require(bool(ours or agreed), "README.md's prose names no score")
    scores = ", ".join([text for text in named if text in ours][:6])
    return f"{scores or 'no'} bpb; {so_many(agreed, 'number')} of lists"


def _prose(text: str) -> str:
    """A README without its tables; rows of two columns are a name and its number, as in a list."""
    rows = [(_cells(line) if line.lstrip().startswith("|") else [], line) for line in text.splitlines()]
    return "\n".join(
        f"- {row[0]}: {row[1]}" if len(row) == 2 else "" if row else re.sub(r"[*`]", "", line) for row, line in rows
    )


def _is_own(found: re.Match[str]) -> bool:
    """Whether no word before a number, in its part of the sentence, says that it is another's."""
    before = re.split(r"[.;|]\s|\n", found.string[max(0, found.start(1) - 120) : found.start(1)])[-1]
    return bool(meaning(f"{before} bpb").name)


def _listed(folder: Judged, prose: str) -> tuple[list[str], int]:
    """Of a folder with one run the numbers of its lists that are not the run's, and how many are."""
    known, strange, agreed, heading = next(iter(folder.believed.values()), {}), [], 0, ""
    for line in prose.splitlines() if len(folder.believed) == 1 else ():
        if not re.match(r"\s*[-+*]\s", line):
            heading = line.strip() if line.startswith("#") or line.rstrip().endswith(":") else heading
            continue
        for number in _LISTED.finditer(line) if meaning(f"{heading[-120:]} bpb").name else ():
            name, said = _named(_PAIR.sub("", line[: number.start()]), number[1], number[2] or "")
            fact, expected, is_sure = _known(name, said, known) if name else (None, "", False)
            agreed += fact is not None
            is_odd = expected and (is_sure or name in known) and name != "eval_seconds"
            strange += [f"{name} {said} ({expected})"] if is_odd else []
    return strange, agreed


def _seed_of(head: str, first: str) -> int | None:
    """The seed that a row begins with: a bare number is one in a column of seeds alone."""
    found = re.fullmatch(r"(seed )?(\d{1,19})", first.strip().lower())
    return int(found[2]) if found and (found[1] or re.fullmatch(r".*\b(?:seeds?|run)\b.*|", head.lower())) else None


def _named(words: str, number: str, unit: str) -> tuple[str, str]:
    """What a number is by its name and unit, and itself in bytes or seconds; nothing is known of differences, of
    statistics and of what is others'."""
    unit = "bytes" if unit.lower() == "b" or _SIZED.fullmatch(words.strip()) else unit
    name, statistic, is_milli, _ = meaning(f"{words} {unit}")
    return "" if statistic else name, f"{read_number(number) / 1000:.3f}" if is_milli else number


def _known(name: str, said: str, known: Mapping[str, Sequence[Fact]]) -> tuple[Fact | None, str, bool]:
    """The fact that a cell is, what it should be, and whether it surely should, empty where nothing is known of it.

    What no name tells is a log's number where another cell of its column is; so are a score before packing, which a log
    need not have, and a time of scoring, which may be a sum.
    """
    kind = name.rpartition("_")[2]
    names = [name, kind, f"averaged_{kind}"] if kind in ("bpb", "loss") else [name]
    if not name:
        ending = ("bpb", "loss") if re.fullmatch(r"\d\.\d{3,}", said) else ("bytes",) if len(said) > 6 else ()
        names = [one for one in known if one.endswith(ending)]
    facts = (agreeing(one, said, known, least_digits=False) for one in dict.fromkeys(names))
    fact = next((fact for fact in facts if fact), None)
    is_early = name.startswith("averaged_")
    # a log has all its scores, and so a cell that is none of them is wrong
    is_of_all = kind in known and known[kind][0].source != CLAIMED and not is_early
    is_own = name in known and (not is_early or known[name][0].source == CLAIMED) and name != "eval_seconds"
    its = next((one for one in (name, kind, *names) if one in known), "")
    return fact, every_text(its, known) if fact is None and its else "", is_own or is_of_all


def _mean(is_mean: bool, said: str, above: list[tuple[str, Fact | None]]) -> tuple[Fact | None, str]:
    """The mean, or the spread, of a column's cells above this one, by their digits or by what is known of them."""
    facts = [fact for _, fact in above if fact]
    if not facts or len(facts) < len(above) or len(facts) + is_mean < 2:
        return None, ""
    written = [read_number(text) for text, _ in above]
    made = [value for values in (written, [fact.value for fact in facts])
            for value in ([statistics.fmean(values)] if is_mean else spreads(values))]  # fmt: skip
    unit = last_digit(said) + max(last_digit(text) for text, _ in above) / 2
    close = any(agrees(said, one) or ("." in said and abs(read_number(said) - one) <= unit) for one in made)
    least = next(source for source in (CLAIMED, LOGGED, ANEW) if source in {fact.source for fact in facts})
    fact = Fact(said, least) if close else None
    return fact, "" if fact else f"the cells above have {made[0]:,.6f}"


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """(header, rows) of every Markdown table, cells without their marks; a column of seeds comes first."""
    for has_bars, group in itertools.groupby(text.splitlines(), key=lambda line: "|" in line):
        lines = list(group) if has_bars else []
        ruler = next((at for at, line in enumerate(lines) if at and "-" in line and set(line) <= set("-|: \t")), 0)
        if ruler:
            header, *rows = map(_cells, (lines[ruler - 1], *lines[ruler + 1 :]))
            at = next((at for at, cell in enumerate(header) if cell.lower() in ("seed", "seeds")), 0)
            # what names a row of means may stand in the table's first column
            first = (next(filter(None, row[at : at + 1]), row[0]) for row in rows)
            yield (
                [header[at], *header[:at], *header[at + 1 :]],
                [[name, *row[:at], *row[at + 1 :]] for name, row in zip(first, rows, strict=True)],
            )


def _cells(line: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", line[:5000].strip().strip("|"))
    return [re.sub(r"[*`\\]", "", part).strip() for part in parts]
