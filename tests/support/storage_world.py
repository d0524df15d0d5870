"""Secure mounts over programs that record how they are called, and a kernel that notes mounts."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdh.secrets.unseal import SecretUnsealer
from cdh.storage import open_mounts
from cdh.storage.base import StorageSite
from cdh.storage.keys import VolumeKeys
from cdh.storage.mounts import SecureMounts
from guest.deadline import Deadline
from support.hub_world import Resources
from support.luks_headers import vector, with_integrity
from support.sealed_world import make_unsealer

PROGRAMS: Final = (
    "cryptsetup", "mkfs.ext4", "dd", "blkid", "zpool", "zfs", "ossfs", "gocryptfs",
)  # fmt: skip

FOLDERS: Final = (
    "bin", "calls", "hang", "fail", "behaviour", "headers", "mapper", "sys", "run",
)  # fmt: skip

RECORDER: Final = """#!/bin/sh
base=@BASE@
i=0
while ! mkdir "$base/calls/$i" 2>/dev/null; do i=$((i+1)); done
call="$base/calls/$i"
name="${0##*/}"
printf '%s\\0' "$name" "$@" > "$call/argv"
cat > "$call/stdin"
env -0 > "$call/env"
ls /proc/self/fd > "$call/fds"
for last; do :; done
if [ -e "$base/hang/$i" ]; then
    sleep 1000 & echo $! > "$call/child.new"; echo $$ > "$call/pid"
    mv "$call/child.new" "$call/child"; wait
fi
if [ -e "$base/fail/$i" ]; then echo "injected failure" >&2; exit 1; fi
[ -e "$base/behaviour/$name" ] && . "$base/behaviour/$name"
exit 0
"""
"""What every program does; what it does beside comes from `behaviour`."""

BEHAVIOUR: Final = {
    "cryptsetup": """
case " $* " in
*" luksFormat "*)
    header=""; previous=""; made=attached; device=""
    for each; do
        [ "$previous" = --header ] && header="$each" && made=detached
        [ "$each" = - ] && device="$previous"
        previous="$each"
    done
    case " $* " in *" --integrity "*) made="$made-integrity";; esac
    dd_target="${header:-$device}"
    cat "$base/headers/$made" 1<>"$dd_target" ;;
*" luksOpen "*) : > "$base/mapper/$last"; mkdir -p "$base/sys/dev/block/0:0/holders/$last" ;;
*" close "*) rm "$base/mapper/$last"; rmdir "$base/sys/dev/block/0:0/holders/$last" ;;
esac
""",
    "mkfs.ext4": """
case " $* " in *" -n "*) cat "$base/dry-run";; esac
""",
    "blkid": "exit 2\n",
    "zpool": """
case "$1" in
list) echo NAME SIZE; cat "$base/pools";;
create) echo "$3" >> "$base/pools";;
import) echo "$last" >> "$base/pools";;
destroy|export) : > "$base/pools";;
esac
""",
    "ossfs": """echo "$2" >> "$base/mounts"
for each; do
    case "$each" in -opasswd_file=*)
        file="${each#-opasswd_file=}"; cat "$file" > "$call/password"
        stat -c %a "$file" > "$call/mode";;
    esac
done
""",
    "gocryptfs": """echo "$2" >> "$base/mounts"
cat "$4" > "$call/password"; stat -c %a "$4" > "$call/mode"
""",
}

DRY_RUN: Final = b"""Creating filesystem with 65536 4k blocks and 65536 inodes
Superblock backups stored on blocks:
\t32768, 98304,
\t163840

"""


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a program."""

    argv: tuple[str, ...]
    stdin: bytes
    env: dict[str, str]
    fds: int
    folder: Path


class NotedMounts:
    """A kernel that mounts by writing down."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.file = base / "mounts"
        self.file.touch()
        self.failure: OSError | None = None
        self.mounted: list[tuple[str, str, str]] = []

    def mount(self, node: str, target: bytes, kind: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.mounted.append((node, target.decode(), kind))
        with self.file.open("a") as file:
            file.write(f"{target.decode()}\n")

    def unmount(self, target: bytes) -> None:
        lines = self.file.read_text().splitlines()
        lines.reverse()
        lines.remove(target.decode())
        lines.reverse()
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def count(self, target: bytes) -> int:
        return self.file.read_text().splitlines().count(target.decode())


class StorageWorld:
    """A machine below one directory; `device` is a file that stands for a block device."""

    def __init__(self, base: Path, *, size: int = 24 << 20) -> None:
        self.base = base
        for name in FOLDERS:
            (base / name).mkdir()
        for name in ("detached", "attached"):
            (base / "headers" / name).write_bytes(vector(name))
            (base / "headers" / f"{name}-integrity").write_bytes(with_integrity(name))
        (base / "dry-run").write_bytes(DRY_RUN)
        (base / "pools").touch()
        for name in PROGRAMS:
            program = base / "bin" / name
            program.write_text(RECORDER.replace("@BASE@", str(base)))
            program.chmod(0o755)
        for name, text in BEHAVIOUR.items():
            (base / "behaviour" / name).write_text(text)
        self.device = base / "disk"
        with self.device.open("wb") as file:
            file.truncate(size)
        self.kernel = NotedMounts(base)
        self.resources = Resources()
        self.resources.resources = {"default/key/1": KEY, "default/key/text": b"a passphrase\n"}
        self.site = StorageSite(
            runtime_dir=base / "run",
            path=f"{base}/bin:/usr/bin:/bin",
            sysfs=base / "sys",
            dev=base,
            mapper=base / "mapper",
            ossfs=str(base / "bin" / "ossfs"),
            gocryptfs=str(base / "bin" / "gocryptfs"),
            accept_files=True,
            kernel=self.kernel,
        )
        self.mounts = self.open()

    def open(
        self, *, unmount_at_exit: bool = False, unsealer: SecretUnsealer | None = None
    ) -> SecureMounts:
        """Secure mounts of a process that has just begun."""
        unsealer = unsealer or make_unsealer(self.resources)
        keys = VolumeKeys(self.resources, unsealer, (str(self.base),))
        return open_mounts(self.site, keys, unmount_at_exit=unmount_at_exit)

    def options(self, **changes: str | None) -> dict[str, str]:
        """Those of an ephemeral ext4, changed; None removes one."""
        options: dict[str, str | None] = {
            "devicePath": str(self.device),
            "sourceType": "empty",
            "encryptionType": "luks2",
            "targetType": "fileSystem",
            "mapperName": "m1",
        }
        return {name: value for name, value in (options | changes).items() if value is not None}

    @property
    def place(self) -> str:
        """The mount point."""
        return str(self.base / "mnt")

    async def mount(self, options: Mapping[str, str], *, seconds: float = 40) -> None:
        """Mount a block device."""
        await self.mounts.mount("block-device", options, self.place, Deadline.after(seconds))

    def calls(self) -> list[Call]:
        """All runs of programs, in order."""
        found = []
        for number in range(len(os.listdir(self.base / "calls"))):
            folder = self.base / "calls" / str(number)
            argv = (folder / "argv").read_bytes().split(b"\0")[:-1]
            pairs = (folder / "env").read_bytes().split(b"\0")[:-1]
            env = dict(pair.decode().split("=", 1) for pair in pairs)
            found.append(
                Call(
                    argv=tuple(part.decode() for part in argv),
                    stdin=(folder / "stdin").read_bytes(),
                    env=env,
                    fds=len((folder / "fds").read_text().split()),
                    folder=folder,
                )
            )
        return found

    def left(self) -> list[str]:
        """What is there and would not be if nothing had been mounted."""
        found = [str(p.relative_to(self.base)) for p in (self.base / "run").rglob("*")]
        found = [name for name in found if name not in ("run/luks-headers", "run/storage")]
        found += [f"mapper/{name}" for name in os.listdir(self.base / "mapper")]
        found += self.kernel.file.read_text().splitlines()
        found += (self.base / "pools").read_text().splitlines()
        if os.path.lexists(self.place):
            found.append("mount point")
        with self.device.open("rb") as file:
            if file.read().strip(b"\0"):
                found.append("data on the device")
        return found

    def set_failure(self, number: int, kind: str = "fail") -> None:
        """The program that runs as `number` fails, or hangs."""
        (self.base / kind / str(number)).touch()

    def modes(self) -> dict[str, int]:
        """Modes of the files below the runtime directory."""
        files = [path for path in (self.base / "run").rglob("*") if path.is_file()]
        return {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}


KEY: Final = bytes(range(128, 176))
"""48 bytes that are no text."""
