"""Fixtures of an S3 server on loopback, and a proxy before it that fails, stalls or kills as a test says.

The server is moto's, in a thread of the test process; nothing leaves the machine. The proxy sees each request before
the server does, and its answer before the client does, so a process can be killed in the middle of an upload.
"""

from __future__ import annotations

import http.client
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from raytrainer.telemetry.bucket_records import FOLDER

SECRET = "thesecretofthetests"
"""Never to be found in anything that is written."""
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "thekeyofthetests",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
}


@dataclass
class Request:
    """What the proxy shows to a test."""

    method: str
    path: str
    """With the query."""
    number: int
    """From 1."""

    @property
    def key(self) -> str:
        """The object, without the bucket."""
        return self.path.partition("?")[0].lstrip("/").partition("/")[2]


@dataclass
class Fault:
    """What happens to a request instead of an answer."""

    status: int = 0
    code: str = "ServiceUnavailable"
    stall_s: float = 0.0


@dataclass
class Proxy:
    """Passes requests on to the server, unless the test says otherwise."""

    server_port: int
    before: Callable[[Request], Fault | None] = lambda request: None
    """Called when a request has come; a fault is answered instead of it."""
    after: Callable[[Request], None] = lambda request: None
    """Called when the server has answered, before the client knows."""
    requests: list[Request] = field(default_factory=list[Request])
    port: int = 0
    _http: ThreadingHTTPServer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pass_all(self) -> None:
        """From here on pass every request on."""
        self.before, self.after = (lambda request: None), (lambda request: None)

    def start(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                with proxy._lock:
                    request = Request(self.command, self.path, len(proxy.requests) + 1)
                    proxy.requests.append(request)
                body = self._body()
                fault = proxy.before(request)
                if fault is not None:
                    time.sleep(fault.stall_s)
                    if not fault.status:
                        self.close_connection = True
                        return
                    text = f"<Error><Code>{fault.code}</Code><Message>by a test</Message></Error>".encode()
                    self._answer(fault.status, [("Content-Type", "application/xml")], text)
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", proxy.server_port, timeout=30)
                upstream.request(self.command, self.path, body=body, headers=self._headers())
                response = upstream.getresponse()
                content = response.read()
                proxy.after(request)
                headers = [
                    (name, value)
                    for name, value in response.getheaders()
                    if name.lower() not in ("transfer-encoding", "connection", "content-length")
                ]
                length = response.getheader("Content-Length")
                self._answer(response.status, headers, content, length)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                chunks: list[bytes] = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return b"".join(chunks)

            def _headers(self) -> dict[str, str]:
                dropped = ("transfer-encoding", "connection", "expect", "content-length")
                return {name: value for name, value in self.headers.items() if name.lower() not in dropped}

            def _answer(
                self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None
            ) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header(
                    "Content-Length", length if self.command == "HEAD" and length else str(len(content))
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

            def log_message(self, format: str, *args: object) -> None:
                del format, args

            def handle(self) -> None:
                try:
                    super().handle()
                except (ConnectionError, http.client.HTTPException):  # a killed client
                    self.close_connection = True

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        assert self._http is not None
        self._http.shutdown()
        self._http.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """For processes that use the bucket through the proxy."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}


class Bucket:
    """A bucket of its own, by what is in it."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self.name = name
        self.uri = f"s3://{name}/run"

    def objects(self, below: str = "run/") -> dict[str, int]:
        """Objects below a prefix, without the empty ones that stand for folders: name after the prefix -> size."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=below)
        return {
            one["Key"][len(below) :]: one["Size"]
            for page in pages
            for one in page.get("Contents", [])
            if not one["Key"].endswith("/")
        }

    def checkpoints(self) -> list[str]:
        """The committed checkpoints."""
        found = [name.partition("/")[0] for name in self.objects() if name.endswith("/manifest.json")]
        return sorted(
            (name for name in found if not name.startswith(".")), key=lambda name: int(name.split("-")[1])
        )

    def read(self, name: str) -> bytes:
        """The content of an object of the run."""
        return self._client.get_object(Bucket=self.name, Key=f"run/{name}")["Body"].read()

    def write(self, name: str, content: bytes) -> None:
        """Make or replace an object of the run."""
        self._client.put_object(Bucket=self.name, Key=f"run/{name}", Body=content)

    def delete(self, name: str) -> None:
        """Delete an object of the run."""
        self._client.delete_object(Bucket=self.name, Key=f"run/{name}")

    def multipart_uploads(self) -> int:
        """Uploads that began and did not end."""
        return len(self._client.list_multipart_uploads(Bucket=self.name).get("Uploads", []))


def saved(objects: dict[str, int]) -> dict[str, int]:
    """The objects of a run without its record, which each run adds to."""
    return {name: size for name, size in objects.items() if not name.startswith(f"{FOLDER}/")}


class MemoryBucket:
    """A bucket in the memory of this process, through fsspec: for tests that make thousands of requests."""

    def __init__(self) -> None:
        import fsspec

        self._files: Any = fsspec.filesystem("memory")
        self.name = f"bucket-{uuid.uuid4().hex[:10]}"
        self.uri = f"memory://{self.name}/run"

    def objects(self, below: str = "run/") -> dict[str, int]:
        """As of ``Bucket``."""
        base = f"/{self.name}/{below}"
        found: dict[str, Any] = self._files.find(base, detail=True)
        return {name[len(base) :]: info["size"] for name, info in found.items()}

    def read(self, name: str) -> bytes:
        """As of ``Bucket``."""
        return self._files.cat_file(f"/{self.name}/run/{name}")

    def write(self, name: str, content: bytes) -> None:
        """As of ``Bucket``."""
        self._files.pipe_file(f"/{self.name}/run/{name}", content)


@pytest.fixture
def memory_bucket(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryBucket]:
    """A new bucket in memory; stages are below ``tmp_path``."""
    monkeypatch.setenv("RAYTRAINER_STAGE_DIR", str(tmp_path / "stage"))
    bucket = MemoryBucket()
    yield bucket
    if bucket.objects(""):
        bucket._files.rm(f"/{bucket.name}", recursive=True)


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of an S3 server that lives as long as the tests."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture(scope="session")
def s3_client(s3_port: int) -> Any:
    """A client for looking into buckets, which no proxy disturbs."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{s3_port}",
        region_name="us-east-1",
        aws_access_key_id="looking",
        aws_secret_access_key="into",
    )


@pytest.fixture
def bucket(s3_client: Any) -> Bucket:
    """A new bucket."""
    name = f"bucket-{uuid.uuid4().hex[:10]}"
    s3_client.create_bucket(Bucket=name)
    return Bucket(s3_client, name)


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Proxy]:
    """A proxy to the server, which this process and its children use; their stages are below ``tmp_path``."""
    proxy = Proxy(server_port=s3_port)
    proxy.start()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in proxy.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAYTRAINER_STAGE_DIR", str(tmp_path / "stage"))
    yield proxy
    proxy.stop()
