"""Probe of user data that is broken: nothing of the pod's starts with it."""

import base64
import gzip
from pathlib import Path
from typing import Final

from podvm.probes.report import demand, run, unit

PLACE: Final = Path("/media/cidata")
TEXT: Final = b'algorithm = "sha256"\nversion = "0.1.0"\n\n[data]\n'
SERVICES: Final = ("attestation-agent", "confidential-data-hub", "api-server-rest")


def _document(encoded: bytes) -> bytes:
    return b"write_files:\n  - path: /run/peerpod/initdata\n    content: " + encoded + b"\n"


def cases() -> dict[str, bytes]:
    """Broken documents, by what is wrong with them."""
    packed = gzip.compress(TEXT, mtime=0)
    return {
        "truncated": _document(base64.b64encode(packed[:-9])),
        "algorithm": _document(base64.b64encode(gzip.compress(TEXT.replace(b"256", b"1")))),
        "yaml": b"write_files: [\n",
    }


def broken_refused() -> str:
    """Each of them fails its unit; the agent stops and does not come back."""
    run(["mount", "-t", "tmpfs", "none", str(PLACE)])
    Path("/run/systemd/system/process-user-data.service.d").mkdir(parents=True)
    drop_in = Path("/run/systemd/system/process-user-data.service.d/10-soon.conf")
    drop_in.write_text(
        "[Service]\nExecStart=\nExecStart=/usr/local/bin/process-user-data provision-files -t 5\n"
    )
    run(["systemctl", "daemon-reload"])
    said = []
    for name, data in cases().items():
        (PLACE / "user-data").write_bytes(data)
        run(["systemctl", "restart", "process-user-data"], seconds=300, may_fail=True)
        # The agent's path unit asks for all of them again: what counts is that none comes up.
        for service in ("process-user-data", "measure-initdata", "attestation-agent"):
            demand(unit(service, "ActiveState") != "active", f"{name}: {service} is up")
        lines = run(["journalctl", "-b", "-o", "cat", "-u", "process-user-data", "-n", "8"])
        said.append(f"{name}: {' '.join(lines.split())[-120:]}")
    return "; ".join(said)
