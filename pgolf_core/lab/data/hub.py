"""Two places that published shards come from: the hub, through huggingface_hub, and a folder laid out like it.

Each has a `label` for messages, a `revision` (a commit, or None), `describe` and `fetch`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pgolf_core.base.files import UserError, explain_os_errors


@dataclass(frozen=True)
class RemoteFile:
    """A file as its place describes it before it is fetched."""

    size_bytes: int
    sha256: str | None
    """None where the place states none."""


class LocalHub:
    """A folder laid out as the hub's repository: a mirror, or what the published scripts have downloaded."""

    revision = None

    def __init__(self, folder: Path | str):
        self.folder, self.label = Path(folder).expanduser(), f"folder {folder}"
        if not self.folder.is_dir():
            raise UserError(f"--source {folder} is no folder; name one that is laid out as the hub's repository")

    def describe(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        """Size of each file; UserError naming the first that is not there."""
        there = [path for path in paths if (self.folder / path).is_file()]
        found = {path: RemoteFile((self.folder / path).stat().st_size, None) for path in there}
        return _complete(found, paths, self.label)

    def fetch(self, path: str, folder: Path, advance: Callable[[int], Any]) -> Path:
        """Copy a file into `folder`, telling its bytes; returns where it lies."""
        if not (self.folder / path).is_file():
            raise _without(self.label, path)
        with explain_os_errors(f"cannot copy {path} from {self.label}"):
            copy = Path(shutil.copyfile(self.folder / path, folder / Path(path).name))
        advance(copy.stat().st_size)
        return copy


class HuggingFaceHub:
    """A dataset repository on the hub, at one commit: whatever is fetched through one object is of one version."""

    def __init__(self, repository: str, revision: str | None = None):
        import huggingface_hub

        self._client, self._api = huggingface_hub, huggingface_hub.HfApi()
        self.repository, self.revision, self.label = repository, revision, f"dataset repository {repository}"
        with self._explained("its description"):
            self.revision = self._api.dataset_info(repository, revision=revision).sha
        self._where: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset", "revision": self.revision}

    def describe(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        """Size and hash of each file; UserError naming the first that is not there."""
        with self._explained("the list of files"):
            found = self._api.get_paths_info(paths=list(paths), **self._where)
        files = [file for file in found if isinstance(file, self._client.RepoFile)]
        known = {file.path: RemoteFile(file.size, file.lfs.sha256 if file.lfs else None) for file in files}
        return _complete(known, paths, self.label)

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
        except errors.RepositoryNotFoundError:
            raise UserError(f"the hub has no {self.label}, or not for this user; check --repository") from None
        except errors.HFValidationError as error:
            raise UserError(f"'{self.repository}' is no repository's name: {_first_line(error)}") from None
        except (OSError, RuntimeError, ValueError, errors.HTTPError, errors.XetDownloadError) as error:
            if isinstance(error, errors.RemoteEntryNotFoundError):
                raise _without(self.label, what) from None
            fault = f"cannot fetch {what} from {self.label}: {_first_line(error)}"
            remedy = "check network and disk, then give the same command again: whole files are kept"
            raise UserError(f"{fault}; {remedy}") from error


def _complete(found: dict[str, RemoteFile], paths: Sequence[str], label: str) -> dict[str, RemoteFile]:
    missing = next((path for path in paths if path not in found), None)
    if missing:
        raise UserError(f"{label} holds no {missing}, which its manifest promises; ask for fewer shards")
    return found


def _without(label: str, path: str) -> UserError:
    return UserError(f"{label} holds no {path}; check --root and --variant")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


Hub = LocalHub | HuggingFaceHub
