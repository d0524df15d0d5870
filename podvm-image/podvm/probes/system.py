"""Probes of the machine: root, registers, files, units, listeners, byte code, journal."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from podvm.probes.report import (
    PLACE,
    ProbeError,
    demand,
    expected,
    run,
    unit,
    wait_active,
    wait_for,
)

SERVICES: Final = ("attestation-agent", "confidential-data-hub", "api-server-rest")
PEERPOD: Final = Path("/run/peerpod")
START_SECONDS: Final = 400.0
"""Seconds within which the services must be up under emulation."""

CLOCK_SECONDS: Final = 1200.0
"""Most seconds between the making of the probes and this; a boot is shorter."""


CRASH: Final = re.compile(
    r"segfault at|traps: |general protection|Fatal Python error"
    r"|status=\d+/(?:ILL|ABRT|BUS|FPE|SEGV)"
)
"""In the journal: of the kernel, of Python's fault handler, of systemd."""

CRASH_LINES: Final = 24
"""Lines of the journal that are shown from the first on that tells of a crash."""


def services_up() -> str:
    """The whole chain has started; the time is reported, not judged."""
    for name in SERVICES:
        wait_active(name, START_SECONDS)
    uptime = Path("/proc/uptime").read_text().split()[0]
    return f"all up {uptime} s after the kernel's start; {run(['systemd-analyze'], may_fail=True)}"


def verified_root() -> str:
    """`/` is read-only on the verity device of the root hash that the build computed."""
    root_hash = str(expected()["root_hash"])
    words = Path("/proc/cmdline").read_text().split()
    demand(f"roothash={root_hash}" in words, "another root hash on the command line")
    (line,) = [
        line.split()
        for line in Path("/proc/1/mountinfo").read_text().splitlines()
        if line.split()[4] == "/"
    ]
    demand("ro" in line[5].split(","), f"/ is mounted {line[5]}")
    demand(line[line.index("-") + 2] == "/dev/mapper/root", f"/ is {line[-2]}")
    status = run(["veritysetup", "status", "root"])
    demand(root_hash in status, "the device has another root hash")
    demand("panic_on_corruption" in status, "corruption would go on")
    return "verity, read-only, panic on corruption"


def registers() -> str:
    """PCR 4, 9 and 11 as computed from the files, 12 untouched, 8 extended once from zero."""
    found = read_registers((4, 8, 9, 11, 12))
    wanted = expected()["pcrs"]
    assert isinstance(wanted, dict)
    for name, value in wanted.items():
        demand(found[int(name)] == value, f"PCR {name} is {found[int(name)]}, not {value}")
    demand(found[12] == "0" * 64, f"PCR 12 is {found[12]}")
    digest = bytes.fromhex((PEERPOD / "initdata.digest").read_text())
    bound = hashlib.sha256(bytes(32) + digest[:32]).hexdigest()
    demand(found[8] == bound, f"PCR 8 is {found[8]}, not {bound}")
    return f"PCR {', '.join(sorted(wanted, key=int))} as predicted; 8 holds the init data; 12 zero"


def read_registers(numbers: Sequence[int]) -> dict[int, str]:
    """Registers of the sha256 bank, lowercase."""
    words = ["tpm2_pcrread", "-T", "device:/dev/tpmrm0", f"sha256:{','.join(map(str, numbers))}"]
    pairs = re.findall(r"(\d+)\s*:\s*0x([0-9A-Fa-f]{64})", run(words))
    return {int(number): value.lower() for number, value in pairs}


def init_data() -> str:
    """The digest file is the digest of the document, without an end of line."""
    digest = (PEERPOD / "initdata.digest").read_bytes()
    wanted = str(expected()["digest"]).encode()
    demand(digest == wanted, f"initdata.digest is {digest!r}, not {wanted!r}")
    return wanted.decode()


def user_files() -> str:
    """Allow-listed files with their modes and contents; a foreign path was not written."""
    wanted = expected()["files"]
    assert isinstance(wanted, dict)
    mode = stat.S_IMODE(PEERPOD.stat().st_mode)
    demand(mode == 0o755, f"{PEERPOD} has mode {mode:o}")
    for name, digest in wanted.items():
        path = PEERPOD / name
        mode = stat.S_IMODE(path.stat().st_mode)
        demand(mode in (0o644, 0o600), f"{name} has mode {mode:o}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        demand(found == digest, f"{name} is not what was given")
    for path in map(Path, ("/run/peerpod/evil", "/run/evil", "/etc/evil")):
        demand(not path.exists(), f"{path} was written")
    return f"{', '.join(sorted(wanted))}; no foreign path"


def measured_once() -> str:
    """PCR 8 stays as it is when the units that make and measure init data run again."""
    before = read_registers((8,))
    run(["systemctl", "restart", "process-user-data"], seconds=300)
    run(["systemctl", "restart", "measure-initdata"], seconds=300)
    for name in SERVICES:
        wait_active(name, START_SECONDS)
    after = read_registers((8,))
    demand(after == before, f"PCR 8 was {before[8]}, is {after[8]}")
    return f"{after[8][:16]}... after two more starts"


def kata_policy() -> str:
    """The Kata agent's default policy is there before anything that the agent waits for."""
    link = Path("/etc/kata-opa/default-policy.rego")
    demand(str(link.resolve()) == "/run/peerpod/policy.rego", f"it is {link.resolve()}")
    written = link.stat().st_ctime
    hub = Path("/run/confidential-containers/cdh.sock").stat().st_ctime
    demand(written < hub, "written after the hub's socket, which starts the agent")
    after = run(["systemctl", "list-dependencies", "--after", "--plain", "kata-agent.service"])
    for name in ("confidential-data-hub.service", "systemd-tmpfiles-setup.service"):
        demand(name in after, f"kata-agent.service is not after {name}")
    return f"{link.stat().st_size} bytes, {hub - written:.0f} s before the hub's socket"


def nothing_persistent() -> str:
    """No disk is mounted but the verified root; all that can be written is memory."""
    found = []
    for line in Path("/proc/1/mountinfo").read_text().splitlines():
        words = line.split()
        source = words[words.index("-") + 2]
        if source.startswith("/dev/"):
            found.append(f"{words[4]} from {source} {words[5].split(',')[0]}")
    demand(found == ["/ from /dev/mapper/root ro"], f"mounted: {found}")
    return found[0]


def units_verified() -> str:
    """Systemd finds nothing to say about our units; programs of others are stood in for."""
    wanted = expected()["units"]
    assert isinstance(wanted, list)
    places = [PLACE / name for name in ("programs", "work")]
    for place in places:
        place.mkdir()
    for name in ("kata-agent", "agent-protocol-forwarder"):
        (places[0] / name).write_text("#!/bin/false\n")
        (places[0] / name).chmod(0o755)
    names = " ".join(name.replace("@.", "@podns.") for name in wanted)
    overlay = f"lowerdir=/usr/local/bin,upperdir={places[0]},workdir={places[1]}"
    script = (
        f"mount -t overlay -o {overlay} none /usr/local/bin && "
        f"systemd-analyze verify --man=no {names}; echo status $?"
    )
    said = run(["unshare", "--mount", "sh", "-c", script], may_fail=True)
    lines = [line for line in said.splitlines() if any(name in line for name in wanted)]
    demand(not lines and "status 0" in said, f"{' / '.join(lines)} {said[-300:]}")
    return f"{len(wanted)} units, nothing to say"


def clock() -> str:
    """The clock is the host's, by the time that the key broker's machine tells."""
    skew = abs(time.time() - float(str(expected()["host_time"])))
    demand(skew < CLOCK_SECONDS, f"{skew:.0f} s off")
    return f"within {skew:.0f} s of the time at which the machine was made"


def boot_chart() -> str:
    """The chart of the start goes to the host."""
    chart = run(["systemd-analyze", "plot"], may_fail=True).encode()
    demand(chart.lstrip().startswith(b"<?xml") or b"<svg" in chart, f"no chart: {chart[:200]!r}")
    with open("/dev/disk/by-id/virtio-artifacts", "r+b") as disk:
        disk.write(len(chart).to_bytes(8, "big") + chart)
        disk.flush()
        os.fsync(disk.fileno())
    return f"{len(chart)} bytes"


def no_failed_unit() -> str:
    """No unit failed, none hangs in its start."""
    failed = run(["systemctl", "--failed", "--no-legend", "--plain", "--no-pager"]).strip()
    demand(not failed, failed)

    def starting() -> str:
        # A device that is mounted but was not announced by udev, as the root is, counts as such.
        words = ["list-units", "--state=activating", "--no-legend", "--plain"]
        units = [line for line in run(["systemctl", *words]).splitlines() if line.strip()]
        return "; ".join(line for line in units if not line.split()[0].endswith(".device"))

    try:
        wait_for("units in activating", lambda: not starting(), 180)
    except ProbeError as error:
        raise ProbeError(starting()) from error
    return "none failed, none activating"


def listeners() -> str:
    """No TCP listener in the root name space, no login, and only declared programs."""
    open_ports = run(["ss", "-H", "-l", "-n", "-t"]).strip()
    allowed = (":15150",)
    for line in open_ports.splitlines():
        demand(line.split()[3].endswith(allowed), f"listens: {line}")
    for line in run(["ss", "-H", "-l", "-n", "-u"]).splitlines():
        demand(re.search(r":(68|546)\s", line), f"listens: {line}")
    units = run(["systemctl", "list-units", "--all", "--no-legend", "--plain"])
    login = [line.split()[0] for line in units.splitlines() if re.match(r"\S*(getty|sshd)", line)]
    active = [name for name in login if unit(name, "ActiveState") == "active" and "@" in name]
    demand(not active, f"login: {active}")
    programs = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path("/usr/local/bin").iterdir()
    }
    wanted = expected()["programs"]
    assert isinstance(wanted, dict)
    differing = sorted(set(programs.items()) ^ set(wanted.items()))
    demand(not differing, f"/usr/local/bin: {differing}")
    for name in ("sshd", "gcc", "cc", "pip", "pip3", "apt", "dpkg"):
        demand(not shutil.which(name), f"{name} is there")
    return f"no TCP listener, no login, {len(programs)} programs as declared"


def byte_code() -> str:
    """Nothing was compiled at run time, nothing has to be."""
    places = ["/run", "/var", "/tmp", "/dev/shm"]
    words = ["-path", "/run/smoke", "-prune", "-o", "-name", "*.pyc", "-print"]
    words += ["-o", "-name", "__pycache__", "-print"]
    found = run(["find", *places, "-xdev", *words], may_fail=True)
    demand(not found.strip(), f"byte code written: {found}")
    modules = ("attestation_agent", "cdh", "api_server_rest")
    work = f"import {', '.join(f'{name}.main' for name in modules)}; print('all imported')"
    said = run(["/opt/coco/bin/python3", "-I", "-v", "-c", work], may_fail=True)
    demand("all imported" in said, said[-300:])
    source = re.findall(r"^# code object from '([^']+\.py)'", said, re.MULTILINE)
    demand(not source, f"compiled: {source[:5]}")
    for name in modules:
        demand(f"/{name}/__pycache__/main." in said, f"{name}.main has no byte code")
    return "no .pyc outside of the image, nothing compiled"


def configfs() -> str:
    """configfs-tsm is there; without a TEE it has no provider, with one it gives reports."""
    report = Path("/sys/kernel/config/tsm/report")
    demand(report.is_dir(), "no /sys/kernel/config/tsm/report")
    try:
        (report / "smoke").mkdir()
    except OSError as error:
        demand(error.errno == errno.ENXIO, f"mkdir: {error}")
    else:
        (report / "smoke").rmdir()
        raise ProbeError("mkdir succeeded without a TEE")
    run(["insmod", str(PLACE / "tsm_test_provider.ko")])
    try:
        (report / "smoke").mkdir()
        (report / "smoke/inblob").write_bytes(bytes(range(64)))
        data = (report / "smoke/outblob").read_bytes()
        provider = (report / "smoke/provider").read_text().strip()
        (report / "smoke").rmdir()
    finally:
        run(["rmmod", "tsm_test_provider"])
    demand(data, "no report")
    return f"ENXIO without a provider; with {provider} a report of {len(data)} bytes"


def sizes() -> str:
    """Memory of the three services together, as PSS."""
    total = 0
    parts = []
    for name in SERVICES:
        group = unit(name, "ControlGroup")
        kib = 0
        for pid in Path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kib += int(re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)[0])
        total += kib
        parts.append(f"{name} {kib // 1024}")
    demand(total < 120 * 1024, f"{total // 1024} MiB: {parts}")
    return f"{total // 1024} MiB ({', '.join(parts)})"


def security_scores() -> str:
    """Exposure of the units, within their bars."""
    bars: Mapping[str, float] = {
        "attestation-agent": 2.0, "api-server-rest": 2.0, "confidential-data-hub": 5.5,
    }  # fmt: skip
    found = {}
    for name, bar in bars.items():
        words = ["systemd-analyze", "security", "--no-pager", f"{name}.service"]
        text = run(words, may_fail=True)
        (score,) = re.findall(r"exposure level for \S+: ([0-9.]+)", text)
        found[name] = float(score)
        items = json.loads(run([*words, "--json=short"], may_fail=True))
        open_items = [str(item["name"]) for item in items if item["set"] is False]
        demand(float(score) <= bar, f"{name} is at {score}, the bar is {bar}: {open_items}")
    return json.dumps(found)


def journal_clean() -> str:
    """No planted marker, no traceback in the journal."""
    text = run(["journalctl", "-b", "--no-pager", "-o", "cat", "--all"])
    markers = expected()["markers"]
    assert isinstance(markers, list)
    for marker in markers:
        demand(marker not in text, f"the journal has {marker[:12]}...")
    index = text.find("Traceback (most recent call last)")
    demand(index < 0, f"traceback: {text[index : index + 300]}")
    demand(os.getpid() > 1 and len(text) > 1000, "the journal is empty")
    return f"{len(text)} characters, {len(markers)} markers looked for"


def no_crash() -> str:
    """No process ended by a fault of its own; a service would be back before anybody asks."""
    run(["journalctl", "--sync"])
    lines = run(["journalctl", "-b", "--no-pager", "-o", "short-monotonic"]).splitlines()
    first = next((number for number, line in enumerate(lines) if CRASH.search(line)), None)
    demand(first is None, " / ".join(lines[first or 0 :][:CRASH_LINES]))
    return f"none in {len(lines)} lines of the journal"
