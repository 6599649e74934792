"""The training loop on small real runs: learning, determinism, resuming, stopping, refusing, reporting."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from refused import refused
from small import assert_same_bits, column, interrupt_at, small_data, small_recipe, weights_of

from pgolf_core.base import names
from pgolf_core.base.device import why_not_compile
from pgolf_core.base.parallel import World
from pgolf_core.packing import correction
from pgolf_core.training.loop import Trainer, train
from pgolf_core.training.progress import training_curve


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    return small_data(tmp_path_factory.mktemp("data"))


def log_of(folder: Path) -> str:
    return (folder / names.TRAIN_LOG).read_text()


def test_training_learns_and_leaves_what_the_next_stage_reads(data, tmp_path: Path) -> None:
    recipe = small_recipe(schedule={"iterations": 40, "warmdown_iters": 20, "val_every_steps": 20})
    result = train(recipe, 0, data, tmp_path)
    losses = column(tmp_path, "loss")
    assert column(tmp_path, "step") == list(range(1, 41)) and column(tmp_path, "step", "val") == [0, 20, 40]
    assert abs(losses[0] - math.log(64)) < 0.1 and losses[-1] < 0.7 * losses[0]
    assert (result.steps, result.tokens, result.stopped_by) == (40, 40 * 128, "iterations")
    raw, averaged = (weights_of(tmp_path, name) for name in (names.RAW_WEIGHTS, names.AVERAGED_WEIGHTS))
    assert raw.keys() == averaged.keys() and not torch.equal(raw["tok_emb.weight"], averaged["tok_emb.weight"])
    sensitivity = json.loads((tmp_path / names.SENSITIVITY).read_text())
    assert sensitivity["steps"] == result.sensitivity_steps > 0 and sensitivity["mean_squared_gradient"]
    assert "model_params:" in log_of(tmp_path) and "step:40/40 val_loss:" in log_of(tmp_path)
    assert not (tmp_path / names.CHECKPOINT).exists() and not (tmp_path / names.HESSIANS).exists()


def test_a_run_is_decided_by_seed_and_recipe_not_by_warm_up_micro_batches_or_keeping(data, tmp_path) -> None:
    plain = {"autocast": "auto", "checkpoint_every_seconds": 1e-9}
    for name, schedule, rows, seed in (("plain", {}, 4, 1), ("warm", {"warmup_steps": 3}, 4, 1), ("rows", {}, 3, 1),
                                       ("seed", {}, 4, 2)):  # fmt: skip
        changed = small_recipe(schedule=plain | schedule, data={"micro_batch_seqs": rows})
        train(changed, seed, data, tmp_path / name)
    assert_same_bits(tmp_path / "plain", tmp_path / "warm")
    curve, rows, other = (torch.tensor(column(tmp_path / name, "loss")) for name in ("plain", "rows", "seed"))
    torch.testing.assert_close(curve, rows, atol=5e-3, rtol=0)  # but for rounding
    assert (curve - other).abs().max() > 0.01
    trainer = Trainer(small_recipe(schedule=plain), 1, data, tmp_path / "memory", keep=False)
    trainer.run()
    assert all(torch.equal(w, trainer.averaged[name]) for name, w in weights_of(tmp_path / "plain").items())
    sums = weights_of(tmp_path / "plain", names.GROUP_SENSITIVITY)
    assert all(torch.equal(sums[name], total) for name, total in trainer.statistics().sums.items())
    assert not [*(tmp_path / "memory").glob("*.safetensors")]


GOING_ON = {
    "ema": {},
    "tables dropped": {"model": {"table_dropout": 0.4, "ve_dim": 8, "ve_layers": [1]}},
    "swa, shuffled, late QAT": {
        "data": {"order": "shuffled", "final_seq_len": 32, "final_fraction": 0.4},
        "average": {"kind": "swa", "swa_start": 0.9, "swa_every_steps": 1},
        "qat": {"kind": "late", "threshold": 0.9, "grid": "int6_fake_pr534", "lr_factor": 0.5},
    },
    "a loop, ranked": {
        "model": {"num_loops": 2, "loop_start": 1, "loop_end": 1, "skip_gates": True, "parallel_start": 2},
        "data": {"order": "ranked"},
        "schedule": {"loop_at": 0.3, "min_lr": 0.3},
    },
    "packed documents, Polar Express": {
        "data": {"order": "packed"},
        "optim": {"muon_coefficients": "polar_express", "muon_dtype": "bfloat16", "clip_each_rank": True},
        "quant": {"correction": "hessian", "correction_tokens": 200},
    },
    "correction": {"quant": {"kind": "steps", "correction": "hessian", "correction_tokens": 200}},
}


@pytest.mark.parametrize("kind", GOING_ON)
def test_going_on_after_ctrl_c_gives_the_same_bits_as_never_stopping(data, tmp_path: Path, kind: str) -> None:
    schedule = {"iterations": 20, "warmdown_iters": 20, "val_every_steps": 3}
    recipe = small_recipe(**{**GOING_ON[kind], "schedule": {**schedule, **GOING_ON[kind].get("schedule", {})}})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, 3, data, whole)
    for stop in (4, 6, 20):  # before and at the loop's switch; the last: in the moment in which all steps are done
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {stop}; the same command goes on"):
            train(recipe, 3, data, parts, progress=interrupt_at(stop))
        assert (parts / names.CHECKPOINT).exists()
    for other, seed, what in ((recipe, 4, "seed"), (small_recipe(optim={"matrix_lr": 0.01}), 3, "recipe")):
        with refused(f"made with another {what}"):
            train(other, seed, data, parts)
    assert train(recipe, 3, data, parts).resumed_at_steps == [4, 6, 20]
    logs = [[line for line in log_of(folder).splitlines() if "loop:" in line] for folder in (whole, parts)]
    assert logs[0] == (["loop:enabled step:6 used:0.3000"] if "loop" in kind else [])
    assert set(logs[1]) == set(logs[0])
    gathered = [names.HESSIANS] if recipe.quant.correction == "hessian" else []
    assert_same_bits(whole, parts, names.RAW_WEIGHTS, names.AVERAGED_WEIGHTS, names.GROUP_SENSITIVITY, *gathered)
    keys = ("kind", "step", "loss", "bpb", "lr_multiplier")
    curves = [[[line.get(key) for key in keys] for line in training_curve(folder)] for folder in (whole, parts)]
    assert curves[0] == curves[1]
    assert (whole / names.SENSITIVITY).read_bytes() == (parts / names.SENSITIVITY).read_bytes()


def test_a_step_that_nobody_could_foresee_ends_over_the_cap_and_the_log_says_so(data, tmp_path: Path) -> None:
    def stall(progress: object) -> None:
        if progress.step == 2:
            patch.setattr(Trainer, "_step", lambda self: time.sleep(1.6) or original(self))

    original = Trainer._step
    with pytest.MonkeyPatch.context() as patch:
        recipe = small_recipe(schedule={"iterations": 10**6, "max_seconds": 1.5})
        spent = train(recipe, 0, data, tmp_path, progress=stall).seconds["train"]
    assert spent > 1.5 and f"over_the_cap: train_time:{spent * 1000:.0f}ms cap:1500ms" in log_of(tmp_path)


def test_the_clock_holds_with_the_gathering_in_it_and_steps_leave_room_for_it(data, tmp_path, monkeypatch) -> None:
    original = correction.gather
    monkeypatch.setattr(correction, "gather", lambda *arguments: (time.sleep(0.3), original(*arguments))[1])
    schedule = {"iterations": 10**6, "max_seconds": 1.0, "warmdown_iters": 10}
    trainer = Trainer(small_recipe(quant=GOING_ON["correction"]["quant"], schedule=schedule), 0, data, tmp_path)
    result, last = trainer.run(), column(tmp_path, "seconds")[-1]
    assert result.stopped_by == "clock" and trainer.gathering.reserved_seconds >= 0.3
    assert last <= 0.7 and last + 0.3 <= result.seconds["train"] <= 1.0
    assert trainer.gathering.found.tokens == 208  # 13 windows of 16
    assert column(tmp_path, "seconds", "correction") == [result.seconds["train"]]


def test_the_loop_comes_on_with_the_budget_and_validation_sees_what_training_does(data, tmp_path: Path) -> None:
    loop = {"num_loops": 1, "loop_start": 0, "loop_end": 1}
    for name, model, at in (("never", {}, 0.0), ("half", loop, 0.5), ("always", loop, 0.0)):
        schedule = {"loop_at": at, "val_every_steps": 6}
        trainer = Trainer(small_recipe(model=model, schedule=schedule), 0, data, tmp_path / name)
        trainer.run()
        assert trainer.model.looping
    losses = {name: column(tmp_path / name, "loss") for name in ("never", "half", "always")}
    assert losses["half"][:6] != losses["always"][:6] and losses["half"][6] != losses["never"][6]
    assert "loop:" not in log_of(tmp_path / "never") and "loop:enabled step:6 used:0.5000" in log_of(tmp_path / "half")
    assert log_of(tmp_path / "always").splitlines().index("loop:enabled step:0 used:0.0000") > 0
    # the skip rows that only a loop has get no gradient before it: with decay alone they move as rows of ones do
    weights = weights_of(tmp_path / "half", names.RAW_WEIGHTS)["skip_weights"]
    assert weights.shape == (2, 32) and weights[1].std() > 0


@pytest.mark.slow  # eight graphs are traced
@pytest.mark.parametrize(
    ("rows", "count"),
    [({"final_seq_len": 32, "final_fraction": 0.3}, 8), ({"order": "packed"}, 4)],
)
def test_all_graphs_are_compiled_before_the_clock(data, tmp_path, rows: dict, count: int) -> None:
    """Of a loop off and on, of QAT off and on, and of every length of a row; what documents lie in it changes none."""
    graphs, real = [], torch.compile

    def counted(model, **how):
        return real(model, **how, backend=lambda graph, example: graphs.append(trainer.step) or graph.forward)

    recipe = small_recipe(
        model={"num_loops": 1, "loop_start": 1, "loop_end": 2},
        schedule={"loop_at": 0.5, "compile": "auto", "warmup_steps": 2},
        data=rows, qat={"kind": "late", "threshold": 0.9},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", counted)
        for room in ("pgolf_core.training.loop", "pgolf_core.base.device"):  # which would keep what this compiler says
            patch.setattr(f"{room}.why_not_compile", lambda device: "")
        trainer = Trainer(recipe, 0, data, tmp_path)
        ready, loop = [], trainer._loop
        patch.setattr(trainer, "_loop", lambda: ready.append(len(graphs)) or loop())
        trainer.run()
        assert ready == [count] and len(graphs) == count, "none while training"
        kept, trainer = trainer, Trainer(recipe, 1, data, tmp_path / "next")
        trainer.run()
        assert len(graphs) == 2 * count and kept.model.looping, "another seed in the same process has as many to itself"


def test_seconds_in_reserve_are_left_for_what_follows(data, tmp_path: Path) -> None:
    schedule = {"iterations": 10**6, "max_seconds": 1.2, "reserve_seconds": 0.7, "warmdown_fraction": 0.5}
    result = train(small_recipe(schedule=schedule), 0, data, tmp_path)
    assert result.stopped_by == "clock" and 0.25 < result.seconds["train"] < 0.7
    rates = [min(1.0, (1 - seconds / 0.5) / 0.5) for seconds in column(tmp_path, "seconds")]
    assert column(tmp_path, "lr_multiplier")[1:] == pytest.approx(rates[:-1]), "by what is trained, not by the cap"


def test_a_budget_that_leaves_no_step_before_what_follows_is_refused(data, tmp_path: Path) -> None:
    """It would pack a network that was never trained."""
    schedule = {"max_seconds": 1e-4}
    with refused(r"max_seconds = 0.0001 leaves no time for a step; raise it, or lower .*correction_tokens"):
        train(small_recipe(schedule=schedule, quant={"correction": "hessian"}), 0, data, tmp_path)


def test_late_qat_comes_on_below_its_threshold_says_so_and_changes_weights_and_rate(data, tmp_path: Path) -> None:
    late = {"kind": "late", "threshold": 0.5, "lr_factor": 0.5}
    changes = {"off": {}, "late": late, "always": {"kind": "always", "grid": "int6_fake_pr534"}}
    for name, qat in changes.items():
        train(small_recipe(qat=qat), 0, data, tmp_path / name)
    off, on, always = (log_of(tmp_path / name) for name in changes)
    covered = 3 * 6 + 1  # the block matrices and the bigram projection: every linear map that is packed on a grid
    assert "qat:enabled" not in off and f"qat:enabled step:10 scale:0.3333 tensors:{covered} grid:packed" in on
    assert f"qat:enabled step:0 scale:1.0000 tensors:{covered} grid:int6_fake_pr534" in always
    losses = {name: column(tmp_path / name, "loss") for name in changes}
    assert losses["late"][:10] == losses["off"][:10] and losses["late"][10] != losses["off"][10]
    assert losses["always"][1] != losses["off"][1]
    rates = zip(*(column(tmp_path / name, "lr_multiplier") for name in ("late", "off")), strict=True)
    assert [late / full for late, full in rates] == [1.0] * 10 + [0.5] * 2


@pytest.mark.parametrize(
    ("changes", "shape", "ranks", "words"),
    [
        ({"quant": {"exceptions": ["blocks.9.*=fp16"]}}, {}, 1, r"no tensor is called 'blocks\.9"),
        ({}, {"vocab": 65}, 1, r"model\.vocab_size = 64.*65"),
        ({}, {"train_tokens": 100}, 1, "training split has 100 tokens"),
        ({}, {}, 3, r"3 processes do not divide data\.spans_per_step = 2"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, changes, shape, ranks, words) -> None:
    data = small_data(tmp_path / "data", **shape)
    with refused(words):
        Trainer(small_recipe(**changes), 0, data, tmp_path / "run", world=World(0, ranks))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("compiler", ["false", "/nowhere/g++"])
def test_with_a_compiler_that_does_not_work_training_runs_eagerly_and_says_so(
    data, tmp_path: Path, compiler: str
) -> None:
    why_not_compile.cache_clear()
    with torch._inductor.config.patch({"cpp.cxx": (compiler,)}):
        result = train(small_recipe(schedule={"compile": "auto"}), 0, data, tmp_path)
    why_not_compile.cache_clear()
    why = "graph: eager (InvalidCxxCompiler: No working C++ compiler found"
    assert why in result.path and result.path in log_of(tmp_path).splitlines()


@pytest.mark.slow  # a C++ compiler at work
def test_compiled_training_follows_eager_training(data, tmp_path: Path) -> None:
    if reason := why_not_compile(torch.device("cpu")):
        pytest.skip(reason)
    for mode in ("off", "auto"):
        recipe = small_recipe(schedule={"compile": mode}, qat={"kind": "late", "threshold": 0.5})
        assert ("graph: compiled" in train(recipe, 0, data, tmp_path / mode).path) == (mode == "auto")
    off, auto = (torch.tensor(column(tmp_path / mode, "loss")) for mode in ("off", "auto"))
    torch.testing.assert_close(off, auto, atol=2e-3, rtol=0)
