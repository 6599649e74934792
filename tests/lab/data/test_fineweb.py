"""Published shards as a prepared dataset, from a local folder laid out as the hub's: whole or absent, and checked.

pytest tests/lab/data/test_fineweb.py (no network; tests/lab/data/test_hub.py has the hub's client)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tiny_hub import NAME, PUBLISHED, TRAIN_SHARDS, VARIANT, VOCAB, make_hub

from pgolf_core.base.files import UserError
from pgolf_core.lab import cli
from pgolf_core.lab.data import dataset, fineweb, survey
from pgolf_core.lab.data.dataset import Dataset, open_dataset, prepared_datasets, validation_documents
from pgolf_core.lab.data.fineweb import fetch_fineweb
from pgolf_core.lab.look import n01_data as analysis_data
from pgolf_core.text.shards import load_tokens, write_shard

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def own_hub(hub: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(hub, tmp_path / "hub"))


def fetch(hub: Path, cache: Path, shards: int | None = None, **options) -> Dataset:
    return fetch_fineweb(VARIANT, shards, source=hub, cache_dir=cache, progress=False, **options)


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
    for entry in (made.manifest["tokenizer"], *made.manifest["shards"]):
        assert entry["sha256"] == hashlib.sha256((made.folder / entry["file"]).read_bytes()).hexdigest()
    text = (made.folder / "manifest.json").read_text()
    assert str(hub) not in text and str(tmp_path) not in text
    assert fineweb.FAMILY == "fineweb10B" and fineweb.DEFAULT_VARIANT == "sp1024"


def test_totals_and_documents_are_those_of_a_plain_count(hub: Path, tmp_path: Path):
    made = fetch(hub, tmp_path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(made.tokenizer_path))
    for split, paths in (("train", made.train_paths), ("val", made.val_paths)):
        stream = load_tokens(paths)
        pieces = np.split(stream, np.flatnonzero(stream == 1)[1:])
        decoded = [model.decode(piece.tolist()).encode() for piece in pieces]
        listed = [entry for entry in made.manifest["documents"] if entry["split"] == split]
        assert [entry["sha256"] for entry in listed] == [hashlib.sha256(text).hexdigest() for text in decoded]
        assert [entry["utf8_bytes"] for entry in listed] == [len(text) for text in decoded]
        assert made.manifest["totals"][split] == {
            "documents": len(pieces), "utf8_bytes": sum(map(len, decoded)), "tokens": len(stream)
        }  # fmt: skip
        assert made.tokenizer().bytes.total(stream) == sum(map(len, decoded))
    assert made.manifest["disjointness"] == {"val_texts_in_train": 1} and made.has_published_split
    assert made.verify() == "tokenizer, shards and documents; published split, 1 validation texts stand in training"


@pytest.mark.parametrize("chunk", [1, 7, 1500])
def test_bytes_are_counted_alike_whatever_the_pieces_that_are_read(hub: Path, tmp_path: Path, monkeypatch, chunk: int):
    monkeypatch.setattr(survey, "CHUNK_TOKENS", chunk)
    made = fetch(hub, tmp_path, 2)
    assert made.manifest["totals"]["train"]["utf8_bytes"] == made.tokenizer().bytes.total(load_tokens(made.train_paths))


def test_of_a_large_corpus_all_validation_and_the_first_training_documents_are_listed(
    hub: Path, tmp_path: Path, monkeypatch
):
    whole = fetch(hub, tmp_path / "whole")
    monkeypatch.setattr(survey, "LISTED_TRAIN_DOCUMENTS", 3)
    made = fetch(hub, tmp_path / "large")
    assert not made.lists_all and made.manifest["totals"] == whole.manifest["totals"]
    assert made.manifest["documents"] == [
        *whole.manifest["documents"][:3], *(e for e in whole.manifest["documents"] if e["split"] == "val")
    ]  # fmt: skip
    assert validation_documents(made) == validation_documents(whole) and len(validation_documents(made)) == 6
    assert "all val and 3 train documents; published split, 1 validation texts" in made.verify()
    table = analysis_data.totals_table(made.manifest)
    assert table.loc["train", "documents"] == whole.manifest["totals"]["train"]["documents"] > 3
    manifest = json.loads((made.folder / "manifest.json").read_text())
    manifest["disjointness"]["val_texts_in_train"] = 0
    (made.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="1 validation texts stand in training, 0 by its manifest"):
        open_dataset(NAME, tmp_path / "large").verify()


def test_a_folder_without_the_outer_one_gives_the_same_manifest(hub: Path, tmp_path: Path):
    first = fetch(hub, tmp_path / "a")
    second = fetch(hub / "datasets", tmp_path / "b")
    assert first.manifest_sha256 == second.manifest_sha256


# ---------------------------------------------------------------------- more, fewer, again


def test_what_is_prepared_is_returned_without_looking_at_the_source(own_hub: Path, tmp_path: Path):
    made = fetch(own_hub, tmp_path, 2)
    shutil.rmtree(own_hub)
    own_hub.mkdir()
    assert fetch(own_hub, tmp_path, 2) == fetch(own_hub, tmp_path) == made
    with pytest.raises(UserError, match=r"manifest\.json"):
        fetch(own_hub, tmp_path, 3)
    assert open_dataset(NAME, tmp_path) == made


def test_more_shards_extend_the_dataset_and_give_what_one_fetch_gives(hub: Path, tmp_path: Path):
    fetch(hub, tmp_path / "a", 1)
    grown, at_once = fetch(hub, tmp_path / "a", 3), fetch(hub, tmp_path / "b", 3)
    assert len(grown.train_paths) == 3 and grown.manifest_sha256 == at_once.manifest_sha256
    left = {path.name for path in grown.folder.parent.iterdir()}
    assert left == {NAME, f".fetch-{NAME}.lock"}


def test_fewer_shards_or_another_repository_under_the_name_are_refused_and_another_name_helps(
    hub: Path, tmp_path: Path
):
    made = fetch(hub, tmp_path, 2)
    with pytest.raises(UserError, match="prepared already with 2 training shards, not 1; a --name of its own"):
        fetch(hub, tmp_path, 1)
    with pytest.raises(
        UserError, match=f"prepared already, from {PUBLISHED} of willdepueoai/parameter-golf; give this"
    ):
        fetch(hub, tmp_path, 2, repository="someone/else")
    small = fetch(hub, tmp_path, 1, name="fineweb-small")
    assert len(small.train_paths) == 1 and open_dataset(NAME, tmp_path) == made


def test_a_second_fetch_at_the_same_time_is_told_to_wait(hub: Path, tmp_path: Path):
    with (
        fineweb._locked(tmp_path / "datasets", NAME),
        pytest.raises(UserError, match="by another process; wait for it"),
    ):
        fetch(hub, tmp_path)
    assert fetch(hub, tmp_path).name == NAME


# ---------------------------------------------------------------------- faults


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def damage(hub: Path) -> None:
        path = hub / "datasets/manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return damage


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard cut": (lambda hub: os.truncate(shard(hub, "train", 1), 2000), "fineweb_train_000001.bin .*truncated"),
    "foreign shard": (lambda hub: shard(hub, "val").write_bytes(b"x" * 3000), "fineweb_val_000000.bin .*not a shard"),
    "shard gone": (lambda hub: shard(hub, "train", 2).unlink(), "holds no .*fineweb_train_000002.bin, .* fewer shards"),
    "ids of another tokenizer": (lambda hub: write_shard(shard(hub), np.array([1, 60000])), "holds token 60000"),
    "no BOS first": (lambda hub: write_shard(shard(hub, "val"), np.array([9, 1, 9])), "do not begin with BOS"),
    "no manifest": (lambda hub: (hub / "datasets/manifest.json").unlink(), "holds no datasets/manifest.json; check"),
    "manifest cut": (lambda hub: os.truncate(hub / "datasets/manifest.json", 20), "not valid JSON"),
    "manifest a list": (lambda hub: (hub / "datasets/manifest.json").write_text("[]"), "not of the published form"),
    "no counts": (edit(lambda manifest: manifest["datasets"][0].pop("stats")), "not of the published form"),
    "no tokenizer": (edit(lambda manifest: manifest.update(tokenizers=[])), "not of the published form"),
    "no validation": (edit(lambda m: m["datasets"][0]["stats"].update(files_val=0)), "0 validation shards"),
    "way out": (edit(lambda m: m["tokenizers"][0].update(model_path="../../x")), "leads out of the repository"),
    "tokenizer foreign": (
        lambda hub: (hub / f"datasets/tokenizers/fineweb_{VOCAB}_bpe.model").write_bytes(b"no model"),
        "is not a SentencePiece model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_source_is_one_line_leaves_no_dataset_and_the_command_works_once_it_is_mended(
    hub: Path, own_hub: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
):
    damage(own_hub)
    with pytest.raises(UserError, match=message) as caught:
        fetch(own_hub, tmp_path)
    assert "\n" not in str(caught.value)
    assert prepared_datasets(tmp_path) == []
    assert fetch(hub, tmp_path).manifest_sha256 == fetch(hub, tmp_path / "fresh").manifest_sha256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "sp9"}, f"has no dataset fineweb10B_sp9; it has fineweb10B_byte260, {PUBLISHED}"),
        ({"variant": "byte260"}, "fineweb10B_byte260 has no SentencePiece tokenizer; choose a variant such as sp1024"),
        ({"variant": "../x"}, "cannot be a dataset's name"),
        ({"train_shards": TRAIN_SHARDS + 1}, f"--train-shards 4: {PUBLISHED} has only 3"),
        ({"train_shards": 0}, "at least one training shard"),
        ({"root": "elsewhere/.."}, "leads out of the repository"),
        ({"source": "nowhere"}, "--source nowhere is no folder"),
    ],
)
def test_what_cannot_be_fetched_is_refused_in_one_line(hub: Path, tmp_path: Path, options: dict, message: str):
    with pytest.raises(UserError, match=message.replace(".", r"\.")) as caught:
        fetch_fineweb(**{"variant": VARIANT, "source": hub, "cache_dir": tmp_path, "progress": False} | options)
    assert "\n" not in str(caught.value) and prepared_datasets(tmp_path) == []


def test_a_full_disk_is_seen_before_anything_is_fetched(hub: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fineweb.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    monkeypatch.setattr(fineweb.LocalHub, "fetch", forbid_shards(fineweb.LocalHub.fetch))
    with pytest.raises(UserError, match=r"0\.0 GB are free in .*fewer --train-shards"):
        fetch(hub, tmp_path)


def forbid_shards(fetch_file: Callable) -> Callable:
    def only_the_manifest(self, path: str, *arguments):
        assert not path.endswith(".bin"), f"{path} was fetched"
        return fetch_file(self, path, *arguments)

    return only_the_manifest


# ---------------------------------------------------------------------- kill -9

KILLED_IN_A_SHARD = """
import os, signal, sys
from pgolf_core.lab import fineweb, hub
fetch = hub.LocalHub.fetch
def fetch_and_die(self, path, folder, advance):
    if path.endswith("train_000001.bin"):
        (folder / "fineweb_train_000001.bin").write_bytes((self.folder / path).read_bytes()[:1500])
        os.kill(os.getpid(), signal.SIGKILL)
    return fetch(self, path, folder, advance)
hub.LocalHub.fetch = fetch_and_die
"""
KILLED_BEFORE_THE_MANIFEST = """
import os, signal, sys
from pgolf_core.lab import fineweb
fineweb.survey = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BETWEEN_THE_RENAMES = """
import os, signal, sys
from pgolf_core.lab import fineweb
def put_aside_and_die(folder, target):
    target.rename(target.with_name(".partial-" + target.name))
    os.kill(os.getpid(), signal.SIGKILL)
fineweb._put_in_place = put_aside_and_die
"""
CALL = "\nfineweb.fetch_fineweb(sys.argv[1], 3, source=sys.argv[2], cache_dir=sys.argv[3], progress=False)\n"


def run_and_be_killed(script: str, *arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("script", [KILLED_IN_A_SHARD, KILLED_BEFORE_THE_MANIFEST], ids=["in a shard", "at the end"])
def test_a_killed_fetch_leaves_no_dataset_and_goes_on_with_its_whole_files(
    hub: Path, tmp_path: Path, monkeypatch, script: str
):
    run_and_be_killed(script + CALL, VARIANT, hub, tmp_path)
    assert prepared_datasets(tmp_path) == []
    with pytest.raises(UserError, match=f"run `pgolf data fineweb --variant {VARIANT}"):
        open_dataset(NAME, tmp_path)
    kept = {path.name for path in (tmp_path / f"datasets/.fetch-{NAME}").iterdir() if path.is_file()}
    assert {"fineweb_train_000000.bin"} <= kept
    copied, fetch_file = [], fineweb.LocalHub.fetch
    monkeypatch.setattr(
        fineweb.LocalHub,
        "fetch",
        lambda self, path, *rest: copied.append(Path(path).name) or fetch_file(self, path, *rest),
    )
    made = fetch(hub, tmp_path, 3)
    assert not kept & set(copied)
    assert made.manifest_sha256 == fetch(hub, tmp_path / "fresh", 3).manifest_sha256
    made.verify()


def test_a_kill_while_a_grown_dataset_is_put_in_place_loses_no_file(hub: Path, tmp_path: Path, monkeypatch):
    fetch(hub, tmp_path, 1)
    run_and_be_killed(KILLED_BETWEEN_THE_RENAMES + CALL, VARIANT, hub, tmp_path)
    assert prepared_datasets(tmp_path) == []
    monkeypatch.setattr(fineweb.LocalHub, "fetch", forbid_shards(fineweb.LocalHub.fetch))
    made = fetch(hub, tmp_path, 3)
    assert len(made.train_paths) == 3
    made.verify()


def test_a_dataset_is_never_swept_while_it_is_being_fetched(hub: Path, tmp_path: Path):
    folder = tmp_path / "datasets" / f".fetch-{NAME}"
    folder.mkdir(parents=True)
    shutil.copy(shard(hub), folder)
    os.utime(folder, (time.time() - 7200,) * 2)
    with dataset.staged(tmp_path / "datasets", "other"):
        pass
    assert (folder / "fineweb_train_000000.bin").exists()


# ---------------------------------------------------------------------- commands and notebooks


def test_the_command_prints_what_it_made_as_text_and_as_json(hub: Path, tmp_path: Path, capsys):
    arguments = ["data", "fineweb", "--variant", VARIANT, "--source", str(hub), "--cache", str(tmp_path)]
    assert cli.main([*arguments, "--train-shards", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == NAME and row["totals"]["train"]["tokens"] == 3000
    assert cli.main(arguments) == 0
    assert f"{NAME} (manifest {row['manifest_sha256'][:8]})" in capsys.readouterr().out
    assert cli.main([*arguments, "--train-shards", "0"]) == 2
    assert "'0' is not a whole number of at least 1" in capsys.readouterr().err


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
def test_all_seven_notebooks_run_on_a_fetched_dataset_and_the_report_names_the_normalised_text(
    hub: Path, tmp_path: Path
):
    from pgolf_core.lab.record.notebooks import record
    from pgolf_core.lab.verify.command import verify
    from pgolf_core.lab.verify.evidence.score import How

    fetch(hub, tmp_path)
    summary = record(
        str(ROOT / "tests/helpers/tiny.toml"), [1],
        [f"model.vocab_size={VOCAB}"], NAME, tmp_path / "runs", "tiny", tmp_path,
        progress=False,
    )  # fmt: skip
    assert "normalised text" in (summary.parent / "report.md").read_text()
    rows = {row.check: row for row in verify(summary.parent, How(tmp_path))}
    rows.pop("seed 1: the text is the track's")  # it is not: the tiny recipe is on the local track
    assert [row for row in rows.values() if row.verdict != "holds"] == []
    evidence = rows["seed 1: the dataset here is the run's, and whole"].evidence
    assert "published split, 1 validation texts stand in training" in evidence
