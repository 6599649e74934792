"""`pgolf data CORPUS …`: its options, what they call, and what is printed. Heavy imports stay inside the calls."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pgolf_core.lab.shared.usage import add_cache, add_json, count, place

DEFAULT_VARIANT = "sp1024"
CORPORA = {
    "sotu": "the State of the Union addresses with a tokenizer of 1,024 pieces (needs no network)",
    "fineweb": "published FineWeb shards and their tokenizer, from the hub or a local copy; goes on where it stopped",
    "text": "a dataset of your own files: .txt (a file is a document), .jsonl (a line), .parquet (a row)",
    "list": "what is prepared",
}


def add(parser: argparse.ArgumentParser) -> None:
    """One sub-command per corpus."""
    corpora = parser.add_subparsers(title="corpora", metavar="CORPUS", dest="corpus", required=True)
    made = {name: corpora.add_parser(name, help=about, description=about) for name, about in CORPORA.items()}

    option = made["fineweb"].add_argument
    about = f"tokenizer of the shards (default {DEFAULT_VARIANT}), or a published dataset's full name"
    option("--variant", default=DEFAULT_VARIANT, metavar="NAME", help=about)
    about = "the first N shards of 100,000,000 tokens (default: 80); asking for more later fetches only those"
    option("--train-shards", type=count, metavar="N", help=about)
    option("--repository", metavar="OWNER/NAME", help="dataset repository on the hub (default: the challenge's)")
    option("--revision", metavar="REV", help="its branch, tag or commit (default: the newest)")
    option("--root", metavar="DIR", help="folder inside the repository that manifest.json lies in (default: datasets)")
    option("--source", default="", metavar="DIR", help="a local folder laid out as the repository, instead of the hub")
    option("--name", default="", help="name of the dataset (default: fineweb10B-VARIANT, as recipes call it)")

    option = made["text"].add_argument
    option("paths", nargs="+", metavar="PATH", help="file or folder; folders are walked in sorted order")
    option("--field", default="text", help="key in .jsonl, column in .parquet that holds the text (default: text)")
    option("--val-share", type=_share, default=0.1, metavar="X", help="share of validation documents (default: 0.1)")
    either = made["text"].add_mutually_exclusive_group()
    about = "pieces of the lossless tokenizer that is trained on the training split (default: 1024)"
    either.add_argument("--vocab-size", type=count, default=1024, metavar="N", help=about)
    about = "a SentencePiece .model to use instead of training one"
    either.add_argument("--tokenizer", default="", metavar="FILE", help=about)
    option("--name", default="", help="name of the dataset (default: the first path's, and -sp with the vocabulary)")
    for one in made.values():
        add_cache(one)
        add_json(one)


def run(options: argparse.Namespace) -> int:
    """Prepare or list, and print; returns the exit status."""
    rows = prepare_corpus(options, place(options.cache) or None, progress=sys.stderr.isatty())
    print(json.dumps(rows, indent=2) if options.json else "\n".join(corpus_lines(rows)))
    return 0


def prepare_corpus(options: argparse.Namespace, cache_dir: str | None, progress: bool) -> list[dict[str, Any]]:
    """Prepare what the options name (or list what is there); one row per dataset, as --json prints it."""
    from pgolf_core.lab.data import sotu as corpus

    how: dict[str, Any] = {"cache_dir": cache_dir, "progress": progress}
    if options.corpus == "list":
        datasets = corpus.prepared_datasets(cache_dir)
    elif options.corpus == "sotu":
        datasets = [corpus.prepare_sotu(**how)]
    elif options.corpus == "fineweb":
        from pgolf_core.lab.data.fineweb import fetch_fineweb

        given = {key: getattr(options, key) for key in ("repository", "revision", "root") if getattr(options, key)}
        named = {"source": options.source or None, "name": options.name}
        datasets = [fetch_fineweb(options.variant, options.train_shards, **given, **named, **how)]
    else:
        from pgolf_core.lab.data.text import prepare_text

        given = {key: getattr(options, key) for key in ("name", "field", "vocab_size", "val_share")}
        datasets = [prepare_text(list(map(Path, options.paths)), tokenizer=options.tokenizer or None, **given, **how)]
    return [
        {"name": d.name, "manifest_sha256": d.manifest_sha256, "folder": str(d.folder), "totals": d.manifest["totals"]}
        for d in datasets
    ]


def corpus_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The rows as text."""
    for row in rows:
        yield f"{row['name']} (manifest {row['manifest_sha256'][:8]}) in {row['folder']}"
        for split, total in row["totals"].items():
            yield f"  {split}: " + ", ".join(f"{count:,} {what}" for what, count in total.items())
    if not rows:
        yield "nothing is prepared yet; `pgolf data sotu` prepares the State of the Union corpus"


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share between 0 and 1, as 0.1")
    return share
