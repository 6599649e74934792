"""What a recipe will take before anything runs: parameters, bytes of the artifact, work of a step, memory, steps.

Where a recipe has the network and the step of a record, its published step time, files and peak stand beside the
prediction.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator

import pandas as pd

from pgolf_core.adapting.told import EVALUATION_SECONDS
from pgolf_core.lab.compare.records import RECORD_DIR, Published, load_published, record_of, seeds_table
from pgolf_core.lab.export import code_bytes_of
from pgolf_core.lab.look.n02_network import parameter_budget
from pgolf_core.lab.plan.bytes import ERROR, predicted_bytes
from pgolf_core.lab.plan.memory import RECORD_RANKS, Row, memory_rows, ranks_of, runs
from pgolf_core.lab.plan.seconds import adapting_work, calibration_rows, evaluation_rows, validation_text
from pgolf_core.lab.shared.places import SCRIPT
from pgolf_core.lab.shared.tables import so_many, table_text
from pgolf_core.lab.shared.texts import FINEWEB_TRACK
from pgolf_core.lab.shared.usage import UsageError
from pgolf_core.network.model import parameter_shapes
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Model, Recipe
from pgolf_core.training.optim import parameter_groups

SORTING = "what sorting saves in the codes is not counted: 0.8 and 2.6% of two local runs' by brotli"
LEAST_STEP_MS = 1e-6
BACKWARD = 2
"""Work of the backward pass relative to the forward pass: one product for the inputs, one for the weights."""


def plan_table(recipe: Recipe, step_ms: float | None = None, ranks: int | None = None) -> pd.DataFrame:
    """Columns group, quantity, value, unit, note (value NaN where it cannot be told). Nothing is allocated or trained.

    `step_ms`, milliseconds of an optimiser step, turns the clock into steps; without it the published step of a record
    with this network and batch does; failing both, all iterations are taken to be run, which overstates the bytes.
    `ranks` share a step (default: 8 on the record track, else 1). UserError for a step_ms that is not positive and for
    ranks that do not divide the step's spans.
    """
    if step_ms is not None and not LEAST_STEP_MS <= step_ms < math.inf:
        raise UsageError(f"--step-ms {step_ms} must be a positive number of milliseconds, at least {LEAST_STEP_MS:g}")
    ranks = ranks_of(recipe, ranks)
    record = published_of(recipe)
    step_ms, source = _step_time(step_ms, ranks, record)
    steps, why = planned_steps(recipe, step_ms, source)
    rows = [("parameters", *row) for row in _parameter_rows(recipe.model)]
    rows += [("artifact, predicted", *row) for row in _byte_rows(recipe, steps, record)]
    rows += _work_rows(recipe, steps, why)
    if step_ms is not None:
        rows += [("the budget", *row) for row in calibration_rows(recipe, step_ms / 1000, ranks)]
    rows += [("evaluation", *row) for row in _adapting_rows(recipe, step_ms, record)]
    beside = record if ranks == RECORD_RANKS else None
    rows += [("memory of a rank", *row) for row in memory_rows(recipe, ranks, beside)]
    return pd.DataFrame(rows, columns=["group", "quantity", "value", "unit", "note"], dtype=object).fillna(math.nan)


def published_of(recipe: Recipe) -> Published | None:
    """The record whose network and step this recipe has, on the record track; None for every other recipe."""
    name = record_of(recipe.name) if recipe.track == FINEWEB_TRACK and RECORD_DIR.is_dir() else None
    same_step = name is not None and _step_of(recipe) == _step_of(load_recipe(name))
    return load_published(name) if name and same_step else None


def _step_of(recipe: Recipe) -> tuple[object, ...]:
    """What the time and the memory of a step depend on: tensors, switches, tokens."""
    model, data = recipe.model, recipe.data
    switches = (model.num_heads, model.num_kv_heads, model.rope_dims, model.xsa_last_n, model.ve_layers, model.smear)
    newer = (runs(model), model.parallel_start, model.negative_slope)
    return parameter_shapes(model), switches, newer, data.batch_tokens, data.seq_len


def _step_time(step_ms: float | None, ranks: int, record: Published | None) -> tuple[float | None, str]:
    """(milliseconds of a step: those that are given, or a record's own mean; what is to be said of them)."""
    if step_ms is not None or record is None:
        return step_ms, ""
    if ranks != RECORD_RANKS:
        return None, f"; {record.name}'s published step was taken on {RECORD_RANKS} ranks"
    made = f"on {record.hardware}, where runs made {_published(record, 'steps')} steps"
    return float(seeds_table(record)["ms_per_step"].mean()), f", the step published with {record.name} {made}"


def planned_steps(recipe: Recipe, step_ms: float | None, source: str) -> tuple[int | None, str]:
    """(steps until clock or iterations end the training, what ends it); None where no step time is known."""
    schedule = recipe.schedule
    seconds = schedule.max_seconds - schedule.reserve_seconds
    if schedule.max_seconds <= 0:
        return schedule.iterations, "schedule.iterations; no clock"
    if step_ms is None:
        return None, f"needs --step-ms: {seconds:g} s of training end at the clock{source}"
    by_clock = math.ceil(seconds * 1000 / step_ms)
    if by_clock < schedule.iterations:
        return by_clock, f"{seconds:g} s at {step_ms:.4g} ms{source}"
    return schedule.iterations, f"schedule.iterations; the clock would allow {by_clock:,}"


def _published(record: Published, column: str) -> str:
    """Smallest to largest of a record's seeds, or the one value."""
    low, high = (int(end) for end in seeds_table(record)[column].agg(["min", "max"]))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


# ---------------------------------------------------------------------- the rows


def _parameter_rows(model: Model) -> Iterator[Row]:
    budget = parameter_budget(model)
    yield "parameters", int(budget["parameters"].sum()), "weights", ""
    for kind, row in budget.iterrows():
        note = f"{so_many(int(row['tensors']), 'tensor')}, {row['share']:.1%}"
        yield f"parameters: {kind}", int(row["parameters"]), "weights", note


def _byte_rows(recipe: Recipe, known_steps: int | None, record: Published | None) -> Iterator[Row]:
    steps = known_steps or recipe.schedule.iterations
    sizes = predicted_bytes(recipe, steps)
    for part, row in sizes.iterrows():
        kind = f"Gaussian weights of std {row['std']}" if row["std"] else "numbers" if part == "low rank" else "weights"
        spread = f"{row['weights']:,} {kind}: {row['bits']:.2f} bits each"
        note = f"{row['weights']:,} weights at 2 bytes" if part == "fp16" else spread if row["weights"] else ""
        note = SORTING if part == "orders of rows" else note
        yield f"predicted bytes: {part}", int(row["bytes"]), "bytes", note
    notes = {"file": f"weights after {so_many(steps, 'step')}", "code": f"{SCRIPT}, {recipe.script}", "total": ""}
    if known_steps is None:
        notes["file"] += " (schedule.iterations); the clock may end it sooner, on fewer bytes"
    if record is not None:
        notes["file"] += f"; published: {_published(record, 'model_bytes')}"
        notes["code"] += f"; published script: {record.script_bytes:,}"
        notes["total"] = f"published: {_published(record, 'total_bytes')}"
    file, code = int(sizes["bytes"].sum()), code_bytes_of(recipe)
    left = recipe.cap_bytes - file - code
    yield "predicted bytes: artifact", file, "bytes", notes["file"]
    yield "code", code, "bytes", notes["code"]
    yield "predicted bytes: total", file + code, "bytes", notes["total"]
    yield "cap", recipe.cap_bytes, "bytes", f"track {recipe.track}"
    spent = "spent: steps are as fine as the file's target allows" if recipe.quant.kind == "steps" and left >= 0 else ""
    yield "predicted bytes left", left, "bytes", spent or _verdict(left, ERROR * file, known_steps is not None)


def _verdict(left: int, error_bytes: float, is_known: bool) -> str:
    """What the bytes left under the cap mean, in words; `error_bytes` is how far the prediction may be off."""
    closeness = f"by less than the prediction's error of {ERROR:.0%}"
    if left >= 0:
        return "fits under the cap" if left > error_bytes else f"fits under the cap, but {closeness}"
    remedy = "coarser grids (quant.*), fewer layers or a narrower model"
    if not is_known:
        return f"over the cap if all iterations are run; give --step-ms, or take {remedy}"
    if -left <= error_bytes:
        return f"over the cap, though {closeness}; to be safe take {remedy}"
    return f"OVER THE CAP by {-left:,} bytes: packing would refuse it; take {remedy}"


def forward_flops_per_token(model: Model, seq_len: int) -> int:
    """Multiply-adds count two: matrix products of blocks, bigram and head, and the unmasked half of attention. A block
    in a loop counts as often as it runs.

    A token attends to (seq_len + 1) / 2 positions on average, with one product of width C for the scores and one for
    the values. Norms, rotary embedding, exclusions and the softmax are left out.
    """
    products, passes = 0, Counter(f"blocks.{layer}" for layer in runs(model))
    for name, shape in parameter_shapes(model).items():
        if name.endswith(".weight") and ".embed." not in name:
            products += math.prod(shape) * (passes[".".join(name.split(".")[:2])] or 1)
    return 2 * products + len(runs(model)) * 2 * model.model_dim * (seq_len + 1)


def looped_share(recipe: Recipe, on: float, off: float) -> float:
    """Share of a run's steps that have the loop on, whose forward pass takes `on` FLOP with it and `off` without.

    The budget is switched at schedule.loop_at. Of a clock, equal seconds are taken to be equal work.
    """
    before = recipe.schedule.loop_at
    if recipe.schedule.max_seconds > 0:
        before = before * on / (before * on + (1 - before) * off)
    return 1 - before


def muon_flops_per_step(recipe: Recipe) -> int:
    """Newton-Schulz over all of Muon's matrices [m, n], m <= n: each iteration 2 (2 m^2 n + m^3)."""
    shapes = parameter_shapes(recipe.model)
    muon = [group.parameters for group in parameter_groups(shapes, recipe.optim) if group.optimizer == "muon"]
    sides = [sorted(shapes[name]) for names in muon for name in names]
    return recipe.optim.newton_schulz_steps * sum(2 * (2 * m * m * n + m**3) for m, n in sides)


def _work_rows(recipe: Recipe, steps: int | None, why: str) -> Iterator[tuple[str, *Row]]:
    """Of a step, and of all steps in the budget; each with its group."""
    tokens, seq_len = recipe.data.batch_tokens, recipe.data.seq_len
    forward, muon = forward_flops_per_token(recipe.model, seq_len), muon_flops_per_step(recipe)
    without = forward_flops_per_token(dataclasses.replace(recipe.model, num_loops=0), seq_len)
    share = looped_share(recipe, forward, without)
    flops, one, all_of_them = (1 + BACKWARD) * forward * tokens, "a step", "the budget"
    mean = share * flops + (1 - share) * flops * without / forward
    loop = f"; {share:.0%} of the steps loop, others take {without / forward:.0%}" if without < forward else ""
    yield one, "tokens of a step", tokens, "tokens", f"{so_many(tokens // seq_len, 'sequence')} of {seq_len:,}"
    yield one, "forward pass of a token", forward, "FLOP", f"matrix products and causal attention{loop}"
    yield one, "forward and backward of a step", flops, "FLOP", f"{1 + BACKWARD} x forward x tokens"
    yield one, "Newton-Schulz of a step", muon, "FLOP", f"{muon / flops:.1%} of forward and backward"
    missing = "" if steps else "needs the steps"
    yield all_of_them, "steps in the budget", steps, "steps", why
    yield all_of_them, "tokens in the budget", steps and steps * tokens, "tokens", missing
    yield all_of_them, "work in the budget", steps and steps * round(mean + muon), "FLOP", missing


def _adapting_rows(recipe: Recipe, step_ms: float | None, record: Published | None) -> Iterator[Row]:
    """What a recipe that adapts its packed weights, or mixes, will do for that, and how long; nothing of any other.

    Of mixing alone, whose seconds are few off the record track, nothing is said there.
    """
    learns = recipe.adapt.kind != "off"
    if not learns and (recipe.adapt.mix == "off" or recipe.track != FINEWEB_TRACK):
        return
    text, forward = validation_text(recipe), forward_flops_per_token(recipe.model, recipe.eval.seq_len)
    work = adapting_work(recipe, text, forward) if text else None
    missing = "" if text else f"{recipe.data.dataset} is not prepared here (pgolf data)"
    yield "targets of the text", text.targets if text else None, "targets", text.source if text else missing
    if learns:
        yield "scoring while adapting", work and work.score, "FLOP", work.told if work else missing
        yield "learning while adapting", work and work.learn, "FLOP", missing or f"adapt.kind = {recipe.adapt.kind}"
    published = ""
    if record and record.eval_seconds:
        published = f"; {record.name}'s whole evaluation took {record.eval_seconds:g} s"
    if text is None or work is None or step_ms is None:
        yield "adapting", None, "s", f"{missing or 'needs --step-ms'}{published}"
        return
    step = (1 + BACKWARD) * forward * recipe.data.batch_tokens + muon_flops_per_step(recipe)
    if learns:
        seconds = float(f"{(work.score + work.learn) / step * step_ms / 1000:.4g}")
        yield "adapting", seconds, "s", f"at a step's own speed, of {EVALUATION_SECONDS:g} s for all scores{published}"
    yield from evaluation_rows(recipe, work, text.targets, forward, step / (step_ms / 1000))


# ---------------------------------------------------------------------- for a terminal


def plan_text(table: pd.DataFrame) -> str:
    """The plan as people read it: a table for each group, thousands separated, large units scaled."""
    parts = []
    for group, rows in table.groupby("group", sort=False):
        names = rows["quantity"].str.replace(r"^(parameters|predicted bytes|memory): ", "", regex=True)
        values = [_readable(row.value, row.unit, str(group)) for row in rows.itertuples()]
        cells = zip(names.replace("predicted bytes left", "left under the cap"), rows["note"], values, strict=True)
        parts.append(table_text((str(group).capitalize(), "", ""), cells, left=2))
    return "\n\n".join(parts)


def _readable(value: float, unit: str, group: str) -> str:
    if math.isnan(value):
        return f"– {unit}"
    for prefix, power in zip("EPTGMk", (18, 15, 12, 9, 6, 3), strict=True) if unit == "FLOP" else ():
        if value >= 10**power:
            return f"{value / 10**power:,.2f} {prefix}FLOP"
    if group.startswith("memory") and unit == "bytes":
        return f"{value / 2**20:,.{0 if value >= 100 * 2**20 else 1}f} MiB"
    return f"{value:,} {unit}".rstrip()
