"""PR 332's bits of each matrix from how much the loss cares about it."""

import math

from pgolf_core.base.files import UserError


def gathered_bits(mean_squares: dict[str, float], steps: int) -> dict[str, int]:
    """`allocate_bits` of mean squared gradients from so many training steps; UserError for none."""
    if not steps:
        raise UserError(
            "no gradient statistics: training ended before the last tenth of its warm-down; train longer or set "
            "quant.allocation=fixed"
        )
    return allocate_bits(mean_squares)


def allocate_bits(sensitivity: dict[str, float]) -> dict[str, int]:
    """Bits of each tensor by PR 332's rule: about the top tenth gets 7, the bottom fifth 5, the rest 6.

    With the n values ascending, a tensor gets 7 from v[9n//10] up, else 5 up to and including v[n//5]; fewer than five
    tensors give 6 (5 for a zero). Raises UserError for a value that is not a finite, non-negative number.
    """
    for name, value in sensitivity.items():
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"sensitivity of {name} is {value}; gradients must be finite: train again at a lower rate")
    ascending = sorted(sensitivity.values())
    n = len(ascending)
    low, high = (ascending[n // 5], ascending[9 * n // 10]) if n >= 5 else (0.0, math.inf)
    return {name: 7 if value >= high else 5 if value <= low else 6 for name, value in sensitivity.items()}
