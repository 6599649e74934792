"""What the notebooks call beyond the core: sampling from the model, and the run's log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from small import small_recipe

from pgolf_core.lab.record.stages import sample_text
from pgolf_core.network.model import build_model
from pgolf_core.text.tokenizer import TokenBytes
from pgolf_core.training.runlog import RunLog, training_curve


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


def test_the_log_drops_steps_that_will_be_done_again_and_lines_cut_by_a_kill(tmp_path: Path) -> None:
    said: list[str] = []
    with RunLog(tmp_path, said.append) as log:
        for step in range(1, 6):
            log.metric(kind="train", step=step, loss=1.0)
            log.metric(kind="val", step=step, loss=9.0)
        log.line("hello")
        log.line("whisper", quiet=True)
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"kind": "train", "st')
    with RunLog(tmp_path) as log:
        log.keep_until(3, 2)
        log.metric(kind="train", step=4, loss=2.0)
    lines = [(line["kind"], line["step"], line["loss"]) for line in training_curve(tmp_path)]
    assert lines == [
        ("train", 1, 1), ("val", 1, 9), ("train", 2, 1), ("val", 2, 9), ("train", 3, 1), ("train", 4, 2),
    ]  # fmt: skip
    assert said == ["hello"] and (tmp_path / "train.log").read_text() == "hello\nwhisper\n"
