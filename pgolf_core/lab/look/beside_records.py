"""What notebooks 02 to 05 set beside a run: its record's recipe, the techniques of all records, the published figures.

The run's own recipe is always the column OWN, the others have their record's name. Published runs had other data,
another size and other machines: what stands side by side here is compared in shape, never as a race.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pgolf_core.lab.compare.records import RECORDS, UNITS, Published, load_published, record_of, seeds_table
from pgolf_core.lab.look.n02_network import base_in_force
from pgolf_core.lab.shared.plots import Series
from pgolf_core.lab.shared.settings import flatten
from pgolf_core.lab.shared.tables import so_many
from pgolf_core.network.grid import GRIDS
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Model, Quant, Recipe, to_dict

OWN = "this recipe"
MOST_POINTS = 40
"""Points of a run's own curve beside a published one, which has few."""
NOTES = "papers/techniques"
SKIPPED_SHARE, FIRST_STEPS = 0.1, 6


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
    if (name := record_of(recipe_name)) is None:
        return None
    return Record(name, load_recipe(name), load_recipe(f"{name}-as-run"), load_published(name))


def beside(settings: Recipe, record: Record | None) -> dict[str, Recipe]:
    """The run's recipe and, where there is a record, its full-size recipe."""
    return {OWN: settings} | ({record.name: record.recipe} if record else {})


def beside_all(settings: Recipe) -> dict[str, Recipe]:
    """The run's recipe and those of all records."""
    return {OWN: settings} | {name: load_recipe(name) for name in RECORDS}


def technique_states(settings: Recipe) -> dict[str, tuple[str, str]]:
    """{technique of notebooks 02 to 06: (its note in NOTES, its value in a few words; empty where it is off)}."""
    m, optim, average, quant = settings.model, settings.optim, settings.average, settings.quant
    head, layers, score = m.model_dim // m.num_heads, m.num_layers, settings.eval
    frozen = ", frozen" if optim.ve_frozen else ""
    stretch = base_in_force(m, settings.data.seq_len) / m.rope_base
    rotary = f"{m.rope_dims} of {head} dims" + (f", base × {stretch:.2f}" if stretch != 1 else "")
    grouped = m.num_kv_heads < m.num_heads and f"{so_many(m.num_heads, 'head')}, {so_many(m.num_kv_heads, 'key')}"
    floored = _parts_on(quant, lambda grid: grid.scale_floor * grid.levels > 0.5)
    sliding = score.stride < score.seq_len and f"{score.stride} of {score.seq_len:,}"
    brotli, on_steps = quant.compressor == "brotli", quant.kind == "steps"
    inside = {"trained": settings.data.order == "packed", "scored": score.document_mask}
    in_turn = f"{quant.correction_order} order" + (", the head too" if quant.correct_tok_emb else "")
    states = {
        "smear gate": ("smear-gate" if m.smear != "window" else "window-gates", _smear(m)),
        "bigram hash": ("bigram-hash", m.bigram_rows and f"{m.bigram_rows:,} × {m.bigram_dim}"),
        "partial rotary": ("partial-rope", (m.rope_dims < head or stretch != 1) and rotary),
        "LN scale": ("ln-scale", m.ln_scale and "1/sqrt(l+1)"),
        "exclusive self-attention": ("xsa", m.xsa_last_n and f"layers {_exclusive_layers(m)}"),
        "U-Net skips": ("unet-skips", layers > 1 and f"{layers // 2}"),
        "value embedding": ("value-embedding", m.ve_dim and f"width {m.ve_dim}, layers {_span(m.ve_layers)}{frozen}"),
        "grouped queries": ("grouped-queries", grouped),
        "soft cap on tied logits": ("soft-capped-tied-head", f"{m.logit_softcap:g}"),
        "orthogonal start": ("initialisation", m.init == "orthogonal" and "yes"),
        "Muon": ("muon", f"lr {optim.matrix_lr:g}, decay {optim.muon_wd:g} {optim.muon_wd_order} the step"),
        "EMA": ("ema", average.kind == "ema" and f"decay {average.ema_decay:g}"),
        "SWA": ("swa", average.kind == "swa" and f"below m = {average.swa_start:g}, every {average.swa_every_steps}"),
        "quantisation-aware training": ("qat", _qat(settings)),
        "floor under the scales": ("int6-rows-with-a-floor", floored),
        "clip search": ("clip-search", _parts_on(quant, lambda grid: len(grid.clip_quantiles) > 1)),
        "clip by standard deviations": ("sd-clip", _sigmas(quant)),
        "bits by gradient": ("gradient-guided-bits", quant.allocation == "gradient" and "5, 6 or 7 bits"),
        "steps by sensitivity": ("steps-by-sensitivity", on_steps and "every matrix"),
        "rounding in turn": ("rounding-in-turn", quant.correction != "off" and in_turn),
        "low-rank correction": ("low-rank-correction", quant.low_rank and f"rank {quant.low_rank}"),
        "gates as rows": ("gates-as-rows", quant.gates == "int8_row" and "int8"),
        "grouping by similarity": ("grouping-by-similarity", quant.grouping != "off" and quant.grouping),
        "zstd on whole bytes": ("zstd-on-int-in-int8", not (brotli or on_steps) and f"level {quant.zstd_level}"),
        "byte shuffle and brotli": ("byte-shuffle-and-brotli", brotli and "quality 11"),
        "sliding evaluation": ("sliding-evaluation", sliding),
        "gated heads": ("window-gates", m.attn_gate != "off" and f"by {m.gate_window} channels"),
        "two lanes": ("two-lanes", m.lanes == 2 and f"from layer {m.parallel_start} on"),
        "attention inside documents": ("attention-inside-documents", ", ".join(w for w, on in inside.items() if on)),
    }
    return {name: (note, state or "") for name, (note, state) in states.items()}


def _smear(config: Model) -> str:
    window = f"by {config.gate_window} channels, before the norm"
    return {"off": "", "window": window}.get(config.smear, f"{config.smear} the norm")


def _sigmas(quant: Quant) -> str:
    if not _parts_on(quant, lambda grid: grid.clip_sigmas > 0):
        return ""
    own = {"MLP": quant.mlp_clip_sigmas, "attention": quant.attention_clip_sigmas}
    own["token embedding"] = quant.embed_clip_sigmas
    said = ", ".join(f"{sigmas:g} ({part})" for part, sigmas in own.items() if sigmas)
    return said if all(own.values()) else f"{quant.clip_sigmas:g}, {said}"


def _span(layers: Sequence[int]) -> str:
    whole = len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if whole else ", ".join(map(str, layers))


def _exclusive_layers(model: Model) -> str:
    return _span(range(model.num_layers - model.xsa_last_n, model.num_layers))


def _qat(settings: Recipe) -> str:
    qat = settings.qat
    if qat.kind == "off":
        return ""
    start = "from step 0" if qat.kind == "always" else f"below m = {qat.threshold:g}"
    rates = f", lr × {qat.lr_factor:g}" if qat.lr_factor != 1 else ""
    return f"{start}, {'the packed grid' if qat.grid == 'packed' else qat.grid}{rates}"


def _parts_on(quant: Quant, wanted: Callable[[Any], bool]) -> str:
    """Parts of the network whose Grid is wanted, exceptions aside; by gradient three grids count for two parts."""
    if quant.kind == "steps":  # the named grids are not in use
        return ""
    names = {"attention": [quant.attention], "MLP": [quant.mlp], "token embedding": [quant.tok_emb],
             "other tables": [quant.other]}  # fmt: skip
    if quant.allocation == "gradient":  # attention, MLP and bigram; the other tables keep their grid
        by_gradient = [f"int{bits}_row_clip" for bits in (5, 6, 7)]
        names |= {"attention": by_gradient, "MLP": by_gradient}
    return ", ".join(part for part, grids in names.items() if any(wanted(GRIDS[g]) for g in grids if g in GRIDS))


def technique_table(recipes: Mapping[str, Recipe]) -> pd.DataFrame:
    """One row a technique, one column a recipe with its value or `off`, and the note that explains it."""
    table = pd.DataFrame({label: technique_states(one) for label, one in recipes.items()}).rename_axis("technique")
    notes = table.iloc[:, 0].str[0] + ".md"
    return table.map(lambda state: state[1] or "off").assign(**{f"note in {NOTES}": notes})


def techniques_on(settings: Recipe) -> list[str]:
    """Names of the techniques that a recipe has."""
    return [name for name, (_, state) in technique_states(settings).items() if state]


def differences(recipes: Mapping[str, Recipe], sections: Sequence[str] = ()) -> pd.DataFrame:
    """Every setting (`section.key`) on which these recipes do not agree, one column a recipe, values as written."""
    flat = {label: flatten(to_dict(one)) for label, one in recipes.items()}
    written = pd.DataFrame({label: {key: _written(value) for key, value in one.items()} for label, one in flat.items()})
    section = written.index.str.partition(".").get_level_values(0)
    chosen = section.isin(sections) if sections else written.index.str.contains(".", regex=False)
    return written[chosen & (written.nunique(axis=1) > 1)].rename_axis("setting")


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_written, value)) or "none"
    return f"{value:,}" if type(value) is int else f"{value:g}" if type(value) is float else str(value)


def formula_table(config: Model, num_tokens: int) -> pd.DataFrame:
    """Which terms of notebook 02's formulas a network has, at sequences of `num_tokens`: columns term, on, and here:
    what the term is in this network, or what remains of the formula without it."""
    layers, head, base = config.num_layers, config.model_dim // config.num_heads, base_in_force(config, num_tokens)
    stretched = f"stretched from {config.rope_base:,.0f}" if base > config.rope_base * (1 + 1e-9) else "not stretched"
    turned = f"base {base:,.0f}, {stretched}"
    rows = [
        ("bigram hash", config.bigram_rows, f"N = {config.bigram_rows:,}, width {config.bigram_dim}", "e = E[x]"),
        ("smear gate", config.smear != "off", _smear(config), "the first stream is norm(e)"),
        ("LN scale", config.ln_scale, f"1 down to {layers**-0.5:.3f} in layer {layers - 1}", "1 in every layer"),
        ("U-Net skips", layers > 1, f"{layers // 2} of them", "one layer has none"),
        ("value embedding", config.ve_dim, f"width {config.ve_dim}, added in layers {_span(config.ve_layers)}",
         "v = W_v times the block's input"),
        ("partial rotary", config.rope_dims < head, f"R = {config.rope_dims} of D = {head} dims turn, {turned}",
         f"the whole head turns (R = D = {head}), {turned}"),
        ("exclusive self-attention", config.xsa_last_n, f"layers {_exclusive_layers(config)}", "z = y in every layer"),
        ("gated heads", config.attn_gate != "off", f"by {config.gate_window} channels", "no head has a gate"),
        ("two lanes", config.lanes == 2, f"from layer {config.parallel_start} on", "there is one stream"),
    ]  # fmt: skip
    said = [(term, bool(on), there if on else f"off: {otherwise}") for term, on, there, otherwise in rows]
    return pd.DataFrame(said, columns=["term", "on", "here"])


def _runs(label: str, own: Mapping[str, float], published: Published | None) -> pd.DataFrame:
    """The run `label` and every published seed, by the keys of `own`; what was never published is NaN."""
    table = pd.DataFrame({label: own}, dtype=float).T.rename_axis("run")
    if published is None:
        return table
    names = {"standard_bpb": "packed", "script_bytes": "code"}
    seeds = seeds_table(published).rename(columns=names).rename(columns=lambda name: re.sub("_(bpb|bytes)$", "", name))
    code = seeds["code"].fillna(published.script_bytes)
    seeds = seeds.assign(parameters=published.parameters, code=code, tokens=seeds["steps"] * published.batch_tokens)
    seeds.index = [f"{published.name}, seed {seed.seed}" for seed in published.seeds]
    return pd.concat((table, seeds.reindex(columns=table.columns))).astype(float).rename_axis("run")


def steps_table(label: str, own: Mapping[str, float], published: Published | None) -> pd.DataFrame:
    """The run `label` and every published seed: steps, milliseconds a step, tokens, tokens per parameter, raw bpb.
    `own` has steps, seconds (of training), tokens, parameters and raw_bpb (of raw weights at the end)."""
    mine = {"raw": own["raw_bpb"], "ms_per_step": 1000 * own["seconds"] / max(own["steps"], 1)}
    runs = _runs(label, {**own, **mine}, published)
    return pd.DataFrame({
        "steps": runs["steps"], "ms a step": runs["ms_per_step"],
        "tokens a step": runs["tokens"] / runs["steps"].clip(lower=1), "tokens": runs["tokens"],
        "tokens per parameter": runs["tokens"] / runs["parameters"], "raw, at the end (bpb)": runs["raw"],
    })  # fmt: skip


def curve_panels(published: Published, train: pd.DataFrame, val: pd.DataFrame) -> dict[str, Series]:
    """Panels for `plots.curves`, over the share of the run's own steps: a record's curves, and the run's of that kind.

    Left out are the first steps (SKIPPED_SHARE), whose fall would flatten the rest, and a published curve that has
    fewer than two points after it; the run's own is thinned. `train` and `val` are those of `n03_training`.
    """
    panels: dict[str, Series] = {}
    last = {seed.seed: seed.steps for seed in published.seeds}
    own = {"train loss": ("training loss", "loss", train), "val bpb": ("validation", "bpb", val)}
    for what, (words, column, table) in own.items():
        lines: dict[str, tuple[Any, Any]] = {}
        for curve in published.curves:
            end = max(*last.values(), curve.steps[-1]) if curve.seed is None else last[curve.seed]
            late = np.array(curve.steps) > SKIPPED_SHARE * end
            if curve.what == what and late.sum() > 1:
                lines[curve.label] = np.array(curve.steps)[late] / end, np.array(curve.values)[late]
        if lines:
            rows = table.assign(share=table["step"] / train["step"].iloc[-1])
            rows = rows[rows["share"] > SKIPPED_SHARE]
            rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_POINTS)).astype(int))]
            panels[f"{published.name}: {words} ({UNITS[what]})"] = lines
            own_line = rows["share"].to_numpy(), rows[column].to_numpy()
            panels[f"this run: {words} ({UNITS[what]})"] = {"this run": own_line}
    return panels


def first_losses(published: Published, train: pd.DataFrame) -> pd.DataFrame:
    """Training loss (nats per token) of the first steps, the run's own and the published ones: rows are runs."""
    rows = {"this run": train.set_index("step")["loss"]}
    rows |= {one.label: pd.Series(one.values, one.steps) for one in published.curves if one.what == "train loss"}
    table = pd.DataFrame(rows).T.reindex(columns=range(1, FIRST_STEPS + 1)).add_prefix("step ")
    return table.dropna(how="all").rename_axis("run")


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
        "compressor": "brotli" if quant.compressor == "brotli" else f"zstd, level {quant.zstd_level}",
    }


def records_with_rule(quant: Quant) -> list[str]:
    """Records that put attention, MLP and tables on the same grids; sizes and tensors named one by one may differ."""
    ignored = ("by name (patterns)", "fp16 up to (weights)", "compressor")
    mine = {rule: grid for rule, grid in _rules(quant).items() if rule not in ignored}
    return [name for name in RECORDS if mine.items() <= _rules(load_recipe(name).quant).items()]


def bytes_table(label: str, own: Mapping[str, int], published: Published | None, cap_bytes: int) -> pd.DataFrame:
    """The run's file and every published seed's: bytes of model and code, their total, share of the cap, bits a weight.
    `own` has model, code, total, cap and parameters; published files count against `cap_bytes`."""
    table = _runs(label, own, published).fillna({"cap": cap_bytes})
    table["share of the cap"] = table["total"] / table["cap"]
    table["bits per parameter"] = 8 * table["model"] / table["parameters"]
    return table


def loss_table(label: str, own: Mapping[str, float], published: Published | None) -> pd.DataFrame:
    """bpb of raw weights, of averaged ones as trained, and of the packed file by standard windows (`own` has all three;
    NaN where a record did not measure them so), with what lies between them."""
    table = _runs(label, own, published)
    table["packed - averaged"] = table["packed"] - table["averaged"]
    table["packed - raw"] = table["packed"] - table["raw"]
    return table
