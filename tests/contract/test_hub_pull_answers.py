"""What PullImage answers over both transports, what it tells the agent, and what it leaves."""

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from cdh.component import ConfidentialDataHub
from cdh.config import CdhConfig
from guest.deadline import Deadline
from guest.errors import GuestError, UnavailableError
from guest.protos.aa_pb2 import ExtendRuntimeMeasurementRequest, ExtendRuntimeMeasurementResponse
from guest.protos.cdh_pb2 import ImagePullRequest
from guest.protos.methods import EXTEND_RUNTIME_MEASUREMENT, PULL_IMAGE
from guest.rpc.grpc import GrpcChannel, GrpcServer
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Channel, Routes
from guest.rpc.server import Server
from guest.rpc.status import Code, code_of
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image, build_index
from guest_simulator.registry.server import Registry
from image_pull.store import syscalls
from image_pull.store.claim import Claim
from support.pulling import insecure, left_in_store
from support.ttrpc_wire import Wire, request

PREFIX = "[CDH] [ERROR]: "
BOTH = pytest.mark.parametrize("transport", ["ttrpc", "grpc"])


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory, where an overlay can have its upper directory."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Agent:
    """Takes measurements, each with the same result."""

    def __init__(self, result: int | GuestError) -> None:
        self.result = result
        self.asked: list[bytes] = []

    async def extend(
        self, request: ExtendRuntimeMeasurementRequest, context: CallContext
    ) -> ExtendRuntimeMeasurementResponse:
        """Note it."""
        self.asked.append(request.SerializeToString())
        if isinstance(self.result, GuestError):
            raise self.result
        return ExtendRuntimeMeasurementResponse(Result=self.result)  # type: ignore[arg-type]  # any

    def channel(self) -> Channel:
        """Leads to it."""
        routes = Routes()
        routes.bind(EXTEND_RUNTIME_MEASUREMENT, self.extend)
        return InProcessChannel(routes)


@asynccontextmanager
async def hub(
    base: Path, registry: Registry, transport: str = "ttrpc", result: int | GuestError = 0
) -> AsyncIterator[tuple[Channel, Agent]]:
    """A hub on a socket, and the agent beside it."""
    table = {"work_dir": str(base / "work"), "registry_config": insecure(registry.host)}
    document = {"kbc": {"name": "offline_fs_kbc", "url": ""}, "image": table}
    address, agent, servers = f"unix://{base}/s", Agent(result), list[Server]()

    def open_server(routes: Routes) -> Server:
        make = GrpcServer if transport == "grpc" else TtrpcServer
        servers.append(make(routes, address))
        return servers[0]

    made = ConfidentialDataHub(
        msgspec.convert(document, CdhConfig), agent.channel(), open_server, runtime_dir=base / "rt"
    )
    ready, stop = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.run(ready=ready.set, stop=stop), name="hub")
        await ready.wait()
        channel = GrpcChannel(address) if transport == "grpc" else TtrpcChannel(address)
        try:
            yield channel, agent
        finally:
            await channel.close()
            stop.set()


def push(registry: Registry) -> tuple[str, str, str]:
    """An index of two platforms; gives reference, digest of our manifest, digest of the index."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    images = [
        build_image(
            [Layer(entries=(Entry(kind=Kind.FILE, path=name, data=name.encode()),))],
            architecture=name,
        )
        for name in ("riscv64", machine)
    ]
    index = build_index(images)
    digest = registry.push_image("demo/app:v1", index)
    return f"{registry.host}/demo/app:v1", images[1].manifest_digest, digest


def asking(reference: str, bundle: Path) -> ImagePullRequest:
    return ImagePullRequest(image_url=reference, bundle_path=str(bundle))


def mounts_below(base: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if f" {base}/" in line]


def undo(base: Path, bundle: Path) -> None:
    """As kata-agent does."""
    if os.path.ismount(bundle / "rootfs"):
        syscalls.unmount(os.fsencode(bundle / "rootfs"), detach=False)
        assert list((bundle / "rootfs").iterdir()) == []
    assert mounts_below(base) == []


@BOTH
@pytest.mark.spec("image-pull", 1)
async def test_a_pull_answers_with_the_digest_of_the_platform_s_manifest(
    transport: str, base: Path
) -> None:
    async with Registry() as registry, hub(base, registry, transport) as (channel, _):
        reference, manifest, index = push(registry)
        bundle = base / "bundle"
        answer = await channel.call(
            PULL_IMAGE, asking(reference, bundle), deadline=Deadline.after(50)
        )
        assert answer.manifest_digest == manifest != index
        assert (bundle / "config.json").is_file()
        undo(base, bundle)


@pytest.mark.parametrize("result", [0, 1, 2], ids=["ok", "not-supported", "not-enabled"])
@pytest.mark.spec("image-pull", 4)
async def test_the_agent_is_told_exactly_and_may_be_unable_to_measure(
    result: int, base: Path
) -> None:
    async with Registry() as registry, hub(base, registry, result=result) as (channel, agent):
        reference, manifest, _ = push(registry)
        bundle = base / "bundle"
        await channel.call(PULL_IMAGE, asking(reference, bundle), deadline=Deadline.after(50))
        (asked,) = agent.asked
        measured = ExtendRuntimeMeasurementRequest.FromString(asked)
        assert measured.Domain == "github.com/confidential-containers"
        assert measured.Operation == "PullImage"
        assert measured.Content == f'{{"image":"{reference}", "digest":"{manifest}"}}'
        assert not measured.HasField("RegisterIndex")
        undo(base, bundle)
        agent.result = UnavailableError("connection lost")
        with pytest.raises(GuestError) as caught:
            await channel.call(
                PULL_IMAGE, asking(reference, base / "again"), deadline=Deadline.after(50)
            )
        start = "Attestation Agent client error: failed to extend runtime measurement: "
        assert str(caught.value).removeprefix(PREFIX).startswith(start)


@pytest.mark.spec("image-pull", 2)
async def test_failures_are_internal_with_the_prefix_and_a_missed_deadline_is_a_timeout(
    base: Path,
) -> None:
    async with Registry() as registry, hub(base, registry) as (_, _):
        reference, _, _ = push(registry)
        missing = reference.replace("demo/app", "demo/missing")
        wire = await Wire.connect(str(base / "s"))
        payload = asking(missing, base / "bundle").SerializeToString()
        service, method = PULL_IMAGE.service, PULL_IMAGE.name
        asked = request(1, payload=payload, service=service, method=method)
        code, text = (await wire.ask(asked)).status
        assert (code, text.startswith(f"{PREFIX}Image Pull error: Failed to pull")) == (13, True)
        registry.faults.add(Fault(path="/blobs/", delay=30))
        payload = asking(reference, base / "bundle").SerializeToString()
        late = request(3, payload=payload, service=service, method=method, timeout=3_000_000_000)
        assert (await wire.ask(late)).status == (4, "timeout")
        wire.close()


@BOTH
@pytest.mark.spec("image-pull", 2)
async def test_failures_are_internal_on_both_transports(transport: str, base: Path) -> None:
    async with Registry() as registry, hub(base, registry, transport) as (channel, _):
        for reference in (f"{registry.host}/missing:v1", "NOT A REFERENCE"):
            with pytest.raises(GuestError) as caught:
                await channel.call(
                    PULL_IMAGE, asking(reference, base / "bundle"), deadline=Deadline.after(50)
                )
            assert str(caught.value).startswith(PREFIX)
            assert code_of(caught.value) in (Code.INTERNAL, Code.NOT_FOUND, Code.INVALID_ARGUMENT)


@pytest.mark.root
@pytest.mark.mount
@pytest.mark.parametrize("what", ["agent", "config.json"])
@pytest.mark.spec("image-pull", 48)
async def test_what_fails_after_the_mount_leaves_no_mount(
    what: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    bundle = base / "bundle"

    def refuse(self: Claim, path: Path, content: bytes) -> None:
        seen.append(os.path.ismount(path.parent / "rootfs"))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with Registry() as registry, hub(base, registry) as (channel, agent):
        reference, _, _ = push(registry)
        with monkeypatch.context() as patch:
            if what == "agent":
                agent.result = UnavailableError("connection lost")
            else:
                patch.setattr(Claim, "publish", refuse)
            with pytest.raises(GuestError):
                await channel.call(
                    PULL_IMAGE, asking(reference, bundle), deadline=Deadline.after(50)
                )
        assert seen == ([] if what == "agent" else [True])
        assert mounts_below(base) == []
        assert not (bundle / "config.json").exists()
        assert list((base / "work" / "mounts").iterdir()) == []
        assert left_in_store(base / "work") == []
        agent.result = 0
        await channel.call(PULL_IMAGE, asking(reference, bundle), deadline=Deadline.after(50))
        undo(base, bundle)
