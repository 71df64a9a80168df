"""A small local Hub server, for the real client over HTTP.

It keeps repositories with branches in memory and answers what the client asks to make a repository, to upload (files in
the commit itself, or as LFS objects before it) and to download. A test can hold commits back, make requests fail, slow
the line down, and read what arrived.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "Secret0123456789" * 2
USER = "me"
Tree = dict[str, bytes]


@dataclass
class Commit:
    """A received commit."""

    revision: str
    message: str
    added: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


@dataclass
class Repo:
    """One repository."""

    visibility: str | None
    branches: dict[str, Tree] = field(default_factory=lambda: {"main": {".gitattributes": b"*.bin lfs\n"}})
    lfs_paths: set[str] = field(default_factory=set)
    commits: list[Commit] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        """The hash of the last commit."""
        return hashlib.sha1(b"%d" % len(self.commits)).hexdigest()

    def tree(self, revision: str) -> Tree | None:
        """The files of a branch, or of the last commit."""
        if revision == self.head:
            revision = self.commits[-1].revision if self.commits else "main"
        return self.branches.get(revision)

    def names(self, revision: str = "main") -> set[str]:
        """The file names of a branch, without the one that every repository has."""
        return set(self.branches[revision]) - {".gitattributes"}


class Hub:
    """The server. ``with Hub() as hub: ...``"""

    def __init__(self, *, lfs_suffixes: tuple[str, ...] = (), bytes_per_s: float | None = None) -> None:
        self.lfs_suffixes = lfs_suffixes
        self.bytes_per_s = bytes_per_s
        self.token = TOKEN
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.failures: dict[str, int] = {}
        """Word in a path -> the status of the answer."""
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        """What requests were authorized with."""
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.commit_arrived = threading.Event()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop answering requests."""
        self.may_commit.set()
        self._server.shutdown()
        self._server.server_close()

    def repo(self, name: str) -> Repo:
        """A repository of the user with the valid token."""
        return self.repos[f"{USER}/{name}"]


@contextlib.contextmanager
def client_points_at(url: str, monkeypatch: Any) -> Iterator[None]:
    """Point this process's client, which reads the environment on import, to another server."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    close_session()
    yield
    close_session()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, or the kernel waits between them
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    # ---- one request --------------------------------------------------------------------------------------------

    def _answer(self, method: str) -> None:
        body = self._body()
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        hub = self.hub
        authorization = self.headers.get("authorization")
        with hub.lock:
            hub.requests.append(f"{method} {path}")
            if not path.startswith("/lfs/"):
                hub.tokens.add(authorization.removeprefix("Bearer ") if authorization else None)
        for word, status in list(hub.failures.items()):
            if word in path:
                self._reply({"error": f"{word} fails; you sent {authorization}"}, status)
                return
        if not path.startswith("/lfs/") and authorization != f"Bearer {hub.token}":
            self._reply({"error": f"Invalid token in {authorization!r}"}, 401)
            return
        self._route(method, path, body)

    def _route(self, method: str, path: str, body: bytes) -> None:
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._reply({"errors": [], "warnings": []})
        elif path == "/api/whoami-v2":
            self._reply({"name": USER, "type": "user"})
        elif parts[0] == "lfs":
            self.hub.objects[parts[1]] = body
            self._reply({})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._lfs_batch(json.loads(body))
        elif parts[0] == "api" and "/".join(parts[2:4]) in self.hub.repos:
            self._of_repo(parts, body)
        elif len(parts) > 3 and parts[2] == "resolve":
            self._resolve(method, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _of_repo(self, parts: list[str], body: bytes) -> None:
        name = "/".join(parts[2:4])
        repo = self.hub.repos[name]
        verb = parts[4] if len(parts) > 4 else "revision"
        revision = "/".join(parts[5:6]) or "main"
        if verb == "branch":
            fresh = repo.branches.setdefault(revision, dict(repo.branches["main"]))
            self._reply({"branch": revision}, 200 if fresh is not repo.branches["main"] else 409)
        elif (tree := repo.tree(revision)) is None:
            self._reply({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif verb == "tree":
            self._reply([self._entry(repo, path, content) for path, content in tree.items()])
        elif verb == "preupload":
            self._preupload(tree, json.loads(body))
        elif verb == "commit":
            self._commit(name, repo, revision, body)
        else:
            siblings = [{"rfilename": path} for path in tree]
            self._reply({"id": name, "sha": repo.head, "siblings": siblings, "tags": repo.tags})

    # ---- what it does -------------------------------------------------------------------------------------------

    def _create(self, wish: dict[str, Any]) -> None:
        name = f"{wish.get('organization') or USER}/{wish['name']}"
        is_new = name not in self.hub.repos
        if is_new:
            self.hub.repos[name] = Repo(visibility=wish.get("visibility"))
        self._reply({"url": f"{self.hub.url}/{name}", "name": name}, 200 if is_new else 409)

    def _mode(self, path: str) -> str:
        return "lfs" if path.endswith(self.hub.lfs_suffixes or ("\0",)) else "regular"

    def _entry(self, repo: Repo, path: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if path in repo.lfs_paths:
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"size": len(content), "oid": digest, "pointerSize": 130}
        return entry

    def _preupload(self, tree: Tree, wish: dict[str, Any]) -> None:
        answers = []
        for file in wish["files"]:
            path, content = file["path"], tree.get(file["path"])
            is_lfs = self._mode(path) == "lfs"
            oid = None
            if content is not None:
                oid = hashlib.sha256(content).hexdigest() if is_lfs else git_hash(content)
            answers.append({"path": path, "uploadMode": self._mode(path), "shouldIgnore": False, "oid": oid})
        self._reply({"files": answers})

    def _lfs_batch(self, wish: dict[str, Any]) -> None:
        objects = []
        for one in wish["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}
            objects.append(answer)
        self._reply({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: Repo, revision: str, body: bytes) -> None:
        hub = self.hub
        hub.commit_arrived.set()
        hub.may_commit.wait(30)
        lines = [json.loads(line) for line in body.splitlines()]
        commit = Commit(revision=revision, message=lines[0]["value"]["summary"])
        tree = dict(repo.branches[revision])
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            path = value["path"]
            if kind == "file":
                tree[path] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                tree[path] = hub.objects[value["oid"]]
                repo.lfs_paths.add(path)
            else:
                del tree[path]
            (commit.deleted if kind == "deletedFile" else commit.added).add(path)
        with hub.lock:
            repo.branches[revision] = tree  # all at once, as a commit is
            repo.commits.append(commit)
        url = f"{hub.url}/{name}/commit/{repo.head}"
        self._reply({"success": True, "commitOid": repo.head, "commitUrl": url})

    def _resolve(self, method: str, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        tree = (repo.tree(revision) if repo is not None else None) or {}
        if repo is None or path not in tree:
            self._reply({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"X-Repo-Commit": repo.head, "ETag": f'"{git_hash(tree[path])}"'}
        self._send(tree[path], 200, headers, with_body=method != "HEAD")

    # ---- bytes --------------------------------------------------------------------------------------------------

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self._read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self._read(int(self.headers.get("content-length") or 0))

    def _read(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = self.rfile.read(min(size, 65536))
            size -= len(part)
            parts.append(part)
            if self.hub.bytes_per_s is not None:
                time.sleep(len(part) / self.hub.bytes_per_s)
        return b"".join(parts)

    def _reply(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        named = {"Content-Type": "application/json", **(headers or {})}
        self._send(json.dumps(answer).encode(), status, named, with_body=self.command != "HEAD")

    def _send(self, content: bytes, status: int, headers: dict[str, str], *, with_body: bool) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)
