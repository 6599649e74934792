"""Small real things that several tests need: a recipe of a few thousand weights, data for it, and what a run leaves."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgolf_core.base.names import AVERAGED_WEIGHTS, RAW_WEIGHTS
from pgolf_core.lab.data.build import write_shard
from pgolf_core.network.model import GPT, build_model
from pgolf_core.recipes import recipe
from pgolf_core.text.tokenizer import TokenBytes, Tokenizer
from pgolf_core.training.checkpoint import load_tensors
from pgolf_core.training.loop import TrainData
from pgolf_core.training.progress import training_curve

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


def noisy_model(scale: float = 0.3, seed: int = 4, **changes: Any) -> GPT:
    """The small recipe's network, its zero and one initialisations replaced by noise, so that every part matters."""
    model, generator = build_model(small_recipe(model=changes).model, 0), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def flat_bytes(vocab: int) -> TokenBytes:
    """One byte for every token."""
    return TokenBytes(np.ones(vocab, np.int16), np.zeros(vocab, bool), np.zeros(vocab, bool))


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
    train_paths = [folder / "t_0.bin", folder / "t_1.bin"]
    return TrainData(train_paths, [folder / "v_0.bin"], flat_bytes(vocab), vocab, sha256="small")


def word_shards(folder: Path, pieces: int) -> TrainData:
    """Shards of invented words in the published layout, and a lossless `tokenizer.model` made for them."""
    from pgolf_core.lab.data.build import train_tokenizer

    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmno", k=draw.randint(1, 7))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=60)) + "." for _ in range(60)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(texts, pieces))
    tokenizer = Tokenizer(folder / "tokenizer.model")
    tokens = [np.array([tokenizer.bos_id, *tokenizer.encode(text)], np.uint16) for text in texts]
    for name, part in (("train_000000", tokens[:30]), ("train_000001", tokens[30:50]), ("val_000000", tokens[50:])):
        write_shard(folder / f"words_{name}.bin", np.concatenate(part))
    paths = [sorted(folder.glob(f"*_{split}_*.bin")) for split in ("train", "val")]
    return TrainData(*paths, tokenizer.bytes, tokenizer.vocab_size, sha256="words")


def interrupt_at(step: int) -> Callable[[Any], None]:
    """A callback for progress that sends this process SIGINT when training reaches a step, as Ctrl-C would."""
    return lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == step else None


def column(folder: Path, key: str, kind: str = "train") -> list[Any]:
    """One value of every step, or of every validation, from a run's metrics."""
    return [line[key] for line in training_curve(folder) if line["kind"] == kind]


def weights_of(folder: Path, name: str = AVERAGED_WEIGHTS) -> dict[str, torch.Tensor]:
    return load_tensors(folder / name)[0]


def assert_same_bits(folder: Path, other: Path, *names: str) -> None:
    """That both runs left the same tensors in these files (raw and averaged weights)."""
    for name in names or (RAW_WEIGHTS, AVERAGED_WEIGHTS):
        ours, theirs = weights_of(folder, name), weights_of(other, name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name
