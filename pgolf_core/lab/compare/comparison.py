"""Runs and published records against one of them, seed by seed, with all that the seeds allow to say: `pgolf compare`.

Bits per byte are compared where the validation text is one. Where the tokenizer is one too, the loss is compared in
nats per token, else in nats per byte. What is not comparable keeps its own row and gets no difference.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pgolf_core.base.files import UserError, write_text
from pgolf_core.lab.compare import inference
from pgolf_core.lab.compare.arms import Arm, is_record, read_arm, record_scores, same_text, same_tokenizer, what_differs
from pgolf_core.lab.compare.results import PACKED, SCORE_LABELS
from pgolf_core.seed import SCORE_NAMES

NO_VALUE = float("nan")
COLUMNS: dict[str, Any] = dict.fromkeys((
    "run", "seeds", "n", "mean", "std", "low", "high", "detectable", "difference", "difference_low", "difference_high",
    "p_value", "test", "nats_difference", "nats_low", "nats_high", "nats_unit", "rule_improvement", "rule_margin",
    "rule_margin_bpb", "rule_p_value", "rule_passes", "rule_detectable", "total_bytes", "total_bytes_max",
    "train_seconds", "seconds", "differs", "note",
), NO_VALUE) | {"test": "", "nats_unit": "", "rule_passes": None, "differs": "", "note": ""}  # fmt: skip
"""Columns of `arms_table`, and what stands in them where there is nothing to say."""


@dataclass(frozen=True)
class Against:
    """One arm against the baseline; the tests are None where the two scores are not one quantity."""

    arm: Arm
    baseline: Arm
    bpb: inference.Comparison | None
    """Arm - baseline, bits per byte: below zero is better."""
    nats: inference.Comparison | None
    """Arm - baseline, nats per `unit`."""
    unit: str
    """token, or byte where the tokenizers differ; empty without a test."""
    rule: inference.RuleTest | None
    """In nats per `unit`; for scores of the packed file only."""
    differs: list[tuple[str, Any, Any]]
    """(what, baseline's, arm's)."""
    notes: list[str]

    @property
    def margin_bpb(self) -> float | None:
        """The rule's margin in bits per byte, by the baseline's tokens per byte."""
        if self.rule is None:
            return None
        units_per_byte = 1.0 if self.unit == "byte" else self.baseline.text_targets / self.baseline.text_bytes
        return self.rule.margin * units_per_byte / math.log(2)


@dataclass(frozen=True)
class Compared:
    """A whole comparison; the baseline comes first everywhere."""

    score: str
    """raw, averaged, roundtrip or sliding."""
    arms: list[Arm]
    against: list[Against]
    """One for every arm but the baseline, in order."""
    notes: list[str]
    """Of the baseline and of the choice of score."""


def compare_arms(
    which: Sequence[str | Path], score: str = "", against: str | Path = "", seeds: Sequence[int] | None = None
) -> Compared:
    """Read the arms and test each against the baseline.

    The baseline is `against`, else the first published record, else the first arm. `score` is one of SCORE_NAMES; left
    empty it is sliding, or round-trip where a record has no sliding score. `seeds` are those of run folders that count
    (default: all that are finished). UserError for arms that cannot be read, an arm named twice, or an unknown score.
    """
    if not which:
        raise UserError("nothing to compare; name at least one run folder, as runs/local_10min_1mb/local-smoke")
    if score and score not in SCORE_NAMES:
        raise UserError(f"unknown score '{score}'; known: {', '.join(SCORE_NAMES)}")
    ordered = _baseline_first(which, against)
    notes = []
    if not score:
        score = _common_score([str(name) for name in ordered if is_record(name)])
        if score != PACKED[0]:
            notes.append(f"{SCORE_LABELS[score]} scores, since not every record here has a sliding one")
    arms = _with_names_apart([read_arm(name, score, seeds) for name in ordered], ordered)
    compared = [_against(arm, arms[0], score) for arm in arms[1:]]
    return Compared(score, arms, compared, [*notes, *_own_notes(arms[0])])


# ---------------------------------------------------------------------- choosing


def _baseline_first(which: Sequence[str | Path], against: str | Path) -> list[str | Path]:
    places = [name if is_record(name) else Path(name).resolve() for name in which]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"{place} is named twice; a run has no difference from itself")
    if not against:
        first = next((position for position, name in enumerate(which) if is_record(name)), 0)
        return [which[first], *which[:first], *which[first + 1 :]]
    place = against if is_record(against) else Path(against).resolve()
    return [against, *(name for name, other in zip(which, places, strict=True) if other != place)]


def _common_score(records: Sequence[str]) -> str:
    """The first score of the packed file that all these records publish."""
    common = [score for score in PACKED if all(score in record_scores(name) for name in records)]
    if not common:
        have = "; ".join(f"{name} has {', '.join(record_scores(name))}" for name in records)
        raise UserError(f"the records share no score of their packed files ({have}); choose one with --score")
    return common[0]


def _with_names_apart(arms: list[Arm], which: Sequence[str | Path]) -> list[Arm]:
    """Arms whose folders have one name get as much of their paths as tells them apart."""
    paths = [(str(name),) if is_record(name) else Path(name).resolve().parts for name in which]
    named = []
    for arm, path in zip(arms, paths, strict=True):
        length = 1
        while length < len(path) and sum(other[-length:] == path[-length:] for other in paths) > 1:
            length += 1
        named.append(dataclasses.replace(arm, name="/".join(path[-length:])))
    return named


# ---------------------------------------------------------------------- testing


def _against(arm: Arm, baseline: Arm, score: str) -> Against:
    differs, notes = what_differs(baseline, arm), _own_notes(arm)
    obstacle = _obstacle(arm, baseline)
    if obstacle:
        return Against(arm, baseline, None, None, "", None, differs, [obstacle, *notes])
    unit = "token" if same_tokenizer(baseline, arm) else "byte"
    bpb, nats = (
        inference.compare_runs(baseline.values(column), arm.values(column)) for column in ("bpb", f"nats_per_{unit}")
    )
    tokens_per_unit = 1.0 if unit == "token" else baseline.text_targets / baseline.text_bytes
    margin = inference.RULE_MARGIN_NATS * tokens_per_unit
    rule = inference.challenge_rule(nats, margin) if score in PACKED else None
    warnings = list(_warnings(arm, baseline, unit))
    return Against(arm, baseline, bpb, nats, unit, rule, differs, [*warnings, *filter(None, [bpb.note]), *notes])


def _obstacle(arm: Arm, baseline: Arm) -> str:
    """Why the two scores are not one quantity; empty if they are."""
    if not same_text(baseline, arm):
        texts = " and ".join(f"{a.name} on {a.text_bytes:,} bytes of {a.data}, {a.track}" for a in (baseline, arm))
        return f"NOT COMPARABLE, other text: {texts}; no difference, interval or rule"
    is_part = any(a.scored_targets < a.text_targets for a in (baseline, arm))
    if is_part and not (same_tokenizer(baseline, arm) and arm.scored_targets == baseline.scored_targets):
        texts = " and ".join(f"{a.name} on {a.scored_targets:,} of {a.text_targets:,}" for a in (baseline, arm))
        return f"NOT COMPARABLE, other targets: {texts}; no difference or interval"
    return ""


def _warnings(arm: Arm, baseline: Arm, unit: str) -> Iterator[str]:
    """What a reader must know of two scores that are compared all the same."""
    unlike = [what for what in ("track", "window", "stride") if getattr(arm, what) != getattr(baseline, what)]
    if unlike:
        pairs = (f"{what} {getattr(arm, what)} against {getattr(baseline, what)}" for what in unlike)
        yield f"NOT LIKE FOR LIKE: {', '.join(pairs)}"
    if arm.data_sha256 != baseline.data_sha256:
        yield (
            f"OTHER DATA: {arm.data} against {baseline.data}; the validation text is taken to be one because of its "
            f"size, {arm.text_bytes:,} and {baseline.text_bytes:,} bytes"
        )
    if unit == "byte":
        pieces = (f"{a.name} cuts the text into {a.text_targets:,} tokens" for a in (baseline, arm))
        yield f"DIFFERENT TOKENIZERS: {', '.join(pieces)}; so losses are compared in nats per byte, not per token"


def _own_notes(arm: Arm) -> list[str]:
    over = arm.seeds["total_bytes"] - arm.cap_bytes
    return [*arm.notes, *(f"seed {seed} is {size:,.0f} bytes over the cap" for seed, size in over.items() if size > 0)]


# ---------------------------------------------------------------------- tables


def arms_table(compared: Compared) -> pd.DataFrame:
    """One row an arm, the baseline first: what `pgolf compare --csv` writes. Columns:

    run, seeds, n; mean, std, low, high, detectable, difference, difference_low, difference_high (bits per byte);
    p_value, test; nats_difference, nats_low, nats_high in nats per nats_unit; the challenge's rule as rule_improvement,
    rule_margin (the same unit), rule_margin_bpb, rule_p_value, rule_passes, rule_detectable; total_bytes (mean),
    total_bytes_max, train_seconds, seconds (means); differs, note. What does not exist is NaN or an empty text. In the
    baseline's row `detectable` is for two runs of its n and std (Welch), in the others for the test that was made.
    """
    rows = [_own_columns(arm) | {"note": "; ".join(compared.notes)} for arm in compared.arms[:1]]
    rows += [_own_columns(one.arm) | _test_columns(one) for one in compared.against]
    kinds = {name: float for name, empty in COLUMNS.items() if empty is NO_VALUE and name not in ("run", "seeds", "n")}
    return pd.DataFrame([COLUMNS | row for row in rows]).astype(kinds | {"rule_passes": object})


def _own_columns(arm: Arm) -> dict[str, Any]:
    summary = inference.summarise(arm.seeds["bpb"])
    row: dict[str, Any] = {"run": arm.name, "seeds": ",".join(map(str, arm.seeds.index))}
    row |= {key: getattr(summary, key) for key in ("n", "mean", "std", "low", "high")}
    row["detectable"] = inference.detectable_by_another(summary.std, summary.n) if summary.std else None
    row |= arm.seeds[["total_bytes", "train_seconds", "seconds"]].mean().to_dict()
    return row | {"total_bytes_max": arm.seeds["total_bytes"].max()}


def _test_columns(one: Against) -> dict[str, Any]:
    row: dict[str, Any] = {"differs": "; ".join(difference_lines(one)), "note": "; ".join(one.notes)}
    if not one.bpb or not one.nats:
        return row | {"test": "none", "detectable": None}
    row |= {"difference": one.bpb.difference, "difference_low": one.bpb.low, "difference_high": one.bpb.high}
    row |= {"p_value": one.bpb.p_value, "test": one.bpb.method, "detectable": one.bpb.detectable}
    row |= {"nats_difference": one.nats.difference, "nats_low": one.nats.low, "nats_high": one.nats.high}
    row["nats_unit"] = one.unit
    if one.rule:
        names = ("improvement", "margin", "p_value", "passes", "detectable")
        row |= {f"rule_{name}": getattr(one.rule, name) for name in names} | {"rule_margin_bpb": one.margin_bpb}
    return row


def seeds_long(compared: Compared) -> pd.DataFrame:
    """One row per run and seed: run, seed, bpb, nats_per_token, nats_per_byte, difference (bpb, from the baseline's
    value of that seed), total_bytes, train_seconds, seconds; NaN where there is none."""
    tested, base = {one.arm.name for one in compared.against if one.bpb}, compared.arms[0].seeds["bpb"]
    parts = []
    for arm in compared.arms:
        part = arm.seeds.reset_index()
        part.insert(0, "run", arm.name)
        part.insert(5, "difference", part["bpb"] - part["seed"].map(base) if arm.name in tested else NO_VALUE)
        parts.append(part)
    return pd.concat(parts, ignore_index=True).astype({"total_bytes": "Int64"})


def difference_lines(one: Against) -> list[str]:
    """What was changed from the baseline to this arm, one thing a line, as `model.num_layers: 4 -> 5`."""
    return [f"{what}: {_plain(before)} -> {_plain(after)}" for what, before, after in one.differs]


def _plain(value: Any) -> str:
    return "absent" if value is None else value if isinstance(value, str) else json.dumps(value)


def write_csv(compared: Compared, path: Path) -> tuple[Path, Path]:
    """Write `arms_table` to `path` and `seeds_long` beside it as <stem>-seeds.csv; returns both."""
    beside = path.with_name(f"{path.stem}-seeds.csv")
    write_text(path, arms_table(compared).to_csv(index=False))
    write_text(beside, seeds_long(compared).to_csv(index=False))
    return path, beside


def to_json(compared: Compared) -> dict[str, Any]:
    """For other programs: score, baseline, runs (`arms_table`'s rows), seeds (`seeds_long`'s rows), differs."""

    def records(table: pd.DataFrame) -> list[dict[str, Any]]:
        return json.loads(table.to_json(orient="records", double_precision=15))

    differs = {one.arm.name: [list(entry) for entry in one.differs] for one in compared.against}
    own = {"score": f"{compared.score}_bpb", "baseline": compared.arms[0].name}
    return own | {"runs": records(arms_table(compared)), "seeds": records(seeds_long(compared)), "differs": differs}
