"""Two places that shards come from, the hub, through huggingface_hub, and a folder, and which of their files are meant.

Each has a `label` for messages, a `place` for notes, a `revision` (a commit, or None), `files`, `describe` and `fetch`.
The layout of a repository is in papers/machinery.md, Shards; without a manifest, names tell splits and tokenizer.
"""

import errno
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from tqdm import tqdm

from pgolf_core.base.files import UserError, explain_os_errors, sha256_file, told_by
from pgolf_core.lab.data.survey import SPLITS, TOKENIZER_FILE
from pgolf_core.lab.data.textfiles import in_utf8
from pgolf_core.lab.shared.places import MANIFEST
from pgolf_core.lab.shared.tables import some
from pgolf_core.lab.shared.usage import note
from pgolf_core.text.shards import NEEDS_SIDECAR, is_sidecar
from pgolf_core.text.sidecar import sidecar_of

DEFAULT_VARIANT = "sp1024"
DEFAULT_TRAIN_SHARDS = 80
MOST_SHARDS = 1_000_000
"""Of a split: a manifest that promises more is damaged, and its names alone would fill the memory."""


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
    """A local folder, used instead of the hub: laid out as the repository, or shards and a tokenizer alone."""
    tokenizer: Path | str | None = None
    """The shards' SentencePiece model, where the source has none or several."""
    name: str = ""
    """Of the dataset; by default the published one with hyphens, as recipes call it."""

    @property
    def published_name(self) -> str:
        """Of the dataset, in the repository."""
        return self.variant if "_" in self.variant else f"fineweb10B_{self.variant}"


@dataclass(frozen=True)
class Promised:
    """A dataset's files as its source lays them out, and what is said of them there."""

    files: dict[str, str]
    """Path in the source: name in the prepared dataset; the tokenizer comes last."""
    tokenizer_name: str
    stats: dict[str, Any] | None = None
    """Counts of the source's manifest; None where there is no manifest."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as its place describes it before it is fetched."""

    size_bytes: int
    sha256: str | None
    """None where the place states none."""
    git_sha1: str = ""
    """Where it states that instead: of a small file on the hub."""


class LocalHub:
    """A folder: a mirror of the hub's repository, what the published scripts have downloaded, or shards alone."""

    revision = None

    def __init__(self, folder: Path | str):
        self.folder, self.label = Path(folder).expanduser(), f"folder {folder}"
        self.place = {"from": "local folder", "folder": in_utf8(os.path.abspath(self.folder))}
        if not self.folder.is_dir():
            raise UserError(f"--source {folder} is no folder; name one that holds shards and their tokenizer")
        self.files = sorted(path.relative_to(self.folder).as_posix() for path in _visible_files(self.folder, set()))
        """Every file's path inside, with forward slashes, hidden ones left out, links to nothing not."""

    def describe(self, paths: Iterable[str]) -> dict[str, RemoteFile]:
        """Size and hash of each file that is there."""
        found = {}
        for path in paths:
            file = self.folder / path
            if file.is_symlink() and not file.exists():
                raise UserError(f"{path} of {self.label} is a link to a file that is not there; get that file")
            if file.is_file():
                with explain_os_errors(f"cannot read {path} of {self.label}"):
                    found[path] = RemoteFile(file.stat().st_size, sha256_file(file))
        return found

    def fetch(self, path: str, folder: Path, advance: Callable[[int], Any]) -> Path:
        """Copy a file into `folder`, telling its bytes; returns where it lies."""
        with explain_os_errors(f"cannot copy {path} from {self.label}"):
            copy = Path(shutil.copyfile(self.folder / path, folder / Path(path).name))
        advance(copy.stat().st_size)
        return copy


def _visible_files(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Every file that is not hidden, also behind links to folders; of what is reached twice the real place."""
    seen.add(os.path.realpath(folder))
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path.name)):
        if path.name[0] != "." and not path.is_dir():
            yield path
        elif path.name[0] != "." and os.path.realpath(path) not in seen:
            yield from _visible_files(path, seen)


class HuggingFaceHub:
    """A dataset repository on the hub, at one commit: whatever is fetched through one object is of one version."""

    place: ClassVar = {"from": "hub"}

    def __init__(self, repository: str, revision: str | None = None):
        import huggingface_hub

        self._client, self._api = huggingface_hub, huggingface_hub.HfApi()
        self.repository, self.revision, self.label = repository, revision, f"dataset repository {repository}"
        with self._explained("its description"):
            info = self._api.dataset_info(repository, revision=revision)
        self.revision, self.files = info.sha, sorted(file.rfilename for file in info.siblings or ())
        self._where: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset", "revision": self.revision}

    def describe(self, paths: Iterable[str]) -> dict[str, RemoteFile]:
        """Size and hash of each file that is there."""
        with self._explained("the list of files"):
            found = self._api.get_paths_info(paths=list(paths), **self._where)
        files = [file for file in found if isinstance(file, self._client.RepoFile)]
        return {file.path: RemoteFile(file.size, file.lfs.sha256 if file.lfs else None, file.blob_id) for file in files}

    def fetch(self, path: str, folder: Path, advance: Callable[[int], Any]) -> Path:
        """Fetch a file to somewhere under `folder`, telling the bytes as they arrive; returns where it lies, whole."""

        class Forward(tqdm):
            """The client's own bar, silent: it tells ours."""

            def __init__(self, *arguments: Any, **options: Any):
                super().__init__(disable=True)

            def update(self, n: float | None = 1) -> None:
                advance(int(n or 0))

        with self._explained(path):
            return Path(self._api.hf_hub_download(filename=path, local_dir=folder, tqdm_class=Forward, **self._where))

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """One line for everything that can go wrong between here and the hub."""
        errors = self._client.errors
        try:
            yield
        except errors.RevisionNotFoundError:
            raise UserError(f"{self.label} has no revision '{self.revision}'; leave --revision out") from None
        except errors.GatedRepoError:
            remedy = "accept its terms on its page, run `hf auth login` and give the same command again"
            raise UserError(f"{self.label} is gated; {remedy}") from None
        except errors.RepositoryNotFoundError:
            fault = f"the hub has no {self.label}, or not for this user"
            raise UserError(f"{fault}; check --repository, or run `hf auth login` if it is private") from None
        except errors.HFValidationError as error:
            raise UserError(f"'{self.repository}' is no repository's name: {_first_line(error)}") from None
        except (OSError, RuntimeError, ValueError, errors.HTTPError, errors.XetDownloadError) as error:
            if isinstance(error, errors.RemoteEntryNotFoundError):
                raise UserError(f"{self.label} holds no {what}; check --root and --variant") from None
            fault = f"cannot fetch {what} from {self.label}: {_first_line(error)}"
            raise UserError(f"{fault}; {_remedy(error, errors)}, then give the same command again") from error


def _remedy(error: Exception, errors: Any) -> str:
    """What helps against a failure between here and the hub."""
    answer = getattr(error, "response", None)
    status, headers = getattr(answer, "status_code", 0), getattr(answer, "headers", {})
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it or name a local copy by --source"
    if status == 429:
        wait = headers.get("Retry-After", "")
        return f"too many requests: wait {wait} seconds" if wait.isdecimal() else "too many requests: wait some minutes"
    if status in (401, 403):
        return "the hub refuses this user: run `hf auth login` with a token that may read it, or drop a stale HF_TOKEN"
    if status >= 500:
        return "the hub itself fails: wait some minutes"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return "free space or choose a writable --cache"
    return "check network and disk (whole files are kept)"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


Hub = LocalHub | HuggingFaceHub


# ---------------------------------------------------------------------- what the source holds


def find_dataset(hub: Hub, request: FinewebRequest, wanted: int | None) -> Promised:
    """The files of a dataset: what the source's manifest says of it, or its shards' names; every path checked."""
    name, root, there = request.published_name, request.root.strip("/"), hub.files
    if isinstance(hub, LocalHub) and _join(root, MANIFEST) not in there and MANIFEST in there:
        root = ""  # the published scripts download into a folder without the outer one
    manifest, folder = _join(root, MANIFEST), PurePosixPath(_join(root, f"datasets/{name}"))
    is_published = manifest in there or not (there or isinstance(hub, LocalHub))  # a mirror of the hub may list none
    tokenizer_name, model, stats = _published(hub, request, manifest) if is_published else ("", "", None)
    if stats and (not there or any(path.startswith(f"{folder}/") for path in there)):
        numbers = {split: range(stats[f"files_{split}"]) for split in SPLITS}
        paths = {split: [str(folder / shard_name(split, number)) for number in numbers[split]] for split in SPLITS}
        model = _join(root, model)
    else:
        folder, paths = _shards_by_name(hub, request, str(folder) if stats else manifest)
        model = "" if request.tokenizer else _only_model(hub, request, folder)
    beside = {path: sidecar_of(Path(path)).as_posix() for path in paths["val"]}
    beside = beside if {*beside.values()} & {*there} else {}
    if lone := next((path for path, sidecar in beside.items() if sidecar not in there), None):
        raise UserError(f"{hub.label} holds no {beside[lone]}, the byte sidecar of {lone}, and others': get it")
    _refuse_sidecars(hub, folder, set(beside.values()))
    inside = [path for path in map(PurePosixPath, there) if folder in path.parents and path.suffix.lower() == ".bin"]
    if unnamed := sorted({*map(str, inside)} - {*paths["train"], *paths["val"], *beside.values()}):
        note(f"not used, since neither manifest nor name makes it a shard of a split: {some(unnamed)}")
    most = len(paths["train"])
    if wanted is not None and wanted > most:
        raise UserError(f"--train-shards {wanted}: {name} has only {most} in {hub.label}")
    if not all(paths.values()):
        raise UserError(f"{name} of {hub.label} has {most} training and {len(paths['val'])} validation shards")
    paths["train"] = paths["train"][: wanted or DEFAULT_TRAIN_SHARDS]
    if stats is None:
        told = " and ".join(f"{len(paths[split])} {split}" for split in SPLITS)
        note(f"no manifest there: the names tell the splits ({told} shards), tokenizer {request.tokenizer or model}")
        note("a sample is encoded again to prove that they belong together; whether shards are missing nothing says")
    files = {path: shard_name(split, number) for split in SPLITS for number, path in enumerate(paths[split])}
    files |= {beside[path]: sidecar_of(Path(files[path])).name for path in beside}
    tokenizer_name = tokenizer_name or in_utf8(Path(request.tokenizer or model).stem)
    return Promised(files if request.tokenizer else files | {model: TOKENIZER_FILE}, tokenizer_name, stats)


def _refuse_sidecars(hub: Hub, folder: PurePosixPath, of_val: set[str]) -> None:
    """UserError for other byte counts than `of_val` in the dataset's folder, or in one that is of no other dataset."""
    paths = [PurePosixPath(path) for path in hub.files if path not in of_val]
    of_splits = [{path.parent for path in paths if f"_{split}_" in path.name} for split in SPLITS]
    others = {one for one in set.intersection(*of_splits) - {folder, *folder.parents} if not is_sidecar(str(one))}
    for path in paths:
        shown = path.relative_to(folder) if folder in path.parents else path
        if is_sidecar(str(shown)) and (shown != path or others.isdisjoint(path.parents)):
            raise UserError(f"{path} of {hub.label} is a byte sidecar: {NEEDS_SIDECAR}")


def shard_name(split: str, number: int) -> str:
    """As published."""
    return f"fineweb_{split}_{number:06d}.bin"


def _published(hub: Hub, request: FinewebRequest, path: str) -> tuple[str, str, dict[str, Any]]:
    """What a published manifest says of the dataset: the tokenizer's name and path, and the counts."""
    name = request.published_name
    with tempfile.TemporaryDirectory() as folder:
        file = hub.fetch(path, Path(folder), lambda size: None)
        if instead := told_by(file):
            raise UserError(f"{path} of {hub.label} {instead}")
        try:
            values = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} of {hub.label} is not valid JSON ({error}); get it again") from None
    try:
        found, tokenizers = (_by_name(values[kind], f"{path} of {hub.label}") for kind in ("datasets", "tokenizers"))
        if name not in found:
            raise UserError(f"{hub.label} has no dataset {name}; it has {', '.join(sorted(found)) or 'none'}")
        stats = found[name]["stats"]
        stats |= {f"files_{split}": int(stats[f"files_{split}"]) for split in SPLITS}
        if max(stats[f"files_{split}"] for split in SPLITS) > MOST_SHARDS:
            raise ValueError
        tokenizer_name = str(found[name]["tokenizer_name"])
        model = tokenizers[tokenizer_name].get("model_path")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        if isinstance(values, dict) and "shards" in values:
            remedy = "copy that folder beside those that `pgolf data list` shows, under the name in it"
            raise UserError(f"{hub.label} is a dataset that was prepared already; {remedy}") from None
        remedy = "check --root, or take it away: then the shards' names tell"
        raise UserError(f"{path} of {hub.label} is not of the published form; {remedy}") from None
    if not model and not request.tokenizer:
        raise UserError(f"{name} has no SentencePiece tokenizer; choose a variant such as {DEFAULT_VARIANT}")
    return tokenizer_name, str(model), stats


def _by_name(entries: list[dict[str, Any]], place: str) -> dict[str, dict[str, Any]]:
    """A manifest's entries; UserError for a name that two unlike ones have."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if found.setdefault(str(entry["name"]), entry) != entry:
            raise UserError(f"{place} has {entry['name']!s:.60} twice, with different values; take one of them out")
    return found


def _shards_by_name(hub: Hub, request: FinewebRequest, missing: str) -> tuple[PurePosixPath, dict[str, list[str]]]:
    """Of a source without a manifest the one folder that is meant, and the shards of each split in order."""
    if request.root != FinewebRequest.root:
        raise UserError(f"{hub.label} holds no {missing}; check --root")
    folders: dict[PurePosixPath, dict[str, dict[int, str]]] = {}
    for path in map(PurePosixPath, hub.files):
        for name, folder in ((path.stem, path.parent), (path.parent.name, path.parent.parent)):
            split = re.search(r"(?<![a-z])(train|val)(?:id|idation|ing)?(?![a-z])", name.lower())
            if split and path.suffix.lower() == ".bin" and not is_sidecar(path.name):
                shards = folders.setdefault(folder, {split: {} for split in SPLITS})[split[1]]
                number = int((re.findall(r"\d+", _unnumbered(path, "")) or ["0"])[-1])
                if (other := shards.setdefault(number, str(path))) != str(path):
                    raise UserError(f"{hub.label}: {other} and {path} have one number; take one of them out")
                break
    whole = {folder: shards for folder, shards in folders.items() if all(shards.values())}
    if not whole:
        remedy = "check --source, --repository and --root"
        raise UserError(f"{hub.label} holds no {missing}, nor *_train_*.bin and *_val_*.bin in one folder; {remedy}")
    ends = (request.published_name, request.variant)
    meant = [folder for folder in whole if len(whole) == 1 or any(part.endswith(ends) for part in folder.parts)]
    if len(meant) != 1:
        raise UserError(f"{hub.label} holds shards in {some(whole)}; give one of those folders as --source")
    for shards in whole[meant[0]].values():
        kinds = {_unnumbered(PurePosixPath(path), "#"): path for path in shards.values()}
        if len(kinds) > 1:
            fault = f"{' and '.join(list(kinds.values())[:2])} are named unlike, as of two sources"
            raise UserError(f"{hub.label}: {fault}; keep one of them, or name them alike")
        if gaps := [one + 1 for one, following in itertools.pairwise(sorted(shards)) if following > one + 1]:
            raise UserError(f"{hub.label}: shard {gaps[0]} is missing among {some(shards.values())}; get it")
    return meant[0], {split: [shards[n] for n in sorted(shards)] for split, shards in whole[meant[0]].items()}


def _unnumbered(path: PurePosixPath, mark: str) -> str:
    """The stem without `-of-N`; with a `mark`, that stands for the shard's number."""
    stem = re.sub(r"[-_]of[-_]\d+$", "", path.stem)
    return re.sub(r"\d+(?=\D*$)", mark, stem) if mark else stem


def _only_model(hub: Hub, request: FinewebRequest, folder: PurePosixPath) -> str:
    """The one .model file that is meant: beside the shards, of the variant's size, or alone."""
    models = [path for path in map(PurePosixPath, hub.files) if path.suffix == ".model"]
    beside = [model for model in models if model.parent == folder]
    of_size = [model for model in models if re.sub(r"\D", "", request.variant) in re.findall(r"\d+", model.stem)]
    for found in (beside, of_size, models):
        if len(found) == 1:
            return str(found[0])
    what = f"several tokenizers ({some(models)})" if models else "no tokenizer (.model)"
    raise UserError(f"{hub.label} holds {what}; name the one of these shards by --tokenizer FILE")


def _join(root: str, path: str) -> str:
    joined = PurePosixPath(root) / path
    if joined.is_absolute() or ".." in joined.parts:
        raise UserError(f"'{joined}' leads out of the repository; its manifest or --root is wrong")
    return str(joined)
