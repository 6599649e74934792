"""A comparison as plain text for a terminal: runs, seeds side by side, differences, the challenge's rule, changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from pgolf_core.lab.compare.arms import SCORES
from pgolf_core.lab.compare.comparison import Against, Compared, arms_table, difference_lines
from pgolf_core.lab.compare.inference import CONFIDENCE, POWER, RULE_LEVEL, RULE_MARGIN_NATS

DASH = "–"


def comparison_text(compared: Compared) -> str:
    """All of a comparison in blocks of lines, without a line end."""
    label, table = SCORES[f"{compared.score}_bpb"], arms_table(compared)
    blocks = [f"{label} score, bits per byte (lower is better); the baseline is {compared.arms[0].name}"]
    blocks[0] += "".join(f"\n{note}" for note in compared.notes)
    blocks.append(_runs(table) + _reach(compared, table))
    blocks.append(_seeds(compared))
    if any(one.bpb for one in compared.against):
        blocks.append(_differences(compared.against))
    blocks += [_words(one) for one in compared.against]
    return "\n\n".join(blocks)


def _runs(table: pd.DataFrame) -> str:
    header = ["run", "n", "mean", "std", f"{CONFIDENCE:.0%} interval", "bytes", "largest", "train s", "whole s"]
    rows = []
    for row in table.to_dict("records"):
        rows.append(
            [row["run"], str(row["n"]), f"{row['mean']:.4f}", _number(row["std"]), _range(row["low"], row["high"])]
        )
        rows[-1] += [_number(row[name], ",.0f") for name in ("total_bytes", "total_bytes_max")]
        rows[-1] += [_number(row[name], ",.1f") for name in ("train_seconds", "seconds")]
    return _aligned(header, rows)


def _reach(compared: Compared, table: pd.DataFrame) -> str:
    """What the baseline's own spread lets one see at all; empty where it has none."""
    value, count = table["detectable"][0], table["n"][0]
    if math.isnan(value):
        return ""
    two = f"two runs of {count} other seeds each that spread like {compared.arms[0].name}"
    return f"\n{two} are told apart in {POWER:.0%} of cases if they truly differ by {value:.4f} bpb"


def _seeds(compared: Compared) -> str:
    """Every seed of every arm side by side; for each arm its difference from the baseline's same seed."""
    base = compared.arms[0].values("bpb")
    tested = {one.arm.name for one in compared.against if one.bpb}
    numbers = dict.fromkeys(number for arm in compared.arms for number in arm.seeds)
    header, columns = ["seed"], [[str(number) for number in numbers]]
    for arm in compared.arms:
        own = arm.values("bpb")
        header.append(arm.name)
        columns.append([_number(own.get(number)) for number in numbers])
        if arm.name in tested:
            header.append("difference")
            pairs = [(own.get(number), base.get(number)) for number in numbers]
            columns.append([DASH if a is None or b is None else f"{a - b:+.4f}" for a, b in pairs])
    return _aligned(header, [list(row) for row in zip(*columns, strict=True)])


def _differences(against: Sequence[Against]) -> str:
    header = ["difference", "bpb", f"{CONFIDENCE:.0%} interval", "p", "test", "seeds", "detectable", "nats", "per"]
    rows = []
    for one in against:
        if not one.bpb or not one.nats:
            continue
        row = [one.arm.name, f"{one.bpb.difference:+.4f}", _range(one.bpb.low, one.bpb.high, "+.4f")]
        row += [_number(one.bpb.p_value, ".3g"), one.bpb.method, f"{one.bpb.n_a}, {one.bpb.n_b}"]
        row += [_number(one.bpb.detectable), f"{one.nats.difference:+.4f}", one.unit]
        rows.append(row)
    caption = f"detectable: the true difference that this test would find in {POWER:.0%} of repetitions"
    several = f"\np-values are of one test each, not corrected for {len(rows)} of them" if len(rows) > 1 else ""
    return f"{_aligned(header, rows)}\n{caption}, if the seeds spread as they did here{several}"


def _words(one: Against) -> str:
    lines = [f"{one.arm.name} against {one.baseline.name}", *one.notes, *_rule_lines(one)]
    changed = difference_lines(one)
    lines.append("changed:" if changed else "changed: nothing that is on file")
    return "\n  ".join(lines) + "".join(f"\n    {line}" for line in changed)


def _rule_lines(one: Against) -> list[str]:
    """The challenge's rule in two lines; none where the score is not that of a packed file."""
    if not one.rule or not one.bpb:
        return []
    rule, unit = one.rule, f"nats per {one.unit}"
    better = f"better by {rule.improvement:.4f} {unit} ({-one.bpb.difference:.4f} bpb)"
    if rule.improvement < 0:
        better = f"worse by {-rule.improvement:.4f} {unit} ({one.bpb.difference:.4f} bpb)"
    margin = f"{RULE_MARGIN_NATS} nats per token"
    if one.unit == "byte":
        margin = f"{rule.margin:.5f} {unit}, which is {margin} of {one.baseline.name}'s tokenizer"
    rule_line = f"the challenge's rule (better by more than {margin}, here {one.margin_bpb:.4f} bpb, p < {RULE_LEVEL})"
    if rule.p_value is None:
        return [better, f"{rule_line} cannot be tested: no p-value"]
    verdict = "is met" if rule.passes else "is not met"
    power = f"a true improvement of {rule.detectable:.4f} would meet it in {POWER:.0%} of repetitions"
    return [better, f"{rule_line} {verdict}: one-sided p = {rule.p_value:.3g} ({rule.method}); {power}"]


def _number(value: float | None, how: str = ".4f") -> str:
    return DASH if value is None or math.isnan(value) else f"{value:{how}}"


def _range(low: float | None, high: float | None, how: str = ".4f") -> str:
    return DASH if low is None or high is None or math.isnan(low) else f"{low:{how}} to {high:{how}}"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    cells = (
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))] for line in lines
    )
    first, *others = ["  ".join(line).rstrip() for line in cells]
    return "\n".join([first, "-" * sum(widths, 2 * (len(widths) - 1)), *others])
