"""Which arms of a sweep are given up early: those whose validation at one step is worse than the best arm's for sure.

Only files of the runs are read. What is found out is noted in the arm's folder, and holds until that file is deleted.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.lab.compare.inference import compare_runs
from pgolf_core.lab.compare.results import seed_folders
from pgolf_core.lab.sweep.corrected import interval
from pgolf_core.training.progress import training_curve

STOPPED = "stopped.json"


def bpb_at(folder: Path, step: int) -> dict[int, float]:
    """{seed: bits per byte of the validation after so many steps} of the seeds of a run that have come so far."""
    found = {}
    for seed, place in seed_folders(folder).items():
        with contextlib.suppress(UserError):  # it has not begun to train
            for line in training_curve(place):
                if line["kind"] == "val" and line["step"] == step:
                    found[seed] = line["bpb"]
    return found


def excluded(folders: Mapping[str, Path], step: int) -> dict[str, dict[str, Any]]:
    """Arms whose difference to the best at that step has an interval above zero, with what was found.

    The intervals of all arms hold together (Bonferroni). An arm with fewer than two seeds so far is not judged.
    """
    values = {name: bpb_at(folder, step) for name, folder in folders.items()}
    values = {name: own for name, own in values.items() if len(own) > 1}
    if not values:
        return {}
    best = min(values, key=lambda name: sum(values[name].values()) / len(values[name]))
    found = {}
    for name, own in values.items():
        compared = compare_runs(values[best], own)
        low, _ = interval(compared, len(folders) - 1)
        if name != best and low is not None and low > 0:
            found[name] = {"step": step, "best": best, "difference": compared.difference, "low": low, "seeds": len(own)}
    return found


def is_stopped(name: str, folders: Mapping[str, Path], step: int) -> bool:
    """Whether an arm gets no further seed, 0 being no step; noted in its folder where that is found out now."""
    noted = folders[name] / STOPPED
    if step and not noted.exists() and (found := excluded(folders, step).get(name)):
        write_json(noted, found)
    return step > 0 and noted.exists()


def why_stopped(folder: Path) -> str:
    """In words why the arm was given up; empty if it was not."""
    if not (folder / STOPPED).exists():
        return ""
    said = read_json(folder / STOPPED)
    beyond = f"{said['difference']:+.4f} bpb, at least {said['low']:+.4f}, from {said['best']}"
    return f"stopped after {said['seeds']} seeds: at step {said['step']} {beyond}"
