"""What notebooks 02 to 05 set beside a run: its record's recipe, the techniques of all five, the published figures.

Tables and curves only; nothing here decides anything. The run's own recipe is always the column OWN, the others have
their record's name. Published runs had other data, another size and other machines: what is set side by side here is
compared in shape, never as a race.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pgolf_core.lab.compare.records import RECORDS, Published, load_published, record_of
from pgolf_core.lab.recipes.settings import flatten
from pgolf_core.network.attention import rotary_base
from pgolf_core.network.grid import GRIDS
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Model, Quant, Recipe, to_dict

OWN = "this recipe"
MOST_POINTS = 40
"""Points of a run's own curve beside a published one, which has few."""
NOTES = "papers/techniques"
Series = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Record:
    """The published record that a recipe belongs to."""

    name: str
    recipe: Recipe
    """As its document describes it, every part working, at full size."""
    as_run: Recipe
    """What its published runs really did."""
    published: Published

    @property
    def title(self) -> str:
        """`PR 315`."""
        return f"PR {self.name.removeprefix('pr')}"


def record_behind(recipe_name: str) -> Record | None:
    """The record that a recipe (a name, or a path ending in .toml) descends from, or None: then nothing is compared."""
    name = record_of(recipe_name)
    if name is None:
        return None
    return Record(name, load_recipe(name), load_recipe(f"{name}-as-run"), load_published(name))


def beside(settings: Recipe, record: Record | None) -> dict[str, Recipe]:
    """{OWN: the run's recipe, record's name: its full-size recipe}, the first alone where there is no record."""
    return {OWN: settings} | ({record.name: record.recipe} if record else {})


def beside_all(settings: Recipe) -> dict[str, Recipe]:
    """The run's recipe and those of all five records."""
    return {OWN: settings} | {name: load_recipe(name) for name in RECORDS}


# ---------------------------------------------------------------------- techniques


@dataclass(frozen=True)
class Technique:
    """Something that a recipe has or lacks."""

    name: str
    note: str
    """Its note in papers/techniques."""
    state: Callable[[Recipe], str]
    """Its value in a recipe, in a few words; empty where it is off."""


def _span(layers: Sequence[int]) -> str:
    whole = len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if whole else ", ".join(map(str, layers))


def _rotary(r: Recipe) -> str:
    m = r.model
    stretch = rotary_base(r.data.seq_len, m.rope_dims, m.rope_base, m.rope_reference_tokens) / m.rope_base
    head = m.model_dim // m.num_heads
    if m.rope_dims == head and stretch == 1:
        return ""
    return f"{m.rope_dims} of {head} dims" + (f", base × {stretch:.2f}" if stretch != 1 else "")


def _xsa(r: Recipe) -> str:
    m = r.model
    return f"layers {_span(range(m.num_layers - m.xsa_last_n, m.num_layers))}" if m.xsa_last_n else ""


def _value_embedding(r: Recipe) -> str:
    if not r.model.ve_dim:
        return ""
    return f"width {r.model.ve_dim}, layers {_span(r.model.ve_layers)}" + (", frozen" if r.optim.ve_frozen else "")


def _grouped(r: Recipe) -> str:
    m = r.model
    return f"{m.num_heads} heads, {m.num_kv_heads} keys" if m.num_kv_heads < m.num_heads else ""


def _muon(r: Recipe) -> str:
    o = r.optim
    return f"lr {o.matrix_lr:g}, decay {o.muon_wd:g} {o.muon_wd_order} the step"


def _qat(r: Recipe) -> str:
    q = r.qat
    if q.kind == "off":
        return ""
    start = "from step 0" if q.kind == "always" else f"below m = {q.threshold:g}"
    half = f", lr × {q.lr_factor:g}" if q.lr_factor != 1 else ""
    return f"{start}, {'the packed grid' if q.grid == 'packed' else q.grid}{half}"


def parts_on(quant: Quant, wanted: Callable[[str], bool]) -> list[str]:
    """Parts of the network whose grid's name `wanted` accepts, exceptions aside; by gradient three grids count."""
    fields = {"attention": "attention", "mlp": "MLP", "tok_emb": "token embedding", "other": "other tables"}
    names = {label: [getattr(quant, key)] for key, label in fields.items()}
    if quant.allocation == "gradient":  # attention, MLP and bigram; the other tables keep their grid
        by_gradient = [f"int{bits}_row_clip" for bits in (5, 6, 7)]
        names |= {"attention": by_gradient, "MLP": by_gradient}
    return [label for label, grids in names.items() if any(wanted(grid) for grid in grids)]


def _has_floor(name: str) -> bool:
    return name in GRIDS and GRIDS[name].scale_floor * GRIDS[name].levels > 0.5


def _is_searched(name: str) -> bool:
    return name in GRIDS and len(GRIDS[name].clip_quantiles) > 1


TECHNIQUES = (
    Technique("smear gate", "smear-gate", lambda r: "" if r.model.smear == "off" else f"{r.model.smear} the norm"),
    Technique(
        "bigram hash", "bigram-hash",
        lambda r: f"{r.model.bigram_rows:,} × {r.model.bigram_dim}" if r.model.bigram_rows else "",
    ),
    Technique("partial rotary", "partial-rope", _rotary),
    Technique("LN scale", "ln-scale", lambda r: "1/sqrt(l+1)" if r.model.ln_scale else ""),
    Technique("exclusive self-attention", "xsa", _xsa),
    Technique("U-Net skips", "unet-skips", lambda r: f"{r.model.num_layers // 2}" if r.model.num_layers > 1 else ""),
    Technique("value embedding", "value-embedding", _value_embedding),
    Technique("grouped queries", "grouped-queries", _grouped),
    Technique("soft cap on tied logits", "soft-capped-tied-head", lambda r: f"{r.model.logit_softcap:g}"),
    Technique("orthogonal start", "initialisation", lambda r: "yes" if r.model.init == "orthogonal" else ""),
    Technique("Muon", "muon", _muon),
    Technique("EMA", "ema", lambda r: f"decay {r.average.ema_decay:g}" if r.average.kind == "ema" else ""),
    Technique(
        "SWA", "swa",
        lambda r: (
            f"below m = {r.average.swa_start:g}, every {r.average.swa_every_steps}" if r.average.kind == "swa" else ""
        ),
    ),
    Technique("quantisation-aware training", "qat", _qat),
    Technique("floor under the scales", "int6-rows-with-a-floor", lambda r: ", ".join(parts_on(r.quant, _has_floor))),
    Technique("clip search", "clip-search", lambda r: ", ".join(parts_on(r.quant, _is_searched))),
    Technique(
        "bits by gradient", "gradient-guided-bits",
        lambda r: "5, 6 or 7 bits" if r.quant.allocation == "gradient" else "",
    ),
    Technique("zstd on whole bytes", "zstd-on-int-in-int8", lambda r: f"level {r.quant.zstd_level}"),
    Technique(
        "sliding evaluation", "sliding-evaluation",
        lambda r: f"{r.eval.stride} of {r.eval.seq_len:,}" if r.eval.stride < r.eval.seq_len else "",
    ),
)  # fmt: skip
"""In the order of notebooks 02 to 06."""


def technique_table(recipes: Mapping[str, Recipe]) -> pd.DataFrame:
    """One row a technique, one column a recipe with the technique's value or `off`, and the note that explains it."""
    rows = {
        each.name: {label: each.state(one) or "off" for label, one in recipes.items()}
        | {f"note in {NOTES}": f"{each.note}.md"}
        for each in TECHNIQUES
    }
    return pd.DataFrame(rows).T.rename_axis("technique")


def techniques_on(settings: Recipe) -> list[str]:
    """Names of the techniques that a recipe has."""
    return [each.name for each in TECHNIQUES if each.state(settings)]


def differences(recipes: Mapping[str, Recipe], sections: Sequence[str] = ()) -> pd.DataFrame:
    """Every setting (`section.key`) on which these recipes do not agree, one column a recipe, values as written."""
    flat = {label: flatten(to_dict(one)) for label, one in recipes.items()}
    keys = [key for key in next(iter(flat.values())) if "." in key]
    chosen = [key for key in keys if not sections or key.partition(".")[0] in sections]
    rows = {key: {label: _written(values[key]) for label, values in flat.items()} for key in chosen}
    unequal = {key: row for key, row in rows.items() if len(set(row.values())) > 1}
    return pd.DataFrame(unequal, index=list(recipes)).T.rename_axis("setting")


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_written, value)) or "none"
    return f"{value:,}" if type(value) is int else f"{value:g}" if type(value) is float else str(value)


def formula_table(config: Model, num_tokens: int) -> pd.DataFrame:
    """Which terms of notebook 02's formulas this network has, at sequences of `num_tokens`: term, on, here.

    `here` says what the term is in this network, or what remains of the formula without it.
    """
    layers, head = config.num_layers, config.model_dim // config.num_heads
    base = rotary_base(num_tokens, config.rope_dims, config.rope_base, config.rope_reference_tokens)
    stretched = base > config.rope_base * (1 + 1e-9)
    xsa = [*range(layers - config.xsa_last_n, layers)]
    base_text = f"base {base:,.0f}" + (f", stretched from {config.rope_base:,.0f}" if stretched else ", not stretched")
    turned = f"R = {config.rope_dims} of D = {head} dims turn" if config.rope_dims < head else f"R = D = {head}"
    rows = [
        ("bigram hash", bool(config.bigram_rows), f"N = {config.bigram_rows:,}, width {config.bigram_dim}", "e = E[x]"),
        ("smear gate", config.smear != "off", f"{config.smear} the norm", "the first stream is norm(e)"),
        ("LN scale", config.ln_scale, f"1 down to {layers**-0.5:.3f} in layer {layers - 1}", "1 in every layer"),
        ("U-Net skips", layers > 1, f"{layers // 2} of them", "one layer has none"),
        (
            "value embedding", bool(config.ve_dim),
            f"width {config.ve_dim}, added in layers {_span(config.ve_layers)}", "v = W_v times the block's input",
        ),
        (
            "partial rotary", config.rope_dims < head,
            f"{turned}, {base_text}", f"the whole head turns ({turned}), {base_text}",
        ),
        ("exclusive self-attention", bool(xsa), f"layers {_span(xsa)}", "z = y in every layer"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["term", "on", "with", "without"])
    here = table["with"].where(table["on"], "off: " + table["without"])
    return pd.DataFrame({"term": table["term"], "on": table["on"], "here": here})


# ---------------------------------------------------------------------- training


def steps_table(label: str, own: Mapping[str, float], published: Published | None) -> pd.DataFrame:
    """The run `label` and every published seed: steps, milliseconds a step, tokens, tokens per parameter, raw bpb.

    `own` has steps, seconds (of training), tokens, parameters and raw_bpb (of raw weights at the end).
    """
    rows = {
        label: {
            "steps": own["steps"],
            "ms a step": 1000 * own["seconds"] / max(own["steps"], 1),
            "tokens a step": own["tokens"] / max(own["steps"], 1),
            "tokens": own["tokens"],
            "tokens per parameter": own["tokens"] / own["parameters"],
            "raw, at the end (bpb)": own["raw_bpb"],
        }
    }
    for seed in published.seeds if published else ():
        tokens, milliseconds = seed.steps * published.batch_tokens, seed.ms_per_step or published.ms_per_step
        rows[f"{published.name}, seed {seed.seed}"] = {
            "steps": seed.steps,
            "ms a step": _number(milliseconds),
            "tokens a step": published.batch_tokens,
            "tokens": tokens,
            "tokens per parameter": tokens / published.parameters,
            "raw, at the end (bpb)": _number(seed.raw_bpb),
        }
    return pd.DataFrame(rows).T.rename_axis("run")


def curve_panels(
    published: Published, train: pd.DataFrame, val: pd.DataFrame, skip_share: float = 0.1
) -> dict[str, Series]:
    """Panels for `plots.curves`, over the share of the run's own steps: a record's curves, and the run's of that kind.

    {y label: {line: (share, value)}}. Left out is the first `skip_share` of the steps, whose fall would flatten the
    rest, and a published curve that has fewer than two points after it; the run's own is thinned. `train` and `val` are
    the tables of `analysis_training.metrics_tables`.
    """
    panels: dict[str, Series] = {}
    last = {seed.seed: seed.steps for seed in published.seeds}
    own = {"train loss": (train, "loss"), "val bpb": (val, "bpb")}
    for what, (table, column) in own.items():
        lines: Series = {}
        for curve in published.curves:
            share = np.array(curve.steps) / last.get(curve.seed, max(*last.values(), curve.steps[-1]))
            late = share > skip_share
            if curve.what == what and late.sum() > 1:
                lines[curve.label] = (share[late], np.array(curve.values)[late])
        if lines:
            share = (table["step"] / train["step"].iloc[-1]).to_numpy()
            late = np.flatnonzero(share > skip_share)
            late = late[np.unique(np.linspace(0, len(late) - 1, min(len(late), MOST_POINTS)).astype(int))]
            unit = next(curve.unit for curve in published.curves if curve.what == what)
            words = {"train loss": "training loss", "val bpb": "validation"}[what]
            panels[f"{published.name}: {words} ({unit})"] = lines
            panels[f"this run: {words} ({unit})"] = {"this run": (share[late], table[column].to_numpy()[late])}
    return panels


def first_losses(published: Published, train: pd.DataFrame, steps: int = 6) -> pd.DataFrame:
    """Training loss (nats per token) of the first steps, the run's own and the published ones: rows are runs."""
    rows = {"this run": dict(zip(train["step"], train["loss"], strict=True))}
    for curve in published.curves:
        if curve.what == "train loss":
            rows[curve.label] = dict(zip(curve.steps, curve.values, strict=True))
    columns = range(1, steps + 1)
    table = pd.DataFrame({run: [losses.get(step, np.nan) for step in columns] for run, losses in rows.items()}).T
    return table.set_axis([f"step {step}" for step in columns], axis=1).dropna(how="all").rename_axis("run")


# ---------------------------------------------------------------------- packing


def rule_table(recipes: Mapping[str, Recipe]) -> pd.DataFrame:
    """How each recipe chooses a tensor's grid: one row a rule, in the order in which they are asked."""
    return pd.DataFrame({label: _rules(one.quant) for label, one in recipes.items()}).rename_axis("rule")


def _rules(quant: Quant) -> dict[str, str]:
    steps = "steps by gradient" if quant.kind == "steps" else ""
    by_gradient = steps or ("int5, int6 or int7_row_clip" if quant.allocation == "gradient" else "")
    return {
        "by name (patterns)": f"{len(quant.exceptions)}",
        "fp16 up to (weights)": f"{quant.small_tensor_elements:,}",
        "attention": by_gradient or quant.attention,
        "MLP": by_gradient or quant.mlp,
        "bigram table": by_gradient or quant.other,
        "token embedding": steps or quant.tok_emb,
        "other tables": steps or quant.other,
        "zstd level": str(quant.zstd_level),
    }


def records_with_rule(quant: Quant) -> list[str]:
    """Records that put attention, MLP and tables on the same grids; sizes and tensors named one by one may differ."""
    ignored = ("by name (patterns)", "fp16 up to (weights)", "zstd level")
    mine = {rule: grid for rule, grid in _rules(quant).items() if rule not in ignored}
    return [name for name in RECORDS if mine.items() <= _rules(load_recipe(name).quant).items()]


def bytes_table(label: str, own: Mapping[str, int], published: Published | None, cap_bytes: int) -> pd.DataFrame:
    """The run's file and every published seed's: bytes of model and code, their total, share of the cap, bits a weight.

    `own` has model, code, total, cap and parameters. Published files count against `cap_bytes`.
    """
    rows = {label: {key: own[key] for key in ("model", "code", "total", "cap", "parameters")}}
    for seed in published.seeds if published else ():
        rows[f"{published.name}, seed {seed.seed}"] = {
            "model": _number(seed.model_bytes),
            "code": published.script_bytes,
            "total": _number(seed.total_bytes),
            "cap": cap_bytes,
            "parameters": published.parameters,
        }
    table = pd.DataFrame(rows).T.rename_axis("run").astype(float)
    table["share of the cap"] = table["total"] / table["cap"]
    table["bits per parameter"] = 8 * table["model"] / table["parameters"]
    return table


def loss_table(label: str, own: Mapping[str, float], published: Published | None) -> pd.DataFrame:
    """bpb of raw weights, of averaged ones as trained, and of the packed file, with what lies between them.

    Standard windows throughout. No record measured its averaged weights before packing; of those without a standard
    score of the packed file nothing can be said (NaN).
    """
    rows = {label: dict(own)}
    for seed in published.seeds if published else ():
        rows[f"{published.name}, seed {seed.seed}"] = {
            "raw": _number(seed.raw_bpb), "averaged": np.nan, "packed": _number(seed.standard_bpb)
        }  # fmt: skip
    table = pd.DataFrame(rows).T.rename_axis("run")[["raw", "averaged", "packed"]].astype(float)
    table["packed - averaged"] = table["packed"] - table["averaged"]
    table["packed - raw"] = table["packed"] - table["raw"]
    return table


def _number(value: float | None) -> float:
    return np.nan if value is None else value
