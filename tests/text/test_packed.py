"""The loader of PR 1855: rows against a slow version, refusals; where attention begins anew."""

from pathlib import Path

import numpy as np
import pytest
import torch
from refused import refused

from pgolf_core.lab.data.build import write_shard
from pgolf_core.recipes.recipe import Data
from pgolf_core.text.packed import PackedStream, document_starts
from pgolf_core.text.shards import step_batch
from pgolf_core.text.tokenizer import BOS

ROW = 6
SHARDS = {  # tokens in all, and where documents start
    "whole": (40, (0, 9, 10, 30)), "without its head": (33, (5, 20)), "too short": (6, (0,)), "one long": (29, ()),
    "empty": (0, ()), "to its last token": (2 * (ROW + 1), (0, 3)),
}  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Shards whose every token but BOS is its place in the split, from 100 on."""
    place = 100
    for number, (tokens, starts) in enumerate(SHARDS.values()):
        shard = np.arange(place, place + tokens, dtype=np.uint16)
        shard[list(starts)] = BOS
        write_shard(tmp_path / f"s_{number}.bin", shard)
        place += tokens
    return sorted(tmp_path.glob("*.bin"))


def data_of(spans: int) -> Data:
    return Data(order="packed", seq_len=3, batch_tokens=spans * ROW, spans_per_step=spans)


def slow_groups(paths: list[Path], ranks: int, count: int) -> list[list[list[int]]]:
    """By the description alone: every group of w rows, out of lists that are emptied from the front."""
    groups: list[list[list[int]]] = []
    while len(groups) < count:
        for path in paths:
            left = np.fromfile(path, "<u2")[512:].tolist()
            left = left[left.index(BOS) :] if BOS in left else []
            while len(left) >= ranks * (ROW + 1):
                group, left = left[: ranks * (ROW + 1)], left[ranks * (ROW + 1) :]
                groups.append([group[r * (ROW + 1) : (r + 1) * (ROW + 1)] for r in range(ranks)])
    return groups[:count]


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 2), (1, 2)])
def test_a_ranks_rows_are_those_of_the_description_over_several_passes(paths, rank: int, ranks: int) -> None:
    stream, spans = PackedStream(paths), 4
    found = np.concatenate([stream.own_spans(data_of(spans), rank, ranks, ROW) for _ in range(12)])
    assert found.tolist() == [group[rank] for group in slow_groups(paths, ranks, len(found))]
    assert stream.position > 2 * stream.total_tokens, "dropped ones count"


def test_a_step_is_the_ranks_own_rows_and_their_targets(paths: list[Path]) -> None:
    inputs, targets = step_batch(PackedStream(paths), data_of(2), 1, 2)
    assert inputs.shape == (1, ROW) and torch.equal(inputs[:, 1:], targets[:, :-1])
    assert [inputs[0].tolist() + targets[0, -1:].tolist()] == [slow_groups(paths, 2, 1)[0][1]]


def test_shards_without_room_for_a_row_of_every_rank_and_foreign_tokens_are_refused_in_one_line(paths) -> None:
    with refused(r"takes 42 tokens at a time, and no training shard has as many[^\n]+$"):
        PackedStream(paths).own_spans(data_of(6), 0, 6, ROW)
    with refused(r"no training shard .* document's start \(token 1\)"):
        PackedStream(paths[3:4]).own_spans(data_of(1), 0, 1, ROW)
    with refused(r"holds token 1\d\d at position"):
        PackedStream(paths, vocab_size=120).own_spans(data_of(4), 0, 1, ROW)


@pytest.mark.parametrize(("rows", "width", "longest", "multiple"), [(1, 50, 7, 1), (3, 11, 4, 8), (2, 9, 100, 64)])
def test_attention_begins_at_rows_documents_and_every_so_many_tokens(rows, width, longest, multiple) -> None:
    generator = torch.Generator().manual_seed(rows)
    inputs = torch.randint(0, 9, (rows, width), generator=generator)
    inputs[0, :2] = BOS  # a document of one token, and one at the row's start
    expected, since = [], 0
    for place, token in enumerate(inputs.flatten().tolist()):
        if token == BOS or place % width == 0 or since == longest:
            expected.append(place)
            since = 0
        since += 1
    found, kept = document_starts(inputs, longest, multiple), inputs.clone()
    assert found.dtype == torch.int32 and len(found) % multiple == 0 and len(found) - len(expected) <= multiple
    assert found.tolist() == expected + [rows * width] * (len(found) - len(expected)) and len(found) > len(expected)
    assert torch.equal(inputs, kept)
