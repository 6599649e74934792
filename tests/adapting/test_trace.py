"""Adaptation of a packed file: the score, its trace, its lines, and going on after a kill."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import CHUNKS, LORA
from ranks import on_ranks, start_process, wait_until
from small import flat_bytes, noisy_model, small_recipe

from pgolf_core.adapting import trace
from pgolf_core.adapting.sgd import ChunkSGD
from pgolf_core.adapting.trace import Adapted, adapt_artifact, weights_sha256
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.network.score import Score
from pgolf_core.packing.pack import pack
from pgolf_core.packing.unpack import load_model, score_artifact
from pgolf_core.training.checkpoint import Checkpoint

RECIPE = small_recipe(adapt=CHUNKS, schedule={"autocast": "off"})
TOKENS = np.random.default_rng(3).integers(0, 64, 301).astype(np.uint16)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model.pgolf"
    pack(dict(noisy_model().named_parameters()), RECIPE.model, RECIPE.quant, path, code_bytes=0, cap_bytes=10**6)
    return path


def frozen_score(path: Path, world: World = ALONE) -> Score:
    return score_artifact(path, TOKENS, flat_bytes(64), 16, 4, 8, autocast="off", world=world)


def adapted(path: Path, world: World = ALONE, **options) -> Adapted:
    return adapt_artifact(path, RECIPE, TOKENS, frozen_score(path, world), world=world, **options)


def test_the_trace_says_what_was_scored_under_which_weights(artifact: Path) -> None:
    frozen, found, told = frozen_score(artifact), adapted(artifact), []
    assert adapt_artifact(artifact, RECIPE, TOKENS, frozen, progress=lambda *at: told.append(at)).states == found.states
    assert told == [(72, 300), (140, 300), (212, 300), (280, 300), (300, 300)]
    score = found.score
    assert (score.windows, score.tokens, score.bytes, score.stride) == (frozen.windows, 300, 300, 4)
    assert score.bpb == pytest.approx(score.nats / np.log(2) / 300) and score.bpb < frozen.bpb
    assert np.array_equal(score.per_token_nats[:72], frozen.per_token_nats[:72])
    arrays = found.arrays
    assert arrays["events"].tolist() == [
        [0, 0, 72, 0, 0], [1, 0, 64, 0, 1], [0, 72, 140, 1, 1], [1, 70, 134, 1, 2], [0, 140, 212, 2, 2],
        [1, 140, 204, 2, 3], [0, 212, 280, 3, 3], [1, 210, 274, 3, 4], [0, 280, 300, 4, 4],
    ]  # fmt: skip
    assert arrays["nats"].sum() == pytest.approx(score.nats) and arrays["nats"].shape == (score.windows,)
    assert arrays["seconds"].shape == (9,) and arrays["seconds"].sum() == pytest.approx(score.seconds)
    assert [bytes(state).hex() for state in arrays["states"]] == found.states and len(set(found.states)) == 5
    assert found.about == "updates:4" and found.earlier_seconds == 0
    weights = {name: p.detach() for name, p in load_model(artifact).named_parameters()}
    plain = hashlib.sha256(b"".join(name.encode() + w.numpy().tobytes() for name, w in weights.items()))
    assert found.states[0] == weights_sha256(weights) == plain.hexdigest()


def saved(folder: Path) -> Checkpoint:
    return Checkpoint(folder, {"artifact": "a"}, 1e-9, ALONE)


def _slowly(path: Path, folder: Path) -> None:
    """Adapt with a checkpoint after every update, and hang in the third one."""
    updates, update = [], ChunkSGD.update

    def hang(self, event, stream):
        updates.append(event)
        if len(updates) == 3:
            (folder / "hangs").touch()
            wait_until(lambda: False, "killed")
        return update(self, event, stream)

    ChunkSGD.update = hang  # in a process of its own
    adapted(path, checkpoint=saved(folder))


def test_a_killed_adaptation_goes_on_from_the_last_chunk_to_the_same_bits(artifact: Path, tmp_path: Path) -> None:
    process = start_process(_slowly, artifact, tmp_path)
    wait_until(lambda: (tmp_path / "hangs").exists(), "the third update")
    process.kill()
    process.join()
    begun: list[int] = []
    found = adapted(artifact, checkpoint=saved(tmp_path), progress=lambda done, total: begun.append(done))
    whole = adapted(artifact)
    assert begun == [212, 280, 300], "two chunks had been scored and learned from"
    assert found.states == whole.states and len(found.arrays["seconds"]) == 9
    assert 0 < found.earlier_seconds < found.score.seconds
    assert np.array_equal(found.score.per_token_nats, whole.score.per_token_nats)
    assert found.score.bpb == whole.score.bpb and np.array_equal(found.arrays["events"], whole.arrays["events"])


def test_ranks_have_one_trace(artifact: Path, tmp_path: Path) -> None:
    """Each rank's own; against one rank's: the first state is equal, later ones but for the order of a sum."""
    on_ranks(2, _leave_trace, artifact, tmp_path)
    (states, nats), (others, other_nats) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = adapted(artifact)
    assert states == others and states[0] == alone.states[0] and torch.equal(nats, other_nats)
    np.testing.assert_allclose(nats.numpy(), alone.score.per_token_nats, atol=1e-4)


def _leave_trace(world: World, path: Path, folder: Path) -> None:
    found = adapted(path, world)
    torch.save((found.states, torch.from_numpy(found.score.per_token_nats)), folder / f"{world.rank}.pt")


def test_an_unlawful_plan_is_not_carried_out(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = trace.plan_chunks
    monkeypatch.setattr(trace, "plan_chunks", lambda *a: [*plan(*a)[1:2], *plan(*a)[:1], *plan(*a)[2:]])
    with pytest.raises(AssertionError, match=re.escape("event 0 learns from targets 0 to 15, not all of them scored")):
        adapted(artifact)


BY_DOCUMENTS = small_recipe(adapt={**LORA, "tilt": "ngram", "tilt_order": 4}, schedule={"autocast": "off"})
DOCUMENTS = TOKENS.copy()
DOCUMENTS[DOCUMENTS == 1] = 2
DOCUMENTS[[0, 9, 50, 56, 79, 81, 98, 128, 140, 145, 171, 186, 194, 227, 246]] = 1
DOCUMENTS[201:224] = DOCUMENTS[101:124]


def by_documents(path: Path, **options) -> Adapted:
    frozen = score_artifact(path, DOCUMENTS, flat_bytes(64), 16, 4, 8, autocast="off")
    return adapt_artifact(path, BY_DOCUMENTS, DOCUMENTS, frozen, **options)


def test_a_trace_by_documents_says_what_was_scored_under_which_adapters(artifact: Path) -> None:
    told: list[int] = []
    found = by_documents(artifact, progress=lambda done, total: told.append(done))
    events = trace.plan_of(DOCUMENTS, BY_DOCUMENTS)
    assert told == sorted(set(told)) and told[-1] == 300 and len(set(found.states)) == len(found.states)
    assert found.states[0] == adapted(artifact).states[0], "the file's own weights"
    windows, per_token = trace.scored_windows(events), found.score.per_token_nats
    own = [per_token[first:end].sum(dtype=np.float64) for _, first, end in windows.tolist()]
    rows, nats = found.arrays["events"], found.arrays["nats"]
    np.testing.assert_allclose(nats, own, rtol=1e-12)
    assert (found.score.windows, found.score.stride) == (len(windows), 5) and nats.sum() == found.score.nats
    lasting = 0
    for event, (is_update, first, end, before, after) in zip(events, rows.tolist(), strict=True):
        assert (first, end) == event.targets and (after > before) is bool(is_update)
        if isinstance(event, trace.UpdateEvent):
            lasting = after if event.for_all else lasting
        elif event.anew:
            assert before == lasting, "fresh adapters add nothing"
    assert rows[:, 4].max() == len(found.states) - 1


class Ended(Exception):
    """What ends an adaptation in a test."""


@pytest.mark.parametrize("at", [60, 200, 280])
def test_an_ended_adaptation_by_documents_goes_on_from_a_group_or_phase_to_the_same_bits(
    artifact: Path, tmp_path: Path, at: int
) -> None:
    begun: list[int] = []

    def end(done: int, total: int) -> None:
        if done >= at:
            raise Ended

    with pytest.raises(Ended):
        by_documents(artifact, checkpoint=saved(tmp_path), progress=end)
    found = by_documents(artifact, checkpoint=saved(tmp_path), progress=lambda done, total: begun.append(done))
    whole = by_documents(artifact)
    assert (begun[0] == 15) is (at == 60), "the first chunk of the first group again, where no group was whole"
    assert found.states == whole.states and np.array_equal(found.arrays["events"], whole.arrays["events"])
    assert np.array_equal(found.score.per_token_nats, whole.score.per_token_nats)
    assert len(found.arrays["seconds"]) == len(whole.arrays["seconds"])


def test_hints_are_made_in_the_order_in_which_documents_count_as_scored() -> None:
    events = trace.plan_of(DOCUMENTS, BY_DOCUMENTS)
    pieces = trace.pieces_of(DOCUMENTS, events).tolist()
    order = np.concatenate([np.arange(first, end) for first, end in pieces])
    assert sorted(order.tolist()) == list(range(300)) and order[0] == 194, "of the group with the longest, its shortest"
    reached = {int(target): place for place, target in enumerate(order)}
    groups: list[int] = []
    for event in events:
        if isinstance(event, trace.ScoreEvent):
            if event.anew:
                groups = [*groups[-1:], max(reached[t] for t in event.windows[:, 1].tolist())]
            places = [reached[t] for t in trace.places_of(event.windows).tolist()]
            assert min(places) > groups[0] or len(groups) == 1, "no target counts before an earlier group's"
