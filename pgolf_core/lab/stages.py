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
from pgolf_core.data import load_tokens
from pgolf_core.device import pick_device
from pgolf_core.files import UserError, read_json, write_json
from pgolf_core.lab.launch import processes_of, train_with_torchrun
from pgolf_core.lab.progress import score_bar, training_bar
from pgolf_core.lab.runs import Run, run_hashes
from pgolf_core.model import GPT
from pgolf_core.sensitivity import Groups, allocate_bits, groups_of
from pgolf_core.tokenizer import Tokenizer, check_vocab
from pgolf_core.train import TrainData, TrainResult, train

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
    """Train this seed (or go on from its checkpoint) with a bar; the files of DESIGN 6 are in the folder after."""
    assert run.seed is not None
    processes = processes_of(run)
    with training_bar(run.recipe, enabled=progress) as update:
        if processes > 1:
            dataset_tokenizer(run)  # refuses another vocabulary before anything is started
            return train_with_torchrun(run, processes, update)
        return train(run.recipe, run.seed, train_data(run), run.folder, progress=update)


# ---------------------------------------------------------------------- 04


def load_weights(run: Run, which: str) -> dict[str, torch.Tensor]:
    """`raw` or `averaged` weights of a trained seed by name, float32 on the CPU."""
    return load_tensors(run.folder / f"weights-{which}.safetensors")[0]


def model_with(run: Run, weights: Mapping[str, torch.Tensor]) -> GPT:
    """The run's network holding these weights, in eval mode on the device."""
    with torch.device("meta"):
        model = GPT(run.recipe.model)
    model.load_state_dict(dict(weights), strict=True, assign=True)
    return model.to(pick_device()).eval()


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


def group_sensitivity(run: Run, always: bool = False) -> dict[str, Groups] | None:
    """Mean squared gradients of rows and columns where the recipe's steps come from them, else None.

    With `always`, whatever the recipe, if the run has gathered any.
    """
    path = run.folder / "sensitivity.safetensors"
    if run.recipe.quant.kind == "steps":
        return groups_of(load_tensors(path)[0])
    sums = load_tensors(path)[0] if always and path.exists() else {}
    return groups_of(sums) if any(values.any() for values in sums.values()) else None


def pack_seed(run: Run) -> tuple[artifact.Ledger, float]:
    """Pack the averaged weights into model.pgolf and write ledger.json; returns the ledger and the seconds taken.

    Raises artifact.CapExceeded with the numbers if code and artifact together exceed the track's cap.
    """
    t_start = time.perf_counter()
    ledger = artifact.pack(
        load_weights(run, "averaged"), run.recipe.model, run.recipe.quant, run.folder / ARTIFACT,
        bits=chosen_bits(run), sensitivity=group_sensitivity(run), code_bytes=artifact.code_bytes(),
        cap_bytes=run.recipe.cap_bytes,
    )  # fmt: skip
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
    packing = stage_record(run, "05_quantize")
    ledger = read_json(run.folder / "ledger.json")
    hashes = run_hashes(run)
    parts = {
        **training["seconds_inside"],
        "averaging": averaging["seconds"],
        "packing": packing["packing_seconds"],
        "scoring": roundtrip.seconds + sliding.seconds,
    }
    stages = [stage_record(run, name)["seconds"] for name in ("03_train", "04_average_and_qat", "05_quantize")]
    elapsed = sum(stages) + time.monotonic() - run.t_start
    parts["notebooks"] = max(elapsed - sum(parts.values()), 0.0)  # a resumed run's earlier attempts are in train alone
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
        "seconds": {**parts, "total": sum(parts.values())},
        "val_targets": sliding.tokens,
        "val_bytes": sliding.bytes,
        "raw_targets": averaging["raw"]["tokens"],
        "sliding_stride": sliding.stride,
        "window": sliding.seq_len,
        **{f"{part}_sha256": value for part, value in hashes.items()},
    }
    write_json(run.folder / "result.json", result)
    return result


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
