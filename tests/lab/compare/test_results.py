"""One seed's result.json: read strictly, held against itself, and against the other seeds of its experiment."""

import dataclasses
import json

import pytest
from refused import refused
from run_folder import change, seed_result

from pgolf_core.lab.compare.agreement import read_seed_result
from pgolf_core.lab.compare.results import json_object, refuse_unlike, seed_folders, whole_seconds


@pytest.fixture
def folder(tmp_path):
    """The folder of seed 2."""
    place = tmp_path / "seed2"
    place.mkdir()
    seed_result(2, 1.5).write(place)
    return place


def test_what_was_written_is_what_is_read_and_a_missing_number_is_not_zero(folder):
    assert read_seed_result(folder, 2) == seed_result(2, 1.5)
    values = json.loads((folder / "result.json").read_text())
    del values["val_bytes"]
    (folder / "result.json").write_text(json.dumps(values))
    with refused("key 'val_bytes' is missing"):
        read_seed_result(folder, 2)


@pytest.mark.parametrize("changes, message", [
    ({"sliding_bpb": "low"}, "sliding_bpb must be of type float, not 'low'"),
    ({"sliding_bpb": 1.0}, "sliding_bpb does not follow from sliding_loss, val_targets and val_bytes"),
    ({"roundtrip_loss": 1.0}, "roundtrip_bpb does not follow"),
    ({"total_bytes": 1}, r"total_bytes is not artifact_bytes \+ code_bytes"),
    ({"seconds": {}}, "there is no 'seconds.train'"),
    ({"seconds": {"train": 9.0, "lost": 1.0, "total": 11.0}}, "the parts of seconds do not add up to its total"),
    ({"data_sha256": ""}, "there is no 'data_sha256'"),
    ({"core_sha256": ""}, "there is no 'core_sha256'"),
    ({"val_targets": 0}, "nothing was scored: 0 targets of 900000 bytes"),
    ({"seed": 5}, "seed 5 is not 2"),
    ({"adapted_bpb": 1.4}, "adapted_bpb and adapted_loss go together, and one is not there"),
])  # fmt: skip
def test_a_broken_or_contradictory_result_is_one_line_with_file_key_and_remedy(folder, changes, message):
    change(folder / "result.json", **changes)
    with refused(rf"seed2/result\.json: {message}.*; run .*seed.* again with --fresh") as caught:
        read_seed_result(folder, 2)
    assert len(str(caught.value)) < len(str(folder)) + 900


@pytest.mark.parametrize("text", ["NaN", "[1e999]", '{"a": [-Infinity]}', "9" * 400])
def test_a_number_that_no_run_writes_is_refused_wherever_it_stands(tmp_path, text):
    path = tmp_path / "data.json"
    path.write_text(f'{{"x": 1e300, "y": true, "z": {text}}}')
    with refused(r"data\.json has the number .{2,20}, which no run writes; delete it and"):
        json_object(path)


def test_seeds_of_another_code_recipe_data_or_window_are_no_one_experiment():
    for changes in ({"core_sha256": "7" * 64}, {"script_sha256": "7"}, {"raw_targets": 9}, {"window": 9}):
        with refused(f"here: seeds 1 and 2 differ in {next(iter(changes))}"):
            refuse_unlike({1: seed_result(1, 2.0), 2: seed_result(2, 2.0, **changes)}, "here: ")
    refuse_unlike({1: seed_result(1, 2.0), 2: seed_result(2, 1.0)})


@pytest.mark.parametrize("having", [1, 2])
def test_a_mean_is_never_of_adapted_and_other_scores(having):
    results = {seed: seed_result(seed, 2.0) for seed in (1, 2)}
    results[having] = dataclasses.replace(results[having], adapted_bpb=1.9, adapted_loss=3.9)
    with refused(f"seed {having} has an adapted score and seed {3 - having} has none"):
        refuse_unlike(results)


def test_whole_seconds_are_the_sum_of_the_parts_unless_a_total_is_given():
    result = seed_result(1, 2.0, seconds={"train": 10.0, "scoring": 2.5})
    assert whole_seconds(result) == 12.5
    assert whole_seconds(dataclasses.replace(result, seconds={**result.seconds, "total": 14.0})) == 14.0


def test_the_folders_of_seeds_are_found_by_number_whatever_else_lies_there(tmp_path):
    for name in ("seed10", "seed9", "seeds", "seed-1", "figures"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed3").write_text("a file")
    assert seed_folders(tmp_path) == {9: tmp_path / "seed9", 10: tmp_path / "seed10"}
