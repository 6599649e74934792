"""A seed's folder as `pgolf verify` reads it: its recipe, result and records of training, bounded and strict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgolf_core.base.names import ARTIFACT, METRICS, SEED_RESULT
from pgolf_core.base.strict import build
from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.record.folder import recorded_recipe
from pgolf_core.lab.shared.places import RECIPE_FILE
from pgolf_core.lab.verify.evidence.checks import needed, once, quietly, require
from pgolf_core.lab.verify.evidence.measure import Way
from pgolf_core.lab.verify.evidence.score import computing_path, judge_score
from pgolf_core.lab.verify.reading.reviewed import Reviewed
from pgolf_core.lab.verify.reading.untrusted import json_lines, json_object, strictly
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.seed import Result
from pgolf_core.training.runlog import TrainResult

TRAINING = "stages/03_train.json"


def recipe_in(folder: Path) -> Recipe:
    """The recipe of a reviewed folder, its file bounded before it is parsed."""
    return strictly(folder / RECIPE_FILE, lambda path: recorded_recipe(path.parent, as_it_stands=True))


def result_in(folder: Path) -> Result:
    """The result of a seed's folder, its file bounded before it is parsed."""
    return strictly(folder / SEED_RESULT, Result.read)


def training_in(folder: Path) -> TrainResult:
    """What training said about itself, as its stage recorded it."""
    return build(TrainResult, json_object(folder / TRAINING).get("training"), TRAINING)


class Seed(Reviewed):
    """One seed's files."""

    recipe = once(lambda self: needed("a whole recipe.json", lambda: recipe_in(self.folder)))
    result = once(lambda self: needed("a whole result.json", lambda: result_in(self.folder)))
    metrics = once(lambda self: needed("a whole metrics.jsonl", lambda: json_lines(self.folder / METRICS)))
    training = once(lambda self: needed(f"a whole {TRAINING}", lambda: training_in(self.folder)))
    artifact = once(lambda self: self.folder / ARTIFACT)
    track = once(lambda self: self.recipe.track)

    @once
    def dataset(self) -> Dataset:
        """The dataset of the run, and no other of its name."""
        dataset, there = self.opened(self.recipe.data.dataset), self.result.data_sha256
        here = dataset.manifest_sha256
        require(here == there, f"{dataset.name} here is {here:.12}…, the run's is {there:.12}…")
        return dataset

    @once
    def way(self) -> Way:
        settings = self.recipe.eval
        return Way(settings.seq_len, settings.stride, settings.batch_seqs, self.recipe.schedule.autocast)

    def said(self, name: str) -> Any:
        return getattr(self.result, name)

    def judge_score(self, kind: str) -> str:
        claims = {key: self.said(f"{kind}_{key}") for key in ("bpb", "loss")}
        there = quietly(lambda: self.training.path) or ""
        return judge_score(self.scoring.score(kind), claims, computing_path(self.way.autocast, there))
