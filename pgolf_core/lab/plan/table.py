"""What a recipe will take before anything runs: parameters, bytes of the artifact, work of a step, memory, steps.

The bytes are predicted in plan_bytes, the memory in plan_memory; where a recipe has the network and the step of one of
the five records, its published step time, files and peak stand beside the prediction.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

import pandas as pd

from pgolf_core.base.files import UserError
from pgolf_core.lab.compare.records import RECORD_DIR, Published, load_published, record_of, seeds_table
from pgolf_core.lab.export import code_bytes_of
from pgolf_core.lab.look.n02_network import parameter_budget
from pgolf_core.lab.plan import bytes as plan_bytes
from pgolf_core.lab.plan import memory as plan_memory
from pgolf_core.lab.shared.places import SCRIPT
from pgolf_core.network.model import parameter_shapes
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Model, Recipe
from pgolf_core.training.optim import parameter_groups

BACKWARD = 2
"""Work of the backward pass relative to the forward pass: one product for the inputs, one for the weights."""
PUBLISHED_RANKS = 8
COLUMNS = ["group", "quantity", "value", "unit", "note"]
WIDTH = 100
"""Columns of the printed plan."""
Row = tuple[str, int | float | None, str, str]


def plan_table(recipe: Recipe, step_ms: float | None = None, ranks: int | None = None) -> pd.DataFrame:
    """Columns group, quantity, value, unit, note (value NaN where it cannot be told). Nothing is allocated or trained.

    `step_ms`, the milliseconds of one optimiser step on the machine in mind, turns the clock into steps; without it a
    record's published step time does, where the recipe has that record's network and batch. Failing both, a recipe that
    a clock ends is taken to reach its last iteration, which overstates the drift of the weights and so the bytes.
    `ranks` share a step (default: 8 on the record track, else 1). Raises UserError for a step_ms that is not a positive
    number and for ranks that do not divide the step's spans.
    """
    if step_ms is not None and not (math.isfinite(step_ms) and step_ms > 0):
        raise UserError(f"--step-ms {step_ms} must be a positive number of milliseconds")
    ranks = plan_memory.ranks_of(recipe, ranks)
    record = published_of(recipe)
    steps, why = planned_steps(recipe, step_ms, ranks, record)
    groups = {
        "parameters": _parameter_rows(recipe.model),
        "artifact, predicted": _byte_rows(recipe, steps, record),
        "a step": _work_rows(recipe),
        "the budget": _budget_rows(recipe, steps, why),
        "memory of a rank": plan_memory.memory_rows(recipe, ranks, record if ranks == PUBLISHED_RANKS else None),
    }
    rows = [(group, *row) for group, members in groups.items() for row in members]
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object).fillna(math.nan)


def published_of(recipe: Recipe) -> Published | None:
    """The record whose network and step this recipe has, on the record track; None for every other recipe."""
    name = record_of(recipe.name) if recipe.track == plan_memory.RECORD_TRACK and RECORD_DIR.is_dir() else None
    if name is None or _step_of(recipe) != _step_of(load_recipe(name)):
        return None
    return load_published(name)


def _step_of(recipe: Recipe) -> tuple[object, ...]:
    """What the time and the memory of a step depend on: tensors, switches, tokens."""
    model, data = recipe.model, recipe.data
    switches = (model.num_heads, model.num_kv_heads, model.rope_dims, model.xsa_last_n, model.ve_layers, model.smear)
    return parameter_shapes(model), switches, data.batch_tokens, data.seq_len


def planned_steps(
    recipe: Recipe, step_ms: float | None, ranks: int = 1, record: Published | None = None
) -> tuple[int | None, str]:
    """(steps until clock or iterations end the training, what ends it); None where no step time is known."""
    schedule = recipe.schedule
    if schedule.max_seconds <= 0:
        return schedule.iterations, "schedule.iterations; no clock"
    source = ""
    if step_ms is None and record is not None and ranks == PUBLISHED_RANKS:
        seeds = seeds_table(record)
        step_ms = float(seeds["ms_per_step"].mean())
        made = _span(seeds["steps"])
        source = f", the step published with {record.name} on {record.hardware}, where runs made {made} steps"
    if step_ms is None:
        other = f"; {record.name}'s published step was taken on {PUBLISHED_RANKS} ranks" if record is not None else ""
        return None, f"needs --step-ms: {schedule.max_seconds:g} s of training end at the clock{other}"
    by_clock = math.ceil(schedule.max_seconds * 1000 / step_ms)
    if by_clock < schedule.iterations:
        return by_clock, f"{schedule.max_seconds:g} s at {step_ms:.4g} ms{source}"
    return schedule.iterations, f"schedule.iterations; the clock would allow {by_clock:,}"


def _span(values: pd.Series) -> str:
    """Smallest to largest, or the one value."""
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


# ---------------------------------------------------------------------- parameters, bytes


def _parameter_rows(model: Model) -> Iterator[Row]:
    budget = parameter_budget(model)
    yield "parameters", int(budget["parameters"].sum()), "weights", ""
    for kind, row in budget.iterrows():
        plural = "s" if row["tensors"] > 1 else ""
        note = f"{row['tensors']:.0f} tensor{plural}, {row['share']:.1%}"
        yield f"parameters: {kind}", int(row["parameters"]), "weights", note


def _byte_rows(recipe: Recipe, known_steps: int | None, record: Published | None) -> Iterator[Row]:
    steps = known_steps or recipe.schedule.iterations
    sizes = plan_bytes.predicted_bytes(recipe, steps)
    for part, row in sizes.iterrows():
        note = ""
        if part == "fp16":
            note = f"{row['weights']:,} weights at 2 bytes"
        elif row["weights"]:
            note = f"{row['weights']:,} Gaussian weights of std {row['std']}: {row['bits']:.2f} bits each"
        yield f"predicted bytes: {part}", int(row["bytes"]), "bytes", note
    file, code = int(sizes["bytes"].sum()), code_bytes_of(recipe)
    notes = {"file": f"weights after {steps:,} steps", "code": f"{SCRIPT}, {recipe.script}", "total": ""}
    if known_steps is None:
        notes["file"] += " (schedule.iterations); the clock may end it sooner, on fewer bytes"
    if record is not None:
        seeds = seeds_table(record)
        notes["file"] += f"; published: {_span(seeds['model_bytes'])}"
        notes["code"] += f"; published script: {record.script_bytes:,}"
        notes["total"] = f"published: {_span(seeds['total_bytes'])}"
    yield "predicted bytes: artifact", file, "bytes", notes["file"]
    yield "code", code, "bytes", notes["code"]
    yield "predicted bytes: total", file + code, "bytes", notes["total"]
    yield "cap", recipe.cap_bytes, "bytes", f"track {recipe.track}"
    left = recipe.cap_bytes - file - code
    yield "predicted bytes left", left, "bytes", _verdict(left, plan_bytes.ERROR * file, known_steps is not None)


def _verdict(left: int, error_bytes: float, is_known: bool) -> str:
    """What the bytes left under the cap mean, in words; `error_bytes` is how far the prediction may be off."""
    closeness = f"by less than the prediction's error of {plan_bytes.ERROR:.0%}"
    if left >= 0:
        return "fits under the cap" if left > error_bytes else f"fits under the cap, but {closeness}"
    remedy = "coarser grids (quant.*), fewer layers or a narrower model"
    if not is_known:
        return f"over the cap if all iterations are run; give --step-ms, or take {remedy}"
    if -left <= error_bytes:
        return f"over the cap, though {closeness}; to be safe take {remedy}"
    return f"OVER THE CAP by {-left:,} bytes: packing would refuse it; take {remedy}"


# ---------------------------------------------------------------------- work


def forward_flops_per_token(model: Model, seq_len: int) -> int:
    """Multiply-adds count two: matrix products of blocks, bigram and head, and the unmasked half of attention.

    A token attends to (seq_len + 1) / 2 positions on average, with one product of width C for the scores and one for
    the values. Norms, rotary embedding, exclusions and the softmax are left out.
    """
    products = sum(
        math.prod(shape)
        for name, shape in parameter_shapes(model).items()
        if name == "tok_emb.weight" or (name.endswith(".weight") and ".embed." not in name)
    )
    return 2 * products + model.num_layers * 2 * model.model_dim * (seq_len + 1)


def muon_flops_per_step(recipe: Recipe) -> int:
    """Newton-Schulz over all of Muon's matrices [m, n], m <= n: each iteration 2 (2 m^2 n + m^3)."""
    shapes, total = parameter_shapes(recipe.model), 0
    for group in parameter_groups(shapes, recipe.optim):
        for name in group.parameters if group.optimizer == "muon" else ():
            m, n = sorted(shapes[name])
            total += 2 * (2 * m * m * n + m**3)
    return total * recipe.optim.newton_schulz_steps


def _work_rows(recipe: Recipe) -> Iterator[Row]:
    tokens, seq_len = recipe.data.batch_tokens, recipe.data.seq_len
    forward, flops, muon = _step_flops(recipe)
    yield "tokens of a step", tokens, "tokens", f"{tokens // seq_len:,} sequences of {seq_len:,}"
    yield "forward pass of a token", forward, "FLOP", "matrix products and causal attention"
    yield "forward and backward of a step", flops, "FLOP", f"{1 + BACKWARD} x forward x tokens"
    yield "Newton-Schulz of a step", muon, "FLOP", f"{muon / flops:.1%} of forward and backward"


def _step_flops(recipe: Recipe) -> tuple[int, int, int]:
    """FLOP of (a token's forward pass, all forward and backward passes of a step, its Newton-Schulz iterations)."""
    forward = forward_flops_per_token(recipe.model, recipe.data.seq_len)
    return forward, (1 + BACKWARD) * forward * recipe.data.batch_tokens, muon_flops_per_step(recipe)


def _budget_rows(recipe: Recipe, steps: int | None, why: str) -> Iterator[Row]:
    missing = "" if steps else "needs the steps"
    work = sum(_step_flops(recipe)[1:])
    yield "steps in the budget", steps, "steps", why
    yield "tokens in the budget", steps and steps * recipe.data.batch_tokens, "tokens", missing
    yield "work in the budget", steps and steps * work, "FLOP", missing


# ---------------------------------------------------------------------- for a terminal


def format_plan(table: pd.DataFrame) -> str:
    """The plan as text of at most WIDTH columns: groups with headings, thousands separated, long notes wrapped."""
    rows = [
        (row.group, _short(row), *_readable(row.value, row.unit, row.group), row.note) for row in table.itertuples()
    ]
    name, value, unit = (max(len(row[column]) for row in rows) for column in (1, 2, 3))
    indent = name + value + unit + 7
    lines, group = [], None
    for row in rows:
        if row[0] != group:
            group = row[0]
            lines += ["", group.capitalize()]
        first, *more = textwrap.wrap(row[4], max(WIDTH - indent, 20)) or [""]
        lines.append(f"  {row[1]:<{name}}  {row[2]:>{value}} {row[3]:<{unit}}  {first}".rstrip())
        lines += [" " * indent + line for line in more]
    return "\n".join(lines[1:])


def _short(row: object) -> str:
    """A quantity's name without the prefix that its heading already says."""
    if row.quantity == "predicted bytes left":
        return "left under the cap"
    return row.quantity.removeprefix("parameters: ").removeprefix("predicted bytes: ").removeprefix("memory: ")


def _readable(value: float | None, unit: str, group: str) -> tuple[str, str]:
    if value is None or math.isnan(value):
        return "–", unit
    if unit == "FLOP":
        for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
            if value >= 10**power:
                return f"{value / 10**power:,.2f}", f"{prefix}FLOP"
    if group.startswith("memory") and unit == "bytes":
        mib = value / 2**20
        return f"{mib:,.{0 if mib >= 100 else 1}f}", "MiB"
    return f"{value:,}", unit
