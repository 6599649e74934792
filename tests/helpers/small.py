"""Small real things that several tests need: a recipe of a few thousand weights, a byte-per-token dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pgolf_core.recipes import recipe
from pgolf_core.text.shards import write_shard
from pgolf_core.text.tokenizer import TokenBytes
from pgolf_core.training.loop import TrainData

VALUES: dict[str, dict[str, Any]] = {
    "model": {"vocab_size": 64, "num_layers": 3, "model_dim": 32, "num_heads": 2, "num_kv_heads": 1, "mlp_hidden": 64,
              "rope_dims": 8, "bigram_rows": 32, "bigram_dim": 8, "ln_scale": True, "xsa_last_n": 1},
    "data": {"seq_len": 16, "batch_tokens": 128, "spans_per_step": 2, "micro_batch_seqs": 4},
    "optim": {"muon_momentum_warmup_steps": 5, "newton_schulz_dtype": "float32"},
    "schedule": {"iterations": 12, "max_seconds": 0.0, "warmup_steps": 1, "warmdown_iters": 6, "log_every_steps": 4,
                 "autocast": "off", "compile": "off"},
    "average": {"ema_decay": 0.8},
    "quant": {"small_tensor_elements": 100},
    "eval": {"seq_len": 16, "stride": 4, "batch_seqs": 8},
}  # fmt: skip


def small_recipe(**changes: dict[str, Any]) -> recipe.Recipe:
    """The small recipe with some keys of some sections changed."""
    values = {section: {**keys, **changes.get(section, {})} for section, keys in VALUES.items()}
    values.update({section: keys for section, keys in changes.items() if section not in values})
    return recipe.from_dict(values)


def small_data(folder: Path, vocab: int = 64, train_tokens: int = 1000, val_tokens: int = 301) -> TrainData:
    """Two training shards and a validation shard of learnable tokens (each follows from the one before, mostly)."""
    generator = np.random.default_rng(0)
    steps = generator.choice([1, 2, 7], p=[0.8, 0.15, 0.05], size=train_tokens + val_tokens)
    tokens = (np.cumsum(steps) % vocab).astype(np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    half = train_tokens // 2
    parts = {"t_0": tokens[:half], "t_1": tokens[half:train_tokens], "v_0": tokens[train_tokens:]}
    for name, part in parts.items():
        write_shard(folder / f"{name}.bin", part)
    table = TokenBytes(np.ones(vocab, np.int16), np.zeros(vocab, bool), np.zeros(vocab, bool))
    train_paths = [folder / "t_0.bin", folder / "t_1.bin"]
    return TrainData(train_paths, [folder / "v_0.bin"], table, vocab, sha256="small")
