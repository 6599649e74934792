"""The hub's own client, against a server on this machine that answers as the hub does: no network.

pytest tests/lab/data/test_hub.py (skipped where huggingface_hub is not installed)
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_hub import NAME, VARIANT, make_hub

from pgolf_core.base.files import UserError, read_json
from pgolf_core.lab.data.dataset import Dataset, prepared_datasets
from pgolf_core.lab.data.fineweb import fetch_fineweb

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra `lab`)")

REPOSITORY = "someone/golf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def server(folder: Path, monkeypatch) -> Iterator[SimpleNamespace]:
    """`url`; `sent`, paths whose content was asked for; `swap`, content to send instead; `break_off`, a path to cut."""
    state = SimpleNamespace(sent=[], swap={}, break_off="", described={})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def serve(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/datasets/{REPOSITORY}"):
                if path.removeprefix(f"/api/datasets/{REPOSITORY}") not in (
                    "",
                    "/revision/main",
                    f"/revision/{COMMIT}",
                ):
                    return self.answer(404, X_Error_Code="RevisionNotFound")
                return self.answer(200, json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode())
            inside = path.removeprefix(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/")
            if inside == path:
                return self.answer(404, X_Error_Code="RepoNotFound")
            if not (folder / inside).is_file():
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            body = state.swap.get(inside, (folder / inside).read_bytes())
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
            if self.command == "GET":
                state.sent.append(Path(inside).name)
                if state.break_off and inside.endswith(state.break_off):
                    if state.sent.count(Path(inside).name) > 1:
                        return self.answer(500)
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[:700])
                    self.close_connection = True
                    return None
            return self.answer(200, body, **headers)

        do_GET = do_HEAD = serve

        def do_POST(self) -> None:
            fields = self.rfile.read(int(self.headers["Content-Length"])).decode()
            try:
                asked = json.loads(fields)["paths"]
            except ValueError:
                from urllib.parse import parse_qs

                asked = parse_qs(fields)["paths"]
            found = []
            for path in (path for path in asked if (folder / path).is_file()):
                body = (folder / path).read_bytes()
                entry = {"type": "file", "path": path, "size": len(body), "oid": "0" * 40}
                if path.endswith((".bin", ".model")):
                    entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 1}
                found.append(entry)
            self.answer(200, json.dumps(found).encode())

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    httpd.shutdown()
    httpd.server_close()


def fetch(server: SimpleNamespace, cache: Path, shards: int | None = None, **options) -> Dataset:
    settings = {"repository": REPOSITORY, "cache_dir": cache, "progress": False, "endpoint": server.url}
    return fetch_fineweb(VARIANT, shards, **settings | options)


def test_the_hub_and_a_local_copy_of_it_give_the_same_manifest(server: SimpleNamespace, folder: Path, tmp_path: Path):
    made = fetch(server, tmp_path / "a")
    local = fetch_fineweb(
        VARIANT, source=folder, repository=REPOSITORY, cache_dir=tmp_path / "b", progress=False
    )  # fmt: skip
    assert made.manifest_sha256 == local.manifest_sha256
    fetched = read_json(made.folder / "fetched.json")
    assert fetched == {"from": "hub", "repository": REPOSITORY, "revision": COMMIT}
    assert {path.name for path in made.folder.iterdir()} == {
        "manifest.json", "fetched.json", "tokenizer.model", *(path.name for path in made.train_paths + made.val_paths)
    }  # fmt: skip
    made.verify()


def test_more_shards_fetch_only_those_that_are_not_there(server: SimpleNamespace, tmp_path: Path):
    fetch(server, tmp_path, 1)
    server.sent.clear()
    made = fetch(server, tmp_path, 3)
    shards = [name for name in server.sent if name.endswith(".bin")]
    assert sorted(shards) == ["fineweb_train_000001.bin", "fineweb_train_000002.bin"] and len(made.train_paths) == 3
    server.sent.clear()
    assert fetch(server, tmp_path, 3) == made and server.sent == []
    small = fetch(server, tmp_path, 2, name="fineweb-two")
    assert len(small.train_paths) == 2 and not [name for name in server.sent if name.endswith(".bin")]


def test_a_shard_of_another_hash_or_size_is_refused_and_the_rest_is_kept(
    server: SimpleNamespace, folder: Path, tmp_path: Path
):
    path = next(path for path in folder.rglob("fineweb_train_000001.bin")).relative_to(folder).as_posix()
    whole = (folder / path).read_bytes()
    for wrong, message in ((whole[:-1] + bytes([whole[-1] ^ 1]), "has not the SHA-256"), (whole[:-2], "has .* bytes")):
        server.swap[path] = wrong
        with pytest.raises(UserError, match=f"train_000001.bin .*{message}") as caught:
            fetch(server, tmp_path)
        assert "\n" not in str(caught.value) and prepared_datasets(tmp_path) == []
    server.swap.clear()
    server.sent.clear()
    made = fetch(server, tmp_path)
    assert "fineweb_train_000000.bin" not in server.sent
    assert made.manifest_sha256 == fetch(server, tmp_path / "fresh").manifest_sha256


def test_a_connection_that_breaks_is_one_line_and_the_same_command_goes_on(server: SimpleNamespace, tmp_path: Path):
    server.break_off = "fineweb_train_000002.bin"
    with pytest.raises(UserError, match=r"cannot fetch .*train_000002\.bin .*same command again") as caught:
        fetch(server, tmp_path)
    assert "\n" not in str(caught.value) and prepared_datasets(tmp_path) == []
    server.break_off = ""
    server.sent.clear()
    assert fetch(server, tmp_path).name == NAME
    sent = [name for name in server.sent if name.endswith(".bin")]
    assert sent == ["fineweb_train_000002.bin", "fineweb_val_000000.bin"], "the first two are not fetched again"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repository": "someone/nothing"}, "the hub has no dataset repository someone/nothing"),
        ({"repository": "not a name"}, "'not a name' is no repository's name"),
        ({"revision": "nosuch"}, "has no revision 'nosuch'; leave --revision out"),
        ({"root": "elsewhere"}, "holds no elsewhere/manifest.json; check --root"),
        ({"endpoint": "http://127.0.0.1:9"}, "cannot fetch .* check network"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(server: SimpleNamespace, tmp_path: Path, options: dict, message: str):
    with pytest.raises(UserError, match=message) as caught:
        fetch(server, tmp_path, **options)
    assert "\n" not in str(caught.value) and prepared_datasets(tmp_path) == []


def test_a_revision_is_remembered_and_asked_for_again_only_if_it_differs(server: SimpleNamespace, tmp_path: Path):
    made = fetch(server, tmp_path, 2, revision=COMMIT)
    server.sent.clear()
    assert fetch(server, tmp_path, 2, revision=COMMIT) == made and server.sent == []
    assert fetch(server, tmp_path, 2, revision="main") == made and "manifest.json" in server.sent
