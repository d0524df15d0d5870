"""A pod VM's files below a directory: what tells whose machine it is, disks, `/run/peerpod`."""

import base64
import gzip
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from guest.retry import Backoff
from guest.userdata.providers import Sources
from guest.userdata.provision import Settings

QUICK: Final = Backoff(first=0.05, most=0.05, factor=1.0, jitter=0.0, attempts=1_000_000)

VENDORS: Final = {
    "azure": "Microsoft Corporation",
    "aws": "Amazon EC2",
    "gcp": "Google",
    "alibaba": "Alibaba Cloud",
}


class PodVm:
    """One machine.

    Attributes:
        root: its `/`.
        peerpod: what `process-user-data` writes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.peerpod = root / "run" / "peerpod"
        self._cidata = root / "media" / "cidata" / "user-data"
        self._drive = root / "media" / "config-2" / "openstack" / "latest" / "user_data"
        self._vendor = root / "sys" / "class" / "dmi" / "id" / "sys_vendor"
        self._clocks = root / "sys/devices/system/clocksource/clocksource0/available_clocksource"

    def set_vendor(self, vendor: str) -> None:
        """What DMI says."""
        self._put(self._vendor, f"{vendor}\n".encode())

    def set_clocks(self, clocks: str) -> None:
        """What clock sources the kernel has."""
        self._put(self._clocks, f"{clocks}\n".encode())

    def put_cidata(self, content: bytes) -> None:
        """A NoCloud disk."""
        self._put(self._cidata, content)

    def put_config_drive(self, content: bytes) -> None:
        """An OpenStack config drive."""
        self._put(self._drive, content)

    @staticmethod
    def _put(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def settings(
        self, bases: Mapping[str, str] | None = None, *, measured_only: bool = True
    ) -> Settings:
        """A run on this machine, with short pauses."""
        return Settings(
            sources=Sources(
                files=(self._cidata, self._drive),
                vendor=self._vendor,
                clocks=self._clocks,
                bases=bases or {},
            ),
            directory=self.peerpod,
            measured_only=measured_only,
            pauses=QUICK,
        )

    def written(self) -> dict[str, bytes]:
        """Every file of `/run/peerpod`, hidden ones included; none where there is no directory."""
        if not self.peerpod.exists():
            return {}
        return {path.name: path.read_bytes() for path in sorted(self.peerpod.iterdir())}

    def modes(self) -> set[int]:
        """Modes of those files."""
        return {stat.S_IMODE(path.stat().st_mode) for path in self.peerpod.iterdir()}


def cloud_config(files: Mapping[str, str]) -> bytes:
    """User data as cloud-api-adaptor writes it: names below `/run/peerpod`, or absolute paths."""
    lines = ["#cloud-config", "", "write_files:"]
    for name, content in files.items():
        path = name if name.startswith("/") else f"/run/peerpod/{name}"
        lines.append(f"  - path: {path}")
        if content:
            lines.append("    content: |")
            lines += [f"      {line}" for line in content.splitlines()]
    return "\n".join([*lines, ""]).encode()


def packed_init_data(data: str, algorithm: str = "sha384") -> str:
    """A document's text form, made by other code than the product's."""
    text = f'version = "0.1.0"\nalgorithm = "{algorithm}"\n\n[data]\n{data}'
    return base64.b64encode(gzip.compress(text.encode())).decode()
