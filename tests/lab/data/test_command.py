"""`pgolf data`: what it makes, as text and as JSON, and wrong usage."""

import json
import sys
from pathlib import Path

import pytest
from tiny_hub import NAME, VARIANT, make_hub, rich_texts

from pgolf_core.lab import cli
from pgolf_core.lab.data import dataset
from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.text.shards import load_tokens


def test_fetched_shards_are_printed_as_text_and_as_json(hub: Path, tmp_path: Path, capsys):
    arguments = ["data", "fineweb", "--variant", VARIANT, "--source", str(hub), "--cache", str(tmp_path)]
    assert cli.main([*arguments, "--train-shards", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == NAME and row["totals"]["train"]["tokens"] == 3000
    for words in (arguments, ["data", "list", "--cache", str(tmp_path)]):
        assert cli.main(words) == 0
        assert f"{NAME} (manifest {row['manifest_sha256'][:8]})" in capsys.readouterr().out


def test_a_dataset_of_ones_own_files_takes_the_settings_given(mine: Path, tmp_path: Path, capsys):
    arguments = ["data", "text", str(mine), "--cache", str(tmp_path), "--val-share", "0.3", "--vocab-size", "320"]
    assert cli.main([*arguments, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "mine-sp320" and sum(total["documents"] for total in row["totals"].values()) == 36


def test_a_mirror_of_8192_pieces_is_fetched_by_variant_and_repository(tmp_path: Path, capsys):
    mirror, owner = make_hub(tmp_path / "mirror", 8192), "kevclark/parameter-golf"
    where = ["--source", str(mirror), "--cache", str(tmp_path / "cache")]
    assert cli.main(["data", "fineweb", "--variant", "sp8192", "--repo", owner, *where, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    made = dataset.open_dataset("fineweb10B-sp8192", tmp_path / "cache")
    assert (row["name"], made.vocab_size, made.manifest["source"]["repository"]) == (made.name, 8192, owner)
    tokens = load_tokens([*made.train_paths, *made.val_paths], 8192)
    assert tokens.max() > 8000 and len(made.val_paths) == 1
    val = load_tokens(made.val_paths, 8192)
    assert made.tokenizer().bytes.total(val) == row["totals"]["val"]["utf8_bytes"] == sum(map(len, rich_texts(6, 1)))


def test_a_damaged_dataset_is_named_by_the_list(copied: Dataset, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(dataset, "HASHED_ON_OPENING", 0)  # as if it were large: then only what is newer is hashed
    whole = copied.val_paths[0].read_bytes()
    copied.val_paths[0].write_bytes(whole[:-2] + whole[-4:-2])
    assert cli.main(["data", "list", "--cache", str(tmp_path)]) == 0
    assert f"{copied.val_paths[0].name} has another SHA-256 than the manifest says" in capsys.readouterr().err


def test_nothing_prepared_says_what_prepares_something(tmp_path: Path, capsys):
    assert cli.main(["data", "list", "--cache", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "nothing is prepared yet; `pgolf data sotu`" in said.out and f"looked in {tmp_path}/datasets (" in said.err
    assert cli.main(["data", "list", "--cache", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_at_a_narrow_terminal_no_line_is_wider_and_elsewhere_each_is_whole(copied: Dataset, capsys, monkeypatch):
    cache = str(copied.folder.parent.parent)
    assert cli.main(["data", "list", "--cache", cache]) == 0
    whole = capsys.readouterr().out
    assert f") in {copied.folder}\n" in whole and " documents, " in whole and "utf8_bytes" not in whole
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["data", "list", "--cache", cache]) == 0
    said = capsys.readouterr().out
    assert "".join(said.split()) == "".join(whole.split()) and max(map(len, said.splitlines())) <= 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fineweb", "--train-shards", "0"], "'0' is not a whole number of at least 1"),
        (["text", "x", "--val-share", "2"], "'2' is not a share between 0 and 1"),
        (["text", "x", "--vocab-size", "9", "--tokenizer", "x"], "not allowed with argument --vocab-size"),
        (["text"], "give PATH to be split"),
        (["fineweb", "--source", "x", "--revision", "main"], "--revision is of the hub, and --source a"),
        (["text", "x", "--train", "y", "--val", "z"], "or the files of each split: --train PATH --val PATH"),
    ],
)
def test_wrong_usage_has_status_2(arguments: list[str], message: str, capsys):
    assert cli.main(["data", *arguments]) == 2
    assert message in capsys.readouterr().err
