"""A dataset of a few texts, and a change of what stands in a JSON file."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgolf_core.lab.data.build import Corpus, Document, fill_dataset, scan_documents
from pgolf_core.lab.data.dataset import Dataset, make_dataset


def toy_documents(val_words: Sequence[int] = (150, 150)) -> list[Document]:
    """Enough text for 1,024 pieces, without repeating a passage: six documents of training, then validation's."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrst"), rng.integers(2, 8))) for _ in range(900)]
    sizes = [("train", 900)] * 6 + [("val", size) for size in val_words]
    return [Document(f"d{i}", split, " ".join(rng.choice(words, n)) + ".\n") for i, (split, n) in enumerate(sizes)]


def build_toy(root: Path, documents: list[Document] | None = None, name: str = "toy-sp1024") -> Dataset:
    """The dataset root/<name> of these documents, the toy ones by default."""
    documents = documents or toy_documents()
    about = {"name": name, "source": {"package": "toy"}, "split_rule": "by hand"}
    corpus = Corpus(about, lambda: documents, shard_prefix=name.partition("-")[0])
    return make_dataset(
        root, name, lambda folder: fill_dataset(folder, corpus, scan_documents(documents, False), False)
    )


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def die(*arguments: object) -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(work: Callable[[], object]) -> None:
    """Call `work`, which dies, in a process of its own: a fork, so that nothing is imported again."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
