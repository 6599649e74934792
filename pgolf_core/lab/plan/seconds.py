"""Seconds on the record track beside the steps: calibration after them, and an evaluation with all that it takes.

Nothing here was timed on a GPU by this project. Every constant is an assumption from a published log or from one core,
and its row of the plan says so.
"""

import math
from collections.abc import Iterator

from pgolf_core.adapting.told import EVALUATION_SECONDS
from pgolf_core.lab.plan.adapting import AdaptingWork
from pgolf_core.lab.plan.memory import Row, runs
from pgolf_core.lab.shared.texts import FINEWEB_TRACK
from pgolf_core.network.model import num_parameters
from pgolf_core.recipes.recipe import Recipe

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
