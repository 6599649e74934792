"""What `pgolf verify` reviews: an artifact, a seed's folder or a submission's, each with a text and a score of its own.

A kind of Reviewed reads its files, bounded and strict; the checks that any of them can be asked are here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgolf_core.base.files import UserError
from pgolf_core.base.names import ARTIFACT, METRICS, SCORES, SEED_RESULT
from pgolf_core.base.strict import build
from pgolf_core.lab.shared.places import RECIPE_FILE, TRAINING
from pgolf_core.lab.verify.evidence import score
from pgolf_core.lab.verify.evidence.checks import CannotCheck, hold, needed, once, quietly, require
from pgolf_core.lab.verify.evidence.score import How, Scoring
from pgolf_core.lab.verify.evidence.text import Text, Way
from pgolf_core.lab.verify.reading.untrusted import hold_hash, json_lines, json_object, strictly
from pgolf_core.result import Result
from pgolf_core.training.runlog import TrainResult

if TYPE_CHECKING:
    from pgolf_core.lab.data.dataset import Dataset
    from pgolf_core.recipes.recipe import Recipe

BUDGET_SECONDS = 600
"""Of training, and again of evaluation, on every track with a clock."""


def header_of(artifact: Path) -> dict[str, Any]:
    """The artifact's header, where it opens."""
    from pgolf_core.packing.unpack import read_header

    return needed("an artifact that opens", lambda: read_header(artifact))


class Reviewed:
    """Files that are each read once; what is missing or broken raises in the checks that need it.

    `texts` are shared by the seeds of a recipe, so that what they have in common is proved once.
    """

    artifact: Path
    dataset: Dataset
    track: str
    way: Way
    recipe: Recipe

    def __init__(self, folder: Path, how: How, texts: dict[str, Text] | None = None):
        self.folder, self.how, self.texts = folder, how, {} if texts is None else texts

    def said(self, name: str) -> Any:
        """What the files claim, by its key in result.json and submission.json; None where they do not."""
        raise NotImplementedError

    @once
    def adapting(self) -> Recipe | None:
        """The recipe, where its weights learn from what has been scored and the trace of that is whole."""
        found = quietly(lambda: (self.recipe, self.trace))
        return found[0] if found else None

    @once
    def trace(self) -> str:
        """What makes the trace of adaptation whole."""
        adapt = self.recipe.adapt
        hold({adapt.kind, adapt.mix} != {"off"}, "an adapted score is claimed, and the recipe adapts nothing")
        hold(self.said("val_targets") == self.text.targets, "its targets are not the stream's")
        from pgolf_core.lab.verify.evidence import adapting  # with torch

        return adapting.whole_trace(self)

    def judge_isolation(self) -> str:
        """What the scoring opened and tried."""
        return score.isolation(self.scoring)

    def opened(self, name: str) -> Dataset:
        """A prepared dataset; CannotCheck where it is not here or not whole."""
        from pgolf_core.lab.data.dataset import open_dataset

        try:
            return open_dataset(name, self.how.cache_dir or None)
        except UserError as error:
            raise CannotCheck(str(error)) from None

    text = once(lambda self: self.texts.setdefault(self.dataset.manifest_sha256, Text(self.dataset, self.how.progress)))

    @once
    def scoring(self) -> Scoring:
        header_of(self.artifact)
        return Scoring(
            self.artifact, self.dataset, self.way, self.how, scores=quietly(lambda: self.scores),
            adapting=self.adapting,
        )  # fmt: skip

    @once
    def scores(self) -> Path:
        """scores.npz, whose hash is the claimed one; CannotCheck where none is claimed."""
        said, path = self.said("scores_sha256"), self.artifact.parent / SCORES
        require(said is not None, f"this run kept no {SCORES}")
        hold(path.is_file(), f"there is no {SCORES}, whose hash is claimed")
        hold_hash(path, said)
        return path


class Artifact(Reviewed):
    """An artifact alone, scored on the dataset that `how` names, at the local track's window and stride."""

    way = Way(512, 64)
    artifact = once(lambda self: self.folder)
    dataset = once(lambda self: self.opened(self.how.data))

    def judge_score(self, kind: str) -> str:
        found = self.scoring.score(kind)
        about = f"a sample of {found['n']} windows" if "n" in found else f"{found['tokens']:,} targets"
        raise CannotCheck(f"nothing claims a score; it is {found['bpb']:.8f} bpb over {about}, window 512, stride 64")


class Seed(Reviewed):
    """One seed's files: what a file holds, or the error that judges it; and the same for checks of something else."""

    @once
    def recipe_file(self) -> Recipe:
        """recipe.json."""
        from pgolf_core.lab.compare.results import recorded_recipe

        return strictly(self.folder / RECIPE_FILE, lambda path: recorded_recipe(path.parent, as_it_stands=True))

    result_file = once(lambda self: strictly(self.folder / SEED_RESULT, Result.read))
    training_file = once(lambda self: build(TrainResult, json_object(self.folder / TRAINING).get("training"), TRAINING))
    recipe = once(lambda self: needed("a whole recipe.json", lambda: self.recipe_file))
    result = once(lambda self: needed("a whole result.json", lambda: self.result_file))
    training = once(lambda self: needed(f"a whole {TRAINING}", lambda: self.training_file))
    metrics = once(lambda self: needed("a whole metrics.jsonl", lambda: json_lines(self.folder / METRICS)))
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
        settings, autocast = self.recipe.eval, self.recipe.schedule.autocast
        return Way(settings.seq_len, settings.stride, settings.batch_seqs, autocast, settings.document_mask)

    def said(self, name: str) -> Any:
        return self.result.seconds.get("adapting") if name == "adapting_seconds" else getattr(self.result, name)

    def claims_adapting(self) -> bool:
        """Whether the files claim an adapted score, or a trace of one, whatever the recipe does."""
        names = ("adapt_sha256", "adapted_bpb", "adapted_loss", "adapting_seconds")
        return any(self.said(name) is not None for name in names)

    def judge_score(self, kind: str) -> str:
        claims = {key: self.said(f"{kind}_{key}") for key in ("bpb", "loss")}
        there = quietly(lambda: self.training.path) or ""
        return score.judge_score(self.scoring.score(kind), claims, score.computing_path(self.way.autocast, there))


def scored_once(one: Reviewed) -> str:
    """Every target once, in all documents; the claimed count is that of the stream."""
    said, found = one.said("val_targets"), one.text.targets
    hold(said in (None, found), f"{found:,} targets, {said} claimed")
    return one.text.scored_once(one.way)


def text_bytes(one: Reviewed) -> str:
    """Bytes of the decoded validation text, those of its tokens, and the claimed ones."""
    said, evidence = one.said("val_bytes"), one.text.decoded
    return hold(said in (None, one.text.total_bytes), evidence if said is None else f"{evidence}; claimed {said}")


TEXT_CHECKS: dict[str, Callable[[Any], str]] = {
    "the text is the track's": lambda one: one.text.is_of_track(one.track),
    "every target is scored once": scored_once,
    "bytes are those of the decoded text": text_bytes,
}
MODEL_CHECKS: dict[str, Callable[[Any], str]] = {
    "probabilities sum to one": lambda one: score.probabilities(one.scoring),
    "no logit sees a later token": lambda one: score.causality(one.scoring),
    "round-trip score from the file alone": lambda one: one.judge_score("roundtrip"),
    "sliding score from the file alone": lambda one: one.judge_score("sliding"),
    "no network, no training data while scoring": lambda one: one.judge_isolation(),
}
