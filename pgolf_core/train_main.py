"""One seed from the command line, in one process or many: torchrun --nproc_per_node N -m pgolf_core.train_main …"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from pgolf_core.files import UserError, read_json, write_json
from pgolf_core.parallel import World, join
from pgolf_core.recipe import Recipe, from_dict, load_recipe
from pgolf_core.tokenizer import Tokenizer
from pgolf_core.train import TrainData, TrainResult, train

RESULT = "train-result.json"
"""The fields of TrainResult, written last: a run without it has not finished."""


def read_result(folder: Path | str) -> TrainResult:
    """What a finished training wrote about itself; UserError if there is none."""
    return TrainResult(**read_json(Path(folder) / RESULT))


def read_recipe(source: str) -> Recipe:
    """A resolved recipe.json as a run folder holds it, or a recipe by name or .toml file."""
    if not source.endswith(".json"):
        return load_recipe(source)
    values = read_json(source)
    if not isinstance(values, dict):
        raise UserError(f"{source} holds no recipe; give a run's recipe.json or a recipe's name")
    values.pop("fingerprint", None)
    return from_dict(values, source)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pgolf_core.train_main", description=__doc__, allow_abbrev=False)
    parser.add_argument("--recipe", required=True, help="a run's recipe.json, or a recipe's name")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--train", required=True, nargs="+", metavar="GLOB", help="training shards")
    parser.add_argument("--val", required=True, nargs="+", metavar="GLOB", help="validation shards")
    parser.add_argument("--tokenizer", required=True, metavar="FILE", help="SentencePiece model of the shards")
    parser.add_argument("--data-sha256", default="", metavar="HEX", help="hash of the dataset's manifest")
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


def _train(options: argparse.Namespace, world: World) -> None:
    (options.out / RESULT).unlink(missing_ok=True)
    tokenizer = Tokenizer(options.tokenizer)
    data = TrainData(
        _files(options.train), _files(options.val), tokenizer.bytes, tokenizer.vocab_size, options.data_sha256
    )
    say = (lambda line: print(line, flush=True)) if world.first else None
    result = train(read_recipe(options.recipe), options.seed, data, options.out, say=say, world=world)
    if world.first:
        write_json(options.out / RESULT, dataclasses.asdict(result))


@record  # so that torchrun shows the traceback of the rank that failed first
def main() -> None:
    """Train as the arguments say. Exit status 1 for a mistake that is said in a line, 130 after a signal."""
    options = _arguments()
    place = f"pgolf, rank {os.environ['RANK']}" if "RANK" in os.environ else "pgolf"
    try:
        with join() as world:
            _train(options, world)
    except UserError as error:
        print(f"{place}: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        print(f"{place}: {stop}", file=sys.stderr, flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
