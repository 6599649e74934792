"""Full-size parity with the records, without files: counts, losses on weights from a hash, bigram rows."""

from __future__ import annotations

import pytest
import torch
from hashfill import fill, filled_model, tokens
from record_counts import COUNTS, RECORDS

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


@pytest.mark.parametrize("record", RECORDS)
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


@pytest.mark.parametrize(
    ("rows", "expected"), [(2048, [2047, 452, 169, 155, 1280]), (10240, [10239, 2696, 6113, 1834, 5206])]
)
def test_bigram_rows_are_the_published_ones(rows: int, expected: list[int]) -> None:
    index = BigramEmbedding(rows, 8, 16).index(torch.tensor([[5, 1000, 17, 17, 3]]))
    assert index.tolist() == [expected]
