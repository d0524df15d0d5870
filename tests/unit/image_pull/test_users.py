"""Users of an image, looked up in its own files and nowhere else."""

import os
from pathlib import Path

import pytest

from guest.errors import InvalidInputError, PlatformError
from image_pull.runtime_spec import User
from image_pull.users import user_of

PASSWD = "# comment\nroot:x:0:0:root:/:/bin/sh\napp:x:1000:1001::/:\nbad\n2000:x:7:8::/:\n"
GROUP = "root:x:0:\napp:x:1001:\nmail:x:12:app,other\ndisk:x:6:other,app\n"


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text(PASSWD)
    (root / "etc" / "group").write_text(GROUP)
    return root


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("root", User()),
        ("app", User(uid=1000, gid=1001, additional_gids=(6, 12))),
        ("1000", User(uid=1000, gid=1001, additional_gids=(6, 12))),
        ("app:mail", User(uid=1000, gid=12)),
        ("app:77", User(uid=1000, gid=77)),
        ("app:", User(uid=1000, gid=1001, additional_gids=(6, 12))),
        ("5:6", User(uid=5, gid=6)),
        ("5", User(uid=5)),
        ("2000", User(uid=7, gid=8)),
    ],
)
def test_a_user_is_resolved(text: str, user: User, rootfs: Path) -> None:
    assert user_of(rootfs, text) == user


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", "4294967295", "-1", "0x1", "१"])
def test_a_user_that_the_image_does_not_have_is_refused(text: str, rootfs: Path) -> None:
    with pytest.raises(InvalidInputError, match="image has no"):
        user_of(rootfs, text)


def test_numbers_need_no_files(tmp_path: Path) -> None:
    assert user_of(tmp_path, "5:6") == User(uid=5, gid=6)


def test_a_link_out_of_the_image_stays_inside(rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("app:x:0:0::/:\n")
    (rootfs / "etc" / "passwd").unlink()
    (rootfs / "etc" / "passwd").symlink_to(tmp_path / "passwd")
    with pytest.raises(InvalidInputError):
        user_of(rootfs, "app")
    inside = rootfs / tmp_path.relative_to("/")
    inside.mkdir(parents=True)
    (inside / "passwd").write_text("app:x:9:9::/:\n")
    assert user_of(rootfs, "app").uid == 9


def test_a_pipe_in_place_of_a_file_is_refused_at_once(rootfs: Path) -> None:
    (rootfs / "etc" / "passwd").unlink()
    os.mkfifo(rootfs / "etc" / "passwd")
    with pytest.raises(PlatformError, match="no regular file"):
        user_of(rootfs, "app")
