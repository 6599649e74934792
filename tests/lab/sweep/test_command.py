"""`pgolf sweep` on a toy recipe whose stages take no time: what is run, skipped, left out, compared and submitted."""

import contextlib
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_folder import averaging_of, ledger_of, seed_result
from toy_notebooks import DATASET, write_toys

from pgolf_core.base.files import write_json
from pgolf_core.lab import cli, slurm
from pgolf_core.lab.record import folder as runs
from pgolf_core.lab.record import notebooks
from pgolf_core.lab.record.lock import hold

NOISE = {1: 0.0, 2: 0.021, 3: -0.01}
ARMS = ("--arm", "base", "--arm", "deep:model.num_layers=3", "--arm", "flat:model.num_layers=1")
BETTER = {2: 0.0, 3: -0.1, 1: 0.3}
"""By the number of layers."""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`sweep` runs the command on the toy's arms; `executed` has what was run, `fails` what shall fail."""
    write_toys(tmp_path)
    executed, fails = [], []

    def run_notebook(run: runs.Run, stage: str, parameters: dict, *further: object) -> None:
        executed.append(f"{run.recipe_folder.name} {run.seed or ''} {stage[:2]}")
        if f"{run.recipe_folder.name} {run.seed}" in fails:
            raise notebooks.RunFailed("a hole")
        (run.folder / "notebooks").mkdir(exist_ok=True)
        (run.folder / "notebooks" / f"{stage}.ipynb").write_text("{}")
        for name in (runs.stage_named(stage).result, "summary.json"):
            (run.folder / name).write_text(json.dumps({"seeds": parameters["seeds"]}))
        layers = run.recipe.model.num_layers
        if run.seed is not None:
            above = BETTER[layers] + NOISE[run.seed] * (1 + layers / 50)
            same = {"recipe": "toy", "recipe_sha256": run.recipe.fingerprint, "data_sha256": "d" * 64}
            same |= {"window": run.recipe.eval.seq_len, "sliding_stride": run.recipe.eval.stride}
            result = seed_result(run.seed, 1.5 + above, **same)
        if stage == "03_train":
            last = {"step": result.steps, "seconds": result.seconds["train"]}
            said = [{"kind": "val", "step": 10, "bpb": 2 + above}, {"kind": "train", **last}]
            (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
        if stage == "04_average_and_qat":
            write_json(run.folder / "averaging.json", averaging_of(result))
        if stage == "05_quantize":
            write_json(run.folder / "ledger.json", dataclasses.asdict(ledger_of(result)))
        if stage == "06_sliding_eval":
            result.write(run.folder)
        runs.finish_stage(run, stage, **({"seeds": parameters["seeds"]} if run.seed is None else {}))

    monkeypatch.setattr(runs, "open_dataset", lambda name, cache_dir=None: DATASET)
    monkeypatch.setattr(runs, "describe_environment", dict)
    monkeypatch.setattr(notebooks, "run_notebook", run_notebook)
    monkeypatch.setattr("pgolf_core.lab.record.kernels.prepared", contextlib.nullcontext)
    monkeypatch.setattr("pgolf_core.lab.sweep.arms.prepared", contextlib.nullcontext)
    runs_dir = tmp_path / "runs"
    base = ["sweep", str(tmp_path / "toy.toml"), "--runs", str(runs_dir)]

    def sweep(*words: str) -> int:
        executed.clear()
        return cli.main([*base, *words])

    return SimpleNamespace(sweep=sweep, executed=executed, fails=fails, folder=runs_dir / "local_10min_1mb")


def test_a_sweep_runs_each_seed_of_each_arm_shares_the_data_stage_and_compares(toy, capsys) -> None:
    assert toy.sweep(*ARMS, "--seeds", "1,2,3") == 0
    assert [line for line in toy.executed if line.endswith("01")] == ["toy.base  01"]
    trained = [line.removesuffix(" 03") for line in toy.executed if line.endswith("03")]
    assert trained == [f"toy.{arm} {seed}" for seed in (1, 2, 3) for arm in ("base", "deep", "flat")]
    assert toy.executed[-3:] == ["toy.base  07", "toy.deep  07", "toy.flat  07"]
    said, told = capsys.readouterr()
    assert told.index("\ndeep, seed 2:\n") < told.index("\nflat, seed 2:\n"), "whose the stages are"
    assert "the baseline is toy.base" in said and "2 arms tried against toy.base." in said
    assert (toy.folder / "toy.base" / "sweep.txt").read_text() == said
    assert toy.sweep(*ARMS, "--seeds", "1,2,3") == 0 and toy.executed == [], "all of it is there"
    assert toy.sweep(*ARMS, "--seeds", "1,2,3", "--fresh") == 0 and len(toy.executed) == 1 + 3 + 9 * 4 + 3


def test_an_arm_that_is_surely_worse_gets_no_further_seed_and_the_table_says_so(toy, capsys) -> None:
    assert toy.sweep(*ARMS, "--seeds", "1,2,3", "--set", "schedule.val_every_steps=10", "--stop-at", "10") == 0
    assert [line for line in toy.executed if line.endswith("3 03")] == ["toy.base 3 03", "toy.deep 3 03"]
    assert "flat: stopped after 2 seeds: at step 10 +0." in capsys.readouterr().out


def test_what_failed_is_named_and_the_rest_compared(toy, capsys) -> None:
    toy.fails.append("toy.flat 2")
    assert toy.sweep(*ARMS, "--seeds", "1,2") == 1
    said = capsys.readouterr()
    assert "flat, seed 2: a hole" in said.err and "flat: seeds 2 are not finished" in said.out
    assert said.err.splitlines()[-1] == "pgolf: error: not complete: flat: seeds 2 are not finished"
    toy.fails.append("toy.base 3")
    assert toy.sweep("--arm", "base", "--arm", "deep:model.num_layers=3", "--seeds", "3") == 1
    assert "the baseline has no finished seed" in capsys.readouterr().err


def test_seeds_that_another_machine_has_are_left_to_it(toy, capsys) -> None:
    with hold(toy.folder / "toy.deep" / "seed1"):
        assert toy.sweep(*ARMS, "--seeds", "1,2") == 75
    assert "1 seed left to others" in capsys.readouterr().err
    assert not [line for line in toy.executed if line.endswith("07") or line.startswith("toy.deep 1")]
    assert toy.sweep(*ARMS, "--seeds", "1,2") == 0
    assert [line for line in toy.executed if line.endswith("03")] == ["toy.deep 1 03"]


@pytest.mark.parametrize("per_job, count, places", [(1, 6, {"1": 1, "2": 4}), (4, 2, {"1": 0, "2": 1})])
def test_on_slurm_a_task_has_one_seed_of_one_arm_or_as_many_as_asked(
    toy, capsys, monkeypatch, per_job: int, count: int, places: dict[str, int]
) -> None:
    given = []
    monkeypatch.setattr(slurm, "check", lambda asked: None)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: "/bin/true")
    monkeypatch.setattr(slurm, "chain", lambda folder, steps, asked: given.append((folder, steps)) or ["5", "6", "7"])
    words = (*ARMS, "--seeds", "1,2", "--worth", "0.01", "--on", "slurm", "--slurm", "--partition=gpu")
    assert toy.sweep(*words, "--per-job", str(per_job)) == 0
    assert "submitted: job 5 for 6 seeds, 6 for their reports, 7 to compare" in capsys.readouterr().out
    (folder, steps), *_ = given
    assert folder == toy.folder / "toy.base" and [len(step) for step in steps.values()] == [count, 3, 1]
    jobs = json.loads((toy.folder / "toy.deep" / "slurm-jobs.json").read_text())
    assert jobs == {"job": "5", "tasks": places, "last": "7"}
    toy.executed.clear()
    for command in [*steps["seeds"], *steps["reports"], *steps["compare"]]:
        monkeypatch.setattr("pgolf_core.lab.report.seeds.read_summary", lambda folder: {})
        monkeypatch.setattr("pgolf_core.lab.report.seeds.seeds_table_text", lambda summary: "the table")
        assert cli.main(command) == 0
    assert len(toy.executed) == 2 + 6 * 4 + 3, "01 for all and 02 of the baseline were run on submission"
    assert "to show 0.0100 bpb" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--arm: give at least two"),
        (["--arm", "a b", "--arm", "c"], "--arm 'a b' is not NAME:key=value"),
        ([*ARMS, "--worth", "-1"], "--worth -1.0: give a difference in bits per byte"),
        ([*ARMS, "--task", "9", "--seeds", "1"], "--task 9: there are 3, from 0"),
        ([*ARMS, "--task", "1,x"], "'1,x' is not a list of whole numbers"),
        ([*ARMS, "--per-job", "2"], "--per-job goes with --on slurm"),
        ([*ARMS, "--task", "1", "--fresh"], "--task and --finish begin none; leave it out"),
        ([*ARMS, "--finish", "--fresh"], "--fresh deletes before a whole sweep"),
        ([*ARMS, "--task", "1", "--worth", "0.1"], "--worth is for the comparison, and --task makes none"),
        ([*ARMS, "--stop-at", "10"], "--stop-at 10: base validates every"),
        ([*ARMS, "--task", "1", "--finish"], "not allowed with argument"),
        ([*ARMS, "--on", "slurm", "--dry-run", "--finish"], "--task and --finish do their work here"),
        ([*ARMS, "--on", "slurm", "--dry-run", "--task", "1"], "leave --on slurm out"),
    ],
)
def test_wrong_usage_is_a_line(toy, capsys, words: list[str], said: str) -> None:
    assert toy.sweep(*words) == 2
    assert said in capsys.readouterr().err and toy.executed == []
