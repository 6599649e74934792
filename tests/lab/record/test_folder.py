"""Run folders: which folder a run gets, when it is refused, and when a stage counts as finished."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from refused import refused
from toy_notebooks import RECIPE as TOY

from pgolf_core.base.files import UserError, write_text
from pgolf_core.lab.compare.results import recorded_recipe
from pgolf_core.lab.record import folder as runs
from pgolf_core.training.checkpoint import save_tensors


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A toy recipe, a stand-in dataset, and `open`, which opens a run of them under tmp_path/runs."""
    path = tmp_path / "toy.toml"
    path.write_text(TOY)
    tokenizer = {"tokenizer": {"vocab_size": 64}}
    data = SimpleNamespace(
        manifest=tokenizer, manifest_sha256="d" * 64, check_bytes=lambda said: None,
        tokenizer=lambda: SimpleNamespace(bos_id=2),
    )  # fmt: skip

    def open_dataset(name, cache_dir=None):
        return SimpleNamespace(**vars(data), name=name)

    monkeypatch.setattr(runs, "open_dataset", open_dataset)

    def open_(**options):
        return runs.open_run(str(path), runs_dir=str(tmp_path / "runs"), **options)

    return SimpleNamespace(path=path, data=data, open=open_, folder=tmp_path / "runs" / "local_10min_1mb" / "toy")


def finish(run: runs.Run, stage: str, **values: object) -> dict:
    """Finish a stage as its notebook does; returns its mark."""
    (run.folder / runs.stage_named(stage).result).write_text("{}")
    return json.loads(runs.finish_stage(run, stage, **values).read_text())


def test_a_seed_gets_its_folder_with_the_resolved_recipe_and_the_environment(toy):
    run = toy.open(seed=7)
    assert run.folder == toy.folder / "seed7" and run.recipe_folder == toy.folder
    recorded = json.loads((run.folder / "recipe.json").read_text())
    assert recorded["fingerprint"] == run.recipe.fingerprint
    assert recorded["model"]["num_layers"] == 2 and recorded["model"]["logit_softcap"] == 30.0
    assert recorded_recipe(run.folder) == run.recipe
    for text in ("{}", (run.folder / "recipe.json").read_text().replace('"num_layers": 2', '"num_layers": 3')):
        write_text(run.folder / "recipe.json", text)  # else the defaults, or another model, would speak for the run
        with pytest.raises(UserError, match=r"recipe\.json was changed: .*; delete it and record the run again"):
            recorded_recipe(run.folder)
    env = json.loads((run.folder / "env.json").read_text())
    assert env["hashes"] == runs.run_hashes(run) and env["threads"] >= 1 and "torch" in env["versions"]
    assert set(env) >= {"commit", "dirty", "device"}


def test_parameters_may_be_numbers_or_texts_as_papermill_gives_them(toy):
    run = toy.open(overrides="model.num_layers=3, model.ln_scale=True", seed="7", name=2026)
    assert (run.seed, run.recipe_folder.name) == (7, "2026")
    assert run.recipe.model.num_layers == 3 and run.recipe.model.ln_scale is True


def test_overrides_and_another_dataset_go_to_a_folder_with_the_fingerprint_or_the_given_name(toy):
    changed = toy.open(overrides=["model.num_layers=3"])
    assert changed.folder.name == f"toy+{changed.recipe.fingerprint[:8]}"
    other = toy.open(data="other-data")
    assert other.folder.name == f"toy+{other.recipe.fingerprint[:8]}" and other.dataset.name == "other-data"
    assert toy.open(overrides=["model.num_layers=3"], name="deep").folder.name == "deep"
    assert toy.open(overrides=["model.num_layers=2"], data="toy-data").folder == toy.folder, "these change nothing"


def test_a_relative_runs_folder_is_the_repositorys_whatever_the_working_folder(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runs.locate_run(runs.RunRequest(str(toy.path)))
    assert run.folder == runs.find_root() / "runs" / "local_10min_1mb" / "toy"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": True}, "seed True"),
        ({"seed": 10**15}, "seed 1000000000000000 is not a whole number below"),
        ({"name": "../elsewhere"}, "--name '../elsewhere'"),
        ({"name": ".hidden"}, "--name '.hidden'"),
        ({"name": "seed5"}, "a run cannot be called 'seed5'"),
        ({"overrides": ["model.num_layer=3"]}, "unknown key 'model.num_layer'"),
        ({"overrides": ["model.vocab_size=100"]}, "toy-data has 64 pieces"),
        ({"overrides": ["eval.document_mask=true"]}, "toy finds documents by BOS = 1, but the tokenizer has 2"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_no_folder(toy, tmp_path, options, message):
    with refused(message):
        toy.open(**options)
    assert not (tmp_path / "runs").exists()


def test_a_run_prepares_the_addresses_in_the_pieces_and_the_split_that_its_dataset_is_named_by(toy, monkeypatch):
    made = []

    def prepare_sotu(cache_dir, progress, pieces, is_development):
        made.append((cache_dir, pieces, is_development))
        return runs.open_dataset("sotu")

    monkeypatch.setattr("pgolf_core.lab.data.sotu.prepare_sotu", prepare_sotu)
    for name in ("sotu-sp64", "sotu-dev-sp64", "own-sp64"):
        toy.open(overrides=[f"data.dataset={name}"], cache_dir="where")
    assert made == [("where", 64, False), ("where", 64, True)]


def test_a_dataset_that_is_named_brings_its_number_of_pieces_unless_an_override_says_another(toy):
    assert toy.open(data="toy-data").recipe.fingerprint == toy.open().recipe.fingerprint
    toy.path.write_text(TOY.replace("vocab_size = 64", "vocab_size = 32"))
    run = toy.open(data="toy-data", name="brought")
    assert (run.recipe.model.vocab_size, run.recipe.data.dataset) == (64, "toy-data")
    for options in ({}, {"data": "toy-data", "overrides": ["model.vocab_size=32"]}):
        with refused(r"model\.vocab_size = 32, .* has 64 pieces"):
            toy.open(name="refused", **options)


def test_a_folder_of_another_recipe_is_refused_and_the_key_named(toy):
    toy.open(seed=1)
    toy.path.write_text(TOY.replace("num_layers = 2", "num_layers = 4"))
    with refused(r"belongs to another recipe \(model.num_layers was 2, now 4\).*--fresh.*--name"):
        toy.open(seed=1)
    assert toy.open(seed=1, name="second").folder.parent.name == "second"


def test_changed_data_or_core_is_refused_even_before_a_stage_has_finished(toy, monkeypatch):
    toy.open(seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "core_sha256", lambda: "c" * 64)
        with refused(r"the core .* changed since it was begun; --fresh"):
            toy.open(seed=1)
    toy.data.manifest_sha256 = "e" * 64
    with refused("dataset toy-data changed"):
        toy.open(seed=1)


def test_fresh_deletes_a_seeds_folder_and_leaves_the_other_seeds(toy):
    for seed in (1, 2):
        finish(toy.open(seed=seed), "03_train")
    toy.path.write_text(TOY.replace("num_layers = 2", "num_layers = 4"))
    with pytest.raises(UserError):
        toy.open(seed=1)
    toy.open(fresh=True)
    run = toy.open(seed=1, fresh=True)
    assert run.recipe.model.num_layers == 4 and not (run.folder / "stages").exists()
    assert (toy.folder / "seed2" / "stages" / "03_train.json").is_file()
    with refused("seed2 belongs to another recipe"):
        toy.open(seed=2)


def test_fresh_never_deletes_a_folder_that_is_no_run(toy):
    toy.folder.mkdir(parents=True)
    (toy.folder / "thesis.txt").write_text("mine")
    with refused(r"no recipe\.json"):
        toy.open(fresh=True)
    assert (toy.folder / "thesis.txt").read_text() == "mine"


def test_a_stage_is_done_with_its_mark_and_its_result(toy):
    run = toy.open(seed=1)
    assert not runs.stage_is_done(run, "03_train")
    finish(run, "03_train")
    assert runs.stage_is_done(run, "03_train")
    (run.folder / "weights-averaged.safetensors").unlink()
    assert not runs.stage_is_done(run, "03_train")
    with refused("unknown stage '03'; known: 01_data_and_metric, "):
        runs.stage_named("03")


def test_finishing_a_stage_needs_its_result_and_forgets_what_was_made_from_the_old_one(toy):
    run, whole = toy.open(seed=1), toy.open()
    with refused(r"05_quantize cannot be finished: .*ledger\.json was not written"):
        runs.finish_stage(run, "05_quantize")
    for stage in ("03_train", "04_average_and_qat", "05_quantize", "06_sliding_eval"):
        finish(run, stage)
    finish(whole, "07_report")
    assert all(runs.stage_is_done(run, stage) for stage in ("03_train", "05_quantize", "06_sliding_eval"))
    finish(run, "05_quantize")
    assert runs.stage_is_done(run, "03_train") and runs.stage_is_done(run, "05_quantize")
    assert not runs.stage_is_done(run, "06_sliding_eval") and not (run.folder / "result.json").exists()
    assert not runs.stage_is_done(whole, "07_report")


def test_an_attempt_counts_what_earlier_ones_lost_until_the_stage_is_finished(toy, monkeypatch):
    run = toy.open(seed=1)
    assert run.lost_seconds() == 0.0
    for lived_seconds in (7, 2):
        runs.begin_attempt(run)
        last = json.loads((run.folder / runs.ATTEMPT).read_text())
        last["began"] -= 20
        (run.folder / runs.ATTEMPT).write_text(json.dumps(last))
        (run.folder / "train.log").touch()
        os.utime(run.folder / "train.log", (last["began"] + lived_seconds,) * 2)
    began = runs.begin_attempt(run)
    monkeypatch.setenv(runs.STAGE_BEGAN, str(began - 40))
    monkeypatch.setattr(runs.time, "time", lambda: 0.0)  # somebody sets the system's clock
    mark = finish(run, "03_train", training={"steps": 3})
    assert mark["lost_seconds"] == pytest.approx(9, abs=0.01) and 40 <= mark["seconds"] < 50
    assert mark["hashes"] == runs.run_hashes(run) and mark["training"] == {"steps": 3}
    assert mark["env"]["versions"]["python"]
    assert run.lost_seconds() == 0.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"began": "x", "kept": 0, "lost": 0}'])
@pytest.mark.parametrize("name", [runs.ATTEMPT, "attempt.json"], ids=["stage", "training"])
def test_a_damaged_note_of_an_attempt_is_named_and_deleting_it_helps(toy, name: str, text: str):
    run = toy.open(seed=1)
    write_text(run.folder / name, text)
    with refused(rf"{name}.*; delete it: seconds of attempts that ended early"):
        runs.begin_attempt(run)
    (run.folder / name).unlink()
    runs.begin_attempt(run)
    assert run.lost_seconds() == 0.0


def test_a_broken_mark_or_recipe_file_is_named(toy):
    run = toy.open(seed=1)
    finish(run, "03_train")
    runs.stage_file(run, "03_train").write_text("{")
    with refused(r"03_train\.json is not valid JSON"):
        runs.stage_is_done(run, "03_train")
    (run.folder / "recipe.json").write_text("[]")
    with refused(r"recipe\.json does not hold a JSON object"):
        toy.open(seed=1)


def test_a_folder_that_cannot_be_made_is_one_line(toy, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with refused("cannot make the run folder"):
        toy.open()


@pytest.fixture
def restarted(tmp_path, monkeypatch):
    """A call that is one start of a Slurm job, with the step that the seed has saved by then."""

    def start(job: str, restart: int | str, step: int = 0) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        if step:
            save_tensors(tmp_path / "checkpoint.safetensors", {"x": torch.zeros(1)}, {"step": step})
        runs.note_restart(tmp_path)

    return start


def test_a_restart_is_refused_if_the_one_before_it_moved_nothing(tmp_path, restarted):
    restarted("7", 0)
    restarted("7", 1)  # the first start died before it had saved anything, and that may be chance
    with refused(r"restart 1 of job 7 moved nothing \(0 stages finished, step 0 saved\)"):
        restarted("7", 2)
    restarted("8", 0)  # submitted again, it may try again
    restarted("8", 1, step=10)
    restarted("8", 2, step=20)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "03_train.json").write_text("{}")
    restarted("8", 3)
    with refused(r"\(1 stage finished, step 20 saved\), so restart 4 is refused"):
        restarted("8", 4)


@pytest.mark.parametrize("value", ["1", None, 1.5, True, [2]])
def test_a_note_of_a_restart_that_is_damaged_is_a_line_with_the_remedy(tmp_path, restarted, value):
    (tmp_path / runs.RESTART).write_text(json.dumps({"job": "7", "stages": 0, "step": 0, "restart": value}))
    with refused(r"slurm-restart\.json: restart = .* is no number of a restart; delete it"):
        restarted("7", 3)


@pytest.mark.parametrize("told", ["", "0"])
@pytest.mark.parametrize("odd", ["x", "1.5", "-1", "²", "9" * 30])
def test_a_count_of_restarts_that_is_no_number_is_a_line_and_an_empty_one_is_none(tmp_path, restarted, odd, told):
    with refused(r"^SLURM_RESTART_COUNT=.* is no number of a restart; unset it[^\n]*$"):
        restarted("7", odd)
    restarted("7", told)
    assert json.loads((tmp_path / runs.RESTART).read_text())["restart"] == 0


def test_outside_slurm_a_run_may_be_started_as_often_as_one_likes(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    runs.note_restart(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_git_the_commit_is_unknown_and_nothing_fails(monkeypatch):
    monkeypatch.setenv("PATH", "")
    environment = runs.describe_environment()
    assert environment["commit"] is None and environment["dirty"] is None
