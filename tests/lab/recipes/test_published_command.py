"""A published run command becomes the recipe of what that script does with it, and nothing is dropped in silence.

The commands are those of the pull requests (papers/records). Held against: the recipes prN-as-run on disk.
"""

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgolf_core.base.files import UserError
from pgolf_core.lab.recipes.published_command import compare_known, comparison_lines, recipe_from_command
from pgolf_core.lab.recipes.published_scripts import SCRIPTS
from pgolf_core.lab.recipes.shell_block import read_block
from pgolf_core.lab.shared.settings import differences
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe

LAUNCH = "torchrun --standalone --nproc_per_node=8 train_gpt.py"
COMMANDS = {
    "pr194": "NCCL_NVLS_ENABLE=0 VOCAB_SIZE=1024 NUM_HEADS=8 NUM_KV_HEADS=4 MODEL_DIM=512 NUM_LAYERS=11 MLP_MULT=3 "
    "QAT=1 QUANT_BITS=6 FP16_EMBED=1 LATE_K_LAYERS=0 EVAL_STRIDE=64 EVAL_BATCH_SEQS=32 MATRIX_LR=0.02 SCALAR_LR=0.02 "
    "TIED_EMBED_LR=0.03 MUON_MOMENTUM=0.99 MUON_WEIGHT_DECAY=0.038 SMEAR_GATE=1 BIGRAM_HASH=0 TRAIN_SEQ_LEN=2048 "
    "TRAIN_BATCH_TOKENS=524288 WARMDOWN_STEPS=3000 MAX_WALLCLOCK_SECONDS=600 SWA_ENABLED=1 SWA_START_FRAC=0.5 "
    "SWA_EVERY=50",
    "pr315": "NUM_LAYERS=11 BIGRAM_VOCAB_SIZE=2048 XSA_LAST_N=4 EMA_ENABLED=1 EMA_DECAY=0.997 SWA_ENABLED=0 "
    "ROPE_DIMS=16 LN_SCALE=1 LATE_QAT=1 QAT_THRESHOLD=0.1 MUON_WD=0.04 ADAM_WD=0.04 MATRIX_LR=0.025 SCALAR_LR=0.025 "
    "TIED_EMBED_LR=0.035 MUON_MOMENTUM=0.99 MUON_MOMENTUM_WARMUP_START=0.92 MUON_MOMENTUM_WARMUP_STEPS=1500 "
    "WARMDOWN_ITERS=3000 ITERATIONS=9000 MAX_WALLCLOCK_SECONDS=600 EVAL_STRIDE=64",
    "pr332": "NUM_LAYERS=12 MLP_HIDDEN=1408 BIGRAM_VOCAB_SIZE=2048 BIGRAM_DIM=128 TRAIN_SEQ_LEN=2048 "
    "TRAIN_BATCH_TOKENS=524288 MATRIX_LR=0.025 SCALAR_LR=0.025 TIED_EMBED_LR=0.035 MUON_MOMENTUM=0.99 "
    "MUON_MOMENTUM_WARMUP_START=0.92 MUON_MOMENTUM_WARMUP_STEPS=1500 WARMDOWN_ITERS=3000 GRAD_CLIP_NORM=0.3 "
    "EVAL_SEQ_LEN=2048 EVAL_STRIDE=64 EVAL_BATCH_SEQS=32 MUON_WD=0.04 ADAM_WD=0.04 SWA_ENABLED=0 EMA_ENABLED=1 "
    "EMA_DECAY=0.997 XSA_LAST_N=4 PARTIAL_ROPE_DIMS=16 LN_SCALE=1 GRAD_QUANT=1 MAX_WALLCLOCK_SECONDS=600 "
    "ITERATIONS=9000",
    "pr531": "NUM_LAYERS=11 EMA_DECAY=0.997 MAX_WALLCLOCK_SECONDS=600",
    "pr534": "MLP_HIDDEN=1408 VOCAB_SIZE=1024",
    "pr1493": "SEED=42 QK_GAIN_INIT=5.25 TTT_ENABLED=1 TTT_LR=0.005 TTT_EPOCHS=3",
    "pr1855": "DATA_DIR=./data VOCAB_SIZE=8192 DATA_PATH=d/fineweb10B_sp8192_lossless_caps_caseops_v1_reserved "
    "TOKENIZER_PATH=t.model CASEOPS_ENABLED=1 ITERATIONS=20000 MAX_WALLCLOCK_SECONDS=600 PHASED_TTT_ENABLED=1 "
    "PHASED_TTT_PREFIX_DOCS=2500 PHASED_TTT_NUM_PHASES=3 EMBED_BITS=7 MATRIX_LR=0.026 MIN_LR=0.1 MLP_CLIP_SIGMAS=11.5 "
    "ATTN_CLIP_SIGMAS=13.0 EMBED_CLIP_SIGMAS=14.0 GRAD_CLIP_NORM=0.3 TTT_CHUNK_SIZE=48 WARMUP_STEPS=20 "
    "MUON_BACKEND_STEPS=5 GLOBAL_TTT_MOMENTUM=0.9 WARMDOWN_FRAC=0.85 BETA2=0.99 TTT_BETA2=0.99 TTT_WEIGHT_DECAY=0.5 "
    "TTT_LORA_RANK=80 SPARSE_ATTN_GATE_SCALE=0.5 GPTQ_RESERVE_SECONDS=0.5 GPTQ_CALIBRATION_BATCHES=16 "
    "VAL_LOSS_EVERY=0 GATED_ATTN_QUANT_GATE=1 SPARSE_ATTN_GATE_ENABLED=1 GATE_WINDOW=12 SMEAR_GATE_ENABLED=1 "
    "LQER_ENABLED=1 LQER_ASYM_ENABLED=1 LQER_RANK=4 LQER_FACTOR_BITS=4 LQER_ASYM_GROUP=64 LQER_TOP_K=3 "
    "FUSED_CE_ENABLED=1 COMPRESSOR=pergroup NCCL_NET=Socket SEED=42",
    "pr2135": "DATA_PATH=d/fineweb10B_sp8192_lossless_caps_caseops_v1_reserved CASEOPS_ENABLED=1 VOCAB_SIZE=8192 "
    "ASYM_LOGIT_RESCALE=1 NGRAM_TILT_ENABLED=1 NGRAM_HINT_PRECOMPUTE_OUTSIDE=0 TOKEN_ORDER=16 TOKEN_THRESHOLD=0.800 "
    "TOKEN_BOOST=2.625 WITHIN_TAU=99.0 WITHIN_BOOST=0.0 WORD_TAU=99.0 WORD_BOOST=0.0 AGREE_ADD_BOOST=0.0 "
    "SMEAR_GATE_BOS_FIX=0 TTT_LORA_EMA_DECAY=0.0 TTT_UPDATE_EVERY=1 PHASED_TTT_PREFIX_DOCS=2500 "
    "PHASED_TTT_NUM_PHASES=1 EVAL_SEQ_LEN=2560 TTT_EVAL_SEQ_LEN=2560 COMPRESSOR=pergroup MATRIX_CLIP_SIGMAS=12.85 "
    "ATTN_CLIP_SIGMAS=13.0 MLP_CLIP_SIGMAS=11.5 EMBED_BITS=7 EMBED_CLIP_SIGMAS=14.0 MATRIX_LR=0.028 MIN_LR=0.1 "
    "WARMDOWN_FRAC=0.85 BETA2=0.99 FUSED_CE_ENABLED=1 SPARSE_ATTN_GATE_ENABLED=1 SPARSE_ATTN_GATE_SCALE=0.5 "
    "SMEAR_GATE_ENABLED=1 GATE_WINDOW=12 LQER_ENABLED=1 LQER_RANK=4 LQER_TOP_K=3 LQER_FACTOR_BITS=4 "
    "LQER_ASYM_ENABLED=1 LQER_ASYM_GROUP=32 TTT_WARM_START_A=1 TTT_LORA_RANK=80 TTT_BETA2=0.99 "
    "TTT_WEIGHT_DECAY=2.0 TTT_LORA_LR=8e-5 GPTQ_RESERVE_SECONDS=0.5 GPTQ_CALIBRATION_BATCHES=32 TTT_K_LORA=0 "
    "TTT_O_LORA=1 TTT_MLP_LORA=1 EMA_DECAY=0.9965",
}  # fmt: skip


def resolve(script: str, changes: str = ""):
    """The published command of `script` with some words changed or added."""
    words = read_block(COMMANDS[script]).values | read_block(changes).values
    return recipe_from_command(" ".join(f"{name}={shlex.quote(value)}" for name, value in words.items()), script)


# ---------------------------------------------------------------------- the published commands


@pytest.mark.parametrize("script", COMMANDS)
def test_the_published_command_is_the_recipe_of_the_run_as_it_was(script):
    recipe = recipe_from_command(f"{COMMANDS[script]} {LAUNCH}", script).recipe
    assert differences(recipe, load_recipe(f"{script}-as-run")) == []
    assert recipe.fingerprint == load_recipe(f"{script}-as-run").fingerprint


IN_VAIN = {
    "pr194": {"NCCL_NVLS_ENABLE": "outside the recipe", "LATE_K_LAYERS": "no effect", "WARMDOWN_STEPS": "no effect",
              "VAL_LOSS_EVERY": "from the logs", "TRAIN_LOG_EVERY": "from the logs"},
    "pr315": {"LATE_QAT": "no effect", "QAT_THRESHOLD": "no effect", "VAL_LOSS_EVERY": "from the logs"},
    "pr332": {}, "pr531": {"EMA_DECAY": "no effect"}, "pr534": {}, "pr1493": {"SEED": "outside the recipe"},
}  # fmt: skip


@pytest.mark.parametrize("script", IN_VAIN)
def test_what_a_published_command_says_in_vain_is_reported(script):
    assert {report.name: report.kind for report in resolve(script).reports} == IN_VAIN[script]


def test_the_reasons_name_what_would_have_had_an_effect():
    reasons = {report.name: report.reason for script in COMMANDS for report in resolve(script).reports}
    assert "WARMDOWN_ITERS" in reasons["WARMDOWN_STEPS"]
    assert "torch 2.9.1" in reasons["LATE_QAT"] and "pr315-qat" in reasons["LATE_QAT"]
    assert "SWA" in reasons["EMA_DECAY"]
    (report,) = resolve("pr534", "ADAM_WEIGHT_DECAY=0.04").reports
    assert report.kind == "no effect" and "plain Adam" in report.reason


def test_late_qat_of_pr332_does_work_and_is_the_recipe_of_its_negative_finding():
    recipe = resolve("pr332", "LATE_QAT=1").recipe
    assert recipe.fingerprint == load_recipe("pr332-qat").fingerprint
    assert [name for name, diff in compare_known(recipe, "pr332").items() if not diff] == ["pr332-qat"]


# ---------------------------------------------------------------------- defaults


DEFAULTS = {
    "pr194": {"num_layers": 9, "num_kv_heads": 8, "mlp_hidden": 1536, "smear": "off", "muon_wd": 0.0},
    "pr315": {"num_layers": 9, "bigram_rows": 4096, "rope_dims": 64, "ln_scale": False, "xsa_last_n": 0,
              "matrix_lr": 0.04, "embed_lr": 0.05, "muon_momentum": 0.95, "muon_momentum_start": 0.85,
              "muon_wd": 0.02, "adam_wd": 0.01, "warmdown_iters": 1200, "iterations": 20_000, "stride": 64},
    "pr332": {"num_layers": 9, "mlp_hidden": 1024, "grad_clip_norm": 0.0, "adam_wd": 0.0, "muon_wd": 0.04,
              "allocation": "fixed", "stride": 2048, "batch_tokens": 524_288, "micro_batch_seqs": 64},
    "pr531": {"num_layers": 11, "bigram_rows": 10_240, "muon_wd": 0.04, "adam_wd": 0.01, "swa_start": 0.4},
    "pr534": {"num_layers": 11, "mlp_hidden": 1536, "ve_dim": 128, "ve_layers": (9, 10), "init": "uniform"},
    "pr1493": {"qk_gain_init": 5.0, "vocab_size": 8192, "order": "ranked", "correction_tokens": 6_291_456},
}  # fmt: skip


@pytest.mark.parametrize("script", DEFAULTS)
def test_a_name_not_given_takes_that_scripts_default_and_not_our_recipes(script):
    recipe = recipe_from_command("", script).recipe
    parts = (recipe.model, recipe.data, recipe.optim, recipe.schedule, recipe.average, recipe.quant, recipe.eval)
    found = {name: next(getattr(part, name) for part in parts if hasattr(part, name)) for name in DEFAULTS[script]}
    assert found == DEFAULTS[script]


@pytest.mark.parametrize(
    "script, change, keys",
    [
        ("pr194", "MUON_WEIGHT_DECAY=0.02", {"optim.muon_wd": 0.02}),
        ("pr194", "QAT=0", {"qat.kind": "off"}),
        ("pr194", "FP16_EMBED=0", {"quant.tok_emb": "int6_row_clip"}),
        ("pr194", "SMEAR_GATE=0", {"model.smear": "off"}),
        ("pr194", "SWA_START_FRAC=0.4 SWA_EVERY=25", {"average.swa_start": 0.4, "average.swa_every_steps": 25}),
        ("pr194", "BETA2=0.9", {"optim.adam_betas": [0.9, 0.9]}),  # its smear gate keeps its own
        ("pr315", "BETA2=0.9", {"optim.adam_betas": [0.9, 0.9], "optim.smear_beta2": 0.9}),
        ("pr315", "NUM_LAYERS=10", {"model.num_layers": 10}),
        ("pr315", "MLP_MULT=2.5", {"model.mlp_hidden": 1280}),
        ("pr315", "ROPE_DIMS=0", {"model.rope_dims": 64}),
        ("pr315", "BIGRAM_VOCAB_SIZE=0", {"model.bigram_rows": 0}),
        ("pr315", "VAL_LOSS_EVERY=1000 TRAIN_LOG_EVERY=50",
         {"schedule.val_every_steps": 1000, "schedule.log_every_steps": 50}),
        ("pr315", "TRAIN_BATCH_TOKENS=524288", {"data.batch_tokens": 524_288, "data.micro_batch_seqs": 32}),
        ("pr315", "EMA_DECAY=0.999 GRAD_CLIP_NORM=0", {"average.ema_decay": 0.999, "optim.grad_clip_norm": 0.0}),
        ("pr315", "EMA_ENABLED=0", {"average.kind": "none"}),
        ("pr315", "EMA_ENABLED=0 SWA_ENABLED=1 SWA_EVERY=100", {"average.kind": "swa", "average.swa_every_steps": 100}),
        ("pr332", "MLP_HIDDEN=0", {"model.mlp_hidden": 1024}),
        ("pr332", "EVAL_STRIDE=0", {"eval.stride": 2048}),
        ("pr332", "GRAD_QUANT=0", {"quant.allocation": "fixed", "quant.other": "int6_row_clip"}),
        ("pr531", "WEIGHT_DECAY=0.05", {"optim.adam_wd": 0.05}),
        ("pr531", "SWA_ENABLED=0", {"average.kind": "none"}),
        ("pr531", "NUM_LAYERS=8", {"model.num_layers": 8, "quant.exceptions": []}),
        ("pr534", "VE_ENABLED=0", {"model.ve_dim": 0, "model.ve_layers": []}),
        ("pr534", "VE_LAYERS=10 VE_DIM=64", {"model.ve_dim": 64, "model.ve_layers": [10]}),
        ("pr534", "XSA_LAST_N=99", {"model.xsa_last_n": 11}),
        ("pr534", "DATA_PATH=./data/datasets/fineweb10B_sp4096/ VOCAB_SIZE=4096",
         {"model.vocab_size": 4096, "data.dataset": "fineweb10B-sp4096"}),
        ("pr1493", "VOCAB_SIZE=4096", {"model.vocab_size": 4096, "data.dataset": "fineweb10B-sp4096"}),
        ("pr1493", "NUM_LOOPS=1 LOOP_START=4 LOOP_END=4 ENABLE_LOOPING_AT=0.5",
         {"model.num_loops": 1, "model.loop_start": 4, "model.loop_end": 4, "schedule.loop_at": 0.5}),
        ("pr1493", "NUM_LOOPS=0",
         {"model.num_loops": 0, "model.loop_start": 0, "model.loop_end": 0, "schedule.loop_at": 0.0}),
        ("pr1493", "SKIP_GATES_ENABLED=0 PARALLEL_RESIDUAL_START=-1",
         {"model.skip_gates": False, "model.parallel_start": -1}),
        ("pr1493", "MUON_ROW_NORMALIZE=0 EMBED_WD=0.1 MUON_WD=0.09 MIN_LR=0.1",
         {"optim.muon_row_normalise": False, "optim.embed_wd": 0.1, "optim.muon_wd": 0.09, "schedule.min_lr": 0.1}),
        ("pr1493", "WARMDOWN_FRAC=0", {"schedule.warmdown_fraction": 0.0, "schedule.warmdown_iters": 0}),
        ("pr1493", "MAX_WALLCLOCK_SECONDS=0", {"schedule.max_seconds": 0.0, "schedule.reserve_seconds": 0.0}),
        ("pr1493", "TRAIN_SEQ_LEN=1024",
         {"data.seq_len": 1024, "data.micro_batch_seqs": 96, "model.rope_reference_tokens": 1024}),
        ("pr1493", "SLIDING_WINDOW_ENABLED=0", {}),
        ("pr1493", "SLIDING_WINDOW_ENABLED=0 TTT_ENABLED=0", {"eval.stride": 2048, "adapt.kind": "off"}),
        ("pr1493", "MATRIX_BITS=5 EMBED_BITS=7 MATRIX_CLIP_SIGMAS=10 EMBED_CLIP_SIGMAS=15",
         {"quant.attention": "int5_sigma", "quant.mlp": "int5_sigma", "quant.tok_emb": "int7_sigma",
          "quant.clip_sigmas": 10.0, "quant.embed_clip_sigmas": 15.0}),
        ("pr1493", "TTT_LR=0.01 TTT_EPOCHS=5 TTT_MOMENTUM=0.8 TTT_CHUNK_TOKENS=65536",
         {"adapt.lr": 0.01, "adapt.epochs": 5, "adapt.momentum": 0.8, "adapt.chunk_tokens": 65_536}),
        ("pr2135", "SMEAR_GATE_BOS_FIX=1 ASYM_LOGIT_RESCALE=0",
         {"model.smear_bos_mask": True, "model.softcaps": "one"}),
        ("pr2135", "TOKEN_ORDER=8 TOKEN_THRESHOLD=0.9 TOKEN_BOOST=2",
         {"adapt.tilt_order": 8, "adapt.tilt_threshold": 0.9, "adapt.tilt_boost": 2.0}),
        ("pr2135", "NGRAM_TILT_ENABLED=0", {"adapt.tilt": "off"}),
        ("pr1855", "TTT_ENABLED=1", {}),
        ("pr2135", "COMPRESSOR=brotli TTT_EVAL_SEQ_LEN=2048", {"quant.grouping": "off", "adapt.lora_window": 2048}),
        ("pr1493", "GPTQ_CALIBRATION_BATCHES=16 EMA_DECAY=0.99",
         {"quant.correction_tokens": 1_572_864, "average.ema_decay": 0.99}),
    ],
)  # fmt: skip
def test_a_changed_value_changes_its_own_keys_and_no_other(script, change, keys):
    changed = differences(resolve(script, change).recipe, load_recipe(f"{script}-as-run"))
    averaging = {"average.kind", "average.swa_start", "average.swa_every_steps", "average.ema_decay"}
    if keys.get("average.kind") == "none":  # and then the settings of the average that is off are the usual ones
        changed = [row for row in changed if row[0] == "average.kind" or row[0] not in averaging]
    assert {key: ours for key, ours, _ in changed} == keys


@pytest.mark.parametrize("script", ["pr1855", "pr2135"])
def test_without_adapting_every_key_of_it_is_the_usual_one_and_the_score_the_standard_one(script):
    recipe = resolve(script, "TTT_ENABLED=0").recipe
    assert recipe.adapt == Recipe().adapt and recipe.eval.stride == recipe.eval.seq_len


@pytest.mark.parametrize(
    "script, given, dataset",
    [
        ("pr315", "", "sp1024"), ("pr1493", "", "sp8192"), ("pr1855", "", "sp8192"),
        ("pr1855", "VOCAB_SIZE=4096", "sp4096"), ("pr1493", "DATA_PATH=/mnt/x", "sp8192"),
        ("pr1855", "CASEOPS_ENABLED=1 DATA_DIR=/mnt", "sp8192-lossless-caps-caseops-v1-reserved"),
        ("pr315", "set DATA_PATH=..\\..\\data\\fineweb10B_sp4096\nset VOCAB_SIZE=4096", "sp4096"),
        ("pr315", "DATA_PATH=$ROOT/data/fineweb10B_sp1024/", "sp1024"),
        ("pr315", 'DATA_PATH="${DATA_PATH:-$ROOT/fineweb10B_sp1024}"', "sp1024"),
    ],
)  # fmt: skip
def test_the_dataset_is_the_one_that_the_script_takes_by_itself_or_the_end_of_its_path(script, given, dataset):
    resolved = recipe_from_command(given, script)
    assert resolved.recipe.data.dataset == f"fineweb10B-{dataset}"
    assert not any(report.kind == "not expressed" for report in resolved.reports)


# ---------------------------------------------------------------------- reports


@pytest.mark.parametrize(
    "script, change, name, kind, words",
    [
        ("pr315", "TTT_EPOCHS=3", "TTT_EPOCHS", "unknown", "PR 315"),
        ("pr315", "EVAL_BATCH_SEQS=64", "EVAL_BATCH_SEQS", "unknown", "PR 315"),
        ("pr531", "MUON_WD=0.02", "MUON_WD", "unknown", "PR 531"),
        ("pr534", "EVAL_STRIDE=64", "EVAL_STRIDE", "unknown", "PR 534"),
        ("pr315", "SEED=42", "SEED", "outside the recipe", "--seeds"),
        ("pr315", "RUN_ID=mine", "RUN_ID", "outside the recipe", "--name"),
        ("pr1855", "ARTIFACT_DIR=out/one", "ARTIFACT_DIR", "outside the recipe", "--name"),
        ("pr315", "DATA_PATH=/mnt/shards", "DATA_PATH", "outside the recipe", "--data"),
        ("pr315", "OMP_NUM_THREADS=1", "OMP_NUM_THREADS", "outside the recipe", "machine"),
        ("pr315", "SWA_ENABLED=1", "SWA_ENABLED", "no effect", "EMA is on"),
        ("pr315", "EMA_ENABLED=0 SWA_ENABLED=1", "EMA_DECAY", "no effect", "EMA_ENABLED is 0"),
        ("pr332", "MLP_MULT=3", "MLP_MULT", "no effect", "MLP_HIDDEN"),
        ("pr315", "EMBED_LR=0.1", "EMBED_LR", "no effect", "TIED_EMBED_LR"),
        ("pr534", "NUM_LAYERS=10", "VE_LAYERS", "no effect", "NUM_LAYERS=10"),
        ("pr194", "QUANT_BITS=8", "QUANT_BITS", "not expressed", "8-bit"),
        ("pr194", "BIGRAM_HASH=1", "BIGRAM_HASH", "not expressed", "every layer"),
        ("pr315", "TIE_EMBEDDINGS=0", "TIE_EMBEDDINGS", "not expressed", "head"),
        ("pr315", "TRAIN_LOG_EVERY=0", "TRAIN_LOG_EVERY", "not expressed", "always logs"),
        ("pr315", "EVAL_STRIDE=256", "EVAL_STRIDE", "not expressed", "stride 64"),
        ("pr315", "VOCAB_SIZE=4096", "VOCAB_SIZE", "not expressed", "--data"),
        ("pr315", "DATA_PATH=data/fineweb10B_sp8192", "DATA_PATH", "not expressed", "--data"),
        ("pr1493", "DATA_PATH=./data", "DATA_PATH", "unknown", "PR 1493"),
        ("pr1493", "WARMDOWN_ITERS=3000", "WARMDOWN_ITERS", "unknown", "PR 1493"),
        ("pr1493", "DATA_DIR=/mnt", "DATA_DIR", "outside the recipe", "--data"),
        ("pr1493", "ROPE_TRAIN_SEQ_LEN=1024", "ROPE_TRAIN_SEQ_LEN", "no effect", "never uses it"),
        ("pr1493", "ETLB_STEPS=3", "ETLB_STEPS", "no effect", "no function"),
        ("pr1493", "ETLB_ENABLED=1", "ETLB_ENABLED", "not expressed", "NameError"),
        ("pr1493", "EMBEDDING_DIM=256", "EMBEDDING_DIM", "not expressed", "projection"),
        ("pr1493", "NUM_LOOPS=0 LOOP_END=4", "LOOP_END", "no effect", "NUM_LOOPS=0"),
        ("pr1493", "TTT_ENABLED=0", "TTT_LR", "no effect", "TTT_ENABLED is 0"),
        ("pr1493", "COMPRESSOR=lzma", "COMPRESSOR", "not expressed", "brotli"),
        ("pr1855", "TTT_ENABLED=0", "TTT_LORA_RANK", "no effect", "TTT_ENABLED is 0"),
        ("pr1855", "GATED_ATTN_ENABLED=1", "GATED_ATTN_ENABLED", "not expressed", "another gate"),
        ("pr2135", "WORD_BOOST=0.5", "WORD_BOOST", "not expressed", "another expert"),
        ("pr2135", "NGRAM_TILT_ENABLED=0", "TOKEN_BOOST", "no effect", "NGRAM_TILT_ENABLED is 0"),
        ("pr2135", "NGRAM_HINT_PRECOMPUTE_OUTSIDE=1", "NGRAM_HINT_PRECOMPUTE_OUTSIDE", "no effect", "no score"),
    ],
)
def test_a_name_that_is_not_simply_taken_over_is_reported_with_its_reason(script, change, name, kind, words):
    (report,) = [report for report in resolve(script, change).reports if report.name == name]
    assert report.kind == kind and words in report.reason
    assert str(report).startswith(f"{name}={report.value}: {kind}: ")


def test_the_comparison_names_what_is_equal_and_every_key_that_is_not():
    recipe = resolve("pr531").recipe
    lines = comparison_lines(recipe, compare_known(recipe, "pr531"))
    assert lines[0] == "equal to pr531-as-run"
    assert '  average.kind = "swa", there "ema"' in lines
    recipe = resolve("pr531", "SEED=1 MATRIX_LR=0.5").recipe
    lines = comparison_lines(recipe, compare_known(recipe, "pr531"))
    assert lines[:3] == [
        "equal to no recipe that is known",
        "differs from pr531 in 4 keys:",
        "  optim.matrix_lr = 0.5, there 0.02",
    ]


# ---------------------------------------------------------------------- the words


@pytest.mark.parametrize(
    "block, left_out",
    [
        ("pip install a b --no-c\nA=1 torchrun train_gpt.py", ["pip install a b --no-c"]),
        ("git clone u && cd u\nA=1 torchrun train_gpt.py | tee x", ["git clone u", "cd u", "tee x"]),
        ("python3 fetch.py --variant sp1024\nA=1 torchrun train_gpt.py", ["python3 fetch.py --variant sp1024"]),
        ("for SEED in 1 2; do SEED=$SEED RUN_ID=r_$(date +%s) A=1 torchrun train_gpt.py; done",
         ["for SEED in 1 2", "done"]),
        ("V=1 python3 data/fetch.py\nA=1 torchrun train_gpt.py", ["V=1 python3 data/fetch.py"]),
        *(
            (f"{other}\nA=1 torchrun train_gpt.py", [other])
            for other in (
                "wget https://x.org/train_gpt.py", "cp ../train_gpt.py .", "wc -c train_gpt.py", "git add train_gpt.py",
                "python -m py_compile train_gpt.py", "python count.py train_gpt.py", "echo A=2 torchrun train_gpt.py",
            )
        ),
    ],
)  # fmt: skip
def test_other_commands_of_a_block_are_left_out_and_named(block, left_out):
    found = read_block(block)
    assert found.values["A"] == "1" and list(found.left_out) == left_out
    reports = recipe_from_command(block.replace("A=1", "NUM_LAYERS=7"), "pr315").reports
    assert [str(report) for report in reports if report.kind == "left out"] == [
        f"{command}: left out: not the training command" for command in left_out
    ]


@pytest.mark.parametrize(
    "script, command, message",
    [
        ("pr315", "NUM_LAYERS=11 NUM_LAYERS=12", "NUM_LAYERS is given twice, as '11' and as '12'"),
        ("pr315", "NUM_LAYERS 11", "NUM_LAYERS in 'NUM_LAYERS 11' is not read; write NAME=value"),
        ("pr315", "cat > run.env <<X\nNUM_LAYERS=9\nX\ntorchrun train_gpt.py", "here-document"),
        ("pr315", "cat > run.sh <<'X'\ntorchrun train_gpt.py\nX\nNUM_LAYERS=9 torchrun train_gpt.py", "here-document"),
        ("pr315", "docker run -e NUM_LAYERS=9 image torchrun train_gpt.py", "NUM_LAYERS in 'docker run -e"),
        ("pr315", "NUM_LAYERS = 9 torchrun train_gpt.py", "NUM_LAYERS in 'NUM_LAYERS = 9"),
        ("pr315", "export NUM_LAYERS=9; unset NUM_LAYERS; torchrun train_gpt.py", "NUM_LAYERS in 'unset"),
        ("pr315", "env -u NUM_LAYERS torchrun train_gpt.py", "NUM_LAYERS in 'env -u"),
        ("pr315", "export NUM_LAYERS=9\nenv -i WARMUP_STEPS=3 torchrun train_gpt.py", "NUM_LAYERS does not reach"),
        ("pr315", "NUM_LAYERS=9 sudo torchrun train_gpt.py", "through 'sudo'; write it after that"),
        ("pr315", "cat train_gpt.py", "'cat' is not NAME=value"),
        ("pr315", "echo NUM_LAYERS=9 torchrun train_gpt.py", "'echo' is not NAME=value"),
        ("pr315", "root@pod:~# NUM_LAYERS=9 torchrun train_gpt.py", "NUM_LAYERS in 'root@pod"),
        ("pr315", "if x; then A=1; else export NUM_LAYERS=8; fi; torchrun train_gpt.py", "a condition, 'if x'"),
        ("pr315", 'if [ -n "$FAST" ]; then\n  export NUM_LAYERS=9\nfi\ntorchrun train_gpt.py', "under a condition"),
        ("pr315", "case $KIND in\n  small)\n    NUM_LAYERS=9\n    ;;\nesac\ntorchrun train_gpt.py", "'case $KIND in"),
        ("pr315", "if x; then NUM_LAYERS=9 torchrun train.py; else NUM_LAYERS=8 python train.py; fi", "2 training"),
        ("pr315", "[ -d x ] && echo y && export NUM_LAYERS=9\ntorchrun train_gpt.py", "a condition, '[ -d x ]'"),
        ("pr315", "grep -q x y ||\n  NUM_LAYERS=9\ntorchrun train_gpt.py", "a condition, 'grep -q x y'"),
        ("pr315", "for R in 1 2; do MATRIX_LR=$R torchrun train_gpt.py; done", "MATRIX_LR=$R is filled in"),
        ("pr315", "for N in 1 2; do SEED=$N bash go.sh; done", "train_gpt.py follows; paste the lines of that"),
        ("pr315", "NUM_LAYERS=9 torchrun train_gpt.py & NUM_LAYERS=8 torchrun train_gpt.py", "(NUM_LAYERS: 9, 8)"),
        ("pr315", "torchrun train_gpt.py\nexport NUM_LAYERS=8\ntorchrun train_gpt.py", "(NUM_LAYERS: not set, 8)"),
        ("pr315", "NUM_LAYERS=8 torchrun train.py\ntorchrun train.py", "2 training commands with different values ("),
        ("pr315", "--nproc 8", "'--nproc' is not NAME=value"),
        ("pr315", "2X=1", "'2X=1' is not NAME=value"),
        ("pr315", "RUN_ID='open", "no closing quotation in 'RUN_ID='open'"),
        ("pr315", "NUM_LAYERS=$LAYERS torchrun train_gpt.py", "NUM_LAYERS=$LAYERS is filled in by a shell"),
        ("pr315", "NUM_LAYERS=7 torchrun train_gpt.py\nNUM_LAYERS=8 torchrun train_gpt.py", "2 training commands"),
        ("pr315", "python3 fetch.py --variant sp1024", "'python3' is not NAME=value"),
        ("pr315", "NUM_LAYERS=eleven", "NUM_LAYERS='eleven': PR 315's script needs a whole number"),
        ("pr315", "NUM_LAYERS=11.0", "needs a whole number"),
        ("pr315", "NUM_LAYERS=", "needs a whole number"),
        ("pr194", "MLP_MULT=2.5", "MLP_MULT='2.5': PR 194's script needs a whole number"),
        ("pr315", "MATRIX_LR=fast", "needs a number"),
        ("pr315", "MATRIX_LR=nan", "needs a number"),
        ("pr315", "MLP_MULT=1e300", "needs a number"),
        ("pr315", "LN_SCALE=true", "LN_SCALE='true': PR 315's script needs 0 or 1"),
        ("pr315", "LATE_QAT=maybe", "needs 0 or 1"),
        ("pr315", "SEED=x", "needs a whole number"),
        ("pr534", "VE_LAYERS=9,ten", "VE_LAYERS='ten': PR 534's script needs a whole number"),
        ("pr315", "NUM_HEADS=7", "model.num_heads = 7 must divide model.model_dim = 512"),
        ("pr315", "NUM_HEADS=0", "model.num_heads = 0; must be at least 1"),
        ("pr315", "TRAIN_BATCH_TOKENS=1000", "data.batch_tokens = 1000 must be a multiple of"),
        ("pr1493", "MATRIX_BITS=3", "quant.attention = 'int3_sigma'; allowed: "),
        ("pr999", "NUM_LAYERS=11", "unknown script 'pr999'; known: pr194, pr315"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(script, command, message):
    with pytest.raises(UserError) as refusal:
        recipe_from_command(command, script)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_seeds_of_one_command_arguments_and_a_missing_export_are_named():
    again = "SEED=2 NUM_LAYERS=7 torchrun train_gpt.py"
    text = f"set -a; source run.env\nSEED=1 NUM_LAYERS=7 torchrun train_gpt.py --layers 9 > log\n{again}"
    text += "\nWARMUP_STEPS=7 EXTRA=1"
    reports = recipe_from_command(text, "pr315").reports
    assert {(report.name, report.reason) for report in reports if report.kind == "left out"} == {
        ("source run.env", "what it sets is not known here; add it"),
        ("--layers 9", "scripts read their environment, no arguments"),
        (again, "trains the same again"),
        ("WARMUP_STEPS=7", "set after the training command"),
    }
    for prefix, is_kept in (
        ("", True),
        ("declare -a N\n", True),
        ("set -ea\n", False),
        ("export ", False),
        ("$env:", False),
    ):
        reports = map(str, recipe_from_command(f"{prefix}NUM_LAYERS=7\ntorchrun train_gpt.py", "pr315").reports)
        assert is_kept == ("NUM_LAYERS=7: not exported: a shell keeps it from the script" in " ".join(reports))


# ---------------------------------------------------------------------- the file


@pytest.mark.parametrize("script", COMMANDS)
def test_the_file_reads_back_to_the_same_recipe(script, tmp_path):
    resolved = resolve(script, "ADAM_EPS=1e-10")
    path = tmp_path / "mine.toml"
    path.write_text(resolved.toml, encoding="utf-8")
    recipe = load_recipe(str(path))
    assert recipe.fingerprint == resolved.recipe.fingerprint and differences(recipe, resolved.recipe) == []
    assert recipe.name == "mine" and recipe.title == resolved.recipe.title
    assert recipe.title.startswith(f"{SCRIPTS[script].record}'s script with {COMMANDS[script][:20]}")
    assert f"{SCRIPTS[script].record}'s script, called with: " in resolved.toml.splitlines()[0]


@settings(deadline=None, max_examples=40)
@given(st.text())
def test_no_value_of_a_command_breaks_the_file(tmp_path_factory, text):
    text = text.replace("\0", "")  # which no shell can pass
    resolved = recipe_from_command(f"RUN_ID={shlex.quote(text)}", "pr531")
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(resolved.toml, encoding="utf-8")
    assert load_recipe(str(path)).title == resolved.recipe.title
