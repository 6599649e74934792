"""What an event does to the weights: the plainest SGD beside it, ranks, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from learning import CHUNKS, assert_ranks_agree, carried_out
from refused import refused
from small import noisy_model, small_recipe

from pgolf_core.lab.look.n06_scoring import plain_nats

RECIPE = small_recipe(adapt=CHUNKS)
TOKENS = np.random.default_rng(3).integers(0, 64, 301).astype(np.uint16)


def test_chunks_are_scored_and_learned_from_as_the_plain_way_does() -> None:
    """By hand: m <- 0.9 m + g, weights <- weights - rate m; g is of a mean over sequences, clipped to a norm of 1."""
    model, (learner, losses, found, _) = noisy_model().eval(), carried_out(RECIPE, TOKENS)
    stream, momentum, steps, nats = torch.from_numpy(TOKENS.astype(np.int64)), {}, [], np.zeros(300)
    for chunk in range(5):
        own_first = [i for i in range(300) if min(_first_of(i) // 70, 4) == chunk]
        nats[own_first] = plain_nats(model, TOKENS, 16, 4)[own_first]
        starts = [70 * chunk + 16 * k for k in range(4)] if chunk < 4 else []
        for batch in (starts[:3], starts[3:]) * 2:
            if not batch:
                continue
            model.zero_grad()
            x, y = (torch.stack([stream[s + o : s + o + 16] for s in batch]) for o in (0, 1))
            loss = model(x, y)
            loss.backward()
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            steps.append((loss.item(), norm.item()))
            with torch.no_grad():
                for name, p in model.named_parameters():
                    gradient = p.grad * min(1.0, 1.0 / (float(norm) + 1e-6))
                    momentum[name] = 0.9 * momentum.get(name, 0.0) + gradient
                    p -= 0.05 * 0.5 * (1 + np.cos(np.pi * chunk / 4)) * momentum[name]
    np.testing.assert_allclose(losses.numpy(), nats, atol=2e-5)
    np.testing.assert_allclose(found, steps, rtol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(learner.named[name], parameter, atol=1e-5, rtol=1e-4)


def _first_of(target: int) -> int:
    """The first target of the window that scores this one: windows of 16 at every 4th."""
    return 0 if target < 16 else target // 4 * 4


def test_a_chunk_is_scored_before_the_weights_move() -> None:
    frozen = noisy_model().eval()
    _, losses, *_ = carried_out(RECIPE, TOKENS)
    expected = plain_nats(frozen, TOKENS, 16, 4)
    np.testing.assert_allclose(losses[:72].numpy(), expected[:72], atol=1e-5)
    assert np.abs(losses[72:].numpy() - expected[72:]).max() > 0.01


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        (1, "the score of targets 72 to 139 is not finite"),
        (2, "the gradient on targets 0 to 63 is not finite .loss nan"),
    ],
)
def test_what_diverges_is_said_with_its_remedy(epochs: int, words: str) -> None:
    """One step at a huge rate breaks the weights; the next step shows it, or the next score."""
    with refused(f"{words}.*; lower adapt.lr"):
        carried_out(small_recipe(adapt={**CHUNKS, "lr": 1e30, "epochs": epochs, "batch_seqs": 9}), TOKENS)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_agree_with_one_but_for_the_order_of_a_sum(tmp_path: Path, ranks: int) -> None:
    """Three sequences a step, and one in an epoch's last: with two or three ranks some have none to give."""
    assert_ranks_agree(ranks, RECIPE, TOKENS, tmp_path, atol=1e-4, rtol=1e-5)
