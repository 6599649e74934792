"""Published shards of FineWeb tokens with their tokenizer, fetched as a prepared dataset (SEEDS 14).

Files gather in a hidden folder beside the dataset's place, each renamed to its name when it is whole and checked, so a
fetch that was killed goes on with the files that it has. The folder becomes the dataset when all of them are there.
manifest.json holds nothing of the way they came: the same files give the same manifest, from the hub or a local copy.
fetched.json beside it says where they were fetched, and of which commit.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pgolf_core.base.files import UserError, explain_os_errors, read_json, sha256_file, write_json
from pgolf_core.lab.data.dataset import (
    MANIFEST,
    MANIFEST_FORMAT,
    PARTIAL,
    TOKENIZER_FILE,
    Dataset,
    datasets_root,
    is_dataset_name,
    load_dataset,
    prepared_datasets,
)
from pgolf_core.lab.data.hub import Hub, HuggingFaceHub, LocalHub, RemoteFile, link_or_copy
from pgolf_core.lab.data.survey import SPLITS, file_entry, long_bar, survey
from pgolf_core.text.shards import shard_tokens
from pgolf_core.text.tokenizer import Tokenizer

REPOSITORY = "willdepueoai/parameter-golf"
ROOT = "datasets"
FAMILY = "fineweb10B"
DEFAULT_VARIANT = "sp1024"
DEFAULT_TRAIN_SHARDS = 80
FETCHED = "fetched.json"
FINEWEB_CITATION = (
    "Penedo, G., et al. The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale. 2024, "
    "arXiv 2406.17557; ODC-By 1.0. Token shards as published in dataset repository {repository}"
)
PUBLISHED_SPLIT_RULE = (
    "Published split, kept as it is: one frozen, shuffled list of documents, of which the first 50,000 are validation; "
    "N training shards are the first N of that list."
)


@dataclass(frozen=True)
class Published:
    """What a repository's manifest says of one dataset."""

    name: str
    tokenizer_name: str
    model: str
    """Path of the SentencePiece model inside the repository."""
    shards: dict[str, list[str]]
    """Paths of the shards of each split, in order."""


def fetch_fineweb(
    variant: str = DEFAULT_VARIANT,
    train_shards: int | None = None,
    *,
    repository: str = REPOSITORY,
    revision: str | None = None,
    root: str = ROOT,
    source: Path | str | None = None,
    name: str = "",
    cache_dir: Path | str | None = None,
    progress: bool = True,
    endpoint: str | None = None,
) -> Dataset:
    """The published dataset `fineweb10B_<variant>` with its first `train_shards` shards (default: at most 80).

    A `variant` with an underscore is a published dataset's full name. `source` is a local folder laid out as the
    repository, used instead of the hub; `root` the folder inside the repository. What is prepared already is returned
    without asking the hub; asking for more shards fetches only those. Raises UserError for everything that is missing,
    damaged on arrival, or prepared under that name with more shards or from another repository.
    """
    published_name = variant if "_" in variant else f"{FAMILY}_{variant}"
    name = name or published_name.replace("_", "-")
    if not is_dataset_name(name) or "/" in published_name:
        raise UserError(f"'{name}' cannot be a dataset's name; use letters, digits and . _ + -")
    if train_shards is not None and train_shards < 1:
        raise UserError(f"--train-shards {train_shards}: at least one training shard is needed")
    place = datasets_root(cache_dir)
    wanted = {"repository": repository, "dataset": published_name}
    with _locked(place, name):
        if present := _present(place / name, wanted, train_shards, revision):
            return present
        hub: Hub = LocalHub(source) if source else HuggingFaceHub(repository, revision, endpoint)
        published = _read_manifest(hub, root, published_name, train_shards)
        known = _by_sha256(cache_dir)
        folder = place / f".fetch-{name}"
        with explain_os_errors(f"cannot prepare {name} in {place} (PGOLF_CACHE or --cache)"):
            _gather(hub, published, folder, known, progress)
            about = {"name": name, "source": wanted | {"citation": FINEWEB_CITATION.format(repository=repository)}}
            manifest = _describe(folder, published, about, progress)
            origin = "local folder" if source else "hub"
            write_json(folder / FETCHED, {"from": origin, "repository": repository, "revision": hub.revision})
            write_json(folder / MANIFEST, manifest)
            _put_in_place(folder, place / name)
        return load_dataset(place / name)


def _present(target: Path, wanted: dict[str, str], train_shards: int | None, revision: str | None) -> Dataset | None:
    """The dataset that is there, if it is the one asked for; None if there is more to fetch."""
    if not target.is_dir():
        return None
    dataset = load_dataset(target)
    found = {key: dataset.manifest["source"].get(key) for key in wanted}
    if found != wanted:
        origin = " of ".join(str(value) for value in reversed(found.values()))
        raise UserError(f"{target.name} is prepared already, from {origin}; give this one another --name")
    count = len(dataset.train_paths)
    if train_shards is not None and train_shards < count:
        raise UserError(
            f"{target.name} is prepared already with {count} training shards, not {train_shards}; "
            "a --name of its own gives a smaller one, whose files are linked, not fetched"
        )
    fetched = target / FETCHED
    same = revision is None or (fetched.is_file() and read_json(fetched).get("revision") == revision)
    return dataset if same and train_shards in (None, count) else None


# ---------------------------------------------------------------------- what the repository promises


def _read_manifest(hub: Hub, root: str, name: str, train_shards: int | None) -> Published:
    """One dataset of the repository's manifest; every path in it is checked before use."""
    root = root.strip("/")
    if isinstance(hub, LocalHub) and not hub.exists(_join(root, MANIFEST)) and hub.exists(MANIFEST):
        root = ""  # the published scripts download into a folder without the outer one
    manifest = _fetch_json(hub, _join(root, MANIFEST))
    try:
        found = {str(entry["name"]): entry for entry in manifest["datasets"]}
        tokenizers = {str(entry["name"]): entry for entry in manifest["tokenizers"]}
        if name not in found:
            raise UserError(f"{hub.label} has no dataset {name}; it has {', '.join(sorted(found)) or 'none'}")
        counts = {split: int(found[name]["stats"][f"files_{split}"]) for split in SPLITS}
        tokenizer_name = str(found[name]["tokenizer_name"])
        model = tokenizers[tokenizer_name].get("model_path")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{_join(root, MANIFEST)} of {hub.label} is not of the published form (SEEDS 14)") from None
    if not model:
        raise UserError(f"{name} has no SentencePiece tokenizer; choose a variant such as {DEFAULT_VARIANT}")
    if train_shards is not None and train_shards > counts["train"]:
        raise UserError(f"--train-shards {train_shards}: {name} has only {counts['train']} in {hub.label}")
    counts["train"] = train_shards or min(counts["train"], DEFAULT_TRAIN_SHARDS)
    shards = {
        split: [_join(root, f"datasets/{name}/fineweb_{split}_{number:06d}.bin") for number in range(counts[split])]
        for split in SPLITS
    }
    if not all(shards.values()):
        raise UserError(f"{name} of {hub.label} has {counts['train']} training and {counts['val']} validation shards")
    return Published(name, tokenizer_name, _join(root, str(model)), shards)


def _join(root: str, path: str) -> str:
    joined = PurePosixPath(root) / path
    if joined.is_absolute() or ".." in joined.parts:
        raise UserError(f"'{joined}' leads out of the repository; its manifest or --root is wrong")
    return str(joined)


def _fetch_json(hub: Hub, path: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        if not hub.exists(path):
            raise UserError(f"{hub.label} holds no {path}; check --root")
        return read_json(hub.fetch(path, Path(folder), lambda size: None))


# ---------------------------------------------------------------------- fetching


def _gather(hub: Hub, published: Published, folder: Path, known: dict[str, Path], progress: bool) -> None:
    """Every file of the dataset in `folder`, checked; what is there already, or in another dataset, is not fetched."""
    names = {path: Path(path).name for paths in published.shards.values() for path in paths}
    names[published.model] = TOKENIZER_FILE
    files = hub.describe(list(names))
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():  # of a fetch that was killed, or that was of other shards
        if left.is_dir():
            shutil.rmtree(left)
        elif left.name not in names.values():
            left.unlink()
    missing = [path for path in names if not _is_whole(folder / names[path], files[path])]
    _check_space(folder, [files[path] for path in missing if files[path].sha256 not in known])
    done = sum(file.size_bytes for file in files.values())
    done -= sum(files[path].size_bytes for path in missing)
    with long_bar(sum(file.size_bytes for file in files.values()), published.name, progress, "B") as bar:
        bar.update(done)
        for path in sorted(missing):
            _obtain(hub, files[path], folder / names[path], known, bar.update)
            done += files[path].size_bytes
            bar.update(done - bar.n)


def _obtain(hub: Hub, file: RemoteFile, target: Path, known: dict[str, Path], advance: Any) -> None:
    """One file at its name, after its size, hash and header were found right."""
    incoming = target.parent / ".incoming"
    incoming.mkdir(exist_ok=True)
    if file.sha256 in known:
        arrived = incoming / target.name
        link_or_copy(known[file.sha256], arrived)
    else:
        arrived = hub.fetch(file.path, incoming, advance)
    fault = _fault(arrived, file)
    if fault:
        raise UserError(f"{file.path} from {hub.label} {fault}; give the same command again, or another --revision")
    arrived.replace(target)
    shutil.rmtree(incoming)


def _fault(path: Path, file: RemoteFile) -> str:
    """What is wrong with a file that has arrived; empty if nothing."""
    size = path.stat().st_size
    if size != file.size_bytes:
        return f"has {size:,} bytes, not {file.size_bytes:,}"
    if file.sha256 and sha256_file(path) != file.sha256:
        return f"has not the SHA-256 {file.sha256:.12}… that it should have"
    if file.path.endswith(".bin"):
        try:
            shard_tokens(path)
        except UserError as error:
            return f"is no whole shard ({str(error).partition(';')[0]})"
    return ""


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether a file of an earlier, killed fetch can be kept."""
    return path.is_file() and not _fault(path, file)


def _check_space(folder: Path, files: list[RemoteFile]) -> None:
    needed, free = sum(file.size_bytes for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{needed / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are free in {folder.parent}; "
            "ask for fewer --train-shards or choose another --cache"
        )


def _by_sha256(cache_dir: Path | str | None) -> dict[str, Path]:
    """Files of every prepared dataset by hash, so that none is fetched twice."""
    return {
        entry["sha256"]: dataset.folder / entry["file"]
        for dataset in prepared_datasets(cache_dir)
        for entry in dataset.manifest["shards"]
    }


def _describe(folder: Path, published: Published, about: dict[str, Any], progress: bool) -> dict[str, Any]:
    """The manifest of a folder that holds every file."""
    tokenizer = Tokenizer(folder / TOKENIZER_FILE)
    shards = {split: [folder / Path(path).name for path in published.shards[split]] for split in SPLITS}
    found = survey(shards, tokenizer, lambda split, index: f"{split}-{index:06d}", progress)
    about_tokenizer = {"vocab_size": tokenizer.vocab_size, "kind": "sentencepiece-bpe", "lossless": tokenizer.lossless}
    return {
        "format": MANIFEST_FORMAT,
        **about,
        "split_rule": PUBLISHED_SPLIT_RULE,
        "published_split": True,
        "tokenizer": file_entry(tokenizer.path) | about_tokenizer | {"published_as": published.tokenizer_name},
        **found,
    }


def _put_in_place(folder: Path, target: Path) -> None:
    """Make `folder` the dataset. One that it grew out of is put aside first: a kill in between loses no file."""
    if not target.is_dir():
        folder.rename(target)
        return
    aside = target.with_name(f"{PARTIAL}{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    target.rename(aside)
    folder.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _locked(place: Path, name: str) -> Iterator[None]:
    """One fetch of a dataset at a time; the lock is the kernel's, so it goes with a killed process."""
    with explain_os_errors(f"cannot prepare {name} in {place} (PGOLF_CACHE or --cache)"):
        place.mkdir(parents=True, exist_ok=True)
        lock = open(place / f".fetch-{name}.lock", "w")  # noqa: SIM115  closed below
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{name} is being fetched into {place} by another process; wait for it") from None
        yield
