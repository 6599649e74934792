"""The step of every weight from how much the loss cares, and the one multiplier that fills a budget of bytes.

A weight of sensitivity s (its mean squared gradient) rounded with step D costs about s D^2 / 24 of loss, up to one
common factor, and h - log2 D bits. The loss of all weights is least for a given sum of bits where s D^2 is equal for
all: D = multiplier / sqrt(s). The sensitivity of a weight is taken as its row's times its column's over its matrix's.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgolf_core.network.choice import STEPS
from pgolf_core.packing.coder import FIRST, LAST, best_class, clip, lengths
from pgolf_core.packing.correction import Correction, Feedback, round_in_turn
from pgolf_core.packing.ledger import entropy_bits, shares
from pgolf_core.packing.sensitivity import Groups
from pgolf_core.packing.steps import Stepped, quarter_octaves, side_bytes, sixteenths, write_steps

FLOOR = 1e-3
"""Rows and columns count as no less sensitive, and no narrower, than this part of their matrix: what no gradient ever
reached (a token never seen) still gets a step that says something, and exponents stay cheap."""
_WITHIN = 5e-4
"""The search ends this close below the budget, relative; what is written is then within the 0.2 % allowed."""
_MOST_TRIES = 40
_STREAM_SLACK = 8
"""The coder's last words, in bytes."""


@dataclass(frozen=True)
class Plan:
    """One matrix ready to be rounded with any multiplier."""

    shape: Stepped
    """Exponents at multiplier 1, without codes."""
    scaled: np.ndarray
    """The weights over their steps at multiplier 1, float32 [rows, cols]."""
    feedback: Feedback | None = None
    """Of a matrix whose rounding is corrected (correction.feedback_of), in weights as they are; None rounds plainly."""

    def rounded(self, multiplier: float) -> Stepped:
        """The codes at a multiplier. Rows or columns that would need finer steps than the coder has get its finest."""
        shift, _ = sixteenths(multiplier)
        shape = dataclasses.replace(self.shape, spread=self.shape.spread + shift)
        scaled = self.scaled * np.float32(1 / multiplier)
        excess = np.maximum(shape.spreads() - LAST, 0)
        if excess.any():
            rows, cols = excess.max(axis=1), excess.max(axis=0)
            if np.count_nonzero(cols) <= np.count_nonzero(rows):  # the axis on which fewer groups lose precision
                shape = dataclasses.replace(shape, col_steps=shape.col_steps + cols)
                scaled = scaled * quarter_octaves(-cols)[None]
            else:
                shape = dataclasses.replace(shape, row_steps=shape.row_steps + rows)
                scaled = scaled * quarter_octaves(-rows)[:, None]
        codes = np.rint(scaled)
        if self.feedback is not None:
            codes = _in_turn(scaled, shape, self.feedback)
        return dataclasses.replace(shape, codes=clip(codes, shape.classes()))


def _in_turn(scaled: np.ndarray, shape: Stepped, feedback: Feedback) -> np.ndarray:
    """Codes that make good each other's errors. An error of one step of a column counts in steps of the others."""
    cols, classes = torch.from_numpy(shape.steps(1.0)[1])[0, feedback.order], shape.classes()
    in_steps = dataclasses.replace(feedback, earlier=feedback.earlier * cols[:, None] / cols)

    def rounded(columns: Tensor, i: int) -> Tensor:
        return torch.from_numpy(clip(np.rint(columns.numpy()), classes[:, feedback.order[i]])).float()

    return round_in_turn([torch.from_numpy(scaled)], [in_steps], rounded)[0].numpy()


def plan(weights: np.ndarray, groups: Groups, feedback: Feedback | None = None) -> Plan:
    """Steps and spreads of one matrix (float32 [rows, cols]) up to the multiplier; `feedback` as in Plan.

    Groups of rows or columns get exponents of their own where that saves more bits than the exponents take.
    """
    height, width = weights.shape
    squares = np.square(weights, dtype=np.float64)
    variance = float(squares.mean()) or 1e-30
    row_variances = np.maximum(squares.mean(axis=1), FLOOR * variance)
    col_variances = (squares / row_variances[:, None]).mean(axis=0) * variance
    row_rates, row_rate = _exponents(groups.rows, width)
    col_rates, col_rate = _exponents(groups.cols, height)
    row_spreads, row_spread = _exponents(row_variances, width)
    col_spreads, col_spread = _exponents(col_variances, height)
    base = -round(2 * math.log2(groups.mean)) - row_rate - col_rate
    spread = round(2 * math.log2(variance)) + row_spread + col_spread - base
    shape = Stepped(base, spread, -row_rates, -col_rates, row_spreads, col_spreads)
    row_factors, col_factors = shape.steps(1.0)
    return Plan(shape, weights / row_factors / col_factors, feedback)


def _exponents(means: np.ndarray, others: int) -> tuple[np.ndarray, int]:
    """2 log2 of means over their mean, rounded: quarter octaves of their roots, int32, as numbers around zero and what
    all of them have in common. Zeros where they do not pay.

    `others` is how many weights share each. What a split into groups saves is half the log of the means' arithmetic
    over their geometric mean a weight, for steps and (Gaussian weights) for spreads alike.
    """
    relative = np.maximum(np.asarray(means, np.float64) / (np.mean(means) or 1.0), FLOOR)
    logs = np.log2(relative)
    exponents = np.rint(2 * logs).astype(np.int32)
    common = round(float(exponents.mean()))
    exponents -= common
    saved_bits = 0.5 * len(means) * others * (math.log2(relative.mean()) - logs.mean())
    paid_bits = float(lengths(exponents, np.full(exponents.shape, best_class(exponents))).sum())
    return (exponents, common) if saved_bits > paid_bits else (np.zeros_like(exponents), 0)


def even_groups(shape: tuple[int, ...], value: float) -> Groups:
    """A matrix whose weights all count the same."""
    return Groups(*(np.full(size, value, np.float32) for size in shape))


def plans(
    weights: Mapping[str, np.ndarray], sensitivity: Mapping[str, Groups], correction: Correction | None = None
) -> dict[str, Plan]:
    """A plan for every matrix. One without any gradient counts as sensitive as the median of the others."""
    known = {name: groups for name, groups in sensitivity.items() if name in weights and groups.mean > 0}
    usual = float(np.median([groups.mean for groups in known.values()])) if known else 1.0
    feedback = correction.feedback if correction else {}
    return {
        name: plan(w, known.get(name) or even_groups(w.shape, usual), feedback.get(name)) for name, w in weights.items()
    }


def fit(matrices: Mapping[str, Plan], budget_bits: float) -> tuple[float, int]:
    """(multiplier, tries): a multiplier whose codes take the budget or up to _WITHIN less; steps as fine as the coder
    can if that is less than the budget, and as coarse as it can if even that is more.

    Twice the multiplier is one bit less for every weight that has one left: secants, and halving where they fail.
    """
    if not matrices:
        return 1.0, 0
    classes = [plan.shape.spreads() for plan in matrices.values()]
    # no further than float32 reaches
    low = max((min(c.min() for c in classes) - LAST) / 4, -126.0)
    high = min((max(c.max() for c in classes) - FIRST) / 4, 126.0)
    weights = sum(c.size for c in classes)
    aim, slope = (1 - _WITHIN / 2) * budget_bits, -float(weights)
    # a Gaussian code of class k takes about 2 + k/4 bits; this is the straight line through all of them
    guess = float(np.clip(2 + sum(float(c.sum()) for c in classes) / 4 / weights - aim / weights, low, high))
    del classes
    before = None
    for tries in range(1, _MOST_TRIES + 1):  # noqa: B007 (returned)
        multiplier = float(np.float32(2.0**guess))
        bits = sum(plan.rounded(multiplier).bits(multiplier) for plan in matrices.values())
        if (1 - _WITHIN) * budget_bits <= bits <= budget_bits or high - low < 1e-6:
            break
        if (guess == low and bits < budget_bits) or (guess == high and bits > budget_bits):
            break
        low, high = (guess, high) if bits > budget_bits else (low, guess)
        if before is not None and bits != before[1]:
            slope = min((bits - before[1]) / (guess - before[0]), -1.0)
        before = guess, bits
        guess += (aim - bits) / slope
        guess = guess if low < guess < high else (low + high) / 2
    return (multiplier if bits <= budget_bits else float(np.float32(2.0**high))), tries


def spend(
    weights: Mapping[str, np.ndarray], sensitivity: Mapping[str, Groups], budget_bytes: int,
    correction: Correction | None = None,
) -> tuple[bytes, list[dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """Spend a budget on matrices (float32, by name): the stream, a ledger's row for each, and how it was spent.

    The last holds multiplier, tries (of the search), side_bytes (what is not codes), coded_bytes (codes by the coder's
    tables) and bound_bytes (by the codes' own frequencies, class by class: the best that any table could do).
    """
    matrices = plans(weights, sensitivity, correction)
    side = side_bytes([plan.shape for plan in matrices.values()])
    room = budget_bytes - side - _STREAM_SLACK
    while True:
        multiplier, tries = fit(matrices, 8.0 * max(room, 1))
        items = {name: plan.rounded(multiplier) for name, plan in matrices.items()}
        payload = write_steps(list(items.values()), multiplier)
        if len(payload) <= budget_bytes or room <= 1:
            break
        room -= len(payload) - budget_bytes
    sizes = shares(len(payload), [item.bits(multiplier) for item in items.values()])
    rows = [
        {"name": name, "grid": STEPS, "shape": list(item.codes.shape), "elements": item.codes.size,
         "raw_bytes": item.codes.size, "scales_raw_bytes": 0, "compressed_bytes": size,
         "entropy_bytes": math.ceil(entropy_bits(item.codes) / 8)}
        for (name, item), size in zip(items.items(), sizes, strict=True)
    ]  # fmt: skip
    codes = np.concatenate([item.codes.ravel() for item in items.values()])
    classes = np.concatenate([item.classes().ravel() for item in items.values()])
    bound = sum(entropy_bits(codes[classes == k]) for k in np.unique(classes))
    told = {"multiplier": multiplier, "tries": tries, "side_bytes": side, "coded_bytes": len(payload) - side}
    return payload, rows, {**told, "bound_bytes": math.ceil(bound / 8)}
