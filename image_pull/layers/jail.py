"""The walls around an unpack worker, and what of them this machine allows.

The door to the system calls that Python has no name for. Everything here is for the one thread
of a process that does nothing else.

Source: docs/ARCHITECTURE.md, decisions 6 and 6a; capabilities(7), landlock(7), prctl(2).
"""

import ctypes
import os
import resource
import struct
import sys
from typing import Final

NOBODY: Final = 65534
CAPABILITIES: Final = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_SETFCAP": 31,
}
"""What a worker keeps."""

MEMORY: Final = 640 * 1024 * 1024
"""Bytes of address space: the interpreter's, a zstd window of 128 MiB, a layer's directories."""

OPEN_FILES: Final = 128
"""Descriptors of a worker: directories kept open, one file, the socket."""

NAMESPACES: Final = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "net": 0x40000000,
}
_CLONE_NEWPID: Final = 0x20000000

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_SIGKILL: Final = 9
_EINVAL: Final = 22
_MS_PRIVATE_RECURSIVE: Final = 0x44000

_LANDLOCK_CREATE: Final = 444
_LANDLOCK_ADD: Final = 445
_LANDLOCK_RESTRICT: Final = 446
_LANDLOCK_PATH_BENEATH: Final = 1
_LANDLOCK_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""ABI version to how many file-system rights it knows; later ones know no more that matter."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc().prctl(option, *words), f"prctl {option}")


def harden() -> None:
    """What `guest.process.harden` does, without what that module imports: asyncio, 25 ms.

    Raises:
        OSError: the system refused.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with(parent: int) -> None:
    """Get SIGKILL when the parent dies, or end now if it has.

    Cleared by a change of user: call it last.

    Args:
        parent: process id of the parent as this process sees it.
    """
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def separate_children() -> bool:
    """Have the next child of this thread be the first process of a pid namespace of its own.

    Other threads' children are not concerned, nor is this thread itself; one child only.

    Returns:
        False where the system does not let it.
    """
    return int(_libc().unshare(ctypes.c_int(_CLONE_NEWPID))) == 0


def enter_namespaces() -> tuple[str, ...]:
    """Leave every namespace that the system lets go; names those of its own.

    A process cannot leave its pid namespace: it was born as the first one of its own, or not.
    """
    libc = _libc()
    own = []
    for name, flag in NAMESPACES.items():
        if libc.unshare(ctypes.c_int(flag)) == 0:
            own.append(name)
    if "mount" in own:
        libc.mount(None, b"/", None, ctypes.c_ulong(_MS_PRIVATE_RECURSIVE), None)
    if os.getpid() == 1:
        own.append("pid")
    return tuple(own)


def limit_resources() -> None:
    """Bound memory and descriptors, forbid cores and children, be the first to go when short.

    Raises:
        OSError: the system refused.
    """
    limits = (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    )
    for kind, most in limits:
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))
    # The kernel gives the files of a process that is not dumpable to root.
    _prctl(_PR_SET_DUMPABLE, 1)
    try:
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, b"1000")
        finally:
            os.close(file)
    finally:
        _prctl(_PR_SET_DUMPABLE, 0)


def forget_imports() -> None:
    """No import works from here on: a module of the layer's must never be found."""
    sys.path.clear()
    sys.path_hooks.clear()
    sys.meta_path.clear()
    sys.path_importer_cache.clear()


def shut_root(root: int) -> None:
    """Make the directory the root, become nobody, keep what setting owners and modes needs.

    Raises:
        OSError: the system refused a step; the process is of no use any more.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
    libc = _libc()
    for number in range(64):
        if libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) < 0:
            if ctypes.get_errno() == _EINVAL:
                break
            _check(-1, "dropping a capability from the bounding set")
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    _set_capabilities()
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_DUMPABLE, 0)


def _set_capabilities() -> None:
    low = sum(1 << number for number in CAPABILITIES.values())
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", low, low, 0, 0, 0, 0)
    _check(_libc().capset(header, data), "capset")


def landlock_version() -> int:
    """The ABI version of the kernel's Landlock; 0 where there is none."""
    return max(0, int(_libc().syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)))


def shut_landlock(root: int) -> None:
    """Forbid every file outside the directory, for good.

    Raises:
        OSError: the system refused.
    """
    libc = _libc()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    rights = (1 << _LANDLOCK_RIGHTS[min(landlock_version(), max(_LANDLOCK_RIGHTS))]) - 1
    attributes = struct.pack("=Q", rights)
    size = ctypes.c_size_t(len(attributes))
    ruleset = _check(libc.syscall(_LANDLOCK_CREATE, attributes, size, 0), "landlock ruleset")
    try:
        rule = struct.pack("=Qi", rights, root)
        kind = _LANDLOCK_PATH_BENEATH
        _check(libc.syscall(_LANDLOCK_ADD, ruleset, kind, rule, 0), "landlock rule")
        _check(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "landlock restriction")
    finally:
        os.close(ruleset)
    _prctl(_PR_SET_DUMPABLE, 0)
