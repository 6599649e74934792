"""One seed whole: train, pack, read back, score, log, result.json. A submission's script and the notebooks share it.

Under torchrun every rank trains and scores its share; the first alone packs, writes and speaks.
"""

import functools
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pgolf_core.adapting.mixture import mix_score
from pgolf_core.adapting.told import Learned
from pgolf_core.adapting.trace import adapt_artifact
from pgolf_core.base.files import UserError, explain_os_errors, sha256_file, write_bytes
from pgolf_core.base.names import ADAPT_TRACE, METRICS, SCORES, SCRIPT_ARTIFACT, SEED_RESULT, TRAIN_LOG
from pgolf_core.base.parallel import World, join, leave
from pgolf_core.network.score import Score
from pgolf_core.packing.correction import in_words
from pgolf_core.packing.ledger import Ledger
from pgolf_core.packing.pack import pack_averaged
from pgolf_core.packing.unpack import score_artifact
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.result import Result
from pgolf_core.text.shards import is_sidecar, load_tokens, prove
from pgolf_core.text.sidecar import sidecar_bytes
from pgolf_core.text.tokenizer import Tokenizer, need_bos
from pgolf_core.training.loop import TrainData, Trainer
from pgolf_core.training.runlog import RunLog, TrainResult


def result_of(
    recipe: Recipe, seed: int, trained: TrainResult, ledger: Ledger, roundtrip: Score, sliding: Score, **further: Any
) -> Result:
    """A seed's Result from what its parts say; `further` has the fields that they do not know."""
    return Result(
        recipe=recipe.name, track=recipe.track, seed=seed, recipe_sha256=recipe.fingerprint,
        roundtrip_bpb=roundtrip.bpb, roundtrip_loss=roundtrip.loss_nats_per_token,
        sliding_bpb=sliding.bpb, sliding_loss=sliding.loss_nats_per_token,
        artifact_bytes=ledger.file_bytes, code_bytes=ledger.code_bytes, total_bytes=ledger.total_bytes,
        cap_bytes=ledger.cap_bytes, correction=ledger.correction, parameters=trained.parameters, steps=trained.steps,
        tokens=trained.tokens, stopped_by=trained.stopped_by, resumed_at_steps=trained.resumed_at_steps,
        val_targets=sliding.tokens, val_bytes=sliding.bytes, sliding_stride=sliding.stride, window=sliding.seq_len,
        over_cap_seconds=recipe.schedule.over_cap_seconds(trained.seconds["train"]) or None, **further,
    )  # fmt: skip


def write_scores(folder: Path, roundtrip: Score, sliding: Score) -> str:
    """Write scores.npz: the nats of every window of both scores; returns its SHA-256."""
    file = io.BytesIO()
    np.savez(file, roundtrip=roundtrip.window_nats, sliding=sliding.window_nats)
    write_bytes(folder / SCORES, file.getvalue())
    return sha256_file(folder / SCORES)


def size_lines(ledger: Ledger) -> list[str]:
    """How train.log tells what was packed, in the words of the field's scripts."""
    lines = [
        f"Serialized model: {ledger.file_bytes} bytes",
        f"Code size: {ledger.code_bytes} bytes",
        f"Total submission size: {ledger.total_bytes} bytes",
    ]
    return lines if ledger.correction is None else [*lines, f"Correction: {in_words(ledger.correction)}"]


def score_lines(roundtrip: Score, sliding: Score) -> list[str]:
    """How train.log tells the two scores of the packed file."""
    lines = []
    for name, score in (("final_roundtrip", roundtrip), ("final_sliding_window", sliding)):
        loss, bpb = score.loss_nats_per_token, score.bpb
        window = f"stride:{score.stride} seq_len:{score.seq_len} eval_time:{score.seconds * 1000:.0f}ms"
        lines.append(f"{name} val_loss:{loss:.4f} val_bpb:{bpb:.4f} {window}")
        lines.append(f"{name}_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}")
    return lines


# ---------------------------------------------------------------------- a submission's script

_say = functools.partial(print, flush=True)


def run_script(recipe: Recipe, script: str) -> None:
    """Run a recipe once as the environment says; `script` is the running file.

    A mistake is one line and status 1, Ctrl-C one and status 130.
    """
    try:
        seed_text = os.environ.get("SEED", "1337")
        if not (seed_text.isascii() and seed_text.isdecimal() and len(seed_text) < 16):  # base.strict takes 53 bits
            raise UserError(f"SEED={seed_text} is not a whole number below 10^15")
        data_path = Path(os.environ.get("DATA_PATH", "./data/datasets/fineweb10B_sp1024"))
        tokenizer_path = Path(os.environ.get("TOKENIZER_PATH", "./data/tokenizers/fineweb_1024_bpe.model"))
        folder = Path(os.environ.get("OUT_DIR", f"seed{seed_text}"))
        with join() as world:
            run_seed(recipe, int(seed_text), data_path, tokenizer_path, folder, world, Path(script))
        leave(world)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        sys.exit(130)


def run_seed(
    recipe: Recipe, seed: int, data_path: Path, tokenizer_path: Path, folder: Path, world: World, script: Path
) -> None:
    """Train, pack into `folder`, score the file from disk with both windows, and write result.json.

    `data_path` holds *_train_*.bin and *_val_*.bin. Earlier results in the folder are replaced. The bytes of `script`
    count as code.
    """
    t_start, artifact = time.perf_counter(), folder / SCRIPT_ARTIFACT
    if world.first:
        with explain_os_errors(f"cannot clear {folder}"):
            for name in (TRAIN_LOG, METRICS, SCORES, ADAPT_TRACE, SCRIPT_ARTIFACT, SEED_RESULT):
                (folder / name).unlink(missing_ok=True)
    tokenizer = Tokenizer(tokenizer_path)
    need_bos(recipe, tokenizer.bos_id)
    train_paths, val_paths = _shards(data_path, "train"), _shards(data_path, "val")
    is_changed = recipe.data.bytes == "sidecar"
    prove([*train_paths, *val_paths], tokenizer, is_changed)
    table = sidecar_bytes(val_paths, tokenizer) if is_changed else tokenizer.bytes
    data = TrainData(train_paths, val_paths, table, tokenizer.vocab_size, sha256="")
    trainer = Trainer(recipe, seed, data, folder, say=_say, world=world, keep=False)
    log = RunLog(folder, _say, world.first)
    with log:
        log.line(f"val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path={tokenizer_path}")
        log.line(f"train_loader:dataset:{data_path} train_shards:{len(train_paths)}")
        log.line(f"val_loader:shards pattern={data_path / '*_val_*.bin'} tokens:{len(trainer.val_tokens)}")
    trained = trainer.run()
    with log:
        if world.first:
            code_bytes = script.stat().st_size
            ledger = pack_averaged(recipe, trainer.averaged, trainer.statistics(), artifact, code_bytes)
            for line in size_lines(ledger):
                log.line(line)
        world.meet()  # the file is there
        tokens, settings = load_tokens(val_paths, tokenizer.vocab_size), recipe.eval
        roundtrip, sliding = (
            score_artifact(
                artifact, tokens, table, settings.seq_len, stride, settings.batch_seqs,
                autocast=recipe.schedule.autocast, document_mask=settings.document_mask, world=world,
            )
            for stride in (settings.seq_len, settings.stride)
        )  # fmt: skip
        lines, seconds = score_lines(roundtrip, sliding), {"scoring": roundtrip.seconds + sliding.seconds}
        adapted: Learned | None = None
        if recipe.adapt.kind != "off":
            adapted = adapt_artifact(artifact, recipe, tokens, sliding, world=world)
        if recipe.adapt.mix != "off" and world.first:
            adapted = mix_score(recipe, tokens, sliding, adapted)
        if adapted:
            lines += adapted.lines(seconds["scoring"])
            seconds["adapting"] = adapted.score.seconds
        for line in lines:
            log.line(line)
    if world.first:
        seconds = {**trained.seconds, **seconds, "total": time.perf_counter() - t_start}
        result_of(
            recipe, seed, trained, ledger, roundtrip, sliding, seconds=seconds, data_sha256="", core_sha256="",
            script_sha256=sha256_file(script), ranks=world.size,
            scores_sha256=write_scores(folder, roundtrip, sliding), **(adapted.write(folder) if adapted else {}),
        ).write(folder)  # fmt: skip


def _shards(folder: Path, split: str) -> list[Path]:
    paths = sorted(path for path in folder.glob(f"*_{split}_*.bin") if not is_sidecar(path.name))
    if not paths:
        raise UserError(f"no *_{split}_*.bin in {folder}; set DATA_PATH to the folder of the shards")
    return paths
