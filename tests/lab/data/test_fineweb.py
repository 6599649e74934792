"""Published shards as a prepared dataset, from a local folder laid out as the hub's: whole or absent, and checked."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refused import refused
from tiny_data import build_toy, die, edit, run_until_killed
from tiny_hub import NAME, PUBLISHED, SHARD_TOKENS, TRAIN_SHARDS, VOCAB, fetch, make_hub, published_model, texts

from pgolf_core.base.files import read_json
from pgolf_core.lab.data import fineweb, survey
from pgolf_core.lab.data.build import write_shard
from pgolf_core.lab.data.dataset import locked, open_dataset, prepared_datasets, validation_documents
from pgolf_core.text.shards import load_tokens

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def own_hub(hub: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(hub, tmp_path / "hub"))


def shard(hub: Path, split: str = "train", number: int = 0) -> Path:
    return hub / f"datasets/datasets/{PUBLISHED}/fineweb_{split}_{number:06d}.bin"


# ---------------------------------------------------------------------- what is there afterwards


def test_shards_and_tokenizer_are_the_published_files_under_the_name_that_recipes_use(hub: Path, tmp_path: Path):
    made = fetch(hub, tmp_path, 2)
    assert made == open_dataset(NAME, tmp_path) and made.vocab_size == VOCAB
    assert [path.read_bytes() for path in made.train_paths] == [shard(hub, "train", n).read_bytes() for n in (0, 1)]
    assert [path.read_bytes() for path in made.val_paths] == [shard(hub, "val").read_bytes()]
    model = hub / f"datasets/tokenizers/fineweb_{VOCAB}_bpe.model"
    assert made.tokenizer_path.read_bytes() == model.read_bytes() and not made.tokenizer().lossless
    text = (made.folder / "manifest.json").read_text()
    assert str(hub) not in text and str(tmp_path) not in text
    assert made.verify() == "tokenizer, shards and documents; published split, 1 validation texts stand in training"


def test_a_folder_without_the_outer_one_or_whose_folders_are_links_gives_the_same_manifest(hub: Path, tmp_path: Path):
    mirror = tmp_path / "mirror/datasets"
    mirror.mkdir(parents=True)
    for path in (hub / "datasets").iterdir():
        (mirror / path.name).symlink_to(path)
    (mirror / "back").symlink_to(mirror)
    made = [fetch(source, tmp_path / source.name) for source in (hub, hub / "datasets", mirror.parent)]
    assert len({one.manifest_sha256 for one in made}) == 1


def test_a_source_whose_name_is_not_in_utf8_is_known_again(hub: Path, tmp_path: Path):
    (tmp_path / os.fsdecode(b"d\xe9p\xf4t")).symlink_to(hub)
    first, second = (fetch(tmp_path / os.fsdecode(b"d\xe9p\xf4t"), tmp_path, revision=one) for one in (None, "main"))
    assert first == second and read_json(first.folder / "fetched.json")["folder"] == f"{tmp_path}/d\\xe9p\\xf4t"


# ---------------------------------------------------------------------- more, fewer, again


def test_a_note_of_the_source_that_is_damaged_is_as_none(own_hub: Path, tmp_path: Path):
    made = fetch(own_hub, tmp_path, 2)
    (made.folder / "fetched.json").write_text("[]")
    assert fetch(own_hub, tmp_path, 2) == made


def test_what_is_prepared_is_returned_without_looking_at_the_source(own_hub: Path, tmp_path: Path):
    made = fetch(own_hub, tmp_path, 2)
    shutil.rmtree(own_hub)
    own_hub.mkdir()
    assert fetch(own_hub, tmp_path, 2) == fetch(own_hub, tmp_path) == made
    with refused(r"manifest\.json"):
        fetch(own_hub, tmp_path, 3)
    assert open_dataset(NAME, tmp_path) == made


def test_more_shards_extend_the_dataset_and_give_what_one_fetch_gives(hub: Path, tmp_path: Path):
    fetch(hub, tmp_path / "a", 1)
    grown, at_once = fetch(hub, tmp_path / "a", 3), fetch(hub, tmp_path / "b", 3)
    assert len(grown.train_paths) == 3 and grown.manifest_sha256 == at_once.manifest_sha256
    left = {path.name for path in grown.folder.parent.iterdir()}
    assert left == {NAME, f".{NAME}.lock"}


def test_fewer_shards_or_another_source_under_a_name_are_refused(hub: Path, tmp_path: Path):
    made = fetch(hub, tmp_path, 2)
    with refused("prepared already with 2 training shards, not 1; a --name of its own"):
        fetch(hub, tmp_path, 1)
    with refused(f"prepared already, from {PUBLISHED} of willdepueoai/parameter-golf; give this"):
        fetch(hub, tmp_path, 2, repository="someone/else")
    own = build_toy(tmp_path / "datasets").name
    with refused(f"{own} is prepared already, from elsewhere; give this one another --name"):
        fetch(hub, tmp_path, name=own)
    small = fetch(hub, tmp_path, 1, name="fineweb-small")
    assert len(small.train_paths) == 1 and open_dataset(NAME, tmp_path) == made


def test_damage_under_a_name_of_ones_own_names_the_command_that_fetched_it(hub: Path, tmp_path: Path):
    os.truncate(fetch(hub, tmp_path, 1, name="mine").train_paths[0], 2000)
    with refused(r"delete that folder and run `pgolf data fineweb --name mine \.\.\.` again"):
        open_dataset("mine", tmp_path)


def test_a_second_fetch_at_the_same_time_is_told_to_wait(hub: Path, tmp_path: Path):
    with locked(tmp_path / "datasets", NAME), refused("by another process; wait for it"):
        fetch(hub, tmp_path)
    assert fetch(hub, tmp_path).name == NAME


# ---------------------------------------------------------------------- shards without a manifest


def spread(hub: Path, place: str, first: int = 0, model: str = "bpe.model") -> Path:
    """The shards and the tokenizer in other places, without a manifest; `place` has {split} and {number}."""
    other = hub / "other"
    for path in (hub / f"datasets/datasets/{PUBLISHED}").iterdir():
        _, split, number = path.stem.split("_")
        to = other / place.format(split=split, number=int(number) + first)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    if model:
        (other / model).parent.mkdir(exist_ok=True)
        shutil.copy(next(hub.rglob("fineweb_*.model")), other / model)
    return other


LAYOUTS = {
    "flat": ("fineweb_{split}_{number:06d}.bin", 0, "bpe.model"),
    "folders by split, numbers from 1": ("{split}/{number:06d}.bin", 1, "tokenizer/a.model"),
    "numbers of how many": ("{split}-{number:05d}-of-00003.BIN", 0, "a.model"),
    "as published": (f"datasets/{PUBLISHED}/x_{{split}}_{{number}}.bin", 0, f"tokenizers/fineweb_{VOCAB}_bpe.model"),
}


def test_a_manifest_beside_shards_that_lie_elsewhere_still_holds_them_to_its_counts(own_hub: Path, tmp_path: Path):
    other = spread(own_hub, "{split}_{number}.bin")
    stats(tokens_val=1116)(own_hub)
    shutil.move(own_hub / "datasets/manifest.json", other)
    made = fetch(other, tmp_path)
    assert len(made.train_paths) == 3 and made.manifest["source"]["citation"].startswith("Penedo")
    with refused("is a dataset that was prepared already; copy that folder"):
        fetch(made.folder, tmp_path, name="again")
    edit(other / "manifest.json", lambda values: values["datasets"][0]["stats"].update(files_val=2))
    with refused("there are 1 val shards, and their manifest promises 2"):
        fetch(other, tmp_path, name="again")


@pytest.mark.parametrize(("place", "first", "model"), LAYOUTS.values(), ids=LAYOUTS)
def test_shards_without_a_manifest_are_told_by_their_names_and_proved(
    own_hub: Path, hub: Path, tmp_path: Path, capsys, place: str, first: int, model: str
):
    made, known = fetch(spread(own_hub, place, first, model), tmp_path), fetch(hub, tmp_path / "known")
    assert made.name == NAME and made.manifest["shards"] == known.manifest["shards"]
    assert made.manifest["totals"] == known.manifest["totals"]
    assert made.manifest["source"]["citation"].startswith("Token shards without a manifest")
    assert "nothing says" in made.manifest["split_rule"]
    said = capsys.readouterr().err
    assert (
        "names tell the splits (3 train and 1 val shards), tokenizer" in said and "encode to their own tokens" in said
    )


def test_without_a_manifest_one_folder_and_one_tokenizer_must_be_meant(own_hub: Path, tmp_path: Path):
    other = spread(own_hub, f"datasets/{PUBLISHED}/{{split}}_{{number}}.bin", model="")
    model = next(own_hub.rglob("fineweb_*.model"))
    with refused(r"holds no tokenizer \(\.model\); name .* by --tokenizer FILE"):
        fetch(other, tmp_path)
    made = fetch(other, tmp_path, tokenizer=str(model))
    assert made.tokenizer_path.read_bytes() == model.read_bytes()
    assert fetch(other, tmp_path, tokenizer=str(model)) == made
    for name in ("a", "b"):
        shutil.copy(model, other / f"{name}.model")
    shutil.copytree(other / f"datasets/{PUBLISHED}", other / "datasets/fineweb10B_sp99")
    with refused(r"holds several tokenizers \(a\.model, b\.model\)"):
        fetch(other, tmp_path / "b")
    with refused(f"datasets/{PUBLISHED}, datasets/fineweb10B_sp99; give one of those"):
        fetch(other, tmp_path / "b", variant="sp1024")
    with refused("the tokenizer has 320 pieces, not those of sp99; give --variant sp320"):
        fetch(other, tmp_path / "b", variant="sp99", tokenizer=str(model))
    (other / "datasets/fineweb10B_sp99/train_1.bin").unlink()
    last = other / "datasets/fineweb10B_sp99/train_2.bin"
    for name in ("train_99999999999.bin", "train_2.bin"):  # numbers between which nobody counts
        last = last.rename(last.with_name(name))
        with refused("shard 1 is missing among"):
            fetch(last.parent, tmp_path / "b", tokenizer=str(model))
    shutil.copy(other / "datasets/fineweb10B_sp99/train_0.bin", other / "datasets/fineweb10B_sp99/edu_train_1.bin")
    with refused(r"edu_train_1.bin and .*train_2.bin are named unlike, as of two sources"):
        fetch(other / "datasets/fineweb10B_sp99", tmp_path / "b", tokenizer=str(model))


# ---------------------------------------------------------------------- which source


def test_another_source_with_other_files_wants_another_name_and_a_changed_one_is_taken_anew(
    hub: Path, own_hub: Path, tmp_path: Path, capsys
):
    made = fetch(hub, tmp_path)
    assert fetch(own_hub, tmp_path) == made, "another folder with the same files"
    tokens = load_tokens([shard(own_hub)])
    write_shard(shard(own_hub), np.concatenate([tokens[:-7], tokens[:7]]))
    with refused(f"prepared already, from {hub}, where fineweb_train_000000.bin is another file"):
        fetch(own_hub, tmp_path)
    changed = fetch(own_hub, tmp_path, name="mine")
    write_shard(shard(own_hub), tokens)
    capsys.readouterr()
    assert fetch(own_hub, tmp_path, name="mine").manifest["shards"] == made.manifest["shards"] != changed
    assert "fineweb_train_000000.bin is another file than before: mine is prepared anew" in capsys.readouterr().err


def test_what_a_broken_off_fetch_left_is_not_taken_for_another_sources_file(hub: Path, tmp_path: Path):
    left = tmp_path / f"datasets/.fetch-{NAME}/fineweb_train_000001.bin"
    left.parent.mkdir(parents=True)
    write_shard(left, load_tokens([shard(hub, "train", 1)])[::-1])
    assert fetch(hub, tmp_path).manifest_sha256 == fetch(hub, tmp_path / "fresh").manifest_sha256


# ---------------------------------------------------------------------- faults


def manifest(change: Callable[[dict], object]) -> Callable[[Path], object]:
    return lambda hub: edit(hub / "datasets/manifest.json", change)


def stats(**promised: int) -> Callable[[Path], object]:
    return manifest(lambda values: values["datasets"][0]["stats"].update(promised))


def model_of(hub: Path) -> Path:
    return hub / f"datasets/tokenizers/fineweb_{VOCAB}_bpe.model"


def zeros_at_the_end(hub: Path) -> None:
    tokens = load_tokens([shard(hub)])
    tokens[-200:] = 0
    write_shard(shard(hub), tokens)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:77\nsize 12345\n"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard cut": (lambda hub: os.truncate(shard(hub, "train", 1), 2000), "fineweb_train_000001.bin .*truncated"),
    "foreign shard": (lambda hub: shard(hub, "val").write_bytes(b"x" * 3000), "fineweb_val_000000.bin .*not a shard"),
    "shard gone": (lambda hub: shard(hub, "train", 2).unlink(), "holds no .*fineweb_train_000002.bin, .* fewer shards"),
    "val gone": (lambda hub: shard(hub, "val").unlink(), "holds no .*val_000000.bin, .* get that file"),
    "ids of another tokenizer": (lambda hub: write_shard(shard(hub), np.array([1, 60000])), "holds token 60000"),
    "no BOS first": (lambda hub: write_shard(shard(hub, "val"), np.array([9, 1, 9])), "do not begin with BOS"),
    "broken off": (zeros_at_the_end, "train_000000.bin holds zeros in place of tokens"),
    "other text than the tokenizer's": (
        lambda hub: write_shard(shard(hub), np.random.default_rng(0).integers(4, VOCAB, 1500)),
        "do not encode to their own tokens .first: .*train_000000.bin, position 0.: the tokenizer .* mend it there",
    ),
    "tokenizer of the same size": (
        lambda hub: model_of(hub).write_bytes(published_model(texts(40, seed=77))), "do not encode to their own tokens"
    ),
    "tokens promised": (stats(tokens_val=9999), "the val shards hold 1,116 tokens, and their manifest promises 9,999"),
    "sidecar": (
        lambda hub: shutil.copy(shard(hub, "val"), shard(hub, "val_bytes")), "val_bytes_000000.bin .* is a byte sidecar"
    ),
    "sidecar elsewhere": (
        lambda hub: shutil.copytree(shard(hub).parent, hub / "datasets/bytes/val"), "datasets/bytes/val/.* byte sidecar"
    ),
    "sidecar of another kind": (
        lambda hub: shard(hub).with_name("val_bytelen.npy").write_bytes(b"x"), "val_bytelen.npy .* is a byte sidecar"
    ),
    "no BOS at all": (lambda hub: write_shard(shard(hub, "val"), np.array([9, 9])), "the val shards hold no document"),
    "shard empty": (lambda hub: shard(hub).write_bytes(b""), "train_000000.bin .* is empty"),
    "one shard twice": (
        lambda hub: shutil.copy(shard(hub), shard(hub, "train", 1)), "_000000.bin and .*_000001.bin are the same file"
    ),
    "val out of train": (
        lambda hub: write_shard(shard(hub, "val"), load_tokens([shard(hub, "train")])[:1100]),
        "validation texts are training's: these are no splits",
    ),
    "link to nothing": (
        lambda hub: (shard(hub, "val").unlink(), shard(hub, "val").symlink_to("nowhere")), "is a link to a file that is"
    ),
    "case marks": (
        lambda hub: model_of(hub).write_bytes(published_model(texts(40), user_defined_symbols=["\ue001"])),
        r"has pieces for case marks \(U\+E001\)",
    ),
    "shard a pointer": (lambda hub: shard(hub).write_text(LFS), "train_000000.bin .*: run `git lfs pull`"),
    "model a pointer": (lambda hub: model_of(hub).write_text(LFS), "bpe.model .*: run `git lfs pull`"),
    "shard a page": (lambda hub: shard(hub).write_text(" <!DOCTYPE html>"), "train_000000.bin .* is a web page"),
    "manifest a page": (lambda hub: (hub / "datasets/manifest.json").write_text("<html>"), "is a web page"),
    "manifest cut": (lambda hub: os.truncate(hub / "datasets/manifest.json", 20), "not valid JSON"),
    "manifest a list": (lambda hub: (hub / "datasets/manifest.json").write_text("[]"), "not of the published form"),
    "no counts": (manifest(lambda values: values["datasets"][0].pop("stats")), "not of the published form"),
    "no tokenizer": (manifest(lambda values: values.update(tokenizers=[])), "not of the published form"),
    "a dataset twice": (
        manifest(lambda values: values["datasets"].append(values["datasets"][0] | {"stats": {}})),
        "twice, with different"),
    "a tokenizer twice": (
        manifest(lambda values: values["tokenizers"].append(values["tokenizers"][0] | {"model_path": "x"})),
        "twice, with different"),
    "countless shards": (stats(files_train=10**12), "not of the published form"),
    "infinitely many": (stats(files_val=float("inf")), "not of the published form"),
    "no validation": (stats(files_val=0), "0 validation shards"),
    "way out": (manifest(lambda m: m["tokenizers"][0].update(model_path="../../x")), "leads out of the repository"),
    "tokenizer foreign": (lambda hub: model_of(hub).write_bytes(b"no model"), "is not a SentencePiece model"),
    "nothing": (lambda hub: shutil.rmtree(hub / "datasets"), "holds no datasets/manifest.json, nor "),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_source_is_one_line_leaves_no_dataset_and_the_command_works_once_it_is_mended(
    hub: Path, own_hub: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
):
    damage(own_hub)
    with refused(message) as caught:
        fetch(own_hub, tmp_path)
    assert ".fetch-" not in str(caught.value)
    assert prepared_datasets(tmp_path) == []
    shutil.rmtree(own_hub)
    shutil.copytree(hub, own_hub)
    assert len(fetch(own_hub, tmp_path).train_paths) == TRAIN_SHARDS


def texts_of_caseops() -> list[str]:
    return [text.title() + " NASA ﬁ" for text in texts(6, seed=1)]


def test_caseops_shards_are_taken_with_their_sidecar_and_give_the_text_as_it_was(tmp_path: Path):
    hub = make_hub(tmp_path / "hub", caseops=True)
    made = fetch(hub, tmp_path)
    assert made.manifest["transform"] == "caseops" and made.is_changed
    assert [path.read_bytes() for path in made.sidecar_paths] == [shard(hub, "val_bytes").read_bytes()]
    original = texts_of_caseops()
    whole = sum(len(text.encode()) for text in original)
    assert made.manifest["totals"]["val"]["utf8_bytes"] == whole
    assert made.token_bytes().total(load_tokens(made.val_paths)) == whole
    back = [text for _, text in validation_documents(made)]
    assert back == [text.replace("ﬁ", "fi").replace("\n", " ") for text in original]  # NFKC stays, capitals are back
    assert len(back[0].encode()) == len(original[0].encode()) - 1, "the sidecar counts the text before NFKC"
    assert made.verify() and fetch(hub, tmp_path) == made
    assert len(fetch(hub, tmp_path / "named", name="mine").sidecar_paths) == 1
    (hub / "datasets/manifest.json").unlink()  # the names alone tell
    assert fetch(hub, tmp_path / "bare").manifest["shards"] == made.manifest["shards"]


def resized(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """The sidecar with other sizes."""

    def damage(hub: Path) -> None:
        sizes = np.fromfile(shard(hub, "val_bytes"), "<u2", offset=1024).astype(int)
        write_shard(shard(hub, "val_bytes"), change(sizes))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (resized(lambda sizes: sizes[:-1]), r"val_bytes_000000.bin holds the bytes of [\d,]+ tokens, its shard has"),
        (resized(lambda sizes: np.append(sizes, 1)), r"val_bytes_000000.bin holds the bytes of [\d,]+ tokens"),
        (resized(lambda sizes: sizes * 2), "counts [0-9,]+ bytes, and the tokens' text has"),
        (resized(lambda sizes: sizes + 1), "gives BOS bytes of text"),
        (resized(lambda sizes: np.where(np.arange(len(sizes)), sizes[::-1], 0)), "gives (BOS )?bytes of text"),
        (lambda hub: shard(hub, "val_bytes").unlink(), r"has pieces for case marks \(U\+E001\)"),
        (lambda hub: shutil.copy(shard(hub, "val"), shard(hub, "val", 1)), "holds no .*val_bytes_000001.bin, the byte"),
    ],
)
def test_a_sidecar_that_is_not_the_validation_texts_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
):
    hub = make_hub(tmp_path / "hub", caseops=True)
    (hub / "datasets/manifest.json").unlink()
    damage(hub)
    with refused(message):
        fetch(hub, tmp_path)
    assert prepared_datasets(tmp_path) == []


def test_of_a_part_of_the_shards_none_may_be_shorter_than_the_manifest_promises(own_hub: Path, tmp_path: Path, capsys):
    stats(tokens_train=3 * SHARD_TOKENS, files_train=3, files_val=1)(own_hub)
    shutil.copy(shard(own_hub, "val"), shard(own_hub, "val", 1))
    assert len(fetch(own_hub, tmp_path / "a", 2).train_paths) == 2
    said = capsys.readouterr().err
    assert "datasets/fineweb10B_sp320/fineweb_val_000001.bin\n" in said
    assert "1 of 6 validation texts stand in training too" in said
    write_shard(shard(own_hub), load_tokens([shard(own_hub)])[:900])
    with refused(r"fineweb_train_000000.bin holds 900 tokens, and by its manifest at least 1,500"):
        fetch(own_hub, tmp_path / "b", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "sp9"}, f"has no dataset fineweb10B_sp9; it has fineweb10B_byte260, {PUBLISHED}"),
        ({"variant": "byte260"}, "fineweb10B_byte260 has no SentencePiece tokenizer; choose a variant such as sp1024"),
        ({"variant": "../x"}, "cannot be a dataset's name"),
        ({"name": "sotu-sp320"}, "'sotu-sp320' is kept for the State of the Union addresses; give another --name"),
        ({"train_shards": TRAIN_SHARDS + 1}, f"--train-shards 4: {PUBLISHED} has only 3"),
        ({"train_shards": 0}, "at least one training shard"),
        ({"root": "elsewhere/.."}, "leads out of the repository"),
        ({"source": "nowhere"}, "--source nowhere is no folder"),
        ({"tokenizer": "nowhere.model"}, "tokenizer nowhere.model does not exist"),
    ],
)
def test_what_cannot_be_fetched_is_refused_in_one_line(hub: Path, tmp_path: Path, options: dict, message: str):
    with refused(message.replace(".", r"\.")):
        fetch(hub, tmp_path, **options)
    assert not list(tmp_path.rglob("*.bin")) and prepared_datasets(tmp_path) == []


def test_a_full_disk_is_seen_before_anything_is_fetched(hub: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fineweb.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    fetched = watch(monkeypatch)
    with refused(r"0\.0 GB are free in .*fewer --train-shards"):
        fetch(hub, tmp_path)
    assert fetched == ["manifest.json"]


def watch(monkeypatch) -> list[str]:
    """Names of the files that are fetched from now on."""
    fetched, fetch_file = [], fineweb.LocalHub.fetch

    def fetch_and_tell(self, path: str, *arguments):
        fetched.append(Path(path).name)
        return fetch_file(self, path, *arguments)

    monkeypatch.setattr(fineweb.LocalHub, "fetch", fetch_and_tell)
    return fetched


# ---------------------------------------------------------------------- kill -9


def die_in_a_shard(patch: pytest.MonkeyPatch) -> None:
    fetch_file = fineweb.LocalHub.fetch

    def fetch_and_die(self, path, folder, advance):
        if path.endswith("train_000001.bin"):
            (folder / "fineweb_train_000001.bin").write_bytes((self.folder / path).read_bytes()[:1500])
            die()
        return fetch_file(self, path, folder, advance)

    patch.setattr(fineweb.LocalHub, "fetch", fetch_and_die)


def die_before_the_manifest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fineweb, "survey", die)


def die_between_the_renames(patch: pytest.MonkeyPatch) -> None:
    def put_aside_and_die(folder: Path, target: Path) -> None:
        target.rename(target.with_name(f".partial-{target.name}"))
        die()

    patch.setattr(fineweb, "_put_in_place", put_aside_and_die)


def fetch_and_be_killed(where: Callable[[pytest.MonkeyPatch], None], hub: Path, cache: Path) -> None:
    run_until_killed(lambda: (where(pytest.MonkeyPatch()), fetch(hub, cache, 3)))
    assert prepared_datasets(cache) == []


@pytest.mark.parametrize("where", [die_in_a_shard, die_before_the_manifest])
def test_a_killed_fetch_goes_on_with_its_whole_files(hub: Path, tmp_path: Path, monkeypatch, where: Callable):
    fetch_and_be_killed(where, hub, tmp_path)
    with refused(f"run `pgolf data fineweb --variant sp{VOCAB}"):
        open_dataset(NAME, tmp_path)
    kept = {path.name for path in (tmp_path / f"datasets/.fetch-{NAME}").iterdir() if path.is_file()}
    assert {"fineweb_train_000000.bin"} <= kept
    fetched = watch(monkeypatch)
    made = fetch(hub, tmp_path, 3)
    assert not kept & set(fetched)
    assert made.manifest_sha256 == fetch(hub, tmp_path / "fresh", 3).manifest_sha256


def test_a_kill_while_a_grown_dataset_is_put_in_place_loses_no_file(hub: Path, tmp_path: Path, monkeypatch):
    fetch(hub, tmp_path, 1)
    fetch_and_be_killed(die_between_the_renames, hub, tmp_path)
    fetched = watch(monkeypatch)
    made = fetch(hub, tmp_path, 3)
    assert len(made.train_paths) == 3 and fetched == ["manifest.json"]
    made.verify()


# ---------------------------------------------------------------------- notebooks


def test_notebook_01_runs_on_a_fetched_dataset(hub: Path, tmp_path: Path, monkeypatch):
    """Its cells in order, in this process; a published text in both splits, and a list cut short, do not stop it."""
    monkeypatch.setattr(survey, "LISTED_TRAIN_DOCUMENTS", 12)
    made = fetch(hub, tmp_path)
    assert not made.lists_all
    parameters = {
        "recipe": str(ROOT / "tests/helpers/tiny.toml"), "overrides": [f"model.vocab_size={VOCAB}"], "data": NAME,
        "seeds": [1], "runs_dir": str(tmp_path / "runs"), "name": "tiny", "cache_dir": str(tmp_path),
    }  # fmt: skip
    names: dict[str, object] = {"__name__": "notebook"}
    for cell in json.loads((ROOT / "notebooks/01_data_and_metric.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            names |= parameters if cell["id"] == "parameters" else {}
    written = json.loads((tmp_path / "runs/local_10min_1mb/tiny/data.json").read_text())
    assert written["lossless"] is False and written["shared_passages"] is None
    assert written["train_documents"] == made.manifest["totals"]["train"]["documents"]
    assert written["val_bytes"] == made.manifest["totals"]["val"]["utf8_bytes"]


@pytest.mark.slow
def test_all_seven_notebooks_run_on_a_fetched_dataset(hub: Path, tmp_path: Path):
    from pgolf_core.lab.record.folder import RunRequest
    from pgolf_core.lab.record.notebooks import record
    from pgolf_core.lab.verify.command import verify
    from pgolf_core.lab.verify.evidence.score import How

    fetch(hub, tmp_path)
    request = RunRequest(
        str(ROOT / "tests/helpers/tiny.toml"), (f"model.vocab_size={VOCAB}",), data=NAME, runs_dir=tmp_path / "runs",
        name="tiny", cache_dir=tmp_path,
    )  # fmt: skip
    summary = record(request, [1])
    assert "normalised text" in (summary.parent / "report.md").read_text()
    rows = {row.check: row for row in verify(summary.parent, How(tmp_path))}
    rows.pop("seed 1: the text is the track's")  # it is not: the tiny recipe is on the local track
    assert [row for row in rows.values() if row.verdict != "holds"] == []
    evidence = rows["seed 1: the dataset here is the run's, and whole"].evidence
    assert "published split, 1 validation texts stand in training" in evidence
