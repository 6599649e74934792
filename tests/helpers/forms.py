"""Record folders of the forms that others use: logs of the later kind, and whatever claims a test names."""

from collections.abc import Mapping
from pathlib import Path

from pgolf_core.base.files import write_json

SP8192 = 40_540_160
"""Predictions of the validation split by that tokenizer."""


def late_log(
    seed: int | None, finals: Mapping[str, tuple[str, str]], steps: int = 4550, train_ms: int = 588_050,
    code: int = 100, model: int = 15_975_300, tokens: int = SP8192, more: tuple[str, ...] = (),
) -> str:  # fmt: skip
    """A log that lists its settings, with `finals` {label: (loss, bpb)} and `more` lines before its end."""
    lines = [
        "Hyperparameters:", *([f"  seed: {seed}"] if seed is not None else []), "  vocab_size: 8192",
        f"val_tokens: {tokens}", "model_params:35944536", "0/20000 val_loss: 9.0090 val_bpb: 3.4877",
        f"{steps}/20000 train_loss: 2.85 train_time: {train_ms / 6e4:.1f}m tok/s: 6814024",
        f"stopping_early: wallclock_cap train_time: {train_ms}ms step: {steps}/20000",
        "Serialized model: 135431033 bytes", f"Code size: {code} bytes",
        f"Serialized model quantized+brotli: {model} bytes",
        f"Total submission size quantized+brotli: {model + code} bytes",
        *(f"{label} val_loss:{loss} val_bpb:{bpb} eval_time:121000ms" for label, (loss, bpb) in finals.items()), *more,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def foreign(
    folder: Path, logs: Mapping[str, str], claims: Mapping[str, object], readme: str = "# A record\n", code: int = 100
) -> Path:
    """A folder of these logs, claims and write-up, with a script of so many bytes."""
    folder.mkdir(parents=True)
    (folder / "train_gpt.py").write_text("import os\n".ljust(code - 1, "#") + "\n")
    (folder / "README.md").write_text(readme, encoding="utf-8")
    write_json(folder / "submission.json", {"name": "A record", "author": "a", "date": "2026-04-09", **claims})
    for name, text in logs.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def table(header: str, *rows: str) -> str:
    """A Markdown table of cells that are separated by bars."""
    return "\n".join((header, "|---" * (header.count("|") + 1), *rows)) + "\n"
