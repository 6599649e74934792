"""A run beside the five published records: their figures, and, where the text is one, differences and the rule.

What happens within a run can be set side by side on any text: what packing costs, what the sliding window gains, how
many bits a weight takes. Scores are compared only where `comparison` allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pgolf_core.lab.compare.arms import FINEWEB_BYTES, SCORES
from pgolf_core.lab.compare.comparison import Against, compare_arms
from pgolf_core.lab.compare.inference import CONFIDENCE, RULE_LEVEL, RULE_MARGIN_NATS
from pgolf_core.lab.compare.records import RECORD_DIR, RECORDS, load_published

DASH = "–"
THIS_RUN = "this run"
OWN_HEADER = [
    "run", "score", "n", "bpb", "std", "steps", "largest bytes", "bits a weight", "raw to packed", "by sliding",
]  # fmt: skip
TEST_HEADER = ["this run minus it", "interval", "rule p"]
COLUMNS = [
    "run", "score", "n", "bpb", "std", "steps", "largest_bytes", "bits_per_weight", "raw_to_packed", "by_sliding",
    "difference", "low", "high", "nats_difference", "nats_per", "rule_p_value", "rule_passes",
]  # fmt: skip
Number = dict[str, Any]


@dataclass(frozen=True)
class BesideRecords:
    """What the report says of the published records."""

    header: list[str]
    rows: list[list[str]]
    """This run, then each record, all text."""
    sentences: list[str]
    """How the table may be read."""
    table: pd.DataFrame
    """The same as numbers, for the CSV."""


def beside_records(run_folder: Path, results: Mapping[int, Mapping[str, Any]]) -> BesideRecords | None:
    """Set these seeds' result.json beside every record, as `pgolf compare` does; None where the records are not here.

    `results` by seed; all must be finished in `run_folder`.
    """
    if not RECORD_DIR.is_dir():
        return None
    pairs = {name: compare_arms([name, run_folder], seeds=list(results)) for name in RECORDS}
    against = {name: pair.against[0] for name, pair in pairs.items()}
    numbers = [_own(results)]
    for name, one in against.items():
        score = SCORES[f"{pairs[name].score}_bpb"]
        numbers.append({"run": f"{name} ({load_published(name).status})", "score": score, **_record(name, one)})
    is_tested = any(one.bpb for one in against.values())
    header = [*OWN_HEADER, *(TEST_HEADER if is_tested else [])]
    rows = [_row(number)[: len(header)] for number in numbers]
    sentences = [_of_the_tests(against) if is_tested else _of_no_tests(next(iter(against.values()))), WITHIN]
    return BesideRecords(header, rows, sentences, pd.DataFrame(numbers, columns=COLUMNS))


WITHIN = (
    "What happens within a run may be set side by side on any text: bits of the file for each weight, what averaging "
    "and packing together cost (raw to packed, windows side by side), and what the sliding window gains."
)


def _own(results: Mapping[int, Mapping[str, Any]]) -> Number:
    runs = list(results.values())
    whole = all((run.get("raw_targets") or run["val_targets"]) == run["val_targets"] for run in runs)
    return {
        "run": THIS_RUN,
        "score": SCORES["sliding_bpb"],
        **_spread([run["sliding_bpb"] for run in runs]),
        "steps": _mean([run["steps"] for run in runs]),
        "largest_bytes": max(run["total_bytes"] for run in runs),
        "bits_per_weight": _mean([8 * run["artifact_bytes"] / run["parameters"] for run in runs]),
        "raw_to_packed": _mean([run["roundtrip_bpb"] - run["raw_bpb"] for run in runs]) if whole else None,
        "by_sliding": _mean([run["sliding_bpb"] - run["roundtrip_bpb"] for run in runs]),
    }


def _record(name: str, one: Against) -> Number:
    record = load_published(name)
    number: Number = _spread(list(one.baseline.values("bpb").values())) | {
        "steps": _mean([seed.steps for seed in record.seeds]),
        "largest_bytes": max((seed.total_bytes for seed in record.seeds if seed.total_bytes), default=None),
        "bits_per_weight": _mean([8 * s.model_bytes / record.parameters for s in record.seeds if s.model_bytes]),
        "raw_to_packed": _mean([s.standard_bpb - s.raw_bpb for s in record.seeds if s.standard_bpb and s.raw_bpb]),
        "by_sliding": _mean([s.sliding_bpb - s.standard_bpb for s in record.seeds if s.sliding_bpb and s.standard_bpb]),
    }
    if one.bpb and one.nats:
        number |= {"difference": one.bpb.difference, "low": one.bpb.low, "high": one.bpb.high}
        number |= {"nats_difference": one.nats.difference, "nats_per": one.unit}
    if one.rule:
        number |= {"rule_p_value": one.rule.p_value, "rule_passes": one.rule.passes}
    return number


def _spread(values: list[float]) -> Number:
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"n": len(values), "bpb": _mean(values), "std": std}


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _row(number: Number) -> list[str]:
    def text(key: str, how: str) -> str:
        return DASH if number.get(key) is None else f"{number[key]:{how}}".replace("-", "−")

    interval = DASH if number.get("low") is None else f"{text('low', '+.4f')} to {text('high', '+.4f')}"
    cells = [number["run"], number["score"], str(number["n"]), text("bpb", ".4f"), text("std", ".4f")]
    cells += [text("steps", ",.0f"), text("largest_bytes", ",.0f"), text("bits_per_weight", ".2f")]
    cells += [text("raw_to_packed", "+.4f"), text("by_sliding", "+.4f"), text("difference", "+.4f"), interval]
    return [*cells, text("rule_p_value", ".2g")]


def _of_no_tests(one: Against) -> str:
    arm = one.arm
    return (
        f"The scores do not compare: the records were scored on FineWeb, {FINEWEB_BYTES:,} bytes of web text, this run "
        f"on {arm.text_bytes:,} bytes of {arm.data.rpartition(' ')[0]}. Bits per byte of different texts measure the "
        "texts too, so there is no difference, interval or test; the records' scores are what was published."
    )


def _of_the_tests(against: Mapping[str, Against]) -> str:
    passed = [name for name, one in against.items() if one.rule and one.rule.passes]
    rule = f"better by more than {RULE_MARGIN_NATS} nats per token, one-sided p < {RULE_LEVEL}"
    verdict = f"is met against {', '.join(passed)}" if passed else "is met against none of them"
    if not any(one.rule and one.rule.p_value is not None for one in against.values()):
        verdict = "cannot be tested: one seed has no spread to test against"
    in_bytes = [name for name, one in against.items() if one.unit == "byte"]
    nats = f" Tokenizers differ from {', '.join(in_bytes)}: tested in nats per byte." if in_bytes else ""
    return (
        f"Differences below zero are in this run's favour; intervals are {CONFIDENCE:.0%}, paired over seeds that both "
        f"have, else Welch's. The challenge's rule ({rule}) {verdict}.{nats} `pgolf compare` shows every seed."
    )
