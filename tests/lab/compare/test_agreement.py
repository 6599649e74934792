"""A number that two files of a seed hold: wherever one of them says another, the run is refused in a line."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from run_folder import change

from pgolf_core.base.files import UserError, read_json, sha256_file
from pgolf_core.lab.compare.agreement import changed_files, first_difference, read_seed_result
from pgolf_core.lab.compare.results import refuse_unlike
from pgolf_core.result import Result


def told(run: Path) -> str:
    """What is said of seed 2, without the place and the remedy."""
    with pytest.raises(UserError) as caught:
        read_seed_result(run / "seed2", 2)
    said = str(caught.value)
    assert "\n" not in said and said.endswith("; run seed 2 again with --fresh, or put back what was changed")
    return said.rpartition("; ")[0].rpartition("/result.json: ")[2]


def test_an_honest_run_agrees_and_a_file_that_is_gone_says_nothing(run: Path) -> None:
    result = read_seed_result(run / "seed2", 2)
    assert result == Result.read(run / "seed2" / "result.json")
    files = read_json(run / "seed2" / "stages" / "06_sliding_eval.json")["files"]
    assert set(files) == {"result.json", "train.log", "metrics.jsonl", "env.json"}
    for path in (run / "seed2").iterdir():
        if path.is_file() and path.name != "result.json":
            path.unlink()
    assert read_seed_result(run / "seed2", 2) == result


@pytest.mark.parametrize(("key", "source"), [
    ("artifact_bytes", "the file model.pgolf"), ("track", "recipe.json"), ("recipe", "recipe.json"),
    ("recipe_sha256", "recipe.json"), ("window", "recipe.json"), ("sliding_stride", "recipe.json"),
    ("cap_bytes", "recipe.json"), ("code_bytes", "ledger.json"), ("raw_bpb", "averaging.json"),
    ("averaged_loss", "averaging.json"), ("raw_targets", "averaging.json"), ("steps", "stages/03_train.json"),
    ("tokens", "stages/03_train.json"), ("parameters", "stages/03_train.json"),
    ("stopped_by", "stages/03_train.json"), ("resumed_at_steps", "stages/03_train.json"),
])  # fmt: skip
def test_a_plausible_value_that_another_file_denies_is_named_with_both(run: Path, key: str, source: str) -> None:
    path = run / "seed2" / "result.json"
    was = getattr(Result.read(path), key)
    value = f"{was[:-1]}x" if isinstance(was, str) else [*was, 3] if isinstance(was, list) else was * 2
    total = {"artifact_bytes": "code_bytes", "code_bytes": "artifact_bytes"}.get(key)
    change(path, **{key: value} | ({"total_bytes": value + read_json(path)[total]} if total else {}))
    assert told(run) == f"{key} is {value!s:.40} in result.json, {was!s:.40} by {source}"


def rescore(path: Path, kind: str, factor: float) -> None:
    """Another score whose loss and bits per byte agree."""
    change(path, **{f"{kind}_{key}": factor * read_json(path)[f"{kind}_{key}"] for key in ("loss", "bpb")})


def test_scores_that_agree_with_themselves_are_held_to_the_log_and_the_windows(run: Path) -> None:
    path = run / "seed2" / "result.json"
    for kind, label in (("sliding", "final_sliding_window"), ("roundtrip", "final_roundtrip")):
        payload = read_json(path)
        rescore(path, kind, 0.99)
        assert told(run).startswith(f"{label} is val_loss:")
        (run / "seed2" / "train.log").rename(run / "kept.log")
        assert told(run) == f"{kind}_loss is not that of the windows in scores.npz"
        (run / "kept.log").rename(run / "seed2" / "train.log")
        change(path, **payload)


def test_seconds_are_those_of_training_and_of_its_clock(run: Path) -> None:
    path = run / "seed2" / "result.json"
    seconds = read_json(path)["seconds"]
    change(path, seconds=seconds | {"train": seconds["train"] + 1, "total": seconds["total"] + 1})
    assert told(run) == "seconds.train is not that of stages/03_train.json"
    (run / "seed2" / "stages" / "03_train.json").unlink()
    change(path, seconds=seconds | {"train": seconds["train"] + 1000, "total": seconds["total"] + 1000})
    assert "metrics.jsonl's clock ends at" in told(run)


def test_the_text_and_the_hashes_are_those_of_the_run(run: Path) -> None:
    values = Result.read(run / "seed2" / "result.json")
    manifest = {"manifest_sha256": values.data_sha256, "val_targets": values.val_targets, "train_tokens": 5}
    (run / "data.json").write_text(json.dumps(manifest | {"val_bytes": values.val_bytes + 1}))
    assert told(run) == f"val_bytes is {values.val_bytes} in result.json, {values.val_bytes + 1} by data.json"
    (run / "data.json").write_text(json.dumps(manifest))
    hashes = read_json(run / "seed2" / "env.json")["hashes"]
    change(run / "seed2" / "env.json", hashes=hashes | {"core": "0" * 64})
    assert told(run) == "env.json has other hashes than result.json"


def test_windows_of_another_seed_and_a_damaged_archive_are_refused(run: Path) -> None:
    scores = run / "seed2" / "scores.npz"
    scores.write_bytes((run / "seed1" / "scores.npz").read_bytes())
    assert told(run) == "scores.npz has not the hash that result.json says"
    change(run / "seed2" / "result.json", scores_sha256=sha256_file(scores))
    assert told(run) == "roundtrip_loss is not that of the windows in scores.npz"
    for payload in (b"", b"PK\x03\x04", scores.read_bytes()[:300]):
        scores.write_bytes(payload)
        change(run / "seed2" / "result.json", scores_sha256=sha256_file(scores))
        assert told(run).startswith("scores.npz is damaged (")
    np.savez(scores, roundtrip=np.array([{}], dtype=object))
    change(run / "seed2" / "result.json", scores_sha256=sha256_file(scores))
    assert told(run) == "scores.npz is damaged (ValueError)", "nothing is unpickled"


@pytest.mark.parametrize(("name", "old", "new"), [
    ("ledger.json", '"entropy_bytes": 1', '"entropy_bytes": 2'), ("metrics.jsonl", '"loss": 6', '"loss": 5'),
    ("env.json", '"torch": "2', '"torch": "1'), ("train.log", "step:3/8", "step:3/9"),
    ("averaging.json", '"seconds": 0.1', '"seconds": 0.2'), ("model.pgolf", "", ""),
    ("recipe.json", '"title": "', '"title": "x'), 
    ("../recipe.json", '"correction_damping": 0.01', '"correction_damping": 0.5'),
])  # fmt: skip
def test_what_no_other_file_holds_is_held_to_the_hash_in_its_stages_mark(run: Path, name: str, old: str, new: str):
    path = run / "seed2" / name
    payload = path.read_bytes()
    if old:
        assert old.encode() in payload
        path.write_bytes(payload.replace(old.encode(), new.encode(), 1))
    else:
        path.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    assert told(run) == f"{path.name} was changed after its stage had ended"


def test_the_last_mark_of_a_file_counts_and_a_broken_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "a").write_text("new")
    first, second = (tmp_path / "stages" / f"0{number}_x.json" for number in (1, 2))
    first.write_text(json.dumps({"files": {"a": "of an earlier content", "gone": "0"}}))
    assert list(changed_files(tmp_path)) == ["a was changed after its stage had ended"]
    second.write_text(json.dumps({"files": {"a": sha256_file(tmp_path / "a")}}))
    assert list(changed_files(tmp_path)) == [] and list(changed_files(tmp_path, "01*"))
    for broken in ('{"files": 3}', '{"files": ["a"]}'):
        second.write_text(broken)
        assert "stages/02_x.json was changed after its stage had ended" in changed_files(tmp_path)


def test_a_seed_that_was_copied_under_another_number_is_no_further_seed(run: Path) -> None:
    one = Result.read(run / "seed1" / "result.json")
    with pytest.raises(UserError, match="seeds 1 and 5 have the nats of every window in common: one is a copy"):
        refuse_unlike({1: one, 5: dataclasses.replace(one, seed=5)})


@pytest.mark.parametrize(
    ("expected", "found", "place"),
    [
        ({"seeds": [1, 2]}, {"seeds": [True, 2]}, "seeds[0]"), ({"seeds": [1, 2]}, {"seeds": [1]}, "seeds[1]"),
        ({"a": {"b": 1}}, {"a": {"b": True}}, "a.b"), ([{"a": 1}, {"a": "x"}], [{"a": 1}, {"a": "y"}], "[1].a"),
        ({"seeds": [1, 2.0]}, {"seeds": [1, 2]}, ""), ({"a": [None]}, {"a": [None]}, ""), ({"a": []}, {"b": []}, "a"),
        ({"a": 1}, {"a": 1, "b": None}, "b"), ({"a": None}, {}, "a"), (1, [1], "all of it"),
    ],
)  # fmt: skip
def test_the_first_difference_of_two_json_values_is_found_in_lists_too_and_true_is_not_one(expected, found, place):
    assert first_difference(expected, found) == place
