"""What a recipe's values may be: choices, bounds, and combinations that cannot be built or trained."""

from collections.abc import Iterator
from operator import attrgetter

from pgolf_core.recipes.recipe import (
    GRID_NAMES,
    MAX_ELEMENTS,
    RULES,
    SENSITIVITY_BELOW,
    TRACK_CAP_BYTES,
    Model,
    Quant,
    Recipe,
    least_elements,
)

QAT_ONLY_GRIDS = ("int6_fake_pr194", "int6_fake_pr534")
"""Grids that training may use and an artifact cannot hold."""
LORA_TARGETS = ("q", "k", "v", "o", "mlp", "lm_head")
MOST_SORTED_ROWS = 2**16
"""Of a matrix under quant.grouping: base.grouping's own."""
MOST_MIXED_SOFTCAP = 300.0
"""Of model.logit_softcap with a mixture: -log p, at most twice it and a little, must leave p above 0 in float64."""
MOST_CORRECTED_INPUTS = 8192
"""Widest matrix that quant.correction = hessian takes: 256 MiB for its inputs' products."""
CHOICES: dict[str, tuple[str, ...]] = {
    "track": tuple(TRACK_CAP_BYTES),
    "script": ("readable", "packed"),
    "model.smear": ("before", "after", "window", "off"),
    "model.attn_gate": ("off", "sparse"),
    "model.softcaps": ("one", "two", "two_inert"),
    "model.init": ("orthogonal", "uniform"),
    "data.order": ("sequential", "shuffled", "ranked", "packed"),
    "data.bytes": ("table", "sidecar"),
    "optim.muon_wd_order": ("before", "after"),
    "optim.newton_schulz_dtype": ("bfloat16", "float32"),
    "optim.muon_coefficients": ("quintic", "polar_express"),
    "optim.muon_dtype": ("float32", "bfloat16"),
    "optim.bigram_optimizer": ("split", "scalar"),
    "schedule.autocast": ("auto", "off"),
    "schedule.compile": ("auto", "off"),
    "average.kind": ("ema", "swa", "none"),
    "qat.kind": ("off", "always", "late"),
    "qat.grid": ("packed", *GRID_NAMES[1:], *QAT_ONLY_GRIDS),
    "quant.kind": ("grid", "steps"),
    "quant.allocation": ("fixed", "gradient"),
    "quant.correction": ("off", "hessian"),
    "quant.correction_order": ("natural", "activation"),
    "quant.compressor": ("zstd", "brotli"),
    "quant.gates": ("float16", "int8_row"),
    "quant.grouping": ("off", "similarity", "similarity_all"),
    "adapt.kind": ("off", "sgd", "lora", "frozen"),
    "adapt.tilt": ("off", "ngram"),
    "adapt.mix": ("off", "ngram"),
    **{f"quant.{part}": GRID_NAMES for part in ("attention", "mlp", "tok_emb", "other")},
}
AT_LEAST: dict[str, float] = {
    "model.vocab_size": 2, "model.model_dim": 2, "model.rope_dims": 2, "model.rope_base": 1.0,
    "model.logit_softcap": 1e-3, "model.attn_gate_scale": 1e-3, "quant.correction_damping": 1e-6,
    "quant.clip_sigmas": 0.1, "quant.embed_clip_sigmas": 0.1, "adapt.tilt_order": 2, "adapt.mix_order": 2,
    **dict.fromkeys((
        "model.num_layers", "model.num_heads", "model.num_kv_heads", "model.mlp_hidden", "model.bigram_dim",
        "model.gate_window", "model.lanes",
        "data.seq_len", "data.batch_tokens", "data.spans_per_step", "data.micro_batch_seqs",
        "optim.newton_schulz_steps", "schedule.iterations", "schedule.log_every_steps", "average.swa_every_steps",
        "quant.zstd_level", "quant.correction_tokens", "quant.low_rank_top", "quant.low_rank_group",
        "eval.seq_len", "eval.stride", "eval.batch_seqs",
        "adapt.epochs", "adapt.chunk_tokens", "adapt.batch_seqs", "adapt.lora_rank", "adapt.lora_tokens",
        "adapt.batch_documents", "adapt.phase_documents", "adapt.phase_rows", "adapt.mix_document_order",
    ), 1),
    **dict.fromkeys((
        "data.final_seq_len", "model.rope_reference_tokens", "model.qk_gain_init", "model.embed_init_std",
        "model.norm_eps", "model.num_loops", "model.loop_start", "model.loop_end", "schedule.reserve_seconds",
        "model.bigram_rows", "model.xsa_last_n", "model.ve_dim", "optim.embed_lr", "optim.matrix_lr", "optim.scalar_lr",
        "optim.adam_eps", "optim.adam_wd", "optim.muon_wd", "optim.muon_momentum_warmup_steps", "optim.grad_clip_norm",
        "schedule.max_seconds", "schedule.warmup_steps", "schedule.warmdown_iters", "schedule.val_every_steps",
        "schedule.val_tokens", "schedule.checkpoint_every_seconds", "quant.small_tensor_elements",
        "quant.low_rank", "quant.mlp_clip_sigmas", "quant.attention_clip_sigmas",
        "quant.target_bytes", "adapt.lr", "adapt.grad_clip_norm", "adapt.lora_alpha", "adapt.lora_lr", "adapt.lora_wd",
        "adapt.lora_window", "adapt.phases", "adapt.tilt_boost",
    ), 0),
}  # fmt: skip
AT_MOST = {
    "model.num_loops": 64,  # an artifact names it, and its reader runs that many blocks
    "model.logit_softcap": 1000.0,  # beyond it the sigmoid that caps loses logits to rounding, at 1e9 all of them
    "adapt.mix_order": 32,  # each takes a second of evaluation for a few hundred thousand targets
    "adapt.mix_document_order": 32,
    "quant.correction_tokens": 2**24,  # 128 MiB of token ids
}
IN_UNIT_INTERVAL = (
    "optim.muon_momentum", "optim.muon_momentum_start", "optim.smear_beta2", "average.ema_decay",
    "average.swa_start", "qat.threshold", "qat.lr_factor", "schedule.warmdown_fraction",
    "data.final_fraction", "model.table_dropout", "model.negative_slope", "schedule.loop_at", "schedule.min_lr",
    "adapt.momentum", "adapt.tilt_threshold", "adapt.mix_discount",
)  # fmt: skip


def violations(recipe: Recipe) -> Iterator[str]:
    """Every rule that a Recipe, its values of the right types, breaks: as messages that name the keys."""
    for key, choices in CHOICES.items():
        if (value := attrgetter(key)(recipe)) not in choices:
            yield f"{key} = {value!r}; allowed: {', '.join(choices)}"
    for key, least in AT_LEAST.items():
        if (value := attrgetter(key)(recipe)) < least:
            yield f"{key} = {value}; must be at least {least}"
    for key, most in AT_MOST.items():
        if (value := attrgetter(key)(recipe)) > most:
            yield f"{key} = {value}; must be at most {most}"
    for key in IN_UNIT_INTERVAL:
        if not 0.0 <= (value := attrgetter(key)(recipe)) <= 1.0:
            yield f"{key} = {value}; must lie in [0, 1]"
    yield from _impossible_networks(recipe.model)
    yield from _impossible_training(recipe)
    yield from _impossible_files(recipe)


def _impossible_networks(model: Model) -> Iterator[str]:
    """Every combination of values that cannot be built."""
    if model.model_dim % model.num_heads:
        yield f"model.num_heads = {model.num_heads} must divide model.model_dim = {model.model_dim}"
    head_dim = model.model_dim // model.num_heads
    if model.num_heads % model.num_kv_heads:
        yield f"model.num_kv_heads = {model.num_kv_heads} must divide model.num_heads = {model.num_heads}"
    if model.rope_dims % 2 or model.rope_dims > head_dim:
        yield f"model.rope_dims = {model.rope_dims} must be even and at most the head width {head_dim}"
    if model.rope_reference_tokens and model.rope_dims == 2:
        yield "model.rope_reference_tokens needs model.rope_dims of at least 4"
    if model.table_dropout == 1:
        yield "model.table_dropout = 1 leaves the tables out everywhere; it must be below 1 (or take them away)"
    if model.xsa_last_n > model.num_layers:
        yield f"model.xsa_last_n = {model.xsa_last_n} exceeds model.num_layers = {model.num_layers}"
    if model.parallel_start >= model.num_layers:
        yield f"model.parallel_start = {model.parallel_start} must lie below model.num_layers = {model.num_layers}"
    if model.num_loops and not model.loop_start <= model.loop_end < model.num_layers:
        yield (
            f"model.loop_start = {model.loop_start} and model.loop_end = {model.loop_end} must be the first and last "
            f"of some of the blocks 0..{model.num_layers - 1}"
        )
    if model.lanes > 2:
        yield f"model.lanes = {model.lanes}; must be 1 or 2: attention's, and the MLP's"
    if model.lanes == 2 and not model.num_layers // 2 <= model.parallel_start:
        yield (
            f"model.lanes = 2 needs model.parallel_start of at least {model.num_layers // 2}, in the second half of "
            f"the blocks, not {model.parallel_start}"
        )
    if model.lanes == 2 and model.num_loops and model.loop_end >= model.parallel_start:
        yield (
            f"model.loop_end = {model.loop_end} must lie below model.parallel_start = {model.parallel_start}: with "
            "model.lanes = 2 nothing returns to one stream"
        )
    gates = (("smear", "window"), ("attn_gate", "sparse"))
    gated = [f"{key} = {value}" for key, value in gates if getattr(model, key) == value]
    if gated and model.gate_window > model.model_dim:
        yield f"model.{gated[0]} reads model.gate_window = {model.gate_window} of only {model.model_dim} channels"
    if (weights := least_elements(model)) > MAX_ELEMENTS:
        yield f"model has {weights:,} weights or more, and a file holds {MAX_ELEMENTS:,} at most; make it smaller"
    if model.bigram_rows == 1:
        yield "model.bigram_rows = 1 leaves no row for a pair; use 0 (off) or at least 2"
    if bool(model.ve_dim) != bool(model.ve_layers):
        yield f"model.ve_dim = {model.ve_dim} and model.ve_layers = {list(model.ve_layers)} go together"
    if any(not 0 <= layer < model.num_layers for layer in model.ve_layers):
        yield f"model.ve_layers = {list(model.ve_layers)} must lie in 0..{model.num_layers - 1}"
    if len(set(model.ve_layers)) != len(model.ve_layers):
        yield f"model.ve_layers = {list(model.ve_layers)} names a layer twice"


def _impossible_training(recipe: Recipe) -> Iterator[str]:
    """Every combination that cannot be trained or scored."""
    data, optim, qat, schedule, evaluation = recipe.data, recipe.optim, recipe.qat, recipe.schedule, recipe.eval
    for key, length in (("seq_len", data.seq_len), ("final_seq_len", data.final_seq_len or data.seq_len)):
        if data.batch_tokens % (data.spans_per_step * length):
            yield (
                f"data.batch_tokens = {data.batch_tokens} must be a multiple of data.spans_per_step x data.{key}"
                f" = {data.spans_per_step} x {length}"
            )
            break
    if evaluation.stride > evaluation.seq_len:
        yield f"eval.stride = {evaluation.stride} exceeds eval.seq_len = {evaluation.seq_len} and would skip targets"
    yield from _impossible_adapting(recipe)
    for key, betas in (("optim.adam_betas", optim.adam_betas), ("adapt.lora_betas", recipe.adapt.lora_betas)):
        if not all(0.0 <= beta < 1.0 for beta in betas):
            yield f"{key} = {list(betas)} must lie in [0, 1)"
    if data.order in ("ranked", "packed") and data.final_seq_len not in (0, data.seq_len):
        yield (
            f"data.final_seq_len = {data.final_seq_len} needs another data.order than {data.order}, of one window "
            "length"
        )
    row, micro = data.batch_tokens // data.spans_per_step, data.micro_batch_seqs * data.seq_len
    if data.order == "packed" and micro % row:
        yield (
            f"data.micro_batch_seqs = {data.micro_batch_seqs} must hold whole rows of data.order = packed: a multiple "
            f"of {row // data.seq_len}"
        )
    by_gradients = recipe.quant.kind == "steps" or recipe.quant.allocation == "gradient"
    if optim.clip_each_rank and by_gradients:
        yield (
            "optim.clip_each_rank = true scales the gradients that packing by gradients measures; take false, or "
            "quant.kind = grid and quant.allocation = fixed"
        )
    if 0 < schedule.max_seconds <= schedule.reserve_seconds:
        yield (
            f"schedule.reserve_seconds = {schedule.reserve_seconds} leaves nothing of schedule.max_seconds = "
            f"{schedule.max_seconds} for training"
        )
    for key, kind, below in (
        ("qat.threshold", qat.kind == "late", qat.threshold),
        ("average.swa_start", recipe.average.kind == "swa", recipe.average.swa_start),
        ("the multiplier that packing by gradients needs", by_gradients, SENSITIVITY_BELOW),
    ):
        if kind and schedule.min_lr >= below > 0:
            yield f"schedule.min_lr = {schedule.min_lr} must lie below {key} = {below}, or that is never reached"
    if qat.lr_factor != 1.0 and qat.kind != "late":
        yield f"qat.lr_factor = {qat.lr_factor} needs qat.kind = late, not {qat.kind}"


def _impossible_adapting(recipe: Recipe) -> Iterator[str]:
    """Every combination that cannot be adapted by."""
    adapt, length = recipe.adapt, recipe.eval.seq_len
    learns = adapt.kind == "sgd" or (adapt.kind == "lora" and adapt.phases > 0)
    if learns and adapt.chunk_tokens < length:
        yield (
            f"adapt.chunk_tokens = {adapt.chunk_tokens} is less than eval.seq_len = {length}: a "
            "chunk would hold no sequence to train on"
        )
    if adapt.kind == "off" and adapt.tilt != "off":
        yield f"adapt.tilt = {adapt.tilt} tilts an adapted score; take adapt.kind = frozen to learn nothing else"
    if adapt.kind == "frozen" and adapt.tilt == "off":
        yield "adapt.kind = frozen changes nothing without a tilt; take adapt.tilt = ngram, or adapt.kind = off"
    if adapt.mix != "off" and (adapt.kind in ("lora", "frozen") or adapt.tilt != "off"):
        yield (
            f"adapt.mix = {adapt.mix} cannot go with adapt.kind = {adapt.kind}, adapt.tilt = {adapt.tilt}; take "
            "adapt.kind = off or sgd and adapt.tilt = off"
        )
    if adapt.mix != "off" and recipe.model.logit_softcap > MOST_MIXED_SOFTCAP:
        yield (
            f"adapt.mix = {adapt.mix} needs model.logit_softcap of at most {MOST_MIXED_SOFTCAP:g}, not "
            f"{recipe.model.logit_softcap:g}: a probability could become 0, and no share of it can be learned"
        )
    for number, target in enumerate(adapt.lora_targets):
        if target not in LORA_TARGETS or target in adapt.lora_targets[:number]:
            yield f"adapt.lora_targets has {target!r}; must be some of {', '.join(LORA_TARGETS)}, each once"
            break
    if adapt.kind == "lora" and (adapt.lora_window or length) < adapt.lora_tokens:
        key = "lora_window" if adapt.lora_window else "lora_tokens"
        yield (
            f"adapt.{key} = {getattr(adapt, key)}: a window of {adapt.lora_window or length} tokens must hold the "
            f"{adapt.lora_tokens} targets that are scored between two steps"
        )
    if adapt.kind == "lora" and adapt.phases > adapt.phase_documents:
        yield f"adapt.phases = {adapt.phases} exceeds adapt.phase_documents = {adapt.phase_documents}"


def _impossible_files(recipe: Recipe) -> Iterator[str]:
    """Every combination that cannot be packed."""
    model, qat, quant = recipe.model, recipe.qat, recipe.quant
    for entry in quant.exceptions:
        pattern, equals, grid = entry.rpartition("=")
        if not equals or not pattern.strip() or grid not in GRID_NAMES:
            yield (
                f"quant.exceptions has {entry!r}; must be PATTERN=GRID, as 'blocks.0.*=fp16', with a grid of "
                f"{', '.join(GRID_NAMES)}"
            )
    if quant.target_bytes and quant.kind != "steps":
        yield f"quant.target_bytes = {quant.target_bytes} needs quant.kind = steps: a grid takes what it takes"
    if quant.target_bytes > recipe.cap_bytes:
        yield f"quant.target_bytes = {quant.target_bytes} is over the track's cap of {recipe.cap_bytes}"
    if quant.kind == "steps" and quant.allocation == "gradient":
        yield "quant.allocation = gradient gives bits to grids; quant.kind = steps takes quant.allocation = fixed"
    if quant.kind == "steps" and qat.kind != "off" and qat.grid == "packed":
        yield "qat.grid = packed has no grid to train on with quant.kind = steps; name one, or qat.kind = off"
    if quant.kind == "steps" and quant.compressor == "brotli":
        yield "quant.compressor = brotli is for grids: quant.kind = steps has a coder of its own; take zstd beside it"
    if quant.kind == "steps":
        yield from (
            f"quant.{key} = {value!r} is for grids; quant.kind = steps takes quant.{key} = {at_rest!r}"
            for key, at_rest in (("low_rank", 0), ("gates", "float16"), ("grouping", "off"))
            if (value := getattr(quant, key)) != at_rest
        )
    for key in ("mlp_clip_sigmas", "attention_clip_sigmas"):
        if 0 < (value := getattr(quant, key)) < AT_LEAST["quant.clip_sigmas"]:
            yield f"quant.{key} = {value}; must be 0 (quant.clip_sigmas) or at least {AT_LEAST['quant.clip_sigmas']}"
    yield from _impossible_extras(model, quant)
    if quant.correct_tok_emb and quant.kind == "grid" and quant.tok_emb == "fp16":
        yield "quant.correct_tok_emb corrects rounding, and quant.tok_emb = fp16 rounds to no grid; name one, or false"
    narrow = "bigram_dim" if model.bigram_rows and model.bigram_dim == 1 else "ve_dim" if model.ve_dim == 1 else ""
    if narrow and quant.other.endswith("_sigma"):
        yield f"quant.other = {quant.other} needs model.{narrow} of at least 2: a row of one weight has no deviation"
    widest = max(model.model_dim, model.mlp_hidden)
    if quant.correction == "hessian" and widest > MOST_CORRECTED_INPUTS:
        yield (
            f"quant.correction = hessian holds inputs x inputs numbers for every matrix: {widest} inputs are over its "
            f"{MOST_CORRECTED_INPUTS}; make model.mlp_hidden or model.model_dim smaller, or take quant.correction = off"
        )
    if quant.zstd_level > 22:
        yield f"quant.zstd_level = {quant.zstd_level}; zstd has levels 1 to 22"


def _impossible_extras(model: Model, quant: Quant) -> Iterator[str]:
    """Every matrix on a grid that cannot be grouped or corrected by a low rank, whether its turn would come or not."""
    columns = {"model_dim": model.model_dim, "mlp_hidden": model.mlp_hidden}
    rows = {"vocab_size": model.vocab_size, **columns}
    for key, width, height in (
        ("bigram_dim", model.bigram_dim, model.bigram_rows),
        ("ve_dim", model.ve_dim, model.ve_dim and model.vocab_size),
    ):
        if height and quant.other != "fp16" and width * max(height, model.model_dim) > quant.small_tensor_elements:
            columns[key] = width
            rows |= {"bigram_rows": model.bigram_rows} if quant.grouping == "similarity_all" else {}
    kv_width = model.model_dim // model.num_heads * model.num_kv_heads
    for key, width in (*columns.items(), ("num_kv_heads x head width", kv_width)):
        if quant.low_rank > width:
            yield f"quant.low_rank = {quant.low_rank} is more than a matrix has: model.{key} = {width}"
    for key, width in columns.items():
        if quant.low_rank * width % quant.low_rank_group:
            yield (
                f"quant.low_rank_group = {quant.low_rank_group} must divide quant.low_rank x model.{key} = "
                f"{quant.low_rank} x {width}"
            )
    for key, height in rows.items():
        if quant.grouping != "off" and height > MOST_SORTED_ROWS:
            yield (
                f"quant.grouping = {quant.grouping} sorts matrices of at most {MOST_SORTED_ROWS} rows, and model.{key} "
                f"= {height}; make that smaller, or take quant.grouping = off"
            )


RULES.append(violations)
