"""Published shards of FineWeb tokens with their tokenizer, fetched as a prepared dataset.

Files gather in a hidden folder beside the dataset's place, each renamed to its name when it is whole and checked, so a
fetch that was killed goes on with the files that it has. The folder becomes the dataset when all of them are there.
manifest.json holds nothing of the way they came: the same files give the same manifest, from the hub or a local copy.
fetched.json beside it says where they were fetched, and of which commit. The layout of a repository is in
papers/machinery.md, Shards.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pgolf_core.base.files import UserError, read_json, sha256_file, write_json
from pgolf_core.lab.data.dataset import (
    PARTIAL,
    Dataset,
    datasets_root,
    is_dataset_name,
    load_dataset,
    locked,
    prepared_datasets,
)
from pgolf_core.lab.data.hub import Hub, HuggingFaceHub, LocalHub, RemoteFile
from pgolf_core.lab.data.survey import MANIFEST, SPLITS, TOKENIZER_FILE, Split, long_bar, survey
from pgolf_core.text.shards import shard_tokens
from pgolf_core.text.tokenizer import Tokenizer

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
class FinewebRequest:
    """Which published shards are wanted, and from where."""

    variant: str = DEFAULT_VARIANT
    """The dataset fineweb10B_<variant>; with an underscore, a published dataset's full name."""
    train_shards: int | None = None
    """The first N; None for what is there, or at most DEFAULT_TRAIN_SHARDS of what is published."""
    repository: str = "willdepueoai/parameter-golf"
    """On the hub, as OWNER/NAME."""
    revision: str | None = None
    """Its branch, tag or commit; None for the newest."""
    root: str = "datasets"
    """Folder inside the repository that its manifest lies in."""
    source: Path | str | None = None
    """A local folder laid out as the repository, used instead of the hub."""
    name: str = ""
    """Of the dataset; by default the published one with hyphens, as recipes call it."""

    @property
    def published_name(self) -> str:
        """Of the dataset, in the repository."""
        return self.variant if "_" in self.variant else f"fineweb10B_{self.variant}"


def fetch_fineweb(request: FinewebRequest, cache_dir: Path | str | None = None, progress: bool = True) -> Dataset:
    """The published dataset that is asked for, prepared.

    What is prepared already is returned without asking the hub; asking for more shards fetches only those. Raises
    UserError for everything that is missing, damaged on arrival, or prepared under that name with more shards or from
    another repository.
    """
    name, count = request.name or request.published_name.replace("_", "-"), request.train_shards
    if not is_dataset_name(name) or "/" in request.published_name:
        raise UserError(f"'{name}' cannot be a dataset's name; use letters, digits and . _ + -")
    if count is not None and count < 1:
        raise UserError(f"--train-shards {count}: at least one training shard is needed")
    target = datasets_root(cache_dir) / name
    if present := _present(target, request):
        return present
    with locked(target.parent, name, wait_seconds=0):
        hub = LocalHub(request.source) if request.source else HuggingFaceHub(request.repository, request.revision)
        folder = target.with_name(f".fetch-{name}")
        tokenizer_name, files = _promised(hub, request)
        _gather(hub, files, folder, prepared_datasets(cache_dir), progress)
        source = {"repository": request.repository, "dataset": request.published_name}
        source["citation"] = FINEWEB_CITATION.format(repository=request.repository)
        about = {"name": name, "source": source, "split_rule": PUBLISHED_SPLIT_RULE, "published_split": True}
        tokenizer = Tokenizer(folder / TOKENIZER_FILE)
        splits = [Split(split, sorted(folder.glob(f"*_{split}_*.bin")), tokenizer, progress) for split in SPLITS]
        about_tokenizer = {"kind": "sentencepiece-bpe", "published_as": tokenizer_name}
        manifest = survey(about, about_tokenizer, splits, "{}-{:06d}".format)
        origin = {"from": "local folder" if request.source else "hub", "repository": request.repository}
        write_json(folder / FETCHED, origin | {"revision": hub.revision})
        write_json(folder / MANIFEST, manifest)
        _put_in_place(folder, target)
    return load_dataset(target)


def _present(target: Path, request: FinewebRequest) -> Dataset | None:
    """The dataset that is there, if it is the one asked for; None if there is more to fetch."""
    if not target.is_dir():
        return None
    dataset, wanted = load_dataset(target), request.train_shards
    source, count = dataset.manifest["source"], len(dataset.train_paths)
    if (source.get("repository"), source.get("dataset")) != (request.repository, request.published_name):
        origin = f"{source.get('dataset')} of {source.get('repository')}"
        raise UserError(f"{target.name} is prepared already, from {origin}; give this one another --name")
    if wanted is not None and wanted < count:
        raise UserError(
            f"{target.name} is prepared already with {count} training shards, not {wanted}; "
            "a --name of its own gives a smaller one, whose files are linked, not fetched"
        )
    fetched, revision = target / FETCHED, request.revision
    same = revision is None or (fetched.is_file() and read_json(fetched).get("revision") == revision)
    return dataset if same and wanted in (None, count) else None


# ---------------------------------------------------------------------- what the repository promises


def _promised(hub: Hub, request: FinewebRequest) -> tuple[str, dict[str, str]]:
    """The tokenizer's name and, by their paths in the repository, the names of a dataset's files: what the
    repository's manifest says of it, every path checked.
    """
    name, wanted, root = request.published_name, request.train_shards, request.root.strip("/")
    if isinstance(hub, LocalHub) and not (hub.folder / root / MANIFEST).is_file() and (hub.folder / MANIFEST).is_file():
        root = ""  # the published scripts download into a folder without the outer one
    path = _join(root, MANIFEST)
    with tempfile.TemporaryDirectory() as folder:
        manifest = read_json(hub.fetch(path, Path(folder), lambda size: None))
    try:
        found = {str(entry["name"]): entry for entry in manifest["datasets"]}
        tokenizers = {str(entry["name"]): entry for entry in manifest["tokenizers"]}
        if name not in found:
            raise UserError(f"{hub.label} has no dataset {name}; it has {', '.join(sorted(found)) or 'none'}")
        counts = {split: int(found[name]["stats"][f"files_{split}"]) for split in SPLITS}
        tokenizer_name = str(found[name]["tokenizer_name"])
        model = tokenizers[tokenizer_name].get("model_path")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} of {hub.label} is not of the published form; check --root") from None
    if not model:
        raise UserError(f"{name} has no SentencePiece tokenizer; choose a variant such as {DEFAULT_VARIANT}")
    if wanted is not None and wanted > counts["train"]:
        raise UserError(f"--train-shards {wanted}: {name} has only {counts['train']} in {hub.label}")
    counts["train"] = wanted or min(counts["train"], DEFAULT_TRAIN_SHARDS)
    if not all(counts.values()):
        raise UserError(f"{name} of {hub.label} has {counts['train']} training and {counts['val']} validation shards")
    files = [f"fineweb_{split}_{number:06d}.bin" for split in SPLITS for number in range(counts[split])]
    paths = {_join(root, f"datasets/{name}/{file}"): file for file in files}
    return tokenizer_name, paths | {_join(root, str(model)): TOKENIZER_FILE}


def _join(root: str, path: str) -> str:
    joined = PurePosixPath(root) / path
    if joined.is_absolute() or ".." in joined.parts:
        raise UserError(f"'{joined}' leads out of the repository; its manifest or --root is wrong")
    return str(joined)


# ---------------------------------------------------------------------- fetching


def _gather(hub: Hub, names: dict[str, str], folder: Path, prepared: Sequence[Dataset], progress: bool) -> None:
    """Every file in `folder`, checked; what is there already, or in another dataset, is not fetched."""
    files = hub.describe(list(names))
    known = {entry["sha256"]: one.folder / entry["file"] for one in prepared for entry in one.manifest["shards"]}
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():  # of a fetch that was killed, or that was of other shards
        if left.is_dir():
            shutil.rmtree(left)
        elif left.name not in names.values():
            left.unlink()
    for path, file in files.items():
        if file.sha256 in known and not (folder / names[path]).exists():
            with contextlib.suppress(OSError):  # where the file system has no links, it is fetched
                (folder / names[path]).hardlink_to(known[file.sha256])
    missing = {path: file for path, file in sorted(files.items()) if _fault(folder / names[path], file)}
    needed, free = sum(file.size_bytes for file in missing.values()), shutil.disk_usage(folder).free
    if needed > free:
        fault = f"{needed / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are free in {folder.parent}"
        raise UserError(f"{fault}; ask for fewer --train-shards or choose another --cache")
    done = sum(file.size_bytes for file in files.values()) - needed
    with long_bar(done + needed, "fetching", progress, "B") as bar:
        bar.update(done)
        for path, file in missing.items():
            with tempfile.TemporaryDirectory(dir=folder) as incoming:
                arrived = hub.fetch(path, Path(incoming), bar.update)
                if fault := _fault(arrived, file):
                    remedy = "give the same command again, or another --revision"
                    raise UserError(f"{path} from {hub.label} {fault}; {remedy}")
                arrived.replace(folder / names[path])
            done += file.size_bytes
            bar.update(done - bar.n)


def _fault(path: Path, file: RemoteFile) -> str:
    """What is wrong with a file that has arrived; empty if nothing."""
    size = path.stat().st_size if path.is_file() else 0
    if size != file.size_bytes or not size:
        return f"has {size:,} bytes, not {file.size_bytes:,}"
    if file.sha256 and sha256_file(path) != file.sha256:
        return f"has not the SHA-256 {file.sha256:.12}… that it should have"
    if path.suffix == ".bin":
        try:
            shard_tokens(path)
        except UserError as error:
            return f"is no whole shard ({str(error).partition(';')[0]})"
    return ""


def _put_in_place(folder: Path, target: Path) -> None:
    """Make `folder` the dataset. One that it grew out of is put aside first: a kill in between loses no file."""
    aside = target.with_name(f"{PARTIAL}{target.name}")
    if target.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    folder.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
