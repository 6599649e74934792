"""Verdicts of `pgolf verify` on a score whose weights learned from what was scored before."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pgolf_core.adapting.plan import unlawful
from pgolf_core.adapting.trace import event_rows, plan_of
from pgolf_core.base.names import ADAPT_TRACE
from pgolf_core.lab.shared.settings import is_number
from pgolf_core.lab.shared.tables import so_many
from pgolf_core.lab.verify.evidence.checks import OnlySampled, hold, needed, quietly, require
from pgolf_core.lab.verify.evidence.replay import mixed_windows, trace_of
from pgolf_core.lab.verify.evidence.score import OTHER_MACHINE, PROBABILITY_TOLERANCE
from pgolf_core.lab.verify.reading.numbers import is_score, written
from pgolf_core.lab.verify.reading.untrusted import hold_hash
from pgolf_core.network.score import bits_per_byte, plan_windows
from pgolf_core.recipes.recipe import Adapt, Recipe

SUM_TOLERANCE = 1e-12
"""Relative difference of a claimed score and the sum of its windows, both of the same float64 numbers."""
FAR = 30
"""Where machines round differently one window may lie so many times as far off as all may on average."""
DEFINITION_TOLERANCE = 1e-9
"""Relative difference of a probability and its definition, both in float64."""


def whole_trace(one: Any) -> str:
    """adapt.npz has the claimed hash, its events are the plan's, which is lawful, and its sums are the claimed ones.

    Where scores are mixed, the mixed ones are the claimed ones.

    `one`: a Seed or a Submission, whose recipe adapts.
    """
    recipe: Recipe = one.recipe
    path, targets = one.artifact.parent / ADAPT_TRACE, one.text.targets
    hold(path.is_file(), f"there is no {ADAPT_TRACE}, and the recipe adapts")
    hold_hash(path, one.said("adapt_sha256"))
    parts, nats, spent = [], np.zeros(0), np.zeros(0)
    if recipe.adapt.kind != "off":
        trace, said = _whole_events(path, one.text.tokens, recipe)
        parts, nats, spent = [said], trace["nats"], trace["seconds"]
    if recipe.adapt.mix != "off":
        mixed = mixed_windows(path, len(plan_windows(targets, recipe.eval.seq_len, recipe.eval.stride)))
        nats, spent = mixed["mixed"], np.append(spent, mixed["mix_seconds"])
        parts.append(f"each score mixed with that of n-grams of earlier targets, of {recipe.adapt.mix_order} at most")
    hold(spent.min() >= 0, f"its events took {spent.min():.3f} s, one of them")
    seconds, total = one.said("adapting_seconds"), float(nats.sum())
    sums = {"loss": total / targets, "bpb": bits_per_byte(total, one.text.total_bytes)}
    for key, value in sums.items():
        claimed = one.said(f"adapted_{key}")
        same = is_number(claimed) and math.isclose(value, claimed, rel_tol=SUM_TOLERANCE)
        is_rounded = is_number(claimed) and is_score(written(claimed), value)
        hold(same or is_rounded, f"its windows sum to {key} {value:.12f}, and {claimed} is claimed")
    is_timed = is_number(seconds) and math.isclose(spent.sum(), seconds, rel_tol=1e-6)
    hold(is_timed, f"its events took {spent.sum():.3f} s, {seconds} s are claimed")
    return "; ".join([*parts, f"{targets:,} targets once each; sums are the claimed ones"])


def _whole_events(path: Path, tokens: np.ndarray, recipe: Recipe) -> tuple[dict[str, np.ndarray], str]:
    """The trace of weights that learned, its events held against the plan, and what they are in words."""
    events, targets = plan_of(tokens, recipe), len(tokens) - 1
    hold(not (fault := unlawful(events, targets)), fault)
    trace, rows = trace_of(path, events), event_rows(events)
    wrong = (trace["events"] != rows).any(axis=1)
    at = int(wrong.argmax())
    hold(not wrong.any(), f"event {at} is {trace['events'][at].tolist()}, the plan's {rows[at].tolist()}")
    updates = int(rows[:, 0].sum())
    none = "none on a document's last chunk" if recipe.adapt.kind == "lora" else "none on the last"
    chunks, learned = so_many(len(rows) - updates, "chunk"), so_many(updates, "update")
    said = f"{chunks}, each scored before the weights learn from it ({learned}, {none})"
    return trace, said


def replayed(found: dict[str, Any]) -> str:
    """Nats and states of the trace against the plan carried out anew from the file."""
    evidence = (
        f"{found['events']} of {found['of']} events carried out anew from the file in {found['seconds']:.0f} s: "
        f"{found['differ']} of {found['windows']:,} windows and {found['states_differ']} of {found['states']} states "
        f"of the weights differ in a bit, by {found['apart']:.1e} nats at most"
    )
    hold(not found["file_differs"], f"{evidence}; the first state is not this file's weights")
    if found["differ"] and found["states_differ"] == found["states"]:  # one equal state: the same arithmetic
        close = OTHER_MACHINE * found["mean_nats"]
        is_close = found["mean_apart"] <= close and found["apart"] <= FAR * close
        require(not is_close, f"{evidence}: close, as from a machine that rounds otherwise, which proves no bits")
    hold(not found["differ"] and not found["states_differ"], evidence)
    if not found["whole"]:
        raise OnlySampled(f"sampled: {evidence} (seed {found['sample_seed']})")
    return evidence


def blindfold(found: dict[str, Any]) -> str:
    """That neither a score nor a state changed in any bit while all later tokens were others."""
    seen = found["leaks"]
    source = f"{'the run' if seen is None else 'a replay'}'s, which read the true text"
    evidence = (
        f"for each of {found['events']} events all later tokens were replaced: {seen or 0} scores or states differ "
        f"from {source}; in them {found['changed']} of {found['compared']:,} targets before a replaced token change"
    )
    if "hints" in found:
        evidence += (
            f"; {found['hints_changed']} of {found['hints_compared']:,} hints of the tilt up to a token change when it "
            f"and all later ones are others ({found['hints']:,} targets have one)"
        )
        hold(not found["hints_changed"], evidence)
    hold(not found["changed"], evidence)
    require(not found["unsteady"], f"{evidence}, and this machine's own arithmetic is not the same twice")
    hold(not seen, evidence)
    require(found["later_changed"] > 0 or not found["compared"], f"{evidence}, and none after it does")
    if not found["whole"]:
        raise OnlySampled(f"sampled: {evidence} (seed {found['sample_seed']})")
    return evidence


def summed(found: dict[str, Any]) -> str:
    """That the probabilities of all tokens sum to one where a target was scored, tilted ones too."""
    require(bool(found["sums"]), "no place was drawn; give more time")
    worst = max(found["sums"], key=lambda total: abs(total - 1))
    evidence = (
        f"{worst:.8f} at worst, in {len(found['sums'])} places; a target's own is within {found['beside']:.1e} nats of "
        "its score"
    )
    return hold(abs(worst - 1) <= PROBABILITY_TOLERANCE and found["beside"] <= OTHER_MACHINE, evidence)


def remixed(found: dict[str, Any]) -> str:
    """Nats of the trace against the mixture carried out anew: equal bits where the nats that are mixed are equal."""
    evidence = (
        f"the model's score taken anew from the file and mixed anew: {found['differ']} of {found['windows']:,} windows "
        f"differ in a bit, by {found['apart']:.1e} nats at most"
    )
    is_same_machine, is_close = found["nats_apart"] == 0, found["apart"] <= OTHER_MACHINE * found["mean_nats"]
    is_rounded = found["differ"] and is_close and not is_same_machine
    require(not is_rounded, f"{evidence}: close, as from a machine that rounds otherwise, which proves no bits")
    return hold(not found["differ"], evidence)


def normalised(found: dict[str, Any]) -> str:
    """That the mixture is a distribution, that of its definition, and that no later token or score changes it."""
    far = max(abs(total - 1) for total in found["sums"])
    evidence = (
        f"probabilities of all next tokens sum to 1 within {far:.1e} at {len(found['sums'])} drawn targets, and "
        f"are their definition's within {found['definition']:.1e}; with all later tokens and scores replaced "
        f"{found['changed']} of {found['compared']:,} earlier targets change (seed {found['sample_seed']})"
    )
    hold(far <= PROBABILITY_TOLERANCE and found["definition"] <= DEFINITION_TOLERANCE, evidence)
    hold(not found["changed"], evidence)
    require(found["later_changed"] > 0 or not found["compared"], f"{evidence}, and none later does")
    return evidence


ADAPT_CHECKS: dict[str, Callable[[Any], str]] = {
    "adaptation scores first, and its trace is whole": lambda one: one.trace,
    "adapted score from the file alone": lambda one: replayed(_replay(one)),
    "no adapted score sees a later token": lambda one: blindfold(_replay(one)),
    "adapted probabilities sum to one": lambda one: summed(_replay(one)),
}

MIX_CHECKS: dict[str, Callable[[Any], str]] = {
    "mixed score from the file alone": lambda one: remixed(_replay(one, "mixing")),
    "the mixture sums to one and sees no later token": lambda one: normalised(_replay(one, "mixing")),
}


def adapt_checks(seed: Any) -> dict[str, Callable[[Any], str]]:
    """ADAPT_CHECKS and MIX_CHECKS, where the recipe adapts and mixes or the claims say that it did."""
    adapt = quietly(lambda: seed.recipe.adapt) or Adapt()
    if adapt.mix == "off":
        return ADAPT_CHECKS if adapt.kind != "off" or quietly(seed.claims_adapting) else {}
    learned = ADAPT_CHECKS if adapt.kind != "off" else dict([next(iter(ADAPT_CHECKS.items()))])
    return learned | MIX_CHECKS


def _replay(seed: Any, part: str = "adapting") -> dict[str, Any]:
    needed("a whole trace", lambda: seed.trace)
    return seed.scoring.part(part)
