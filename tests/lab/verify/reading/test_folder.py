"""A submission folder's files: window and stride by its script, counted code, seed tables, weights of other formats."""

import dataclasses
import functools
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


NO_WAY = (CannotCheck, "neither the script nor submission.json nor README.md says which window and stride")
README = "window 1024 and sliding (stride 64), a window of 1024"


@pytest.mark.parametrize(
    ("name", "claims", "readme", "expected"),
    [("seeds", claims, "", expected) for claims, expected in (
        ({"seed_results": {"42": {"val_bpb": 1.1}, "seed_42": {"val_bpb": 1.2}}},
         (Broken, "has two rows of seed 42, which differ")),
        ({"seeds": [{"seed": 42, "val_bpb": 1.1}, {"seed": "042", "val_bpb": 1.2}]},
         (Broken, "has two rows of seed 42, which")),
        ({"seeds": [42, 7, "42"]}, (Broken, r"names a seed twice in its seeds \[42, 7, 42\]")),
        ({"seeds": [1, True]}, (Broken, "names a seed that is none")),
        ({"seed_results": {"1": {"a": 1}, "7": {}}}, [1, 7]), ({"per_seed": [{"seed": 3}, "x", {"seed": [1]}]}, [3]),
        ({"seeds": [5, 4], "seed_results": {"seed_5": {}, "seed 6": {}}}, [4, 5, 6]), ({"seeds": ["8"]}, [8]),
        ({"seed_results": {"٣": {}, "9" * 30: {}, "2": 1}}, []), ({}, []),
    )] + [("way", claims, readme, expected) for claims, readme, expected in (
        ({}, "", NO_WAY), ({}, README, Way(1024, 64, 32, "auto")),
        ({"window": 512, "eval_stride": 32}, README, Way(512, 32, 32, "auto")),
        ({"window": 512}, "window 1024 stride 64, stride 32", NO_WAY), ({"window": 512}, "window 1024 R = 1\n", NO_WAY),
    )] + [("track", {"track": "local_10min_1mb"}, "", "local_10min_1mb"), ("track", {}, "", "10min_16mb")],
)  # fmt: skip
def test_seeds_window_and_track_are_read_from_every_published_form_and_two_values_are_none(
    place: Path, name: str, claims: dict, readme: str, expected: Any
) -> None:
    write_json(place / "submission.json", claims)
    (place / "README.md").write_text(readme)
    read = functools.partial(getattr, Submission(place, How()), name)
    if not isinstance(expected, tuple):
        assert read() == expected
        return
    error, message = expected
    with pytest.raises(error, match=message):
        read()


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


def test_a_folder_beside_no_track_is_of_none(tmp_path: Path):
    with pytest.raises(CannotCheck, match="on which track"):
        _ = Submission(published(tmp_path / "x", PR315), How()).track


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
