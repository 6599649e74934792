"""Full-size parity with the records, without files: counts, losses on weights from a hash, bigram rows."""

import itertools

import pytest
import torch
from hashfill import fill, filled_model, tokens
from record_counts import COUNTS

from pgolf_core.network.model import BigramEmbedding, num_parameters
from pgolf_core.recipes.reading import load_recipe

LOSSES = {
    ("pr194", 2, 64): 13.976405, ("pr194", 1, 2048): 14.073689,
    ("pr315", 2, 64): 14.142782, ("pr315", 1, 2048): 14.405670,
    ("pr332", 2, 64): 14.240121, ("pr332", 1, 2048): 14.588839,
    ("pr531", 2, 64): 11.996134, ("pr531", 1, 2048): 12.178537,
    ("pr534", 2, 64): 14.313680, ("pr534", 1, 2048): 14.653288,
    ("pr1493", 2, 64): 19.071707, ("pr1493", 1, 2048): 19.192532,
    ("pr1493, loop off", 2, 64): 19.082209, ("pr1493, loop off", 1, 2048): 19.212063,
}  # fmt: skip


def test_hash_fill_matches_its_spot_checks() -> None:
    embedding = fill((1024, 512), 0.2, 0)
    assert abs(embedding[0, 0].item() + 0.0123747391) < 1e-9
    assert abs(embedding[1, 7].item() - 0.0549275093) < 5e-9
    assert abs(fill((256, 512), 0.1, 4011)[5, 9].item() + 0.0372547470) < 1e-9
    assert abs(fill((8, 512), 2.0, 7)[7, 3].item() + 0.1023914739) < 1e-9
    assert tokens(2, 64)[:, :5].tolist() == [[229, 787, 182, 415, 535], [267, 587, 183, 231, 79]]
    assert tokens(2, 64, 8192)[:, :5].tolist() == [[4325, 6931, 4278, 3487, 7703], [3339, 1611, 1207, 1255, 5199]]


PACKED = {  # documents of a row cut at so many tokens: loss with the loop off, and on
    2048: (18.730839, 18.680527),
    32: (18.729912, 18.679876),
}


@pytest.mark.parametrize("record", COUNTS)
def test_parameter_count_is_the_published_one(record: str) -> None:
    assert num_parameters(load_recipe(record).model) == COUNTS[record]


@pytest.mark.parametrize(
    ("record", "batch", "length"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case[2] > 64)) for case in LOSSES],  # at their real length
)
def test_hash_filled_loss_is_the_published_codes(record: str, batch: int, length: int) -> None:
    name, _, how = record.partition(", ")
    config = load_recipe(name).model
    model, ids = filled_model(config), tokens(batch, length, config.vocab_size)
    model.looping = how != "loop off"
    with torch.no_grad():
        loss = model(ids[:, :-1], ids[:, 1:]).item()
    assert abs(loss - LOSSES[record, batch, length]) < 1e-5


def test_hash_filled_losses_of_packed_documents_are_the_published_codes() -> None:
    """PR 1855: one row of five documents, one of them a single token."""
    config = load_recipe("pr1855").model
    model, ids = filled_model(config), tokens(1, 96, config.vocab_size)
    ids[0, [10, 11, 40, 90]] = 1
    assert sum(p.numel() for p in model.parameters()) == COUNTS["pr1855"]
    corners = {False: (-0.89070, -0.03100), True: (-0.82610, -0.17767)}
    for cut, losses in PACKED.items():
        bounds = [0, 10, 11, 40, 90, 96]
        starts = [place for a, b in itertools.pairwise(bounds) for place in range(a, b, cut)]
        segments = torch.tensor([*starts, 96], dtype=torch.int32)
        for model.looping, expected in zip((False, True), losses, strict=True):
            with torch.no_grad():
                loss, logits = model(ids[:, :-1], ids[:, 1:], segments), model.logits(ids[:, :-1], 0, segments)[0]
            assert abs(loss.item() - expected) < 1e-5, (cut, model.looping)
            if cut == 2048:
                assert (logits[0, 5].item(), logits[95, 100].item()) == pytest.approx(corners[model.looping], abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "expected"), [(2048, [2047, 452, 169, 155, 1280]), (10240, [10239, 2696, 6113, 1834, 5206])]
)
def test_bigram_rows_are_the_published_ones(rows: int, expected: list[int]) -> None:
    index = BigramEmbedding(rows, 8, 16).index(torch.tensor([[5, 1000, 17, 17, 3]]))
    assert index.tolist() == [expected]
