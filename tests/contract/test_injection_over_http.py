"""A resource that its owner pushes over HTTP: from evidence to what containers get."""

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from joserfc import jwe
from joserfc.jwk import ECKey

from api_server_rest.config import Injection
from guest.protos import aa_pb2
from guest.protos.methods import GET_EVIDENCE
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Routes
from guest.ttrpc.channel import TtrpcChannel
from support.agents import SECONDS, agent_command, environment
from support.kbs_hub import HubWorld, hub_world
from support.rest_world import Reply, RestWorld, rest_world
from support.source_tree import ROOT

URL: Final = "/cdh/resource-injection"
NONCE: Final = "bm9uY2UgMQ"
CONTENT: Final = b"what only this guest may read: 4f1c"
BIN: Final = Path(sys.executable).parent
ALGORITHMS: Final = ("ECDH-ES+A256KW", "A256GCM")


def encrypted(prepared: dict[str, Any], content: bytes = CONTENT) -> dict[str, str]:
    """What an owner sends for a session, made by another library than the guest's."""
    header = {"alg": ALGORITHMS[0], "enc": ALGORITHMS[1]}
    key = ECKey.import_key(prepared["tee_pubkey"])
    compact = jwe.encrypt_compact(header, content, key, algorithms=list(ALGORITHMS))
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    return dict(zip(names, compact.split("."), strict=True))


def bound_by(prepared: dict[str, Any]) -> bytes:
    """The report data that vouches for nonce and key."""
    runtime = {"nonce": prepared["nonce"], "tee-pubkey": prepared["tee_pubkey"]}
    text = json.dumps(runtime, sort_keys=True, separators=(",", ":"))
    return hashlib.sha384(text.encode()).digest()


async def evidence(
    request: aa_pb2.GetEvidenceRequest, context: CallContext
) -> aa_pb2.GetEvidenceResponse:
    """An agent whose evidence is what it binds."""
    return aa_pb2.GetEvidenceResponse(Evidence=request.RuntimeData)


@asynccontextmanager
async def worlds(
    folder: Path, injection: Injection = Injection.LOOPBACK, **table: object
) -> AsyncIterator[tuple[RestWorld, HubWorld]]:
    """A shim in front of a hub that lets resources be pushed, beside an agent."""
    routes = Routes()
    routes.bind(GET_EVIDENCE, evidence)
    tables: dict[str, object] = {"resource_injection": {"enabled": True} | table}
    async with hub_world(folder, aa=InProcessChannel(routes), tables=tables) as hub:
        cdh = TtrpcChannel(f"unix://{hub.socket}")
        async with rest_world(folder, with_cdh=False, injection=injection, cdh=cdh) as rest:
            yield rest, hub


async def prepare(rest: RestWorld, path: str = "a/b/c") -> dict[str, Any]:
    """Begin a session."""
    reply = await rest.ask("POST", f"{URL}/prepare/{path}", json.dumps({"nonce": NONCE}).encode())
    assert reply.status == 200, reply
    prepared: dict[str, Any] = json.loads(reply.body)
    assert base64.b64decode(prepared["evidence"], validate=True) == bound_by(prepared)
    assert prepared["nonce"] == NONCE
    return prepared


async def commit(
    rest: RestWorld, session: str, resource: dict[str, str], path: str = "a/b/c"
) -> Reply:
    """End a session."""
    body = json.dumps({"session_id": session, "encrypted_resource": resource})
    return await rest.ask("POST", f"{URL}/commit/{path}", body.encode())


def refused(reply: Reply, reason: str) -> bool:
    """Whether the answer is that of every refusal of the hub, for this reason."""
    return (reply.status, reply.body, reply.headers.get("x-coco-error")) == (
        500, b"ttrpc request error", reason,
    )  # fmt: skip


async def test_what_is_pushed_becomes_a_private_file_of_the_hub_and_no_resource_of_the_kbs(
    short_tmp: Path,
) -> None:
    async with worlds(short_tmp) as (rest, _):
        prepared = await prepare(rest)
        reply = await commit(rest, prepared["session_id"], encrypted(prepared))
        assert (reply.status, reply.body) == (200, b"")
        stored = short_tmp / "rt" / "a" / "b" / "c"
        assert stored.read_bytes() == CONTENT
        assert stat.S_IMODE(stored.stat().st_mode) == 0o600
        reply = await rest.get("/cdh/resource/a/b/c")
        assert reply.status == 500
        assert CONTENT not in reply.body


async def test_a_session_serves_one_attempt_at_one_path_with_its_own_key(short_tmp: Path) -> None:
    async with worlds(short_tmp) as (rest, _):
        first, second = await prepare(rest), await prepare(rest)
        resource = encrypted(first)
        for path in ("a/b/d", "a/b/c/"):
            reply = await commit(rest, first["session_id"], resource, path)
            assert refused(reply, "invalid-input" if path == "a/b/d" else "not-found")
        assert refused(await commit(rest, first["session_id"], resource), "not-found")
        assert refused(await commit(rest, second["session_id"], resource), "integrity")
        third = await prepare(rest)
        assert refused(
            await commit(rest, third["session_id"], {"protected": "e30"}), "invalid-input"
        )
        fourth = await prepare(rest)
        resource = encrypted(fourth)
        assert (await commit(rest, fourth["session_id"], resource)).status == 200
        assert refused(await commit(rest, fourth["session_id"], resource), "not-found")


async def test_a_session_that_is_over_is_unknown(short_tmp: Path) -> None:
    async with worlds(short_tmp, seconds=1e-9) as (rest, _):
        prepared = await prepare(rest)
        reply = await commit(rest, prepared["session_id"], encrypted(prepared))
        assert refused(reply, "not-found")
        assert not (short_tmp / "rt" / "a").exists()


async def test_paths_nonces_and_sizes_that_the_hub_refuses_are_refused(short_tmp: Path) -> None:
    async with worlds(short_tmp, max_bytes=10_000, max_sessions=1) as (rest, _):
        nonce = json.dumps({"nonce": NONCE}).encode()
        for path in ("", "/a", "a//b", "../x", "a/../b", "storage/x", "n" * 256):
            assert refused(
                await rest.ask("POST", f"{URL}/prepare/{path}", nonce), "invalid-input"
            ), path
        for text in ("", "n" * 4097):
            body = json.dumps({"nonce": text}).encode()
            assert refused(await rest.ask("POST", f"{URL}/prepare/a", body), "invalid-input")
        prepared = await prepare(rest)
        assert refused(await rest.ask("POST", f"{URL}/prepare/a", nonce), "limit")
        resource = encrypted(prepared, bytes(10_001))
        assert refused(await commit(rest, prepared["session_id"], resource), "limit")


async def test_either_switch_alone_lets_nothing_in(short_tmp: Path) -> None:
    nonce = json.dumps({"nonce": NONCE}).encode()
    async with worlds(short_tmp, Injection.OFF) as (rest, _):
        reply = await rest.ask("POST", f"{URL}/prepare/a", nonce)
        assert (reply.status, reply.body) == (404, b"URL NOT FOUND")
    async with worlds(short_tmp, enabled=False) as (rest, _):
        assert refused(await rest.ask("POST", f"{URL}/prepare/a", nonce), "unsupported")


@contextmanager
def guest(folder: Path, port: int, *options: str) -> Iterator[None]:
    """`guest serve` with the sample attester, resources from a file that is not there yet."""
    (folder / "aa.toml").write_text('[attester]\ntee = "sample"\n')
    (folder / "cdh.toml").write_text(
        f'socket = "unix://{folder}/cdh.sock"\n[kbc]\nname = "offline_fs_kbc"\n'
        f'[aa]\naa_socket = "unix://{folder}/aa.sock"\n[resource_injection]\nenabled = true\n'
    )
    words = ["serve", "--attestation-sock", f"unix://{folder}/aa.sock"]
    words += ["--aa-config", f"{folder}/aa.toml", "--cdh-config", f"{folder}/cdh.toml"]
    words += ["--runtime-dir", f"{folder}/rt", "--bind", f"127.0.0.1:{port}", "--metrics-dir", ""]
    names = environment(OFFLINE_FS_KBC_EXTRA_FILE_PATH=f"{folder}/rt/pushed/resources.json")
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            agent_command(*words, *options, module="guest.cli"), env=names, cwd=folder,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    give_up = time.monotonic() + SECONDS
    try:
        while not (folder / "cdh.sock").exists():
            assert child.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < give_up, (folder / "log").read_text()
            time.sleep(0.005)
        yield
    finally:
        child.kill()
        child.wait()


def ask(port: int, method: str, url: str, document: object = None) -> tuple[int, bytes]:
    """One request; retried while nobody listens yet."""
    give_up = time.monotonic() + SECONDS
    body = None if document is None else json.dumps(document).encode()
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        try:
            connection.request(method, url, body)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except ConnectionRefusedError:
            assert time.monotonic() < give_up, "does not listen"
            time.sleep(0.005)
        finally:
            connection.close()


def free_port() -> int:
    """A port that was free just now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_containers_get_the_resources_that_an_owner_pushed_into_a_guest_without_kbs(
    short_tmp: Path,
) -> None:
    port, path = free_port(), "pushed/resources.json"
    with guest(short_tmp, port, "--resource-injection", "loopback"):
        assert ask(port, "GET", "/cdh/resource/default/key/1")[0] == 500
        status, body = ask(port, "POST", f"{URL}/prepare/{path}", {"nonce": NONCE})
        assert status == 200, body
        prepared = json.loads(body)
        shown = json.loads(base64.b64decode(prepared["evidence"], validate=True))
        assert base64.b64decode(shown["report_data"]).startswith(bound_by(prepared))
        resources = {"default/key/1": base64.b64encode(CONTENT).decode()}
        resource = encrypted(prepared, json.dumps(resources).encode())
        document = {"session_id": prepared["session_id"], "encrypted_resource": resource}
        assert ask(port, "POST", f"{URL}/commit/{path}", document) == (200, b"")
        assert ask(port, "GET", "/cdh/resource/default/key/1") == (200, CONTENT)
        assert ask(port, "POST", f"{URL}/commit/{path}", document)[0] == 500
    assert CONTENT not in (short_tmp / "log").read_bytes()
    assert resource["ciphertext"].encode() not in (short_tmp / "log").read_bytes()


def test_a_guest_that_was_not_told_to_lets_nothing_be_pushed(short_tmp: Path) -> None:
    port = free_port()
    with guest(short_tmp, port):
        for verb in ("prepare", "commit"):
            answer = ask(port, "POST", f"{URL}/{verb}/a", {"nonce": NONCE})
            assert answer == (404, b"URL NOT FOUND")


@pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "jq"))) or not (BIN / "guest").exists(),
    reason="needs bash, curl, jq and the installed commands",
)
def test_the_guide_can_be_followed_line_by_line(short_tmp: Path) -> None:
    page = (ROOT / "docs/guides/injection.md").read_text("utf-8")
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    script = script.replace("make setup", ":").replace("PORT=8006", f"PORT={free_port()}")
    (short_tmp / ".venv").symlink_to(BIN.parent)
    trap = "trap 'kill $(jobs -p) 2>/dev/null || :' EXIT"
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", f"{trap}\n{script}"],
        cwd=short_tmp, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
        env={"PATH": os.environ["PATH"], "HOME": str(short_tmp), "LC_ALL": "C.UTF-8"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "correct horse battery staple"
    assert not (short_tmp / "build/guide/password").exists()
