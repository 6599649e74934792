"""A mixture with n-grams under review: carried out anew, held against its definition, and blindfold."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgolf_core.adapting.mixture import in_nats, mix, mixed_nats
from pgolf_core.lab.verify.evidence.measure import arrays_of
from pgolf_core.network.documents import own_documents
from pgolf_core.network.model import GPT
from pgolf_core.network.score import plan_windows
from pgolf_core.recipes.recipe import Recipe

PLACES = 16
"""So many targets have all their next tokens' probabilities added up."""
BLIND_PLACES = 3
"""After so many targets everything later is replaced, and the mixture carried out once more."""


def mixed_windows(path: Path | str, windows: int) -> dict[str, np.ndarray]:
    """adapt.npz of a mixed score: `mixed` and `mix_seconds`; UserError for anything else."""
    forms: dict[str, tuple[type, tuple[int, ...]]] = {
        "mixed": (np.float64, (windows,)), "mix_seconds": (np.float64, (1,))
    }  # fmt: skip
    return arrays_of(path, forms, "mixture", f"{windows:,} windows")


def whole_distribution(
    model_p: np.ndarray, tokens: np.ndarray, target: int, shares: np.ndarray, recipe: Recipe
) -> np.ndarray:
    """The mixture's probability of every token as a target, float64 [vocab_size], by the definition, slowly.

    Only tokens 0..target are read. `shares` [mix_order - 1] are the target's.
    """
    known, discount, p = tokens[: target + 1].astype(np.int64), recipe.adapt.mix_discount, model_p
    for length, share in enumerate(shares.tolist(), 1):
        if length > target + 1:
            break
        same = np.ones(len(known) - length, bool)  # whether the tokens before token length, length + 1, ... are these
        for back in range(1, length + 1):
            same &= known[length - back : len(known) - back] == known[-back]
        counts = np.bincount(known[length:][same], minlength=len(p))
        if counts.any():
            spared = discount * np.count_nonzero(counts)
            p = (1 - share) * p + share * (np.maximum(counts - discount, 0) + spared * p) / counts.sum()
    return p


@torch.inference_mode()
def model_distribution(model: GPT, tokens: np.ndarray, target: int, recipe: Recipe) -> np.ndarray:
    """The model's probability of every token as a target, float64 [vocab_size], in the target's window."""
    windows = plan_windows(len(tokens) - 1, recipe.eval.seq_len, recipe.eval.stride)
    start = int(windows[np.searchsorted(windows[:, 2], target, side="right"), 0])
    device = next(model.parameters()).device
    ids = torch.from_numpy(tokens[start : target + 1].astype(np.int64))[None].to(device)
    documents = own_documents(ids) if recipe.eval.document_mask else None
    return model.logits(ids, segments=documents)[0, -1].log_softmax(-1).double().exp().cpu().numpy()


def remix(
    model: GPT, tokens: np.ndarray, recipe: Recipe, trace_path: Path | str, nats: np.ndarray | None, sample_seed: int
) -> dict[str, Any]:
    """Hold a trace's mixture against one of the model's `nats` taken anew (float32 [targets]), and that against itself.

    {"windows", "differ", "apart", "mean_apart", "mean_nats"}: as of a replay. {"sums"}: of all next tokens' probability
    at drawn targets. {"definition"}: by how much, relatively, the probability of a drawn target differs from its
    definition, at most. {"compared", "changed", "later_changed"}: targets before and after a place from which on
    tokens and the model's nats were others. {"whole"}: False, and nothing else, where there are no nats of all targets.
    """
    if nats is None:
        return {"whole": False}
    windows = plan_windows(len(nats), recipe.eval.seq_len, recipe.eval.stride)
    kept = mixed_windows(trace_path, len(windows))["mixed"]
    p, shares = mix(tokens, nats, recipe)
    found = in_nats(p)
    apart = np.abs(np.add.reduceat(found, windows[:, 1], dtype=np.float64) - kept)
    vocab_size, draw, sums, wrong = recipe.model.vocab_size, np.random.default_rng(sample_seed), [], []
    for target in draw.choice(len(nats), min(PLACES, len(nats)), replace=False).tolist():
        model_p, y = model_distribution(model, tokens, target, recipe), int(tokens[target + 1])
        sums.append(float(whole_distribution(model_p, tokens, target, shares[:, target], recipe).sum()))
        model_p[y] = np.exp(-np.float64(nats[target]))  # as it was scored
        mixed_p = whole_distribution(model_p, tokens, target, shares[:, target], recipe)
        wrong.append(abs(float(mixed_p[y] / p[target]) - 1))
    told = {"compared": 0, "changed": 0, "later_changed": 0}
    for place in draw.integers(0, len(nats), BLIND_PLACES).tolist():
        others, other_nats = tokens.copy(), nats.copy()
        others[place + 1 :] = (others[place + 1 :].astype(np.int64) * 7 + 1) % vocab_size
        other_nats[place:] += 1
        same = mixed_nats(others, other_nats, recipe).view(np.int32) == found.view(np.int32)
        told["compared"] += place
        told["changed"] += int((~same[:place]).sum())
        told["later_changed"] += int((~same[place:]).sum())
    return {
        "windows": len(windows), "differ": int((apart != 0).sum()), "apart": float(apart.max()), "whole": True,
        "mean_apart": float(apart.mean()), "mean_nats": float(kept.mean()), "sums": sums, "definition": max(wrong),
        "sample_seed": sample_seed, **told,
    }  # fmt: skip
