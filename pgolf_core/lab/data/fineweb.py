"""Published shards of FineWeb tokens with their tokenizer, or others in their form, fetched as a prepared dataset.

Files gather in a hidden folder beside the dataset's place, each renamed to its name when it is whole and checked, so a
fetch that was killed goes on with the files that it has. The folder becomes the dataset when all of them are there.
manifest.json holds nothing of the way they came: the same files give the same manifest, from the hub or a local copy.
fetched.json beside it says where they were fetched, and of which commit. The layout of a repository is in
papers/machinery.md, Shards; where it has no manifest, names tell the splits and a sample proves the tokenizer.
"""

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, read_json, sha256_file, told_by, write_bytes, write_json
from pgolf_core.lab.data.dataset import (
    FETCHED,
    PARTIAL,
    Dataset,
    datasets_root,
    is_dataset_name,
    is_sotu_name,
    load_dataset,
    locked,
    prepared_datasets,
)
from pgolf_core.lab.data.hub import (
    FinewebRequest,
    Hub,
    HuggingFaceHub,
    LocalHub,
    Promised,
    RemoteFile,
    find_dataset,
    shard_name,
)
from pgolf_core.lab.data.survey import SPLITS, TOKENIZER_FILE, Split, long_bar, survey
from pgolf_core.lab.shared.places import MANIFEST
from pgolf_core.lab.shared.usage import note
from pgolf_core.text.caseops import CASEOPS, CaseTokenizer
from pgolf_core.text.shards import NEEDS_SIDECAR, is_sidecar, prove, shard_tokens
from pgolf_core.text.sidecar import has_case_marks
from pgolf_core.text.tokenizer import Tokenizer

FINEWEB_CITATION = (
    "Penedo, G., et al. The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale. 2024, "
    "arXiv 2406.17557; ODC-By 1.0. Token shards as published in dataset repository {repository}"
)
PUBLISHED_SPLIT_RULE = (
    "Published split, kept as it is: one frozen, shuffled list of documents, of which the first 50,000 are validation; "
    "N training shards are the first N of that list."
)


def fetch_fineweb(request: FinewebRequest, cache_dir: Path | str | None = None, progress: bool = True) -> Dataset:
    """The dataset that is asked for, prepared.

    What is prepared already is returned without asking the hub, and from a folder if its files are still those; asking
    for more shards fetches only those. Raises UserError for everything that is missing, damaged on arrival, of another
    tokenizer, or prepared under that name with more shards or from another source.
    """
    name, count = request.name or request.published_name.replace("_", "-"), request.train_shards
    if not is_dataset_name(name) or "/" in request.published_name:
        raise UserError(f"'{name}' cannot be a dataset's name; use letters, digits and . _ + -")
    if is_sotu_name(name):
        raise UserError(f"'{name}' is kept for the State of the Union addresses; give another --name")
    if count is not None and count < 1:
        raise UserError(f"--train-shards {count}: at least one training shard is needed")
    given = Tokenizer(Path(request.tokenizer).expanduser()) if request.tokenizer else None
    target = datasets_root(cache_dir) / name
    dataset = load_dataset(target) if target.is_dir() else None
    local = LocalHub(request.source) if request.source else None
    own = {TOKENIZER_FILE: sha256_file(given.path)} if given else {}
    if dataset and _is_asked_for(dataset, request, own) and (not local or not local.files):
        return dataset
    with locked(target.parent, name, wait_seconds=0):
        hub = local or HuggingFaceHub(request.repository, request.revision)
        promised = find_dataset(hub, request, len(dataset.train_paths) if dataset and count is None else count)
        files = hub.describe(promised.files)
        if missing := next((path for path in promised.files if path not in files), ""):
            remedy = "ask for fewer shards" if "_train_" in missing else "the copy is not whole: get that file"
            raise UserError(f"{hub.label} holds no {missing}, which its manifest promises; {remedy}")
        wanted = {name: files[path].sha256 for path, name in promised.files.items()} | own
        if dataset and _is_unchanged(dataset, hub, wanted):
            return dataset
        folder = target.with_name(f".fetch-{name}")
        _gather(hub, files, promised.files, folder, prepared_datasets(cache_dir), progress)
        try:
            if given:
                write_bytes(folder / TOKENIZER_FILE, given.path.read_bytes())
            manifest = _manifest(folder, name, request, promised, progress)
        except UserError as error:
            raise _of_the_source(error, folder, hub, promised) from None
        pieces, size = manifest["tokenizer"]["vocab_size"], re.search(r"sp(\d+)$", request.variant)
        if promised.stats is None and not request.name and size and int(size[1]) != pieces:
            fault = f"the tokenizer has {pieces} pieces, not those of {request.variant}"
            raise UserError(f"{fault}; give --variant sp{pieces}, or a --name")
        write_json(folder / FETCHED, hub.place | {"repository": request.repository, "revision": hub.revision})
        write_json(folder / MANIFEST, manifest)
        _put_in_place(folder, target)
    return load_dataset(target)


def _fetched(dataset: Dataset) -> dict[str, Any]:
    path = dataset.folder / FETCHED
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _is_asked_for(dataset: Dataset, request: FinewebRequest, own: dict[str, str]) -> bool:
    """Whether the dataset there has what is asked for, with `own` tokenizer if one is given by its SHA-256.

    UserError if it has more, or is of another repository.
    """
    wanted, source, count = request.train_shards, dataset.manifest["source"], len(dataset.train_paths)
    if (source.get("repository"), source.get("dataset")) != (request.repository, request.published_name):
        origin = source.get("citation", "elsewhere")
        if "dataset" in source:
            origin = f"{source['dataset']} of {source.get('repository')}"
        raise UserError(f"{dataset.name} is prepared already, from {origin}; give this one another --name")
    if wanted is not None and wanted < count:
        raise UserError(
            f"{dataset.name} is prepared already with {count} training shards, not {wanted}; "
            "a --name of its own gives a smaller one, whose files are linked, not fetched"
        )
    is_its = own.get(TOKENIZER_FILE) in (None, dataset.manifest["tokenizer"]["sha256"])
    return is_its and wanted in (None, count) and request.revision in (None, _fetched(dataset).get("revision"))


def _is_unchanged(dataset: Dataset, hub: Hub, wanted: dict[str, str | None]) -> bool:
    """Whether the dataset that is there holds these very files; not if there are more, or if they were changed there.

    UserError where it was made of another source's files.
    """
    known = {entry["file"]: entry["sha256"] for entry in dataset.files}
    other = [name for name, sha256 in known.items() if wanted.get(name) not in (sha256, None)]
    if not other:
        return wanted.keys() <= known.keys()
    before = _fetched(dataset).get("folder", "the hub")
    if before != hub.place.get("folder", before):
        fault = f"{dataset.name} is prepared already, from {before}, where {other[0]} is another file"
        raise UserError(f"{fault}; give this one another --name, or delete {dataset.folder}")
    note(f"{other[0]} is another file than before: {dataset.name} is prepared anew")
    return False


def _manifest(folder: Path, name: str, request: FinewebRequest, promised: Promised, progress: bool) -> dict[str, Any]:
    """The manifest of the gathered files, after their proof."""
    tokenizer = Tokenizer(folder / TOKENIZER_FILE)
    sidecars = [path for path in sorted(folder.glob("*.bin")) if is_sidecar(path.name)]
    if sidecars and not has_case_marks(tokenizer):
        raise UserError(f"{sidecars[0]} beside shards without CaseOps' marks is a byte sidecar: {NEEDS_SIDECAR}")
    paths = {split: sorted({*folder.glob(f"*_{split}_*.bin")} - {*sidecars}) for split in SPLITS}
    proved = prove([path for split in SPLITS for path in paths[split]], tokenizer, bool(sidecars))
    tokenizer = CaseTokenizer(tokenizer.path) if sidecars else tokenizer
    splits = [Split(split, paths[split], tokenizer, progress) for split in SPLITS]
    source = {"repository": request.repository, "dataset": request.published_name}
    source["citation"], rule = FINEWEB_CITATION.format(repository=request.repository), PUBLISHED_SPLIT_RULE
    if promised.stats is None:
        note(f"the {proved} documents of the sample encode to their own tokens")
        source["citation"] = "Token shards without a manifest: nothing says where they are from"
        rule = "Split as the names of the shards say; nothing says how it was made."
    about = {"name": name, "source": source, "split_rule": rule, "published_split": True}
    about |= {"transform": CASEOPS} if sidecars else {}
    about_tokenizer = {"kind": "sentencepiece-bpe", "published_as": promised.tokenizer_name}
    manifest = survey(about, about_tokenizer, splits, "{}-{:06d}".format)
    if promised.stats is not None:
        _hold_to(promised.stats, manifest)
    seen: dict[str, str] = {}
    for shard in manifest["shards"]:
        if (other := seen.setdefault(shard["sha256"], shard["file"])) != shard["file"]:
            raise UserError(f"{folder / other} and {folder / shard['file']} are the same file twice")
    shared, documents = manifest["disjointness"]["val_texts_in_train"], manifest["totals"]["val"]["documents"]
    if shared:
        note(f"{shared:,} of {documents:,} validation texts stand in training too")
    if shared > documents / 2:
        raise UserError(f"{shared:,} of {documents:,} validation texts are training's: these are no splits")
    return manifest


def _hold_to(stats: dict[str, Any], manifest: dict[str, Any]) -> None:
    """UserError where the shards have another number of tokens than the source's manifest promises."""
    for split in SPLITS:
        tokens = [shard["tokens"] for shard in manifest["shards"] if shard["split"] == split]
        files, promised = stats[f"files_{split}"], stats.get(f"tokens_{split}")
        if split == "val" and len(tokens) != files:
            raise UserError(f"there are {len(tokens)} val shards, and their manifest promises {files}")
        if type(promised) is not int:
            continue
        if len(tokens) == files and sum(tokens) != promised:
            fault = f"the {split} shards hold {sum(tokens):,} tokens, and their manifest promises {promised:,}"
            raise UserError(f"{fault}: they were cut short, or are others")
        if len(tokens) < files and min(tokens) < 0.99 * promised / files:
            fault = f"{shard_name(split, tokens.index(min(tokens)))} holds {min(tokens):,} tokens"
            raise UserError(f"{fault}, and by its manifest at least {promised // files:,}: it was cut short")


def _of_the_source(error: UserError, folder: Path, hub: Hub, promised: Promised) -> UserError:
    """A fault of the gathered files as one of the source, under the names that they have there."""
    text = str(error).partition(";")[0]
    for path, name in promised.files.items():
        text = text.replace(str(folder / name), path)
    return UserError(
        f"{hub.label}: {text}; mend it there and give the same command again: what changed is fetched anew"
    )


# ---------------------------------------------------------------------- fetching


def _gather(
    hub: Hub, files: dict[str, RemoteFile], names: dict[str, str], folder: Path, prepared: Sequence[Dataset],
    progress: bool,
) -> None:  # fmt: skip
    """Every file in `folder`, checked; what is there already, or in another dataset, is not fetched."""
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
                    raise UserError(f"{path} from {hub.label} {fault}; then give the same command again")
                arrived.replace(folder / names[path])
            done += file.size_bytes
            bar.update(done - bar.n)


def _fault(path: Path, file: RemoteFile) -> str:
    """What is wrong with a file that has arrived; empty if nothing."""
    size = path.stat().st_size if path.is_file() else 0
    if not file.size_bytes:
        return "is empty"
    if size and (instead := told_by(path)):
        return instead
    if size != file.size_bytes or not size:
        return f"has {size:,} bytes, not {file.size_bytes:,}"
    if file.sha256 and sha256_file(path) != file.sha256:
        return f"has not the SHA-256 {file.sha256:.12}… that it should have: it changed on the way"
    git_sha1 = "" if file.sha256 else hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()
    if git_sha1 and file.git_sha1 not in ("", git_sha1):
        return "has not the hash that git knows it by: it changed on the way"
    if path.suffix == ".bin":
        try:
            shard_tokens(path, is_sidecar(path.name))
        except UserError as error:
            return f"is no whole shard ({str(error).partition(';')[0].replace(str(path), path.name)})"
    return ""


def _put_in_place(folder: Path, target: Path) -> None:
    """Make `folder` the dataset. One that it grew out of is put aside first: a kill in between loses no file."""
    aside = target.with_name(f"{PARTIAL}{target.name}")
    if target.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    folder.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
