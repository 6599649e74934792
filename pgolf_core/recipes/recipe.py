"""Recipes: everything that decides a run, as frozen dataclasses."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pgolf_core.base.files import UserError, canonical_json, sha256_bytes
from pgolf_core.base.strict import build
from pgolf_core.recipes.adapt import Adapt

TRACK_CAP_BYTES = {"10min_16mb": 16_000_000, "local_10min_1mb": 1_000_000}
SIGMA_BITS = range(4, 9)
GRID_NAMES = (
    "fp16", "int6_row", "int8_row_clip", "int5_row_clip", "int6_row_clip", "int7_row_clip", "int5_row_nofloor",
    "int6_clip_search", "int8_clip_search", "int8_clip_search_step4",
    *(f"int{bits}_sigma" for bits in SIGMA_BITS), "int8_row",
)  # fmt: skip
LATER_KEYS = frozenset((
    "negative_slope", "skip_gates", "num_loops", "parallel_start", "muon_row_normalise", "embed_wd", "min_lr",
    "reserve_seconds", "adapt", "embed_clip_sigmas", "correction_order", "correct_tok_emb",
    "compressor", "smear_bos_mask", "lanes", "softcaps", "document_mask", "bytes", "muon_coefficients", "muon_dtype",
    "batch_documents", "mlp_clip_sigmas", "attention_clip_sigmas", "grouping", "table_dropout",
))  # fmt: skip
LATER_BEGINNINGS = ("lora_", "phase", "tilt", "mix", "low_rank", "attn_gate", "loop_", "gate", "clip_")
"""Keys and sections (and beginnings of keys) that came after runs were recorded: at their defaults they enter no
fingerprint and no artifact's header, so that what was recorded stays what it was."""
MAX_ELEMENTS = 2**27
"""Weights in one artifact: one bit each fills the 16 MB track. It bounds what a hostile header can make us allocate."""
SENSITIVITY_BELOW = 0.1
"""Gradient statistics are gathered while 0 < multiplier < this: the last tenth of the warm-down (PR 332)."""
RULES: list[Callable[[Any], Iterable[str]]] = []
"""What `from_dict` holds a recipe against: `recipes.rules` puts itself here. A script does without: its recipe was
checked when the script was made."""


@dataclass(frozen=True)
class Model:
    """The network's shape and switches."""

    vocab_size: int = 1024
    """Pieces of the tokenizer; checked against the dataset's."""
    num_layers: int = 11
    model_dim: int = 512
    """Width of the residual stream."""
    num_heads: int = 8
    """Query heads; divides model_dim."""
    num_kv_heads: int = 4
    """Key/value heads; divides num_heads."""
    mlp_hidden: int = 1536
    rope_dims: int = 64
    """Rotary dimensions of each head, even; the rest of the head carries no position (PR 315: 16)."""
    rope_base: float = 10000.0
    rope_reference_tokens: int = 0
    """Above this length the rotary base is rescaled (PR 315: 1024); 0 keeps the plain base."""
    logit_softcap: float = 30.0
    qk_gain_init: float = 1.5
    embed_init_std: float = 0.005
    norm_eps: float = 2.0**-23
    """Epsilon of every RMS norm; float32's machine epsilon, as torch uses since 2.7 (torch 2.4 with bfloat16: 2^-7)."""
    smear: str = "after"
    """Smear gate before or after the first norm, a window of channels that gates all of them (PR 1855), or off."""
    bigram_rows: int = 0
    """Rows of the hashed bigram table; 0 means none."""
    bigram_dim: int = 128
    ln_scale: bool = False
    """Scale each block's normalised input by 1/sqrt(layer + 1) (PR 315)."""
    xsa_last_n: int = 0
    """Exclusive self-attention on this many last layers."""
    ve_dim: int = 0
    """Width of the shared value embedding (PR 534); 0 means none."""
    ve_layers: tuple[int, ...] = ()
    """0-based layers that add the value embedding."""
    table_dropout: float = 0.0
    """Share of positions that training gives nothing of the bigram table, and by another draw nothing of the value
    embedding; the others get 1 / (1 - share) times as much."""
    init: str = "orthogonal"
    """Initialisation of the matrices that are not zero: orthogonal, or torch's uniform default."""
    negative_slope: float = 0.0
    """What negative inputs of the MLP's leaky ReLU are multiplied by before the square (PR 1493: 0.5); 0: plain."""
    skip_gates: bool = False
    """Blend each skip in by a learned sigmoid gate instead of adding it (PR 1493)."""
    num_loops: int = 0
    """How many times more the blocks loop_start..loop_end run, on the same weights (PR 1493: 2); 0: once, as all."""
    loop_start: int = 0
    """0-based first block of the loop."""
    loop_end: int = 0
    """0-based last block of the loop, which includes it."""
    parallel_start: int = -1
    """0-based first of the last blocks whose attention and MLP read the same input (PR 1493: 7); negative: none."""
    gate_window: int = 12
    """Channels that the window smear and the attention's gates read (PR 1855: 12)."""
    smear_bos_mask: bool = True
    """A document's first token (id 1) takes nothing from the token before it in the window smear (PR 2135: false)."""
    attn_gate: str = "off"
    """sparse: each head's output times a sigmoid of the attention input's first gate_window channels (PR 1855)."""
    attn_gate_scale: float = 1.0
    """Multiplies what is inside that sigmoid (PR 1855: 0.5)."""
    lanes: int = 1
    """2: from parallel_start on attention and MLP have a residual stream each, mixed by learned scalars, and the mean
    of both goes on to the head (PR 1855)."""
    softcaps: str = "one"
    """one: logit_softcap for all logits; two: a learned cap for positive ones and one for negative, both starting
    there; two_inert: these stand in the file and nothing reads them (what PR 2135's training did)."""

    @property
    def gated(self) -> bool:
        """Whether the network has anything that network.gates makes."""
        return self.smear == "window" or self.attn_gate != "off" or self.lanes == 2 or self.softcaps != "one"


@dataclass(frozen=True)
class Data:
    """Which tokens a step sees."""

    dataset: str = "sotu-sp1024"
    """Name of a prepared dataset (`pgolf data`), overridden by --data."""
    seq_len: int = 2048
    batch_tokens: int = 786_432
    """Tokens of one optimiser step over all ranks and micro-batches."""
    spans_per_step: int = 8
    """Contiguous spans a step is cut from, each one token longer than its inputs; fixes the partition."""
    order: str = "sequential"
    """sequential: the split from its start, as the records read it; shuffled: windows of seq_len in the seed's random
    order, from another offset each pass; ranked: windows in each rank's own order, whatever the seed (PR 1493);
    packed: rows of batch_tokens / spans_per_step tokens in order, in which attention stays inside documents and begins
    anew every seq_len tokens of one (PR 1855)."""
    micro_batch_seqs: int = 48
    """Sequences of one forward/backward: a speed setting that never changes which tokens a step sees."""
    final_seq_len: int = 0
    """Sequence length of the last `final_fraction` of the budget, tokens of a step unchanged; 0: seq_len to the end."""
    final_fraction: float = 0.25
    bytes: str = "table"
    """What a score divides by. table: the tokenizer's count; sidecar: the original bytes beside the validation shards,
    of text that was changed, as CaseOps text (PR 1855)."""


@dataclass(frozen=True)
class Optim:
    """Muon for matrices, AdamW for the rest."""

    embed_lr: float = 0.035
    matrix_lr: float = 0.025
    scalar_lr: float = 0.025
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    adam_wd: float = 0.04
    muon_wd: float = 0.04
    muon_wd_order: str = "before"
    """Decoupled weight decay before the update (PR 194, 315, 531) or after it (PR 332, 534)."""
    muon_momentum: float = 0.99
    muon_momentum_start: float = 0.92
    muon_momentum_warmup_steps: int = 1500
    newton_schulz_steps: int = 5
    newton_schulz_dtype: str = "bfloat16"
    muon_row_normalise: bool = False
    """Divide each row of Muon's momentum by its norm before it is orthogonalised (PR 1493)."""
    embed_wd: float = -1.0
    """Weight decay of the token embedding (PR 1493: 0.085); negative: adam_wd."""
    grad_clip_norm: float = 0.3
    """Global L2 norm over all parameters; 0 turns clipping off."""
    bigram_optimizer: str = "split"
    """split: table with the embedding's AdamW, projection with Muon (PR 315, 531); scalar: all of it with the
    scalars' AdamW (PR 332)."""
    smear_beta2: float = 0.95
    """Second beta of the smear gate's own AdamW (PR 194: 0.99)."""
    ve_frozen: bool = False
    """Leave the value embedding's table and projection at their random start (what PR 534's run really did)."""
    muon_coefficients: str = "quintic"
    """quintic, the same in each of newton_schulz_steps; polar_express, other ones in each, the last for all beyond
    (PR 1855)."""
    muon_dtype: str = "float32"
    """In which Muon keeps gradient and momentum until newton_schulz_dtype takes over (PR 1855: bfloat16)."""
    clip_each_rank: bool = False
    """Clip each rank's own gradient and average what is left (PR 1855), instead of clipping the average."""


@dataclass(frozen=True)
class Schedule:
    """When training ends and how the learning rate falls."""

    iterations: int = 20_000
    max_seconds: float = 600.0
    """Wall-clock cap of the training steps; 0 means iterations alone end the run."""
    warmup_steps: int = 20
    """Priming steps before the clock, rolled back."""
    warmdown_iters: int = 3000
    """Steps over which the learning rate falls linearly to zero."""
    warmdown_fraction: float = 0.0
    """Share of the budget (clock or iterations) over which the rate falls instead; 0: warmdown_iters decides."""
    min_lr: float = 0.0
    """Floor of the learning-rate multiplier."""
    loop_at: float = 0.0
    """Share of the budget from which on model.num_loops counts (PR 1493: 0.35); validation, averages and the packed
    file run the loop, whatever training did."""
    reserve_seconds: float = 0.0
    """Seconds of max_seconds that training leaves for what follows it (PR 1493: 12, for the Hessians)."""
    val_every_steps: int = 0
    """Cadence of validation with raw weights; 0 validates only at the end."""
    val_tokens: int = 0
    """Validation targets scored on that cadence, from the split's start; 0 means all."""
    log_every_steps: int = 200
    checkpoint_every_seconds: float = 60.0
    autocast: str = "auto"
    """bfloat16 where the device computes it in hardware (auto), or float32 everywhere (off)."""
    compile: str = "auto"
    """torch.compile where a compiler is found (auto), or eager (off)."""

    def used(self, step: int, elapsed_seconds: float) -> float:
        """Share of the budget, in [0, 1], that `step` steps in so many seconds have used: of the nearer limit."""
        cap = self.max_seconds - self.reserve_seconds
        by_clock = elapsed_seconds / cap if cap > 0 else 0.0
        return min(max(by_clock, step / self.iterations), 1.0)

    def over_cap_seconds(self, trained_seconds: float) -> float:
        """By how much a training passed the cap; 0 if it did not, or if there is none."""
        return max(trained_seconds - self.max_seconds, 0.0) if self.max_seconds > 0 else 0.0


@dataclass(frozen=True)
class Average:
    """Which weights are packed."""

    kind: str = "ema"
    """ema, swa or none."""
    ema_decay: float = 0.997
    swa_start: float = 0.5
    """SWA takes a snapshot while the learning-rate multiplier is below this."""
    swa_every_steps: int = 50


@dataclass(frozen=True)
class QAT:
    """Quantisation-aware training: the packed grid inside the forward pass, straight-through gradients."""

    kind: str = "off"
    """off, always (from step 0) or late (once the learning-rate multiplier is below `threshold`)."""
    threshold: float = 0.1
    grid: str = "packed"
    """packed: every matrix trains on the grid that it will be packed on; else the name of one grid for all of them."""
    lr_factor: float = 1.0
    """Late QAT multiplies every learning rate by this from its first step on (PR 534: 0.5)."""


@dataclass(frozen=True)
class Quant:
    """Which grid each tensor is packed on."""

    kind: str = "grid"
    """grid: the named grids below, in a file of whatever size comes of it; steps: every matrix above the size threshold
    gets steps from the run's gradients, entropy-coded, as fine as `target_bytes` allows."""
    target_bytes: int = 0
    """With kind = steps: bytes of file and code to be spent; 0 is the track's cap less 0.1 %."""
    attention: str = "int6_row"
    mlp: str = "int6_row"
    tok_emb: str = "int8_row_clip"
    other: str = "int8_row_clip"
    """Every other tensor above the size threshold (bigram and value embeddings)."""
    small_tensor_elements: int = 65_536
    """Tensors of at most this many elements are stored as fp16; published: a quarter of the width squared."""
    allocation: str = "fixed"
    """fixed, or gradient: PR 332's 5/6/7 bits by squared gradient for attention, MLP and bigram."""
    exceptions: tuple[str, ...] = ()
    """Tensors by name before any other rule, each "PATTERN=GRID" with shell wildcards; the first that fits holds."""
    clip_sigmas: float = 12.85
    """On the grids int<bits>_sigma: a row's clip, in standard deviations of its weights (PR 1493: SDClip)."""
    embed_clip_sigmas: float = 20.0
    """The same of the token embedding."""
    compressor: str = "zstd"
    """zstd, or brotli: even bytes, then odd ones, then brotli at its strongest (PR 1493); needs the package brotli."""
    zstd_level: int = 22
    correction: str = "off"
    """off, or hessian: while a matrix is rounded, the columns still to come make good each column's error, as far as
    what training tokens multiply it by allows (GPTQ). Tables are rounded plainly: nothing multiplies them."""
    correction_damping: float = 0.01
    """Added to the diagonal of a matrix's X^T X, as a share of the diagonal's mean; raised where that is not enough."""
    correction_tokens: int = 65_536
    """Training tokens that X is gathered from, on the clock after the last step; rounded up to whole sequences."""
    correction_order: str = "natural"
    """natural: columns are rounded from the first on; activation: those with the largest inputs first, and those whose
    inputs were always zero become zero (GPTQ's act-order, PR 1493)."""
    correct_tok_emb: bool = False
    """Correct the token embedding too, as the head: by what the last norm gives it (PR 1493)."""
    mlp_clip_sigmas: float = 0.0
    """clip_sigmas of the MLP's matrices (PR 1855: 11.5); 0: clip_sigmas."""
    attention_clip_sigmas: float = 0.0
    """The same of attention's (PR 1855: 13.0)."""
    low_rank: int = 0
    """Rank of a correction that the file holds beside the codes of some matrices (PR 1855: LQER, 4); 0: none."""
    low_rank_top: int = 3
    """How many matrices get one: those with the largest error in sum of squares."""
    low_rank_group: int = 64
    """Numbers of the correction's right factor under one scale (PR 2135: 32)."""
    gates: str = "float16"
    """float16, or int8_row: sparse gates of attention (attn_gate_w) as int8 rows (PR 1855)."""
    grouping: str = "off"
    """off, or similarity: codes by kind of matrix, transposed, rows sorted by similarity where PR 1855 sorts them;
    similarity_all: in every matrix (PR 2135)."""


@dataclass(frozen=True)
class Eval:
    """How the score is taken."""

    seq_len: int = 2048
    stride: int = 64
    batch_seqs: int = 32
    document_mask: bool = False
    """Attention stays inside a target's own document (a token of id 1 begins one): what its window has of it."""


@dataclass(frozen=True)
class Recipe:
    """One complete recipe; `name` and `title` do not enter the fingerprint, everything else does."""

    name: str = "unnamed"
    title: str = ""
    track: str = "10min_16mb"
    script: str = "packed"
    """Which form of the one-file train_gpt.py is shipped and counted: packed (minified, in LZMA), or readable (five
    times the bytes)."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    average: Average = field(default_factory=Average)
    qat: QAT = field(default_factory=QAT)
    quant: Quant = field(default_factory=Quant)
    eval: Eval = field(default_factory=Eval)
    adapt: Adapt = field(default_factory=Adapt)

    @property
    def cap_bytes(self) -> int:
        """The track's limit on code plus artifact, in decimal bytes."""
        return TRACK_CAP_BYTES[self.track]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the resolved values: equal fingerprints mean equal runs, whatever the file was called."""
        values = recorded(self)
        del values["name"], values["title"]
        # the default is hashed by the name that it had: recorded runs keep their fingerprints
        values["script"] = "readable" if self.script == "packed" else "joined"
        if self.quant.correction == "off":  # as before there were these keys, for the same reason
            values["quant"] = {k: value for k, value in values["quant"].items() if not k.startswith("correction")}
        return sha256_bytes(canonical_json(values).encode())


def least_elements(model: Model) -> int:
    """Weights in the model's matrices: a lower bound of all its weights, and of the memory that building it takes."""
    width, kv_width = model.model_dim, model.model_dim // model.num_heads * model.num_kv_heads
    layer = 2 * width * width + 2 * width * kv_width + 2 * width * model.mlp_hidden
    bigram = model.bigram_rows and model.bigram_dim * (model.bigram_rows + width)
    value_embedding = model.ve_dim * (model.vocab_size + kv_width)
    return model.vocab_size * width + model.num_layers * layer + bigram + value_embedding


def to_dict(part: Any) -> dict[str, Any]:
    """A Recipe, or one of its sections, as plain nested dictionary, as JSON holds it: tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(part)))


def recorded(part: Any) -> dict[str, Any]:
    """The values of a Recipe, or of one of its sections, that a fingerprint or a file keeps (see LATER_KEYS)."""
    values = to_dict(part)
    for key in list(values):
        value = getattr(part, key)
        if (key in LATER_KEYS or key.startswith(LATER_BEGINNINGS)) and value == getattr(type(part)(), key):
            del values[key]
        elif dataclasses.is_dataclass(value):
            values[key] = recorded(value)
    return values


def from_dict(values: dict[str, Any], source: str = "recipe") -> Recipe:
    """Build and check a Recipe from nested plain values; `source` names the file in error messages."""
    recipe = build(Recipe, values, source)
    for rule in RULES:
        for message in rule(recipe):
            raise UserError(f"{source}: {message}")
    return recipe
