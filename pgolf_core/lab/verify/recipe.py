"""Checks of `pgolf verify` on all seeds of a recipe together."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pgolf_core.base.names import ARTIFACT, SEED_RESULT
from pgolf_core.lab.compare.agreement import HASHES, first_difference
from pgolf_core.lab.compare.results import seed_folders
from pgolf_core.lab.report.seeds import summarise_seeds
from pgolf_core.lab.shared.places import RECIPE_FILE, SUMMARY_FILE
from pgolf_core.lab.verify.evidence.checks import Row, hold, judge_all, needed, require
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.evidence.text import Text
from pgolf_core.lab.verify.reading.reviewed import Seed
from pgolf_core.lab.verify.reading.untrusted import json_object
from pgolf_core.lab.verify.run import LOGS, seed_rows


def recipe_rows(folder: Path, how: How) -> list[Row]:
    """What ties the seeds together, then every seed's own checks."""
    texts: dict[str, Text] = {}
    seeds = {number: Seed(folder / f"seed{number}", how, texts) for number in seed_folders(folder)}
    checks = {
        "one recipe, dataset and core over all seeds": _one_experiment,
        "no seed and no log is missing": _nothing_missing, "summary.json is that of its seeds": _summary,
    }  # fmt: skip
    rows = judge_all(checks, folder, seeds)
    for name, seed in seeds.items():
        rows += [row.under(f"seed {name}") for row in seed_rows(seed)]
    return rows


def _one_experiment(folder: Path, seeds: dict[int, Seed]) -> str:
    found = {part: {getattr(seed.result, f"{part}_sha256") for seed in seeds.values()} for part in HASHES}
    recipes = [Seed(folder, How()).recipe_file, *(seed.recipe for seed in seeds.values())]
    found["recipe"] |= {recipe.fingerprint for recipe in recipes}
    evidence = [f"{part} {', '.join(sorted(one[:12] for one in hashes))}" for part, hashes in found.items()]
    return hold(all(len(hashes) == 1 for hashes in found.values()), "; ".join(evidence))


def _nothing_missing(folder: Path, seeds: dict[int, Seed]) -> str:
    wanted = (RECIPE_FILE, SEED_RESULT, ARTIFACT, *LOGS)
    missing = [f"seed{name}/{file}" for name, seed in seeds.items() for file in wanted
               if not (seed.folder / file).is_file()]  # fmt: skip
    stray = sorted(path.name for path in folder.glob("seed0?*") if path.is_dir() and path.name[4:].isdecimal())
    hold(not stray, f"{', '.join(stray[:3])}: not read, since the name of a seed's folder has no zero before it")
    hold(not missing, f"missing: {', '.join(missing)}")
    if (folder / SUMMARY_FILE).is_file():
        said = json_object(folder / SUMMARY_FILE).get("seeds")
        hold(_are(said, seeds), f"{SUMMARY_FILE} names seeds {said}, the folders are {list(seeds)}")
    return f"seeds {', '.join(map(str, seeds))}, each with {', '.join(wanted)}"


def _are(said: Any, seeds: Iterable[int]) -> bool:
    """Whether these are the seeds, in whatever order they were reported."""
    return isinstance(said, list) and sorted(map(repr, said)) == sorted(map(repr, seeds))


def _summary(folder: Path, seeds: dict[int, Seed]) -> str:
    require((folder / SUMMARY_FILE).is_file(), f"there is no {SUMMARY_FILE}")
    said = json_object(folder / SUMMARY_FILE)
    order = said["seeds"] if _are(said.get("seeds"), seeds) else seeds
    made = needed("whole results", lambda: summarise_seeds({seed: seeds[seed].result for seed in order}))
    wrong = first_difference(made, said)
    hold(not wrong, f"{wrong} is not what the seeds' {SEED_RESULT} give")
    score = made["sliding_bpb"]
    spread = f" ± {score['std']:.6f}" if score["std"] is not None else ""
    return f"sliding {score['mean']:.6f}{spread}, n = {score['n']}, and {len(made) - 1} more keys"
