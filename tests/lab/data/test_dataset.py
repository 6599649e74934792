"""Datasets whole or absent, one preparation at a time, and every damage named with its remedy."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from refused import refused
from tiny_data import build_toy, die, edit, run_until_killed

from pgolf_core.base.files import UserError
from pgolf_core.lab.data import build, dataset
from pgolf_core.lab.data.build import write_shard
from pgolf_core.lab.data.dataset import Dataset, locked, make_dataset, open_dataset, prepared_datasets
from pgolf_core.lab.data.sotu import prepare_sotu
from pgolf_core.lab.shared.places import find_root
from pgolf_core.lab.shared.texts import SOTU_NAME
from pgolf_core.text.shards import load_tokens


def test_the_environment_variable_moves_the_cache_and_the_argument_wins(toy: Dataset, monkeypatch, tmp_path: Path):
    cache = toy.folder.parent.parent
    monkeypatch.setenv("PGOLF_CACHE", str(cache))
    assert open_dataset() == open_dataset(SOTU_NAME, str(cache)) == toy
    with refused("not prepared"):
        open_dataset(SOTU_NAME, tmp_path)
    monkeypatch.setenv("PGOLF_CACHE", "")
    assert dataset.datasets_root().parts[-2:] == ("pgolf", "datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGOLF_CACHE", "own")
    for cache_dir in (None, "own"):
        assert dataset.datasets_root(cache_dir) == find_root() / "own" / "datasets", "whatever the working folder is"


@pytest.mark.parametrize("name", ["tinystories", "../x", "", ".hidden", "a/b", "fineweb/x"])
def test_an_unknown_dataset_is_refused_with_what_is_prepared_and_the_command(toy: Dataset, name: str):
    with refused(rf"'{name}' .*prepared: {SOTU_NAME}.*`pgolf data sotu .*`pgolf data text`"):
        open_dataset(name, toy.folder.parent.parent)


def test_a_missing_corpus_names_the_command_that_makes_it_there(tmp_path: Path):
    with refused(r"'sotu-sp1024' is not prepared .*run `pgolf data sotu --cache '.*/my cache'`"):
        open_dataset(SOTU_NAME, tmp_path / "my cache")
    with refused("run `pgolf data fineweb --variant sp1024 --name fineweb-small --cache "):
        open_dataset("fineweb-small", tmp_path)
    assert prepared_datasets(tmp_path) == []


# ---------------------------------------------------------------------- made once, whole or absent


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(28, "No space left on device")])
def test_an_interrupted_preparation_leaves_nothing_and_the_next_one_works(tmp_path: Path, monkeypatch, error):
    def interrupt(*arguments):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(build, "write_shard", interrupt)
        with pytest.raises((KeyboardInterrupt, MemoryError, UserError)) as caught:
            build_toy(tmp_path)
    assert isinstance(error, OSError) == ("cannot prepare toy-sp1024" in str(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == [".toy-sp1024.lock"]
    assert build_toy(tmp_path).manifest["totals"]["train"]["documents"] == 6


def test_of_two_preparations_at_once_the_second_takes_what_the_first_has_made(tmp_path: Path, monkeypatch):
    fill, filled, made = build.survey, [], []
    monkeypatch.setattr(build, "survey", lambda *given: filled.append(1) or fill(*given))
    threads = [threading.Thread(target=lambda: made.append(build_toy(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2 and made[0] == made[1] and filled == [1]
    made[0].verify()


def test_what_a_killed_preparation_left_is_no_dataset_and_is_swept_unlike_that_of_a_living_one(tmp_path: Path):
    root = tmp_path / "datasets"
    run_until_killed(lambda: make_dataset(root, "other", die))
    left, stopped_fetch = root / ".partial-other", root / ".fetch-another"
    stopped_fetch.mkdir()
    assert left.is_dir() and prepared_datasets(tmp_path) == []
    with locked(root, "other"):
        build_toy(root)
        assert left.is_dir()
    build_toy(root)
    assert stopped_fetch.is_dir() and not left.exists()
    assert [one.name for one in prepared_datasets(tmp_path)] == ["toy-sp1024"]


def test_a_cache_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with refused(r"cannot prepare sotu-sp1024 .*PGOLF_CACHE"):
        prepare_sotu(tmp_path / "file", progress=False)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(dataset.filelock, "FileLock", refuse)
    with refused("Permission denied"):
        build_toy(tmp_path / "new")


# ---------------------------------------------------------------------- damage


def manifest(change: Callable[[dict], object]) -> Callable[[Dataset], object]:
    return lambda dataset: edit(dataset.folder / "manifest.json", change)


def overwrite(name: str, payload: bytes) -> Callable[[Dataset], object]:
    return lambda dataset: (dataset.folder / name).write_bytes(payload)


def unlink(name: str) -> Callable[[Dataset], object]:
    return lambda dataset: (dataset.folder / name).unlink()


def swap_last_byte(path: Path) -> None:
    payload = path.read_bytes()
    path.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))


SEEN_ON_OPENING: dict[str, Callable[[Dataset], object]] = {
    "no manifest": unlink("manifest.json"),
    "manifest cut": lambda dataset: os.truncate(dataset.folder / "manifest.json", 200),
    "manifest a list": overwrite("manifest.json", b"[]"),
    "manifest a number": overwrite("manifest.json", b"1"),
    "another format": manifest(lambda values: values.update(format=99)),
    "no shards key": manifest(lambda values: values.pop("shards")),
    "no shards": manifest(lambda values: values.update(shards=[])),
    "no tokenizer file": manifest(lambda values: values["tokenizer"].pop("file")),
    "another name": manifest(lambda values: values.update(name="other")),
    "a path out of the folder": manifest(lambda values: values["tokenizer"].update(file="../tokenizer.model")),
    "wrong count": manifest(lambda values: values["shards"][0].update(tokens=5)),
    "endless": manifest(lambda values: values["shards"][0].update(bytes=float("inf"))),
    "documents a number": manifest(lambda values: values.update(documents=3)),
    "a document without a name": manifest(lambda values: values["documents"][0].pop("name")),
    "shard cut": lambda dataset: os.truncate(dataset.train_paths[0], 2000),
    "shard gone": unlink("sotu_val_000000.bin"),
    "tokenizer of other content": lambda dataset: swap_last_byte(dataset.tokenizer_path),
    "tokenizer gone": unlink("tokenizer.model"),
}


@pytest.mark.parametrize("damage", SEEN_ON_OPENING.values(), ids=SEEN_ON_OPENING)
def test_a_damaged_dataset_is_refused_on_opening_with_the_remedy(
    copied: Dataset, tmp_path: Path, damage: Callable[[Dataset], object]
):
    damage(copied)
    for use in (open_dataset, lambda name, cache: prepare_sotu(cache, progress=False)):
        with refused(r"is damaged: .*delete that folder and run `pgolf data sotu`"):
            use(SOTU_NAME, tmp_path)
    assert prepared_datasets(tmp_path) == []


def test_a_foreign_shard_of_the_right_size_is_refused_on_opening(copied: Dataset, tmp_path: Path):
    path = copied.val_paths[0]
    path.write_bytes(b"x" * path.stat().st_size)
    with refused(r"sotu_val_000000\.bin is not a shard"):
        open_dataset(SOTU_NAME, tmp_path)


@pytest.mark.parametrize(
    ("token", "renewed", "message"),
    [
        (300, False, r"sotu_val_000000\.bin has another SHA-256"),
        (300, True, "the tokens of d6 do not give its text"),
        (1, True, "do not hold the documents"),
    ],
)
def test_one_changed_token_is_found_by_verify_though_the_hashes_were_renewed(
    copied: Dataset, tmp_path: Path, token: int, renewed: bool, message: str
):
    assert copied.verify() == "tokenizer, shards and documents; own split, 0 validation texts stand in training"
    first = next(entry for entry in copied.manifest["documents"] if entry["split"] == "val")
    tokens = load_tokens(copied.val_paths)
    assert tokens[20] != token and first["tokens"] > 20
    tokens[20] = token
    write_shard(copied.val_paths[0], tokens)
    if renewed:
        sha256 = hashlib.sha256(copied.val_paths[0].read_bytes()).hexdigest()
        manifest(lambda values: values["shards"][1].update(sha256=sha256))(copied)
    with refused(message.replace("d6", first["name"])):
        open_dataset(SOTU_NAME, tmp_path).verify()


def test_other_totals_than_the_shards_hold_are_found_by_verify(copied: Dataset, tmp_path: Path):
    manifest(lambda values: values["totals"]["train"].update(utf8_bytes=5))(copied)
    with refused("the train shards do not hold the documents"):
        open_dataset(SOTU_NAME, tmp_path).verify()


def test_a_tokenizer_of_another_size_than_the_manifest_says_is_refused(copied: Dataset, tmp_path: Path):
    manifest(lambda values: values["tokenizer"].update(vocab_size=1000))(copied)
    with refused("has 1024 pieces, not 1000"):
        open_dataset(SOTU_NAME, tmp_path).tokenizer()


@pytest.mark.parametrize(("key", "what"), [("sha256", "text"), ("group", "group")])
def test_a_text_or_group_in_both_splits_is_refused_by_name(toy: Dataset, key: str, what: str):
    documents = [dict(entry) for entry in toy.manifest["documents"]]
    assert dataset.refuse_shared_documents(documents) == {"val_texts_in_train": 0, "val_groups_in_train": 0}
    documents[-1][key] = documents[0][key]
    names = f"{documents[-1]['name']} and training document {documents[0]['name']}"
    with refused(f"validation document {names} have the same {what}"):
        dataset.refuse_shared_documents(documents)
