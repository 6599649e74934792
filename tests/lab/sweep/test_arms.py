"""The arms of a sweep: how they are named, refused and ordered, and the first stage that they share."""

import json
from pathlib import Path

import pytest
from toy_notebooks import DATASET, write_toys

from pgolf_core.lab.record import folder as runs
from pgolf_core.lab.record.folder import RunRequest, finish_stage, stage_is_done
from pgolf_core.lab.shared.usage import UsageError
from pgolf_core.lab.sweep import arms


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRequest:
    write_toys(tmp_path)
    monkeypatch.setattr(runs, "open_dataset", lambda name, cache_dir=None: DATASET)
    monkeypatch.setattr(runs, "describe_environment", dict)
    return RunRequest(str(tmp_path / "toy.toml"), ("optim.muon_wd=0.5",), runs_dir=tmp_path / "runs")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("base", ("base", ())),
        ("wide:model.model_dim=64", ("wide", ("model.model_dim=64",))),
        ("ve:model.ve_layers=[0,1],model.ve_dim=8", ("ve", ("model.ve_layers=[0,1]", "model.ve_dim=8"))),
    ],
)
def test_an_arm_is_a_name_and_changes(text: str, parts: tuple) -> None:
    assert arms.arm(text) == parts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "is not NAME:key=value") for text in ("", ":a=1", "a b:x=1", "../up", "wide:model.model_dim", "a.b")),
        ("deep:model.num_layers=3,eval.stride=8,model.num_layers=4", r"gives model\.num_layers twice; keep one"),
    ],
)
def test_what_is_no_arm_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"^--arm '{text}' {said}"):
        arms.arm(text)


def test_each_arm_is_a_run_of_its_own_and_tasks_take_all_arms_before_the_next_seed(request_: RunRequest) -> None:
    sweep = arms.sweep_of(request_, [("base", ()), ("deep", ("model.num_layers=3",))], [1, 2])
    assert sweep.tasks == [("base", 1), ("deep", 1), ("base", 2), ("deep", 2)]
    assert [path.name for path in sweep.folders().values()] == ["toy.base", "toy.deep"]
    assert sweep.run("deep", 2).recipe.model.num_layers == 3 and sweep.run("deep", 2).recipe.optim.muon_wd == 0.5


def test_a_key_of_an_arm_without_effect_is_noted(request_: RunRequest, capsys) -> None:
    arms.sweep_of(request_, [("base", ()), ("idle", ("model.rope_reference_tokens=4096",))], [1])
    note = "note: --arm idle: model.rope_reference_tokens has no effect (no sequence is over "
    assert capsys.readouterr().err.startswith(note)


@pytest.mark.parametrize(
    ("given", "stop_at", "said"),
    [
        ([("base", ())], 0, "give at least two"),
        ([("base", ()), ("base", ("model.num_layers=3",))], 0, "no name twice"),
        ([("base", ()), ("same", ("model.num_layers=2",))], 0, "--arm same: it is the same recipe as base"),
        ([("base", ()), ("odd", ("model.layers=2",))], 0, "--arm odd: .*unknown key 'model.layers'"),
        ([("base", ()), ("deep", ("model.num_layers=3",))], 7, "--stop-at 7: base validates every"),
    ],
)
def test_arms_that_cannot_be_meant_are_refused(request_: RunRequest, given, stop_at, said) -> None:
    with pytest.raises(UsageError, match=said):
        arms.sweep_of(request_, given, [1], stop_at)


def test_the_stage_of_the_data_is_copied_with_the_marks_of_its_new_place(request_: RunRequest) -> None:
    sweep = arms.sweep_of(request_, [("base", ()), ("deep", ("model.num_layers=3",))], [1])
    source, target = sweep.run("base"), sweep.run("deep")
    runs.claim_run(source)
    for name in ("data.json", "figures/01-bytes.png", "figures/02-other.png", "notebooks/01_data_and_metric.ipynb"):
        (source.folder / name).parent.mkdir(exist_ok=True)
        (source.folder / name).write_text(name)
    finish_stage(source, "01_data_and_metric", bigram_bpb=2.0)
    arms.share_data_stage(source, target)
    assert stage_is_done(target, "01_data_and_metric") and not (target.folder / "figures/02-other.png").exists()
    assert (target.folder / "notebooks/01_data_and_metric.ipynb").read_text() == "notebooks/01_data_and_metric.ipynb"
    mark = json.loads((target.folder / "stages" / "01_data_and_metric.json").read_text())
    assert mark["made_in"].endswith("toy.base") and mark["hashes"]["recipe"] == target.recipe.fingerprint
    (source.folder / "data.json").write_text("changed")
    arms.share_data_stage(source, target)
    assert (target.folder / "data.json").read_text() == "data.json", "what is there stays"
