"""What every rank runs: one seed, in one process or many, on one machine or more.

one machine:
  torchrun --standalone --nproc_per_node 8 \\
      -m pgolf_core.lab.record.rank --recipe … --out FOLDER
the second of two machines, where HOST is the first (--node_rank 0):
  torchrun --nnodes 2 --node_rank 1 --master_addr HOST --nproc_per_node 8 \\
      -m pgolf_core.lab.record.rank --recipe … --out FOLDER

The host of rank 0 writes the files. A failure says so in a line, or with the
traceback of the rank that failed first.
"""

import argparse
import contextlib
import glob
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
from torch.distributed.elastic.multiprocessing.errors import record

from pgolf_core.base.files import UserError, explain_os_errors, read_json, sha256_file, write_text
from pgolf_core.base.parallel import World, join, leave
from pgolf_core.lab.compare.results import recorded_recipe
from pgolf_core.lab.data.dataset import is_changed
from pgolf_core.lab.data.survey import SPLITS
from pgolf_core.lab.shared.places import MANIFEST, RECIPE_FILE
from pgolf_core.lab.shared.settings import check_seed
from pgolf_core.lab.shared.usage import Lines
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.shards import prove, shard_tokens
from pgolf_core.text.sidecar import split_bytes
from pgolf_core.text.tokenizer import Tokenizer, need_bos
from pgolf_core.training.checkpoint import text_of_first
from pgolf_core.training.loop import TrainData, train

LOCK = ".training.lock"
LOCK_SECONDS = 60.0
"""How long to wait for ranks that were told to leave, or lost their launcher, and are still saving."""


def read_recipe(source: str) -> Recipe:
    """A run's recipe.json, or a recipe by name or .toml file."""
    path = Path(source)
    return recorded_recipe(path.parent) if path.name == RECIPE_FILE else load_recipe(source)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pgolf_core.lab.record.rank", description=__doc__, allow_abbrev=False,
        formatter_class=Lines,
    )  # fmt: skip
    parser.add_argument("--recipe", required=True, help="a run's recipe.json, or a recipe's name")
    parser.add_argument("--seed", required=True, type=int, help="the seed that is trained, the same on every rank")
    parser.add_argument("--train", required=True, nargs="+", metavar="GLOB", help="training shards")
    parser.add_argument("--val", required=True, nargs="+", metavar="GLOB", help="validation shards")
    parser.add_argument("--tokenizer", required=True, metavar="FILE", help="SentencePiece model of the shards")
    about = "hash of the dataset's manifest (default: of the one beside the shards)"
    parser.add_argument("--data-sha256", default="", metavar="HEX", help=about)
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where logs and weights are written")
    return parser.parse_args()


def _files(patterns: list[str]) -> list[Path]:
    """The files of plain paths and of glob patterns; UserError for one that gives none."""
    found: list[Path] = []
    for pattern in patterns:
        paths = [pattern] if Path(pattern).exists() else glob.glob(pattern)
        if not paths:
            raise UserError(f"no shard fits '{pattern}'; give a path or a quoted pattern, as 'data/*_train_*.bin'")
        found += map(Path, paths)
    return found


def identify(train_paths: Sequence[Path], val_paths: Sequence[Path], tokenizer: Tokenizer) -> str:
    """SHA-256 of the manifest beside the shards, which then names all of them and the tokenizer; "" without one.

    A sample is proved in both cases (see `prove`). UserError for a shard that is given twice, and for shards that are
    not those of the manifest, each in its split and unchanged.
    """
    paths = sorted([*train_paths, *val_paths])
    if twice := [path for path, times in Counter(path.resolve() for path in paths).items() if times > 1]:
        raise UserError(f"{min(twice)} is given twice by --train and --val; each shard belongs in one of them, once")
    prove(paths, tokenizer)
    manifest = paths[0].with_name(MANIFEST)
    values = read_json(manifest) if manifest.is_file() else {}
    if not isinstance(values, dict) or "shards" not in values:  # none, or one of another form
        return ""
    try:
        known = {shard["file"]: (shard["bytes"], shard["tokens"]) for shard in values["shards"]}
        digests = {shard["file"]: shard["sha256"] for shard in values["shards"]}
        names = {split: {shard["file"] for shard in values["shards"] if shard["split"] == split} for split in SPLITS}
        tokenizer_sha256 = values["tokenizer"]["sha256"]
    except (KeyError, TypeError):
        raise UserError(f"{manifest} is not of the form this program writes; prepare the dataset again") from None
    for path in paths:
        if path.parent != manifest.parent or known.get(path.name) != (path.stat().st_size, shard_tokens(path)):
            raise UserError(f"{path} is not the shard that {manifest} names; prepare the dataset again")
        if is_changed(path, path.stat().st_size, digests[path.name]):
            raise UserError(f"{path} was changed since {manifest} was written; prepare the dataset again")
    for split, given in (("train", train_paths), ("val", val_paths)):
        if other := names[split].symmetric_difference(path.name for path in given):
            fault = f"--{split} is not all the {split} shards that {manifest} names ({min(other)} is {{}})"
            fault = fault.format("missing" if min(other) in names[split] else "of the other split")
            raise UserError(f"{fault}; give '{manifest.parent}/*_{split}_*.bin'")
    if sha256_file(tokenizer.path) != tokenizer_sha256:
        raise UserError(f"{tokenizer.path} is not the tokenizer that {manifest} names; use the one beside it")
    return sha256_file(manifest)


def _check_agreement(world: World, fingerprint: str, options: argparse.Namespace) -> None:
    """UserError on every rank if one's host was given another recipe, seed or dataset than the first rank's."""
    mine = {"recipe": fingerprint, "seed": options.seed, "dataset (--data-sha256)": options.data_sha256}
    theirs = json.loads(text_of_first(world, json.dumps(mine)))
    other = [
        f"{key} is {value} here and {theirs[key]} at rank 0" for key, value in mine.items() if value != theirs[key]
    ]
    (some,) = world.largest(bool(other))
    if some:
        what = other[0] if other else "another host has another recipe, seed or dataset than rank 0"
        raise UserError(f"{what}; give every host the same arguments")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep `folder` from other trainings; UserError if one is still at it after LOCK_SECONDS."""
    with explain_os_errors(f"cannot write in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = filelock.FileLock(folder / LOCK, timeout=LOCK_SECONDS).acquire()
        except filelock.Timeout:
            raise UserError(f"another training is at work in {folder}; end it or wait for it") from None
    with lock:
        yield


def _train(options: argparse.Namespace, world: World) -> None:
    check_seed(options.seed, "--seed")
    tokenizer = Tokenizer(options.tokenizer)
    train_paths, val_paths = _files(options.train), _files(options.val)
    if not options.data_sha256:
        options.data_sha256 = identify(train_paths, val_paths, tokenizer)
    data = TrainData(
        train_paths, val_paths, split_bytes(val_paths, tokenizer), tokenizer.vocab_size, options.data_sha256
    )
    recipe = read_recipe(options.recipe)
    need_bos(recipe, tokenizer.bos_id)
    _check_agreement(world, recipe.fingerprint, options)
    say = (lambda line: print(line, flush=True)) if world.first else None
    with _alone_in(options.out) if world.first else contextlib.nullcontext():
        train(recipe, options.seed, data, options.out, say=say, world=world)


def _leave(text: str, status: int) -> None:
    """End this process with a line and no traceback; torchrun shows the line where it would show one."""
    place = f"pgolf, rank {os.environ['RANK']}" if "RANK" in os.environ else "pgolf"
    print(f"{place}: {text}", file=sys.stderr, flush=True)
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        about = {"py_callstack": text, "timestamp": str(int(time.time()))}
        write_text(path, json.dumps({"message": {"message": text, "extraInfo": about}}))
    sys.exit(status)


@record  # so that torchrun shows the traceback of the rank that failed first
def main() -> None:
    """Train as the arguments say. Exit status 1 for a mistake that is said in a line, 130 after a signal."""
    options = _arguments()
    try:
        with join() as world:
            _train(options, world)
        leave(world)
    except UserError as error:
        _leave(str(error), 1)
    except KeyboardInterrupt as stop:
        _leave(str(stop), 130)


if __name__ == "__main__":
    main()
