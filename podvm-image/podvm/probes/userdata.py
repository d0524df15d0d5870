"""Probe of user data that is broken: nothing of the pod's starts with it."""

import base64
import gzip
from pathlib import Path
from typing import Final

from podvm.probes.report import demand, run, unit

PLACE: Final = Path("/media/cidata")
PEERPOD: Final = Path("/run/peerpod")
TEXT: Final = b'algorithm = "sha256"\nversion = "0.1.0"\n\n[data]\n'


def _document(encoded: bytes) -> bytes:
    return b"write_files:\n  - path: /run/peerpod/initdata\n    content: " + encoded + b"\n"


def _packed(text: bytes) -> bytes:
    return gzip.compress(text, mtime=0)


def cases() -> dict[str, tuple[bytes, str]]:
    """Broken documents, by what is wrong with them, each with the cause that is named.

    The last one is in order, but not what was measured in this boot.
    """
    return {
        "truncated": (_document(base64.b64encode(_packed(TEXT)[:-9])), "init data cannot be read"),
        "algorithm": (
            _document(base64.b64encode(_packed(TEXT.replace(b"256", b"1")))),
            "init data cannot be read",
        ),
        "yaml": (b"write_files: [\n", "cannot be read"),
        "digest": (
            _document(base64.b64encode(_packed(TEXT + b'"aa.toml" = "a = 1"\n'))),
            "digest of init data does not match that of this boot",
        ),
    }


def broken_refused() -> str:
    """Each of them fails its unit and changes no file; the agent stops and does not come back."""
    run(["mount", "-t", "tmpfs", "none", str(PLACE)])
    Path("/run/systemd/system/process-user-data.service.d").mkdir(parents=True)
    drop_in = Path("/run/systemd/system/process-user-data.service.d/10-soon.conf")
    drop_in.write_text(
        "[Service]\nExecStart=\nExecStart=/usr/local/bin/process-user-data provision-files -t 5\n"
    )
    run(["systemctl", "daemon-reload"])
    before = _files()
    said = []
    for name, (data, cause) in cases().items():
        (PLACE / "user-data").write_bytes(data)
        run(["systemctl", "restart", "process-user-data"], seconds=300, may_fail=True)
        # The agent's path unit asks for all of them again: what counts is that none comes up.
        for service in ("process-user-data", "measure-initdata", "attestation-agent"):
            demand(unit(service, "ActiveState") != "active", f"{name}: {service} is up")
        run(["journalctl", "--sync"])
        text = run(["journalctl", "-b", "-o", "cat", "-u", "process-user-data", "-n", "30"])
        lines = [line for line in text.splitlines() if line.startswith("process-user-data: ")]
        demand(lines and cause in lines[-1], f"{name}: does not name the cause: {lines[-1:]}")
        demand(_files() == before, f"{name}: {PEERPOD} changed")
        said.append(f"{name}: {lines[-1][19:120]}")
    return "; ".join(said)


def _files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in PEERPOD.iterdir()}
