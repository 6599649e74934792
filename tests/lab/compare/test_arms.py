"""The arms of a comparison: what is read of a run folder or a record, and what cannot be read, in one line."""

import math

import pytest
from refused import refused
from run_folder import BYTES, TARGETS, change, write_run

from pgolf_core.lab.compare.arms import read_arm


def test_a_run_folder_is_its_finished_seeds_with_sizes_times_settings_and_machine(tmp_path):
    run = write_run(tmp_path / "run", {2: 2.1, 1: 2.0}, ["model.num_layers=5"])
    (run / "seed3").mkdir()
    arm = read_arm(run, "roundtrip")
    assert arm.values("bpb") == pytest.approx({1: 2.01, 2: 2.11})
    assert list(arm.seeds.index) == [1, 2] and arm.name == "run"
    seed = arm.seeds.loc[1]
    assert (seed.total_bytes, seed.train_seconds, seed.seconds) == (900_001, 101.0, 121.0)
    assert arm.settings["model.num_layers"] == 5 and "name" not in arm.settings and arm.stride is None
    assert arm.machine == {"device": "cpu", "threads": "2", "torch": "2.13.0"}
    assert arm.notes == ("seed 3 is not finished and was left out",)


def test_a_record_is_its_published_seeds_and_its_loss_follows_where_none_was_published():
    arm = read_arm("pr534", "roundtrip")
    assert arm.values("bpb") == {1337: 1.18041917} and arm.seeds.loc[1337, "train_seconds"] == 615.394
    assert read_arm("pr534", "roundtrip", [1, 3]).values("bpb") == arm.values("bpb"), "seeds are those of runs"
    with refused("pr534 has no sliding score; published are: roundtrip, raw; choose one with"):
        read_arm("pr534", "sliding")


def test_only_the_named_seeds_of_run_folders_count(tmp_path):
    run = write_run(tmp_path / "a", {1: 2.0, 2: 3.0, 3: 4.0})
    assert list(read_arm(run, "sliding", [1, 3]).seeds.index) == [1, 3]
    with refused("a has no finished seed 4"):
        read_arm(run, "sliding", [1, 4])


def test_a_score_that_was_not_taken_is_not_made_up(tmp_path):
    run = write_run(tmp_path / "a", {1: 2.0})
    change(run / "seed1" / "result.json", averaged_bpb=None, averaged_loss=None)
    with refused("seed 1 has no averaged score; choose one with --score"):
        read_arm(run, "averaged")


def test_the_final_score_is_adapted_where_a_recipe_adapts_and_else_sliding(tmp_path):
    run = write_run(tmp_path / "adapting", {1: 2.0, 2: 2.1})
    with refused("seed 1 has no adapted score"):
        read_arm(run, "adapted")
    assert read_arm(run, "final").values("bpb") == read_arm(run, "sliding").values("bpb")
    assert read_arm(run, "sliding").notes == ()
    for seed, bpb in {1: 1.75, 2: 2.0}.items():
        loss = bpb * math.log(2) * BYTES / TARGETS
        change(run / f"seed{seed}" / "result.json", adapted_bpb=bpb, adapted_loss=loss)
    assert read_arm(run, "final").values("bpb") == read_arm(run, "adapted").values("bpb") == {1: 1.75, 2: 2.0}
    assert read_arm(run, "final").stride == read_arm(run, "sliding").stride == 128
    assert "mean 1.8750 (--score adapted, or final)" in read_arm(run, "sliding").notes[0]
    change(run / "seed2" / "result.json", adapted_bpb=1.9)
    with refused("adapted_bpb does not follow from adapted_loss"):
        read_arm(run, "sliding")


def test_the_final_score_of_a_record_is_the_adapted_one_where_it_published_one():
    assert read_arm("pr1493", "final").values("bpb")[42] == 1.08079352
    assert read_arm("pr315", "final").values("bpb") == read_arm("pr315", "sliding").values("bpb")


@pytest.mark.parametrize("kind, message", [
    ("gone", r"gone is not a run folder; .* a published record \(pr194, "),
    ("empty", r"empty holds no seed<k>/result\.json; finish a seed first"),
    ("run/seed1", r"seed1 is one seed's folder; name the run's folder above it, run"),
    ("not JSON", r"seed2/result\.json is not valid JSON"),
    ("a list", r"seed2/result\.json: must be a table, not \[\]"),
    ("other core", r"run: seeds 1 and 2 differ in core_sha256"),
    ("recipe", r"recipe\.json is not valid JSON"),
    ("settings", r"recipe\.json does not hold a JSON object"),
])  # fmt: skip
def test_an_arm_that_cannot_be_read_is_one_clear_line(tmp_path, kind, message):
    run = write_run(tmp_path / "run", {1: 2.0, 2: 2.1})
    (tmp_path / "empty" / "seed1").mkdir(parents=True)
    if kind == "other core":
        change(run / "seed2" / "result.json", core_sha256="7" * 64)
    elif kind in ("recipe", "settings"):
        (run / "recipe.json").write_text({"recipe": "[", "settings": "[]"}[kind])
    elif kind in ("not JSON", "a list"):
        (run / "seed2" / "result.json").write_text({"not JSON": "{", "a list": "[]"}[kind])
    place = tmp_path / kind if kind in ("gone", "empty", "run/seed1") else run
    with refused(message):
        read_arm(place, "sliding")
