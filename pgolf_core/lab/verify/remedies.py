"""What a failing check of a submission would take to be right, and where in its files the evidence stands."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from pgolf_core.lab.verify.evidence.checks import FAILS, Row, plain, quietly
from pgolf_core.lab.verify.reading.untrusted import read_text

RIGHT = {
    "submission.json is whole": "a JSON object with a val_bpb that is a score, and numbers or null for the rest",
    "no seed and no log is missing": "README.md, submission.json, the script, and the log of every seed that is named",
    "one recipe over all seeds": "the shipped script run for every seed with the same settings, and these logs shipped",
    "the script is the one that ran": "ship the script that the logs begin with, or logs of the shipped one",
    "the code has the claimed bytes": "claim and log the bytes of the shipped files that run",
    "file and code fit under the cap": "a packed file and shipped code that are together no larger than the cap",
    "artifact opens and is whole": "an artifact that opens: pack the model again",
    "the artifact is a seed's": "the artifact of one of the seeds in submission.json, with its hash",
    "a byte is counted once": "count a leading space once, in the table or in the score, and a byte piece as one byte",
    "the whole split is scored": "score every token of the split, and claim that score",
    "each score implies the split's bytes": "a score over all tokens of the split, with the text's own bytes below it",
    "what is learned from was scored before": "score each part of the text before the model learns from it; log both",
    "seconds are within the budgets": "training, with what changes the weights after it, and scoring within 600 s each",
    "submission.json says what logs and file say": "write the logs' numbers into submission.json, or ship their logs",
    "the headline is the seeds' score": "claim the mean of the seeds' scores, and their standard deviation",
    "README.md says what logs and file say": "write the logs' numbers into the tables of README.md",
    "scores in README.md's prose are the folder's": "name scores of this folder, or say whose the others are",
}
"""By check; what is not here is right when the claim and the file that it is held against say the same."""
OTHERWISE = "the claim and the file that it is held against must say the same"
PLACES = 3
_NUMBER = re.compile(r"\d[\d,]*\.\d{3,}|\d[\d,]{3,}\d")


def explained(row: Row, files: Mapping[str, Path]) -> Row:
    """A failing row with the places of its evidence and its remedy; any other as it is."""
    if row.verdict != FAILS:
        return row
    check = re.sub(r"^[^:]*: ", "", row.check) if row.check not in RIGHT else row.check
    return row._replace(where=plain(", ".join(places(row.evidence, files))), right=RIGHT.get(check, OTHERWISE))


def places(evidence: str, files: Mapping[str, Path]) -> list[str]:
    """`file:line` of the first line, in each file that the evidence names, that holds one of its numbers."""
    wanted = {form for text in _numbers(evidence) for form in (text, text.replace(",", ""))}
    found: list[str] = []
    for name, path in files.items():
        is_located = re.search(rf"{re.escape(name)}:\d", evidence)
        if name in evidence and not is_located and name.endswith((".json", ".md", ".log", ".txt", ".out")):
            lines = (quietly(functools.partial(read_text, path)) or "").split("\n")
            first = next((at for at, line in enumerate(lines, 1) if wanted & _numbers(line)), None)
            found += [f"{name}:{first}"] if first and len(found) < PLACES else []
    return found


def _numbers(text: str) -> set[str]:
    return {number.strip(",") for number in _NUMBER.findall(text)}
