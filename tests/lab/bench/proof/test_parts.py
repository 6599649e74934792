"""Every part of the proof rehearsed on this machine, and what a CPU cannot do with stand-ins."""

import dataclasses
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pgolf_core.lab.bench.proof import parts
from pgolf_core.lab.bench.proof.command import PARTS
from pgolf_core.lab.bench.proof.parts import NOT_HERE, SMALL, OneOfEight, Shape

EAGER = dataclasses.replace(SMALL, overrides=(*SMALL.overrides, 'schedule.compile="off"'))
CPU = torch.device("cpu")


@pytest.mark.parametrize(("shape", "graphs"), [(EAGER, 0), pytest.param(SMALL, 1, marks=pytest.mark.slow)])
def test_a_step_is_measured_against_the_plain_one_with_its_graph_memory_pieces_and_profile(
    shape: Shape, graphs: int, tmp_path: Path
) -> None:
    found = PARTS["step-pr315"](shape, tmp_path)
    assert found["graph"] == {"graphs": graphs, "breaks": 0} and "attention: query blocks" in found["path"]["fast"]
    assert found["micro_batch_tokens"] == SMALL.step_tokens and set(found["seconds"]) == {"plain", "fast"}
    assert found["peak_memory"]["fast"]["peak_bytes"] > 2**20 and found["ratio"]["micro_batch"]["median"] > 0
    one = found["one_rank"]
    assert 0 < one["muon_share"]["median"] < 1 and one["step_seconds"]["median"] > 0
    assert set(found["pieces"]) == {"head and loss", "attention, as chosen"}
    assert all(spread["median"] > 0 for spread in found["pieces"].values())
    assert found["profile"]["operators"] and found["host_waits"] == NOT_HERE


def test_a_correction_is_gathered_on_the_device_as_on_a_cpu_and_packed(tmp_path: Path) -> None:
    found = PARTS["correction-pr315"](SMALL, tmp_path)
    assert found["relative_difference_from_cpu"] == 0 and found["tokens"] == 512 and found["file_bytes"] > 1000
    assert set(found["seconds"]) == {"gather, first", "gather", "pack", "unpack"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sliding-pr315", lambda found: found["targets"] > 1000 and min(found["whole_split_seconds"].values()) > 0),
        ("tests", lambda found: torch.cuda.is_available() or "skipped" in found["lines"][-1]),
        ("smoke", lambda found: found["recipe"] == "local-smoke" and found["val_targets"] == 204_059),
        ("resume", lambda found: found["promised"] == "the same bits" and found["killed_differs"] == 0),
        ("two_ranks", lambda found: found["farthest_from_one_rank_or_why_not"]["gloo"] < 1e-2),
    ],
)
def test_a_part_is_shown_on_small_shapes(name: str, expected, tmp_path: Path) -> None:
    found = PARTS[name](SMALL, tmp_path)
    assert not found.get("fault") and expected(found), found


@pytest.mark.parametrize(
    ("again", "killed", "resumed_at", "fault"),
    [(0.0, 0.0, [5], ""), (0.0, 1e-9, [5], "1e-09 off"), (1e-3, 3e-3, [5], ""), (0.0, 0.0, [], "resumed at []")],
)
def test_a_killed_run_must_come_back_as_near_as_the_device_repeats_itself(
    again: float, killed: float, resumed_at: list[int], fault: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(parts, "train", lambda *_: SimpleNamespace(resumed_at_steps=resumed_at))
    monkeypatch.setattr(parts, "in_child", lambda *_: None)
    monkeypatch.setattr(parts, "farthest", lambda folder, one, other: {"again": again, "killed": killed}[other])
    found = parts.resume(SMALL, tmp_path)
    assert fault in found["fault"] and bool(found["fault"]) == bool(fault)
    assert (found["promised"] == "the same bits") == (again == 0)


def test_one_of_eight_does_its_share_of_a_stack_and_returns_the_whole_shape() -> None:
    given: list[torch.Size] = []
    stack = torch.arange(22.0).reshape(11, 2, 1)
    whole = OneOfEight().shared_out(lambda part: given.append(part.shape) or 2 * part, stack)()
    assert given == [(2, 2, 1)] and whole.shape == stack.shape and torch.equal(whole[:2], 2 * stack[:2])


def test_waits_of_the_host_are_counted_by_line(monkeypatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def run() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    (place,), (count,) = zip(*parts.host_waits(run, torch.device("cuda")).items(), strict=True)
    assert place.startswith("test_parts.py:") and count == 2 and modes == ["warn", "default"]


def test_a_lesser_number_that_fails_says_why_in_a_line() -> None:
    def work() -> None:
        raise RuntimeError("no kernel\nand more")

    assert parts.tried(work) == {"failed": "RuntimeError: no kernel"} and parts.tried(lambda: 3) == 3
