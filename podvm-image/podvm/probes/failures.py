"""Probes of what goes wrong: no key broker at first, a full disk, services killed under load."""

import contextlib
import json
import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from guest.errors import GuestError
from guest.protos.cdh_pb2 import ImagePullRequest, UnsealSecretInput
from guest.protos.methods import PULL_IMAGE, UNSEAL_SECRET
from podvm.probes.report import (
    ProbeError,
    demand,
    expected,
    open_broker,
    run,
    unit,
    wait_active,
    wait_for,
)
from podvm.probes.services import call, fetch, unsealed
from podvm.probes.storage import STORE

HUB: Final = "confidential-data-hub"
CREDENTIAL: Final = Path("/run/confidential-containers/cdh/kbs/password")
CAUSES: Final = ("connect", "refused", "unreachable", "handshake", "no time left")
LOADED: Final = ("attestation-agent", "confidential-data-hub", "api-server-rest")
RETRIES: Final = 600
"""Connections that a client tries, a fifth of a second apart, before it gives up."""

_CLIENT: Final = """
import http.client, json, os, sys, time
path, wanted, tries = sys.argv[1], sys.argv[2], int(sys.argv[3])
good, bad, slowest = 0, [], 0.0
while not os.path.exists("/run/smoke/enough"):
    started = time.monotonic()
    for _ in range(tries):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", 8006, timeout=200)
            connection.request("GET", path)
            status = connection.getresponse().status
            break
        except (ConnectionError, http.client.HTTPException):
            time.sleep(0.2)
    else:
        status = 0
    slowest = max(slowest, time.monotonic() - started)
    if str(status) == wanted:
        good += 1
    else:
        bad.append(status)
    time.sleep(0.5)
print(json.dumps([good, bad, slowest]))
"""


def _refused(work: str, error: GuestError) -> str:
    text = str(error)
    demand(any(word in text.lower() for word in CAUSES), f"{work} does not name the cause: {text}")
    return f"{work}: {text[-300:]}"


def refused_without_broker() -> str:
    """While the KBS does not answer, a secret and an encrypted image fail and say why."""
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(work) for work in (_secret_refused, _image_refused)]
        return "; ".join(one.result() for one in asked)


def _secret_refused() -> str:
    try:
        call(UNSEAL_SECRET, UnsealSecretInput(secret=str(expected()["sealed"]).encode()))
    except GuestError as error:
        return _refused("unseal", error)
    raise ProbeError("a secret without a KBS")


def _image_refused() -> str:
    bundle = "/run/kata-containers/early"
    Path(bundle).mkdir(parents=True)
    request = ImagePullRequest(image_url=str(expected()["image"]), bundle_path=bundle)
    try:
        call(PULL_IMAGE, request)
    except GuestError as error:
        demand(not os.path.ismount(f"{bundle}/rootfs"), "a root file system is mounted")
        return _refused("pull", error)
    raise ProbeError("an image without its keys")


def broker_comes() -> str:
    """Once the KBS answers, everything works, and no service was started anew."""
    before = {name: unit(name, "MainPID") for name in LOADED}
    open_broker()
    said = unsealed()
    demand({name: unit(name, "MainPID") for name in LOADED} == before, "a service was restarted")
    return f"{said}, without a restart"


def credentials_late() -> str:
    """CDH ends and says why while its credentials cannot be had; the next start succeeds."""
    wait_for("CDH's first end", lambda: int(unit(HUB, "NRestarts")) >= 1, 400, poll=2.0)
    run(["journalctl", "--sync"])
    said = run(["journalctl", "-b", "-o", "cat", "--no-pager", "-u", HUB])
    lines = [line for line in said.splitlines() if "init Hub failed" in line]
    demand(lines, f"CDH does not say why it ended: {said[-300:]}")
    demand(any(word in lines[0].lower() for word in CAUSES), f"without its cause: {lines[0]}")
    demand(not CREDENTIAL.exists(), "a credential without a KBS")
    open_broker()
    wait_active(HUB, 400)
    wanted = str(expected()["unsealed"])
    demand(CREDENTIAL.read_text() == wanted, "another credential")
    return f"after {unit(HUB, 'NRestarts')} restarts; {lines[0][:160]}"


def _fill(filler: Path) -> None:
    """Take all room, that for root alone too."""
    with filler.open("wb") as file:
        for size in (64 << 20, 4 << 20, 256 << 10, 4 << 10):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)


def disk_full() -> str:
    """A store without room: the pull fails and says why; with room it works, without a restart."""
    before = unit(HUB, "MainPID")
    filler = Path(STORE) / "filler"
    _fill(filler)
    bundle = "/run/kata-containers/full"
    Path(bundle).mkdir(parents=True)
    request = ImagePullRequest(image_url=str(expected()["image"]), bundle_path=bundle)
    said = ""
    try:
        call(PULL_IMAGE, request)
    except GuestError as error:
        said = str(error)
    finally:
        filler.unlink()
    demand(said, "pulled into a full store")
    demand(re.search(r"space|room|full", said.lower()), f"does not name the cause: {said}")
    demand(not os.path.ismount(f"{bundle}/rootfs"), "a root file system is mounted")
    call(PULL_IMAGE, request)
    demand(unit(HUB, "MainPID") == before, "CDH was restarted")
    return f"{said[:160]}; then pulled"


def killed_under_load() -> str:
    """Services killed in turn while a container asks: every question gets its answer."""
    enough = Path("/run/smoke/enough")
    path, wanted = str(expected()["load_path"]), str(expected()["load_status"])
    words = ["ip", "netns", "exec", "podns", "/opt/coco/bin/python3", "-I", "-c", _CLIENT]
    client = subprocess.Popen(
        [*words, path, wanted, str(RETRIES)], stdout=subprocess.PIPE, text=True
    )
    times = []
    try:
        for name in LOADED:
            before = unit(name, "MainPID")
            run(["systemctl", "kill", "--signal=KILL", name])
            times.append(f"{name} {wait_active(name, 200, before):.0f} s")
            time.sleep(1)
        status, _ = fetch(path)
        demand(str(status) == wanted, f"after the kills: {status}")
        enough.touch()
        said, _ = client.communicate(timeout=300)
    finally:
        client.kill()
        enough.unlink(missing_ok=True)
    good, bad, slowest = json.loads(said)
    demand(good and not bad, f"{good} good answers, others: {bad}")
    return f"{', '.join(times)}; {good} answers, none bad, the slowest after {slowest:.1f} s"
