"""Adapters of documents: what they add, what stays apart, and ranks. The record's own numbers: tests/whole."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import LORA, assert_ranks_agree, carried_out
from refused import refused
from small import noisy_model, small_recipe

from pgolf_core.adapting import lora
from pgolf_core.adapting.documents import DocumentScore, DocumentUpdate, PhaseUpdate, documents_in, plan_documents
from pgolf_core.adapting.lora import Adapters, DocumentLoRA, adapter_shapes, drawn_factors
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.lab.look.n06_scoring import plain_nats
from pgolf_core.recipes.reading import load_recipe

RECIPE = small_recipe(adapt=LORA)
DRAW = np.random.default_rng(3)
TOKENS = DRAW.integers(2, 64, 301).astype(np.uint16)
TOKENS[[0, *DRAW.choice(np.arange(1, 301), 14, replace=False)]] = 1


def test_sizes_of_pr_1855_and_2135() -> None:
    """Numbers of a document's adapters, with k and without."""
    adapt = load_recipe("pr315").adapt
    shapes = adapter_shapes(load_recipe("pr1855").model, adapt.lora_targets)
    assert sum(count * adapt.lora_rank * (a + b) for count, a, b in shapes.values()) == 6_963_200
    shapes.pop("k")
    assert sum(count * adapt.lora_rank * (a + b) for count, a, b in shapes.values()) == 5_918_720


def test_a_first_chunk_is_scored_as_the_weights_alone_score_that_document() -> None:
    _, losses, *_ = carried_out(small_recipe(adapt={**LORA, "phases": 0}), TOKENS)
    _, moved, *_ = carried_out(RECIPE, TOKENS)
    frozen, apart = noisy_model().eval(), []
    for first, end in documents_in(TOKENS).tolist():
        own = plain_nats(frozen, TOKENS[first : end + 1], 16, 16)
        np.testing.assert_allclose(losses[first : min(first + 5, end)].numpy(), own[:5], atol=1e-5)
        apart += [np.abs(losses[first + 5 : end].numpy() - own[5:])] if end > first + 5 else []
    assert np.concatenate(apart).max() > 0.01 and (losses - moved).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["q", "k", "v", "lm_head"])
def test_an_adapter_is_a_low_rank_change_of_the_weight_it_stands_beside(kind: str) -> None:
    """Of the last document: its adapters put into the weights score it alike. No block runs twice here."""
    recipe = small_recipe(adapt={**LORA, "lora_targets": [kind], "phases": 0, "lora_alpha": 6.0})
    events = plan_documents(TOKENS, recipe.eval, recipe.adapt)
    last = max(number for number, event in enumerate(events) if isinstance(event, DocumentUpdate))
    learner, losses, *_ = carried_out(recipe, TOKENS, until=last + 2)
    after, merged = events[last + 1], noisy_model().eval()
    assert isinstance(after, DocumentScore) and after.chunk > 0
    change = [2.0 * up[int(after.rows[-1])] @ down[int(after.rows[-1])]
              for down, up in zip(learner.current.down[kind], learner.current.up[kind], strict=True)]  # fmt: skip
    with torch.no_grad():
        weights = [merged.tok_emb.weight] if kind == "lm_head" else [
            getattr(block.attn, f"c_{kind}").weight for block in merged.blocks
        ]  # fmt: skip
        if kind == "lm_head":  # the table's rows are read at the input, too
            merged.embed = noisy_model().eval().embed
        for weight, add in zip(weights, change, strict=True):
            assert add.abs().max() > 1e-3
            weight += add
    start, first, end = after.windows[-1].tolist()
    own = plain_nats(merged, TOKENS[start : end + 1], 99, 99)[first - start :]
    np.testing.assert_allclose(losses[first:end].numpy(), own, atol=2e-5)


def test_first_factors_are_taken_over_and_everything_else_begins_anew() -> None:
    learner, recipe = DocumentLoRA(noisy_model().eval(), RECIPE), RECIPE
    stream, losses, seen = torch.from_numpy(TOKENS.astype(np.int64)), torch.zeros(300), []
    before = None
    for event in plan_documents(TOKENS, recipe.eval, recipe.adapt):
        if isinstance(event, DocumentScore):
            learner.score(event, stream, losses)
            if event.anew:
                assert all((up == 0).all() for up in learner.current.up.values())
                assert not learner.current.optimizer.state
                seen.append(before is not None and torch.equal(before, learner.current.down["q"]))
        else:
            learner.update(event, stream)
        before = None if isinstance(event, PhaseUpdate) else learner.current.down["q"].detach().clone()
    assert seen == [False, False, False, False] and int(learner.drawn) == 4  # small group, phase, phase
    no_phase, *_ = carried_out(small_recipe(adapt={**LORA, "phases": 0}), TOKENS)
    assert int(no_phase.drawn) == 2, "the lasting ones, and those of the group that is not full"


def test_sums_see_every_bit_and_place_and_do_not_depend_on_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = adapter_shapes(RECIPE.model, ("q", "lm_head"))
    down, again = drawn_factors(shapes, 3, 4, 7), drawn_factors(shapes, 3, 4, 7)
    assert all(torch.equal(factor, again[kind]) for kind, factor in down.items())
    assert all(0.9 < factor.abs().max() * math.sqrt(32) <= 1 for factor in down.values())

    def sums(factors: dict[str, torch.Tensor], world: World = ALONE) -> torch.Tensor:
        return Adapters(factors, shapes, RECIPE).sums(4, world)

    nearly, exchanged = down["q"].clone(), down["q"][:, [1, 0, 2, 3]].clone()
    nearly[0, 1, 2, 5] = float(np.nextafter(np.float32(nearly[0, 1, 2, 5]), np.float32(1)))
    for other in (nearly, exchanged):
        assert (sums({**down, "q": other}) != sums(down)).tolist() == [True, False, False, False]
    monkeypatch.setattr(lora.dist, "all_reduce", lambda total: None)
    parts = [sums({kind: a[:, rank::3] for kind, a in down.items()}, World(rank, 3)) for rank in range(3)]
    assert torch.equal(sum(parts), sums(down)) and sums(down).dtype is torch.int64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_lr": 1e30}, "a score of targets .* is not finite; lower adapt.lora_lr"),
        ({"lr": 1e30, "chunk_tokens": 16}, "the gradient on targets .* is not finite .loss nan.*; lower adapt.lr"),
    ],
)
def test_what_diverges_is_said_with_its_remedy(changes: dict, words: str) -> None:
    with refused(words):
        carried_out(small_recipe(adapt={**LORA, **changes}), TOKENS)


def test_ranks_agree_with_one_but_for_rounding(tmp_path: Path) -> None:
    """Groups of three and four documents over three ranks, some of which have none to learn from."""
    assert_ranks_agree(3, RECIPE, TOKENS, tmp_path, atol=2e-4, rtol=1e-4)
