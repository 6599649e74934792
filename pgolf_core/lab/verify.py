"""Check what an artifact, a run or a submission folder claims, from the files themselves: one row per claim.

Four verdicts: `holds`; `fails`; `cannot be checked here`, where something needed is missing or belongs to another
machine, with the reason as evidence; `sampled`, where a random part of a score was taken and the claim lies within its
interval. Files are parsed, never unpickled or executed (but with `run_code`), and nothing is read whose size is not
bounded. Scores are taken anew from the artifact alone, in a fresh process.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pgolf_core.files import UserError
from pgolf_core.lab.stats import seed_folders
from pgolf_core.lab.verify_bytes import artifact_rows
from pgolf_core.lab.verify_rows import FAILS, HOLDS, SAMPLED, UNKNOWN, VERDICTS, Row
from pgolf_core.lab.verify_run import SEED_CHECKS, Seed, recipe_rows, seed_rows
from pgolf_core.lab.verify_submission import submission_rows

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
    becomes a sample of windows. `data` names the dataset of a submission, where it is not found by its size. With
    `run_code` a submission's own script is run, and only then. Raises UserError only for a path that does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; name an artifact, a run's folder or a submission's")
    how = {"cache_dir": cache_dir, "budget_seconds": budget_seconds, "progress": progress}
    rows = _rows(path, how, data, run_code)
    return pd.DataFrame(rows, columns=["check", "verdict", "evidence"])


def _rows(path: Path, how: dict, data: str, run_code: bool) -> list[Row]:
    if not path.is_dir():
        return artifact_rows(path)
    try:
        is_recipe = bool(seed_folders(path))
    except OSError as error:
        return [("the folder can be read", FAILS, f"{path}: {error.strerror}")]
    if is_recipe:
        return recipe_rows(path, how)
    if any((path / name).exists() for name in ("recipe.json", "result.json")):
        return seed_rows(Seed(path, **how))
    return submission_rows(path, data=data, run_code=run_code, **how)
