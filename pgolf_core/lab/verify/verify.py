"""Check what an artifact, a run or a submission folder claims, from the files themselves: one row per claim.

Four verdicts: `holds`; `fails`; `cannot be checked here`, where something needed is missing or belongs to another
machine, with the reason as evidence; `sampled`, where a random part of a score was taken and the claim lies within its
interval. Files are parsed, never unpickled or executed (but with `run_code`), and nothing is read whose size is not
bounded. Scores are taken anew from the artifact alone, in a fresh process.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pgolf_core.base.files import UserError
from pgolf_core.base.names import SEED_RESULT
from pgolf_core.lab.compare.results import seed_folders
from pgolf_core.lab.data.dataset import open_dataset
from pgolf_core.lab.shared.places import RECIPE_FILE
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, SAMPLED, UNKNOWN, VERDICTS, CannotCheck, Row, judge
from pgolf_core.lab.verify.evidence.score import Scoring, Way, judge_causality, judge_isolation, judge_probabilities
from pgolf_core.lab.verify.run import SEED_CHECKS, Seed, recipe_rows, seed_rows
from pgolf_core.lab.verify.run_bytes import artifact_rows, header_of
from pgolf_core.lab.verify.submission import submission_rows

__all__ = ["FAILS", "HOLDS", "SAMPLED", "SEED_CHECKS", "UNKNOWN", "VERDICTS", "artifact_rows", "verify"]


def verify(
    path: Path | str,
    *,
    cache_dir: Path | str = "",
    budget_seconds: float | None = None,
    progress: bool = False,
    data: str = "",
    run_code: bool = False,
) -> pd.DataFrame:
    """Columns check, verdict, evidence for an artifact, a seed's run folder, a recipe's with all its seeds, or a
    submission folder, this project's or another's.

    `cache_dir` is where prepared datasets lie (empty: the user's). A score that would take longer than `budget_seconds`
    becomes a sample of windows. `data` names the dataset of a submission, where it is not found by its size, or one to
    score an artifact on. With
    `run_code` a submission's own script is run, and only then. Raises UserError only for a path that does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; name an artifact, a run's folder or a submission's")
    how = {"cache_dir": cache_dir, "budget_seconds": budget_seconds, "progress": progress}
    rows = _rows(path, how, data, run_code)
    return pd.DataFrame(rows, columns=["check", "verdict", "evidence"])


def scored_rows(path: Path, data: str, how: dict) -> list[Row]:
    """Checks of an artifact alone on a dataset that is named, at the local track's window and stride."""

    def scoring() -> Scoring:
        header_of(path)
        return Scoring(path, open_dataset(data, how["cache_dir"] or None), Way(512, 64), how["budget_seconds"])

    def score() -> str:
        found = one.part("stride 64")
        about = f"a sample of {found['n']} windows" if "n" in found else f"{found['tokens']:,} targets"
        raise CannotCheck(f"nothing claims a score; it is {found['bpb']:.8f} bpb over {about}, window 512, stride 64")

    try:
        one = scoring()
    except (UserError, CannotCheck) as error:
        return [("score from the file alone", UNKNOWN, f"because {error}")]
    return [
        judge("probabilities sum to one", lambda: judge_probabilities(one.part("probabilities"))),
        judge("no logit sees a later token", lambda: judge_causality(one.part("causality"))),
        judge("score from the file alone", score),
        judge("no network, no training data while scoring", lambda: judge_isolation(one.answer, one.dataset)),
    ]


def _rows(path: Path, how: dict, data: str, run_code: bool) -> list[Row]:
    if not path.is_dir():
        return artifact_rows(path) + (scored_rows(path, data, how) if data else [])
    try:
        is_recipe = bool(seed_folders(path))
    except OSError as error:
        return [("the folder can be read", FAILS, f"{path}: {error.strerror}")]
    if is_recipe:
        return recipe_rows(path, how)
    if any((path / name).exists() for name in (RECIPE_FILE, SEED_RESULT)):
        return seed_rows(Seed(path, **how))
    return submission_rows(path, data=data, run_code=run_code, **how)
