"""What each notebook does to a run: the calls that train, score, pack and write the files the next stage reads.

The notebooks explain; these functions act. Each takes an open Run (`pgolf_core.lab.runs.open_run`).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgolf_core import artifact, evaluate
from pgolf_core.checkpoint import load_tensors
from pgolf_core.correction import HESSIANS, Hessians, in_words
from pgolf_core.data import load_tokens
from pgolf_core.device import pick_device
from pgolf_core.files import UserError, read_json, sha256_file, write_json, write_text
from pgolf_core.lab.attempts import elapsed_seconds, lost_seconds
from pgolf_core.lab.export import MINIFIED, SCRIPT, write_script
from pgolf_core.lab.launch import hosts, processes_of, train_with_torchrun
from pgolf_core.lab.progress import score_bar, training_bar
from pgolf_core.lab.runs import Run, run_hashes, short_path
from pgolf_core.model import GPT, network_with
from pgolf_core.runlog import RESULT, TrainResult, read_result
from pgolf_core.sensitivity import Groups, allocate_bits, groups_of
from pgolf_core.tokenizer import Tokenizer, check_vocab
from pgolf_core.train import TrainData, train

ARTIFACT = "model.pgolf"


def train_data(run: Run) -> TrainData:
    """The run's dataset as the training loop wants it; UserError where its vocabulary is not the recipe's."""
    dataset, tokenizer = run.dataset, dataset_tokenizer(run)
    return TrainData(
        dataset.train_paths, dataset.val_paths, tokenizer.bytes, tokenizer.vocab_size, dataset.manifest_sha256
    )


def dataset_tokenizer(run: Run) -> Tokenizer:
    """The dataset's tokenizer; UserError where its vocabulary is not the recipe's."""
    tokenizer = run.dataset.tokenizer()
    check_vocab(tokenizer.vocab_size, run.recipe.model.vocab_size, run.dataset.name)
    return tokenizer


@functools.lru_cache(maxsize=2)
def _val_tokens(paths: tuple[Path, ...], vocab_size: int) -> np.ndarray:
    return load_tokens(paths, vocab_size)


def validation_tokens(run: Run) -> np.ndarray:
    """The whole validation stream, uint16 [tokens]."""
    return _val_tokens(tuple(run.dataset.val_paths), run.recipe.model.vocab_size)


# ---------------------------------------------------------------------- 03


def train_seed(run: Run, progress: bool = True) -> TrainResult:
    """Train this seed (or go on from its checkpoint) with a bar; the files of DESIGN 6 are in the folder after.

    A training that came to its end before its notebook did is not done again: its result is there until the notebook
    has finished the stage.
    """
    assert run.seed is not None
    if (run.folder / RESULT).exists():
        done = read_result(run.folder)
        is_earlier = time.time() - (run.folder / RESULT).stat().st_mtime > elapsed_seconds(run.t_start)
        return dataclasses.replace(done, earlier_seconds=sum(done.seconds.values())) if is_earlier else done
    processes = processes_of(run)
    with training_bar(run.recipe, enabled=progress) as update:
        if processes > 1 or hosts() > 1:
            dataset_tokenizer(run)  # refuses another vocabulary before anything is started
            return train_with_torchrun(run, processes, update)
        return train(run.recipe, run.seed, train_data(run), run.folder, progress=update)


# ---------------------------------------------------------------------- 04


def load_weights(run: Run, which: str) -> dict[str, torch.Tensor]:
    """`raw` or `averaged` weights of a trained seed by name, float32 on the CPU."""
    return load_tensors(run.folder / f"weights-{which}.safetensors")[0]


def model_with(run: Run, weights: Mapping[str, torch.Tensor]) -> GPT:
    """The run's network holding these weights, in eval mode on the device."""
    return network_with(run.recipe.model, weights).to(pick_device()).eval()


def score_weights(
    run: Run, weights: Mapping[str, torch.Tensor], label: str, max_targets: int = 0, progress: bool = True
) -> evaluate.Score:
    """Standard score (stride = window) of weights in memory: for comparing, never the run's final number."""
    settings = run.recipe.eval
    with score_bar(label, enabled=progress) as update:
        return evaluate.score(
            model_with(run, weights), validation_tokens(run), dataset_tokenizer(run).bytes, settings.seq_len,
            settings.seq_len, settings.batch_seqs, autocast=run.recipe.schedule.autocast, max_targets=max_targets,
            progress=update,
        )  # fmt: skip


# ---------------------------------------------------------------------- 05


def chosen_bits(run: Run) -> dict[str, int] | None:
    """PR 332's bits by squared gradient where the recipe asks for them, else None."""
    if run.recipe.quant.allocation != "gradient":
        return None
    gathered = read_json(run.folder / "sensitivity.json")
    if not gathered["steps"]:
        raise UserError(
            f"{run.folder / 'sensitivity.json'} holds no gradient statistics: training ended before the last tenth of "
            "its warm-down; train longer or set quant.allocation=fixed"
        )
    return allocate_bits(gathered["mean_squared_gradient"])


def run_script(run: Run) -> Path:
    """The run's train_gpt.py, whose literal bytes count as code: exported once into the recipe's folder, then kept.

    Its form is the recipe's `script`. A folder holds one recipe and one core (`runs`), so the file is never another's.
    """
    path = run.recipe_folder / SCRIPT
    return path if path.is_file() else write_script(run.recipe, run.recipe_folder)


def group_sensitivity(run: Run, always: bool = False) -> dict[str, Groups] | None:
    """Mean squared gradients of rows and columns where the recipe's steps come from them, else None.

    With `always`, whatever the recipe, if the run has gathered any.
    """
    path = run.folder / "sensitivity.safetensors"
    if run.recipe.quant.kind == "steps":
        return groups_of(load_tensors(path)[0])
    sums = load_tensors(path)[0] if always and path.exists() else {}
    return groups_of(sums) if any(values.any() for values in sums.values()) else None


def run_hessians(run: Run) -> Hessians | None:
    """What training gathered for the correction of rounding, where the recipe asks for it, else None."""
    if run.recipe.quant.correction == "off":
        return None
    path = run.folder / HESSIANS
    means, about = load_tensors(path)
    if type(about.get("tokens")) is not int:
        raise UserError(f"{path} does not say of how many tokens it is; delete it and train again")
    return Hessians(means, about["tokens"])


def pack_seed(run: Run) -> tuple[artifact.Ledger, float]:
    """Pack the averaged weights into model.pgolf and write ledger.json; returns the ledger and the seconds taken.

    Raises artifact.CapExceeded with the numbers if train_gpt.py and artifact together exceed the track's cap.
    """
    code_bytes = run_script(run).stat().st_size
    t_start = time.perf_counter()
    try:
        ledger = artifact.pack(
            load_weights(run, "averaged"), run.recipe.model, run.recipe.quant, run.folder / ARTIFACT,
            bits=chosen_bits(run), sensitivity=group_sensitivity(run), hessians=run_hessians(run),
            code_bytes=code_bytes, cap_bytes=run.recipe.cap_bytes,
        )  # fmt: skip
    except artifact.CapExceeded as over:
        if run.recipe.script != MINIFIED:
            over.args = (f"{over}; or set script=minified, which more than halves the bytes of code",)
        raise
    seconds = time.perf_counter() - t_start
    write_json(run.folder / "ledger.json", dataclasses.asdict(ledger))
    return ledger, seconds


# ---------------------------------------------------------------------- 06


def score_packed(run: Run, stride: int, max_targets: int = 0, progress: bool = True) -> evaluate.Score:
    """Score the packed file as it lies on disk, at the recipe's window and this stride."""
    settings = run.recipe.eval
    tokens = validation_tokens(run)
    tokens = tokens[: max_targets + 1] if max_targets else tokens
    with score_bar(f"stride {stride}", enabled=progress) as update:
        return evaluate.score_artifact(
            run.folder / ARTIFACT, tokens, dataset_tokenizer(run).bytes, settings.seq_len, stride,
            settings.batch_seqs, autocast=run.recipe.schedule.autocast, progress=update,
        )  # fmt: skip


def write_result(run: Run, roundtrip: evaluate.Score, sliding: evaluate.Score) -> dict[str, Any]:
    """Collect the seed's numbers from its files and the two scores of the artifact; result.json is written last."""
    training, averaging = stage_record(run, "03_train"), read_json(run.folder / "averaging.json")
    ledger, script = read_json(run.folder / "ledger.json"), run_script(run)
    if script.stat().st_size != ledger["code_bytes"]:
        raise UserError(f"{short_path(script)} is not the script that 05_quantize counted; run 05_quantize again")
    hashes = run_hashes(run)
    result = {
        "recipe": run.recipe.name,
        "track": run.recipe.track,
        "seed": run.seed,
        **{f"{kind}_{key}": averaging[kind][name] for kind in ("raw", "averaged") for key, name in _LOSSES},
        **{f"roundtrip_{key}": getattr(roundtrip, name) for key, name in _LOSSES},
        **{f"sliding_{key}": getattr(sliding, name) for key, name in _LOSSES},
        "artifact_bytes": ledger["file_bytes"],
        **{key: ledger[key] for key in ("code_bytes", "total_bytes", "cap_bytes")},
        **{key: training[key] for key in ("parameters", "steps", "tokens", "stopped_by", "resumed_at_steps")},
        "seconds": _ledger_of_seconds(run, averaging["seconds"], roundtrip.seconds + sliding.seconds),
        "val_targets": sliding.tokens,
        "val_bytes": sliding.bytes,
        "raw_targets": averaging["raw"]["tokens"],
        "sliding_stride": sliding.stride,
        "window": sliding.seq_len,
        **{f"{part}_sha256": value for part, value in hashes.items()},
        "script_sha256": sha256_file(script),
    }
    if ledger.get("correction"):
        result["correction"] = ledger["correction"]
    _complete_log(run, ledger, roundtrip, sliding)
    write_json(run.folder / "result.json", result)
    return result


def _ledger_of_seconds(run: Run, averaging: float, scoring: float) -> dict[str, float]:
    """Wall time of this seed by part, all attempts together, and in `total`, which they add up to.

    Training keeps its own ledger, over its own attempts. `notebooks` is what no other part has: kernels, processes,
    figures, checks. `lost` is what an attempt did that a later one had to do again.
    """
    training = stage_record(run, "03_train")
    marks = [stage_record(run, name) for name in ("03_train", "04_average_and_qat", "05_quantize")]
    inside, earlier = training["seconds_inside"], training["earlier_seconds"]
    lost_around = max(training["lost_seconds"] - earlier, 0.0)  # the notebooks around earlier attempts at training
    lost = lost_around + sum(mark["lost_seconds"] for mark in marks[1:]) + lost_seconds(run.folder)
    total = sum(mark["seconds"] for mark in marks) + elapsed_seconds(run.t_start) + earlier + lost
    parts = {part: inside[part] for part in ("data", "warmup", "train", "validation")}
    parts |= {"averaging": inside["averaging"] + averaging, "packing": marks[2]["packing_seconds"], "scoring": scoring}
    parts |= {"checkpoints": inside["checkpoints"], "lost": inside["lost"] + lost}
    parts["notebooks"] = max(total - sum(parts.values()), 0.0)
    return {**parts, "total": sum(parts.values())}


def _complete_log(run: Run, ledger: Mapping[str, Any], roundtrip: evaluate.Score, sliding: evaluate.Score) -> None:
    """End train.log with sizes and scores, in the words of a script's own log, in place of those of an earlier pass."""
    path, last = run.folder / "train.log", {}
    for name, size in (("Serialized model", "file"), ("Code size", "code"), ("Total submission size", "total")):
        last[f"{name}:"] = f"{ledger[f'{size}_bytes']} bytes"
    if ledger.get("correction"):
        last["Correction:"] = in_words(ledger["correction"])
    for name, score in (("final_roundtrip", roundtrip), ("final_sliding_window", sliding)):
        loss, bpb = score.loss_nats_per_token, score.bpb
        window = f"stride:{score.stride} seq_len:{score.seq_len} eval_time:{score.seconds * 1000:.0f}ms"
        last[name] = f"val_loss:{loss:.4f} val_bpb:{bpb:.4f} {window}"
        last[f"{name}_exact"] = f"val_loss:{loss:.8f} val_bpb:{bpb:.8f}"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if not line.startswith(tuple(f"{name} " for name in last))]
    write_text(path, "".join(f"{line}\n" for line in [*kept, *(f"{name} {text}" for name, text in last.items())]))


_LOSSES = (("bpb", "bpb"), ("loss", "loss_nats_per_token"))


def stage_record(run: Run, stage_name: str) -> dict[str, Any]:
    """What an earlier stage of this seed left in its mark."""
    return read_json(run.folder / "stages" / f"{stage_name}.json")


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
    silent = torch.from_numpy((tokenizer.bytes.base == 0) & ~tokenizer.bytes.leading_space)
    start = len(ids)
    device = next(model.parameters()).device
    for _ in range(num_tokens):
        context = torch.tensor([ids[-window:]], device=device)
        logits = model.logits(context, first=context.size(1) - 1)[0, -1].cpu() / temperature
        logits[silent] = -torch.inf
        ids.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
    whole, head = tokenizer.decode(ids), tokenizer.decode(ids[:start])
    return whole[len(head) :]
