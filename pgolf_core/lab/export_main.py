"""The script's own part: paths from the environment; train, pack, read back, score; one folder for each seed.

Under torchrun every rank trains and scores its share; the first alone packs, writes and speaks.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from pgolf_core.artifact import pack
from pgolf_core.correction import in_words
from pgolf_core.data import load_tokens
from pgolf_core.evaluate import Score, score_artifact
from pgolf_core.files import UserError, explain_os_errors, write_json
from pgolf_core.ledger import Ledger
from pgolf_core.parallel import World, join, leave
from pgolf_core.recipe import Recipe
from pgolf_core.runlog import NoLog, RunLog, TrainResult
from pgolf_core.sensitivity import allocate_bits, groups_of
from pgolf_core.tokenizer import Tokenizer
from pgolf_core.train import TrainData, Trainer

ARTIFACT = "final_model.pgolf"


def main(recipe: Recipe) -> None:
    """Run the recipe once, as the environment says; a mistake is one line and status 1."""
    try:
        seed = _seed(os.environ.get("SEED", "1337"))
        data_path = Path(os.environ.get("DATA_PATH", "./data/datasets/fineweb10B_sp1024"))
        tokenizer_path = Path(os.environ.get("TOKENIZER_PATH", "./data/tokenizers/fineweb_1024_bpe.model"))
        folder = Path(os.environ.get("OUT_DIR", f"seed{seed}"))
        with join() as world:
            run(recipe, seed, data_path, tokenizer_path, folder, world)
        leave(world)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def run(recipe: Recipe, seed: int, data_path: Path, tokenizer_path: Path, folder: Path, world: World) -> None:
    """Train, pack into `folder`, score the file from disk with both windows, and write result.json.

    `data_path` holds *_train_*.bin and *_val_*.bin. Earlier results in the folder are replaced.
    """
    t_start = time.perf_counter()
    if world.first:
        _clear(folder)
    tokenizer = Tokenizer(tokenizer_path)
    train_paths, val_paths = _shards(data_path, "train"), _shards(data_path, "val")
    data = TrainData(train_paths, val_paths, tokenizer.bytes, tokenizer.vocab_size, sha256="")
    trainer = Trainer(recipe, seed, data, folder, say=_say, world=world)
    with _log(folder, world) as log:
        log.line(f"val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path={tokenizer_path}")
        log.line(f"train_loader:dataset:{data_path} train_shards:{len(train_paths)}")
        log.line(f"val_loader:shards pattern={data_path / '*_val_*.bin'} tokens:{len(trainer.val_tokens)}")
    trained = trainer.run()
    ledger = _pack(recipe, trainer, folder) if world.first else None
    world.meet()  # the file is there
    tokens = load_tokens(val_paths, tokenizer.vocab_size)
    with _log(folder, world) as log:
        if ledger is not None:
            log.line(f"Serialized model: {ledger.file_bytes} bytes")
            log.line(f"Code size: {ledger.code_bytes} bytes")
            log.line(f"Total submission size: {ledger.total_bytes} bytes")
            if recipe.quant.correction == "hessian":
                log.line(f"Correction: {in_words(ledger.correction)}")
        scores = {}
        for name, stride in (("roundtrip", recipe.eval.seq_len), ("sliding", recipe.eval.stride)):
            scores[name] = score_artifact(
                folder / ARTIFACT, tokens, tokenizer.bytes, recipe.eval.seq_len, stride, recipe.eval.batch_seqs,
                autocast=recipe.schedule.autocast, world=world,
            )  # fmt: skip
            _log_score(log, "final_roundtrip" if name == "roundtrip" else "final_sliding_window", scores[name])
    if ledger is not None:
        result = _result(recipe, seed, trained, ledger, scores, time.perf_counter() - t_start)
        if recipe.quant.correction == "hessian":
            result["correction"] = ledger.correction
        write_json(folder / "result.json", {**result, "ranks": world.size})


def _clear(folder: Path) -> None:
    with explain_os_errors(f"cannot clear {folder}"):
        for name in ("train.log", "metrics.jsonl", ARTIFACT, "result.json"):
            (folder / name).unlink(missing_ok=True)


def _log(folder: Path, world: World) -> RunLog:
    return RunLog(folder, _say) if world.first else NoLog(folder)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise UserError(f"SEED={text} is not a whole number")
    return int(text)


def _say(line: str) -> None:
    print(line, flush=True)


def _shards(folder: Path, split: str) -> list[Path]:
    paths = sorted(folder.glob(f"*_{split}_*.bin"))
    if not paths:
        raise UserError(f"no *_{split}_*.bin in {folder}; set DATA_PATH to the folder of the shards")
    return paths


def _pack(recipe: Recipe, trainer: Trainer, folder: Path) -> Ledger:
    """The averaged weights as a file; code counts with the literal bytes of this script."""
    bits = sensitivity = hessians = None
    if recipe.quant.correction == "hessian":
        hessians = trainer.gathering.found
    if recipe.quant.kind == "steps":
        sensitivity = groups_of(trainer.group_meter.sums)
    if recipe.quant.allocation == "gradient":
        if not trainer.meter.steps:
            raise UserError(
                "no gradient statistics: training ended before the last tenth of its warm-down; train longer"
            )
        bits = allocate_bits(trainer.meter.result())
    return pack(
        trainer.average.result(trainer.model), recipe.model, recipe.quant, folder / ARTIFACT, bits=bits,
        sensitivity=sensitivity, hessians=hessians, code_bytes=Path(__file__).stat().st_size,
        cap_bytes=recipe.cap_bytes,
    )  # fmt: skip


def _log_score(log: RunLog, name: str, score: Score) -> None:
    loss, bpb = score.loss_nats_per_token, score.bpb
    window = f"stride:{score.stride} seq_len:{score.seq_len} eval_time:{score.seconds * 1000:.0f}ms"
    log.line(f"{name} val_loss:{loss:.4f} val_bpb:{bpb:.4f} {window}")
    log.line(f"{name}_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}")


def _result(
    recipe: Recipe, seed: int, trained: TrainResult, ledger: Ledger, scores: dict[str, Score], seconds: float
) -> dict[str, Any]:
    losses = {}
    for name, score in scores.items():
        losses |= {f"{name}_bpb": score.bpb, f"{name}_loss": score.loss_nats_per_token}
    return {
        "recipe": recipe.name,
        "recipe_sha256": recipe.fingerprint,
        "track": recipe.track,
        "seed": seed,
        **losses,
        "artifact_bytes": ledger.file_bytes,
        "code_bytes": ledger.code_bytes,
        "total_bytes": ledger.total_bytes,
        "cap_bytes": ledger.cap_bytes,
        "parameters": trained.parameters,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "stopped_by": trained.stopped_by,
        "seconds": {
            **trained.seconds,
            "scoring": sum(score.seconds for score in scores.values()),
            "total": seconds,
        },
        "val_targets": scores["sliding"].tokens,
        "val_bytes": scores["sliding"].bytes,
        "window": scores["sliding"].seq_len,
        "sliding_stride": scores["sliding"].stride,
    }
