"""When a score becomes a sample, and that a sample's interval holds the truth."""

import io
import itertools
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from refused import refused
from small import flat_bytes, noisy_model

from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.verify.evidence import measure
from pgolf_core.lab.verify.evidence.checks import Broken
from pgolf_core.lab.verify.evidence.measure import arrays_of, causality, probabilities, score_or_sample
from pgolf_core.lab.verify.evidence.score import NOISE_ERRORS, NOISE_TIMES
from pgolf_core.lab.verify.evidence.text import Way
from pgolf_core.network.score import plan_windows, score
from pgolf_core.packing.unpack import load_model
from pgolf_core.text.shards import load_tokens

WAY = Way(32, 8, 4, "off")


@pytest.fixture
def parts(honest: Path, dataset: Dataset):
    """model, tokens and token bytes, as the process loads them."""
    tokenizer = dataset.tokenizer()
    tokens = load_tokens(dataset.val_paths, tokenizer.vocab_size)
    return load_model(honest / "seed1" / "model.pgolf"), tokens, tokenizer.bytes


def test_windows_that_stay_inside_documents_are_measured_as_they_were_scored():
    model = noisy_model(bigram_rows=0, smear="window").eval()
    tokens = np.random.default_rng(0).integers(2, 64, 203).astype(np.uint16)
    tokens[[0, 40, 41, 150]] = 1
    token_bytes = flat_bytes(64)
    kept = score(model, tokens, token_bytes, 32, 8, 4, autocast="off", document_mask=True).window_nats
    masked = replace(WAY, document_mask=True)
    found = score_or_sample(model, tokens, token_bytes, masked, None, 0, lambda *_: None, kept)
    assert found["apart"] == 0 and found["noise"] < 1e-3
    assert score_or_sample(model, tokens, token_bytes, WAY, None, 0, lambda *_: None, kept)["apart"] > 0.01


def test_an_honest_models_probabilities_sum_to_one_and_only_later_logits_change(parts):
    model, tokens, _ = parts
    found = probabilities(model, tokens, WAY)
    assert found["vocabulary"] == 1024 and found["sums"] == pytest.approx([1.0] * 3, abs=1e-5)
    found = causality(model, tokens, WAY)
    assert found["changed"] == 0 < found["later_changed"] and found["compared"] == sum(found["places"])


@pytest.fixture
def scored(parts, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """The score of the parts, whole or sampled, by a clock of which every look costs `step` seconds."""

    def scored(budget: float | None, step: float, seed: int = 7, kept: np.ndarray | None = None) -> dict:
        monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=itertools.count(step, step).__next__))
        return score_or_sample(*parts, WAY, budget, seed, lambda done, total: None, kept)

    return scored


def test_a_score_that_fits_into_the_budget_is_whole(scored):
    assert "n" not in scored(10.0, 0.001) and "n" not in scored(None, 100.0)


def test_a_score_that_does_not_fit_becomes_a_sample_whose_interval_holds_the_truth(parts, scored):
    """Of forty seeded samples, the 95 % interval holds the whole score in at least 34 (34 of 40 would be p = 0.01)."""
    truth = score(*parts, 32, 8, 64, autocast="off")
    inside, sizes = 0, set()
    for seed in range(40):
        found = scored(10.0, 0.5, seed)
        sizes.add(found["n"])
        assert found["n"] < found["of"] and found["low"] < found["bpb"] < found["high"]
        assert found["low"] == pytest.approx(2 * found["bpb"] - found["high"])
        assert found["tokens"] == truth.tokens and found["bytes"] == truth.bytes
        inside += found["low"] <= truth.bpb <= found["high"]
        assert found["loss"] / found["bpb"] == pytest.approx(truth.loss_nats_per_token / truth.bpb)
    assert inside >= 34 and min(sizes) >= measure.LEAST_WINDOWS


@pytest.fixture
def kept(parts) -> np.ndarray:
    """What an honest run keeps: the windows' nats, computed in other batches than the sample's."""
    return score(*parts, 32, 8, 64, autocast="off").window_nats


@pytest.mark.parametrize("budget", [10.0, None], ids=["sampled", "whole"])
def test_windows_that_a_run_kept_are_held_one_by_one_within_the_arithmetics_own_noise(scored, kept, budget):
    apart = {}
    for what, nats in {"honest": kept, "false": kept * 0.999, "a window": np.r_[kept[:5] - 0.01, kept[5:]]}.items():
        found = scored(budget, 0.5, kept=nats)
        apart[what] = found["apart"] / found["noise"]
        assert found["kept_nats"] == pytest.approx(nats.sum(), rel=1e-12) and ("n" in found) == (budget is not None)
    assert apart["honest"] <= NOISE_TIMES / 5 and apart["false"] > 5 * NOISE_TIMES
    assert budget or apart["a window"] > 5 * NOISE_TIMES


def test_an_honest_run_is_not_refused_in_many_draws(scored, kept):
    """The worst of two hundred draws stays below a third of what is allowed."""
    worst = worst_shift = 0.0
    for seed in range(200):
        found = scored(10.0, 2.0, seed, kept)
        worst = max(worst, found["apart"] / found["noise"])
        mean = NOISE_ERRORS * found["noise"] / found["n"] ** 0.5 + 2 * found["bias"]
        worst_shift = max(worst_shift, found["shift"] / mean)
    assert worst < NOISE_TIMES / 3 and worst_shift < 1 / 3


def archived(member: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these bytes as roundtrip.npy."""
    payload = io.BytesIO()
    with zipfile.ZipFile(payload, "w", method) as file:
        file.writestr("roundtrip.npy", member)
    return payload.getvalue()


def saved(array: np.ndarray) -> bytes:
    payload = io.BytesIO()
    np.save(payload, array)
    return payload.getvalue()


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (archived(saved(np.ones(4))).replace(b"round", b"squar"), "no item named 'roundtrip.npy'"),
        (archived(saved(np.ones(4, np.float32))), "roundtrip has float32 .4., and the plan 4 windows"),
        (archived(saved(np.ones(3))), "has float64 .3."),
        (archived(saved(np.full(4, np.nan))), "the plan 4 windows"),
        (archived(saved(np.array([{}] * 4))), "does not open as the nats of windows: Object arrays cannot be loaded"),
        (archived(saved(np.ones(10_000))), "is larger than the nats of 4 windows"),
        (archived(b"text"), "does not open"),
        (archived(saved(np.ones(4)).replace(b"(4,), }" + b" " * 12, b"(1000000000000,), }")), "does not open"),
        (archived(bytes(99), zipfile.ZIP_DEFLATED).replace(b"c` ", b"\xff\xff\xff"), "does not open"),
        (b"PK", r"scores\.npz does not open"),
    ],
    ids=[
        "another name", "another type", "too few", "no numbers", "objects", "too many", "no array", "a promise of 8 TB",
        "damaged", "no zip",
    ],
)  # fmt: skip
def test_a_file_that_is_no_windows_nats_is_refused_in_a_line(tmp_path: Path, payload: bytes, why: str):
    path = tmp_path / "scores.npz"
    path.write_bytes(payload)
    with pytest.raises(Broken, match=why):
        arrays_of(path, "nats", "4 windows", roundtrip=(np.float64, 4))


def test_the_same_seed_draws_the_same_windows(scored):
    one, other = (scored(10.0, 0.5, 3)["bpb"] for _ in range(2))
    assert one == other != scored(10.0, 0.5, 4)["bpb"]


def test_too_few_windows_give_no_interval(scored):
    with refused("give a larger --budget-seconds"):
        scored(1.0, 0.8)


@pytest.mark.parametrize(("num_targets", "seq_len", "stride"), [(763, 32, 8), (763, 32, 32), (64, 32, 32), (9, 32, 8)])
def test_common_and_odd_windows_are_all_windows(num_targets: int, seq_len: int, stride: int):
    windows = plan_windows(num_targets, seq_len, stride)
    common, odd = measure.split_by_shape(windows)
    assert len(common) >= len(odd) - 1
    assert sorted(map(tuple, np.concatenate((common, odd)).tolist())) == sorted(map(tuple, windows.tolist()))


def test_a_sample_of_all_is_exact_and_one_of_some_has_the_hand_computed_interval():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    assert measure.total_with_interval(values, 4) == (12.0, 0.0, 0.0)
    total, half, most = measure.total_with_interval(values, 16)
    assert total == 48.0 and most > 20 * half
    # std 2.160247, / 2 = 1.080123, x sqrt(3/4) = 0.935414, x 16 = 14.96663, x t(3) = 3.182446
    assert half == pytest.approx(47.6305, abs=1e-3)
