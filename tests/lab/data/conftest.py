"""Toy datasets and sources of the tests on data, made once and copied for those that change them."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_data import build_toy
from tiny_hub import make_hub, texts

from pgolf_core.lab.data.dataset import Dataset, open_dataset
from pgolf_core.lab.shared.texts import SOTU_NAME

ODD = "  two  spaces\r\n\ttab ﬁ １ 🙂 nul\0 block▅ end "
"""Text that a normalising tokenizer, or one that strips, would change."""


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small dataset under the name of the State of the Union corpus."""
    return build_toy(tmp_path_factory.mktemp("toy") / "datasets", name=SOTU_NAME)


@pytest.fixture
def copied(toy: Dataset, tmp_path: Path) -> Dataset:
    """A copy of it, in the cache folder tmp_path, that a test may damage."""
    shutil.copytree(toy.folder, tmp_path / "datasets" / SOTU_NAME)
    return open_dataset(SOTU_NAME, tmp_path)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the hub's repository."""
    return make_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """31 lines of .jsonl (one text twice), five .txt files in two folders, a hidden file and a foreign one."""
    path = tmp_path / "mine"
    (path / "sub").mkdir(parents=True)
    lines = [*texts(29, seed=3), ODD]
    lines.insert(7, lines[2])
    (path / "b.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(lines)))
    for number, text in enumerate(texts(5, seed=4)):
        (path / ("sub" if number % 2 else "") / f"{number}.txt").write_bytes(text.encode())
    (path / ".hidden.txt").write_bytes(b"\xff")
    (path / "image.png").write_bytes(b"\xff")
    return path
