"""The hub's own client, against a server on this machine that answers as the hub does: no network."""

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs

import pytest
from refused import refused
from tiny_hub import NAME, fetch, published_model, texts

from pgolf_core.base.files import read_json
from pgolf_core.lab.data.dataset import open_dataset, prepared_datasets

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra `lab`)")

REPOSITORY = "someone/golf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Answers(BaseHTTPRequestHandler):
    """The hub's answers of the files in `folder`. `sent` names what was asked for; `swap` holds content to send
    instead, `break_off` a path to cut, `status` what to answer in place of everything.
    """

    protocol_version = "HTTP/1.1"
    folder: Path
    status = 0
    sent: ClassVar[list[str]] = []
    swap: ClassVar[dict[str, bytes]] = {}
    break_off = ""

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", size: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body) if size is None else size)} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.status:
            return self.answer(self.status, Retry_After="7")
        about = path.removeprefix(f"/api/datasets/{REPOSITORY}")
        inside = path.removeprefix(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/")
        if about in ("", "/revision/main", f"/revision/{COMMIT}"):
            files = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
            about = {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            return self.answer(200, json.dumps(about).encode())
        if inside == path:
            return self.answer(404, X_Error_Code="RevisionNotFound" if about != path else "RepoNotFound")
        if not (self.folder / inside).is_file():
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        body = self.swap.get(inside, (self.folder / inside).read_bytes())
        if self.command == "GET":
            self.sent.append(Path(inside).name)
            if self.break_off and inside.endswith(self.break_off):
                self.close_connection = True
                return (
                    self.answer(500) if self.sent.count(self.break_off) > 1 else self.answer(200, body[:700], len(body))
                )
        return self.answer(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        fields = self.rfile.read(int(self.headers["Content-Length"])).decode()
        found = []
        for path in json.loads(fields)["paths"] if fields.startswith("{") else parse_qs(fields)["paths"]:
            if (self.folder / path).is_file():
                body = (self.folder / path).read_bytes()
                entry = {"type": "file", "path": path, "size": len(body), "oid": "0" * 40}
                if path.endswith((".bin", ".model")):
                    entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 1}
                found.append(entry)
        self.answer(200, json.dumps(found).encode())


@pytest.fixture(scope="module")
def address(hub: Path) -> Iterator[str]:
    Answers.folder = hub
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def server(address: str, monkeypatch) -> type[Answers]:
    """The server on this machine, which the client takes for the hub."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=address))
    Answers.sent.clear()
    Answers.swap.clear()
    Answers.break_off, Answers.status = "", 0
    return Answers


def ask(cache: Path, train_shards: int | None = None, **wanted: str):
    return fetch(None, cache, train_shards, **{"repository": REPOSITORY} | wanted)


def test_the_hub_and_a_local_copy_of_it_give_the_same_manifest(server: type[Answers], hub: Path, tmp_path: Path):
    made, local = ask(tmp_path / "a"), fetch(hub, tmp_path / "b", repository=REPOSITORY)
    assert made.manifest_sha256 == local.manifest_sha256
    fetched = read_json(made.folder / "fetched.json")
    assert fetched == {"from": "hub", "repository": REPOSITORY, "revision": COMMIT}
    assert {path.name for path in made.folder.iterdir()} == {
        "manifest.json", "fetched.json", "tokenizer.model", *(path.name for path in made.train_paths + made.val_paths)
    }  # fmt: skip
    made.verify()


def test_more_shards_fetch_only_those_that_are_not_there(server: type[Answers], tmp_path: Path):
    ask(tmp_path, 1)
    server.sent.clear()
    made = ask(tmp_path, 3)
    shards = [name for name in server.sent if name.endswith(".bin")]
    assert sorted(shards) == ["fineweb_train_000001.bin", "fineweb_train_000002.bin"] and len(made.train_paths) == 3
    server.sent.clear()
    assert ask(tmp_path, 3) == made and server.sent == []
    small = ask(tmp_path, 2, name="fineweb-two")
    assert len(small.train_paths) == 2 and not [name for name in server.sent if name.endswith(".bin")]


def test_of_a_shard_of_another_hash_or_size_the_rest_is_kept(server: type[Answers], hub: Path, tmp_path: Path):
    path = next(path for path in hub.rglob("fineweb_train_000001.bin")).relative_to(hub).as_posix()
    whole = (hub / path).read_bytes()
    for wrong, message in ((whole[:-1] + bytes([whole[-1] ^ 1]), "has not the SHA-256"), (whole[:-2], "has .* bytes")):
        server.swap[path] = wrong
        with refused(f"train_000001.bin .*{message}"):
            ask(tmp_path)
        assert prepared_datasets(tmp_path) == []
    server.swap.clear()
    server.sent.clear()
    made = ask(tmp_path)
    assert "fineweb_train_000000.bin" not in server.sent
    assert made.manifest_sha256 == ask(tmp_path / "fresh").manifest_sha256


def test_a_connection_that_breaks_is_one_line_and_the_same_command_goes_on(server: type[Answers], tmp_path: Path):
    server.break_off = "fineweb_train_000002.bin"
    with refused(r"cannot fetch .*train_000002\.bin .*same command again"):
        ask(tmp_path)
    assert prepared_datasets(tmp_path) == []
    server.break_off = ""
    server.sent.clear()
    assert ask(tmp_path).name == NAME
    sent = [name for name in server.sent if name.endswith(".bin")]
    assert sent == ["fineweb_train_000002.bin", "fineweb_val_000000.bin"], "the first two are not fetched again"


@pytest.mark.parametrize(
    ("status", "options", "message"),
    [
        (0, {"repository": "someone/nothing"}, "the hub has no dataset repository someone/nothing"),
        (0, {"repository": "not a name"}, "'not a name' is no repository's name"),
        (0, {"revision": "nosuch"}, "has no revision 'nosuch'; leave --revision out"),
        (0, {"root": "elsewhere"}, "holds no elsewhere/manifest.json; check --root"),
        (429, {}, "too many requests: wait 7 seconds, then give the same command again"),
        (403, {}, "the hub refuses this user: run `hf auth login`"),
        (418, {}, "check network and disk"),
    ],
)
def test_what_the_hub_does_not_have_or_refuses_is_one_line_that_names_what_helps(
    server: type[Answers], tmp_path: Path, status: int, options: dict, message: str
):
    server.status = status
    with refused(message):
        ask(tmp_path, **options)
    assert prepared_datasets(tmp_path) == []


@pytest.mark.parametrize(
    ("is_offline", "message"),
    [(True, "HF_HUB_OFFLINE is set: unset it or name a local copy by --source"), (False, "cannot .* check network")],
)
def test_a_client_that_is_offline_and_a_hub_that_is_not_there_are_one_line(tmp_path, monkeypatch, is_offline, message):
    client = functools.partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "HfApi", client)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", is_offline)
    with refused(message):
        ask(tmp_path)


def test_a_revision_is_remembered_and_asked_for_again_only_if_it_differs(server: type[Answers], tmp_path: Path):
    made = ask(tmp_path, 2, revision=COMMIT)
    server.sent.clear()
    assert ask(tmp_path, 2, revision=COMMIT) == made and server.sent == []
    assert ask(tmp_path, 2, revision="main") == made and "manifest.json" in server.sent


def test_another_tokenizer_than_the_prepared_one_is_proved_and_not_passed_over(server: type[Answers], tmp_path: Path):
    made, model = ask(tmp_path, 2), tmp_path / "other.model"
    server.sent.clear()
    assert ask(tmp_path, 2, tokenizer=str(made.tokenizer_path)) == made and server.sent == []
    model.write_bytes(published_model(texts(40, seed=77)))
    with refused("do not encode to their own tokens"):
        ask(tmp_path, 2, tokenizer=str(model))
    assert open_dataset(NAME, tmp_path) == made
