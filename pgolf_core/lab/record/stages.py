"""What each notebook does to a run: the calls that train, score, pack and write the files the next stage reads.

The notebooks explain; these functions act. Each takes an open Run (`pgolf_core.lab.record.folder.open_run`).
"""

import contextlib
import dataclasses
import functools
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgolf_core.adapting.mixture import Mixed, mix_score
from pgolf_core.adapting.trace import Adapted, adapt_artifact
from pgolf_core.base.device import pick_device
from pgolf_core.base.files import UserError, sha256_file, write_json, write_text
from pgolf_core.base.names import ARTIFACT, GROUP_SENSITIVITY, HESSIANS, SENSITIVITY, TRAIN_LOG, TRAIN_RESULT
from pgolf_core.base.parallel import ALONE
from pgolf_core.base.strict import build, convert
from pgolf_core.lab.compare.agreement import changed_files
from pgolf_core.lab.compare.results import json_object
from pgolf_core.lab.export import PACKED, write_script
from pgolf_core.lab.record.folder import Run, run_hashes, stage_file
from pgolf_core.lab.record.launch import hosts, processes_of, train_with_torchrun
from pgolf_core.lab.shared.places import AVERAGING_FILE, LEDGER_FILE, SCRIPT, short_path
from pgolf_core.lab.shared.progress import score_bar, training_bar
from pgolf_core.network.model import GPT, network_with
from pgolf_core.network.score import Score, score
from pgolf_core.packing.correction import Hessians
from pgolf_core.packing.ledger import CapExceeded, Ledger
from pgolf_core.packing.pack import Statistics, bits_of, pack_averaged
from pgolf_core.packing.sensitivity import Groups, groups_of
from pgolf_core.packing.unpack import score_artifact
from pgolf_core.result import Result
from pgolf_core.seed import result_of, score_lines, size_lines, write_scores
from pgolf_core.text.caseops import CaseTokenizer
from pgolf_core.text.shards import load_tokens
from pgolf_core.text.tokenizer import TokenBytes, Tokenizer, check_vocab
from pgolf_core.training.checkpoint import Checkpoint, load_tensors
from pgolf_core.training.loop import TrainData, train
from pgolf_core.training.progress import read_result
from pgolf_core.training.runlog import TrainResult

ADAPTING = "adapting"
"""Folder of the checkpoint that an adaptation goes on from; gone once its result is written."""

_val_tokens = functools.lru_cache(maxsize=2)(load_tokens)


def dataset_tokenizer(run: Run) -> Tokenizer:
    """The dataset's tokenizer; UserError where its vocabulary is not the recipe's."""
    tokenizer = run.dataset.tokenizer()
    check_vocab(tokenizer.vocab_size, run.recipe.model.vocab_size, run.dataset.name)
    return tokenizer


def token_bytes(run: Run) -> TokenBytes:
    """What the bytes of validation are counted by: the tokenizer's table, or the sidecar of a text that was changed."""
    return run.dataset.token_bytes()


def validation_tokens(run: Run) -> np.ndarray:
    """The whole validation stream, uint16 [tokens]."""
    return _val_tokens(tuple(run.dataset.val_paths), run.recipe.model.vocab_size)


# ---------------------------------------------------------------------- 03


def train_seed(run: Run, progress: bool = True) -> TrainResult:
    """Train this seed (or go on from its checkpoint) with a bar; its logs and weights are in the folder after.

    A training that came to its end before its notebook did is not done again: its result is there until the notebook
    has finished the stage.
    """
    assert run.seed is not None
    if (run.folder / TRAIN_RESULT).exists():
        done = read_result(run.folder)
        is_earlier = time.time() - (run.folder / TRAIN_RESULT).stat().st_mtime > run.elapsed_seconds()
        return dataclasses.replace(done, earlier_seconds=sum(done.seconds.values())) if is_earlier else done
    data, processes = run.dataset, processes_of(run)
    with training_bar(run.recipe, enabled=progress) as update:
        if processes > 1 or hosts() > 1:
            return train_with_torchrun(run, processes, update)
        table = (token_bytes(run), run.dataset.vocab_size)
        given = TrainData(data.train_paths, data.val_paths, *table, data.manifest_sha256)
        return train(run.recipe, run.seed, given, run.folder, progress=update)


# ---------------------------------------------------------------------- 04


def load_weights(run: Run, which: str) -> dict[str, torch.Tensor]:
    """`raw` or `averaged` weights of a trained seed by name, float32 on the CPU."""
    return load_tensors(run.folder / f"weights-{which}.safetensors")[0]


def model_with(run: Run, weights: Mapping[str, torch.Tensor]) -> GPT:
    """The run's network holding these weights, in eval mode on the device."""
    return network_with(run.recipe.model, weights).to(pick_device()).eval()


def score_weights(
    run: Run, weights: Mapping[str, torch.Tensor], label: str, max_targets: int = 0, progress: bool = True
) -> Score:
    """Standard score (stride = window) of weights in memory: for comparing, never the run's final number."""
    settings = run.recipe.eval
    with score_bar(label, enabled=progress) as update:
        return score(
            model_with(run, weights), validation_tokens(run), token_bytes(run), settings.seq_len,
            settings.seq_len, settings.batch_seqs, autocast=run.recipe.schedule.autocast,
            document_mask=settings.document_mask, max_targets=max_targets, progress=update,
        )  # fmt: skip


# ---------------------------------------------------------------------- 05


def chosen_bits(run: Run) -> dict[str, int] | None:
    """PR 332's bits by squared gradient where the recipe asks for them, else None."""
    return bits_of(run.recipe.quant, _gathered(run))


def run_script(run: Run) -> Path:
    """The run's train_gpt.py, whose literal bytes count as code: exported once into the recipe's folder, then kept.

    Its form is the recipe's `script`. A folder holds one recipe and one core (`runs`), so the file is never another's;
    one that was changed since its stage ended is refused (UserError), and nobody's change is lost.
    """
    path = run.recipe_folder / SCRIPT
    is_kept = path.is_file() and not any(changed_files(run.recipe_folder, "02*"))
    return path if is_kept else write_script(run.recipe, run.recipe_folder)


def group_sensitivity(run: Run) -> dict[str, Groups] | None:
    """Mean squared gradients of rows and columns, whatever the recipe packs on; None if the run gathered none."""
    sums = load_tensors(run.folder / GROUP_SENSITIVITY)[0]
    return groups_of(sums) if any(values.any() for values in sums.values()) else None


def run_hessians(run: Run) -> Hessians | None:
    """What training gathered for the correction of rounding, where the recipe asks for it, else None."""
    return None if run.recipe.quant.correction == "off" else hessians_in(run.folder)


def hessians_in(folder: Path) -> Hessians:
    """What a seed's training gathered for the correction; UserError if the file does not say of how many tokens."""
    means, about = load_tensors(folder / HESSIANS)
    if type(about.get("tokens")) is not int:
        raise UserError(f"{folder / HESSIANS} does not say of how many tokens it is; delete it and train again")
    return Hessians(means, about["tokens"])


def _gathered(run: Run) -> Statistics:
    """What the seed's training gathered for packing, read back from its folder."""
    told, sums = json_object(run.folder / SENSITIVITY), load_tensors(run.folder / GROUP_SENSITIVITY)[0]
    source, key = str(run.folder / SENSITIVITY), "mean_squared_gradient"
    steps = convert(told.get("steps"), int, source, "steps")
    return Statistics(convert(told.get(key), dict[str, float], source, key), steps, sums, run_hessians(run))


def pack_seed(run: Run) -> tuple[Ledger, float]:
    """Pack the averaged weights into model.pgolf and write ledger.json; returns the ledger and the seconds taken.

    Raises CapExceeded with the numbers if train_gpt.py and artifact together exceed the track's cap.
    """
    code_bytes = run_script(run).stat().st_size
    weights, statistics = load_weights(run, "averaged"), _gathered(run)
    t_start = time.perf_counter()
    try:
        ledger = pack_averaged(run.recipe, weights, statistics, run.folder / ARTIFACT, code_bytes)
    except CapExceeded as over:
        if run.recipe.script != PACKED:
            over.args = (f"{over}; or set script=packed, a fifth of the bytes of code",)
        raise
    seconds = time.perf_counter() - t_start
    write_json(run.folder / LEDGER_FILE, dataclasses.asdict(ledger))
    return ledger, seconds


# ---------------------------------------------------------------------- 06


def score_packed(run: Run, stride: int, max_targets: int = 0, progress: bool = True) -> Score:
    """Score the packed file as it lies on disk, at the recipe's window and this stride."""
    settings = run.recipe.eval
    tokens = validation_tokens(run)
    tokens = tokens[: max_targets + 1] if max_targets else tokens
    with score_bar(f"stride {stride}", enabled=progress) as update:
        return score_artifact(
            run.folder / ARTIFACT, tokens, token_bytes(run), settings.seq_len, stride,
            settings.batch_seqs, autocast=run.recipe.schedule.autocast, document_mask=settings.document_mask,
            progress=update,
        )  # fmt: skip


def adapt_packed(run: Run, frozen: Score, progress: bool = True) -> Adapted | Mixed | None:
    """Score the packed file while it learns from what was scored, or mix its score, where the recipe asks for it.

    `frozen` is its sliding score.
    """
    recipe = run.recipe
    adapted = _adapt_weights(run, frozen, progress) if recipe.adapt.kind != "off" else None
    if recipe.adapt.mix == "off":
        return adapted
    return mix_score(recipe, validation_tokens(run), frozen, adapted)


def _adapt_weights(run: Run, frozen: Score, progress: bool) -> Adapted:
    """An attempt that was ended goes on from its last checkpoint."""
    made_of = {"artifact": sha256_file(run.folder / ARTIFACT), **run_hashes(run)}
    cadence = run.recipe.schedule.checkpoint_every_seconds
    checkpoint = Checkpoint(run.folder / ADAPTING, made_of, cadence, ALONE)
    try:
        checkpoint.read_about()
    except UserError:  # of a file that was packed before
        checkpoint.path.unlink()
    with score_bar("adapting", enabled=progress) as update:
        return adapt_artifact(
            run.folder / ARTIFACT, run.recipe, validation_tokens(run), frozen, checkpoint=checkpoint, progress=update
        )


def write_result(run: Run, roundtrip: Score, sliding: Score, adapted: Adapted | Mixed | None = None) -> Result:
    """Collect the seed's numbers from its files and the scores of the artifact; result.json is written last.

    UserError where the recipe adapts and nothing was adapted.
    """
    assert run.seed is not None
    kind, mix = run.recipe.adapt.kind, run.recipe.adapt.mix
    if (adapted is None) is ({kind, mix} != {"off"}) or isinstance(adapted, Mixed) is (mix == "off"):
        raise UserError(
            f"adapt.kind = {kind}, adapt.mix = {mix} and the result do not agree; run 06_sliding_eval again"
        )
    averaging, script = json_object(run.folder / AVERAGING_FILE), run_script(run)
    path = run.folder / LEDGER_FILE
    ledger = build(Ledger, json_object(path), str(path))
    if script.stat().st_size != ledger.code_bytes:
        raise UserError(f"{short_path(script)} is not the script that 05_quantize counted; run 05_quantize again")
    source, keys = run.folder / AVERAGING_FILE, ("bpb", "loss_nats_per_token", "tokens")
    raw, averaged = ({key: _number(averaging, source, kind, key) for key in keys} for kind in ("raw", "averaged"))
    hashes, said = run_hashes(run), stage_record(run, "03_train").get("training")
    scoring = roundtrip.seconds + sliding.seconds
    closing = [*size_lines(ledger), *score_lines(roundtrip, sliding), *(adapted.lines(scoring) if adapted else [])]
    result = result_of(
        run.recipe, run.seed, build(TrainResult, said, "stages/03_train.json: training"), ledger, roundtrip, sliding,
        raw_bpb=raw["bpb"], raw_loss=raw["loss_nats_per_token"], raw_targets=int(raw["tokens"]),
        averaged_bpb=averaged["bpb"], averaged_loss=averaged["loss_nats_per_token"],
        seconds=_ledger_of_seconds(run, _number(averaging, source, "seconds"), scoring, adapted),
        data_sha256=hashes["data"], core_sha256=hashes["core"], script_sha256=sha256_file(script),
        ranks=processes_of(run) * hosts(), scores_sha256=write_scores(run.folder, roundtrip, sliding),
        **(adapted.write(run.folder) if adapted else {}),
    )  # fmt: skip
    _complete_log(run, closing)
    result.write(run.folder)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(run.folder / ADAPTING)
    return result


def _ledger_of_seconds(run: Run, averaging: float, scoring: float, adapted: Adapted | Mixed | None) -> dict[str, float]:
    """Wall time of this seed by part, all attempts together, and in `total`, which they add up to.

    Training keeps its own ledger, over its own attempts. `notebooks` is what no other part has: kernels, processes,
    figures, checks. `lost` is what an attempt did that a later one had to do again.
    """
    stages = ("03_train", "04_average_and_qat", "05_quantize")

    def told(stage: str, *keys: str) -> float:
        return _number(stage_record(run, stage), stage_file(run, stage), *keys)

    inside = {part: told(stages[0], "training", "seconds", part)
              for part in ("data", "warmup", "train", "validation", "averaging", "checkpoints", "lost")}  # fmt: skip
    earlier = told(stages[0], "training", "earlier_seconds")
    lost_around = max(told(stages[0], "lost_seconds") - earlier, 0.0)  # the notebooks around earlier attempts at it
    lost = lost_around + sum(told(stage, "lost_seconds") for stage in stages[1:]) + run.lost_seconds()
    kept = min(adapted.earlier_seconds, lost) if adapted else 0.0  # of an attempt that was ended, and gone on from
    total = sum(told(stage, "seconds") for stage in stages) + run.elapsed_seconds() + earlier + lost
    parts = {part: inside[part] for part in ("data", "warmup", "train", "validation")}
    packing = told(stages[2], "packing_seconds")
    parts |= {"averaging": inside["averaging"] + averaging, "packing": packing, "scoring": scoring}
    parts |= {"adapting": adapted.score.seconds} if adapted else {}
    parts |= {"checkpoints": inside["checkpoints"], "lost": inside["lost"] + lost - kept}
    parts["notebooks"] = max(total - sum(parts.values()), 0.0)
    return {**parts, "total": sum(parts.values())}


def _complete_log(run: Run, closing: list[str]) -> None:
    """End train.log with sizes and scores, in place of those of an earlier pass."""
    path, begins = run.folder / TRAIN_LOG, {line.split(" val_loss:")[0].split(":")[0] for line in closing}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if not line.startswith(tuple(f"{name}{end}" for name in begins for end in ": "))]
    write_text(path, "".join(f"{line}\n" for line in [*kept, *closing]))


def stage_record(run: Run, stage_name: str) -> dict[str, Any]:
    """What an earlier stage of this seed left in its mark."""
    return json_object(stage_file(run, stage_name))


def _number(values: Any, path: Path, *keys: str) -> float:
    """The number that a file's values have at these keys, one inside the other; UserError where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    if type(values) not in (int, float):
        remedy = "run the stage that writes it again"
        raise UserError(f"{short_path(path)}: {'.'.join(keys)} is no number ({values!r:.40}); {remedy}")
    return values


# ---------------------------------------------------------------------- 07


@torch.inference_mode()
def sample_text(
    model: GPT, tokenizer: Tokenizer, opening: str, num_tokens: int, seed: int, temperature: float, window: int
) -> str:
    """Continue `opening` by sampling from the model's own distribution; returns the continuation's text.

    The context is the last `window` tokens; BOS and pieces of no bytes are never drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = [tokenizer.bos_id, *tokenizer.encode(opening)]
    silent = torch.from_numpy(tokenizer.bytes.boundary)
    start = len(ids)
    device = next(model.parameters()).device
    for _ in range(num_tokens):
        context = torch.tensor([ids[-window:]], device=device)
        logits = model.logits(context, first=context.size(1) - 1)[0, -1].cpu() / temperature
        logits[silent] = -torch.inf
        ids.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
    decode = tokenizer.shown if isinstance(tokenizer, CaseTokenizer) else tokenizer.decode
    whole, head = decode(ids), decode(ids[:start])
    return whole[len(head) :]
