"""Keys of a recipe that have no effect in it, and why: a value that somebody set and nothing reads."""

import math
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

from pgolf_core.lab.shared.settings import flatten
from pgolf_core.recipes.reading import lineage
from pgolf_core.recipes.recipe import Recipe, to_dict


def idle_keys(recipe: Recipe) -> dict[str, str]:
    """Reason by key, for every key that could take any value and change nothing."""
    return {key: reason for holds, reason, keys in _rules(recipe) if holds for key in keys.split()}


def _rules(recipe: Recipe) -> Iterator[tuple[Any, str, str]]:
    """(whether it holds, what holds, the keys that then have no effect)."""
    model, data, optim, schedule = recipe.model, recipe.data, recipe.optim, recipe.schedule
    average, qat, quant = recipe.average, recipe.qat, recipe.quant
    longest = _longest_row(recipe)
    yield model.rope_dims == 2, "model.rope_dims = 2", "model.rope_base"
    yield longest <= model.rope_reference_tokens, f"no sequence is over {longest} tokens", "model.rope_reference_tokens"
    yield not model.bigram_rows, "model.bigram_rows = 0", "model.bigram_dim optim.bigram_optimizer"
    yield not model.num_loops, "model.num_loops = 0", "model.loop_start model.loop_end schedule.loop_at"
    yield not model.bigram_rows and not model.ve_dim, "there is neither table", "model.table_dropout"
    yield not model.ve_dim, "model.ve_dim = 0", "optim.ve_frozen"
    yield model.smear in ("off", "window"), f"model.smear = {model.smear}", "optim.smear_beta2"
    yield model.smear != "window", f"model.smear = {model.smear}", "model.smear_bos_mask"
    yield model.attn_gate == "off", "model.attn_gate = off", "model.attn_gate_scale"
    no_window = model.smear != "window" and model.attn_gate == "off"
    yield no_window, "no gate reads a window of channels", "model.gate_window"
    yield not data.final_seq_len, "data.final_seq_len = 0", "data.final_fraction"
    yield data.final_seq_len == data.seq_len, "it is data.seq_len", "data.final_seq_len data.final_fraction"
    yield not data.final_fraction, "data.final_fraction = 0", "data.final_seq_len"
    yield not optim.muon_wd, "optim.muon_wd = 0", "optim.muon_wd_order"
    yield not optim.grad_clip_norm, "optim.grad_clip_norm = 0", "optim.clip_each_rank"
    steady = optim.muon_momentum == optim.muon_momentum_start
    yield steady, "Muon's momentum starts where it ends", "optim.muon_momentum_warmup_steps"
    yield not schedule.max_seconds, "schedule.max_seconds = 0", "schedule.reserve_seconds"
    yield schedule.warmdown_fraction, "schedule.warmdown_fraction decides", "schedule.warmdown_iters"
    yield average.kind != "ema", f"average.kind = {average.kind}", "average.ema_decay"
    yield average.kind != "swa", f"average.kind = {average.kind}", "average.swa_start average.swa_every_steps"
    never, why = not schedule.warmdown_fraction and not schedule.warmdown_iters, "the learning rate never falls"
    yield never, why, "average.swa_start average.swa_every_steps qat.threshold schedule.min_lr"
    yield never and qat.kind == "late", why, "qat.kind qat.grid qat.lr_factor"
    yield qat.kind != "late", f"qat.kind = {qat.kind}", "qat.threshold"
    yield qat.kind == "off", "qat.kind = off", "qat.grid"
    yield quant.allocation == "gradient", "quant.allocation = gradient", "quant.attention quant.mlp"
    yield quant.kind == "steps", "quant.kind = steps", "quant.attention quant.mlp quant.tok_emb quant.other"
    small = quant.small_tensor_elements >= model.num_layers * model.model_dim
    others = model.bigram_rows or model.ve_dim
    yield small and not others, "there is neither bigram nor value embedding", "quant.other"
    own = ((quant.mlp, quant.mlp_clip_sigmas), (quant.attention, quant.attention_clip_sigmas))
    by_parts = {
        "clip_sigmas": [quant.other, *(grid for grid, sigmas in own if not sigmas)],
        "embed_clip_sigmas": [quant.tok_emb],
        "mlp_clip_sigmas": [quant.mlp], "attention_clip_sigmas": [quant.attention],
    }  # fmt: skip
    named = f"{quant.exceptions} {qat.grid if qat.kind != 'off' else ''}"
    for key, parts in by_parts.items():
        on_sigma = any("_sigma" in grid for grid in (*(parts if quant.kind == "grid" else ()), named))
        yield not on_sigma, "no grid is by standard deviations", f"quant.{key}"
    yield not quant.low_rank, "quant.low_rank = 0", "quant.low_rank_top quant.low_rank_group"
    yield model.attn_gate == "off", "model.attn_gate = off", "quant.gates"
    yield quant.correction == "off", "quant.correction = off", _keys("quant", quant, "correction_", "correct_")
    yield from _idle_adapting(recipe)


def _keys(section: str, values: object, *beginnings: str) -> str:
    return " ".join(f"{section}.{key}" for key in vars(values) if key.startswith(beginnings))


def _longest_row(recipe: Recipe) -> int:
    """Tokens of the longest row that the network reads, in training, scoring or adapting."""
    data, adapt, length = recipe.data, recipe.adapt, recipe.eval.seq_len
    rows = [data.seq_len, data.final_seq_len, length]
    if data.order == "packed":
        rows.append(data.batch_tokens // data.spans_per_step)
    if adapt.kind == "lora":
        rows += [adapt.lora_window, math.ceil(adapt.batch_seqs / adapt.phase_rows) * length if adapt.phases else 0]
    return max(rows)


def _idle_adapting(recipe: Recipe) -> Iterator[tuple[Any, str, str]]:
    """As _rules, of what adapts."""
    adapt = recipe.adapt
    learns = adapt.kind == "sgd" or (adapt.kind == "lora" and adapt.phases)
    reason = f"adapt.kind = {adapt.kind}" if adapt.kind != "lora" else "adapt.phases = 0"
    yield not learns, reason, "adapt.lr adapt.epochs adapt.momentum adapt.batch_seqs adapt.grad_clip_norm"
    yield not learns and adapt.kind != "frozen", reason, "adapt.chunk_tokens"
    of_documents = _keys("adapt", adapt, "lora_", "batch_documents", "phase")
    yield adapt.kind != "lora", f"adapt.kind = {adapt.kind}", of_documents
    yield adapt.tilt == "off", "adapt.tilt = off", _keys("adapt", adapt, "tilt_")
    yield adapt.mix == "off", "adapt.mix = off", _keys("adapt", adapt, "mix_")
    yield adapt.kind == "lora" and not adapt.phases, "adapt.phases = 0", "adapt.phase_documents adapt.phase_rows"


def idle_note(name: str, overrides: Sequence[str], recipe: Recipe) -> str:
    """One line on the idle keys that the recipe's own file or an override sets, or that are not as usual; or none."""
    values, usual = flatten(to_dict(recipe)), flatten(to_dict(Recipe()))
    own = tomllib.loads(lineage(name)[0].read_text(encoding="utf-8-sig"))
    said = {*flatten(own), *(text.partition("=")[0].strip() for text in overrides)}
    idle = {key: why for key, why in idle_keys(recipe).items() if key in said or values[key] != usual[key]}
    return "no effect in this recipe: " + ", ".join(f"{key} ({why})" for key, why in idle.items()) if idle else ""
