"""Scores: each target once, promised context, plain evaluation as the reference, scoring from the file alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import small_recipe

from pgolf_core.base.files import UserError
from pgolf_core.network.model import build_model
from pgolf_core.network.score import bits_per_byte, plan_windows, score
from pgolf_core.packing.pack import pack
from pgolf_core.packing.unpack import load_model, score_artifact
from pgolf_core.text.tokenizer import TokenBytes


@given(st.integers(0, 700), st.integers(1, 130), st.data())
def test_every_target_is_scored_once_with_the_longest_context_its_window_allows(n, seq_len, data) -> None:
    stride = data.draw(st.integers(1, seq_len))
    windows = plan_windows(n, seq_len, stride)
    scored = [target for _, first, end in windows for target in range(first, end)]
    assert scored == list(range(n))
    for index, (start, first, end) in enumerate(windows):
        assert start == index * stride and end == min(start + seq_len, n) and start <= first < end
        if index:
            assert first - start >= seq_len - stride
    assert len(windows) == 0 or windows[-1][2] == n


def test_a_stride_of_the_window_is_chunked_evaluation_with_its_tail() -> None:
    assert plan_windows(10, 4, 4).tolist() == [[0, 0, 4], [4, 4, 8], [8, 8, 10]]
    assert plan_windows(3, 8, 2).tolist() == [[0, 0, 3]]
    assert plan_windows(9, 4, 2).tolist() == [[0, 0, 4], [2, 4, 6], [4, 6, 8], [6, 8, 9]]


@pytest.fixture(scope="module")
def setting():
    model = build_model(small_recipe().model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    tokens = np.random.default_rng(0).integers(0, 64, 203).astype(np.uint16)
    table = TokenBytes(np.arange(64, dtype=np.int16) % 5, np.arange(64) % 3 == 0, np.arange(64) % 7 == 0)
    return model, tokens, table


@torch.no_grad()
def plain_nats(model, tokens: np.ndarray, seq_len: int, stride: int) -> list[float]:
    """One window after another, all logits, the scored ones picked out afterwards."""
    model.eval()
    stream = torch.from_numpy(tokens.astype(np.int64))
    nats, start, reached = [], 0, 0
    while reached < len(tokens) - 1:
        end = min(start + seq_len, len(tokens) - 1)
        log_probs = model.logits(stream[None, start:end])[0].double().log_softmax(-1)
        nats += [-float(log_probs[i - start, stream[i + 1]]) for i in range(reached, end)]
        start, reached = start + stride, end
    return nats


@pytest.mark.parametrize(("seq_len", "stride"), [(16, 4), (16, 16), (32, 5), (250, 250), (250, 3)])
def test_scores_equal_the_plain_way(setting, seq_len: int, stride: int) -> None:
    model, tokens, table = setting
    found = score(model, tokens, table, seq_len, stride, 3, autocast="off")
    expected = plain_nats(model, tokens, seq_len, stride)
    np.testing.assert_allclose(found.per_token_nats, expected, atol=2e-5)
    num_bytes = sum(
        int(table.base[t]) + (table.leading_space[t] and not table.boundary[p]) for p, t in itertools.pairwise(tokens)
    )
    assert found.bytes == num_bytes and found.tokens == 202
    assert abs(found.bpb - sum(expected) / (math.log(2) * num_bytes)) < 1e-5


def test_batching_does_not_change_scores_and_the_mode_is_restored(setting) -> None:
    model, tokens, table = setting
    model.train()
    one, many = (score(model, tokens, table, 16, 4, size, autocast="off") for size in (1, 50))
    assert model.training and abs(one.bpb - many.bpb) < 1e-6
    part = score(model, tokens, table, 16, 4, 8, autocast="off", max_targets=40)
    np.testing.assert_allclose(part.per_token_nats, one.per_token_nats[:40], atol=2e-5)


def test_a_uniform_model_scores_the_logarithm_of_its_vocabulary(setting) -> None:
    _, tokens, table = setting
    model = build_model(small_recipe(model={"embed_init_std": 0.0}).model, 0)
    assert abs(score(model, tokens, table, 16, 8, 4, autocast="off").loss_nats_per_token - math.log(64)) < 1e-6


def test_streams_too_short_or_without_bytes_are_refused(setting) -> None:
    model, tokens, _ = setting
    silent = TokenBytes(np.zeros(64, np.int16), np.zeros(64, bool), np.zeros(64, bool))
    with pytest.raises(UserError, match="at least 2"):
        score(model, tokens[:1], silent, 16, 4, 4)
    with pytest.raises(UserError, match="no bytes"):
        score(model, tokens, silent, 16, 4, 4, autocast="off")
    with pytest.raises(UserError):
        bits_per_byte(1.0, 0)


def packed(model, path: Path) -> None:
    settings = small_recipe()
    pack(model.state_dict(), settings.model, settings.quant, path, code_bytes=0, cap_bytes=1_000_000)


def test_an_artifact_is_scored_from_its_file_alone(setting, tmp_path: Path) -> None:
    model, tokens, table = setting
    path = tmp_path / "model.pgolf"
    pack(model, path)
    found = score_artifact(path, tokens, table, 16, 4, 8, autocast="off")
    reread = load_model(path)
    np.testing.assert_allclose(found.per_token_nats, plain_nats(reread, tokens, 16, 4), atol=2e-5)
    original = score(model, tokens, table, 16, 4, 8, autocast="off").bpb
    assert found.bpb != original and abs(found.bpb - original) < 0.2


def test_an_artifact_of_another_vocabulary_is_refused(setting, tmp_path: Path) -> None:
    model, tokens, _ = setting
    pack(model, tmp_path / "model.pgolf")
    other = TokenBytes(np.ones(65, np.int16), np.zeros(65, bool), np.zeros(65, bool))
    with pytest.raises(UserError, match="vocabulary of 64"):
        score_artifact(tmp_path / "model.pgolf", tokens, other, 16, 4, 8)


def test_damaged_weights_give_an_error_not_a_number(setting) -> None:
    _, tokens, table = setting
    model = build_model(small_recipe().model, 0)
    with torch.no_grad():
        model.skip_weights.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        score(model, tokens, table, 16, 4, 8, autocast="off")
