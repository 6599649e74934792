"""Mixed scores under review: an honest run holds, with frozen weights and with adapted ones, and every lie fails."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reviewing import judged, reviewed_here, rewritten_trace, with_verdict
from toy_run import ADAPTING, MIXING, finished_run

from pgolf_core.adapting import mixture
from pgolf_core.base.files import read_json
from pgolf_core.base.names import SEED_RESULT, TRAIN_LOG
from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.submission.folder import write_submission
from pgolf_core.lab.verify.evidence import mixing
from pgolf_core.lab.verify.evidence.adapting import ADAPT_CHECKS, MIX_CHECKS, normalised, remixed
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, SAMPLED, Broken, CannotCheck, OnlySampled

WHOLE, *REPLAYS = ADAPT_CHECKS
MIXED, LAWFUL = MIX_CHECKS


@pytest.fixture(scope="module", params=[MIXING, ADAPTING + MIXING], ids=["frozen", "adapted"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe's folder of a toy seed whose score was mixed."""
    return finished_run(tmp_path_factory.mktemp("mixed"), (1,), request.param)


@pytest.fixture
def seed(finished: Path, tmp_path: Path) -> Path:
    """A copy of the seed that a test may damage."""
    return shutil.copytree(finished, tmp_path / finished.name) / "seed1"


@pytest.fixture
def cache(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return reviewed_here(monkeypatch, finished)


def learns(seed: Path) -> bool:
    """Whether the weights of this run were adapted as well."""
    return bool(read_json(seed / "recipe.json")["adapt"]["kind"] != "off")


def test_an_honest_mixture_holds_to_the_last_bit(seed: Path, cache: Path) -> None:
    found = judged(seed, cache)
    assert with_verdict(found, FAILS) == set()
    assert {WHOLE, *MIX_CHECKS, *(REPLAYS if learns(seed) else ())} <= with_verdict(found, HOLDS)
    assert set(REPLAYS) & set(found) == (set(REPLAYS) if learns(seed) else set())
    assert "0 of 93 windows" in found[MIXED].evidence and "at 16 drawn targets" in found[LAWFUL].evidence
    assert "0 of " in found[LAWFUL].evidence and "n-grams of earlier targets, of 8 at most" in found[WHOLE].evidence
    result = read_json(seed / SEED_RESULT)
    assert result["adapted_bpb"] < result["sliding_bpb"] and result["seconds"]["adapting"] > 0
    assert f"final_adapted_exact val_loss:{result['adapted_loss']:.8f}" in (seed / TRAIN_LOG).read_text()


def test_a_sample_of_scores_cannot_be_mixed(seed: Path, cache: Path) -> None:
    found = judged(seed, cache, budget_seconds=1e-9)
    assert {found[name].verdict for name in MIX_CHECKS} == {SAMPLED} and found[WHOLE].verdict == HOLDS


LIES: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str, str]] = {
    "better nats": (lambda a: a["mixed"].__imul__(0.99), MIXED, "93 of 93 windows"),
    "one nat altered": (lambda a: a["mixed"].put(70, np.nextafter(a["mixed"][70], 0)), MIXED, "1 of 93 windows"),
    "two exchanged": (lambda a: a["mixed"].put([30, 60], a["mixed"][[60, 30]]), MIXED, "2 of 93 windows"),
    "seconds of others": (lambda a: a["mix_seconds"].__iadd__(9.0), WHOLE, "its events took"),
    "a window too few": (lambda a: a.update(mixed=a["mixed"][1:]), WHOLE, "mixed has float64"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_false_trace_fails_though_its_hash_and_sums_agree(seed: Path, cache: Path, lie: str) -> None:
    edit, check, words = LIES[lie]
    rewritten_trace(seed, edit, "mixed")
    row = judged(seed, cache)[check]
    assert row.verdict == FAILS and words in row.evidence


def test_a_mixture_that_knows_the_target_is_caught(seed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own numbers would be the run's; they are no distribution, and counts of later targets move earlier ones."""
    plain = mixture._so_far
    monkeypatch.setattr(mixture, "_so_far", lambda groups, counted: plain(groups, counted) + counted)
    assert LAWFUL in with_verdict(judged(seed, cache), FAILS)
    monkeypatch.setattr(mixture, "_so_far", lambda groups, counted: np.bincount(groups, counted)[groups].astype(int))
    row = judged(seed, cache)[LAWFUL]
    assert row.verdict == FAILS and " 0 of " not in row.evidence


def test_shares_that_know_later_scores_are_caught(seed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_shares", lambda p, q, buckets: np.full(len(p), (q > p).sum() / max(len(p), 1)))
    row = judged(seed, cache)[LAWFUL]
    assert row.verdict == FAILS and " 0 of " not in row.evidence


def test_a_submission_ships_the_trace_and_is_known_by_the_mixed_score(
    finished: Path, cache: Path, tmp_path: Path
) -> None:
    folder = write_submission(finished, "A toy that mixes", "Ann", "ann", tmp_path / "submission")
    said, result = read_json(folder / SUBMISSION_FILE), read_json(finished / "seed1" / SEED_RESULT)
    assert (said["val_bpb"], said["frozen_val_bpb"]) == (result["adapted_bpb"], result["sliding_bpb"])
    found = judged(folder, cache)
    assert with_verdict(found, FAILS) == set() and {WHOLE, *MIX_CHECKS} <= with_verdict(found, HOLDS)


FOUND = {
    "windows": 90, "differ": 0, "apart": 0.0, "mean_nats": 50.0, "sums": [1.0, 1 + 1e-7], "definition": 1e-12,
    "compared": 9, "changed": 0, "later_changed": 3, "sample_seed": 5, "whole": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("verdict_of", "change_of", "verdict"),
    [
        (remixed, {"differ": 90, "apart": 1e-3}, CannotCheck),  # another machine's arithmetic
        (remixed, {"differ": 90, "apart": 1.0}, Broken),
        (remixed, {"differ": 1, "apart": 1e-9}, Broken),
        (remixed, {"whole": False}, OnlySampled),
        (normalised, {"sums": [1.0, 0.99]}, Broken),
        (normalised, {"definition": 1e-6}, Broken),
        (normalised, {"changed": 1}, Broken),
        (normalised, {"later_changed": 0}, CannotCheck),
        (normalised, {"whole": False}, OnlySampled),
    ],
)
def test_verdicts(verdict_of: Callable, change_of: dict, verdict: type[Exception]) -> None:
    assert verdict_of(FOUND)
    with pytest.raises(verdict):
        verdict_of(FOUND | change_of)


def test_a_distribution_reads_nothing_after_its_target() -> None:
    recipe = mixing.Recipe()
    tokens, start = np.array([3, 1, 2, 3, 1, 2, 3, 1, 0], np.uint16), np.full(5, 0.2)
    shares = np.array([0.5, *[0.0] * (recipe.adapt.mix_order - 2)])
    found = mixing.whole_distribution(start, tokens, 7, shares, recipe)  # after 1 came 2, twice; 0 is the target
    spared = 0.4 * 0.2 / 2
    np.testing.assert_allclose(found, 0.1 + 0.5 * np.array([spared, spared, 0.8 + spared, spared, spared]))
    assert np.array_equal(found, mixing.whole_distribution(start, tokens[:8], 7, shares, recipe))
