"""Adapted and mixed scores under review: an honest run holds, with frozen weights and adapted ones; every lie fails."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reviewing import judged, reviewed_here, rewritten_trace, shows, spoil, with_verdict
from run_folder import change
from toy_run import ADAPTING, BY_DOCUMENTS, MIXING, finished_run

from pgolf_core.adapting import mixture
from pgolf_core.adapting.lora import DocumentLoRA
from pgolf_core.adapting.sgd import ChunkSGD
from pgolf_core.base.files import read_json, write_json
from pgolf_core.base.names import ADAPT_TRACE, SEED_RESULT, TRAIN_LOG
from pgolf_core.lab.shared.places import RECIPE_FILE, SUBMISSION_FILE
from pgolf_core.lab.submission.folder import write_submission
from pgolf_core.lab.verify.evidence import replay
from pgolf_core.lab.verify.evidence.adapting import (
    ADAPT_CHECKS,
    MIX_CHECKS,
    blindfold,
    normalised,
    remixed,
    replayed,
    summed,
)
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, SAMPLED, UNKNOWN, Broken, CannotCheck, OnlySampled
from pgolf_core.network.model import GPT

WHOLE, REPLAYED, BLIND, SUMMED = ADAPT_CHECKS
MIXED, LAWFUL = MIX_CHECKS


of_run = functools.partial(pytest.mark.parametrize, "run", indirect=True)
of_mixed = of_run([MIXING, ADAPTING + MIXING], ids=["frozen", "adapted"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Path]:
    """The recipe's folder of a toy seed with these overrides, each made once; to pack its script takes seconds."""
    plain = ("script=readable",)
    return functools.cache(lambda overrides: finished_run(tmp_path_factory.mktemp("toy"), (1,), overrides + plain))


@pytest.fixture
def run(made: Callable[[tuple[str, ...]], Path], request: pytest.FixtureRequest) -> Path:
    """One that nobody changes, its packed weights adapted where `of_run` gives no other overrides."""
    return made(getattr(request, "param", ADAPTING))


@pytest.fixture
def seed(run: Path, tmp_path: Path) -> Path:
    """A copy of its seed that a test may damage."""
    return shutil.copytree(run, tmp_path / run.name) / "seed1"


@pytest.fixture
def cache(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return reviewed_here(monkeypatch, run)


def checks_of(seed: Path) -> set[str]:
    """What there is to be checked of a seed that learns, mixes or does both."""
    adapt = read_json(seed / RECIPE_FILE)["adapt"]
    return {WHOLE, *(ADAPT_CHECKS if adapt["kind"] != "off" else ()), *(MIX_CHECKS if adapt["mix"] != "off" else ())}


SAME = "0 scores or states differ from the run's"
MIXED_SAID = {WHOLE: ["n-grams of earlier targets, of 8 at most"], MIXED: ["0 of 93 windows"],
              LAWFUL: ["at 16 drawn targets", " 0 of "]}  # fmt: skip
HONEST: dict[str, tuple[tuple[str, ...], dict[str, list[str]]]] = {  # overrides, and words of the evidence
    "adapted": (ADAPTING, {WHOLE: ["5 chunks, each scored before the weights learn from it (4 updates"],
                           REPLAYED: ["9 of 9 events", "0 of 93 windows", "0 of 4 states"], BLIND: [SAME]}),
    "documents": (BY_DOCUMENTS, {WHOLE: ["none on a document's last chunk"], REPLAYED: [" 0 of "],
                                 BLIND: [SAME, "hints of the tilt up to a token change"], SUMMED: ["1.0000"]}),
    "mixed": (MIXING, MIXED_SAID),
    "both": (ADAPTING + MIXING, MIXED_SAID),
}  # fmt: skip


@pytest.mark.parametrize(("run", "said"), HONEST.values(), indirect=["run"], ids=HONEST)
def test_an_honest_adapted_score_holds_to_the_last_bit(seed: Path, cache: Path, said: dict[str, list[str]]) -> None:
    found = judged(seed, cache)
    assert with_verdict(found, FAILS) == set()
    assert checks_of(seed) == {*ADAPT_CHECKS, *MIX_CHECKS} & set(found) & with_verdict(found, HOLDS)
    for check, words in said.items():
        shows(found[check], HOLDS, *words)
    result = read_json(seed / SEED_RESULT)
    assert result["seconds"]["adapting"] > 0
    assert result["adapted_bpb"] < result["sliding_bpb"] or SUMMED in said, "adapters make the toy worse"
    assert f"final_adapted_exact val_loss:{result['adapted_loss']:.8f}" in (seed / TRAIN_LOG).read_text()
    assert not (seed / "adapting").exists(), "its checkpoint is gone"


def test_with_a_budget_a_seeded_sample_of_events_is_replayed(seed: Path, cache: Path) -> None:
    found = judged(seed, cache, budget_seconds=1e-9)
    assert {found[name].verdict for name in (REPLAYED, BLIND)} == {SAMPLED} and found[WHOLE].verdict == HOLDS
    assert "1 of 9 events" in found[REPLAYED].evidence and "(seed " in found[REPLAYED].evidence
    assert "9 of 9 events" in judged(seed, cache, budget_seconds=1e3)[REPLAYED].evidence


def exchanged(arrays: dict[str, np.ndarray], name: str, one: int, other: int) -> None:
    arrays[name][[one, other]] = arrays[name][[other, one]]


LIES: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str, str]] = {
    "two events exchanged": (lambda a: exchanged(a, "events", 1, 2), WHOLE, "event 1 is [0, "),
    "two states exchanged": (lambda a: exchanged(a, "states", 1, 2), REPLAYED, "windows and 2 of "),
    "two chunks' nats exchanged": (lambda a: exchanged(a, "nats", 30, 60), REPLAYED, "2 of 93 windows"),
    "one nat altered": (lambda a: a["nats"].put(70, np.nextafter(a["nats"][70], 0)), REPLAYED, "1 of 93 windows"),
    "better nats": (lambda a: a["nats"].__imul__(0.99), REPLAYED, "93 of 93 windows"),
    "another file's weights": (lambda a: a["states"].__setitem__(0, 7), REPLAYED, "not this file's weights"),
    "seconds of others": (lambda a: a["seconds"].__imul__(2.0), WHOLE, "its events took"),
    "a state too few": (lambda a: a.update(states=a["states"][1:]), WHOLE, "states has uint8"),
    "better mixed nats": (lambda a: a["mixed"].__imul__(0.99), MIXED, "93 of 93 windows"),
    "one mixed nat altered": (lambda a: a["mixed"].put(70, np.nextafter(a["mixed"][70], 0)), MIXED, "1 of 93 windows"),
    "two mixed nats exchanged": (lambda a: exchanged(a, "mixed", 30, 60), MIXED, "2 of 93 windows"),
    "mixing seconds of others": (lambda a: a["mix_seconds"].__iadd__(9.0), WHOLE, "its events took"),
    "a mixed window too few": (lambda a: a.update(mixed=a["mixed"][1:]), WHOLE, "mixed has float64"),
}
LIES_OF_RUNS = [(run, lie) for lie in LIES for run in ((MIXING, ADAPTING + MIXING) if "mix" in lie else (ADAPTING,))]
LIES_OF_RUNS += [(BY_DOCUMENTS, lie) for lie in ("two events exchanged", "two states exchanged")]


@pytest.mark.parametrize(("run", "lie"), LIES_OF_RUNS, indirect=["run"], ids=[lie for _, lie in LIES_OF_RUNS])
def test_a_false_trace_fails_though_its_hash_and_sums_agree(seed: Path, cache: Path, lie: str) -> None:
    edit, check, words = LIES[lie]
    rewritten_trace(seed, edit, "mixed" if "mix" in lie else "nats")
    shows(judged(seed, cache)[check], FAILS, words)


@pytest.mark.parametrize(
    ("change_of", "checks"),
    [
        ({"adapted_bpb": 1.0, "adapted_loss": 1.0}, {WHOLE, "each score implies those bytes"}),
        ({"adapt_sha256": "0" * 64}, {WHOLE}),
        ({"adapt_sha256": None, "adapted_bpb": None, "adapted_loss": None}, {WHOLE, "the run's own hashes agree"}),
    ],
)
def test_a_claim_that_is_not_the_traces_fails(seed: Path, cache: Path, change_of: dict, checks: set[str]) -> None:
    path = seed / SEED_RESULT
    values = {key: value for key, value in {**read_json(path), **change_of}.items() if value is not None}
    write_json(path, values)
    assert checks <= with_verdict(judged(seed, cache), FAILS)


@pytest.mark.parametrize(
    ("run", "part", "claimed"),
    [(ADAPTING, "seconds", "nats"), (MIXING, "mix_seconds", "mixed"), (ADAPTING + MIXING, "mix_seconds", "mixed")],
    indirect=["run"], ids=["adapted", "mixed", "both"],
)  # fmt: skip
def test_no_part_of_a_trace_takes_less_than_no_time(seed: Path, cache: Path, part: str, claimed: str) -> None:
    rewritten_trace(seed, lambda arrays: arrays[part].__setitem__(0, arrays[part][0] - 9.0), claimed)
    seconds = read_json(seed / SEED_RESULT)["seconds"]
    change(seed / SEED_RESULT, seconds=seconds | {name: seconds[name] - 9.0 for name in ("adapting", "total")})
    shows(judged(seed, cache)[WHOLE], FAILS, "its events took -", "one of them")


def test_a_trace_of_any_size_is_refused_at_once(seed: Path, cache: Path) -> None:
    spoil(seed / ADAPT_TRACE, "64 GiB")
    shows(judged(seed, cache)[WHOLE], FAILS, "adapt.npz is larger than the 268,435,456 bytes that are read")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The submission of a run, each made once."""
    place = tmp_path_factory.mktemp("submissions")
    return functools.cache(lambda run: write_submission(run, "A toy", "Ann", "ann", place / run.parents[2].name))


@pytest.fixture
def submitted(run: Path, written: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A copy of the run's that a test may damage."""
    return shutil.copytree(written(run), tmp_path / "submission")


@of_run([ADAPTING, MIXING, ADAPTING + MIXING], ids=["adapted", "mixed", "both"])
def test_a_submission_is_known_by_its_adapted_score_and_ships_the_trace(
    run: Path, submitted: Path, cache: Path
) -> None:
    said, result = read_json(submitted / SUBMISSION_FILE), read_json(run / "seed1" / SEED_RESULT)
    assert (said["val_bpb"], said["frozen_val_bpb"]) == (result["adapted_bpb"], result["sliding_bpb"])
    assert f"**{result['adapted_bpb']:.4f} bits per byte, 1 seed**" in (submitted / "README.md").read_text()
    found = judged(submitted, cache)
    assert with_verdict(found, FAILS) == set()
    expected = {*checks_of(run / "seed1"), "sliding score from the file alone", "the headline is the seeds' score"}
    assert expected <= with_verdict(found, HOLDS)


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        (lambda folder: (folder / ADAPT_TRACE).unlink(), WHOLE),
        (lambda folder: change_seed(folder, val_bpb=1.0), WHOLE),
        (lambda folder: change_seed(folder, adapting_seconds=None), WHOLE),
        (lambda folder: change_seed(folder, frozen_val_bpb=1.0), "sliding score from the file alone"),
    ],
    ids=["no trace", "another score", "no seconds", "another frozen score"],
)
def test_what_a_submission_claims_of_adapting_is_the_traces(submitted: Path, cache: Path, lie: Callable, check: str):
    lie(submitted)
    assert check in with_verdict(judged(submitted, cache), FAILS)


def test_an_adapted_score_may_be_claimed_in_four_digits(submitted: Path, cache: Path) -> None:
    said = read_json(submitted / SUBMISSION_FILE)["seed_results"]["1"]
    change_seed(submitted, **{key: round(said[key], 4) for key in ("val_bpb", "val_loss")})
    shows(judged(submitted, cache)[WHOLE], HOLDS, "sums are the claimed ones")


def change_seed(folder: Path, **values: float | None) -> None:
    """Other claims of the one seed of submission.json."""
    path = folder / SUBMISSION_FILE
    said = read_json(path)
    said["seed_results"]["1"] |= values
    write_json(path, said)


@pytest.mark.parametrize("forged", [{"adapted_bpb": 0.5}, {"adapt_sha256": "0" * 64}], ids=["scores", "trace"])
def test_an_adapted_score_of_a_recipe_that_adapts_nothing_fails(honest, tmp_path, monkeypatch, forged: dict) -> None:
    run = shutil.copytree(honest, tmp_path / honest.name)
    result = read_json(run / "seed1" / SEED_RESULT)
    scale = forged.get("adapted_bpb", 0.0) / result["sliding_bpb"]
    loss = {"adapted_loss": result["sliding_loss"] * scale} if scale else {}
    write_json(run / "seed1" / SEED_RESULT, result | forged | loss)
    shows(judged(run / "seed1", reviewed_here(monkeypatch, honest))[WHOLE], FAILS, "the recipe adapts nothing")


def test_a_submission_cannot_call_its_score_frozen_and_claim_another(honest, submission: Path, monkeypatch) -> None:
    said = read_json(submission / SUBMISSION_FILE)["seed_results"]["1"]
    change_seed(submission, frozen_val_bpb=said["val_bpb"], frozen_val_loss=said["val_loss"], val_bpb=0.5)
    shows(judged(submission, reviewed_here(monkeypatch, honest))[WHOLE], FAILS, "the recipe adapts nothing")


def peeks(plain: Callable) -> Callable:
    """An update that also learns from the stream's last sequence, which no event has scored yet."""

    def update(self, event, stream):
        event.sequences[-1] = (len(stream) - 33, len(stream) - 1)
        return plain(self, event, stream)

    return update


def moves(weights_of: Callable, by: Callable) -> Callable:
    """An update that also adds a number, made of the stream, to some weights."""

    def cheat(plain: Callable) -> Callable:
        def update(self, event, stream):
            told = plain(self, event, stream)
            for weights in weights_of(self):
                weights.data += by(stream)
            return told

        return update

    return cheat


def leaks(plain: Callable) -> Callable:
    return lambda self, ids, targets, first=0: plain(self, ids, targets, first) + 1e-3 * (targets[:, -1:] % 2)


def foresees(plain: Callable) -> Callable:
    return lambda text, adapt: plain(text, adapt) + int(text[-1])


adapters_of_another = moves(lambda self: self.current.up.values(), lambda stream: 1e-3 * float(stream[-1]))
"""By what may stand in a document whose turn is still to come."""
draw = np.random.default_rng(0)
noise = moves(lambda self: [self.model.skip_weights], lambda stream: 1e-7 * draw.random())
CHEATS: dict[str, tuple] = {
    "a learner": (ADAPTING, ChunkSGD, "update", peeks, FAILS, "a replay's, which read the true text"),
    "a network": (ADAPTING, GPT, "token_losses", leaks, FAILS, ""),
    "adapters": (BY_DOCUMENTS, DocumentLoRA, "update", adapters_of_another, FAILS, ""),
    "hints": (BY_DOCUMENTS, replay, "hints_of", foresees, FAILS, "hints of the tilt"),
    "an unsteady learner": (ADAPTING, ChunkSGD, "update", noise, UNKNOWN, "not the same twice"),
}


@pytest.mark.parametrize(
    ("run", "owner", "name", "cheat", "verdict", "words"), CHEATS.values(), indirect=["run"], ids=CHEATS
)
def test_what_looks_ahead_is_caught_and_told_from_what_is_unsteady(
    run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, owner, name, cheat, verdict, words
) -> None:
    """The run's own numbers come of honest events, so they differ; and so do a blindfold and an open pass."""
    monkeypatch.setattr(owner, name, cheat(getattr(owner, name)))
    found = judged(run / "seed1", cache)
    shows(found[BLIND], verdict, words)
    assert cheat is not peeks or found[REPLAYED].verdict == FAILS


# ---------------------------------------------------------------------- mixed scores


@of_mixed
def test_a_sample_of_scores_cannot_be_mixed(seed: Path, cache: Path) -> None:
    found = judged(seed, cache, budget_seconds=1e-9)
    for name in MIX_CHECKS:
        shows(found[name], UNKNOWN, "because the mixture needs the model's score of every target", "--budget-seconds")
    assert found[WHOLE].verdict == HOLDS


@of_mixed
def test_a_mixture_that_knows_the_target_is_caught(seed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own numbers would be the run's; they are no distribution, and counts of later targets move earlier ones."""
    plain = mixture._so_far
    monkeypatch.setattr(mixture, "_so_far", lambda groups, counted: plain(groups, counted) + counted)
    assert LAWFUL in with_verdict(judged(seed, cache), FAILS)
    monkeypatch.setattr(mixture, "_so_far", lambda groups, counted: np.bincount(groups, counted)[groups].astype(int))
    row = judged(seed, cache)[LAWFUL]
    assert row.verdict == FAILS and " 0 of " not in row.evidence


@of_mixed
def test_shares_that_know_later_scores_are_caught(seed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_shares", lambda p, q, buckets: np.full(len(p), (q > p).sum() / max(len(p), 1)))
    row = judged(seed, cache)[LAWFUL]
    assert row.verdict == FAILS and " 0 of " not in row.evidence


@pytest.mark.parametrize(("row", "followers"), [(0, [2]), (1, [2]), (2, [2, 0, 2]), (3, [2, 2])])
def test_a_distribution_counts_what_each_context_has_seen_and_nothing_after_its_target(
    row: int, followers: list[int]
) -> None:
    """Contexts 4 and 3 4 before the target, in the document that the 1 begins and in all of the text."""
    recipe = replay.Recipe()
    tokens, start = np.array([3, 4, 2, 4, 0, 1, 3, 4, 2, 3, 4, 0], np.uint16), np.full(5, 0.2)
    shares = np.zeros(recipe.adapt.mix_document_order + recipe.adapt.mix_order - 2)
    shares[row] = 0.5
    found = replay.whole_distribution(start, tokens, 10, shares, recipe)
    counts, discount = np.bincount(followers, minlength=5), recipe.adapt.mix_discount
    spared = discount * len(set(followers)) * 0.2
    expected = (np.maximum(counts - discount, 0) + spared) / len(followers)
    np.testing.assert_allclose(found, 0.1 + 0.5 * expected)
    assert np.array_equal(found, replay.whole_distribution(start, tokens[:11], 10, shares, recipe))


# ---------------------------------------------------------------------- verdicts on what was found

FOUND = {
    "events": 9, "of": 9, "windows": 90, "differ": 80, "apart": 1e-3, "mean_nats": 50.0, "mean_apart": 1e-4,
    "file_differs": False, "states": 4, "states_differ": 4, "seconds": 1.0, "whole": True, "sample_seed": 5,
    "compared": 9, "changed": 0, "later_changed": 3, "leaks": 0, "unsteady": 0,
    "sums": [1.0, 1 + 1e-7], "beside": 1e-6, "definition": 1e-12, "nats_apart": 0.0,
}  # fmt: skip
SAME = FOUND | {"differ": 0, "apart": 0.0}


@pytest.mark.parametrize(
    ("verdict_of", "found", "change_of", "verdict"),
    [
        (replayed, FOUND, {}, CannotCheck),  # another machine's arithmetic
        (replayed, FOUND, {"apart": 5.0}, Broken),
        (replayed, FOUND, {"mean_apart": 0.1}, Broken),
        (replayed, FOUND, {"states_differ": 3}, Broken),  # one state is equal, so the arithmetic is the same
        (replayed, FOUND, {"differ": 0, "apart": 0.0}, Broken),  # and so it is where all nats are
        (replayed, FOUND, {"states": 0, "states_differ": 0}, CannotCheck),
        (replayed, FOUND, {"file_differs": True}, Broken),
        (replayed, FOUND, {"differ": 0, "states_differ": 0, "whole": False}, OnlySampled),
        (blindfold, FOUND, {"leaks": 2, "unsteady": 0}, Broken),
        (blindfold, FOUND, {"leaks": 2, "unsteady": 2}, CannotCheck),  # a GPU may add up in any order
        (blindfold, FOUND, {"leaks": 2, "unsteady": 2, "changed": 1}, Broken),
        (blindfold, FOUND, {"later_changed": 0}, CannotCheck),  # a test that sees nothing
        (blindfold, FOUND, {"whole": False}, OnlySampled),
        (summed, FOUND, {"sums": [1.0, 1.1]}, Broken),
        (summed, FOUND, {"beside": 0.1}, Broken),
        (summed, FOUND, {"sums": []}, CannotCheck),
        (remixed, SAME, {"differ": 89, "apart": 1e-3, "nats_apart": 1e-5}, CannotCheck),  # another machine's arithmetic
        (remixed, SAME, {"differ": 89, "apart": 1e-3, "nats_apart": None}, CannotCheck),  # or it is not known
        (remixed, SAME, {"differ": 89, "apart": 1.0, "nats_apart": 1e-5}, Broken),
        (remixed, SAME, {"differ": 90, "apart": 1e-3}, Broken),  # the nats that were mixed are equal to the last bit
        (remixed, SAME, {"differ": 1, "apart": 1e-9}, Broken),
        (normalised, SAME, {"sums": [1.0, 0.99]}, Broken),
        (normalised, SAME, {"definition": 1e-6}, Broken),
        (normalised, SAME, {"changed": 1}, Broken),
        (normalised, SAME, {"later_changed": 0}, CannotCheck),
    ],
)
def test_a_lie_is_told_from_another_machines_rounding_and_from_a_sample(verdict_of, found, change_of, verdict) -> None:
    assert verdict_of is replayed or verdict_of(found)
    with pytest.raises(verdict):
        verdict_of(found | change_of)
