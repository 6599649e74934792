"""Runs and published records against one of them, seed by seed, with all that the seeds allow to say: `pgolf compare`.

Bits per byte are compared where the validation text is one. Where the tokenizer is one too, the loss is compared in
nats per token, else in nats per byte. What is not comparable keeps its own row and gets no difference.
"""

import dataclasses
import json
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pgolf_core.base.files import UserError, write_text
from pgolf_core.lab.compare import inference
from pgolf_core.lab.compare.arms import Arm, is_record, read_arm, record_scores, same_text, same_tokenizer, what_differs
from pgolf_core.lab.compare.results import COMPARED, JUDGED, PACKED

OF_TEST = {
    "difference": "bpb.difference", "difference_low": "bpb.low", "difference_high": "bpb.high",
    "p_value": "bpb.p_value", "test": "bpb.method", "nats_difference": "nats.difference", "nats_low": "nats.low",
    "nats_high": "nats.high", "nats_unit": "unit", "rule_improvement": "rule.improvement",
    "rule_margin": "rule.margin", "rule_margin_bpb": "margin_bpb", "rule_p_value": "rule.p_value",
    "rule_passes": "rule.passes", "rule_detectable": "rule.detectable",
}  # fmt: skip
"""Columns of `arms_table` about the test, and where in Against they stand."""
COLUMNS = (
    "run", "seeds", "n", "mean", "std", "low", "high", "detectable", *OF_TEST, "total_bytes", "total_bytes_max",
    "train_seconds", "seconds", "differs", "note",
)  # fmt: skip
EMPTY = {"test": "", "nats_unit": "", "rule_passes": None, "differs": "", "note": ""}
"""What stands in a column that is no number where there is nothing to say."""


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
        tokens_per_byte = self.baseline.text_targets / self.baseline.text_bytes
        return inference.RULE_MARGIN_NATS * tokens_per_byte / math.log(2) if self.rule else None


@dataclass(frozen=True)
class Compared:
    """A whole comparison; the baseline comes first everywhere."""

    score: str
    """A name of COMPARED."""
    arms: list[Arm]
    against: list[Against]
    """One for every arm but the baseline, in order."""
    notes: list[str]
    """Of the baseline and of the choice of score."""


def compare_arms(
    which: Sequence[str | Path], score: str = "", against: str | Path = "", seeds: Sequence[int] | None = None
) -> Compared:
    """Read the arms and test each against the baseline.

    The baseline is `against`, else the first published record, else the first arm. `score` is one of COMPARED; left
    empty it is sliding, or round-trip where a record has no sliding score. `seeds` are those of run folders that count
    (default: all that are finished). UserError for arms that cannot be read and for an arm named twice.
    """
    if not which:
        raise UserError("nothing to compare; name at least one run folder, as runs/local_10min_1mb/local-smoke")
    ordered = _baseline_first(which, against)
    notes = []
    if not score:
        score = _common_score([str(name) for name in ordered if is_record(name)])
        if score != PACKED[0]:
            notes.append(f"{COMPARED[score]} scores, since not every record here has a sliding one")
    arms = _with_names_apart([read_arm(name, score, seeds) for name in ordered], ordered)
    compared = [_against(arm, arms[0], score) for arm in arms[1:]]
    return Compared(score, arms, compared, [*notes, *_own_notes(arms[0])])


# ---------------------------------------------------------------------- choosing


def _baseline_first(which: Sequence[str | Path], against: str | Path) -> list[str | Path]:
    def place(name: str | Path) -> str | Path:
        return name if is_record(name) else Path(name).resolve()

    places = list(map(place, which))
    if twice := [one for one in places if places.count(one) > 1]:
        raise UserError(f"{twice[0]} is named twice; a run has no difference from itself")
    base = against or next(filter(is_record, which), which[0])
    return [base, *(name for name in which if place(name) != place(base))]


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
        alike = (n for n in range(1, len(path)) if sum(other[-n:] == path[-n:] for other in paths) == 1)
        length = next(alike, len(path))
        named.append(dataclasses.replace(arm, name="/".join(path[-length:])))
    return named


# ---------------------------------------------------------------------- testing


def _against(arm: Arm, baseline: Arm, score: str) -> Against:
    differs, notes = what_differs(baseline, arm), _own_notes(arm)
    if obstacle := _obstacle(arm, baseline):
        return Against(arm, baseline, None, None, "", None, differs, [obstacle, *notes])
    unit = "token" if same_tokenizer(baseline, arm) else "byte"
    bpb, nats = (inference.compare_runs(baseline.values(of), arm.values(of)) for of in ("bpb", f"nats_per_{unit}"))
    tokens_per_unit = 1.0 if unit == "token" else baseline.text_targets / baseline.text_bytes
    margin = inference.RULE_MARGIN_NATS * tokens_per_unit
    rule = inference.challenge_rule(nats, margin) if score in JUDGED else None
    said = [*_warnings(arm, baseline, unit), *filter(None, [bpb.note]), *notes]
    return Against(arm, baseline, bpb, nats, unit, rule, differs, said)


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
        sizes = f"{arm.text_bytes:,} and {baseline.text_bytes:,} bytes"
        why = f"the validation text is taken to be one because of its size, {sizes}"
        yield f"OTHER DATA: {arm.data} against {baseline.data}; {why}"
    if unit == "byte":
        pieces = (f"{a.name} cuts the text into {a.text_targets:,} tokens" for a in (baseline, arm))
        yield f"DIFFERENT TOKENIZERS: {', '.join(pieces)}; so losses are compared in nats per byte, not per token"


def _own_notes(arm: Arm) -> list[str]:
    over = arm.seeds["total_bytes"] - arm.cap_bytes
    return [*arm.notes, *(f"seed {seed} is {size:,.0f} bytes over the cap" for seed, size in over.items() if size > 0)]


# ---------------------------------------------------------------------- tables


def arms_table(compared: Compared) -> pd.DataFrame:
    """One row an arm, the baseline first, with COLUMNS: what `pgolf compare --csv` writes.

    Scores are in bits per byte, nats and the rule's in nats per nats_unit (but rule_margin_bpb), bytes and seconds are
    means. What does not exist is NaN or an empty text. In the baseline's row `detectable` is for two runs of its n and
    std (Welch), in the others for the test that was made.
    """
    rows = [_own_columns(arm) | {"note": "; ".join(compared.notes)} for arm in compared.arms[:1]]
    rows += [_own_columns(one.arm) | _test_columns(one) for one in compared.against]
    kinds = dict.fromkeys((name for name in COLUMNS if name not in ("run", "seeds", "n", *EMPTY)), float)
    return pd.DataFrame([EMPTY | row for row in rows], columns=COLUMNS).astype(kinds | {"rule_passes": object})


def _own_columns(arm: Arm) -> dict[str, Any]:
    summary = inference.summarise(arm.seeds["bpb"])
    row = {"run": arm.name, "seeds": ",".join(map(str, arm.seeds.index))} | vars(summary)
    row["detectable"] = inference.detectable_by_another(summary.std, summary.n) if summary.std else None
    row |= arm.seeds[["total_bytes", "train_seconds", "seconds"]].mean().to_dict()
    return row | {"total_bytes_max": arm.seeds["total_bytes"].max()}


def _test_columns(one: Against) -> dict[str, Any]:
    row: dict[str, Any] = {"differs": "; ".join(difference_lines(one)), "note": "; ".join(one.notes)}
    row |= {"test": "none", "detectable": one.bpb.detectable if one.bpb else None}
    known = {name: path for name, path in OF_TEST.items() if getattr(one, path.partition(".")[0]) is not None}
    return row | {name: operator.attrgetter(path)(one) for name, path in known.items()}


def seeds_long(compared: Compared) -> pd.DataFrame:
    """One row per run and seed: run, seed, bpb, nats_per_token, nats_per_byte, difference (bpb, from the baseline's
    value of that seed), total_bytes, train_seconds, seconds; NaN where there is none."""
    tested, base = [one.arm.name for one in compared.against if one.bpb], compared.arms[0].seeds["bpb"]
    long = pd.concat({arm.name: arm.seeds for arm in compared.arms}, names=["run"]).reset_index()
    long.insert(5, "difference", (long["bpb"] - long["seed"].map(base)).where(long["run"].isin(tested)))
    return long.astype({"total_bytes": "Int64"})


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
