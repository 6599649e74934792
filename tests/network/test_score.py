"""Scores: each target once, promised context, and plain evaluation as the reference."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from refused import refused
from small import noisy_model, small_recipe

from pgolf_core.base.files import UserError
from pgolf_core.lab.look.n06_scoring import plain_nats
from pgolf_core.network.model import build_model
from pgolf_core.network.score import bits_per_byte, plan_windows, score
from pgolf_core.text.tokenizer import TokenBytes


@example(10, 4, 4, [[0, 0, 4], [4, 4, 8], [8, 8, 10]])  # a stride of the window: chunks and their tail
@example(3, 8, 2, [[0, 0, 3]])
@example(9, 4, 2, [[0, 0, 4], [2, 4, 6], [4, 6, 8], [6, 8, 9]])
@given(st.integers(0, 700), st.integers(1, 130), st.integers(1, 130), st.none())
def test_every_target_is_scored_once_with_the_longest_context_its_window_allows(n, seq_len, stride, expected) -> None:
    stride = min(stride, seq_len)
    windows = plan_windows(n, seq_len, stride)
    assert expected is None or windows.tolist() == expected
    assert [target for _, first, end in windows for target in range(first, end)] == list(range(n))
    for index, (start, first, end) in enumerate(windows):
        assert start == index * stride and end == min(start + seq_len, n) and start <= first < end
        assert index == 0 or first - start >= seq_len - stride


@pytest.fixture(scope="module")
def setting():
    tokens = np.random.default_rng(0).integers(0, 64, 203).astype(np.uint16)
    table = TokenBytes(np.arange(64, dtype=np.int16) % 5, np.arange(64) % 3 == 0, np.arange(64) % 7 == 0)
    return noisy_model(), tokens, table


@pytest.mark.parametrize(("seq_len", "stride"), [(16, 4), (16, 16), (32, 5), (250, 250), (250, 3)])
def test_scores_equal_the_plain_way(setting, seq_len: int, stride: int) -> None:
    model, tokens, table = setting
    found = score(model, tokens, table, seq_len, stride, 3, autocast="off")
    expected = plain_nats(model, tokens, seq_len, stride)
    np.testing.assert_allclose(found.per_token_nats, expected, atol=2e-5)
    by_window = [sum(expected[first:end]) for _, first, end in plan_windows(202, seq_len, stride)]
    np.testing.assert_allclose(found.window_nats, by_window, rtol=1e-5)
    assert found.window_nats.sum() == pytest.approx(found.nats, rel=1e-12)
    num_bytes = sum(
        int(table.base[t]) + (table.leading_space[t] and not table.boundary[p]) for p, t in itertools.pairwise(tokens)
    )
    assert found.bytes == num_bytes and found.tokens == 202
    assert abs(found.bpb - sum(expected) / (math.log(2) * num_bytes)) < 1e-5


@pytest.mark.parametrize(("seq_len", "stride"), [(16, 4), (32, 32), (250, 3)])
def test_under_the_document_mask_a_target_has_what_its_window_has_of_its_own_document(setting, seq_len, stride) -> None:
    """Against each document's part of each window as a row of its own; a mask without documents changes nothing."""
    _, tokens, table = setting
    model = noisy_model(smear="window", bigram_rows=0, smear_bos_mask=True)
    tokens = np.where(tokens == 1, 2, tokens).astype(np.uint16)
    whole = score(model, tokens, table, seq_len, stride, 3, autocast="off")
    same = score(model, tokens, table, seq_len, stride, 3, autocast="off", document_mask=True)
    np.testing.assert_allclose(same.per_token_nats, whole.per_token_nats, atol=2e-5)
    tokens[[0, 20, 21, 90, 180]] = 1
    found = score(model, tokens, table, seq_len, stride, 3, autocast="off", document_mask=True).per_token_nats
    stream = torch.from_numpy(tokens.astype(np.int64))
    for start, first, end in plan_windows(len(tokens) - 1, seq_len, stride):
        for target in range(first, end):
            begins = max(start, *(place if place <= target else 0 for place in (0, 20, 21, 90, 180)))
            with torch.no_grad():
                alone = model.logits(stream[None, begins : target + 1])[0, -1].log_softmax(-1)
            assert abs(found[target] + alone[stream[target + 1]].item()) < 2e-5, target


def test_batching_does_not_change_scores_and_the_mode_is_restored(setting) -> None:
    model, tokens, table = setting
    model.train()
    one, many = (score(model, tokens, table, 16, 4, size, autocast="off") for size in (1, 50))
    assert model.training and abs(one.bpb - many.bpb) < 1e-6
    part = score(model, tokens, table, 16, 4, 8, autocast="off", max_targets=40)
    np.testing.assert_allclose(part.per_token_nats, one.per_token_nats[:40], atol=2e-5)


def test_threads_share_the_batches_out_report_in_order_and_can_be_stopped(setting) -> None:
    model, tokens, table = setting
    before, scores, reports = torch.get_num_threads(), [], []

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            progress = lambda done, of: reports.append(done)  # noqa: E731
            scores.append(score(model, tokens, table, 16, 4, 8, autocast="off", progress=progress))
            assert torch.get_num_threads() == threads
        with pytest.raises(KeyboardInterrupt):
            score(model, tokens, table, 16, 4, 8, autocast="off", progress=stop)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(scores[0].per_token_nats, scores[1].per_token_nats, atol=2e-5)
    assert reports[-1] == 202 and reports.count(202) == 2


def test_streams_too_short_or_without_bytes_and_damaged_weights_are_refused(setting) -> None:
    model, tokens, table = setting
    silent = TokenBytes(np.zeros(64, np.int16), np.zeros(64, bool), np.zeros(64, bool))
    damaged = build_model(small_recipe().model, 0)
    damaged.skip_weights.data.fill_(math.nan)
    for scored, words in (((model, tokens[:1], table), "at least 2"), ((model, tokens, silent), "no bytes"),
                         ((damaged, tokens, table), "not finite")):  # fmt: skip
        with refused(words):
            score(*scored, 16, 4, 4, autocast="off")
    with pytest.raises(UserError):
        bits_per_byte(1.0, 0)
