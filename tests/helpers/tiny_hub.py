"""A folder laid out as the hub's repository, a few kilobytes large, with a tokenizer like the published ones."""

import io
import json
from pathlib import Path

import numpy as np
import sentencepiece

from pgolf_core.lab.data.build import write_shard
from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.data.fineweb import FinewebRequest, fetch_fineweb
from pgolf_core.text.caseops import CaseTokenizer, to_cases
from pgolf_core.text.shards import CASE_MARKS

VOCAB = 320
VARIANT = f"sp{VOCAB}"
PUBLISHED = f"fineweb10B_{VARIANT}"
NAME = f"fineweb10B-{VARIANT}"
SHARD_TOKENS = 1500
TRAIN_SHARDS = 3


def texts(count: int, seed: int = 0, words: int = 60) -> list[str]:
    """Documents of the same invented words, none like another."""
    rng, spelling = np.random.default_rng(seed), np.random.default_rng(0)
    known = ["".join(spelling.choice(list("abcdefghij"), spelling.integers(2, 7))) for _ in range(80)]
    return [" ".join(rng.choice(known, words)).capitalize() + ".\nﬁne, naïve" for _ in range(count)]


def rich_texts(count: int, seed: int = 0, words: int = 400) -> list[str]:
    """Documents of 6,000 invented words: enough for 8,192 pieces from 60 documents on."""
    known = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), (6000, 7))
    chosen = np.random.default_rng(seed).integers(len(known), size=(count, words))
    return [" ".join(map("".join, known[row])) for row in chosen]


def published_model(documents: list[str], vocab_size: int = VOCAB, **more: list[str]) -> bytes:
    """A SentencePiece model with the published settings (papers/machinery.md, Shards): it normalises."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents), model_writer=model, vocab_size=vocab_size, model_type="bpe", pad_id=0,
        bos_id=1, eos_id=2, unk_id=3, character_coverage=0.999, byte_fallback=True, split_digits=True,
        hard_vocab_limit=False, normalization_rule_name="nmt_nfkc", add_dummy_prefix=False, minloglevel=2, **more,
    )  # fmt: skip
    return model.getvalue()


def make_hub(folder: Path, vocab: int = VOCAB, caseops: bool = False) -> Path:
    """A repository of three training shards and one for validation; the first validation text stands in training too.

    Documents go on from one shard to the next, as in the published ones. With `caseops` the text has capitals, the
    shards are of text with marks for them, and validation has its sidecar.
    """
    val, train = (texts(6, seed=1), texts(40, seed=2)) if vocab == VOCAB else (rich_texts(6, 1), rich_texts(60, 2))
    train.insert(5, val[0])
    published, more = f"fineweb10B_sp{vocab}", {"user_defined_symbols": list(CASE_MARKS)} if caseops else {}
    if caseops:
        val, train = ([text.title() + " NASA ﬁ" for text in documents] for documents in (val, train))
    model = published_model([to_cases(text) for text in train] if caseops else train, vocab, **more)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    outer = folder / "datasets"
    (outer / "tokenizers").mkdir(parents=True)
    (outer / f"tokenizers/fineweb_{vocab}_bpe.model").write_bytes(model)
    for split, documents in (("train", train), ("val", val)):
        changed = [to_cases(text) if caseops else text for text in documents]
        stream = np.concatenate([[1, *processor.encode(text)] for text in changed])
        size = SHARD_TOKENS if split == "train" else len(stream)
        parts = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert split == "val" or len(parts) >= TRAIN_SHARDS
        for number, part in enumerate(parts[:TRAIN_SHARDS]):
            write_shard(outer / f"datasets/{published}/fineweb_{split}_{number:06d}.bin", part)
    if caseops:
        cut = CaseTokenizer(outer / f"tokenizers/fineweb_{vocab}_bpe.model")
        sizes = np.concatenate([[0, *cut.encode_with_bytes(text)[1]] for text in val])
        write_shard(outer / f"datasets/{published}/fineweb_val_bytes_000000.bin", sizes)
    names = {"name": published, "tokenizer_name": f"sp_bpe_{vocab}"}
    entry = names | {"stats": {"files_train": TRAIN_SHARDS, "files_val": 1}}
    bytes_only = {"name": "fineweb10B_byte260", "tokenizer_name": "byte", "stats": {"files_train": 1, "files_val": 1}}
    tokenizer = {"name": f"sp_bpe_{vocab}", "model_path": f"tokenizers/fineweb_{vocab}_bpe.model"}
    tokenizers = [tokenizer, {"name": "byte", "path": "tokenizers/b.json"}]
    (outer / "manifest.json").write_text(json.dumps({"datasets": [entry, bytes_only], "tokenizers": tokenizers}))
    return folder


def fetch(hub: Path | None, cache: Path, train_shards: int | None = None, **wanted: str) -> Dataset:
    """The repository's dataset, fetched from this folder, or from the hub."""
    wanted = {"variant": VARIANT, **({"source": str(hub)} if hub else {})} | wanted
    return fetch_fineweb(FinewebRequest(train_shards=train_shards, **wanted), cache, progress=False)
