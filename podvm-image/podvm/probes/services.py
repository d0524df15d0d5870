"""Probes of the three services: REST in the pod's name space, a fake kata-agent over ttRPC."""

import asyncio
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Final, TypeVar

from google.protobuf.message import Message

from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos.cdh_pb2 import ImagePullRequest, SecureMountRequest, UnsealSecretInput
from guest.protos.methods import PULL_IMAGE, SECURE_MOUNT, UNSEAL_SECRET
from guest.rpc.method import Method
from guest.ttrpc.channel import TtrpcChannel
from podvm.probes import names
from podvm.probes.report import SOCKETS, ProbeError, demand, expected, run, unit

CALL_SECONDS: Final = 240.0
ANSWER_SECONDS: Final = 60.0
"""From REST's socket to its first answer, under emulation."""

VOLUME: Final = "/dev/disk/by-id/virtio-volume"
MAPPING: Final = "coco-smoke"
MOUNTED: Final = "/run/cloud-volumes/smoke"
CONTENT: Final = b"written before the machine was switched off\n" * 4096

_FETCH: Final = """
import json, sys, urllib.request, urllib.error
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open("http://127.0.0.1:8006" + sys.argv[1], timeout=200) as answer:
        print(json.dumps([answer.status, answer.read().decode("latin-1")]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode("latin-1")]))
"""

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


def fetch(path: str) -> tuple[int, str]:
    """A container's request: status and body, from inside podns."""
    words = ["ip", "netns", "exec", "podns", "/opt/coco/bin/python3", "-I", "-c", _FETCH, path]
    status, body = json.loads(run(words, seconds=CALL_SECONDS))
    return int(status), str(body)


def call(
    method: Method[Q, R],
    request: Q,
    seconds: float = CALL_SECONDS,
    *,
    socket: str = SOCKETS["confidential-data-hub"],
) -> R:
    """One call, as kata-agent makes it."""

    async def work() -> R:
        channel = TtrpcChannel(f"unix://{socket}")
        try:
            return await channel.call(method, request, deadline=Deadline.after(seconds))
        finally:
            await channel.close()

    return asyncio.run(work())


def first_answer() -> str:
    """REST gives its first answer soon after its socket is there."""
    started = int(unit("api-server-rest", "ActiveEnterTimestampMonotonic")) / 1e6
    path = str(expected()["load_path"])
    status, body = fetch(path)
    took = time.monotonic() - started
    demand(status == expected()["load_status"], f"{path}: {status} {body[:200]}")
    demand(took <= ANSWER_SECONDS, f"the first answer came after {took:.1f} s")
    return f"{took:.1f} s after its socket"


def rest_answers() -> str:
    """Evidence and a resource from inside podns; nothing listens in the root name space."""
    status, body = fetch("/aa/evidence?runtime_data=c21va2U")
    demand(status == 200, f"/aa/evidence: {status} {body[:200]}")
    demand("tpm_quote" in json.loads(body), "evidence without tpm_quote")
    path = str(expected()["rest_path"])
    status, body = fetch(path)
    demand(status == expected()["rest_status"], f"{path}: {status} {body[:200]}")
    if status == 200:
        demand(body == expected()["rest_body"], f"{path} has another body")
    with socket.socket() as peer:
        peer.settimeout(5)
        demand(peer.connect_ex(("127.0.0.1", 8006)) != 0, "8006 is open in the root name space")
    inside = run(["ip", "netns", "exec", "podns", "ss", "-H", "-l", "-n", "-t"])
    demand("127.0.0.1:8006" in inside and len(inside.splitlines()) == 1, inside)
    return f"evidence with a quote, {path} {status}, closed outside of podns"


def token_accepted() -> str:
    """The KBS verifies the TPM's evidence and issues a token, which a container gets."""
    status, body = fetch("/aa/token?token_type=kbs")
    demand(status == 200, f"/aa/token: {status} {body[:200]}")
    demand(json.loads(body).get("token"), "no token")
    return "token issued"


def unsealed() -> str:
    """A sealed secret comes out as its owner put it in."""
    sealed = str(expected()["sealed"]).encode()
    answer = call(UNSEAL_SECRET, UnsealSecretInput(secret=sealed))
    demand(answer.plaintext.decode() == expected()["unsealed"], "another plaintext")
    return f"{len(answer.plaintext)} bytes"


def pulled() -> str:
    """An encrypted image; its root file system is an overlay that PID 1 sees."""
    bundle = "/run/kata-containers/smoke"
    Path(bundle).mkdir(parents=True)
    request = ImagePullRequest(image_url=str(expected()["image"]), bundle_path=bundle)
    answer = call(PULL_IMAGE, request, 500)
    rootfs = Path(bundle) / "rootfs"
    mounts = [line.split() for line in Path("/proc/1/mountinfo").read_text().splitlines()]
    kinds = [line[line.index("-") + 1] for line in mounts if line[4] == str(rootfs)]
    demand(kinds == ["overlay"], f"rootfs is mounted as {kinds}")
    mode = stat.S_IMODE(rootfs.stat().st_mode)
    demand(mode == 0o755, f"the root directory has mode {mode:o}")
    files = expected()["image_files"]
    assert isinstance(files, dict)
    for name, content in files.items():
        demand((rootfs / name).read_text() == content, f"{name} differs")
    gone = expected()["image_gone"]
    demand(not (rootfs / str(gone)).exists(), f"{gone} is still there")
    demand((Path(bundle) / "config.json").exists(), "no config.json")
    return f"{answer.manifest_digest[:19]}, overlay of {len(files)} files compared"


def pulled_by_name() -> str:
    """The same registry under a name that the network's DNS knows; not pulled twice."""
    with names.server():
        bundle = "/run/kata-containers/named"
        Path(bundle).mkdir(parents=True)
        request = ImagePullRequest(image_url=str(expected()["named_image"]), bundle_path=bundle)
        answer = call(PULL_IMAGE, request)
    demand(os.path.ismount(f"{bundle}/rootfs"), "no root file system")
    return f"{request.image_url}: {answer.manifest_digest[:19]}"


def foreign_authority_refused() -> str:
    """A registry whose certificate another authority issued is not talked to."""
    bundle = "/run/kata-containers/foreign"
    Path(bundle).mkdir(parents=True)
    request = ImagePullRequest(image_url=str(expected()["foreign_image"]), bundle_path=bundle)
    try:
        call(PULL_IMAGE, request)
    except GuestError as error:
        demand("certificate" in str(error).lower(), f"refused because of {error}")
        return f"refused: {str(error)[:120]}"
    raise ProbeError("pulled from a registry that nobody vouches for")


def _mount(source: str) -> None:
    options = {
        "devicePath": VOLUME, "sourceType": source, "targetType": "fileSystem",
        "encryptionType": "luks2", "filesystemType": "ext4", "dataIntegrity": "true",
        "key": str(expected()["volume_key"]), "mapperName": MAPPING,
    }  # fmt: skip
    Path(MOUNTED).mkdir(parents=True, exist_ok=True)
    call(
        SECURE_MOUNT,
        SecureMountRequest(volume_type="block-device", options=options, mount_point=MOUNTED),
        600,
    )
    mounts = Path("/proc/1/mountinfo").read_text()
    demand(f" {MOUNTED} " in mounts, "the volume is not mounted for PID 1")


def volume_created() -> str:
    """A LUKS2 volume with integrity is made, mounted, filled and closed."""
    _mount("empty")
    table = run(["cryptsetup", "status", MAPPING])
    demand("integrity" in table, f"no integrity: {table}")
    (Path(MOUNTED) / "file").write_bytes(CONTENT)
    run(["umount", MOUNTED])
    run(["cryptsetup", "close", MAPPING])
    return f"{len(CONTENT)} bytes in an ext4 on LUKS2 with integrity"


def volume_found_again() -> str:
    """After the reboot the volume opens with the key of the KBS; its content is there."""
    _mount("encrypted")
    demand((Path(MOUNTED) / "file").read_bytes() == CONTENT, "the content changed")
    run(["umount", MOUNTED])
    run(["cryptsetup", "close", MAPPING])
    return f"{len(CONTENT)} bytes found again"


def volume_edited() -> str:
    """A header whose cipher became none, with good checksums, is refused by name."""
    from podvm.probes.luks import without_encryption

    with open(VOLUME, "r+b") as device:
        before = device.read(16 << 20)
        device.seek(0)
        device.write(without_encryption(before))
        device.flush()
        os.fsync(device.fileno())
    try:
        _mount("encrypted")
    except GuestError as error:
        demand(not Path("/dev/mapper", MAPPING).exists(), "the mapping is there")
        return f"refused: {str(error)[:160]}"
    raise ProbeError("mounted with an edited header")
