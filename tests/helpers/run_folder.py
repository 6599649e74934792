"""Run folders of finished seeds that were never trained: results that agree with themselves."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgolf_core.base.files import sha256_file
from pgolf_core.packing.ledger import Ledger
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe, to_dict
from pgolf_core.result import Result

TARGETS, BYTES = 300_000, 900_000
TENSOR = {
    "name": "w", "grid": "int6_row", "shape": [100, 80], "elements": 8000, "raw_bytes": 8000, "scales_raw_bytes": 200,
    "compressed_bytes": 4100, "entropy_bytes": 4000,
}  # fmt: skip
WORSE = {"sliding": 0.0, "roundtrip": 0.01, "averaged": 0.03, "raw": 0.05}
"""What each score lies above the sliding one, in bits per byte."""


def seed_result(seed: int, bpb: float, targets: int = TARGETS, text_bytes: int = BYTES, **changes) -> Result:
    """A result whose numbers agree with each other: `bpb` is the sliding score, losses follow from the scores."""
    scores = {kind: changes.pop(f"{kind}_bpb", bpb + worse) for kind, worse in WORSE.items()}
    values = {f"{kind}_bpb": score for kind, score in scores.items()}
    values |= {f"{kind}_loss": score * math.log(2) * text_bytes / targets for kind, score in scores.items()}
    values |= {
        "recipe": "local-smoke", "track": "local_10min_1mb", "seed": seed, "artifact_bytes": 800_000 + seed,
        "code_bytes": 100_000, "cap_bytes": 1_000_000, "parameters": 1_812_480, "steps": 400 + seed % 10,
        "tokens": (400 + seed % 10) * 32_768, "stopped_by": "clock", "resumed_at_steps": [],
        "seconds": {"train": 100.0 + seed, "scoring": 20.0}, "val_targets": targets, "val_bytes": text_bytes,
        "sliding_stride": 64, "window": 512, "recipe_sha256": "a" * 64, "data_sha256": "d" * 64,
        "core_sha256": "c" * 64, "script_sha256": "5" * 64, "raw_targets": targets,
    } | changes  # fmt: skip
    return Result(**{"total_bytes": values["artifact_bytes"] + values["code_bytes"]} | values)


def averaging_of(result: Result) -> dict[str, dict[str, float | int | None]]:
    """What averaging.json says of these scores."""
    return {
        kind: {"bpb": getattr(result, f"{kind}_bpb"), "loss_nats_per_token": getattr(result, f"{kind}_loss"),
               "tokens": result.raw_targets}
        for kind in ("raw", "averaged")
    }  # fmt: skip


def ledger_of(result: Result, scales: int = 15_000, header: int = 5_000) -> Ledger:
    """A ledger of these bytes, with one tensor."""
    weights = result.artifact_bytes - scales - header
    return Ledger(weights, 0, scales, header, result.artifact_bytes, result.code_bytes, result.total_bytes,
                  result.cap_bytes, [TENSOR], correction=result.correction)  # fmt: skip


def write_run(
    folder: Path, scores: Mapping[int, float], overrides: Sequence[str] = (), device: str = "cpu", **changes
) -> Path:
    """A run folder of finished seeds {seed: sliding bpb}: result.json, env.json, and local-smoke in 1,024 pieces."""
    recipe = load_recipe("local-smoke", ["model.vocab_size=1024", "data.dataset=sotu-sp1024", *overrides])
    environment = {"device": device, "threads": 2, "versions": {"torch": "2.13.0"}}
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(to_dict(recipe) | {"fingerprint": recipe.fingerprint}))
    for seed, bpb in scores.items():
        place = folder / f"seed{seed}"
        place.mkdir()
        seed_result(seed, bpb, **of_recipe(recipe) | changes).write(place)
        (place / "env.json").write_text(json.dumps(environment))
    return folder


def change(file: Path, /, **values: object) -> None:
    """Put other values into a JSON file, as whoever wrote it would have: marks of stages have its hash."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    settle(file)


def settle(file: Path) -> None:
    """Give marks of stages that have a hash of a changed file the new one."""
    for mark in file.parent.glob("stages/*.json"):
        told = json.loads(mark.read_text())
        if file.name in told.get("files", {}):
            told["files"][file.name] = sha256_file(file)
            mark.write_text(json.dumps(told))


def as_recipe(run: Path, overrides: Sequence[str] = ()) -> None:
    """Make a run folder of write_run one of local-smoke in 1,024 pieces with these changes."""
    recipe = load_recipe("local-smoke", ["model.vocab_size=1024", "data.dataset=sotu-sp1024", *overrides])
    (run / "recipe.json").write_text(json.dumps(to_dict(recipe) | {"fingerprint": recipe.fingerprint}))
    for place in run.glob("seed*"):
        change(place / "result.json", **of_recipe(recipe))
        if (place / "ledger.json").exists():
            change(place / "ledger.json", cap_bytes=recipe.cap_bytes)


def of_recipe(recipe: Recipe) -> dict[str, object]:
    """What a result says of its recipe."""
    return {
        "recipe": recipe.name, "track": recipe.track, "recipe_sha256": recipe.fingerprint,
        "cap_bytes": recipe.cap_bytes, "window": recipe.eval.seq_len, "sliding_stride": recipe.eval.stride,
    }  # fmt: skip
