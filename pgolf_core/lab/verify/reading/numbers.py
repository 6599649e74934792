"""Numbers as they are written: how exact their digits are, and whether two of them can be one."""

import math
from decimal import Decimal


def written(value: float) -> str:
    """A number with all its digits, never in powers of ten."""
    return str(value) if isinstance(value, int) else f"{Decimal(repr(float(value))):f}"


def read_number(text: str) -> float:
    """A number as written, thousands separated or not."""
    return float(text.replace(",", ""))


def last_digit(text: str) -> float:
    """What one in the last digit of a number as written is worth: half of it is what the digits leave open."""
    mantissa, _, power = text.strip().lower().partition("e")
    return 10.0 ** min(int(power or 0) - len(mantissa.partition(".")[2]), 0)


def agrees(said: str, value: float) -> bool:
    """Whether a number as written is `value` rounded, or cut, to its own digits."""
    unit, told = last_digit(said), read_number(said)
    if not (math.isfinite(told) and math.isfinite(value)):
        return False
    slack = 1e-9 * max(unit, abs(value))
    return abs(told - value) <= unit / 2 + slack or -slack <= abs(value) - abs(told) < unit


def same_number(one: str, other: str) -> bool:
    """Whether two written numbers can be one: either is the other rounded to its own digits."""
    return agrees(one, read_number(other)) or agrees(other, read_number(one))


def near(said: str, value: float) -> bool:
    """Whether a mean or a spread as written is `value`, up to one in its last digit: it may be of rounded numbers."""
    off, unit = abs(read_number(said) - value), last_digit(said) * (1 + 1e-9)
    return agrees(said, value) or ("." in said and off <= min(unit, abs(value) / 2))


def same_score(one: str, other: str) -> bool:
    """Whether two written scores can be one, as by `same_number`, and are so to three digits at least."""
    return same_number(one, other) and abs(read_number(one) - read_number(other)) < 1e-3


def is_score(said: str, value: float) -> bool:
    """Whether a score as written is `value`: rounded to its digits, and to three at least."""
    return agrees(said, value) and abs(float(said) - value) < 1e-3
