"""Small folders of the forms that published records have, by their public figures alone; nothing of them is copied."""

from collections.abc import Mapping
from pathlib import Path

from published import published

from pgolf_core.base.files import read_json, write_json

RULE = (
    "for i in range(n):\n    if sp.is_byte(i):\n        base[i] = 1\n        continue\n    piece = sp.id_to_piece(i)\n"
    "    if piece.startswith('\\u2581'):\n        space[i] = True\n        piece = piece[1:]\n"
    "    base[i] = len(piece.encode('utf-8'))\n"
)
"""The published rule for the bytes of a token."""
SETTINGS = {"num_layers": "11", "model_dim": "512", "matrix_lr": "0.022", "ttt_epochs": "3", "train_seq_len": "2048"}


def sized_script(size: int, *words: str) -> str:
    """A script of that many bytes that knows these names, its rest a comment."""
    text = "import os\n" + "".join(f"{word} = 1\n" for word in words) + RULE
    return text + "# " + "x" * (size - len(text) - 3) + "\n"


def add_lines(folder: Path, lines: Mapping[int | str, list[str]], before: str = "step:0/") -> None:
    """Put lines into the logs of seeds ("all": of every seed) before the first line that begins so; "" for the end."""
    for log in folder.glob("*.log"):
        seed = int(log.stem.removeprefix("train_seed"))
        new = [*lines.get("all", []), *lines.get(seed, [])]
        text = log.read_text().splitlines()
        at = next((at for at, line in enumerate(text) if before and line.startswith(before)), len(text))
        log.write_text("\n".join([*text[:at], *new, *text[at:]]) + "\n")


def block(settings: Mapping[str, str]) -> list[str]:
    """The lines of a log's settings."""
    return ["Hyperparameters:", *(f"  {key}: {value}" for key, value in sorted(settings.items())), "=" * 100]


def one_run(folder: Path, claims: dict | None = None, **seeds: tuple) -> Path:
    """A folder of one seed, 1337, that holds: its figures are PR 315's first."""
    row = seeds.get("row", (7063, "1.89996173", "1.12526734", 15_571_723, 15_639_340))
    return published(folder, {1337: row}, claims={"val_bpb": float(row[2]), "val_loss": float(row[1])} | (claims or {}))


def claim(folder: Path, **values: object) -> None:
    """Change submission.json; None takes a key out."""
    found = read_json(folder / "submission.json") | values
    write_json(folder / "submission.json", {key: value for key, value in found.items() if value is not None})
