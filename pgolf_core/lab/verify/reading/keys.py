"""What a number of a submission is, by the words of its name: a key of submission.json, or a column of README.md.

The published files have no fixed form (papers/findings/2026-11-30-published-forms.md): one size, score or time has a
dozen names, and what each seed has stands in a table, in objects named for a seed, in columns by seed or in lists
beside the seeds. What a score is of is told from the words that tell it of a log's line.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.shared.settings import is_number
from pgolf_core.lab.verify.evidence.checks import hold
from pgolf_core.lab.verify.reading.logs import ADAPTED, BEFORE, PACKED, SLIDING, Score
from pgolf_core.lab.verify.reading.numbers import written

STAGES = {None: "", BEFORE: "averaged_", PACKED: "roundtrip_", SLIDING: "sliding_", ADAPTED: "adapted_"}
"""How the names of scores and losses begin, by what their words say; "frozen_" and "other_" are two more."""
HEADLINES = ("", "adapted_", "sliding_", "roundtrip_", "other_")
"""Of these scores the first that is named is a run's; a score before packing is none."""
_OTHERS = re.compile(
    r"\b(?:delta\w*|gain\w*|improv\w*|vs|diff\w*|base|baseline|prior|previous|merged|leaderboard|sota|target|threshold|"
    r"limit|cap|margin|over|headroom|significance|comparison|best|worst|sweep|extended|recovery|reserve|only|estimated?|"
    r"init|probe|nn|oracle|effective|note|method|status|check|sha\d*|p|pr ?\d+|(?<!bits )per (?:byte|step)|"
    r"train loss)\b"
)
"""Names with such a word are of differences, bounds, and what other runs or other models have."""
_STATISTICS = {"mean": r"mean|avg|average", "std": r"std|stdev|stddev|σ", "max": "max|maximum", "min": "min|minimum"}
_OVER_SEEDS = re.compile(rf"\b(?:{'|'.join(_STATISTICS.values())}|\d+ ?seeds?)(?=\s|$)")
_PACKED_BY = re.compile(r"int\d+|zstd|zlib|brotli|lzma|compressed|quantized|packed|pergroup")
_MILLI, _UNITS = {"ms", "milliseconds"}, {"s", "sec", "seconds", "ms", "milliseconds"}
_QUANTITIES: tuple[tuple[str, set[str], set[str]], ...] = (
    ("total_bytes", {"total", "counted", "submission"}, {"bytes", "size", "artifact"}),
    ("code_bytes", {"code"}, {"bytes", "size"}),
    ("model_bytes", {"model", "artifact", "file"}, {"bytes", "size", "serialized"}),
    ("steps", {"step", "steps"}, {"train", "training", "stop", "total", "final", "num", "completed", "stopped"}),
    ("train_seconds", {"train", "training", "wallclock"}, {"time", "loop", *_UNITS}),
    ("eval_seconds", {"eval", "evaluation"}, {"total", "time", "wallclock", *_UNITS}),
)  # fmt: skip
"""(name, words of which it has one, words that it may also have); bytes and seconds name their unit."""
_NEUTRAL = re.compile(r"\b(?:val|validation|final|exact|official|score|full|eval|seeds?|\d+|bp[bp]|bits|per|byte|token|"
                      r"loss|nats|the)\b")  # fmt: skip
_QUOTED = r"[~≈]?\s*(\d{1,3}(?:,\d{3}){1,4}|\d{1,15}(?:\.\d{1,15})?)\s*(?:bytes|bpb|s|sec|seconds)?"
_ROUNDED = re.compile(r"[~≈]?\s*\d[\d.,]*\s*[kMG]i?B", re.ASCII | re.I)
_TABLE = re.compile(r"(?:per_)?seeds?(?:_results)?|seeds_results|results(?:_(?:by|per)_seed)?|per_seed_results")
_BY_SEED = re.compile(r"_?(?:by|per)_seeds?(?=_|$)_?|^seeds?(?=_|$)_?|_seeds?$")
_OF_SEED = re.compile(r"(?:seed[ _-]?)?([0-9]{1,19})")


class Meaning(NamedTuple):
    """What a name says: of which run's number, and of one run or over the seeds."""

    name: str
    """`bpb` and `loss`, with what they are of before them, `steps`, or a size or time; empty for what is none of these.
    """
    statistic: str = ""
    """One of mean, std, max and min, over seeds; empty for a run's own."""
    is_milli: bool = False
    rest: str = ""
    """The words without a statistic."""


class Claim(NamedTuple):
    """A number as written, in bytes or seconds."""

    key: str
    name: str
    statistic: str
    text: str


@functools.lru_cache(2**17)  # as many keys as a file of MAX_JSON_BYTES may have, each of which several rows ask for
def meaning(name: str) -> Meaning:
    """What a key or a column's name says."""
    words = re.sub(r"[^a-z0-9σ]+", " ", name[:200].lower().replace("δ", "delta ")).strip()
    statistic = next((kind for kind, form in _STATISTICS.items() if re.search(rf"\b(?:{form})(?=\s|$)", words)), "")
    rest = " ".join(_OVER_SEEDS.sub(" ", words).split())
    if _OTHERS.search(words):
        return Meaning("", statistic, rest=rest)
    for kind, form in (("bpb", r"\b(?:bp[bp]|bits per byte)\b"), ("loss", r"\b(?:loss|nats)\b")):
        if re.search(form, rest):
            return Meaning(f"{_stage(rest)}{kind}", statistic, rest=rest)
    known = {word for word in rest.split() if not _PACKED_BY.fullmatch(word)}
    for found, first, more in _QUANTITIES:
        sized = {"bytes": {"bytes", "size"}, "seconds": _UNITS}.get(found.rpartition("_")[2], known)
        if known & first and known & sized and known <= first | more:
            is_squeezed = found == "code_bytes" and known != set(rest.split())  # of no file that is shipped
            return Meaning("" if is_squeezed else found, statistic, bool(known & _MILLI), rest)
    return Meaning("total_bytes" if rest == "bytes" else "", statistic, rest=rest)


def _stage(words: str) -> str:
    """What a score is of."""
    kind = Score(words, "", "").said_kind
    if "frozen" in words:
        return "frozen_"
    return "other_" if kind is None and _NEUTRAL.sub("", words).strip() else STAGES[kind]


def is_of_file(key: str) -> bool:
    """Whether a size is surely the packed file's alone; some call its sum with the code the artifact."""
    return "artifact" not in key.lower() or "compressed" in key.lower()


def quoted(value: Any) -> str:
    """A number that stands in quotation marks, with its unit or without; empty for anything else."""
    found = re.fullmatch(_QUOTED, value.strip(), re.ASCII | re.I) if isinstance(value, str) else None
    return found[1].replace(",", "") if found else ""


def is_rounded(key: str, value: Any) -> bool:
    """Whether it is a size as `15.9 MB`, which says neither its digits nor of which of two units they are."""
    is_text = isinstance(value, str) and _ROUNDED.fullmatch(value.strip()) is not None
    return is_text and meaning(key).name.endswith("bytes")


def claims_of(values: Mapping[str, Any]) -> list[Claim]:
    """Every number of a table whose name says what it is."""
    found = []
    for key, value in values.items():
        name, statistic, is_milli, _ = meaning(key)
        text = (quoted(value) or (written(value) if is_number(value) else "")) if name else ""
        if text:
            found.append(Claim(key, name, statistic, f"{Decimal(text).scaleb(-3):f}" if is_milli else text))
    return found


def claimed(values: Mapping[str, Any], name: str, statistic: str = "") -> str | None:
    """A number of a table under any of its names, as written with the most digits; of scores that of the headline."""
    texts = claims_as(claims_of(values), name, statistic)
    return texts[0] if texts else None


def claims_as(claims: Sequence[Claim], name: str, statistic: str = "") -> list[str]:
    """The same under each of its names, which may be rounded differently."""
    if name in ("bpb", "loss"):
        stages = {claim.name for claim in claims if claim.statistic in ("", "mean")}
        name = next((f"{stage}{name}" for stage in HEADLINES if f"{stage}{name}" in stages), name)
    found = [claim for claim in claims if (claim.name, claim.statistic) == (name, statistic)]
    found.sort(key=lambda one: (not is_of_file(one.key), -len(one.text.partition(".")[2])))
    return [claim.text for claim in found]


def every_claim(values: Mapping[str, Any]) -> dict[str, str]:
    """{name: as written} of the numbers that are claimed of one run."""
    claims = claims_of(values)
    names = dict.fromkeys(("bpb", "loss", *(claim.name for claim in claims)))
    return {name: texts[0] for name in names if (texts := claims_as(claims, name))}


def unfilled(values: Mapping[str, Any]) -> list[str]:
    """What stands in place of a number, as `val_bpb ('pending')`; null and a missing key claim nothing."""
    odd = []
    for key, value in values.items():
        name = "" if _BY_SEED.search(key) and isinstance(value, dict | list) else meaning(key).name
        is_filled = value is None or is_number(value) or quoted(value) or is_rounded(key, value)
        if name and not name.startswith("other_") and not is_filled:
            odd.append(f"{key:.40} ({str(value)[:40]!r})")
    return odd


# ---------------------------------------------------------------------- what each seed has


def rows_of(claims: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """{seed: its values}, whatever form they have; Broken for a seed with two rows that differ."""
    rows: dict[int, dict[str, Any]] = {}
    table = next((found for key in claims if _TABLE.fullmatch(key) and (found := _table(claims[key]))), [])
    for seed, row in (*table, *_table({key: row for key, row in claims.items() if key.startswith("seed")}, "seed")):
        there = rows.setdefault(seed, row)
        hold(there == row, f"{SUBMISSION_FILE} has two rows of seed {seed}, which differ")
    named = claims.get("seeds")
    for key, values in claims.items():
        what = re.sub(r"_?results?$", "", _BY_SEED.sub("", key)) or "val_bpb" if _BY_SEED.search(key) else ""
        if isinstance(values, list) and isinstance(named, list) and len(values) == len(named) and values is not named:
            values = dict(zip(map(str, named), values, strict=True))
        column = values if isinstance(values, dict) and what and meaning(what).name else {}
        pairs = [(int(digits[1]), one) for name, one in column.items()
                 if (digits := _OF_SEED.fullmatch(name)) and not isinstance(one, dict | list)]  # fmt: skip
        for number, one in pairs if len(pairs) == len(column) else ():
            rows[number] = {what: one, **rows.get(number, {})}
    return rows


def _table(values: Any, start: str = "") -> list[tuple[int, dict[str, Any]]]:
    """(seed, row) of an object of rows or of a list of them; nothing where it is neither."""
    pairs = values.items() if isinstance(values, dict) else [
        (row.get("seed"), row) for row in (values if isinstance(values, list) else ()) if isinstance(row, dict)
    ]  # fmt: skip
    rows = [(_OF_SEED.fullmatch(str(name)), row) for name, row in pairs if str(name).startswith(start)]
    return [(int(seed[1]), row) for seed, row in rows if seed and isinstance(row, dict)]


def nested(claims: Mapping[str, Any]) -> dict[str, Any]:
    """{`group.key`: value} of the groups that are no seeds' rows and columns: whose numbers they are nothing says."""
    groups = {key: value for key, value in claims.items() if isinstance(value, dict)}
    return {f"{key}.{name}": value for key, group in groups.items() for name, value in group.items()
            if not (_TABLE.fullmatch(key) or _BY_SEED.search(key))}  # fmt: skip


def seeds_elsewhere(claims: Mapping[str, Any]) -> set[int]:
    """Seeds of further runs, which a file names and does not count into its score."""
    tables = {key: value for key, value in claims.items() if "seed" in key or "result" in key}
    inner = [(key, value) for table in tables.values() if isinstance(table, dict) for key, value in table.items()]
    found: set[int] = set()
    for key, value in (*tables.items(), *inner):
        is_list = isinstance(value, list) and key.endswith("seeds")
        found |= {one for one in value if type(one) is int} if is_list else {seed for seed, _ in _table(value)}
    return found
