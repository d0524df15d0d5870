"""Probes run inside the sandboxes of the services: a unit of the same settings, another program."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Final

from podvm.probes.report import PLACE, demand, expected, run

UNITS: Final = Path("/usr/lib/systemd/system")
TRANSIENT: Final = Path("/run/systemd/system")

AGENT_WRITES: Final = frozenset((
    "/run/confidential-containers", "/run/attestation-agent", "/sys/kernel/config/tsm",
    "/tmp", "/var/tmp",
))  # fmt: skip
"""Where AA may write: its sockets, the event log, the TSM's paths; temporary ones are its own."""

_TRY: Final = """
import ctypes, json, os, socket, sys
result = {}
def attempt(name, work):
    try:
        work()
        result[name] = ""
    except OSError as error:
        result[name] = error.strerror or str(error)
def write(path):
    with open(path, "w"):
        pass
    os.unlink(path)
def mount():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
def connect(host, port):
    with socket.create_connection((host, port), 5):
        pass
for path in ("/run/kata-containers/smoke-try", "/run/peerpod/smoke-try", "/etc/smoke-try",
             "/var/smoke-try", "/run/confidential-containers/smoke-try"):
    attempt("write " + path, lambda: write(path))
attempt("mount", mount)
with open("/proc/self/mountinfo") as file:
    points = sorted({line.split()[4] for line in file})
places = points + ["/run/" + name for name in os.listdir("/run")]
writable = []
for place in places:
    try:
        os.mkdir(place + "/smoke-try")
        os.rmdir(place + "/smoke-try")
        writable.append(place)
    except OSError:
        pass
result["writable"] = " ".join(sorted(set(writable)))
attempt("configfs", lambda: os.mkdir("/sys/kernel/config/tsm/report/smoke-try"))
for node in ("/dev/vda", "/dev/tpmrm0"):
    attempt("open " + node, lambda: os.close(os.open(node, os.O_RDWR)))
attempt("connect", lambda: connect(sys.argv[1], int(sys.argv[2])))
with open("/proc/self/status") as file:
    fields = dict(line.split(":", 1) for line in file.read().splitlines())
result["uid"] = fields["Uid"].split()[0]
result["capabilities"] = fields["CapEff"].strip()
result["filter"] = fields["Seccomp"].strip()
print("SANDBOX " + json.dumps(result), flush=True)
"""


def inside(unit: str) -> dict[str, str]:
    """What is possible with the settings of a unit: by attempt, empty or the error."""
    text = (UNITS / f"{unit}.service").read_text()
    host, port = str(expected()["kbs_address"]).split(":")
    (PLACE / "try.py").write_text(_TRY)
    kept = [
        line
        for line in text.splitlines()
        if not re.match(r"(Exec|Type=|Restart|SyslogIdentifier|Requires|Wants|After|BindsTo)", line)
    ]
    at = kept.index("[Service]") + 1
    kept[at:at] = [
        "Type=oneshot",
        f"ExecStart=/opt/coco/bin/python3 -I -B {PLACE}/try.py {host} {port}",
        f"SyslogIdentifier=try-{unit}",
    ]
    name = f"try-{unit}.service"
    TRANSIENT.mkdir(parents=True, exist_ok=True)
    (TRANSIENT / name).write_text("\n".join(kept) + "\n")
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "start", name])
    run(["journalctl", "--sync"])
    said = run(["journalctl", "-b", "-o", "cat", "--no-pager", "-t", f"try-{unit}"])
    (line,) = [line for line in said.splitlines() if line.startswith("SANDBOX ")]
    found = json.loads(line.removeprefix("SANDBOX "))
    assert isinstance(found, dict)
    return found


def _status(unit: str) -> dict[str, str]:
    """`/proc/<pid>/status` of the service that runs."""
    pid = run(["systemctl", "show", "-P", "MainPID", unit]).strip()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def agent_confined() -> str:
    """AA: no capability, no mount, no disk, no place to write but its own; the TPM opens."""
    found = inside("attestation-agent")
    places = ("/run/kata-containers", "/run/peerpod", "/etc", "/var")
    refused = [f"write {place}/smoke-try" for place in places]
    for name in (*refused, "mount", "open /dev/vda"):
        demand(found[name], f"AA can {name}")
    demand(not found["open /dev/tpmrm0"], f"AA: /dev/tpmrm0: {found['open /dev/tpmrm0']}")
    demand(int(found["capabilities"], 16) == 0, f"AA has {found['capabilities']}")
    demand(found["configfs"] == os.strerror(errno.ENXIO), f"configfs-tsm: {found['configfs']}")
    more = set(found["writable"].split()) - AGENT_WRITES
    demand(not more, f"AA can write {sorted(more)}")
    running = _status("attestation-agent")
    demand(int(running["CapEff"], 16) == 0, f"the agent that runs has {running['CapEff']}")
    return f"no capability, seccomp {found['filter']}, the TPM and configfs, {found['writable']}"


def rest_confined() -> str:
    """REST: not root, reaches no address but loopback, writes nowhere, opens no device."""
    found = inside("api-server-rest")
    for name, error in found.items():
        if name.startswith(("write", "mount", "open", "connect")):
            demand(error, f"REST can {name}")
    demand(found["uid"] != "0", "REST is root")
    demand(_status("api-server-rest")["Uid"].split()[0] != "0", "the REST that runs is root")
    demand(int(found["capabilities"], 16) == 0, f"REST has {found['capabilities']}")
    return f"uid {found['uid']}, no network ({found['connect']}), writes nowhere"
