"""A small HTTP server on 127.0.0.1 that speaks as much of the Hugging Face hub's API as its clients use for downloads.

It knows repositories with revisions, small files (git blob ids) and large ones (SHA-256, behind a redirect), gated and
unknown repositories, and can be told to spoil a transfer. `plain` holds ordinary files, by path.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet", ".model")
GOOD_TOKEN, OTHER_TOKEN = "hf_good", "hf_without_access"


@dataclass
class Remote:
    """A repository; every revision in `revisions` stands for the one commit it has."""

    files: dict[str, bytes]
    gated: bool = False
    revisions: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        content = self.files[path]
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class FakeHub:
    """`models` and `datasets` by their name; `spoil` says what happens to the transfer of a file of that name."""

    models: dict[str, Remote] = field(default_factory=dict)
    datasets: dict[str, Remote] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    spoil: dict[str, str] = field(default_factory=dict)
    """"short": fewer bytes than stated; "damaged": other bytes; "cut": the line breaks in the middle, once;
    "refused": the API answers 503 (under the key "api")."""
    requests: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def cdn(self) -> str:
        """Where large files are: another host, as far as a client can tell."""
        return self.url.replace("127.0.0.1", "localhost")

    def transfers(self) -> list[str]:
        """The names of the files whose content was sent, in order."""
        return [line.rsplit("/", 1)[1] for line in self.requests if line.startswith(("GET /cdn/", "GET /small/"))]


class Server(ThreadingHTTPServer):
    """Says nothing of clients that are gone: tests kill them."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    server = Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_GET

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        kind, table, rest = "plain", {}, path.lstrip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if rest.startswith("api/"):
            table = {"models": self.hub.models, "datasets": self.hub.datasets}.get(rest.split("/")[1], {})
            kind, rest = "api", rest.partition("api/")[2].partition("/")[2]
        elif "/resolve/" in rest:
            table, kind = self.hub.models, "file"
            if rest.startswith("datasets/"):
                table, rest = self.hub.datasets, rest.removeprefix("datasets/")
        self.hub.requests.append(f"{self.command} {path}")
        if kind == "plain":
            self.plain(rest)
        elif self.hub.spoil.get("api") == "refused":
            self.reply(503, b"")
        else:
            name = "/".join(rest.split("/")[:2])
            remote = table.get(name)
            if remote is None:
                self.reply(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            elif kind == "api":
                self.api(remote, name, rest.split("/")[2:], body)
            else:
                self.file(remote, rest.split("/")[3:])

    def revision(self, remote: Remote, parts: list[str]) -> list[str] | None:
        """What is left of a path behind its revision; None if there is no such revision."""
        for revision in (*remote.revisions, remote.commit):
            length = revision.count("/") + 1
            if "/".join(parts[:length]) == revision:
                return parts[length:]
        self.reply(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        return None

    def api(self, remote: Remote, name: str, parts: list[str], body: bytes) -> None:
        rest = self.revision(remote, parts[1:] or ["main"])
        if rest is None:
            return
        if not parts or parts[0] == "revision":
            siblings = [{"rfilename": path} for path in remote.files]
            self.json({"id": name, "sha": remote.commit, "siblings": siblings, "private": False, "tags": []})
        elif parts[0] == "tree":
            prefix = "/".join(rest) + "/" if rest else ""
            recursive = "true" in parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower()
            self.json(list(self.tree(remote, prefix, recursive)))
        elif parts[0] == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            if self.headers.get("Content-Type", "").startswith("application/json"):
                wanted = json.loads(body)["paths"]
            folders = [{"type": "directory", "path": p, "oid": "0" * 40} for p in wanted if self.is_folder(remote, p)]
            self.json([remote.entry(path) for path in wanted if path in remote.files] + folders)
        else:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})

    @staticmethod
    def is_folder(remote: Remote, path: str) -> bool:
        return any(file.startswith(f"{path}/") for file in remote.files)

    @staticmethod
    def tree(remote: Remote, prefix: str, recursive: bool) -> Iterator[dict[str, Any]]:
        seen = set()
        for path in remote.files:
            if path.startswith(prefix):
                first, slash, _ = path[len(prefix) :].partition("/")
                if slash and first not in seen:
                    seen.add(first)
                    yield {"type": "directory", "path": prefix + first, "oid": "0" * 40}
                if not slash or recursive:
                    yield remote.entry(path)

    def file(self, remote: Remote, parts: list[str]) -> None:
        rest = self.revision(remote, parts)
        if rest is None:
            return
        path = "/".join(rest)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if remote.gated and token != GOOD_TOKEN:
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
            self.reply(403 if token else 401, b"", headers)
        elif path not in remote.files:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": remote.commit})
        else:
            entry = remote.entry(path)
            etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
            headers = {"X-Repo-Commit": remote.commit, "ETag": f'"{etag}"'}
            if "lfs" in entry:
                headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(entry["size"])}
                self.reply(302, b"", headers | {"Location": f"{self.hub.cdn}/cdn/{remote.commit}/{path}"})
            else:
                if self.command == "GET":
                    self.hub.requests.append(f"GET /small/{path}")
                self.reply(200, remote.files[path], headers)

    def plain(self, path: str) -> None:
        content = self.hub.plain.get(path)
        if path.startswith("cdn/"):
            commit, name = path.split("/", 2)[1:]
            remotes = [*self.hub.models.values(), *self.hub.datasets.values()]
            content = next((r.files.get(name) for r in remotes if r.commit == commit), None)
        if content is None:
            self.reply(404, b"")
            return
        name = path.rsplit("/", 1)[-1]
        spoil = self.hub.spoil.get(name)
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if spoil == "short":
            content = content[:-5]
        elif spoil == "damaged":
            content = bytes(len(content))
        elif spoil == "cut":
            del self.hub.spoil[name]
            self.reply(200, content, headers, sent=len(content) // 2)
            self.close_connection = True
            return
        self.reply(206 if begin else 200, content[begin:], headers)

    def json(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, sent: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
