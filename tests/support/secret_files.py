"""What files product code writes, seen from below: an audit hook in this process and its children.

A file belongs to the product when the innermost frame that is neither Python's nor a library's
is product code; what a test or a simulator writes is its own. Where secrets are meant to be
written there is a door, below, with its reason; any other file must not hold one, neither when
the test ends nor when it is removed. A Python program that a test starts (`support.agents`)
watches itself and tells this process in a file of lines.
"""

import base64
import json
import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Final

from guest.secret import Secret
from support.canaries import part_of

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PRODUCT: Final = ("guest", "attestation_agent", "cdh", "image_pull", "api_server_rest")

REPORT: Final = "SECRET_FILES_REPORT"
"""Names the file in which the processes that a test starts tell what they hold and write."""

NOTES: Final = "calls"
"""The folder in which a stand-in for a program notes what it was given (`storage_world`)."""

MOST_SECRETS: Final = 256
MOST_FILES: Final = 512
MOST_BYTES: Final = 1024 * 1024
"""Bytes of one file that are looked at, from its beginning."""

MOST_GONE: Final = 8 * MOST_BYTES
"""Bytes of removed files that are kept for one test."""

MOST_TEXTS: Final = 4096
MOST_CHARACTERS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Door:
    """Where the product may write a secret.

    Attributes:
        place: file and function that open the file.
        reason: why.
        stays: whether the file may still be there when the test ends.
    """

    place: str
    reason: str
    stays: bool


DOORS: Final = (
    Door("cdh/credentials.py:_replace", "credentials, in the runtime directory", True),
    Door(
        "cdh/storage/alibaba_oss.py:OssVolume._with_file.<locals>.write",
        "ossfs and gocryptfs take a file only: in the runtime directory while they start",
        False,
    ),
    Door("cdh/secrets/seal.py:write_new", "the owner's keys and plaintexts, where told to", True),
)


@dataclass(slots=True)
class FileWatch:
    """What one test's product code held and wrote.

    Threads that a test left behind may tell of more at any time, so each collection is looked
    through as a copy, which the interpreter takes in one step; a lock would be held for ever in
    a process that another thread forks.

    Attributes:
        secrets: what is looked for.
        texts: what somebody may read: records, errors, arguments, variables.
        files: path of each file that was written, to who did it.
        doors: paths that were written through a door.
        others: paths that this process wrote and the product did not.
        gone: name and content of files that were removed.
        programs: whether the product started programs, and whether a test did.
        tell: gets each event of a process that another one watches.
    """

    secrets: set[bytes] = field(default_factory=set)
    texts: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    doors: dict[str, Door] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    gone: list[tuple[str, bytes]] = field(default_factory=list)
    programs: set[str] = field(default_factory=set)
    tell: Callable[..., None] | None = None

    def note(self, kind: str, text: str) -> None:
        """Remember what somebody may read."""
        if len(self.texts) < MOST_TEXTS:
            self.texts.append((kind, text[:MOST_CHARACTERS]))

    def hold(self, value: bytes | bytearray | memoryview) -> None:
        """Remember a secret."""
        part = part_of(value)
        if part and part not in self.secrets and len(self.secrets) < MOST_SECRETS:
            self.secrets.add(part)
            self._told("hold", part.hex())

    def write(self, path: str, by: str, place: str = "") -> None:
        """A file was opened for writing by product code; `place` is that of its door."""
        door = next((door for door in DOORS if door.place == place), None)
        if door is not None:
            self.doors[path] = door
        elif len(self.files) < MOST_FILES and path not in self.doors:
            self.files[path] = by
        self._told("write", path, by, place)

    def move(self, old: str, new: str) -> None:
        """A file or directory got another name."""
        for paths in (self.files, self.doors):
            _move(paths, old, new)
        self.others |= {new + one[len(old) :] for one in self.others.copy() if _is_below(one, old)}
        self._told("move", old, new)

    def link(self, old: str, new: str) -> None:
        """A file got one more name."""
        if old in self.others:
            self.others.add(new)
        elif old in self.files or old in self.doors:
            door = self.doors.get(old)
            self.write(new, self.files.get(old, ""), door.place if door is not None else "")

    def remove(self, path: str) -> None:
        """A file is about to be removed."""
        by = self.files.pop(path, None)
        self.doors.pop(path, None)
        room = MOST_GONE - sum(len(content) for _, content in self.gone)
        if by is not None and room > 0 and (content := read(path)):
            self._lose(path, by, content)
            self._told("lose", path, by, content)

    def _lose(self, path: str, by: str, content: bytes) -> None:
        self.files.pop(path, None)
        self.gone.append((f"{path}, removed, written by {by}", content))

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """What must not hold a secret, by name."""
        yield from self.gone.copy()
        for path, by in self.files.copy().items():
            yield f"{path}, written by {by}", read(path)

    def left(self) -> list[str]:
        """Files that should have been removed."""
        doors = self.doors.copy()
        return [p for p, door in doors.items() if not door.stays and os.path.exists(p)]

    def walk(self, folder: Path) -> None:
        """Take what programs wrote that the product started: nobody else can have."""
        if self.programs != {"product"}:
            return
        ours = self.others | self.doors.copy().keys()
        for path in islice(_files_below(folder), MOST_FILES):
            name = os.path.realpath(path)
            if name not in ours and NOTES not in path.parts and not path.is_symlink():
                self.files.setdefault(name, "a program")

    def replay(self, report: Path) -> None:
        """Take what other processes told."""
        for line in report.read_bytes().splitlines() if report.exists() else ():
            event, *values = json.loads(line)
            match event:
                case "hold":
                    self.hold(bytes.fromhex(*values))
                case "write":
                    self.write(*values)
                case "move":
                    self.move(*values)
                case _:
                    self._lose(values[0], values[1], base64.b64decode(values[2]))

    def _told(self, *event: Any) -> None:
        if self.tell is not None:
            self.tell(*event)


class Auditor:
    """The hook of this process, which lasts as long as it does.

    Attributes:
        watch: where events go; None between tests.
    """

    def __init__(self) -> None:
        self.watch: FileWatch | None = None
        self._handlers: dict[str, Callable[..., None]] = {
            "open": self._open,
            "os.rename": self._rename,
            "os.link": self._link,
            "os.remove": self._remove,
            "subprocess.Popen": self._start,
        }
        self._os_open = os.open

    def install(self) -> None:
        """Begin; there is no end."""
        sys.addaudithook(self._hear)

    def open_at(
        self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        """`os.open`, whose event does not tell `dir_fd`."""
        descriptor = self._os_open(path, flags, mode, dir_fd=dir_fd)
        watch = self.watch
        if dir_fd is not None and flags & (os.O_WRONLY | os.O_RDWR) and watch is not None:
            self._wrote(watch, f"/proc/self/fd/{descriptor}")
        return descriptor

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        handler, watch = self._handlers.get(event), self.watch
        if handler is not None and watch is not None:
            handler(watch, *arguments)

    def _open(self, watch: FileWatch, path: Any, mode: str | None, flags: int) -> None:
        if flags & (os.O_WRONLY | os.O_RDWR) and not isinstance(path, int):
            text = os.fsdecode(path)
            if mode is not None or text.startswith("/"):  # else `open_at` sees it
                self._wrote(watch, text)

    def _wrote(self, watch: FileWatch, path: str) -> None:
        by, place = writer(sys._getframe(1))
        path = os.path.realpath(path)
        if by:
            watch.write(path, by, place)
        else:
            watch.others.add(path)

    def _rename(
        self, watch: FileWatch, old: Any, new: Any, old_folder: int, new_folder: int
    ) -> None:
        if watch.files or watch.doors or watch.others:
            watch.move(_resolved(old, old_folder), _resolved(new, new_folder))

    def _link(self, watch: FileWatch, old: Any, new: Any, old_folder: int, new_folder: int) -> None:
        watch.link(_resolved(old, old_folder), _resolved(new, new_folder))

    def _remove(self, watch: FileWatch, path: Any, folder: int) -> None:
        if watch.files or watch.doors:
            watch.remove(_resolved(path, folder))

    def _start(
        self, watch: FileWatch, program: Any, arguments: Any, _folder: Any, variables: Any
    ) -> None:
        by, _ = writer(sys._getframe(1))
        if by:
            for shown in (program, *arguments, *(variables or {}).values()):
                watch.note("argument or variable", os.fsdecode(shown))
        if by or REPORT not in str(arguments):
            watch.programs.add("product" if by else "test")


def writer(frame: FrameType | None) -> tuple[str, str]:
    """Who does what the frame does: product code and its door, or ("", "") for anybody else."""
    by = place = ""
    foreign = False
    while frame is not None:
        code = frame.f_code
        name = code.co_filename
        if name.startswith(_ROOT) and not name.startswith(_LIBRARIES):
            room = name[len(_ROOT) :].partition("/")[0]
            if room not in PRODUCT:
                if name != __file__:
                    break
            else:
                here = f"{name[len(_ROOT) :]}:{code.co_qualname}"
                by = by or f"{here}:{frame.f_lineno}"
                place = place or (here if any(here == door.place for door in DOORS) else "")
        elif _PACKAGES in name and not by:
            foreign = True
        frame = frame.f_back
    if not by and frame is None and not foreign:
        by = "a thread that runs nothing of ours"
    return by, place


def read(path: str) -> bytes:
    """The beginning of a regular file; empty where there is none."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return b""
        with open(path, "rb") as file:
            return file.read(MOST_BYTES)
    except OSError:
        return b""


def preamble() -> str:
    """Python that makes a process watch itself for this test; empty where none is watched."""
    report = os.environ.get(REPORT)
    if report is None:
        return ""
    folders = [str(ROOT / "tests"), str(ROOT)]
    return (
        f"import sys; sys.path[:0] = {folders!r}; from support.secret_files import watch_process; "
        f"del sys.path[:2]; watch_process({report!r})  # {REPORT}\n"
    )


def watch_process(report: str) -> None:
    """Watch this process to its end."""

    def tell(*event: Any) -> None:
        shown = [base64.b64encode(v).decode() if isinstance(v, bytes) else v for v in event]
        os.write(descriptor, json.dumps(shown).encode() + b"\n")

    try:
        descriptor = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError:
        return  # another user's process
    watch = FileWatch(tell=tell)
    auditor = Auditor()
    auditor.watch = watch
    init = Secret.__init__

    def remember(self: Secret, value: bytes | bytearray | memoryview) -> None:
        watch.hold(value)
        init(self, value)

    Secret.__init__ = remember  # type: ignore[method-assign]  # to the end of the process
    os.open = auditor.open_at
    auditor.install()


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file; what goes away meanwhile is no error."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _move(paths: dict[str, Any], old: str, new: str) -> None:
    for path, value in paths.copy().items():
        if _is_below(path, old):
            paths.pop(path, None)
            paths[new + path[len(old) :]] = value


def _resolved(path: Any, folder: int) -> str:
    text = os.fsdecode(path)
    if folder >= 0:
        text = f"/proc/self/fd/{folder}/{text}"
    return os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))


_ROOT: Final = f"{ROOT}/"
_PACKAGES: Final = "/site-packages/"
_LIBRARIES: Final = (f"{sysconfig.get_path('purelib')}/", f"{sys.prefix}/")
