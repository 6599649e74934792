"""What each published script reads from its environment, its own defaults, and which names do what to a recipe.

Sources: the pull requests' scripts; papers/records has a page for each. The switches EMA_ENABLED, SWA_ENABLED,
GRAD_QUANT, LATE_QAT, SMEAR_GATE and BIGRAM_HASH, SWA_FRAC and SWA_EVERY are as the family of scripts has them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = int | float | bool | str

RANKS = 8
"""Spans of a step: gradient accumulation makes up for fewer processes."""

KEYS = {
    "VOCAB_SIZE": "model.vocab_size", "NUM_LAYERS": "model.num_layers", "MODEL_DIM": "model.model_dim",
    "NUM_HEADS": "model.num_heads", "NUM_KV_HEADS": "model.num_kv_heads", "ROPE_BASE": "model.rope_base",
    "LOGIT_SOFTCAP": "model.logit_softcap", "QK_GAIN_INIT": "model.qk_gain_init", "LN_SCALE": "model.ln_scale",
    "TIED_EMBED_INIT_STD": "model.embed_init_std", "TRAIN_SEQ_LEN": "data.seq_len",
    "TRAIN_BATCH_TOKENS": "data.batch_tokens", "TIED_EMBED_LR": "optim.embed_lr", "MATRIX_LR": "optim.matrix_lr",
    "SCALAR_LR": "optim.scalar_lr", "ADAM_EPS": "optim.adam_eps", "MUON_MOMENTUM": "optim.muon_momentum",
    "MUON_MOMENTUM_WARMUP_START": "optim.muon_momentum_start", "MUON_WD": "optim.muon_wd", "ADAM_WD": "optim.adam_wd",
    "MUON_MOMENTUM_WARMUP_STEPS": "optim.muon_momentum_warmup_steps", "MUON_WEIGHT_DECAY": "optim.muon_wd",
    "MUON_BACKEND_STEPS": "optim.newton_schulz_steps", "GRAD_CLIP_NORM": "optim.grad_clip_norm",
    "WEIGHT_DECAY": "optim.adam_wd", "ITERATIONS": "schedule.iterations", "WARMDOWN_ITERS": "schedule.warmdown_iters",
    "WARMUP_STEPS": "schedule.warmup_steps", "MAX_WALLCLOCK_SECONDS": "schedule.max_seconds",
    "VAL_LOSS_EVERY": "schedule.val_every_steps", "EVAL_BATCH_SEQS": "eval.batch_seqs",
    "SKIP_GATES_ENABLED": "model.skip_gates", "PARALLEL_RESIDUAL_START": "model.parallel_start",
    "NUM_LOOPS": "model.num_loops", "LOOP_START": "model.loop_start", "LOOP_END": "model.loop_end",
    "ENABLE_LOOPING_AT": "schedule.loop_at", "GPTQ_RESERVE_SECONDS": "schedule.reserve_seconds",
    "WARMDOWN_FRAC": "schedule.warmdown_fraction", "MIN_LR": "schedule.min_lr", "EMBED_WD": "optim.embed_wd",
    "MUON_ROW_NORMALIZE": "optim.muon_row_normalise", "TTT_LR": "adapt.lr", "TTT_EPOCHS": "adapt.epochs",
    "TTT_MOMENTUM": "adapt.momentum", "TTT_CHUNK_TOKENS": "adapt.chunk_tokens",
    "GATE_WINDOW": "model.gate_window", "SPARSE_ATTN_GATE_SCALE": "model.attn_gate_scale",
    "PARALLEL_START_LAYER": "model.parallel_start", "ATTN_CLIP_SIGMAS": "quant.attention_clip_sigmas",
    "MLP_CLIP_SIGMAS": "quant.mlp_clip_sigmas", "LQER_RANK": "quant.low_rank", "LQER_TOP_K": "quant.low_rank_top",
    "LQER_ASYM_GROUP": "quant.low_rank_group", "TTT_LORA_RANK": "adapt.lora_rank", "TTT_LORA_ALPHA": "adapt.lora_alpha",
    "TTT_LORA_LR": "adapt.lora_lr", "TTT_WEIGHT_DECAY": "adapt.lora_wd", "TTT_CHUNK_SIZE": "adapt.lora_tokens",
    "TTT_BATCH_SIZE": "adapt.batch_documents", "PHASED_TTT_PREFIX_DOCS": "adapt.phase_documents",
    "PHASED_TTT_NUM_PHASES": "adapt.phases", "GLOBAL_TTT_LR": "adapt.lr", "GLOBAL_TTT_MOMENTUM": "adapt.momentum",
    "GLOBAL_TTT_EPOCHS": "adapt.epochs", "GLOBAL_TTT_CHUNK_TOKENS": "adapt.chunk_tokens",
    "GLOBAL_TTT_BATCH_SEQS": "adapt.batch_seqs", "GLOBAL_TTT_GRAD_CLIP": "adapt.grad_clip_norm",
    "MATRIX_CLIP_SIGMAS": "quant.clip_sigmas", "EMBED_CLIP_SIGMAS": "quant.embed_clip_sigmas",
    "SMEAR_GATE_BOS_FIX": "model.smear_bos_mask", "TOKEN_ORDER": "adapt.tilt_order",
    "TOKEN_THRESHOLD": "adapt.tilt_threshold", "TOKEN_BOOST": "adapt.tilt_boost", "XSA_LAST_N": "model.xsa_last_n",
    "EMA_DECAY": "average.ema_decay", "SWA_START_FRAC": "average.swa_start", "SWA_FRAC": "average.swa_start",
    "SWA_EVERY": "average.swa_every_steps", "BIGRAM_VOCAB_SIZE": "model.bigram_rows", "BIGRAM_DIM": "model.bigram_dim",
    "VE_DIM": "model.ve_dim",
}  # fmt: skip
"""The recipe's key that a name sets; what is in none of these tables is read by a rule of published_command."""
SWITCHES = {
    "SMEAR_GATE": ("model.smear", "off", "before"), "SMEAR_GATE_ENABLED": ("model.smear", "off", "window"),
    "QAT": ("qat.kind", "off", "always"), "FP16_EMBED": ("quant.tok_emb", "int6_row_clip", "fp16"),
    "GRAD_QUANT": ("quant.allocation", "fixed", "gradient"), "TTT_ENABLED": ("adapt.kind", "off", "sgd"),
    "SPARSE_ATTN_GATE_ENABLED": ("model.attn_gate", "off", "sparse"),
    "CASEOPS_ENABLED": ("data.bytes", "table", "sidecar"), "NGRAM_TILT_ENABLED": ("adapt.tilt", "off", "ngram"),
    "GATED_ATTN_QUANT_GATE": ("quant.gates", "float16", "int8_row"),
    "ASYM_LOGIT_RESCALE": ("model.softcaps", "one", "two_inert"),
}  # fmt: skip
"""The recipe's key that a switch sets, off and on."""
IDLE_WITHOUT = {
    "BIGRAM_VOCAB_SIZE=0 leaves no bigram": ("BIGRAM_VOCAB_SIZE", "BIGRAM_DIM"),
    "VE_ENABLED=0 leaves no value embedding": ("VE_ENABLED", "VE_DIM", "VE_LAYERS"),
    "NUM_LOOPS=0 runs every block once": ("NUM_LOOPS", "LOOP_START", "LOOP_END", "ENABLE_LOOPING_AT"),
    "without a clock nothing is kept back": ("MAX_WALLCLOCK_SECONDS", "GPTQ_RESERVE_SECONDS"),
    "SPARSE_ATTN_GATE_ENABLED is 0": ("SPARSE_ATTN_GATE_ENABLED", "SPARSE_ATTN_GATE_SCALE"),
    "LQER_ENABLED is 0": ("LQER_ENABLED", "LQER_RANK", "LQER_TOP_K", "LQER_ASYM_GROUP"),
    "SMEAR_GATE_ENABLED is 0": ("SMEAR_GATE_ENABLED", "SMEAR_GATE_BOS_FIX"),
    "NGRAM_TILT_ENABLED is 0": ("NGRAM_TILT_ENABLED", "TOKEN_ORDER", "TOKEN_THRESHOLD", "TOKEN_BOOST"),
}
"""Why: a name, and those that do nothing where it is 0 or less."""
READS: dict[str, Value] = {
    "VOCAB_SIZE": 1024, "NUM_LAYERS": 11, "MODEL_DIM": 512, "NUM_HEADS": 8, "NUM_KV_HEADS": 4, "MLP_MULT": 3.0,
    "ROPE_BASE": 10000.0, "LOGIT_SOFTCAP": 30.0, "QK_GAIN_INIT": 1.5, "TIED_EMBED_INIT_STD": 0.005,
    "TRAIN_SEQ_LEN": 2048, "TRAIN_BATCH_TOKENS": 786_432, "DATA_PATH": "fineweb10B_sp1024", "TIED_EMBED_LR": 0.03,
    "MATRIX_LR": 0.02, "SCALAR_LR": 0.02, "BETA1": 0.9, "BETA2": 0.95, "ADAM_EPS": 1e-8, "MUON_MOMENTUM": 0.99,
    "MUON_MOMENTUM_WARMUP_START": 0.92, "MUON_MOMENTUM_WARMUP_STEPS": 1500, "MUON_BACKEND_STEPS": 5,
    "GRAD_CLIP_NORM": 0.3, "ITERATIONS": 20_000, "WARMDOWN_ITERS": 3000, "WARMUP_STEPS": 20,
    "MAX_WALLCLOCK_SECONDS": 600.0, "VAL_LOSS_EVERY": 1000, "TRAIN_LOG_EVERY": 200,
}  # fmt: skip
"""Names and defaults that the scripts share."""
IDLE: dict[str, tuple[Value, str]] = {
    "EMBED_LR": (0.6, "the embeddings are tied: TIED_EMBED_LR is the one in use"),
    "HEAD_LR": (0.008, "the embeddings are tied: there is no head of its own"),
    "VAL_BATCH_SIZE": (524_288, "a matter of speed and memory: the validation loss does not depend on it"),
}
ONLY: dict[str, tuple[Value, str]] = {
    "TIE_EMBEDDINGS": (True, "a head of its own"),
    "CONTROL_TENSOR_NAME_PATTERNS": ("", "other tensors in float32 and with the scalars"),
    "INT8_KEEP_FLOAT_FP32_NAME_PATTERNS": ("", "other tensors stored as float32"),
}


@dataclass(frozen=True)
class Script:
    """One published script, as far as its command line reaches; each table extends the shared one."""

    record: str
    """How messages call it."""
    reads: dict[str, Value]
    """Defaults by name."""
    idle: dict[str, tuple[Value, str]] = field(default_factory=dict)
    """Names that change nothing: a value of the type that the script takes, and why."""
    only: dict[str, tuple[Value, str]] = field(default_factory=dict)
    """Names of which this core can do one value, and what another would mean."""
    lacks: tuple[str, ...] = ()
    """Names of the shared tables that this script does not read."""
    logged: Mapping[str, int] = field(default_factory=dict)
    """Cadences in the published logs that neither the command nor the script's defaults give."""

    def __post_init__(self) -> None:
        for name, shared in (("reads", READS), ("idle", IDLE), ("only", ONLY)):
            both = {key: value for key, value in shared.items() if key not in self.lacks} | getattr(self, name)
            object.__setattr__(self, name, both)


_WARM_START: dict[str, Value] = {  # PR 315 and 332 share them
    "NUM_LAYERS": 9, "TIED_EMBED_LR": 0.05, "MATRIX_LR": 0.04, "SCALAR_LR": 0.04, "MUON_MOMENTUM": 0.95,
    "MUON_MOMENTUM_WARMUP_START": 0.85, "MUON_MOMENTUM_WARMUP_STEPS": 500, "WARMDOWN_ITERS": 1200,
    "BIGRAM_VOCAB_SIZE": 4096, "BIGRAM_DIM": 128, "XSA_LAST_N": 0, "LN_SCALE": False, "EVAL_SEQ_LEN": 2048,
    "EMA_ENABLED": False, "EMA_DECAY": 0.997, "SWA_ENABLED": True,
}  # fmt: skip
_FOLDED = "torch 2.9.1 folded it away when it compiled: whatever it says, no step trained with QAT; pr315-qat does"
_NO_ETLB = "no function of the script uses it"

SCRIPTS: dict[str, Script] = {
    "pr194": Script(
        "PR 194",
        {
            "NUM_LAYERS": 9, "NUM_KV_HEADS": 8, "MLP_MULT": 3, "TRAIN_BATCH_TOKENS": 524_288, "QAT": True,
            "FP16_EMBED": True, "SMEAR_GATE": False, "MUON_WEIGHT_DECAY": 0.0, "EVAL_STRIDE": 64,
            "SWA_ENABLED": False, "SWA_START_FRAC": 0.5, "SWA_EVERY": 200, "EVAL_BATCH_SEQS": 32,
        },
        idle={
            "WARMDOWN_STEPS": ("", "the script does not read it; its name is WARMDOWN_ITERS, by default 3000"),
            "LATE_K_LAYERS": (2, "it acts on the script's 8-bit file alone, and QUANT_BITS is 6"),
            "BIGRAM_VOCAB_SIZE": (4096, "BIGRAM_HASH is off"), "BIGRAM_DIM": (0, "BIGRAM_HASH is off"),
        },
        only={
            "QUANT_BITS": (6, "the script's 8-bit training and file"), "LORA_RANK": (0, "low-rank adapters"),
            "BIGRAM_HASH": (False, "this script's own bigram, added at every layer"),
            "NUM_LOOPS": (1, "blocks that run several times"), "TTT_ENABLED": (False, "training while scoring"),
        },
        logged={"VAL_LOSS_EVERY": 200, "TRAIN_LOG_EVERY": 50},
    ),
    "pr315": Script(
        "PR 315",
        _WARM_START | {"MUON_WD": 0.02, "ADAM_WD": 0.01, "ROPE_DIMS": 0, "EVAL_STRIDE": 64, "SWA_EVERY": 200},
        idle={
            "LATE_QAT": (True, _FOLDED), "QAT_THRESHOLD": (0.1, _FOLDED),
            "MUON_BETA2": (0.95, "the script reads it and never uses it"),
            "MTP_LOSS_WEIGHT": (0.2, "MTP_NUM_HEADS is 0"),
        },
        only={
            "MTP_NUM_HEADS": (0, "heads that predict further tokens"),
            "QAT_ENABLED": (False, "QAT from the first step, of bigram.proj too"),
        },
        logged={"VAL_LOSS_EVERY": 0},
    ),
    "pr332": Script(
        "PR 332",
        _WARM_START | {
            "MLP_MULT": 2, "MLP_HIDDEN": 0, "TRAIN_SEQ_LEN": 1024, "TRAIN_BATCH_TOKENS": 524_288, "MUON_WD": 0.04,
            "ADAM_WD": 0.0, "GRAD_CLIP_NORM": 0.0, "PARTIAL_ROPE_DIMS": 0, "EVAL_STRIDE": 0, "SWA_FRAC": 0.5,
            "SWA_EVERY": 50, "GRAD_QUANT": False, "LATE_QAT": False, "EVAL_BATCH_SEQS": 32,
        },
        only={"SHUFFLE_DATA": (False, "another order of the training tokens")},
    ),
    "pr531": Script(
        "PR 531",
        {
            "WEIGHT_DECAY": 0.01, "BIGRAM_VOCAB_SIZE": 10_240, "BIGRAM_DIM": 128, "EVAL_STRIDE": 64,
            "SWA_ENABLED": True, "SWA_START_FRAC": 0.4, "SWA_EVERY": 50, "VAL_LOSS_EVERY": 500,
            "TRAIN_LOG_EVERY": 100, "EVAL_BATCH_SEQS": 32,
        },
        idle={"EMA_DECAY": (0.997, "the logged script has no EMA, and the PR's last one overwrites it with SWA")},
    ),
    "pr534": Script(
        "PR 534",
        {
            "MLP_HIDDEN": 0, "TIED_EMBED_LR": 0.035, "MATRIX_LR": 0.025, "SCALAR_LR": 0.025, "MUON_WEIGHT_DECAY": 0.04,
            "ROPE_DIMS": 16, "XSA_LAST_N": 4, "LN_SCALE": True, "VE_ENABLED": True, "VE_DIM": 128, "VE_LAYERS": "9,10",
            "EVAL_SEQ_LEN": 2048,
        },
        idle={"ADAM_WEIGHT_DECAY": (0.04, "the script reads it and builds plain Adam without it")},
    ),
    "pr1493": Script(
        "PR 1493",
        {
            "VOCAB_SIZE": 8192, "EMBEDDING_DIM": 512, "MLP_MULT": 4.0, "QK_GAIN_INIT": 5.0, "LN_SCALE": True,
            "ROPE_DIMS": 16, "XSA_LAST_N": 11, "SKIP_GATES_ENABLED": True, "NUM_LOOPS": 2, "LOOP_START": 3,
            "LOOP_END": 5, "ENABLE_LOOPING_AT": 0.35, "PARALLEL_RESIDUAL_START": 7, "DATA_DIR": "./data/",
            "EVAL_SEQ_LEN": 2048, "EVAL_STRIDE": 64, "SLIDING_WINDOW_ENABLED": True, "GPTQ_RESERVE_SECONDS": 12.0,
            "WARMDOWN_FRAC": 0.72, "MIN_LR": 0.0, "VAL_LOSS_EVERY": 4000, "TRAIN_LOG_EVERY": 500, "MATRIX_LR": 0.022,
            "MUON_WD": 0.095, "MUON_ROW_NORMALIZE": True, "EMBED_WD": 0.085, "ADAM_WD": 0.02, "EMA_DECAY": 0.9965,
            "GPTQ_CALIBRATION_BATCHES": 64,
            "TTT_ENABLED": False, "TTT_LR": 0.005, "TTT_EPOCHS": 3, "TTT_MOMENTUM": 0.9, "TTT_CHUNK_TOKENS": 32_768,
            "MATRIX_BITS": 6, "EMBED_BITS": 8, "MATRIX_CLIP_SIGMAS": 12.85, "EMBED_CLIP_SIGMAS": 20.0,
        },
        idle={
            "ROPE_TRAIN_SEQ_LEN": (2048, "the script reads it and never uses it"),
            "MUON_BETA2": (0.95, "the script reads it and never uses it"),
            "VAL_BATCH_TOKENS": (524_288, "a matter of speed and memory: the validation loss does not depend on it"),
            "ETLB_LR": (0.05, _NO_ETLB), "ETLB_STEPS": (5, _NO_ETLB), "ETLB_CLIP": (3.0, _NO_ETLB),
        },
        only={
            "ETLB_ENABLED": (False, "a function that the script lacks: its run ends in a NameError"),
            "COMPRESSOR": ("brotli", "another compressor"),
        },
        lacks=("DATA_PATH", "WARMDOWN_ITERS", "VAL_BATCH_SIZE", "INT8_KEEP_FLOAT_FP32_NAME_PATTERNS"),
    ),
}  # fmt: skip

_OF_PR1493, _ANOTHER_GATE = SCRIPTS["pr1493"], "another gate of the heads"
SCRIPTS["pr1855"] = Script(
    "PR 1855",
    {
        name: value for name, value in _OF_PR1493.reads.items()
        if not name.startswith(("TTT_", "SLIDING_")) and name not in (
            "EMBEDDING_DIM", "PARALLEL_RESIDUAL_START", "MATRIX_CLIP_SIGMAS")
    } | {
        "DATA_PATH": "", "CASEOPS_ENABLED": False, "PARALLEL_START_LAYER": 8, "SMEAR_GATE_ENABLED": False,
        "GATE_WINDOW": 12, "SPARSE_ATTN_GATE_ENABLED": False, "SPARSE_ATTN_GATE_SCALE": 1.0, "MATRIX_LR": 0.026,
        "MUON_MOMENTUM": 0.97, "WARMDOWN_FRAC": 0.75, "GPTQ_RESERVE_SECONDS": 4.0, "ATTN_CLIP_SIGMAS": 13.0,
        "GPTQ_CALIBRATION_BATCHES": 16, "MLP_CLIP_SIGMAS": 10.0, "GATED_ATTN_QUANT_GATE": False, "COMPRESSOR": "brotli",
        "LQER_ENABLED": True, "LQER_RANK": 4, "LQER_TOP_K": 3, "LQER_ASYM_GROUP": 64, "TTT_ENABLED": True,
        "TTT_LORA_RANK": 96, "TTT_LORA_ALPHA": 144.0, "TTT_LORA_LR": 1e-4, "TTT_BETA1": 0.0, "TTT_BETA2": 0.999,
        "TTT_WEIGHT_DECAY": 1.0, "TTT_CHUNK_SIZE": 48, "TTT_EVAL_SEQ_LEN": 2048, "TTT_BATCH_SIZE": 64,
        "TTT_K_LORA": True, "TTT_MLP_LORA": True, "TTT_O_LORA": True, "PHASED_TTT_PREFIX_DOCS": 2000,
        "PHASED_TTT_NUM_PHASES": 1, "GLOBAL_TTT_LR": 0.001, "GLOBAL_TTT_MOMENTUM": 0.9, "GLOBAL_TTT_EPOCHS": 1,
        "GLOBAL_TTT_CHUNK_TOKENS": 32_768, "GLOBAL_TTT_BATCH_SEQS": 32, "GLOBAL_TTT_GRAD_CLIP": 1.0,
    },
    idle={
        "MATRIX_CLIP_SIGMAS": (12.85, "every matrix is attention's or the MLP's, and those have clips of their own"),
        "LQER_FACTOR_BITS": (4, "the form of the correction that is not used reads it"),
        "PHASED_TTT_ENABLED": (True, "the script does not read it"),
        "ROPE_TRAIN_SEQ_LEN": (2048, "the script reads it and never uses it"),
        "VAL_BATCH_TOKENS": (524_288, "a matter of speed and memory, but for the targets that a part of a batch drops"),
        "FUSED_CE_ENABLED": (False, "the same loss, computed in one kernel"),
        "GLOBAL_TTT_WARMUP_START_LR": (0.0, "GLOBAL_TTT_WARMUP_CHUNKS is 0"),
    },
    only={
        "ROPE_YARN": (False, "another rotary base for long texts"),
        "PARALLEL_FINAL_LANE": ("mean", "another reading of the two lanes"),
        "SPARSE_ATTN_GATE_INIT_STD": (0.0, "gates that do not begin at zero"),
        "ATTN_OUT_GATE_ENABLED": (False, _ANOTHER_GATE), "GATED_ATTN_ENABLED": (False, _ANOTHER_GATE),
        "VAL_DOC_FRACTION": (1.0, "a score of some documents alone"),
        "LQER_ASYM_ENABLED": (True, "another form of the low-rank correction"),
        "TTT_GRAD_STEPS": (1, "several steps on the targets just scored"),
        "TTT_OPTIMIZER": ("adam", "another optimiser of the adapters"),
        "TTT_WARM_START_A": (True, "adapters that begin anew with each batch of documents"),
        "GLOBAL_TTT_WARMUP_CHUNKS": (0, "a warm-up of a phase's rate"),
        "GLOBAL_TTT_RESPECT_DOC_BOUNDARIES": (True, "phases that cut documents elsewhere"),
    },
    lacks=("WARMDOWN_ITERS", "VAL_BATCH_SIZE", "INT8_KEEP_FLOAT_FP32_NAME_PATTERNS"),
)  # fmt: skip
_OF_PR1855, _ONE_EXPERT = SCRIPTS["pr1855"], "another expert of the tilt"
SCRIPTS["pr2135"] = Script(  # of what its command sets the script's own default is in no log: PR 1855's, or off
    "PR 2135",
    _OF_PR1855.reads | {
        "SMEAR_GATE_BOS_FIX": False, "ASYM_LOGIT_RESCALE": False, "NGRAM_TILT_ENABLED": False, "TOKEN_ORDER": 16,
        "TOKEN_THRESHOLD": 0.8, "TOKEN_BOOST": 2.625,
    },
    idle=_OF_PR1855.idle | {
        "NGRAM_HINT_PRECOMPUTE_OUTSIDE": (False, "whether its clock counts the hints: no score depends on it"),
        "MUON_HUBER_DELTA": (0.1, "MUON_HUBER_WD is 0"),
    },
    only=_OF_PR1855.only | {
        "WITHIN_TAU": (99.0, _ONE_EXPERT), "WITHIN_BOOST": (0.0, _ONE_EXPERT), "WORD_TAU": (99.0, _ONE_EXPERT),
        "WORD_BOOST": (0.0, _ONE_EXPERT), "AGREE_ADD_BOOST": (0.0, _ONE_EXPERT),
        "TTT_LORA_EMA_DECAY": (0.0, "averaged adapters"), "TTT_UPDATE_EVERY": (1, "fewer steps of the adapters"),
        "MUON_HUBER_WD": (False, "another weight decay"), "OPTROT_ENABLED": (False, "a rotation before rounding"),
        "GLOBAL_TTT_OPTIMIZER": ("sgd", "another optimiser of the phases"),
    },
    lacks=_OF_PR1855.lacks,
)  # fmt: skip
