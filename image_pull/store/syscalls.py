"""System calls for mounts and roots that Python lacks, by number.

Source: Linux fsopen(2), fsconfig(2), fsmount(2), move_mount(2), mount(2), umount2(2),
openat2(2).
"""

import ctypes
import functools
import os
from typing import Any, Final

FSOPEN: Final = 430
FSCONFIG: Final = 431
FSMOUNT: Final = 432
MOVE_MOUNT: Final = 429
OPENAT2: Final = 437
"""Numbers of the generic table, which x86-64 and all newer machines share for these calls."""

FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
MOVE_MOUNT_F_EMPTY_PATH: Final = 4
AT_FDCWD: Final = -100
RESOLVE_NO_MAGICLINKS: Final = 2
RESOLVE_IN_ROOT: Final = 16
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _call(number: int, what: str, *arguments: object) -> int:
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(int(_libc().syscall(ctypes.c_long(number), *wide)), what)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_in_root(root: int, path: bytes, flags: int) -> int:
    """Open a path as if the directory `root` were `/`, links included.

    Raises:
        OSError: not there, or not to be opened.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _call(OPENAT2, "openat2", root, path, ctypes.byref(how), size)


def fsopen(name: str) -> int:
    """A context in which a file system of this kind is configured.

    Raises:
        OSError: no such kind, no such call, or no privilege.
    """
    return _call(FSOPEN, "fsopen", name.encode(), FSOPEN_CLOEXEC)


def fsconfig_string(context: int, key: str, value: bytes) -> None:
    """Set one option.

    Raises:
        OSError: unknown key, or a value that is refused.
    """
    _call(FSCONFIG, f"fsconfig {key}", context, FSCONFIG_SET_STRING, key.encode(), value, 0)


def fsconfig_create(context: int) -> None:
    """Make the file system of its options.

    Raises:
        OSError: they do not fit.
    """
    _call(FSCONFIG, "fsconfig create", context, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(context: int) -> int:
    """A mount that is attached nowhere yet.

    Raises:
        OSError: not possible.
    """
    return _call(FSMOUNT, "fsmount", context, FSMOUNT_CLOEXEC, 0)


def move_mount(mount: int, target: bytes) -> None:
    """Attach it.

    Raises:
        OSError: not possible.
    """
    _call(MOVE_MOUNT, "move_mount", mount, b"", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH)


def mount(source: str, target: bytes, kind: str, options: bytes, flags: int = 0) -> None:
    """The old call.

    Raises:
        OSError: not possible.
    """
    arguments = (os.fsencode(source), target, kind.encode(), ctypes.c_ulong(flags), options)
    _checked(int(_libc().mount(*arguments)), "mount")


def unmount(target: bytes, *, detach: bool) -> None:
    """Unmount what is mounted there last.

    Raises:
        OSError: nothing is, or it is in use and not to be detached.
    """
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0)
    _checked(int(_libc().umount2(target, ctypes.c_int(flags))), "umount")
