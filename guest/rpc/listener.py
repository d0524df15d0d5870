"""Listening sockets: a Unix one appears by rename; the others are bound when they may accept.

Source: CONTRIBUTING.md 8; docs/spec/ttrpc.md 1.1, 9.
"""

import contextlib
import grp
import logging
import os
import re
import stat
from socket import AF_INET, AF_INET6, AF_UNIX, AF_VSOCK, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET
from socket import socket as system_socket
from typing import Final, Protocol

from guest.errors import ConfigError, PlatformError
from guest.rpc.address import MAX_PATH_LENGTH, Address, TcpAddress, UnixAddress, VsockAddress

BACKLOG: Final = 128
"""Connections that wait to be accepted."""

GROUP: Final = "coco"
"""Members of this group may connect, where it exists."""

DIRECTORY_MODE: Final = 0o755
"""Of a directory made for a socket: who may connect is the socket's business."""

MAX_TEMPORARY_NAMES: Final = 1000
"""How many names one process tries before it gives up."""

_TEMPORARY: Final = re.compile(r"\.([0-9]{1,10})-[0-9]{1,10}\Z", re.ASCII)

log = logging.getLogger(__name__)


class Listener(Protocol):
    """What a server accepts from."""

    @property
    def socket(self) -> system_socket:
        """Listening and non-blocking; from `bind` on for Unix paths, else from `publish` on."""
        ...

    @property
    def address(self) -> Address:
        """Where clients connect; with the chosen port once that is known."""
        ...

    def bind(self) -> None:
        """Do all that can fail and that nobody sees.

        Raises:
            ConfigError: the address can never work.
            PlatformError: the system refuses.
        """
        ...

    def publish(self) -> None:
        """Be reachable.

        Raises:
            PlatformError: the system refuses.
        """
        ...

    def close(self) -> None:
        """Stop listening; remove what is ours. May be called again."""
        ...


def listener_for(address: Address) -> Listener:
    """The listener of an address."""
    if isinstance(address, UnixAddress) and not address.abstract:
        return UnixListener(address.path)
    return PlainListener(address)


class UnixListener:
    """A Unix socket that gets its name when it accepts, and loses it with its owner.

    Mode and owner: `mode` where it is given; else 0660 for the group `coco` where that exists,
    else 0600. Missing directories are made, mode 0755.
    """

    def __init__(self, path: str, *, mode: int | None = None, group: str = GROUP) -> None:
        self._path = path
        self._mode = mode
        self._group = group
        self._socket: system_socket | None = None
        self._temporary: str | None = None
        self._identity: tuple[int, int] | None = None

    @property
    def address(self) -> Address:
        """The path."""
        return UnixAddress(self._path)

    @property
    def socket(self) -> system_socket:
        """Listening since `bind`."""
        assert self._socket is not None, "not bound"
        return self._socket

    def bind(self) -> None:
        """Listen under a temporary name in the same directory.

        Raises:
            ConfigError: a name would be longer than 107 bytes.
            PlatformError: the directory or the socket cannot be made.
        """
        assert self._socket is None, "bound twice"
        directory = os.path.dirname(self._path) or "."
        longest = os.path.join(directory, f".{os.getpid()}-{MAX_TEMPORARY_NAMES}")
        for name in (self._path, longest):
            if len(os.fsencode(name)) > MAX_PATH_LENGTH:
                raise ConfigError(f"socket path {name} is longer than {MAX_PATH_LENGTH} bytes")
        try:
            _make_directory(directory)
            _remove_left_over(directory)
            self._socket = self._open(directory)
        except OSError as error:
            self.close()
            raise PlatformError(f"cannot listen on {self.address}: {error.strerror}") from error

    def _open(self, directory: str) -> system_socket:
        sock = system_socket(AF_UNIX, SOCK_STREAM)
        try:
            sock.setblocking(False)
            os.fchmod(sock.fileno(), 0o600)  # the file is born with no more than this
            self._temporary = _bind_temporary(sock, directory)
            self._set_access(self._temporary)
            found = os.lstat(self._temporary)
            self._identity = (found.st_dev, found.st_ino)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock

    def _set_access(self, name: str) -> None:
        mode = self._mode
        if mode is None:
            try:
                group = grp.getgrnam(self._group).gr_gid
                if os.lstat(name).st_gid != group:  # where it is, chown may be forbidden
                    os.chown(name, -1, group)
                mode = 0o660
            except (KeyError, PermissionError):  # no such group, or not ours to give to
                mode = 0o600
        os.chmod(name, mode)

    def publish(self) -> None:
        """Rename to the real name; what stands there and is a socket is replaced.

        Raises:
            PlatformError: something else stands there, or the system refuses.
        """
        assert self._temporary is not None, "not bound, or published twice"
        try:
            _check_replaceable(self._path)
            os.rename(self._temporary, self._path)
        except OSError as error:
            raise PlatformError(f"cannot publish {self.address}: {error.strerror}") from error
        self._temporary = None

    def close(self) -> None:
        """Close the socket and unlink its name, while device and inode are ours."""
        name = self._temporary or self._path
        if self._identity is not None:
            with contextlib.suppress(OSError):  # gone already: that is what was wanted
                found = os.lstat(name)
                if (found.st_dev, found.st_ino) == self._identity:
                    os.unlink(name)
            self._identity = None
        elif self._temporary is not None:
            with contextlib.suppress(OSError):  # as above
                os.unlink(self._temporary)
        self._temporary = None
        if self._socket is not None:
            self._socket.close()


class PlainListener:
    """An abstract, TCP or vsock socket: reachable as soon as it listens, so bound late."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket: system_socket | None = None

    @property
    def address(self) -> Address:
        """As configured; after `publish` with the port that was chosen for port 0."""
        return self._address

    @property
    def socket(self) -> system_socket:
        """Listening since `publish`."""
        assert self._socket is not None, "not published"
        return self._socket

    def bind(self) -> None:
        """Nothing can be done before `publish`."""

    def publish(self) -> None:
        """Bind and listen.

        Raises:
            PlatformError: the system refuses.
        """
        family, name = socket_name(self._address)
        try:
            sock = system_socket(family, SOCK_STREAM)
        except OSError as error:
            raise PlatformError(f"cannot listen on {self._address}: {error.strerror}") from error
        try:
            sock.setblocking(False)
            if family in (AF_INET, AF_INET6):
                sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            sock.bind(name)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise PlatformError(f"cannot listen on {self._address}: {error.strerror}") from error
        self._socket = sock
        if isinstance(self._address, TcpAddress):
            self._address = TcpAddress(self._address.host, sock.getsockname()[1])

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


SocketName = str | tuple[str, int] | tuple[int, int]


def socket_name(address: Address) -> tuple[int, SocketName]:
    """Address family and what `bind` and `connect` of a socket take."""
    if isinstance(address, UnixAddress):
        return AF_UNIX, f"\0{address.path}" if address.abstract else address.path
    if isinstance(address, VsockAddress):
        return AF_VSOCK, (address.cid, address.port)
    family = AF_INET6 if ":" in address.host else AF_INET
    return family, (address.host, address.port)


def accepts(path: str) -> bool:
    """Whether somebody listens on a Unix socket's path; never waits."""
    with system_socket(AF_UNIX, SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
        return True


def _make_directory(path: str) -> None:
    """Make what is missing."""
    if os.path.isdir(path):
        return
    _make_directory(os.path.dirname(path) or ".")
    with contextlib.suppress(FileExistsError):  # another daemon was faster
        os.mkdir(path, DIRECTORY_MODE)
        os.chmod(path, DIRECTORY_MODE)


def _bind_temporary(sock: system_socket, directory: str) -> str:
    for number in range(MAX_TEMPORARY_NAMES):
        name = os.path.join(directory, f".{os.getpid()}-{number}")
        if os.path.lexists(name):
            continue
        sock.bind(name)
        return name
    raise FileExistsError(0, "no temporary name is free")


def _remove_left_over(directory: str) -> None:
    for name in os.listdir(directory):
        match = _TEMPORARY.match(name)
        path = os.path.join(directory, name)
        if match is None or not _is_left_over(path, int(match[1])):
            continue
        with contextlib.suppress(FileNotFoundError):  # somebody else tidied up
            os.unlink(path)
            log.debug("left-over socket removed", extra={"path": path})


def _is_left_over(path: str, pid: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    if pid == os.getpid():  # a predecessor in a container may have had the same one
        return not accepts(path)
    return not os.path.exists(f"/proc/{pid}")


def _check_replaceable(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(0, "something that is no socket stands there")
    if accepts(path):
        log.warning("replacing the socket of a server that still accepts", extra={"path": path})
