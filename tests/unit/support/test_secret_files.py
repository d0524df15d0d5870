"""The watch over files: what product code writes is looked at, wherever it went."""

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from support.agents import environment
from support.canaries import SHORTEST, forms, part_of
from support.secrecy import AUDITOR, verify
from support.secret_files import DOORS, REPORT, ROOT, FileWatch, preamble

CANARY: Final = b"c4nary-0f-a-file-19c3d"


@pytest.fixture
def watch(pytestconfig: pytest.Config) -> Iterator[FileWatch]:
    """One that hears this test instead of the test's own."""
    auditor = pytestconfig.stash[AUDITOR]
    own, auditor.watch = auditor.watch, FileWatch()
    auditor.watch.hold(CANARY)
    try:
        yield auditor.watch
    finally:
        auditor.watch = own


def product(source: str, file: str = "cdh/planted.py", **names: object) -> dict[str, Any]:
    """Run source text as if a file of the product held it."""
    space: dict[str, Any] = {"os": os, "Path": Path, "base64": base64, "CANARY": CANARY, **names}
    exec(compile(source, str(ROOT / file), "exec"), space)  # planted code
    return space


@contextmanager
def is_found(watch: FileWatch, name: str) -> Iterator[None]:
    """What the block does is a failure that names the file."""
    yield
    with pytest.raises(pytest.fail.Exception, match=name):
        verify(watch)


@pytest.mark.parametrize(
    "written",
    [
        "CANARY",
        "b'x' * 4096 + CANARY + b'y'",
        "base64.b64encode(CANARY)",
        "base64.urlsafe_b64encode(b'p' + CANARY + b'after')",
        "CANARY.hex().encode()",
        "str(list(CANARY)).encode()",
    ],
)
def test_a_secret_that_product_code_writes_is_found_in_any_form(
    watch: FileWatch, tmp_path: Path, written: str
) -> None:
    with is_found(watch, r"leak, written by cdh/planted.py:<module>:1"):
        product(f"(place / 'leak').write_bytes({written})", place=tmp_path)


WAYS: Final = {
    "appended": "f = open(place / 'a', 'ab'); f.write(CANARY); f.close()",
    "by descriptor": "d = os.open(place / 'a', os.O_CREAT | os.O_RDWR); os.write(d, CANARY)",
    "below a directory": (
        "at = os.open(place, os.O_RDONLY)\n"
        "d = os.open('a', os.O_CREAT | os.O_WRONLY, dir_fd=at); os.write(d, CANARY)"
    ),
    "renamed": "(place / 'b').write_bytes(CANARY); os.rename(place / 'b', place / 'a')",
    "in a renamed folder": (
        "(place / 'c').mkdir(); (place / 'c/a').write_bytes(CANARY)\n"
        "os.rename(place / 'c', place / 'd')"
    ),
    "linked": (
        "(place / 'b').write_bytes(b''); os.link(place / 'b', place / 'a')\n"
        "os.remove(place / 'b'); d = os.open(place / 'a', os.O_WRONLY); os.write(d, CANARY)"
    ),
    "removed": "(place / 'a').write_bytes(CANARY); (place / 'a').unlink()",
}


@pytest.mark.parametrize("source", WAYS.values(), ids=WAYS)
def test_a_secret_is_found_however_the_file_came_to_its_name(
    watch: FileWatch, tmp_path: Path, source: str
) -> None:
    with is_found(watch, r"/a, (removed, )?written by cdh/planted.py"):
        product(source, place=tmp_path)


def test_a_secret_written_by_a_thread_that_runs_no_code_of_ours_is_found(
    watch: FileWatch, tmp_path: Path
) -> None:
    with is_found(watch, "leak, written by a thread"):
        write = threading.Thread(target=(tmp_path / "leak").write_bytes, args=(CANARY,))
        write.start()
        write.join()


def test_a_secret_that_came_into_being_after_it_was_written_is_found(
    watch: FileWatch, tmp_path: Path
) -> None:
    with is_found(watch, "leak"):
        product("(place / 'leak').write_bytes(b'another-c4nary-of-a-test')", place=tmp_path)
        watch.hold(b"another-c4nary-of-a-test")


def test_a_secret_written_by_a_program_that_the_product_started_is_found(
    watch: FileWatch, tmp_path: Path
) -> None:
    run = "import subprocess; subprocess.run(['sh', '-c', line], check=True)"
    with is_found(watch, "leak, written by a program"):
        product(run, line=f"echo {base64.b64encode(CANARY).decode()} > {tmp_path}/leak")
        watch.texts.clear()  # its argument is a finding of its own
        watch.walk(tmp_path)


def test_arguments_and_variables_of_programs_of_the_product_are_read(watch: FileWatch) -> None:
    run = "import subprocess; subprocess.run(['true', word], env=variables, check=True)"
    with is_found(watch, "argument or variable"):
        product(run, word=CANARY.decode(), variables={})
    watch.texts.clear()
    verify(watch)
    with is_found(watch, "argument or variable"):
        product(run, word="x", variables={"PATH": os.environ["PATH"], "KEY": CANARY.decode()})


def test_a_test_may_write_what_it_likes(watch: FileWatch, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(CANARY)
    call: Callable[[Callable[[], object]], object] = product("def call(f): return f()")["call"]
    call(lambda: (tmp_path / "fake").write_bytes(CANARY))
    subprocess.run(["sh", "-c", f"echo {CANARY.decode()} > {tmp_path}/shell"], check=True)
    watch.walk(tmp_path)
    verify(watch)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.place)
def test_a_door_lets_a_secret_be_written_and_removed_where_it_says_so(
    watch: FileWatch, tmp_path: Path, door: object
) -> None:
    assert door in DOORS
    place, stays = next((one.place, one.stays) for one in DOORS if one is door)
    file, _, name = place.partition(":")
    inner = name.rpartition(".")[2]
    source = f"def {inner}(path):\n path.write_bytes(CANARY)\n path.rename(path.parent / 'named')"
    function = product(source, file)[inner]
    function.__code__ = function.__code__.replace(co_qualname=name)
    function(tmp_path / "key")
    if not stays:
        with is_found(watch, "still there: .*named"):
            pass
        (tmp_path / "named").unlink()
    verify(watch)


def test_every_door_is_there() -> None:
    for door in DOORS:
        file, _, name = door.place.partition(":")
        code = [compile((ROOT / file).read_text(), file, "exec")]
        names = []
        for one in code:
            names.append(one.co_qualname)
            code += [inner for inner in one.co_consts if isinstance(inner, type(one))]
        assert name in names


def test_a_process_tells_what_it_holds_and_writes(
    watch: FileWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REPORT, str(tmp_path / "report"))
    planted = (
        "from guest.secret import Secret\nfrom pathlib import Path\n"
        f"Secret(b'held in a process')\nleak = Path({str(tmp_path)!r}, 'leak')\n"
        "leak.write_bytes(b'held in a process')\nleak.rename(leak.with_name('moved'))\n"
        "gone = Path('gone')\ngone.write_bytes(b'held in a process')\ngone.unlink()\n"
    )
    file = str(ROOT / "cdh/planted.py")
    command = f"{preamble()}exec(compile({planted!r}, {file!r}, 'exec'))"
    arguments = [sys.executable, "-I", "-c", command]
    subprocess.run(arguments, check=True, cwd=tmp_path, env=environment())
    assert not watch.programs
    watch.replay(tmp_path / "report")
    assert part_of(b"held in a process") in watch.secrets
    assert [name.partition(",")[0] for name, _ in watch.contents()] == [
        str(tmp_path / "gone"),
        str(tmp_path / "moved"),
    ]
    with is_found(watch, "moved, written by cdh/planted.py:<module>:5"):
        pass


def test_what_would_be_found_by_chance_is_not_looked_for() -> None:
    assert part_of(b"short") == b""
    assert part_of(bytes(32)) == b""
    assert part_of(b"ab" * 40) == b""
    assert part_of(b"sha256:" + b"0123456789abcdef" * 4 + CANARY) == CANARY
    assert part_of(bytes(range(100))) == bytes(range(26, 74))
    assert all(len(form) >= SHORTEST for form in forms(CANARY[:SHORTEST]))


def test_a_test_of_the_product_that_writes_a_secret_fails(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    shows_secrets: x\n")
    (tmp_path / "test_source.py").write_text(
        "import pytest\nfrom pathlib import Path\nfrom guest.secret import Secret\n"
        f"SOURCE = 'def leak(s, p): p.write_bytes(s.reveal())'\n"
        f"exec(compile(SOURCE, {str(ROOT / 'cdh/planted.py')!r}, 'exec'))\n"
        "def test_it(tmp_path): leak(Secret(b'a planted c4nary'), tmp_path / 'leak')\n"
        "@pytest.mark.shows_secrets\ndef test_shown(tmp_path): test_it(tmp_path)\n"
        "def test_harmless(tmp_path): leak(Secret(b'short'), tmp_path / 'leak')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "support.secrecy", "-p", "no:xdist"]
    command += ["-p", "no:cacheprovider", "--basetemp=t"]
    done = subprocess.run(
        command, cwd=tmp_path, text=True, capture_output=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": os.defpath}, timeout=60,
    )  # fmt: skip
    assert "3 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "leak, written by cdh/planted.py:leak:1" in done.stdout


def test_what_a_thread_does_while_the_watch_is_looked_through_is_no_error(tmp_path: Path) -> None:
    watch = FileWatch(files={str(tmp_path / name): "x" for name in "abc"})
    seen = []
    for name, _ in watch.contents():
        seen.append(name)
        watch.move(str(tmp_path / "a"), str(tmp_path / "other"))
        watch.remove(str(tmp_path / "b"))
        watch.write(str(tmp_path / f"new{len(seen)}"), "x")
    assert len(seen) == 3
