"""What each published script reads from its environment, its own defaults, and what its code fixes.

Sources: the pull requests' scripts; papers/records has a page for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Value = int | float | bool | str

RANKS = 8
"""Spans of a step: gradient accumulation makes up for fewer processes."""

# name -> (default, recipe key); without a key it is read by a rule of `published_command`, with others
COMMON: dict[str, tuple[Value, str]] = {
    "VOCAB_SIZE": (1024, "model.vocab_size"), "NUM_LAYERS": (11, "model.num_layers"),
    "MODEL_DIM": (512, "model.model_dim"), "NUM_HEADS": (8, "model.num_heads"),
    "NUM_KV_HEADS": (4, "model.num_kv_heads"), "MLP_MULT": (3.0, ""), "ROPE_BASE": (10000.0, "model.rope_base"),
    "LOGIT_SOFTCAP": (30.0, "model.logit_softcap"), "QK_GAIN_INIT": (1.5, "model.qk_gain_init"),
    "TIED_EMBED_INIT_STD": (0.005, "model.embed_init_std"), "TRAIN_SEQ_LEN": (2048, "data.seq_len"),
    "TRAIN_BATCH_TOKENS": (786_432, "data.batch_tokens"), "DATA_PATH": ("", ""),
    "TIED_EMBED_LR": (0.03, "optim.embed_lr"), "MATRIX_LR": (0.02, "optim.matrix_lr"),
    "SCALAR_LR": (0.02, "optim.scalar_lr"), "BETA1": (0.9, ""), "BETA2": (0.95, ""),
    "ADAM_EPS": (1e-8, "optim.adam_eps"), "MUON_MOMENTUM": (0.99, "optim.muon_momentum"),
    "MUON_MOMENTUM_WARMUP_START": (0.92, "optim.muon_momentum_start"),
    "MUON_MOMENTUM_WARMUP_STEPS": (1500, "optim.muon_momentum_warmup_steps"),
    "MUON_BACKEND_STEPS": (5, "optim.newton_schulz_steps"), "GRAD_CLIP_NORM": (0.3, "optim.grad_clip_norm"),
    "ITERATIONS": (20_000, "schedule.iterations"), "WARMDOWN_ITERS": (3000, "schedule.warmdown_iters"),
    "WARMUP_STEPS": (20, "schedule.warmup_steps"), "MAX_WALLCLOCK_SECONDS": (600.0, "schedule.max_seconds"),
    "VAL_LOSS_EVERY": (1000, "schedule.val_every_steps"), "TRAIN_LOG_EVERY": (200, ""),
}  # fmt: skip
COMMON_FIXED: dict[str, Any] = {
    "track": "10min_16mb", "data.spans_per_step": RANKS, "model.norm_eps": 2.0**-23, "model.smear": "after",
    "model.init": "orthogonal", "model.rope_reference_tokens": 0, "optim.muon_wd_order": "before",
    "optim.bigram_optimizer": "split", "qat.kind": "off", "quant.small_tensor_elements": 65_536,
    "quant.tok_emb": "fp16", "quant.other": "int8_row_clip", "quant.allocation": "fixed",
}  # fmt: skip
# name -> (a value of the type that the script takes, why it changes nothing)
COMMON_IDLE: dict[str, tuple[Value, str]] = {
    "EMBED_LR": (0.6, "the embeddings are tied: TIED_EMBED_LR is the one in use"),
    "HEAD_LR": (0.008, "the embeddings are tied: there is no head of its own"),
    "VAL_BATCH_SIZE": (524_288, "a matter of speed and memory: the validation loss does not depend on it"),
}
# name -> (the one value that this core does, what another would mean)
COMMON_ONLY: dict[str, tuple[Value, str]] = {
    "TIE_EMBEDDINGS": (True, "a head of its own"),
    "CONTROL_TENSOR_NAME_PATTERNS": ("", "other tensors in float32 and with the scalars"),
    "INT8_KEEP_FLOAT_FP32_NAME_PATTERNS": ("", "other tensors stored as float32"),
}


@dataclass(frozen=True)
class Script:
    """One published script, as far as its command line reaches."""

    record: str
    """How messages call it."""
    reads: Mapping[str, tuple[Value, str]]
    fixed: Mapping[str, Any]
    """Recipe keys that no name changes."""
    idle: Mapping[str, tuple[Value, str]] = field(default_factory=dict)
    only: Mapping[str, tuple[Value, str]] = field(default_factory=dict)
    logged: Mapping[str, int] = field(default_factory=dict)
    """Cadences in the published logs that neither the command nor the script's defaults give."""


def _script(
    record: str, reads: dict, fixed: dict, idle: dict | None = None, only: dict | None = None, **logged: int
) -> Script:
    """A Script whose tables extend the common ones; a plain default in `reads` keeps the common recipe key."""
    pairs = {name: pair if isinstance(pair, tuple) else (pair, COMMON[name][1]) for name, pair in reads.items()}
    return Script(
        record, COMMON | pairs, COMMON_FIXED | fixed, COMMON_IDLE | (idle or {}), COMMON_ONLY | (only or {}), logged
    )


# The scripts' own defaults. The switches EMA_ENABLED, SWA_ENABLED, GRAD_QUANT, LATE_QAT, SMEAR_GATE and BIGRAM_HASH,
# SWA_FRAC and SWA_EVERY are as the family of scripts has them.
_WARM_START = {  # PR 315 and 332 share them
    "NUM_LAYERS": 9, "TIED_EMBED_LR": 0.05, "MATRIX_LR": 0.04, "SCALAR_LR": 0.04, "MUON_MOMENTUM": 0.95,
    "MUON_MOMENTUM_WARMUP_START": 0.85, "MUON_MOMENTUM_WARMUP_STEPS": 500, "WARMDOWN_ITERS": 1200,
    "BIGRAM_VOCAB_SIZE": (4096, ""), "BIGRAM_DIM": (128, ""), "XSA_LAST_N": (0, ""),
    "LN_SCALE": (False, "model.ln_scale"), "EVAL_SEQ_LEN": (2048, ""), "EMA_ENABLED": (False, ""),
    "EMA_DECAY": (0.997, ""), "SWA_ENABLED": (True, ""),
}  # fmt: skip
_EVAL_BATCH = {"EVAL_BATCH_SEQS": (32, "eval.batch_seqs")}
_FOLDED = (
    "torch 2.9.1 folded the flag away when it compiled: whatever it says, no step trained with QAT; pr315-qat does"
)

SCRIPTS: dict[str, Script] = {
    "pr194": _script(
        "PR 194",
        {
            "NUM_LAYERS": 9, "NUM_KV_HEADS": 8, "MLP_MULT": 3, "TRAIN_BATCH_TOKENS": 524_288, "QAT": (True, ""),
            "FP16_EMBED": (True, ""), "SMEAR_GATE": (False, ""), "MUON_WEIGHT_DECAY": (0.0, "optim.muon_wd"),
            "EVAL_STRIDE": (64, ""), "SWA_ENABLED": (False, ""), "SWA_START_FRAC": (0.5, ""), "SWA_EVERY": (200, ""),
            **_EVAL_BATCH,
        },
        {
            "model.norm_eps": 2.0**-7, "model.bigram_rows": 0, "model.ln_scale": False, "model.xsa_last_n": 0,
            "optim.adam_wd": 0.0, "optim.smear_beta2": 0.99, "qat.grid": "int6_fake_pr194",
            "quant.attention": "int6_row_clip", "quant.mlp": "int6_row_clip",
        },
        idle={
            "WARMDOWN_STEPS": ("", "the script does not read it; its name is WARMDOWN_ITERS, by default 3000"),
            "LATE_K_LAYERS": (2, "it acts on the script's 8-bit file alone, and QUANT_BITS is 6"),
            "BIGRAM_VOCAB_SIZE": (4096, "BIGRAM_HASH is off"),
            "BIGRAM_DIM": (0, "BIGRAM_HASH is off"),
        },
        only={
            "QUANT_BITS": (6, "the script's 8-bit training and file"),
            "BIGRAM_HASH": (False, "this script's own bigram, added at every layer"),
            "NUM_LOOPS": (1, "blocks that run several times"),
            "LORA_RANK": (0, "low-rank adapters"),
            "TTT_ENABLED": (False, "training while scoring"),
        },
        VAL_LOSS_EVERY=200,
        TRAIN_LOG_EVERY=50,
    ),
    "pr315": _script(
        "PR 315",
        {
            **_WARM_START, "MUON_WD": (0.02, "optim.muon_wd"), "ADAM_WD": (0.01, "optim.adam_wd"),
            "ROPE_DIMS": (0, ""), "EVAL_STRIDE": (64, ""), "SWA_EVERY": (200, ""),
        },
        {
            "model.rope_reference_tokens": 1024, "eval.batch_seqs": 32, "quant.attention": "int6_row",
            "quant.mlp": "int6_row", "quant.tok_emb": "int8_row_clip",
        },
        idle={
            "LATE_QAT": (True, _FOLDED),
            "QAT_THRESHOLD": (0.1, _FOLDED),
            "MUON_BETA2": (0.95, "the script reads it and never uses it"),
            "MTP_LOSS_WEIGHT": (0.2, "MTP_NUM_HEADS is 0"),
        },
        only={
            "MTP_NUM_HEADS": (0, "heads that predict further tokens"),
            "QAT_ENABLED": (False, "QAT from the first step, of bigram.proj too"),
        },
        VAL_LOSS_EVERY=0,
    ),
    "pr332": _script(
        "PR 332",
        {
            **_WARM_START, "MLP_MULT": 2, "MLP_HIDDEN": (0, ""), "TRAIN_SEQ_LEN": 1024, "TRAIN_BATCH_TOKENS": 524_288,
            "MUON_WD": (0.04, "optim.muon_wd"), "ADAM_WD": (0.0, "optim.adam_wd"), "GRAD_CLIP_NORM": 0.0,
            "PARTIAL_ROPE_DIMS": (0, ""), "EVAL_STRIDE": (0, ""), "SWA_FRAC": (0.5, ""), "SWA_EVERY": (50, ""),
            "GRAD_QUANT": (False, ""), "LATE_QAT": (False, ""), **_EVAL_BATCH,
        },
        {
            "model.rope_reference_tokens": 1024, "optim.muon_wd_order": "after", "optim.bigram_optimizer": "scalar",
            "quant.attention": "int6_row_clip", "quant.mlp": "int6_row_clip", "quant.tok_emb": "int8_row_clip",
        },
        only={"SHUFFLE_DATA": (False, "another order of the training tokens")},
    ),
    "pr531": _script(
        "PR 531",
        {
            "WEIGHT_DECAY": (0.01, "optim.adam_wd"), "BIGRAM_VOCAB_SIZE": (10_240, ""), "BIGRAM_DIM": (128, ""),
            "EVAL_STRIDE": (64, ""), "SWA_ENABLED": (True, ""), "SWA_START_FRAC": (0.4, ""), "SWA_EVERY": (50, ""),
            "VAL_LOSS_EVERY": 500, "TRAIN_LOG_EVERY": 100, **_EVAL_BATCH,
        },
        {  # QAT is off, but its threshold and grid stand in the code
            "model.ln_scale": False, "model.xsa_last_n": 4, "optim.muon_wd": 0.04, "qat.threshold": 0.15,
            "qat.grid": "int6_row", "quant.attention": "int6_clip_search", "quant.mlp": "int5_row_nofloor",
        },
        idle={"EMA_DECAY": (0.997, "the logged script has no EMA, and the PR's last one overwrites it with SWA")},
    ),
    "pr534": _script(
        "PR 534",
        {
            "MLP_HIDDEN": (0, ""), "TIED_EMBED_LR": 0.035, "MATRIX_LR": 0.025, "SCALAR_LR": 0.025,
            "MUON_WEIGHT_DECAY": (0.04, "optim.muon_wd"), "ROPE_DIMS": (16, ""), "XSA_LAST_N": (4, ""),
            "LN_SCALE": (True, "model.ln_scale"), "VE_ENABLED": (True, ""), "VE_DIM": (128, ""),
            "VE_LAYERS": ("9,10", ""), "EVAL_SEQ_LEN": (2048, ""),
        },
        {
            "model.init": "uniform", "model.bigram_rows": 0, "optim.adam_wd": 0.0, "optim.ve_frozen": True,
            "optim.muon_wd_order": "after", "average.kind": "swa", "average.swa_start": 0.2,
            "average.swa_every_steps": 50, "eval.batch_seqs": 32, "quant.attention": "int8_clip_search_step4",
            "quant.mlp": "int8_clip_search_step4", "quant.other": "int8_clip_search",
        },
        idle={"ADAM_WEIGHT_DECAY": (0.04, "the script reads it and builds plain Adam without it")},
    ),
}  # fmt: skip
