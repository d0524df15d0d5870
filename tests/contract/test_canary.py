"""Secrets planted in a whole set of daemons are found where they belong and nowhere else."""

import asyncio
import base64
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import aiohttp
import pytest
from google.protobuf.message import Message

from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos.aa_pb2 import GetTokenRequest
from guest.protos.cdh_pb2 import GetResourceRequest, UnsealSecretInput
from guest.protos.keyprovider_pb2 import KeyProviderKeyWrapProtocolInput
from guest.protos.methods import GET_RESOURCE, GET_TOKEN, UNSEAL_SECRET, UNWRAP_KEY
from guest.rpc.method import Method
from guest.ttrpc.channel import TtrpcChannel
from guest_simulator.faults import Fault, kbs_error
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.server import Kbs
from support.agents import SECONDS, agent_command, environment
from support.canaries import find_secret
from support.sealed_world import load_vectors

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

CANARY: Final = b"c4nary-0f-a-resource-5e1f"
CREDENTIAL: Final = b"c4nary-0f-a-credential-77ab"


@dataclass(frozen=True)
class Place:
    """Where the daemons run; what is below `memory` stands for the guest's tmpfs."""

    folder: Path
    port: int

    @property
    def memory(self) -> Path:
        return self.folder / "m"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def write_configs(self, kbs: str) -> None:
        for name in ("m", "t"):
            (self.folder / name).mkdir()
        (self.folder / "aa.toml").write_text(
            f'[attester]\ntee = "sample"\n[token_configs.kbs]\nurl = "{kbs}"\n'
        )
        (self.folder / "cdh.toml").write_text(
            f'socket = "unix://{self.folder}/cdh.sock"\ncredentials_seconds = 50\n'
            f'[aa]\naa_socket = "unix://{self.folder}/aa.sock"\n'
            f'[kbc]\nname = "cc_kbc"\nurl = "{kbs}"\n'
            "[resource_cache]\nseconds = 60\n"
            '[[credentials]]\nresource_uri = "kbs:///default/credential/1"\n'
            f'path = "{self.memory}/kbs/credential"\n'
        )

    def commands(self, *, together: bool) -> Iterator[tuple[list[str], Path]]:
        """Command lines, with what exists once they are there."""
        aa, cdh = self.folder / "aa.sock", self.folder / "cdh.sock"
        quiet = ("--metrics-dir", "")
        bind = f"127.0.0.1:{self.port}"
        runtime = ("--runtime-dir", str(self.memory))
        if together:
            configs = ["--aa-config", f"{self.folder}/aa.toml"]
            configs += ["--cdh-config", f"{self.folder}/cdh.toml"]
            words = ["serve", "--attestation-sock", f"unix://{aa}", *configs]
            words += ["--bind", bind, "--features", "all", *runtime, *quiet]
            yield agent_command(*words, module="guest.cli"), cdh
            return
        options = ["-a", f"unix://{aa}", "-c", f"{self.folder}/aa.toml", *quiet]
        yield agent_command(*options), aa
        options = ["-c", f"{self.folder}/cdh.toml", *runtime, *quiet]
        yield agent_command(*options, module="cdh.main"), cdh
        options = ["-b", bind, "-f", "all", "-c", f"unix://{cdh}", "-a", f"unix://{aa}", *quiet]
        yield agent_command(*options, module="api_server_rest.main"), aa


@contextmanager
def daemons(place: Place, *, together: bool) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The set while the block runs; cores would be dumped into the folder if they could."""
    names = environment(RUST_LOG="trace", TMPDIR=str(place.folder / "t"), HOME=str(place.folder))

    def allow_cores() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)

    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    before = allow_cores if hard == resource.RLIM_INFINITY else None
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command, appears in place.commands(together=together):
            with place.log.open("ab") as log:
                child = subprocess.Popen(
                    command, env=names, cwd=place.folder, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, preexec_fn=before,
                )  # fmt: skip
            started.append(child)
            give_up = time.monotonic() + SECONDS
            while not appears.exists():
                assert child.poll() is None, place.log.read_text()
                assert time.monotonic() < give_up, place.log.read_text()
                time.sleep(0.005)
        yield started
    finally:
        for child in started:
            child.kill()
            child.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Visit:
    """Makes every call that touches a secret; keeps the texts of those that fail."""

    def __init__(self, place: Place, kbs: Kbs, vectors: Path) -> None:
        self.place = place
        self.kbs = kbs
        packets = json.loads((vectors / "cdh" / "packets.json").read_text())["vectors"]
        self.packet, self.kek = packets[0]["packet"], bytes.fromhex(packets[0]["kek"])
        self.options = bytes.fromhex(packets[0]["plaintext_hex"])
        self.sealed = load_vectors()
        self.errors: list[str] = []
        self.token = b""

    def provision(self) -> None:
        jwk = json.loads(self.sealed["signing_jwk"])
        del jwk["d"]
        self.kbs.put_resource("default/key/1", CANARY)
        self.kbs.put_resource("default/credential/1", CREDENTIAL)
        self.kbs.put_resource("default/image-kek/1", self.kek)
        self.kbs.put_resource("default/sealed-secret/test", CANARY)
        self.kbs.put_resource("default/signing-key/sealed-secret", json.dumps(jwk).encode())

    async def run(self) -> None:
        cdh = TtrpcChannel(f"unix://{self.place.folder}/cdh.sock")
        aa = TtrpcChannel(f"unix://{self.place.folder}/aa.sock")
        await self.good(cdh, aa)
        await self.bad(cdh)
        await cdh.close()
        await aa.close()

    async def good(self, cdh: TtrpcChannel, aa: TtrpcChannel) -> None:
        soon = Deadline.after(SECONDS)
        uri = GetResourceRequest(ResourcePath="kbs:///default/key/1")
        for _ in range(2):
            answer = await cdh.call(GET_RESOURCE, uri, deadline=soon)
            assert answer.Resource == CANARY
        text = UnsealSecretInput(secret=self.sealed["vault_sealed"].encode())
        assert (await cdh.call(UNSEAL_SECRET, text, deadline=soon)).plaintext == CANARY
        opened = await cdh.call(UNWRAP_KEY, unwrap_input(self.packet), deadline=soon)
        numbers = json.loads(opened.KeyProviderKeyWrapProtocolOutput)["keyunwrapresults"]
        assert bytes(numbers["optsdata"]) == self.options
        token = await aa.call(GET_TOKEN, GetTokenRequest(TokenType="kbs"), deadline=soon)
        self.token = json.loads(token.Token)["token"].encode()
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{self.place.port}/cdh/resource/default/key/1"
            while True:
                try:
                    async with session.get(url) as reply:
                        assert await reply.read() == CANARY
                        return
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.01)

    async def bad(self, cdh: TtrpcChannel) -> None:
        for secret in ("vault_sealed", "envelope_sealed"):
            changed = self.sealed[secret].replace("A", "B", 1).encode()
            await self.fail(cdh, UNSEAL_SECRET, UnsealSecretInput(secret=changed))
        wrong = self.packet.replace('"wrapped_data":"W', '"wrapped_data":"X')
        await self.fail(cdh, UNWRAP_KEY, unwrap_input(wrong))
        for fault in (
            kbs_error("PolicyDeny", path="/other/", times=1),
            Fault(path="/other/", flip=-3, times=1),
            Fault(path="/other/", resize=-9, times=1),
        ):
            self.kbs.put_resource("default/other/1", CANARY)
            self.kbs.faults.add(fault)
            request = GetResourceRequest(ResourcePath="kbs:///default/other/1")
            await self.fail(cdh, GET_RESOURCE, request)

    async def fail(self, channel: TtrpcChannel, method: Method[Q, R], request: Q) -> None:
        with pytest.raises(GuestError) as caught:
            await channel.call(method, request, deadline=Deadline.after(SECONDS))
        self.errors += caught.value.causes()


@asynccontextmanager
async def visiting(
    folder: Path, vectors: Path, *, together: bool
) -> AsyncIterator[tuple[Visit, list[subprocess.Popen[bytes]]]]:
    """A set of daemons that was visited, until the end of the block."""
    place = Place(folder, free_port())
    kbs = Kbs(behaviour=Behaviour())
    visit = Visit(place, kbs, vectors)
    visit.provision()
    async with kbs:
        place.write_configs(kbs.url)
        with ExitStack() as stack:
            open_set = daemons(place, together=together)
            children = await asyncio.to_thread(stack.enter_context, open_set)
            await visit.run()
            yield visit, children
            await asyncio.to_thread(stack.close)


def unwrap_input(packet: str) -> KeyProviderKeyWrapProtocolInput:
    annotation = base64.b64encode(packet.encode()).decode()
    data = json.dumps({"keyunwrapparams": {"annotation": annotation}}).encode()
    return KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=data)


def places(place: Place, children: list[subprocess.Popen[bytes]]) -> Iterator[tuple[str, bytes]]:
    """Everything that somebody else might read, by name."""
    for child in children:
        for name in ("cmdline", "environ"):
            yield f"{child.args!r} {name}", Path(f"/proc/{child.pid}/{name}").read_bytes()
    for path in place.folder.rglob("*"):
        if path.is_file() and not path.is_relative_to(place.memory):
            yield str(path), path.read_bytes()


@pytest.mark.parametrize("together", [False, True], ids=["three", "one"])
async def test_planted_secrets_are_in_no_log_error_argument_environment_or_file(
    short_tmp: Path, vectors: Path, together: bool
) -> None:
    async with visiting(short_tmp, vectors, together=together) as (visit, children):
        place = visit.place
        assert (place.memory / "kbs" / "credential").read_bytes() == CREDENTIAL
        found = [*places(place, children), ("errors", "\n".join(visit.errors).encode())]
    found.append(("log", place.log.read_bytes()))
    bearer = visit.kbs.requests.matching("GET", "/resource/")[0].headers["authorization"]
    log = dict(found)["log"]
    assert log.count(b"call ended") > 4
    assert b"causes=" in log
    assert not find_secret((CANARY, CREDENTIAL, visit.kek), found)
    for token in (visit.token, bearer.removeprefix("Bearer ").encode()):
        for name, content in found:
            assert token[-40:] not in content, name
            assert b"PRIVATE KEY" not in content, name


@pytest.mark.parametrize("together", [False, True], ids=["three", "one"])
async def test_a_daemon_that_dies_of_a_bad_pointer_leaves_no_core(
    short_tmp: Path, vectors: Path, together: bool
) -> None:
    async with visiting(short_tmp, vectors, together=together) as (_, children):
        for child in children:
            limits = Path(f"/proc/{child.pid}/limits").read_text()
            (line,) = (one for one in limits.splitlines() if one.startswith("Max core file"))
            assert line.split()[4:6] == ["0", "0"]
            child.send_signal(signal.SIGSEGV)
            _, status = await asyncio.to_thread(os.waitpid, child.pid, 0)
            child.returncode = -signal.SIGSEGV
            assert os.WTERMSIG(status) == signal.SIGSEGV
            assert not os.WCOREDUMP(status)
    assert not [path for path in short_tmp.rglob("*") if "core" in path.name]
