"""Two places that published shards come from: the hub, through huggingface_hub, and a folder laid out like it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from pgolf_core.base.files import UserError, explain_os_errors

COPY_BYTES = 2**24


@dataclass(frozen=True)
class RemoteFile:
    """A file as its place describes it before it is fetched."""

    path: str
    """Inside the repository, with forward slashes."""
    size_bytes: int
    sha256: str | None
    """None where the place states none."""


class Hub(Protocol):
    """What fetching needs of a place: `label` for messages, `revision` (a commit, or None), and three calls."""

    label: str
    revision: str | None

    def exists(self, path: str) -> bool:
        """Whether the place holds a file of this path."""

    def describe(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        """Size and hash of each file; UserError naming the first that is not there."""

    def fetch(self, path: str, folder: Path, advance: Callable[[int], Any]) -> Path:
        """Fetch a file to somewhere under `folder`, telling the bytes as they arrive; returns where it lies, whole."""


class LocalHub:
    """A folder laid out as the hub's repository: a mirror, or what the published scripts have downloaded."""

    revision = None

    def __init__(self, folder: Path | str):
        self.folder = Path(folder).expanduser()
        self.label = f"folder {folder}"
        if not self.folder.is_dir():
            raise UserError(f"--source {folder} is no folder; name one that is laid out as the hub's repository")

    def exists(self, path: str) -> bool:
        return (self.folder / path).is_file()

    def describe(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        for path in paths:
            if not self.exists(path):
                raise UserError(f"{self.label} holds no {path}, which its manifest promises; ask for fewer shards")
        return {path: RemoteFile(path, (self.folder / path).stat().st_size, None) for path in paths}

    def fetch(self, path: str, folder: Path, advance: Callable[[int], Any]) -> Path:
        target = folder / Path(path).name
        what = f"cannot copy {path} from {self.label}"
        with explain_os_errors(what), open(self.folder / path, "rb") as source, open(target, "wb") as copy:
            while block := source.read(COPY_BYTES):
                copy.write(block)
                advance(len(block))
            copy.flush()
            os.fsync(copy.fileno())
        return target


class HuggingFaceHub:
    """A dataset repository on the hub, at one commit: whatever is fetched through one object is of one version."""

    def __init__(self, repository: str, revision: str | None = None, endpoint: str | None = None):
        try:
            import huggingface_hub
        except ImportError:
            raise UserError(
                "huggingface_hub is not installed; `make setup` installs it, or pass a local copy as --source"
            ) from None
        self._client, self._api = huggingface_hub, huggingface_hub.HfApi(endpoint=endpoint)
        self.repository, self.label = repository, f"dataset repository {repository}"
        self.revision = revision
        with self._explained("its description"):
            self.revision = self._api.dataset_info(repository, revision=revision).sha

    def exists(self, path: str) -> bool:
        with self._explained(path):
            return self._api.file_exists(self.repository, path, repo_type="dataset", revision=self.revision)

    def describe(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        with self._explained("the list of files"):
            found = self._api.get_paths_info(self.repository, list(paths), repo_type="dataset", revision=self.revision)
        known = {
            file.path: RemoteFile(file.path, file.size, file.lfs.sha256 if file.lfs else None)
            for file in found
            if isinstance(file, self._client.RepoFile)
        }
        missing = next((path for path in paths if path not in known), None)
        if missing:
            raise UserError(f"{self.label} holds no {missing}, which its manifest promises; ask for fewer shards")
        return known

    def fetch(self, path: str, folder: Path, advance: Callable[[int], Any]) -> Path:
        class Forward(tqdm):
            """The client's own bar, silent: it tells ours."""

            def __init__(self, *arguments: Any, **options: Any):
                super().__init__(disable=True)

            def update(self, n: float | None = 1) -> None:
                advance(int(n or 0))

        with self._explained(path):
            return Path(
                self._api.hf_hub_download(
                    self.repository,
                    path,
                    repo_type="dataset",
                    revision=self.revision,
                    local_dir=folder,
                    tqdm_class=Forward,
                )
            )

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """One line for everything that can go wrong between here and the hub."""
        errors = self._client.errors
        try:
            yield
        except errors.RevisionNotFoundError:
            raise UserError(f"{self.label} has no revision '{self.revision}'; leave --revision out") from None
        except errors.RepositoryNotFoundError:
            raise UserError(f"the hub has no {self.label}, or not for this user; check --repository") from None
        except errors.LocalEntryNotFoundError as error:
            raise self._unreachable(what, error) from error
        except errors.EntryNotFoundError:
            raise UserError(f"{self.label} holds no {what}; check --root and --variant") from None
        except errors.HFValidationError as error:
            raise UserError(f"'{self.repository}' is no repository's name: {_first_line(error)}") from None
        except (OSError, RuntimeError, ValueError, errors.HTTPError, errors.XetDownloadError) as error:
            raise self._unreachable(what, error) from error

    def _unreachable(self, what: str, error: Exception) -> UserError:
        return UserError(
            f"cannot fetch {what} from {self.label}: {_first_line(error)}; check network and disk, "
            "then give the same command again: whole files are kept"
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def link_or_copy(source: Path, target: Path) -> None:
    """The same file at a second place without its bytes twice, where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
