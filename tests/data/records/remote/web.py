"""A web server that serves ranges of files to those who are allowed to read them."""

import base64
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

USER, PASSWORD = "hush-user", "hush:word"
TOKEN = "hush/token+1="


class Web:
    """Serves the files of a folder; what a request must state is `rule`, see `allows`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rule = "signature"
        self.signature = "hush-signature-1"
        self.requests: list[str] = []  # method, path and status of each
        self.port = 0

    def url(self, name: str, query: str = "", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}/faces/{name}{query}"

    @property
    def signed(self) -> str:
        """The URL of `train.rec` with the signature that is valid now, for a GET alone."""
        query = f"?X-Amz-Credential=hush-key%2Feu&X-Amz-Signature={self.signature}"
        return self.url("train.rec", query)

    @property
    def with_token(self) -> str:
        """The URL of the folder with a token that is valid for all files."""
        return self.url("", "?token=hush%2Ftoken%2B1%3D")

    @property
    def with_password(self) -> str:
        return self.url("train.rec", user=f"{USER}:hush%3Aword@")

    def allows(self, method: str, path: str, headers: Any) -> bool:
        query = dict(parse_qsl(urlsplit(path).query))
        match self.rule:
            case "signature":
                signed = query.get("X-Amz-Signature") == self.signature
                return signed and method == "GET" and urlsplit(path).path.endswith(".rec")
            case "token":
                return query.get("token") == TOKEN
            case "password":
                stated = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                return bool(headers.get("Authorization") == f"Basic {stated}")
        return False

    def take_requests(self) -> list[str]:
        requests, self.requests = self.requests, []
        return requests


@contextmanager
def serving(folder: Path) -> Iterator[Web]:
    """Serve the files of `folder` below `/faces/`."""
    web = Web(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(None)

        def answer(self, body: bytes | None) -> None:
            path = web.folder / Path(urlsplit(self.path).path).name
            content, status = b"", 403
            if web.allows(self.command, self.path, self.headers):
                status = 200 if path.is_file() else 404
            size = 0
            if status == 200:
                content, size = path.read_bytes(), path.stat().st_size
                if stated := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                    content, status = content[int(stated[1]) : int(stated[2]) + 1], 206
                    size = len(content)
            web.requests.append(f"{self.command} {path.name} {status}")
            self.send_response(status)
            self.send_header("Content-Length", str(size))
            if status < 300:
                self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
            self.end_headers()
            with suppress(ConnectionError):  # a client that asked for the size alone
                self.wfile.write(content if body is None else body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        web.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield web
        server.shutdown()
        thread.join(60)
