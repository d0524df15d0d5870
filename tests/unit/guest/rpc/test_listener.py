import logging
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from guest.errors import ConfigError, PlatformError
from guest.rpc.address import TcpAddress, UnixAddress
from guest.rpc.listener import PlainListener, UnixListener, accepts, listener_for


def connects(path: Path) -> bool:
    return accepts(str(path))


def test_a_socket_appears_by_rename_and_goes_with_its_owner(short_tmp: Path) -> None:
    path = short_tmp / "s.sock"
    listener = UnixListener(str(path))
    listener.bind()
    [temporary] = short_tmp.iterdir()
    assert temporary.name == f".{os.getpid()}-0"
    assert connects(temporary)
    listener.publish()
    assert list(short_tmp.iterdir()) == [path]
    assert connects(path)
    listener.close()
    listener.close()
    assert list(short_tmp.iterdir()) == []


def test_a_bound_socket_that_is_never_published_leaves_nothing(short_tmp: Path) -> None:
    listener = UnixListener(str(short_tmp / "s.sock"))
    listener.bind()
    listener.close()
    assert list(short_tmp.iterdir()) == []


def test_the_mode_is_set_whatever_the_umask_and_directories_may_be_passed(
    short_tmp: Path,
) -> None:
    before = os.umask(0o077)
    try:
        path = short_tmp / "a" / "b" / "s.sock"
        listener = UnixListener(str(path), group="no-such-group")
        listener.bind()
        listener.publish()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE((short_tmp / "a").stat().st_mode) == 0o755
        assert stat.S_IMODE((short_tmp / "a" / "b").stat().st_mode) == 0o755
        listener.close()
        listener = UnixListener(str(path), mode=0o666)
        listener.bind()
        listener.publish()
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        listener.close()
    finally:
        os.umask(before)


def test_a_group_that_exists_may_connect(short_tmp: Path) -> None:
    import grp

    group = grp.getgrgid(os.getgid())
    path = short_tmp / "s.sock"
    listener = UnixListener(str(path), group=group.gr_name)
    listener.bind()
    listener.publish()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.stat().st_gid == group.gr_gid
    listener.close()


@pytest.mark.spec("ttrpc", 34)
def test_a_stale_socket_is_replaced_in_silence_and_a_live_one_with_a_warning(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = short_tmp / "s.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    first = UnixListener(str(path))
    first.bind()
    first.publish()
    assert connects(path)
    assert caplog.records == []
    second = UnixListener(str(path))
    second.bind()
    second.publish()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "still accepts" in record.getMessage()
    first.close()
    assert connects(path)
    second.close()
    assert list(short_tmp.iterdir()) == []


def test_what_is_no_socket_is_never_replaced(short_tmp: Path) -> None:
    path = short_tmp / "s.sock"
    path.write_text("data")
    listener = UnixListener(str(path))
    listener.bind()
    with pytest.raises(PlatformError, match="no socket"):
        listener.publish()
    listener.close()
    assert path.read_text() == "data"
    assert list(short_tmp.iterdir()) == [path]


def test_left_over_names_of_dead_processes_are_removed(short_tmp: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".{dead.pid}-0", f".{os.getpid()}-0", f".{os.getppid()}-0", "other.sock"):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(short_tmp / name))
    plain = short_tmp / f".{dead.pid}-1"
    plain.write_text("no socket")
    listener = UnixListener(str(short_tmp / "s.sock"))
    listener.bind()
    left = {path.name for path in short_tmp.iterdir()}
    assert left == {f".{os.getpid()}-0", f".{os.getppid()}-0", "other.sock", plain.name}
    listener.close()


def test_two_listeners_of_one_process_share_a_directory(short_tmp: Path) -> None:
    one, two = (UnixListener(str(short_tmp / name)) for name in ("a.sock", "b.sock"))
    one.bind()
    two.bind()
    two.publish()
    one.publish()
    assert {path.name for path in short_tmp.iterdir()} == {"a.sock", "b.sock"}
    one.close()
    two.close()


def test_a_path_that_is_too_long_is_a_configuration_error(short_tmp: Path) -> None:
    long = short_tmp / ("x" * (107 - len(str(short_tmp))))
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        UnixListener(str(long)).bind()
    fits = short_tmp / ("x" * (106 - len(str(short_tmp))))
    listener = UnixListener(str(fits))
    listener.bind()
    listener.publish()
    listener.close()


def test_a_directory_that_cannot_be_made_is_a_platform_error(short_tmp: Path) -> None:
    (short_tmp / "file").write_text("")
    with pytest.raises(PlatformError, match="cannot listen on unix://"):
        UnixListener(str(short_tmp / "file" / "s.sock")).bind()


def test_a_tcp_socket_is_bound_when_published(short_tmp: Path) -> None:
    listener = listener_for(TcpAddress("127.0.0.1", 0))
    assert isinstance(listener, PlainListener)
    listener.bind()
    listener.publish()
    address = listener.address
    assert isinstance(address, TcpAddress)
    assert address.port
    taken = listener_for(address)
    with pytest.raises(PlatformError, match="Address already in use"):
        taken.publish()
    taken.close()
    listener.close()


def test_an_abstract_name_is_a_plain_listener() -> None:
    name = f"cg-listener-{os.getpid()}"
    listener = listener_for(UnixAddress(name, abstract=True))
    listener.publish()
    assert accepts(f"\0{name}")
    listener.close()
    assert not accepts(f"\0{name}")
