"""`pgolf eval`: the score of an artifact, from its file alone."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.base.names import SEED_RESULT
from pgolf_core.base.strict import build
from pgolf_core.lab.export import readable_of
from pgolf_core.lab.shared.places import RECIPE_FILE, SCRIPT
from pgolf_core.lab.shared.texts import SOTU_PREFIX
from pgolf_core.lab.shared.usage import UsageError, add_data, add_json, checked_recipe, count, place
from pgolf_core.lab.verify.evidence.checks import quietly
from pgolf_core.lab.verify.reading.folder import recipe_of
from pgolf_core.recipes.recipe import Model, Recipe, from_dict
from pgolf_core.result import Result

STANDARD = "local-smoke"
"""Recipe whose window, stride, autocast, document mask and text, in the file's own number of pieces, are assumed of a
file beside nothing."""


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf eval`."""
    parser.add_argument("artifact", help="a model.pgolf")
    about = "targets a window scores (default: the run's, else local-smoke's)"
    parser.add_argument("--stride", type=count, metavar="N", help=about)
    parser.add_argument("--seq-len", type=count, metavar="N", help="window length (default: likewise)")
    add_data(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Score and print; returns the exit status."""
    from pgolf_core.lab.compare.results import recorded_recipe
    from pgolf_core.lab.data.dataset import open_dataset
    from pgolf_core.lab.shared.progress import score_bar
    from pgolf_core.packing.unpack import read_header, score_artifact
    from pgolf_core.text.shards import load_tokens
    from pgolf_core.text.tokenizer import need_bos

    artifact = Path(options.artifact)
    if not artifact.is_file():
        what = "is a folder" if artifact.is_dir() else "does not exist"
        raise UserError(f"{artifact} {what}; name the model.pgolf of a finished seed")
    folder, is_run = artifact.parent, (artifact.parent / RECIPE_FILE).is_file()
    result = Result.read(folder / SEED_RESULT) if (folder / SEED_RESULT).is_file() else None
    is_script = not is_run and result is not None  # an exported one, which leaves no recipe
    own = recorded_recipe(folder) if is_run else _of_script(folder, result) if result else None
    recipe = own or checked_recipe(STANDARD)
    window, step = recipe.eval.seq_len, recipe.eval.stride
    if is_script and result:
        window, step = result.window, result.sliding_stride
    network = build(Model, read_header(artifact)["model"], str(artifact))
    seq_len, stride = options.seq_len or window, options.stride or step
    if not 1 <= stride <= seq_len:
        raise UsageError(f"--stride {stride} must lie in 1..{seq_len}, the window's length")
    name = options.data or (recipe.data.dataset if is_run else f"{SOTU_PREFIX}{network.vocab_size}")
    used = {"seq_len": seq_len, "stride": stride, "dataset": name, "autocast": recipe.schedule.autocast,
            "document_mask": recipe.eval.document_mask}  # fmt: skip
    told = {"seq_len": is_script or options.seq_len, "stride": is_script or options.stride, "dataset": options.data}
    told |= dict.fromkeys(("autocast", "document_mask"), True) if own else {}
    assumed = {} if is_run else {key: value for key, value in used.items() if not told.get(key)}
    if assumed:
        said = f"assumed {', '.join(f'{key} {value}' for key, value in assumed.items())}, as {STANDARD} has them"
        said += " in as many pieces" if "dataset" in assumed else ""
        known = {"seq_len": "--seq-len", "stride": "--stride", "dataset": "--data"}
        given = [known[key] for key in assumed if key in known]
        remedy = f"{', '.join(given)} to say otherwise" if given else "only a run's folder says otherwise"
        print(f"pgolf: no {RECIPE_FILE} beside {artifact}: {said}; {remedy}", file=sys.stderr)
    dataset = open_dataset(name, cache_dir=place(options.cache) or None)
    there = result.data_sha256 if result else ""
    if there not in ("", dataset.manifest_sha256) and not options.data:
        was = f"manifest {there:.8}, {dataset.manifest_sha256:.8} here"
        print(f"pgolf: {dataset.name} is not what the run was scored on ({was}): not its score", file=sys.stderr)
    tokenizer = dataset.tokenizer()
    need_bos(dataclasses.replace(recipe, name=artifact.name, model=network), tokenizer.bos_id)
    tokens = load_tokens(dataset.val_paths, tokenizer.vocab_size)
    with score_bar("scoring", enabled=sys.stderr.isatty()) as progress:
        score = score_artifact(
            artifact, tokens, dataset.token_bytes(), seq_len, stride, recipe.eval.batch_seqs,
            autocast=recipe.schedule.autocast, document_mask=recipe.eval.document_mask, progress=progress,
        )  # fmt: skip
    values = {"artifact": str(artifact), "dataset": dataset.name, **score.to_dict()}
    lines = (f"{key}: {value}" for key, value in values.items())
    print(json.dumps(values | {"assumed": assumed}, indent=2) if options.json else "\n".join(lines))
    return 0


def _of_script(folder: Path, result: Result) -> Recipe | None:
    """The recipe of the exported script that left this result, where it lies in the folder or above; else None."""
    places = (folder / SCRIPT, folder.parent / SCRIPT)
    ran = [path for path in places if path.is_file() and sha256_file(path) == result.script_sha256]
    return quietly(lambda: from_dict(recipe_of(readable_of(ran[0])))) if ran else None
