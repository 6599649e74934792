"""What notebooks 06 and 07 compute, against slow loops, hand-worked cases and the score itself."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from pgolf_core.adapting.mixture import Mixed
from pgolf_core.adapting.trace import Adapted
from pgolf_core.lab.look import n06_scoring as analysis
from pgolf_core.lab.look.n02_network import woken
from pgolf_core.network.documents import own_documents
from pgolf_core.network.model import GPT, build_model
from pgolf_core.network.score import plan_windows, score
from pgolf_core.recipes import recipe
from pgolf_core.text.tokenizer import BOS, TokenBytes

TINY = recipe.Model(
    vocab_size=31, num_layers=2, model_dim=16, num_heads=2, num_kv_heads=1, mlp_hidden=24, rope_dims=4, bigram_rows=9,
    bigram_dim=4, xsa_last_n=1, embed_init_std=1.0,
)  # fmt: skip
PLANS = [(24, 10, 4), (24, 8, 8), (23, 8, 8), (5, 8, 2), (8, 8, 3), (1, 4, 1), (40, 7, 1)]
TABLE = TokenBytes(np.arange(31, dtype=np.int16) % 5, np.zeros(31, bool), np.zeros(31, bool))


@pytest.fixture(scope="module")
def model() -> GPT:
    """A network whose blocks all do something."""
    return woken(build_model(TINY, seed=0)).eval()


def stream(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 31, length).astype(np.uint16)


@pytest.mark.parametrize("plan", PLANS)
def test_every_target_is_scored_once_inside_its_window_with_the_context_of_its_place(
    plan: tuple[int, int, int],
) -> None:
    targets, windows, picture = plan[0], plan_windows(*plan), analysis.window_map(*plan)
    assert ((picture == 1).sum(axis=0) == 1).all() and ((~np.isnan(picture)).sum(axis=1) <= plan[1]).all()
    assert (analysis.times_scored(windows, targets) == 1).all()
    expected = [target - start + 1 for start, first, end in windows.tolist() for target in range(first, end)]
    assert analysis.context_lengths(windows, targets).tolist() == expected


def test_times_scored_sees_what_is_skipped_and_what_is_scored_twice() -> None:
    windows = np.array([[0, 0, 4], [2, 3, 6], [4, 7, 8]])
    assert analysis.times_scored(windows, 8).tolist() == [1, 1, 1, 2, 1, 1, 0, 1]


def test_bpb_by_context_gathers_every_target_into_doubling_bins() -> None:
    nats, sizes = np.linspace(1, 2, 20, dtype=np.float32), np.full(20, 3)
    table = analysis.bpb_by_context(nats, sizes, np.arange(1, 21))
    assert table["first"].tolist() == [1, 2, 3, 5, 9, 17] and table["last"].tolist() == [1, 2, 4, 8, 16, 20]
    assert table["targets"].sum() == 20 and table["share"].sum() == pytest.approx(1)
    assert table["bpb"].iloc[2] == pytest.approx(nats[2:4].sum() / (math.log(2) * 6), rel=1e-6)
    assert np.isnan(analysis.bpb_by_context(np.ones(1), np.zeros(1, int), np.ones(1, int))["bpb"].item()), "no bytes"


@pytest.mark.parametrize("pieces", [[[0, 24], [24, 40]], [[30, 40], [0, 18], [18, 30]]])
def test_a_chunks_scores_and_the_gain_up_to_its_end_are_sums_over_its_targets(model: GPT, pieces: list) -> None:
    """Chunks of the text, and documents in another order than the text's."""
    frozen = score(model, stream(41), TABLE, 8, 8, 4, autocast="off")
    factors = np.ones(40, np.float32)
    factors[slice(*pieces[0])] = 0.9
    lower = dataclasses.replace(frozen, per_token_nats=frozen.per_token_nats * factors)
    sizes = TABLE.count(stream(41)[:-1], stream(41)[1:])
    table = analysis.by_chunk(frozen, Adapted(lower, "", {}, 0.0, [], np.array(pieces)), sizes)
    assert table[["first", "end"]].to_numpy().tolist() == pieces and table["done"].iloc[-1] == 40
    for number, found in enumerate(table.itertuples()):
        first, end = pieces[number]
        expected = frozen.per_token_nats[first:end].sum() / (math.log(2) * sizes[first:end].sum())
        assert found.frozen == pytest.approx(expected, rel=1e-6)
        assert found.gain == pytest.approx(-0.1 * expected if number == 0 else 0, rel=1e-5, abs=1e-9)
    gained = 0.1 * frozen.per_token_nats[slice(*pieces[0])].sum() / (math.log(2) * frozen.bytes)
    assert table["so_far"].iloc[-1] == pytest.approx(-gained, rel=1e-5)
    learned = Adapted(lower, "", {}, 0.0, [], np.array(pieces))
    pd.testing.assert_frame_equal(analysis.by_chunk(frozen, Mixed(lower, "", {}, 0.0, 1.0, learned), sizes), table)
    alone = analysis.by_chunk(frozen, Mixed(lower, "", {}, 0.0, 1.0, None), sizes)
    assert len(alone) == 32 and alone["end"].tolist()[:-1] == alone["first"].tolist()[1:]
    assert (alone["first"].iloc[0], alone["end"].iloc[-1]) == (0, 40)
    assert alone["so_far"].iloc[-1] == pytest.approx(-gained, rel=1e-5)
    sizes[:3] = 0  # two stretches of no bytes: no score, rather than an infinite one
    alone = analysis.by_chunk(frozen, Mixed(lower, "", {}, 0.0, 1.0, None), sizes)
    assert alone.loc[:1, ["frozen", "adapted", "gain", "so_far"]].isna().all(axis=None)
    assert not np.isinf(alone.to_numpy()).any()


def test_documents_share_the_score_without_rest_and_a_bos_belongs_to_what_it_opens() -> None:
    documents = pd.DataFrame({"name": ["a", "b", "c"]}, index=[4, 9, 2])
    nats, sizes = np.arange(1.0, 8.0, dtype=np.float32), np.array([2, 3, 0, 4, 0, 5, 6])
    table = analysis.score_by_document(documents, np.array([1, 5, 6, 1, 7, 1, 8, 9]), nats, sizes, bos_id=1)
    assert table["name"].tolist() == ["a", "b", "c"]
    assert table["nats"].tolist() == [1 + 2, 3 + 4, 5 + 6 + 7] and table["bytes"].tolist() == [5, 4, 11]
    assert (table["bpb"] * math.log(2)).tolist() == pytest.approx([3 / 5, 7 / 4, 18 / 11])


def test_no_logit_sees_later_tokens_and_a_model_that_looks_ahead_is_caught(model: GPT) -> None:
    ids = torch.from_numpy(stream(24).astype(np.int64))[None]
    assert analysis.probability_error(model, ids) < 1e-5
    before, after = analysis.leak_from_the_future(model, ids, position=9)
    assert before == 0 and after > 1e-3

    class Peeping(torch.nn.Module):
        config = TINY

        def logits(self, ids: torch.Tensor, first: int = 0) -> torch.Tensor:
            return model.logits(ids.roll(-1, dims=1), first)

    assert analysis.leak_from_the_future(Peeping(), ids, position=9)[0] > 1e-3


@pytest.mark.parametrize("plan", [(24, 10, 4), (32, 8, 2), (23, 8, 8), (5, 8, 2), (37, 8, 3)])
@pytest.mark.parametrize("is_masked", [False, True])
def test_the_published_sliding_score_counts_its_tail_again_and_nothing_else(
    model: GPT, plan: tuple[int, int, int], is_masked: bool
) -> None:
    targets, seq_len, stride = plan
    tokens = stream(targets + 1)
    tokens[-3] = BOS
    ids, (nats, size, counted) = torch.from_numpy(tokens.astype(np.int64))[None], (0.0, 0, 0)
    for start in range(0, targets, stride):  # the published loop, window by window
        end = min(start + seq_len, targets)
        first = start and max(end - stride, start)
        documents = own_documents(ids[:, start:end]) if is_masked else None
        losses = model.token_losses(ids[:, start:end], ids[:, start + 1 : end + 1], 0, documents)[0]
        nats += float(losses[first - start :].detach().double().sum())
        counted += end - first
        size += int(TABLE.count(tokens[first:end], tokens[first + 1 : end + 1]).sum())
    sliding = score(model, tokens, TABLE, seq_len, stride, 4, autocast="off", document_mask=is_masked)
    bpb, found = analysis.tail_scored_again(model, tokens, TABLE, sliding, "off", is_masked)
    assert found == counted >= targets
    assert bpb == pytest.approx(nats / (math.log(2) * size), rel=1e-5)


def test_the_published_standard_score_leaves_out_what_fills_no_window() -> None:
    nats, sizes = np.arange(10, dtype=np.float32), np.full(10, 2)
    assert analysis.tail_dropped(nats, sizes, 4) == (pytest.approx(nats[:8].sum() / (16 * math.log(2))), 8)
    assert analysis.tail_dropped(nats, sizes, 5)[1] == 10
    assert analysis.tail_dropped(nats, sizes, 11) == (pytest.approx(math.nan, nan_ok=True), 0)


def test_an_opening_is_whole_words_within_its_bytes() -> None:
    assert analysis.opening_of("Fellow citizens of the Senate", 18) == "Fellow citizens"
    assert analysis.opening_of("Fellow\ncitizens", 9) == "Fellow"
    assert analysis.opening_of("short", 200) == "short"
    assert analysis.opening_of("ééééé", 5) == "éé"  # no word ends there, and no character is cut


def test_half_widths_follow_student_s_t() -> None:
    table = analysis.half_widths(0.01, (2, 3))
    assert table["t"].tolist() == pytest.approx([12.7062, 4.3027], abs=1e-4)
    assert table["half_width"].tolist() == pytest.approx([12.7062 * 0.01 / 2**0.5, 4.3027 * 0.01 / 3**0.5], abs=1e-6)


def test_reference_points_are_the_bpb_entries_of_data_json_highest_first() -> None:
    data = {"bigram_bpb": 2.4, "uniform_bpb": 3.6, "val_bytes": 7, "compressed_bpb": {"xz -9e": 2.3}}
    assert list(analysis.reference_points(data).items()) == [("uniform", 3.6), ("bigram", 2.4), ("xz -9e", 2.3)]
    assert analysis.reference_points({"val_bytes": 7}) == {}
