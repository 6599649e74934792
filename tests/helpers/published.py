"""Submission folders of the forms that others use: of the merged records, of logs of the later kind, and of whatever
claims a test names. They are made from public figures alone; nothing is copied."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pgolf_core.base.files import read_json, write_json

PR315 = {  # seed: (steps, loss, bpb, model bytes, total bytes)
    2025: (7051, "1.89924867", "1.12484502", 15_544_691, 15_612_308),
    42: (7061, "1.89948149", "1.12498291", 15_461_049, 15_528_666),
    1337: (7063, "1.89996173", "1.12526734", 15_571_723, 15_639_340),
}
PR531 = {1337: (5722, "1.91652743", "1.13507850", 17_442_081, 17_498_720),
         42: (6824, "1.90756996", "1.12977337", 16_924_417, 16_981_056)}  # fmt: skip
PR194 = {1337: (8052, "1.93386993", "1.14534973", 15_992_249, 16_076_737),
         7: (8040, "1.93996931", "1.14896214", 15_776_980, 15_861_468)}  # fmt: skip
SP8192 = 40_540_160
"""Predictions of the validation split by that tokenizer."""
RULE = (
    "for i in range(n):\n    if sp.is_byte(i):\n        base[i] = 1\n        continue\n    piece = sp.id_to_piece(i)\n"
    "    if piece.startswith('\\u2581'):\n        space[i] = True\n        piece = piece[1:]\n"
    "    base[i] = len(piece.encode('utf-8'))\n"
)
"""The published rule for the bytes of a token."""
Lie = Callable[[Path], object]
"""A change of a folder."""
SETTINGS = {"num_layers": "11", "model_dim": "512", "matrix_lr": "0.022", "ttt_epochs": "3", "train_seq_len": "2048"}


def published(
    folder: Path, seeds: dict[int, tuple], train_ms: int = 600_000, claims: dict | None = None, say_tokens: bool = True
) -> Path:
    """A folder of the published form with these figures: script, logs that begin with it, submission.json, README."""
    first = next(iter(seeds.values()))
    code = first[4] - first[3]
    logs = {}
    for seed, (steps, loss, bpb, model, total) in seeds.items():
        lines = [
            script_of(code).rstrip("\n"), "=" * 100, "Running Python 3.12",
            "val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=./data/tokenizers/fineweb_1024_bpe.model",
            *(["val_loader:shards pattern=./data/fineweb_val_*.bin tokens:62021632"] if say_tokens else []),
            "model_params:26829913", "world_size:8 grad_accum_steps:1", f"seed:{seed}",
            "step:0/9000 train_loss:6.9287 train_time:85ms step_avg:85.00ms",
            f"step:{steps}/9000 val_loss:1.9279 val_bpb:1.1418 train_time:{train_ms}ms step_avg:85.1ms",
            "Serialized model: 105792597 bytes", f"Code size: {code} bytes",
            f"Serialized model int6+zstd: {model} bytes", f"Total submission size int6+zstd: {total} bytes",
            f"final_int6_sliding_window val_loss:{loss[:6]} val_bpb:{bpb[:6]} stride:64 eval_time:72700ms",
            f"final_int6_sliding_window_exact val_loss:{loss} val_bpb:{bpb}",
        ]  # fmt: skip
        logs[f"train_seed{seed}.log"] = "\n".join(lines) + "\n"
    values = {"val_loss": float(first[1]), "val_bpb": float(first[2]), "bytes_total": first[4], "bytes_code": code}
    rows = [f"| {seed} | {row[0]:,} | {row[1][:6]} | **{row[2][:6]}** |" for seed, row in seeds.items()]
    readme = f"# A record: {first[2][:6]} BPB\n\n" + table("| Seed | Steps | val_loss | Sliding BPB |", *rows)
    return foreign(folder, logs, values | (claims or {}), readme, code)


def edit(file: str, pattern: str, to: str) -> Lie:
    """Replace the first of a pattern in a file."""

    def lie(folder: Path) -> None:
        text, count = re.subn(pattern, to, (folder / file).read_text(), count=1)
        assert count == 1
        (folder / file).write_text(text)

    return lie


def edit_logs(pattern: str, to: str) -> Lie:
    """Replace a pattern in every log."""
    return lambda folder: [log.write_text(re.sub(pattern, to, log.read_text())) for log in folder.glob("*.log")]


def write(file: str, text: str) -> Lie:
    """Put a file into the folder, in another's place or beside them."""
    return lambda folder: (folder / file).write_text(text)


def claim(**values: object) -> Lie:
    """Change submission.json; None takes a key out."""

    def lie(folder: Path) -> None:
        found = read_json(folder / "submission.json") | values
        write_json(folder / "submission.json", {key: value for key, value in found.items() if value is not None})

    return lie


def number(key: str, factor: float) -> Lie:
    """Multiply a number of submission.json, wherever it stands."""

    def lie(folder: Path) -> None:
        values = read_json(folder / "submission.json")
        for place in (values, *values["seed_results"].values()):
            if key in place:
                place[key] = type(place[key])(place[key] * factor)
        write_json(folder / "submission.json", values)

    return lie


def add_lines(lines: Iterable[str], before: str = "step:0/", seed: int | str = "*") -> Lie:
    """Put lines into the logs of all seeds, or of one, before the first line that begins so; "" for the end."""

    def lie(folder: Path) -> None:
        for log in folder.glob(f"train_seed{seed}.log"):
            text = log.read_text().splitlines()
            at = next((at for at, line in enumerate(text) if before and line.startswith(before)), len(text))
            log.write_text("\n".join([*text[:at], *lines, *text[at:]]) + "\n")

    return lie


# ---------------------------------------------------------------------- scripts and settings of such a folder


def script_of(size: int, text: str = "") -> str:
    """A script of that many bytes, its rest a comment."""
    return f"import os\n{text}# ".ljust(size - 1, "x") + "\n"


def sized_script(size: int, *words: str) -> str:
    """The same that knows these names."""
    return script_of(size, "".join(f"{word} = 1\n" for word in words) + RULE)


def block(settings: Mapping[str, str]) -> list[str]:
    """The lines of a log's settings."""
    return ["Hyperparameters:", *(f"  {key}: {value}" for key, value in sorted(settings.items())), "=" * 100]


def one_run(folder: Path, row: tuple = (7063, "1.89996173", "1.12526734", 15_571_723, 15_639_340)) -> Path:
    """A folder of one seed, 1337, that holds: its figures are PR 315's first."""
    return published(folder, {1337: row}, claims={"val_bpb": float(row[2]), "val_loss": float(row[1])})


# ---------------------------------------------------------------------- the later kind


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
    (folder / "train_gpt.py").write_text(script_of(code))
    (folder / "README.md").write_text(readme, encoding="utf-8")
    write_json(folder / "submission.json", {"name": "A record", "author": "a", "date": "2026-04-09", **claims})
    for name, text in logs.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def table(header: str, *rows: str) -> str:
    """A Markdown table of cells that are separated by bars."""
    return "\n".join((header, "|---" * (header.count("|") + 1), *rows)) + "\n"
