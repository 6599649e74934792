"""Work of adapting packed weights to the text while it is scored, from the plan of events itself.

Counted are matrix products and attention of the tokens that events read. A step of adapters goes back through weights
that stay as they are: once their forward pass, and twice the adapters' own; a step of all weights twice.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from pgolf_core.adapting.documents import DocumentScore, DocumentUpdate, documents_in, plan_lengths
from pgolf_core.adapting.lora import adapter_shapes
from pgolf_core.adapting.plan import ScoreEvent, UpdateEvent, plan_chunks
from pgolf_core.lab.data.dataset import datasets_root, open_dataset
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.shards import load_tokens
from pgolf_core.text.tokenizer import need_bos

KNOWN_TEXTS = {"caseops": (47_851_520, 50_000), "": (40_540_160, 50_000)}
"""Targets and documents of validation splits of FineWeb in 8,192 pieces, by a part of the dataset's name: as PR 1855's
and 1493's logs count."""


class AdaptingWork(NamedTuple):
    """What a plan of events comes to."""

    score: int
    """FLOP of the scores."""
    learn: int
    """FLOP of the updates."""
    told: str
    """The events, in words."""
    pairs: int = 0
    """Scores of documents, most with a step of the adapters behind, one after another."""


@dataclass(frozen=True, eq=False)
class ValidationText:
    """What a plan of events depends on."""

    documents: np.ndarray
    """Rows (first target, end), int64 [documents, 2]."""
    source: str

    @property
    def targets(self) -> int:
        """All of them."""
        return int(self.documents[-1, 1])


def validation_text(recipe: Recipe) -> ValidationText | None:
    """The validation split where its dataset is prepared, a known one's size, or None; UserError for a damaged one.

    The logarithms of a known one's lengths are taken as Gaussian of deviation 1. Groups of documents that PR 2135's log
    shows have 4,032, 568, 294 and 186 tokens where that makes 4,058, 581, 299 and 170; its longest are longer.
    """
    name = recipe.data.dataset
    if (datasets_root() / name).is_dir():
        dataset = open_dataset(name)
        tokens = load_tokens(dataset.val_paths, recipe.model.vocab_size)
        need_bos(recipe, dataset.tokenizer().bos_id)
        return ValidationText(documents_in(tokens), f"{name}, prepared here")
    if not (name.startswith("fineweb") and "-sp8192" in name):
        return None
    targets, number = next(size for part, size in KNOWN_TEXTS.items() if part in name)
    lengths = np.exp(ndtri((np.arange(number) + 0.5) / number))
    ends = np.rint(np.cumsum(lengths) * targets / lengths.sum()).astype(np.int64)
    documents = np.stack((np.append([0], ends[:-1]), ends), axis=1)
    source = f"{number:,} documents, lengths taken as log-normal" if recipe.adapt.kind == "lora" else name
    return ValidationText(documents[documents[:, 1] > documents[:, 0]], source)


def adapting_work(recipe: Recipe, text: ValidationText, forward: int) -> AdaptingWork:
    """The work of a recipe's plan, none where it learns nothing; `forward` is that of a token in a whole window."""
    adapt, evaluation, model = recipe.adapt, recipe.eval, recipe.model
    if adapt.kind == "off":
        return AdaptingWork(0, 0, "")
    if adapt.kind != "lora":
        events = plan_chunks(text.targets, evaluation, adapt)
        read = sum(int((e.windows[:, 2] - e.windows[:, 0]).sum()) for e in events if isinstance(e, ScoreEvent))
        trained = sum(int(np.diff(e.sequences).sum()) for e in events if isinstance(e, UpdateEvent)) * adapt.epochs
        return AdaptingWork(read * forward, 3 * trained * forward, f"{read:,} tokens read, {trained:,} learned from")
    shapes = adapter_shapes(model, adapt.lora_targets)
    sizes = {kind: 2 * count * adapt.lora_rank * (a + b) for kind, (count, a, b) in shapes.items()}
    head, added = 2 * model.vocab_size * model.model_dim, sum(sizes.values())
    of_head = sizes.get("lm_head", 0)
    score = learn = read = trained = pairs = 0
    for event in plan_lengths(text.documents, evaluation, adapt):
        if isinstance(event, DocumentScore):
            tokens, targets = len(event.rows) * event.width, int(np.diff(event.windows[:, 1:]).sum())
            read, pairs = read + tokens, pairs + 1
            score += tokens * (forward - head + added - of_head) + targets * (head + of_head)
        elif isinstance(event, DocumentUpdate):
            tokens, targets = len(event.scored.rows) * event.scored.width, int(event.learns.sum()) * adapt.lora_tokens
            learn += tokens * (forward - head + 2 * (added - of_head)) + targets * (head + 2 * of_head)
        elif isinstance(event, UpdateEvent):
            tokens = int(np.diff(event.sequences).sum()) * adapt.epochs
            trained += tokens
            learn += 3 * tokens * forward
    told = f"{read:,} tokens read in documents' windows, {trained:,} learned from in phases"
    return AdaptingWork(score, learn, told, pairs)
