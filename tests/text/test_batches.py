"""Which stream a recipe's order opens, that it goes on anywhere, and how a step falls into micro-batches."""

from pathlib import Path

import pytest
import torch
from small import small_data

from pgolf_core.recipes.recipe import Data
from pgolf_core.recipes.rules import CHOICES
from pgolf_core.text.batches import micro_batches, open_stream
from pgolf_core.text.packed import PackedStream, document_starts
from pgolf_core.text.ranked import RankedStream
from pgolf_core.text.shards import TokenStream, step_batch

KINDS = {"sequential": TokenStream, "shuffled": TokenStream, "ranked": RankedStream, "packed": PackedStream}


@pytest.mark.parametrize("order", CHOICES["data.order"])
def test_every_order_has_its_stream_whose_step_falls_into_micro_batches(tmp_path: Path, order: str) -> None:
    data = small_data(tmp_path / "data")
    how = Data(order=order, seq_len=16, batch_tokens=192, spans_per_step=4, micro_batch_seqs=6)
    stream = open_stream(how, data.train_paths, data.vocab_size, seed=3)
    assert type(stream) is KINDS[order] and stream.seed == 3 and stream.vocab_size == data.vocab_size
    inputs, targets = step_batch(stream, how)
    assert inputs.shape == ((4, 48) if order == "packed" else (12, 16))
    parts = list(micro_batches(inputs, targets, how))
    assert [part[0].numel() for part in parts] == [96, 96]
    for column, whole in enumerate((inputs, targets)):
        assert torch.equal(torch.cat([part[column] for part in parts]), whole)
    if order == "packed":
        assert all(torch.equal(part[2], document_starts(part[0], 16)) for part in parts)
    assert {len(part) for part in parts} == {3 if order == "packed" else 2}


@pytest.mark.parametrize("order", CHOICES["data.order"])
def test_a_stream_goes_on_where_another_stopped_forwards_and_back_and_some_know_no_seed(tmp_path: Path, order: str):
    data = small_data(tmp_path / "data")
    how = Data(order=order, seq_len=16, batch_tokens=192, spans_per_step=4)
    whole, places, steps = open_stream(how, data.train_paths, data.vocab_size, seed=1), [], []
    for _ in range(20):  # over several passes
        places.append(whole.position)
        steps.append(step_batch(whole, how, 1, 2))
    other = open_stream(how, data.train_paths, data.vocab_size, seed=1 if order == "shuffled" else 2)
    for at in (9, 19, 2, 0):
        for stream in (whole, other):
            stream.position = places[at]
            assert all(map(torch.equal, step_batch(stream, how, 1, 2), steps[at]))
