"""Work and seconds beside the steps: adapting packed weights to the text while it is scored, from the plan of events
itself; on the record track calibration after the steps, and an evaluation with all that it takes.

Work counts matrix products and attention of the tokens that events read. A step of adapters goes back through weights
that stay as they are: once their forward pass, and twice the adapters' own; a step of all weights twice.

Nothing here was timed on a GPU by this project. Every constant is an assumption from a published log or from one core,
and its row of the plan says so.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from pgolf_core.adapting.documents import DocumentScore, DocumentUpdate, documents_in, plan_lengths
from pgolf_core.adapting.lora import adapter_shapes
from pgolf_core.adapting.plan import ScoreEvent, UpdateEvent, plan_chunks
from pgolf_core.adapting.told import EVALUATION_SECONDS
from pgolf_core.lab.data.dataset import datasets_root, open_dataset
from pgolf_core.lab.plan.memory import Row, runs
from pgolf_core.lab.shared.texts import FINEWEB_TOKENS, FINEWEB_TRACK
from pgolf_core.network.model import num_parameters
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.shards import load_tokens
from pgolf_core.text.tokenizer import need_bos

FINEWEB_DOCUMENTS = 50_000
"""Of the validation split."""
CALIBRATION_START_SECONDS, CALIBRATION_TOKEN_SECONDS = 2.5, 1.4e-6
"""Of gathering Hessians, the second for each token of a rank. PR 1855's ranks took 4.6 to 4.9 s for 1,572,864 tokens,
PR 2135's 6.9 s for twice as many."""
KEPT = 1.25
"""What training leaves the calibration, over what its rehearsal took (packing.correction)."""
SLOWER = 5.0
"""How many times as long scores and adapting take as their work does at a step's own speed. Published ones took 3.2 to
4.9 times: PR 1493's 318 to 368 s, PR 1855's 455 to 509 s, PR 2135's 342 to 369 s without its hints (their test).
They were compiled, which nothing is here: 5 is a guess too."""
CALLS_OF_A_BLOCK, CALL_SECONDS = 320, 8e-6
"""Operations that a block, run once, takes in a score of documents and the step after it (counted: 5,400 for 17), and
what starting one takes where nothing is compiled (a guess)."""
READINGS, WEIGHT_SECONDS = 3, 5e-8
"""A file is read for each of three scores; the second is of a weight on steps (4.2 million took 0.20 s of a core)."""
HINT_SECONDS = 3e-6
"""Of a tilt, for each target (1 and 4 million took 1.0 and 6.0 s of one core; it grows a little faster than they)."""
MIX_SECONDS = 1.1e-6
"""Of a mixture, for each target and context (1 and 4 million with seven took 4.9 and 30 s of one core, drawn at
random from 8,192 pieces; it grows faster than they, and more were not tried: rather too few than too many)."""


# ---------------------------------------------------------------------- adapting


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
    """The validation split where its dataset is prepared, FineWeb's in 8,192 pieces, or None; UserError if damaged.

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
    targets = FINEWEB_TOKENS["case-op SP8192" if "caseops" in name else "SP8192"]
    lengths = np.exp(ndtri((np.arange(FINEWEB_DOCUMENTS) + 0.5) / FINEWEB_DOCUMENTS))
    ends = np.rint(np.cumsum(lengths) * targets / lengths.sum()).astype(np.int64)
    documents = np.stack((np.append([0], ends[:-1]), ends), axis=1)
    source = f"{FINEWEB_DOCUMENTS:,} documents, lengths taken as log-normal" if recipe.adapt.kind == "lora" else name
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


# ---------------------------------------------------------------------- seconds


def calibration_rows(recipe: Recipe, step_seconds: float, ranks: int) -> Iterator[Row]:
    """What looks at training tokens after the last step, and where training ends with it."""
    schedule, quant = recipe.schedule, recipe.quant
    if quant.correction == "off" or recipe.track != FINEWEB_TRACK or schedule.max_seconds <= 0:
        return
    tokens = math.ceil(quant.correction_tokens / ranks)
    seconds = CALIBRATION_START_SECONDS + CALIBRATION_TOKEN_SECONDS * tokens
    kept = max(schedule.reserve_seconds, KEPT * seconds)
    trained = min(schedule.max_seconds - kept, schedule.iterations * step_seconds)
    reserve = f"schedule.reserve_seconds = {schedule.reserve_seconds:g}"
    late = f"; {reserve} is less, so that training ends {kept - schedule.reserve_seconds:.1f} s before its schedule"
    yield (
        "calibration", round(seconds, 1), "s",
        f"{tokens:,} training tokens a rank after the last step, by PR 1855's and 2135's logs"
        + (late if kept > schedule.reserve_seconds else f"; {reserve}"),
    )  # fmt: skip
    yield "training with calibration", round(trained + seconds, 1), "s", f"of {schedule.max_seconds:g} s"


def evaluation_rows(recipe: Recipe, work: AdaptingWork, targets: int, forward: int, flops: float) -> Iterator[Row]:
    """An evaluation part by part, and together; `forward` is FLOP of a token, `flops` what a second of steps does."""
    if recipe.track != FINEWEB_TRACK:
        return
    evaluation, adapt = recipe.eval, recipe.adapt
    weights = num_parameters(recipe.model)
    reading = READINGS * weights * WEIGHT_SECONDS
    read = targets * (1 + evaluation.seq_len / evaluation.stride)
    frozen, learning = (SLOWER * flop / flops for flop in (read * forward, work.score + work.learn))
    starting = work.pairs * CALLS_OF_A_BLOCK * len(runs(recipe.model)) * CALL_SECONDS
    hints = HINT_SECONDS * targets if adapt.tilt != "off" else 0.0
    contexts = adapt.mix_document_order + adapt.mix_order - 2
    mixing = MIX_SECONDS * targets * contexts if adapt.mix != "off" else 0.0
    slower = f"{SLOWER:g} times a step's own speed; published ones, compiled, took 3.2 to 4.9 times"
    starts = f"; {work.pairs:,} scores with their steps are started in {starting:.0f} s or more"
    yield "reading the file", round(reading, 1), "s", f"{READINGS} times, by one core's time for steps"
    yield "scores before adapting", round(frozen, 1), "s", f"{read:,.0f} tokens read; {slower}"
    if hints:
        yield "hints of the tilt", round(hints, 1), "s", f"{HINT_SECONDS * 1e6:g} µs a target, by one core's time"
    adapting = max(learning, starting)
    if adapt.kind != "off":
        yield "adapting, slower", round(adapting, 1), "s", slower + (starts if work.pairs else "")
    if mixing:
        yield "mixing with n-grams", round(mixing, 1), "s", f"{MIX_SECONDS * 1e6:g} µs a target and context, one core's"
    yield "compilation", 0.0, "s", "none: a packed file's network runs as it is"
    total = reading + frozen + hints + adapting + mixing
    verdict = "fits" if total <= EVALUATION_SECONDS else f"OVER by {total - EVALUATION_SECONDS:,.0f} s"
    yield "evaluation together", round(total, 1), "s", f"of {EVALUATION_SECONDS:g} s: {verdict}, by these assumptions"
