"""The bundle's `config.json`: an OCI runtime specification made of an image's defaults. Sans-I/O.

Source: docs/spec/image-pull.md, sections 15 and 21.6; OCI runtime-spec "Configuration".
"""

from typing import Any, Final

import msgspec

from image_pull.image_config import ImageDocument, ProcessDefaults

OCI_VERSION: Final = "1.0.2-dev"
HOST_NAME: Final = "image-rs"
DEFAULT_ARGS: Final = ("sh",)
DEFAULT_ENV: Final = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM=xterm",
)
CAPABILITIES: Final = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
CAPABILITY_SETS: Final = ("bounding", "effective", "inheritable", "permitted", "ambient")
NAMESPACES: Final = ("pid", "network", "ipc", "uts", "mount", "cgroup")
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
READONLY_PATHS: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
MOUNTS: Final = (
    ("/proc", "proc", "proc", ""),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),  # noqa: S108
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
)
"""Destination, type, source and options of the default mounts."""

VOLUME_OPTIONS: Final = ("nosuid", "noexec", "nodev", "relatime", "rw")
ANNOTATION: Final = "org.opencontainers.image."


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Who the process runs as.

    Attributes:
        uid: numeric user.
        gid: numeric group.
        additional_gids: supplementary groups.
    """

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()


def runtime_spec(image: ImageDocument, user: User = User()) -> bytes:  # noqa: B008  # frozen
    """The document, as compact JSON."""
    defaults = image.config or ProcessDefaults()
    mounts = [
        {"destination": path, "type": "tmpfs", "options": list(VOLUME_OPTIONS)}
        for path in defaults.volumes or {}
    ]
    mounts += [_mount(*each) for each in MOUNTS]
    document = {
        "ociVersion": OCI_VERSION,
        "root": {"path": "rootfs", "readonly": True},
        "mounts": mounts,
        "process": _process(defaults, user),
        "hostname": HOST_NAME,
        "annotations": _annotations(image, defaults),
        "linux": {
            "resources": {"devices": []},
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }
    return msgspec.json.encode(document)


def _mount(destination: str, kind: str, source: str, options: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    if options:
        mount["options"] = options.split(",")
    return mount


def _process(defaults: ProcessDefaults, user: User) -> dict[str, Any]:
    args = [*(defaults.entrypoint or ()), *(defaults.cmd or ())]
    who: dict[str, Any] = {"uid": user.uid, "gid": user.gid}
    if user.additional_gids:
        who["additionalGids"] = list(user.additional_gids)
    return {
        "terminal": False,
        "user": who,
        "args": args or list(DEFAULT_ARGS),
        "env": list(DEFAULT_ENV if defaults.env is None else defaults.env),
        "cwd": defaults.working_dir or "/",
        "capabilities": {name: list(CAPABILITIES) for name in CAPABILITY_SETS},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def _annotations(image: ImageDocument, defaults: ProcessDefaults) -> dict[str, str]:
    found: dict[str, str] = {"os": image.os, "architecture": image.architecture}
    optional = {
        "os.version": image.os_version,
        "variant": image.variant,
        "author": image.author,
        "created": image.created,
        "stopSignal": defaults.stop_signal,
    }
    found |= {name: value for name, value in optional.items() if value is not None}
    if image.os_features is not None:
        found["os.features"] = msgspec.json.encode(image.os_features).decode()
    annotations = {ANNOTATION + name: value for name, value in found.items()}
    annotations |= defaults.labels or {}
    if defaults.exposed_ports:
        annotations[ANNOTATION + "exposedPorts"] = ",".join(sorted(defaults.exposed_ports))
    return annotations
