"""Servers on loopback for black-box tests: threads and bytes; and the simulator as a process.

Source: the OCI distribution specification; docs/spec/image-pull.md 5.
"""

import base64
import contextlib
import hashlib
import io
import json
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

FILE_NAME: Final = "hello"
FILE_CONTENT: Final = b"from the layer\n"

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"


class SilentServer:
    """Accepts, notes the first bytes of each connection, and says nothing until the end.

    Attributes:
        port: where it listens.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._changed = threading.Condition()
        self._heard: list[bytes] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hang_up()
        self._thread.join()

    def first_words(self, seconds: float = 60.0) -> bytes:
        """What somebody sent first; waits for it."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._heard, seconds), "nobody came"
            return self._heard[0]

    def hang_up(self) -> None:
        """End all connections, and listen no more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
                self._open.append(connection)
                connection.settimeout(30)
                heard = connection.recv(4096)
            except OSError:
                if self._listening.fileno() < 0:
                    return
                continue
            with self._changed:
                self._heard.append(heard)
                self._changed.notify_all()


class StubRegistry:
    """A registry of one plain image, `any/name:any-tag`, that notes what it is asked.

    Attributes:
        host: `127.0.0.1:<port>`.
        seen: the `Authorization` headers of all requests, empty for none.
        challenge: what a request without the header is answered with; None serves it.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[str] = []
        self.challenge: str | None = 'Basic realm="stub"'
        self._blobs = {_digest(data): data for data in _image()}
        self._manifest = _manifest(*self._blobs)
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_GET(self) -> None:
                registry.answer(self)

            do_HEAD = do_GET  # noqa: N815  # the library's name

            def log_message(self, *words: object) -> None:
                del words

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.host = f"127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[Self]:
        """Serve in a thread until the end."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        authorization = handler.headers.get("Authorization", "")
        self.seen.append(authorization)
        kind, _, last = handler.path.rpartition("/")
        if self.challenge is not None and not authorization:
            _reply(handler, 401, b"{}", {"WWW-Authenticate": self.challenge})
        elif kind.endswith("/manifests"):
            headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": _digest(self._manifest)}
            _reply(handler, 200, self._manifest, headers)
        elif last in self._blobs:
            _reply(handler, 200, self._blobs[last], {"Content-Type": "application/octet-stream"})
        else:
            _reply(handler, 404 if handler.path != "/v2/" else 200, b"{}", {})


@contextlib.contextmanager
def key_broker(directory: Path) -> Iterator[Any]:
    """The simulator's KBS as a process; what it says of itself."""
    (directory / "kbs/default/key").mkdir(parents=True)
    (directory / "kbs/default/key/1").write_bytes(b"value-of-key-1")
    command = [sys.executable, "-m", "guest_simulator.cli", "up", "--json"]
    command += ["--resources", str(directory / "kbs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def loopback_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key."""
    certificate, key = directory / "ca.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=loopback"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-addext", "keyUsage=digitalSignature,keyCertSign"]
    subprocess.run(
        [*command, "-out", certificate, "-keyout", key], check=True, capture_output=True, timeout=60
    )
    return certificate, key


def basic(user: str, password: str) -> str:
    """The value of the `Authorization` header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def auth_file(host: str, user: str, password: str) -> str:
    """The text of an auth.json with one entry."""
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    return json.dumps({"auths": {host: {"auth": secret}}})


def _reply(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _image() -> tuple[bytes, bytes]:
    """Config and layer."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(FILE_NAME)
        member.size = len(FILE_CONTENT)
        archive.addfile(member, io.BytesIO(FILE_CONTENT))
    layer = packed.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    return json.dumps(config).encode(), layer


def _manifest(config: str, layer: str) -> bytes:
    sizes = {_digest(data): len(data) for data in _image()}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config, "size": sizes[config]},
        "layers": [{"mediaType": LAYER, "digest": layer, "size": sizes[layer]}],
    }
    return json.dumps(document).encode()
