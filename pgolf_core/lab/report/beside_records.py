"""A run beside the published records: what happens within a run, and, where texts compare, differences and the rule."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pgolf_core.lab.compare.comparison import Against, compare_arms
from pgolf_core.lab.compare.inference import RULE_LEVEL, RULE_MARGIN_NATS, summarise
from pgolf_core.lab.compare.records import RECORD_DIR, RECORDS, load_published
from pgolf_core.lab.compare.results import SCORE_LABELS
from pgolf_core.lab.report.page import table
from pgolf_core.lab.shared.texts import FINEWEB_BYTES
from pgolf_core.result import Result

THIS_RUN = "this run"
SHOWN = {
    "run": ("run", ""), "score": ("score", ""), "n": ("n", "d"), "bpb": ("bpb", ".4f"), "std": ("std", ".4f"),
    "steps": ("steps", ",.0f"), "largest_bytes": ("largest bytes", ",.0f"), "bits_per_weight": ("bits a weight", ".2f"),
    "raw_to_packed": ("raw to packed", "+.4f"), "by_sliding": ("by sliding", "+.4f"),
}  # fmt: skip
"""What the table shows of every row: key in the CSV, name and form."""
OF_TESTS = {
    "difference": ("this run minus it", "+.4f"), "low": ("from", "+.4f"), "high": ("to", "+.4f"),
    "rule_p_value": ("rule p", ".2g"),
}  # fmt: skip
"""The same where there is a test."""
IN_CSV_ALONE = ("nats_difference", "nats_per", "rule_passes")


def beside_records(run_folder: Path, results: Mapping[int, Result]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Set these seeds, finished in `run_folder`, beside every record, as `pgolf compare` does: numbers for a CSV, and
    what a template shows; both empty where the records are not here."""
    if not RECORD_DIR.is_dir():
        return pd.DataFrame(), {"published": ""}
    pairs = {name: compare_arms([name, run_folder], seeds=list(results)) for name in RECORDS}
    against = {name: pair.against[0] for name, pair in pairs.items()}
    numbers = [_own(results), *(_record(name, pairs[name].score, one) for name, one in against.items())]
    is_tested = any(one.bpb for one in against.values())
    shown = SHOWN | (OF_TESTS if is_tested else {})
    rows = [[_cell(row.get(key), form) for key, (_, form) in shown.items()] for row in numbers]
    rules = {name: one.rule for name, one in against.items() if one.rule}
    return pd.DataFrame(numbers, columns=[*SHOWN, *OF_TESTS, *IN_CSV_ALONE]), {
        "published": table([name for name, _ in shown.values()], rows, text_columns=2),
        "is_tested": is_tested,
        "has_p_value": any(rule.p_value is not None for rule in rules.values()),
        "passed": [name for name, rule in rules.items() if rule.passes],
        "in_bytes": [name for name, one in against.items() if one.unit == "byte"],
        "rule_margin_nats": RULE_MARGIN_NATS,
        "rule_level": RULE_LEVEL,
        "fineweb_bytes": FINEWEB_BYTES,
        "dataset": against[RECORDS[0]].arm.data.rpartition(" ")[0],
    }


def _cell(value: Any, form: str) -> str:
    return "–" if value is None else f"{value:{form}}".replace("-", "−") if form else value


def _own(results: Mapping[int, Result]) -> dict[str, Any]:
    runs = list(results.values())
    is_whole = all((run.raw_targets or run.val_targets) == run.val_targets for run in runs)
    return _row(
        THIS_RUN, "sliding", [run.sliding_bpb for run in runs], [run.total_bytes for run in runs],
        steps=[run.steps for run in runs],
        bits_per_weight=[8 * run.artifact_bytes / run.parameters for run in runs],
        raw_to_packed=[run.roundtrip_bpb - run.raw_bpb for run in runs if run.raw_bpb is not None and is_whole],
        by_sliding=[run.sliding_bpb - run.roundtrip_bpb for run in runs],
    )  # fmt: skip


def _record(name: str, score: str, one: Against) -> dict[str, Any]:
    record = load_published(name)
    seeds, scores = record.seeds, list(one.baseline.values("bpb").values())
    row = _row(
        f"{name} ({record.status})", score, scores, [seed.total_bytes for seed in seeds if seed.total_bytes],
        steps=[seed.steps for seed in seeds],
        bits_per_weight=[8 * seed.model_bytes / record.parameters for seed in seeds if seed.model_bytes],
        raw_to_packed=[s.standard_bpb - s.raw_bpb for s in seeds if s.standard_bpb and s.raw_bpb],
        by_sliding=[s.sliding_bpb - s.standard_bpb for s in seeds if s.sliding_bpb and s.standard_bpb],
    )  # fmt: skip
    if one.bpb and one.nats:
        row |= {"difference": one.bpb.difference, "low": one.bpb.low, "high": one.bpb.high}
        row |= {"nats_difference": one.nats.difference, "nats_per": one.unit}
    if one.rule:
        row |= {"rule_p_value": one.rule.p_value, "rule_passes": one.rule.passes}
    return row


def _row(run: str, score: str, bpb: Sequence[float], sizes: Sequence[int], **means: Sequence[float]) -> dict[str, Any]:
    """A row of both; of `means` the mean over the seeds that have the number, None where none has."""
    summary = summarise(bpb)
    row = {"run": run, "score": SCORE_LABELS[score], "n": summary.n, "bpb": summary.mean, "std": summary.std}
    row["largest_bytes"] = max(sizes, default=None)
    return row | {name: float(np.mean(values)) if values else None for name, values in means.items()}
