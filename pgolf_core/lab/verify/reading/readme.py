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
from pgolf_core.lab.verify.reading.numbers import agrees, last_digit, read_number

_SHORT = re.compile(r"(total|artifact|file|code)|(sliding|round-?trip|standard|legal_ttt_exact|(?:post-)?ttt)", re.I)
"""Columns that leave out `bytes`, or `bpb`."""
_CELL = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)(?: ?(?:bytes|[sb]|bpb))?(?: ?(?:±|\(std).{0,40})?", re.I)
_MEAN = re.compile(r"(?:\d.seed )?(?:(mean|average|avg)|std|stdev|σ)\b.{0,30}")
_PROSE = (  # a number with a sign is a difference, no score
    re.compile(r"(?<![-+−±]|\d)(\d\.\d{2,10})[*`\s]{0,4}(?:± ?[\d.]{1,12}[*\s]{0,3})?(?:bits per byte|bpb)\b", re.I),
    re.compile(r"(?:\b|(?<=val_)(?<!delta_val_)|(?<=mean_))bpb[*`:=\s]{1,6}(\d\.\d{2,10})", re.I),
)


def readme_numbers(folder: Judged) -> str:
    """Every cell of README's tables that is a seed's known number, the rows of means, and scores named in prose."""
    compared, skipped, twice, wrong, strays = {ANEW: 0, LOGGED: 0, CLAIMED: 0}, 0, 0, [], []
    for header, rows in tables(folder.readme):
        names = [_column(cell) for cell in header[1:]]
        seeds = [_seed_of(header[0], first) for first, *_ in rows]
        numbered = [seed for seed in seeds if seed is not None]
        if len(set(numbered)) < len(numbered):
            twice += len(rows)  # of several settings, and nothing says which is the folder's
            continue
        above: list[list[tuple[str, Fact | None]]] = [[] for _ in names]
        for seed, (first, *cells) in zip(seeds, rows, strict=True):
            known, mean = folder.believed.get(seed) if seed is not None else None, _MEAN.fullmatch(first.lower())
            for column, name, cell in zip(above, names, cells, strict=False):
                found = _CELL.fullmatch(cell)
                if found and mean:
                    fact, expected = _mean(bool(mean[1]), found[1], column)
                elif found and known is not None:
                    fact, expected = _known(name, found[1], known)
                    column.append((found[1], fact))
                else:
                    continue
                if fact:
                    compared[fact.source] += 1
                elif expected and not mean and (where := folder.elsewhere(name, found[1])):
                    strays.append(f"{first}: {name} {found[1]} is {where}")
                elif expected:
                    wrong.append(f"{first}: {name} {found[1]}, {expected}")
                else:
                    skipped += 1
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
    """Every score that is named outside of tables; another's may stand there, so a strange one is no failure."""
    prose = "\n".join(line for line in folder.readme.splitlines() if not line.lstrip().startswith("|"))
    named = list(dict.fromkeys(found[1] for pattern in _PROSE for found in pattern.finditer(prose)))
    known = [facts for its in folder.believed.values() for name, facts in its.items() if name.endswith("bpb")]
    values = [fact.value for facts in known for fact in facts]
    for name in ("bpb", "roundtrip_bpb"):
        every = [facts[name][0].value for facts in folder.believed.values() if name in facts]
        values += [statistics.fmean(every)] if every else []
    values += [float(value) for key, value in folder.claims.items() if "bpb" in key and is_number(value)]
    strange = [text for text in named if not any(agrees(text, value) for value in values)]
    require(not strange, f"README.md names {', '.join(strange)} bpb, no number of this folder")
    require(bool(named), "README.md's prose names no score")
    return f"{', '.join(named[:6])} bpb"


def _seed_of(head: str, first: str) -> int | None:
    """The seed that a row begins with: a bare number is one in a column of seeds alone."""
    found = re.fullmatch(r"(seed )?(\d{1,19})", first.strip().lower())
    return int(found[2]) if found and (found[1] or re.fullmatch(r".*\b(?:seeds?|run)\b.*|", head.lower())) else None


def _column(cell: str) -> str:
    """What a column holds; of differences and of others' scores nothing is known."""
    short = _SHORT.fullmatch(cell.strip())
    name, statistic, is_milli, _ = meaning(f"{cell} {'bytes' if short[1] else 'bpb'}" if short else cell)
    return "" if statistic or is_milli else name


def _known(name: str, said: str, known: Mapping[str, Sequence[Fact]]) -> tuple[Fact | None, str]:
    """The fact that a cell is, or what it should be; neither where nothing is known of it."""
    kind = name.rpartition("_")[2]
    names = (name, kind, f"averaged_{kind}") if kind in ("bpb", "loss") else (name,)
    facts = (agreeing(one, said, known, least_digits=False) for one in dict.fromkeys(names) if one in known)
    fact = next((fact for fact in facts if fact), None)
    # a log has all its scores, and so a cell that is none of them is wrong, but for weights before packing
    is_of_all = kind in known and known[kind][0].source != CLAIMED and not name.startswith("averaged_")
    is_own = name in known and (not name.startswith("averaged_") or known[name][0].source == CLAIMED)
    its = name if is_own else kind if is_of_all else ""
    return fact, every_text(its, known) if fact is None and its else ""


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
