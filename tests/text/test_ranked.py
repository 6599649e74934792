"""The loader of PR 1493: each rank's windows against a slow version, what depends on what, refusals."""

from pathlib import Path

import numpy as np
import pytest
from refused import refused

from pgolf_core.lab.data.build import write_shard
from pgolf_core.recipes.recipe import Data
from pgolf_core.text.ranked import RankedStream
from pgolf_core.text.shards import step_batch

SIZES = (70, 9, 41, 100, 8)  # the last is a token short of a window of 8 and its target
LENGTH = 8


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Shards whose every token is its place in the split."""
    ends = np.cumsum(SIZES)
    for number, (size, end) in enumerate(zip(SIZES, ends, strict=True)):
        write_shard(tmp_path / f"s_{number}.bin", np.arange(end - size, end, dtype=np.uint16))
    return sorted(tmp_path.glob("*.bin"))


def data_of(rows: int, ranks: int = 1) -> Data:
    return Data(order="ranked", seq_len=LENGTH, batch_tokens=rows * ranks * LENGTH, spans_per_step=ranks)


def slow_windows(rank: int, ranks: int, count: int) -> list[list[int]]:
    """The same by the description alone: the pools are lists of windows, and a draw spells out its cumulated shares."""
    generator, found = np.random.Generator(np.random.PCG64(rank)), []
    shards = np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1])[rank::ranks]
    pools: list[list[list[int]]] = [[] for _ in shards]
    while len(found) < count:
        if not any(pools):
            pools = []
            for shard in shards:
                most = min(LENGTH - 1, len(shard) - LENGTH - 1)
                at = generator.integers(0, most, endpoint=True) if most > 0 else 0
                windows = []
                while at + LENGTH + 1 <= len(shard):
                    windows.append(shard[at : at + LENGTH + 1].tolist())
                    at += LENGTH
                pools.append([windows[place] for place in generator.permutation(len(windows))])
        whole, drawn, chosen = sum(map(len, pools)), generator.random(), 0
        while drawn >= sum(map(len, pools[: chosen + 1])) / whole:
            chosen += 1
        found.append(pools[chosen].pop())
    return found


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_a_ranks_windows_are_those_of_the_description_over_several_passes(paths, rank: int, ranks: int) -> None:
    stream, data = RankedStream(paths), data_of(5, ranks)
    found = np.concatenate([stream.own_spans(data, rank, ranks, LENGTH) for _ in range(14)])
    assert found.tolist() == slow_windows(rank, ranks, 70) and stream.position == 70 * LENGTH
    mine = np.repeat(np.arange(len(SIZES)), SIZES)[found[:, 0]]
    assert set(mine % ranks) == {rank} and (np.diff(found.astype(int)) == 1).all()


def test_a_steps_batch_is_the_ranks_own_windows_which_depend_on_how_many_ranks_there_are(paths: list[Path]) -> None:
    inputs, targets = step_batch(RankedStream(paths), data_of(4, 2), 1, 2)
    assert inputs.tolist() == [window[:-1] for window in slow_windows(1, 2, 4)]
    assert targets.tolist() == [window[1:] for window in slow_windows(1, 2, 4)]
    first = step_batch(RankedStream(paths), data_of(4, 2), 0, 2)[0].tolist()
    alone = step_batch(RankedStream(paths), data_of(8), 0, 1)[0].tolist()
    assert sorted(alone) != sorted(first + inputs.tolist())


def test_a_rank_without_a_window_and_a_token_beyond_the_vocabulary_are_refused_in_one_line(paths: list[Path]) -> None:
    for rank, ranks in ((5, 6), (4, 5)):  # no shard, and a shard that is too short
        with refused(rf"process {rank} of {ranks} no window of 8 tokens[^\n]+$"):
            RankedStream(paths).own_spans(data_of(1, ranks), rank, ranks, LENGTH)
    with refused(r"holds token \d+ at position"):
        RankedStream(paths, vocab_size=60).own_spans(data_of(20), 0, 1, LENGTH)
