"""What the notebooks call beyond the core: here sampling from the model; tests/helpers/toy_run.py calls the rest."""

from __future__ import annotations

import numpy as np
import torch
from small import small_recipe

from pgolf_core.lab.record.stages import sample_text
from pgolf_core.network.model import build_model
from pgolf_core.text.tokenizer import TokenBytes


class Letters:
    """Ids 1..63 are characters, id 0 is BOS and has no bytes."""

    bos_id = 0
    bytes = TokenBytes(np.array([0] + [1] * 63, np.int16), np.zeros(64, bool), np.arange(64) == 0)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 64 for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(index + 64) for index in ids if index)


def sample(seed: int, temperature: float = 1.0) -> str:
    model = build_model(small_recipe().model, 0).eval()
    with torch.no_grad():
        model.tok_emb.weight.mul_(100)
    return sample_text(model, Letters(), "HELLO", 40, seed, temperature, window=16)


def test_a_sample_is_decided_by_its_seed_and_has_the_asked_length() -> None:
    assert sample(1) == sample(1) != sample(2)
    assert len(sample(1)) == 40  # BOS is never drawn: it would be silent


def test_a_cold_sample_takes_the_likeliest_token_each_time() -> None:
    assert sample(1, temperature=1e-4) == sample(2, temperature=1e-4)
