"""A comparison as text for a terminal: runs, seeds side by side, differences, the challenge's rule, changes."""

import math
import textwrap
from collections.abc import Iterator, Sequence

import pandas as pd

from pgolf_core.lab.compare.comparison import Against, Compared, arms_table, difference_lines, seeds_long
from pgolf_core.lab.compare.inference import CONFIDENCE, POWER, RULE_LEVEL, RULE_MARGIN_NATS
from pgolf_core.lab.compare.results import COMPARED
from pgolf_core.lab.shared.tables import table_text, width

LONG_NAME = 15
"""Two runs beside the baseline in one table of seeds fit 80 columns, where no name is longer."""
INTERVAL = f"{CONFIDENCE:.0%} interval"


def comparison_text(compared: Compared) -> str:
    """All of a comparison in blocks of lines that fit the terminal, without a line end."""
    label, base = COMPARED[compared.score], compared.arms[0].name
    title = f"{label} score, bits per byte (lower is better); the baseline is {base}"
    blocks = ["\n".join(map(_wrapped, [title, *compared.notes])), *_runs(arms_table(compared), base)]
    blocks += _seeds(compared)
    if any(one.bpb for one in compared.against):
        blocks += _differences(compared.against)
    blocks += ["\n".join(_words(one)) for one in compared.against]
    return "\n\n".join(blocks)


def _runs(table: pd.DataFrame, base: str) -> Iterator[str]:
    rows = table.to_dict("records")
    scores = [[row["run"], row["n"], *map(_number, (row["mean"], row["std"])), _range(row["low"], row["high"])]
              for row in rows]  # fmt: skip
    text, first = table_text(["run", "n", "mean", "std", INTERVAL], scores), rows[0]
    if not math.isnan(first["detectable"]):  # what the baseline's own spread lets one see at all
        two = f"two runs of {first['n']} other seeds each that spread like {base} are told apart"
        text += "\n" + _wrapped(f"{two} in {POWER:.0%} of cases if they truly differ by {first['detectable']:.4f} bpb")
    yield text
    how = {"total_bytes": ",.0f", "total_bytes_max": ",.0f", "train_seconds": ",.1f", "seconds": ",.1f"}
    costs = [[row["run"], *(_number(row[name], form) for name, form in how.items())] for row in rows]
    yield table_text(["run", "bytes", "largest", "train s", "whole s"], costs)


def _seeds(compared: Compared) -> Iterator[str]:
    """Every seed of every arm side by side; for each arm its difference from the baseline's same seed."""
    long, (base, *others) = seeds_long(compared), [arm.name for arm in compared.arms]
    numbers = long["seed"].unique()
    beside_each = long.pivot(index="seed", columns="run").reindex(numbers)
    scores, differences = beside_each["bpb"], beside_each["difference"]
    beside = 1 if max(map(len, (base, *others))) > LONG_NAME else 2
    for first in range(0, max(1, len(others)), beside):
        header, columns = ["seed", base], [list(map(str, numbers)), list(map(_number, scores[base]))]
        for name in others[first : first + beside]:
            header.append(name)
            columns.append(list(map(_number, scores[name])))
            if any(one.bpb for one in compared.against if one.arm.name == name):
                header.append("difference")
                columns.append([_number(value, "+.4f") for value in differences[name]])
        yield table_text(header, zip(*columns, strict=True))


def _differences(against: Sequence[Against]) -> Iterator[str]:
    tests, sizes = [], []
    for one in against:
        if one.bpb and one.nats:
            difference, interval = f"{one.bpb.difference:+.4f}", _range(one.bpb.low, one.bpb.high, "+.4f")
            seeds, p_value = f"{one.bpb.n_a}, {one.bpb.n_b}", _number(one.bpb.p_value, ".3g")
            tests.append([one.arm.name, difference, interval, p_value, one.bpb.method, seeds])
            sizes.append([one.arm.name, _number(one.bpb.detectable), f"{one.nats.difference:+.4f}", one.unit])
    yield table_text(["run", "difference", INTERVAL, "p", "test", "seeds"], tests)
    caption = f"detectable: the true difference that this test would find in {POWER:.0%} of repetitions, if the seeds "
    lines = [f"{caption}spread as they did here"]
    if len(tests) > 1:
        lines.append(f"p-values are of one test each, not corrected for {len(tests)} of them")
    yield "\n".join([table_text(["run", "detectable", "difference in nats", "per"], sizes), *map(_wrapped, lines)])


def _words(one: Against) -> Iterator[str]:
    changed = difference_lines(one)
    yield f"{one.arm.name} against {one.baseline.name}"
    for line in (*one.notes, *_rule_lines(one), "changed:" if changed else "changed: nothing that is on file"):
        yield _wrapped(line, "  ")
    yield from (_wrapped(line, "    ") for line in changed)


def _rule_lines(one: Against) -> list[str]:
    """The challenge's rule in two lines; none where the score is not that of a packed file."""
    if not one.rule or not one.bpb:
        return []
    rule, unit = one.rule, f"nats per {one.unit}"
    way = "worse" if rule.improvement < 0 else "better"
    size = f"{way} by {abs(rule.improvement):.4f} {unit} ({abs(one.bpb.difference):.4f} bpb)"
    size = size if rule.improvement else "no difference at all"
    margin = f"{RULE_MARGIN_NATS} nats per token"
    if one.unit == "byte":
        margin = f"{rule.margin:.5f} {unit}, which is {margin} of {one.baseline.name}'s tokenizer"
    asked = f"the challenge's rule (better by more than {margin}, here {one.margin_bpb:.4f} bpb, p < {RULE_LEVEL})"
    if rule.p_value is None:
        return [size, f"{asked} cannot be tested: no p-value"]
    verdict = f"{'is met' if rule.passes else 'is not met'}: one-sided p = {rule.p_value:.3g} ({one.bpb.method})"
    power = f"a true improvement of {rule.detectable:.4f} would meet it in {POWER:.0%} of repetitions"
    return [size, f"{asked} {verdict}; {power}"]


def _wrapped(text: str, indent: str = "") -> str:
    deeper = f"{indent}  "
    return textwrap.fill(
        text, width(), initial_indent=indent, subsequent_indent=deeper, break_long_words=False, break_on_hyphens=False
    )


def _number(value: float | None, how: str = ".4f") -> str | None:
    return None if value is None or math.isnan(value) else f"{value:{how}}"


def _range(low: float | None, high: float | None, how: str = ".4f") -> str | None:
    return None if low is None or high is None or math.isnan(low) else f"{low:{how}} to {high:{how}}"
