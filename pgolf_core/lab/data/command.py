"""`pgolf data CORPUS …`: its options, what they call, and what is printed. Heavy imports stay inside the calls."""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from pgolf_core.lab.shared.usage import Lines, UsageError, add_cache, add_json, count, note, place

CORPORA = {
    "sotu": "the State of the Union addresses with a tokenizer trained on them (needs no network)",
    "fineweb": "published FineWeb shards and their tokenizer, from the hub or a local copy; goes on where it stopped",
    "text": "a dataset of your own files: .txt, .md (a file is a document), .json, .jsonl (a line), .parquet (a row)",
    "list": "what is prepared",
}

EPILOGS = {
    "fineweb": """\
A shard is a .bin file of tokens, the numbers that a tokenizer makes of text;
the tokenizer is a .model file. What --source DIR may hold, or a repository:

as published: the manifest says what there is, and how much of it
  DIR/datasets/manifest.json                  (or all without outer datasets/)
  DIR/datasets/datasets/fineweb10B_sp1024/fineweb_train_000000.bin ...
  DIR/datasets/datasets/fineweb10B_sp1024/fineweb_val_000000.bin
  DIR/datasets/tokenizers/fineweb_1024_bpe.model
shards alone: names tell the splits, or folders train/ and val/ do
  DIR/NAME_train_0.bin ... DIR/NAME_val_0.bin
  DIR/tokenizer.model                         (or --tokenizer FILE)

example: pgolf data fineweb --variant sp1024 --source mirror --train-shards 2""",
    "text": """\
Files may be packed (.gz, .bz2, .xz, .zst). JSON is an object a line, or an
array of them. Files of other kinds in a folder are named and not read.

examples: pgolf data text book.txt       one text, cut at blank lines or lines
          pgolf data text corpus/ --val-share 0.05
          pgolf data text --train a.jsonl --val b.jsonl --field content""",
}


def add(parser: argparse.ArgumentParser) -> None:
    """One sub-command per corpus."""
    corpora = parser.add_subparsers(title="corpora", metavar="CORPUS", dest="corpus", required=True)
    made = {
        name: corpora.add_parser(name, help=about, description=about, epilog=EPILOGS.get(name), formatter_class=Lines)
        for name, about in CORPORA.items()
    }

    option = made["fineweb"].add_argument
    option("--variant", metavar="NAME", help="tokenizer of the shards (default sp1024), or a published dataset's name")
    about = "the first N shards of 100,000,000 tokens (default: 80); asking for more later fetches only those"
    option("--train-shards", type=count, metavar="N", help=about)
    option("--repository", metavar="OWNER/NAME", help="dataset repository on the hub (default: the challenge's)")
    option("--revision", metavar="REV", help="its branch, tag or commit (default: the newest)")
    option("--root", metavar="DIR", help="folder inside the repository that manifest.json lies in (default: datasets)")
    about = "a local folder instead of the hub, in one of the layouts below"
    option("--source", metavar="DIR", help=about)
    option("--tokenizer", metavar="FILE", help="the shards' SentencePiece .model, if the source has none or several")
    option("--name", help="name of the dataset (default: fineweb10B-VARIANT, as recipes call it)")

    option = made["text"].add_argument
    option("paths", nargs="*", metavar="PATH", help="file or folder; folders are walked in sorted order")
    for split in ("train", "val"):
        option(f"--{split}", nargs="+", metavar="PATH", help=f"instead: the files of the {split} split, kept as given")
    option("--field", help="key in JSON, column in .parquet that holds the text (default: text)")
    about = (
        "how text files become documents: at blank-lines, at lines, or whole (none, the default for more than one file)"
    )
    option("--cut", choices=("blank-lines", "lines", "none"), help=about)
    option("--caseops", action="store_true", help="marks for capitals, exactly undone; bytes stay the original text's")
    about = "leave out documents that cannot be used (empty, null, with U+2581, ...); the manifest counts them"
    option("--skip-faulty", action="store_true", help=about)
    option("--val-share", type=_share, metavar="X", help="share of validation documents (default: 0.1)")
    either = made["text"].add_mutually_exclusive_group()
    about = "pieces of the lossless tokenizer that is trained on the training split (default: {})"
    made["sotu"].add_argument("--vocab-size", type=count, default=1024, metavar="N", help=about.format(1024))
    dev = "some training documents as its validation split, for choosing settings by; that of the track is left out"
    made["sotu"].add_argument("--development", action="store_true", help=dev)
    usual = "8192 for 4 MB of training text or more, else 1024"
    either.add_argument("--vocab-size", type=count, metavar="N", help=about.format(usual))
    about = "a SentencePiece .model to use instead of training one"
    either.add_argument("--tokenizer", metavar="FILE", help=about)
    option("--name", help="name of the dataset (default: the first path's, and -sp with the vocabulary)")
    for one in made.values():
        add_cache(one)
        add_json(one)


def run(options: argparse.Namespace) -> int:
    """Prepare or list, and print; returns the exit status."""
    from pgolf_core.lab.data.dataset import datasets_root, prepared_datasets
    from pgolf_core.lab.shared.tables import width

    how: dict[str, Any] = {"cache_dir": place(options.cache) or None, "progress": sys.stderr.isatty()}
    if options.corpus == "list":
        datasets = prepared_datasets(how["cache_dir"], note)
        if not datasets:
            note(f"looked in {datasets_root(how['cache_dir'])} (PGOLF_CACHE or --cache)")
    elif options.corpus == "sotu":
        from pgolf_core.lab.data.sotu import prepare_sotu

        datasets = [prepare_sotu(**how, vocab_size=options.vocab_size, development=options.development)]
    elif options.corpus == "fineweb":
        from pgolf_core.lab.data.fineweb import FinewebRequest, fetch_fineweb

        if options.source and options.revision:
            raise UsageError("--revision is of the hub, and --source a folder instead; leave one of them out")
        datasets = [fetch_fineweb(FinewebRequest(**_given(FinewebRequest, options)), **how)]
    else:
        from pgolf_core.lab.data.text import TextRequest, prepare_text

        split = bool(options.train and options.val and not options.paths and not options.val_share)
        if not split and (not options.paths or options.train or options.val):
            raise UsageError("give PATH to be split (--val-share), or the files of each split: --train PATH --val PATH")
        datasets = [prepare_text(TextRequest(**_given(TextRequest, options)), **how)]
    rows = [
        {"name": d.name, "manifest_sha256": d.manifest_sha256, "folder": str(d.folder), "totals": d.manifest["totals"]}
        for d in datasets
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for line in corpus_lines(rows):  # whole where nobody looks, so that a path can be taken out of it
        fitting = textwrap.fill(line, width(), subsequent_indent="    ", break_on_hyphens=False)
        print(fitting if sys.stdout.isatty() else line)
    return 0


def _given(request: type, options: argparse.Namespace) -> dict[str, Any]:
    """Of the options that were given those that are fields of the request; it knows the defaults of the others."""
    given = {field.name: getattr(options, field.name, None) for field in fields(request)}
    return {name: value for name, value in given.items() if value}


def corpus_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The rows as text."""
    for row in rows:
        yield f"{row['name']} (manifest {row['manifest_sha256'][:8]}) in {row['folder']}"
        for split, total in row["totals"].items():
            yield f"  {split}: " + ", ".join(f"{count:,} {what.removeprefix('utf8_')}" for what, count in total.items())
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
