"""A submission folder's files: window and stride by its script, counted code, seed tables, weights of other formats."""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from published import PR315, published
from reviewing import both, judged, judged_with_damages, no_lie_goes_unnoticed, shows

from pgolf_core.base.files import read_json, write_json
from pgolf_core.lab.compare.results import recorded_recipe
from pgolf_core.lab.export import export_script
from pgolf_core.lab.verify.evidence import measure
from pgolf_core.lab.verify.evidence.checks import HOLDS, SAMPLED, UNKNOWN, Broken, CannotCheck
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.evidence.text import Way
from pgolf_core.lab.verify.reading import folder
from pgolf_core.lab.verify.reading.folder import Submission
from pgolf_core.recipes.reading import load_recipe

NOT_CLAIMS = ("author", "github_id", "name", "blurb", "date", "track")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return published(tmp_path / "track_10min_16mb" / "A_record", PR315)


@both
def test_no_changed_number_of_submission_json_goes_unnoticed(submission: Path, cache: Path, how: settings):
    no_lie_goes_unnoticed(submission, {"submission.json": NOT_CLAIMS}, cache, how, none=())  # null claims nothing


@both
def test_bytes_changed_anywhere_in_a_submission_never_raise(submission: Path, cache: Path, how: settings):
    (submission / "train_gpt.py").write_text('import torch\nR = {"eval": {"seq_len": 32, "stride": 8}}\n')
    names = ["submission.json", "README.md", "train_seed1.log", "train_gpt.py", "model.pgolf"]
    judged_with_damages(submission, names, cache, how)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        (
            {"seed_results": {"42": {"val_bpb": 1.1}, "seed_42": {"val_bpb": 1.2}}},
            "has two rows of seed 42, which differ",
        ),
        ({"seeds": [{"seed": 42, "val_bpb": 1.1}, {"seed": "042", "val_bpb": 1.2}]}, "has two rows of seed 42, which"),
        ({"seeds": [42, 7, "42"]}, r"names a seed twice in its seeds \[42, 7, 42\]"),
    ],
)
def test_a_seed_that_is_given_twice_is_no_seed_of_either_value(place: Path, claims: dict, message: str) -> None:
    write_json(place / "submission.json", read_json(place / "submission.json") | claims)
    with pytest.raises(Broken, match=message):
        _ = Submission(place, How()).seeds


@pytest.mark.parametrize(("form", "is_masked"), [("readable", False), ("packed", False), ("readable", True)])
def test_the_way_of_scoring_is_that_of_the_scripts_recipe_wrapped_or_not(
    submission: Path, honest: Path, form: str, is_masked: bool
):
    recipe = recorded_recipe(honest)
    evaluation = dataclasses.replace(recipe.eval, document_mask=is_masked)
    script = export_script(dataclasses.replace(recipe, script=form, eval=evaluation))
    (submission / "train_gpt.py").write_text(script)
    (submission / "README.md").write_text("window 9, stride 3")
    folder = Submission(submission, How())
    assert folder.way == Way(32, 8, 32, "off", is_masked)
    assert list(folder.code) == ["train_gpt.py"] and "class GPT" in folder.source


@pytest.mark.parametrize("form", ["readable", "packed"])
def test_what_a_script_leaves_out_of_its_recipe_is_the_default_and_no_number_of_the_write_up(place: Path, form: str):
    """The window and stride of the records are the defaults, and so is the stride of `local`."""
    recipe = load_recipe("pr315", [f"script={form}"])
    (place / "train_gpt.py").write_text(export_script(recipe))
    (place / "README.md").write_text("window 9, stride 3")
    folder = Submission(place, How())
    assert (folder.recipe.fingerprint, folder.way) == (recipe.fingerprint, Way(2048, 64, 16, "auto"))


def test_without_a_recipe_submission_json_counts_then_the_write_up_and_two_numbers_are_none(place: Path):
    with pytest.raises(CannotCheck, match="which window and stride"):
        _ = Submission(place, How()).way
    (place / "README.md").write_text("window 1024 and sliding (stride 64), a window of 1024")
    assert Submission(place, How()).way == Way(1024, 64, 32, "auto")
    write_json(place / "submission.json", read_json(place / "submission.json") | {"window": 512, "eval_stride": 32})
    assert Submission(place, How()).way == Way(512, 32, 32, "auto")
    for text in ("stride 64, stride 32", "R = 1\n" * 9):
        (place / "README.md").write_text("window 1024 " + text)
        write_json(place / "submission.json", {"window": 512})
        with pytest.raises(CannotCheck, match="which window and stride"):
            _ = Submission(place, How()).way


def test_a_rounded_claim_is_the_sum_of_the_windows_that_a_sample_is_drawn_from(submission, cache, monkeypatch):
    values = read_json(submission / "submission.json")
    row = values["seed_results"]["1"]
    row |= {key: round(row[key], 4) for key in ("val_bpb", "val_loss")}
    write_json(submission / "submission.json", values)
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=itertools.count(0, 0.5).__next__))
    found = judged(submission, cache, budget_seconds=9.0)
    shows(found["sliding score from the file alone"], SAMPLED, "all in scores.npz sum to the claimed")


def test_weights_of_another_format_are_weighed_and_not_opened(place: Path):
    with pytest.raises(CannotCheck, match="the weight file is not in the folder"):
        _ = Submission(place, How()).artifact
    (place / "final_model.int6.ptz").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(CannotCheck, match=r"final_model.int6.ptz \(13 bytes\) is not in this project's format"):
        _ = Submission(place, How()).artifact


@pytest.mark.parametrize(
    ("claims", "seeds"),
    [
        ({"seed_results": {"1": {"a": 1}, "7": {}}}, [1, 7]), ({"per_seed": [{"seed": 3}, "x", {"seed": [1]}]}, [3]),
        ({"seeds": [5, 4], "seed_results": {"seed_5": {}, "seed 6": {}}}, [4, 5, 6]), ({"seeds": ["8"]}, [8]),
        ({"seed_results": {"٣": {}, "9" * 30: {}, "2": 1}}, []), ({}, []),
    ],
)  # fmt: skip
def test_seed_tables_of_every_published_kind_are_read(place: Path, claims: dict, seeds: list[int]):
    write_json(place / "submission.json", claims)
    assert Submission(place, How()).seeds == seeds


def test_a_seed_that_is_none_is_broken_and_a_track_is_known_by_name_or_place(place: Path):
    write_json(place / "submission.json", {"seeds": [1, True], "track": "local_10min_1mb"})
    folder = Submission(place, How())
    with pytest.raises(Broken, match="names a seed that is none"):
        _ = folder.seeds
    assert folder.track == "local_10min_1mb"
    write_json(place / "submission.json", {})
    assert Submission(place, How()).track == "10min_16mb"
    with pytest.raises(CannotCheck, match="on which track"):
        _ = Submission(published(place.parents[1] / "x", PR315), How()).track


def test_an_artifact_is_the_seeds_whose_hash_or_size_it_has(submission: Path):
    assert Submission(submission, How()).artifact_seed == 1
    values = read_json(submission / "submission.json")
    row = values["seed_results"]["1"]
    digest, size = row.pop("artifact_sha256"), row["bytes_model_int6_zstd"]
    hashed = {"5": {"artifact_sha256": digest}, "6": {"artifact_sha256": ""}}
    for rows, seed in (({"1": row}, 1), (hashed, 5), ({"5": {}, "6": {}}, None)):
        write_json(submission / "submission.json", values | {"seed_results": rows, "seeds": []})
        assert Submission(submission, How()).artifact_seed == seed
    twice = {str(seed): {"bytes_model": size} for seed in (3, 4)}
    write_json(submission / "submission.json", values | {"seed_results": twice})
    with pytest.raises(CannotCheck, match=r"size of the artifact is that of seeds \[3, 4\]"):
        _ = Submission(submission, How()).artifact_seed


def test_logs_end_in_several_ways_and_too_many_are_not_judged(place: Path, monkeypatch: pytest.MonkeyPatch):
    write_json(place / "submission.json", read_json(place / "submission.json") | {"seeds": list(PR315)})
    (place / "train_seed42.log").rename(place / "slurm_seed42_11486.out")
    (place / "CMakeLists.txt").write_text("val_bpb: 1.0\n")
    assert {log.name for log in Submission(place, How()).logs} >= {"slurm_seed42_11486.out", "train_seed1337.log"}
    assert judged(place, place.parent)["no seed and no log is missing"].verdict == HOLDS
    monkeypatch.setattr(folder, "MAX_LOGS", 2)
    shows(judged(place, place.parent)["no seed and no log is missing"], UNKNOWN, "3 logs are more than the 2")
