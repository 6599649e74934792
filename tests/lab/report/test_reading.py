"""One seed's files: whatever is missing or contradicts another file is named with the command that makes it."""

import dataclasses
import functools
import json
import shutil

import pytest
from refused import refused
from run_folder import TENSOR, change

from pgolf_core.base.files import UserError
from pgolf_core.lab.report import reading
from pgolf_core.lab.report.reading import command_of, read_seed
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe, to_dict


@pytest.mark.parametrize("name", ["result.json", "ledger.json", "metrics.jsonl", "env.json"])
def test_a_missing_file_is_refused_by_name_with_the_command_that_makes_it(run, name):
    (run / "seed1339" / name).unlink()
    with refused(rf"seed1339/{name} does not exist; run `pgolf record local-smoke --seeds 1339"):
        read_seed(run, 1339)


@pytest.mark.parametrize("file, values, complaint", [
    ("result", {"sliding_bpb": 1.2}, "sliding_bpb does not follow from sliding_loss"),
    ("result", {"artifact_bytes": 5, "total_bytes": 100_005}, "artifact_bytes is 5 in result.json, 80133. by"),
    ("result", {"averaged_loss": None}, "averaged_loss is None in .*, 3.6436.* by averaging.json"),
    ("ledger", {"header_bytes": 1}, "weights, scales and header do not add up to the file"),
    ("ledger", {"total_bytes": 1}, "total_bytes is 901338 in result.json, 1 by ledger.json"),
    ("ledger", {"tensors": [TENSOR | {"elements": None}]}, "no number 'elements' of w"),
    ("ledger", {"tensors": [TENSOR | {"shape": 8000}]}, "the shape of 'w' has not its elements"),
    ("ledger", {"tensors": [TENSOR | {"elements": 7}]}, "the shape of 'w' has not its elements"),
    ("ledger", {"tensors": []}, "ledger.json lists no tensor"),
    ("ledger", {"tensors": [TENSOR | {"grid": [1]}]}, "has a tensor without name or grid \\('w'\\)"),
    ("ledger", {"tensors": [TENSOR | {"elements": float("nan")}]}, "has the number nan, which no run writes"),
    ("ledger", {"tensors": None}, "ledger.json: tensors must be a list"),
    ("ledger", {"spare_bytes": 1}, "ledger.json: unknown key 'spare_bytes'"),
])  # fmt: skip
def test_numbers_that_contradict_each_other_are_refused(run, file, values, complaint):
    change(run / "seed1338" / f"{file}.json", **values)
    with refused(complaint):
        read_seed(run, 1338)


def test_an_adapted_score_without_its_seconds_is_refused(run):
    path = run / "seed1338" / "result.json"
    change(path, **{f"adapted_{key}": json.loads(path.read_text())[f"sliding_{key}"] for key in ("bpb", "loss")})
    with pytest.raises(UserError, match=r"there is no 'seconds\.scoring' or 'seconds\.adapting'"):
        read_seed(run, 1338)


@pytest.mark.parametrize(("place", "wrong", "said"), [
    (("header_bytes",), 1, "weights_bytes of ledger.json is not that of the file"),
    (("fp16_bytes",), 1, "fp16_bytes of ledger.json is not that of the file"),
    (("tensors", 0, "name"), "other", r"tensors\[0\].name of ledger.json is not that of the file"),
    (("tensors", 0, "grid"), "int5_row", r"tensors\[0\].grid of"), (("tensors", 0, "raw_bytes"), 600, "raw_bytes of"),
    (("tensors", 0, "scales_raw_bytes"), 600, "scales_raw_bytes of"),
    (("tensors", 0, "compressed_bytes"), 300, "compressed_bytes of ledger.json do not make up the codes"),
    (("tensors", 0, "entropy_bytes"), 10**6, "the entropy of 'blocks.0.attn.c_k.weight' is no part of its raw bytes"),
    (("steps",), {"side_bytes": 5}, "tells of steps and the file has none"),
    (("tensors",), lambda rows: rows[1:], "lists other tensors than the file"),
])  # fmt: skip
def test_a_plausible_number_of_a_ledger_that_the_artifact_denies_is_refused(honest, tmp_path, place, wrong, said):
    run = shutil.copytree(honest, tmp_path / honest.name)
    read_seed(run, 2)
    path = run / "seed2" / "ledger.json"
    values = json.loads(path.read_text())
    *inner, last = place
    at = functools.reduce(lambda table, key: table[key], inner, values)
    at[last] = wrong(at[last]) if callable(wrong) else wrong
    if last == "header_bytes":
        values["weights_bytes"] = values["file_bytes"] - values["scales_bytes"] - 1
    change(path, **values)
    with pytest.raises(UserError, match=said):
        read_seed(run, 2)


def test_a_broken_line_of_metrics_and_an_empty_file_are_named(run):
    path = run / "seed1337" / "metrics.jsonl"
    whole = path.read_bytes() + b'{"kind": "correction", "seconds": 1.0}\n'
    huge = b'{"kind": "train", "step": 9, "loss": %s}' % (b"9" * 400)
    for broken in (b'{"kind": "train", "st', b"\xff", huge, b'{"kind": "val", "step": 1e999, "loss": 1}'):
        path.write_bytes(whole + broken)
        with refused(r"metrics\.jsonl, line 18: not a metrics record"):
            read_seed(run, 1337)
    path.write_text("")
    with pytest.raises(UserError, match=r"steps is 407 in result\.json, None by metrics\.jsonl; run seed 1337 again"):
        read_seed(run, 1337)


def test_the_command_to_reproduce_names_what_differs_from_the_recipe_file(tmp_path, monkeypatch):
    base = Recipe(name="local")
    changed = dataclasses.replace(base, average=dataclasses.replace(base.average, kind="swa"))
    monkeypatch.setattr(reading, "load_recipe", lambda name: base)
    folder = tmp_path / f"local+{changed.fingerprint[:8]}"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(to_dict(changed) | {"fingerprint": changed.fingerprint}))
    words = """pgolf record local --seeds 1,2 --set 'average.kind="swa"'"""
    assert command_of(folder, [1, 2]) == words
    assert command_of(folder.rename(tmp_path / "mine"), [1, 2]) == f"{words} --name mine"


def test_the_command_names_the_file_of_a_recipe_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my own.toml").write_text('extends = "local-smoke"\n')
    ran = load_recipe("my own.toml", ["schedule.iterations=7"])
    folder = tmp_path / "my own"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(to_dict(ran) | {"fingerprint": ran.fingerprint}))
    assert command_of(folder, [1]) == "pgolf record 'my own.toml' --seeds 1 --set schedule.iterations=7"
    (folder / "recipe.json").write_text(json.dumps(to_dict(ran) | {"fingerprint": 7}))
    assert command_of(folder, [1]).endswith("--set schedule.iterations=7"), "no text, and no traceback"
    (tmp_path / "my own.toml").unlink()
    assert command_of(folder, [1]) == "pgolf record 'my own.toml' --seeds 1"
