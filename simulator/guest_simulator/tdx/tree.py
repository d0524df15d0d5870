"""The kernel's interfaces of a TDX guest as files: a FUSE file system over `TdxGuest`.

`python -m guest_simulator.tdx.tree DIRECTORY SETTINGS DESCRIPTOR` mounts it in the foreground and
obeys JSON lines on standard input (see `Control`); at the end of the input it unmounts and leaves.
The descriptor tells `guest_simulator.tdx.mounted`, which starts it, that it lives.

A blob acts while `close` waits, so that who reads next finds what was written.

Source: docs/spec/attesters.md 1.3, 3.2 and 3.3.
"""

import ctypes
import errno
import json
import os
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import mfusepy

from guest_simulator.tdx import guest as kernel
from guest_simulator.tdx.guest import TdxGuest
from guest_simulator.tdx.tsm import TsmFile, failure

SYS: Final = "/sys"
"""Where the file system is mounted, below the guest's root."""

DEVICE: Final = "/.tdx_guest"
"""The guest device in the file system; `/dev/tdx_guest` leads to it."""

PAGE: Final = 4096
MEASUREMENT_MODES: Final[Mapping[str, int]] = {
    "mrconfigid": 0o444,
    "mrowner": 0o444,
    "mrownerconfig": 0o444,
    "mrtd:sha384": 0o444,
    **{f"rtmr{number}:sha384": 0o644 for number in range(4)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a guest is like at first.

    Attributes:
        provider: the module that is loaded; None for none.
        max_outblob: longest report of this kernel.
        counter_bits: of the generation counter.
        quote_seconds: what a quote takes.
        pad: quotes get zeros behind them until they have as many bytes.
        ccel: the firmware's log area, hex; None where there is none.
        config_id: MRCONFIGID, hex.
    """

    provider: str | None = "tdx_guest"
    max_outblob: int = 32 * 1024
    counter_bits: int = 64
    quote_seconds: float = 0.0
    pad: int = 0
    ccel: str | None = None
    config_id: str = bytes(48).hex()

    def as_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


class _Plain:
    """An open file of sysfs or the device: the double answers each call."""

    def __init__(self, guest: TdxGuest, path: str) -> None:
        self._guest = guest
        self._path = path

    def read(self) -> bytes:
        return self._guest.read(self._path, sys.maxsize)

    def write(self, data: bytes, offset: int) -> int:
        if offset:
            raise failure(errno.EINVAL)
        return self._guest.write(self._path, data)

    def close(self) -> None:
        """Nothing acts at `close`."""


class Tree(mfusepy.Operations):  # type: ignore[misc]  # the library has no types
    """The file system; all semantics are the double's."""

    use_ns = True

    def __init__(self, guest: TdxGuest) -> None:
        """Serve `guest`, whose root is the directory above the mount point."""
        self._guest = guest
        self._lock = threading.Lock()
        self._open: dict[int, TsmFile | _Plain] = {}
        self._next = 1

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Directories above and of what there is, and its files."""
        names = self._names(path)
        if names is not None:
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | self._mode(path), "st_nlink": 1, "st_size": PAGE}

    def readdir(self, path: str, fh: int) -> list[str]:
        """The names in a directory."""
        return [".", "..", *sorted(self._names(path) or {})]

    def mkdir(self, path: str, mode: int) -> None:
        """An instance, where instances are; nothing elsewhere."""
        self._guest.reports.make(self._instance(path))

    def rmdir(self, path: str) -> None:
        """With its attributes, which nobody can remove."""
        self._guest.reports.remove(self._instance(path))

    def unlink(self, path: str) -> None:
        """Never."""
        raise failure(errno.EPERM)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        """Means nothing to attributes."""

    def open(self, path: str, info: Any) -> int:
        """One attribute; the page cache never answers for it."""
        is_write = info.flags & os.O_ACCMODE != os.O_RDONLY
        parts = _instance_parts(path)
        file: TsmFile | _Plain
        if parts is not None:
            file = self._guest.reports.open(*parts, is_write=is_write)
        else:
            if not self._mode(path) & (0o222 if is_write else 0o444):
                raise failure(errno.EACCES)
            file = _Plain(self._guest, self._guest.root + SYS + path)
        with self._lock:
            info.fh, self._next = self._next, self._next + 1
            self._open[info.fh] = file
        info.direct_io = 1
        return 0

    def read(self, path: str, size: int, offset: int, info: Any) -> bytes:
        """A piece of what the attribute says."""
        return self._open[info.fh].read()[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, info: Any) -> int:
        """One write."""
        return self._open[info.fh].write(data, offset)

    def flush(self, path: str, info: Any) -> int:
        """`close`, whose outcome the caller waits for and never hears."""
        self._open[info.fh].close()
        return 0

    def release(self, path: str, info: Any) -> int:
        """Nobody has it open any more."""
        with self._lock:
            self._open.pop(info.fh, None)
        return 0

    def ioctl(self, path: str, cmd: int, arg: Any, info: Any, flags: int, data: Any) -> int:
        """The device's calls whose argument has its size in its number."""
        code = cmd & 0xFFFFFFFF
        if path != DEVICE:
            raise failure(errno.ENOTTY)
        argument = bytearray(ctypes.string_at(data, code >> 16 & 0x3FFF))
        self._guest.control(self._guest.root + kernel.DEVICE, code, argument)
        ctypes.memmove(data, bytes(argument), len(argument))
        return 0

    def _names(self, path: str) -> set[str] | None:
        """What a directory holds; None for what is none."""
        prefix = "" if path == "/" else path
        names = {
            each[len(prefix) + 1 :].partition("/")[0]
            for each in self._paths()
            if each.startswith(prefix + "/")
        }
        if names or path == _below(kernel.REPORTS):
            return names
        parts = _instance_parts(path + "/")
        if parts is None or parts[1]:
            return None
        return set(self._guest.reports.attributes(parts[0]))

    def _paths(self) -> list[str]:
        paths = [_below(kernel.REPORTS), DEVICE]
        paths += [f"{_below(kernel.MEASUREMENTS)}/{name}" for name in MEASUREMENT_MODES]
        if self._guest.ccel is not None:
            paths.append(_below(kernel.CCEL))
        return paths + [f"{_below(kernel.REPORTS)}/{each}" for each in self._guest.reports.names()]

    def _mode(self, path: str) -> int:
        parts = _instance_parts(path)
        modes: Mapping[str, int] = {DEVICE: 0o600, _below(kernel.CCEL): 0o400}
        name = path
        if parts is not None:
            modes, name = self._guest.reports.attributes(parts[0]), parts[1]
        elif path.startswith(_below(kernel.MEASUREMENTS) + "/"):
            modes, name = MEASUREMENT_MODES, path.rpartition("/")[2]
        if name not in modes or (path == _below(kernel.CCEL) and self._guest.ccel is None):
            raise failure(errno.ENOENT)
        return modes[name]

    def _instance(self, path: str) -> str:
        parent, _, name = path.rpartition("/")
        if parent != _below(kernel.REPORTS):
            raise failure(errno.EPERM)
        return name


def _below(path: str) -> str:
    return path.removeprefix(SYS)


def _instance_parts(path: str) -> tuple[str, str] | None:
    """Instance and attribute that a path names, if it names these."""
    head = _below(kernel.REPORTS) + "/"
    name, slash, attribute = path.removeprefix(head).partition("/")
    return (name, attribute) if path.startswith(head) and slash else None


class Control:
    """What standard input may ask of the guest.

    A line is an object; members change what `Settings` names, `extend` (`[number, digest in
    hex]`) extends a register. The answer is the guest's state.
    """

    def __init__(self, guest: TdxGuest, settings: Settings) -> None:
        """Apply the settings."""
        self._guest = guest
        self._pad = 0
        guest.transform = lambda quote: quote.ljust(self._pad, b"\0")
        self.apply(asdict(settings))

    def apply(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Do it; gives the state."""
        guest = self._guest
        for name, value in wanted.items():
            match name:
                case "provider" | "max_outblob":
                    setattr(guest.reports, name, value)
                case "quote_seconds":
                    guest.quote_seconds = value
                case "pad":
                    self._pad = value
                case "ccel":
                    guest.ccel = None if value is None else bytes.fromhex(value)
                case "config_id":
                    guest.domain.config_id = bytes.fromhex(value)
                case "extend":
                    guest.domain.registers.extend(value[0], bytes.fromhex(value[1]))
        return {
            "instances": guest.reports.names(),
            "registers": [value.hex() for value in guest.domain.registers.all()],
            "root": guest.platform.root.decode("ascii"),
        }

    def serve(self, mount_point: str) -> None:
        """Obey until the input ends, then unmount."""
        for line in sys.stdin:
            print(json.dumps(self.apply(json.loads(line))), flush=True)
        unmount(mount_point)


def unmount(mount_point: str) -> None:
    """Take it away, whoever still uses it; what is not mounted is left alone."""
    for command in (["fusermount3", "-u", "-z", "-q"], ["umount", "-l"]):
        done = subprocess.run([*command, mount_point], capture_output=True, timeout=20)
        if done.returncode == 0:
            return


def main() -> int:
    """Mount until standard input ends."""
    root, settings = Path(sys.argv[1]), Settings(**json.loads(sys.argv[2]))
    os.set_inheritable(int(sys.argv[3]), False)
    guest = TdxGuest(root=str(root), counter_bits=settings.counter_bits)
    control = Control(guest, settings)
    mount_point = f"{root}{SYS}"
    threading.Thread(target=control.serve, args=(mount_point,), daemon=True).start()
    warnings.simplefilter("ignore")
    mfusepy.FUSE(
        Tree(guest), mount_point, raw_fi=True, foreground=True,
        attr_timeout=0, entry_timeout=0, negative_timeout=0, ac_attr_timeout=0,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
