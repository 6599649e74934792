"""The benchmark: its plain arm is right, its fast arm is training's own step, and its output says what was measured.

pytest tests/lab/bench/test_run.py
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_recipe

from pgolf_core.base.files import UserError
from pgolf_core.lab import cli
from pgolf_core.lab.bench import command as bench_command
from pgolf_core.lab.bench import measures as bench_measures
from pgolf_core.lab.bench import run as bench
from pgolf_core.lab.bench import step as bench_step
from pgolf_core.lab.bench.clock import (
    Effort,
    Neighbours,
    count_calls,
    in_child,
    in_turns,
    peak_memory_bytes,
    reset_peak_memory,
    spread,
)
from pgolf_core.lab.bench.measures import SlidingArm
from pgolf_core.lab.bench.plain import plain_newton_schulz, plain_sliding_nats
from pgolf_core.network import score as evaluate
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.training.optim import newton_schulz

ROOT = Path(__file__).resolve().parents[3]
SWITCHES = [
    {},
    {"model": {"ve_dim": 8, "ve_layers": [1, 2]}, "optim": {"muon_wd_order": "after", "bigram_optimizer": "scalar"}},
    {"model": {"ve_dim": 8, "ve_layers": [0]}, "optim": {"ve_frozen": True, "grad_clip_norm": 0.0}},
    {"model": {"smear": "before", "bigram_rows": 0, "rope_reference_tokens": 8, "num_kv_heads": 2}},
    {"model": {"smear": "off", "num_layers": 4, "xsa_last_n": 4, "ln_scale": False}, "average": {"kind": "swa"}},
]


def small_arms(autocast: str = "off", **changes) -> dict[str, bench_step.StepArm]:
    """Both arms of the step of a small recipe, their weights made the same noise so that every part matters."""
    settings = small_recipe(**{**changes, "schedule": {"autocast": autocast}})
    arms = {name: build() for name, build in bench_step.step_arms(settings, torch.device("cpu"), 3).items()}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in arms["fast"].weights.items():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
            arms["plain"].weights[name].copy_(weight)
    return arms


def copied(arm: bench_step.StepArm) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in arm.weights.items()}


@pytest.mark.parametrize("changes", SWITCHES)
def test_both_arms_have_the_same_losses_and_make_the_same_updates(changes: dict) -> None:
    arms = small_arms(**changes)
    start = copied(arms["fast"])
    for _ in range(3):
        for arm in arms.values():
            arm.run()
    assert arms["fast"].losses == pytest.approx(arms["plain"].losses, abs=2e-5)
    assert len(set(arms["fast"].losses)) == 3
    fast, plain = copied(arms["fast"]), copied(arms["plain"])
    frozen = {"ve.embed.weight", "ve.proj.weight"} if changes.get("optim", {}).get("ve_frozen") else set()
    assert {name for name in fast if torch.equal(fast[name], start[name])} == frozen
    for name in set(fast) - frozen:
        moved, apart = (fast[name] - start[name]).norm(), (fast[name] - plain[name]).norm()
        assert apart < 2e-3 * moved, (name, float(apart / moved))


def test_both_arms_agree_in_bfloat16_as_far_as_its_rounding_goes() -> None:
    arms = small_arms(autocast="auto")
    start = copied(arms["fast"])
    for arm in arms.values():
        arm.run()
    assert arms["fast"].losses == pytest.approx(arms["plain"].losses, abs=0.02)
    fast, plain = copied(arms["fast"]), copied(arms["plain"])
    moved = sum((fast[name] - start[name]).square().sum() for name in fast)
    apart = sum((fast[name] - plain[name]).square().sum() for name in fast)
    assert apart < 0.15**2 * moved


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_one_matrix_at_a_time_is_what_a_stack_gives(shape: tuple[int, ...]) -> None:
    stack = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    plain = torch.stack([plain_newton_schulz(matrix, 5, torch.float32) for matrix in stack])
    torch.testing.assert_close(newton_schulz(stack, 5, torch.float32), plain, atol=1e-5, rtol=1e-4)


def test_the_plain_sliding_score_has_the_same_nats_at_every_target() -> None:
    arm = SlidingArm(small_recipe(), torch.device("cpu"), fast=True)
    fast = evaluate.score(arm.model, arm.tokens, arm.bytes, 16, 4, 8, autocast="off")
    plain = plain_sliding_nats(arm.model, torch.from_numpy(arm.tokens.astype("int64")), 16, 4, 8, "off")
    assert len(plain) == 16 + 4 * (arm.windows - 1) and fast.per_token_nats.std() > 0.01
    torch.testing.assert_close(torch.from_numpy(fast.per_token_nats), plain, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------- clock and memory


def test_arms_take_turns_and_the_budget_ends_them_after_the_least_number() -> None:
    order: list[str] = []
    arms = {name: lambda name=name: order.append(name) or {"whole": 1.0} for name in ("a", "b")}
    found, _ = in_turns(arms, Effort(warmups=1, least=3, most=9, budget_seconds=0.0), "test")
    assert order == ["a", "b"] * 4 and [len(turns) for turns in found.values()] == [3, 3]


def test_seconds_of_calls_are_counted_by_part() -> None:
    class Worker:
        def work(self, seconds: float) -> str:
            time.sleep(seconds)
            return "done"

    worker, spent = Worker(), {}
    count_calls(worker, "work", spent, "part", torch.device("cpu"))
    assert worker.work(0.02) == worker.work(0.03) == "done"
    assert 0.05 <= spent["part"] < 5.0


def test_a_spread_is_median_quartiles_and_ends() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == {
        "median": 3.0, "quartile_1": 2.0, "quartile_3": 4.0, "min": 1.0, "max": 5.0, "turns": 5,
    }  # fmt: skip
    assert spread([2.0])["quartile_3"] == 2.0


def test_what_others_take_of_the_processors_is_what_is_busy_and_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([(1000, 300, 100), (1400, 500, 220)])
    monkeypatch.setattr(Neighbours, "_ticks", lambda self: next(ticks))
    assert Neighbours().share() == 80 / 400
    monkeypatch.undo()
    real = Neighbours()
    time.sleep(0.1)
    assert real.share() is None or 0.0 <= real.share() <= 1.0


def peaks(megabytes: int) -> list[int]:
    """Peak memory after a large array has come and gone, and after a reset; run in a process of its own."""
    cpu = torch.device("cpu")
    reset_peak_memory(cpu)
    before = peak_memory_bytes(cpu)
    np.ones(megabytes * 2**20, np.uint8).sum()
    after = peak_memory_bytes(cpu)
    reset_peak_memory(cpu)
    return [before, after, peak_memory_bytes(cpu)]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux alone")
def test_peak_memory_is_that_since_the_reset_and_of_the_child_alone() -> None:
    before, after, reset = in_child(peaks, 256)
    assert after - before > 250 * 2**20
    assert after - reset > 200 * 2**20


def die() -> None:
    os._exit(9)


def test_a_process_that_dies_while_measuring_is_told_in_a_line() -> None:
    with pytest.raises(UserError, match=r"ended, most likely for want of memory; .*--recipes"):
        in_child(die)


# ---------------------------------------------------------------------- the whole


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measure in this process: what a child costs is its import of torch."""
    monkeypatch.setattr(bench, "in_child", lambda function, *arguments: function(*arguments))


@pytest.fixture
def tiny_pair(tmp_path: Path) -> str:
    """Two tiny recipes, one on each track."""
    record = tmp_path / "record.toml"
    record.write_text(f'title = "t"\ntrack = "10min_16mb"\nextends = "{ROOT / "tests" / "tiny.toml"}"\n')
    return f"{ROOT / 'tests' / 'tiny.toml'},{record}"


def test_a_quick_benchmark_writes_every_measure_with_its_units_and_judges_the_goals(
    no_children, tiny_pair: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "--quick", "--recipes", tiny_pair, "--threads", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found) == {"format", "begun", "seconds", "quick", "busy", "env", "measures", "goals"}
    assert {"commit", "versions", "threads", "cpu", "device", "load_average_before"} <= set(found["env"])
    assert found["quick"] is True and found["env"]["threads"] == 1
    by = {(values["measure"], values["recipe"]): values for values in found["measures"]}
    both = [(name, recipe) for recipe in ("tiny", "record") for name in bench.MEASURES]
    assert set(by) == set(both) - ({("sliding", "record")} if not torch.cuda.is_available() else set())
    for values in by.values():
        assert values["measure_seconds"] > 0 and values["fingerprint"]
        assert values["others_processor_share"] is None or 0 <= values["others_processor_share"] <= 1
        for memory in values["peak_memory"].values():
            assert memory["peak_bytes"] > 2**20 and memory["method"]
        for seconds in values["seconds"].values():
            assert all(part["min"] > 0 and part["turns"] == 2 for part in seconds.values())
    step = by["step", "tiny"]
    assert [size["step_tokens"] for size in step["steps"]] == [1024, 98_304, 786_432]
    for size in step["steps"]:
        assert set(size["tokens_per_second"]) == {"plain", "fast"}
        assert 0 < size["muon_share"]["fast"]["median"] < 1
    small, large = (size["muon_share"]["fast"]["median"] for size in step["steps"][1:])
    assert large < small, "an update is shared by more tokens"
    goals = [(goal["goal"].split()[0], goal["recipe"]) for goal in found["goals"]]
    assert goals == [
        ("whole", "tiny"), ("sliding", "tiny"), ("Newton-Schulz", "tiny"), ("Newton-Schulz", "record"),
        ("Muon's", "record"), ("packing", "record"),
    ]  # fmt: skip
    for goal in found["goals"]:
        reached = (
            goal["measured"] >= goal["bound"] if goal["sense"] == "at least" else goal["measured"] <= goal["bound"]
        )
        assert goal["met"] is reached
    said = capsys.readouterr()
    for text in ("step of tiny", "tokens/s", "Muon's share", "peak memory, MiB", "goals", "the numbers are no result"):
        assert text in said.out
    assert f"wrote {out}" in said.err


def test_a_profile_names_the_operators_that_a_step_spends_its_time_in(
    no_children, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "profile.json"
    recipe = str(ROOT / "tests" / "tiny.toml")
    assert cli.main(["bench", "--profile", "--quick", "--recipes", recipe, "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    (profile,) = found["profiles"]
    assert profile["recipe"] == "tiny" and profile["step_seconds"]["whole"] > 0
    assert any("mm" in row["name"] for row in profile["operators"])
    shares = [row["share"] for row in profile["operators"]]
    assert shares == sorted(shares, reverse=True) and 0.5 < sum(shares) <= 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "nosuch"], "unknown recipe 'nosuch'"),
        (["--recipes", "pr315", "--set", "model.heads=3"], "unknown key 'model.heads'"),
        (["--measures", "speed"], "unknown measure 'speed'; known: step, newton_schulz, sliding, packing"),
        (["--threads", "0"], "'0' is not a whole number of at least 1"),
        (["--out", "numbers.txt"], "the numbers' file ends in .json"),
    ],
)
def test_wrong_usage_is_told_in_a_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_options_and_the_measures_agree() -> None:
    assert tuple(bench.MEASURES) == bench_command.MEASURES


def test_defaults_are_recipes_and_a_busy_machine_is_told() -> None:
    for name in bench.default_recipes():
        load_recipe(name)
    assert bench.busy_warning(0.1) == "" and "2.0" in bench.busy_warning(2.0)


@pytest.mark.parametrize(("kind", "seqs", "expected"), [("cpu", 0, 2), ("cuda", 0, 8), ("cpu", 5, 5)])
def test_a_records_micro_batch_is_cut_to_what_both_arms_hold(kind: str, seqs: int, expected: int) -> None:
    data = bench_step.one_micro_batch(load_recipe("pr315"), torch.device(kind), seqs).data
    assert (data.batch_tokens, data.micro_batch_seqs) == (expected * 2048, expected)


def test_a_local_recipe_keeps_its_micro_batch_and_is_stripped_of_what_would_change_the_work() -> None:
    settings = load_recipe("local-pr315", ["data.batch_tokens=49152", "data.micro_batch_seqs=32", 'qat.kind="always"'])
    cut = bench_step.one_micro_batch(settings, torch.device("cpu"))
    assert cut.data.batch_tokens == 32 * 512 and cut.qat.kind == "off" and cut.schedule.max_seconds == 0
    assert cut.model == settings.model and cut.optim == settings.optim


def test_a_recipe_on_steps_is_packed_to_its_budget_from_uneven_sensitivities() -> None:
    settings = small_recipe(quant={"kind": "steps", "target_bytes": 20_000, "small_tensor_elements": 64})
    arm = bench_measures.PackingArm(settings)
    assert {"pack", "unpack", "whole"} == set(arm.run())
    assert 0.99 * 20_000 < arm.file.stat().st_size <= 20_000
