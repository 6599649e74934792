"""A run beside the published records: what happens within a run, and, where texts compare, differences and the rule."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pgolf_core.lab.compare.comparison import Against, compare_arms
from pgolf_core.lab.compare.inference import RULE_LEVEL, RULE_MARGIN_NATS, summarise
from pgolf_core.lab.compare.records import RECORD_DIR, RECORDS, load_published, seeds_table
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
    names = {"artifact_bytes": "model_bytes", "roundtrip_bpb": "standard_bpb"}
    seeds = pd.DataFrame(map(vars, results.values())).rename(columns=names)
    if any(one.raw_targets not in (None, one.val_targets) for one in results.values()):
        seeds["raw_bpb"] = None  # of a part of the split, which the packed file's is not
    return _row(THIS_RUN, "sliding", seeds["sliding_bpb"], seeds, seeds["parameters"])


def _record(name: str, score: str, one: Against) -> dict[str, Any]:
    record = load_published(name)
    run = f"{name} ({record.status})"
    row = _row(run, score, one.baseline.seeds["bpb"], seeds_table(record), record.parameters)
    if one.bpb and one.nats:
        row |= {"difference": one.bpb.difference, "low": one.bpb.low, "high": one.bpb.high}
        row |= {"nats_difference": one.nats.difference, "nats_per": one.unit}
    if one.rule:
        row |= {"rule_p_value": one.rule.p_value, "rule_passes": one.rule.passes}
    return row


def _row(run: str, score: str, bpb: pd.Series, seeds: pd.DataFrame, parameters: int | pd.Series) -> dict[str, Any]:
    """A row of both, from columns of PublishedSeed: means over the seeds that have the numbers, None where none has."""
    packed, sliding, raw, size = (
        seeds[name].astype(float) for name in ("standard_bpb", "sliding_bpb", "raw_bpb", "model_bytes")
    )
    summary, largest = summarise(bpb), seeds["total_bytes"].max()
    means = {"steps": seeds["steps"].mean(), "bits_per_weight": (8 * size / parameters).mean()}
    means |= {"raw_to_packed": (packed - raw).mean(), "by_sliding": (sliding - packed).mean()}
    row = {"run": run, "score": SCORE_LABELS[score], "n": summary.n, "bpb": summary.mean, "std": summary.std}
    row["largest_bytes"] = None if math.isnan(largest) else int(largest)
    return row | {name: None if math.isnan(mean) else mean for name, mean in means.items()}
