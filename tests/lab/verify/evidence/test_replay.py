"""The replay of an adaptation: what it finds, how far a budget reaches, and files that are no trace."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import flat_bytes, noisy_model, small_recipe

from pgolf_core.adapting.plan import plan_chunks, targets_done
from pgolf_core.adapting.trace import adapt_artifact
from pgolf_core.base.names import ADAPT_TRACE
from pgolf_core.lab.verify.evidence import replay as room
from pgolf_core.lab.verify.evidence.checks import Broken
from pgolf_core.lab.verify.evidence.replay import replay, trace_of, veil
from pgolf_core.packing.pack import pack
from pgolf_core.packing.unpack import score_artifact

RECIPE = small_recipe(
    adapt={"kind": "sgd", "lr": 0.05, "epochs": 2, "chunk_tokens": 70, "batch_seqs": 3}, schedule={"autocast": "off"}
)
TOKENS = np.random.default_rng(3).integers(0, 64, 301).astype(np.uint16)
EVENTS = plan_chunks(300, RECIPE.eval, RECIPE.adapt)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed file with its trace beside it."""
    path = tmp_path_factory.mktemp("packed") / "model.pgolf"
    pack(dict(noisy_model().named_parameters()), RECIPE.model, RECIPE.quant, path, code_bytes=0, cap_bytes=10**6)
    adapt_artifact(path, RECIPE, TOKENS, score_artifact(path, TOKENS, flat_bytes(64), 16, 4, 8)).write(path.parent)
    return path


def found(artifact: Path, budget: float | None = None, seed: int = 5) -> dict:
    told: list[int] = []
    values = replay(
        artifact, TOKENS, RECIPE, artifact.parent / ADAPT_TRACE, budget, seed, lambda *at: told.append(at[0])
    )
    assert told == targets_done(EVENTS)[: values["events"]].tolist()
    return values


def test_a_whole_replay_finds_every_bit(artifact: Path) -> None:
    whole = found(artifact)
    assert (whole["events"], whole["of"], whole["windows"], whole["states"]) == (9, 9, 72, 4)
    assert (whole["differ"], whole["states_differ"], whole["changed"], whole["apart"]) == (0, 0, 0, 0.0)
    assert whole["leaks"] is None and not whole["file_differs"] and whole["later_changed"] > 0 < whole["compared"]


def test_a_sample_makes_every_update_and_scores_some_chunks(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {seed: found(artifact, 1e9, seed)["windows"] for seed in range(6)}
    assert len(set(drawn.values())) > 1 and max(drawn.values()) < 72 and min(drawn.values()) >= 15, drawn
    several = found(artifact, 1e9)
    assert (several["states"], several["states_differ"], several["differ"], several["leaks"]) == (4, 0, 0, None)
    assert several["events"] == 9 and found(artifact, 0.0)["events"] == 1
    monkeypatch.setattr(room, "SHORT_OF_TIME", 1)
    assert found(artifact, 1e9)["windows"] == 72


def test_what_differs_is_replayed_with_the_true_text_too(artifact: Path, tmp_path: Path) -> None:
    with np.load(artifact.parent / ADAPT_TRACE) as file:
        arrays = dict(file)
    arrays["nats"][-1] += 1.0
    np.savez(tmp_path / ADAPT_TRACE, **arrays)
    values = replay(artifact, TOKENS, RECIPE, tmp_path / ADAPT_TRACE, None, 5, lambda *at: None)
    assert (values["differ"], values["states_differ"], values["leaks"]) == (1, 0, 0)
    assert values["apart"] == pytest.approx(1.0)


def test_a_file_that_is_no_trace_of_the_plan_is_refused(tmp_path: Path) -> None:
    """What else is refused of an .npz is tried with a run's windows, in test_measure."""
    path, zeros = tmp_path / ADAPT_TRACE, np.zeros
    honest = {"events": zeros((9, 5), np.int64), "states": zeros((5, 32), np.uint8), "nats": zeros(72),
              "seconds": zeros(9)}  # fmt: skip
    np.savez(path, **honest)
    assert trace_of(path, EVENTS).keys() == honest.keys()
    for name, words in {"nats": "nats has float64 .1., and the plan 9 events", "states": "states .*9 events"}.items():
        np.savez(path, **honest | {name: np.ones(1)})
        with pytest.raises(Broken, match=words):
            trace_of(path, EVENTS)
    path.write_bytes(b"no zip")
    with pytest.raises(Broken, match="does not open as the trace of events"):
        trace_of(path, EVENTS)


def test_a_veil_hides_all_tokens_but_may_leave_documents_where_they_are() -> None:
    true = torch.tensor([1, 0, 63, 5, 1, 62])
    assert veil(true, 64, False).tolist() == [2, 1, 0, 6, 2, 63]
    assert veil(true, 64, True).tolist() == [1, 2, 0, 6, 1, 63]
