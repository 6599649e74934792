"""`pgolf eval`: the score of an artifact, from its file alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pgolf_core.base.files import UserError
from pgolf_core.lab.shared.places import RECIPE_FILE
from pgolf_core.lab.shared.usage import UsageError, add_data, add_json, checked_recipe, place


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf eval`."""
    parser.add_argument("artifact", help="a model.pgolf")
    about = "targets a window scores (default: the run's)"
    parser.add_argument("--stride", type=int, default=0, metavar="N", help=about)
    parser.add_argument("--seq-len", type=int, default=0, metavar="N", help="window length (default: the run's)")
    add_data(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Score and print; returns the exit status."""
    from pgolf_core.lab.data.dataset import open_dataset
    from pgolf_core.lab.record.folder import recorded_recipe
    from pgolf_core.lab.shared.progress import score_bar
    from pgolf_core.packing.unpack import score_artifact
    from pgolf_core.text.shards import load_tokens

    artifact = Path(options.artifact)
    if not artifact.is_file():
        raise UserError(f"{artifact} does not exist; name the model.pgolf of a finished seed")
    beside = artifact.parent / RECIPE_FILE
    recipe = recorded_recipe(artifact.parent) if beside.is_file() else checked_recipe("local-smoke")
    seq_len, stride = options.seq_len or recipe.eval.seq_len, options.stride or recipe.eval.stride
    if not 1 <= stride <= seq_len:
        raise UsageError(f"--stride {stride} must lie in 1..{seq_len}, the window's length")
    dataset = open_dataset(options.data or recipe.data.dataset, cache_dir=place(options.cache) or None)
    tokenizer = dataset.tokenizer()
    tokens = load_tokens(dataset.val_paths, tokenizer.vocab_size)
    with score_bar("scoring", enabled=sys.stderr.isatty()) as progress:
        result = score_artifact(
            artifact, tokens, tokenizer.bytes, seq_len, stride, recipe.eval.batch_seqs,
            autocast=recipe.schedule.autocast, progress=progress,
        )  # fmt: skip
    values = {"artifact": str(artifact), "dataset": dataset.name, **result.to_dict()}
    print(json.dumps(values, indent=2) if options.json else "\n".join(f"{key}: {values[key]}" for key in values))
    return 0
