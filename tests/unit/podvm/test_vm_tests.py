"""The test machine: which files it runs, its disks' contents, its command, what it brings back."""

import dataclasses
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from podvm import vm_machine, vm_module, vm_system, vm_test
from podvm.errors import ImageError
from podvm.packages import Lock
from podvm.places import IMAGE

REPORT = b"""<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="0" failures="1" skipped="2" tests="6" time="9"/>
</testsuites>"""
RECORD = {
    "checks": {"page": {"4": {"passed": ["a"]}, "5": {"passed": ["b"], "failed": ["c"]}}},
    "built": {},
    "skipped": {"[go] no go": 2},
}
RESULTS = {"status": b"1\n", "junit.xml": REPORT, "checklist.json": json.dumps(RECORD).encode()}


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            opened.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def test_the_markers_that_an_expression_wants_are_found() -> None:
    assert vm_test.marker_names("dm") == {"dm"}
    assert vm_test.marker_names("(dm or mount) and not slow") == {"dm", "mount"}


@pytest.mark.parametrize("expression", ["", "dm or", "dm + mount", "f(dm)", "1"])
def test_what_is_no_marker_expression_is_refused(expression: str) -> None:
    with pytest.raises(ImageError):
        vm_test.marker_names(expression)


def test_only_files_that_use_a_wanted_marker_are_run(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    (tests / "a").mkdir(parents=True)
    (tests / "a" / "test_one.py").write_text("@pytest.mark.dmx\n@pytest.mark.dm\n")
    (tests / "test_two.py").write_text("@pytest.mark.dm_other\n")
    (tests / "helper.py").write_text("pytest.mark.dm")

    names = frozenset({"dm"})
    assert vm_test.marked_files(tmp_path, ["tests"], names) == ["tests/a/test_one.py"]
    assert vm_test.marked_files(tmp_path, ["tests/test_two.py"], names) == []
    with pytest.raises(ImageError, match="does not exist"):
        vm_test.marked_files(tmp_path, ["tests/b"], names)


def test_the_tests_of_the_device_mapper_are_among_them(repository: Path) -> None:
    wanted = vm_test.marker_names(vm_test.EXPRESSION)

    files = vm_test.marked_files(repository, vm_test.ROOMS, wanted)

    assert {"tests/interop/test_secure_mount.py", "tests/interop/test_kernel_tsm.py"} < set(files)


def test_the_mirror_follows_every_change_and_keeps_byte_code(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "package").mkdir(parents=True)
    (source / "package" / "a.py").write_text("1")
    (source / "package" / "gone.py").write_text("1")
    (source / "turns").mkdir()
    (source / "link").symlink_to("package")
    for name in (".git", "build", ".mypy_cache", "__pycache__"):
        (source / name).mkdir()
    vm_test.mirror(source, target)
    (target / "package" / "__pycache__").mkdir()
    (target / "package" / "__pycache__" / "a.pyc").touch()
    (source / "package" / "gone.py").unlink()
    (source / "package" / "a.py").write_text("22")
    (source / "turns").rmdir()
    (source / "turns").write_text("file")
    (source / "link").unlink()
    (source / "link").mkdir()

    vm_test.mirror(source, target)

    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*"))
    assert names == [
        "link", "package", "package/__pycache__", "package/__pycache__/a.pyc", "package/a.py",
        "turns",
    ]  # fmt: skip
    assert (target / "package" / "a.py").read_text() == "22"
    assert (target / "turns").read_text() == "file"
    assert (target / "link").is_dir()
    assert not (target / "link").is_symlink()


def test_an_unchanged_file_is_not_copied_again(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "a").write_text("1")
    vm_test.mirror(source, target)
    before = os.stat(target / "a").st_ino

    vm_test.mirror(source, target)

    assert os.stat(target / "a").st_ino == before


def test_results_are_read_and_summed_up() -> None:
    found = vm_test.read_results(archive(RESULTS | {"dmesg": b"x"}))

    text = vm_test.summary(found, 61.4)

    assert "3 passed, 1 failed, 0 with errors, 2 skipped, in a machine that ran 61 s" in text
    assert "proven of page: 4\n" in text
    assert "skipped: 2 [go] no go" in text
    assert found["status"] == b"1\n"


def test_a_wanted_marker_that_the_machine_cannot_serve_is_a_failure() -> None:
    record = json.dumps({"skipped": {"[dm] no dmsetup": 3, "[go] no go": 1, "by hand": 1}}).encode()

    assert vm_test.unmet(record, frozenset({"dm", "mount"})) == ["[dm] no dmsetup"]
    assert vm_test.unmet(record, frozenset({"mount"})) == []


@pytest.mark.parametrize("absent", sorted(RESULTS))
def test_a_machine_that_sends_less_has_failed(absent: str) -> None:
    less = {name: data for name, data in RESULTS.items() if name != absent}

    with pytest.raises(ImageError, match=f"sent no {absent}"):
        vm_test.read_results(archive(less))


def test_no_or_cut_results_are_a_failure() -> None:
    whole = archive(RESULTS)
    for data in (b"", b"x" * 600, whole[:700]):
        with pytest.raises(ImageError, match="the machine sent no"):
            vm_test.read_results(data)


def test_the_machine_reads_its_disks_and_writes_only_results(tmp_path: Path) -> None:
    guest = vm_machine.Guest(
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        disks=(tmp_path / "one", tmp_path / "two"),
        results=tmp_path / "results",
    )

    words = vm_machine.command(guest)

    drives = [word for word in words if word.startswith("file=")]
    assert [drive.split(",")[0] for drive in drives] == [
        f"file={tmp_path}/one",
        f"file={tmp_path}/two",
    ]
    assert all("readonly=on" in drive for drive in drives)
    assert words[words.index("-nic") + 1] == "none"
    assert "kvm" not in " ".join(words)


def test_without_qemu_the_reason_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.argv", ["vm-test"])

    assert vm_test.main() == 1
    said = capsys.readouterr().err
    assert said == (
        "vm-test: qemu-system-x86_64 is not installed (Debian package qemu-system-x86)\n"
    )


def test_a_machine_that_does_not_end_is_killed_and_says_where_its_console_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / vm_machine.QEMU
    program.write_text("#!/bin/sh\necho booting\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    guest = vm_machine.Guest(
        kernel=tmp_path, initrd=tmp_path, disks=(), results=tmp_path / "results"
    )
    console, shown = tmp_path / "console", io.StringIO()

    with pytest.raises(ImageError, match="did not end in 2 s"):
        vm_machine.run_guest(guest, deadline=2, console=console, show=shown)

    assert shown.getvalue() in ("booting\n", "")


def test_a_machine_that_fails_gives_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / vm_machine.QEMU
    program.write_text("#!/bin/sh\necho 'cannot open disk'\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    guest = vm_machine.Guest(
        kernel=tmp_path, initrd=tmp_path, disks=(), results=tmp_path / "results"
    )

    with pytest.raises(ImageError, match="ended with 3: cannot open disk"):
        vm_machine.run_guest(guest, deadline=60, console=tmp_path / "c", show=io.StringIO())


def test_the_system_disk_is_another_one_when_a_lock_or_the_initrd_changes() -> None:
    lock = Lock.decode((IMAGE / "packages.lock.json").read_text("utf-8"))
    less = Lock(release=lock.release, sets={**lock.sets, "image": lock.sets["image"][1:]})

    keys = {
        vm_system.key_of(lock, "libraries", b"script"),
        vm_system.key_of(less, "libraries", b"script"),
        vm_system.key_of(lock, "others", b"script"),
        vm_system.key_of(lock, "libraries", b"other"),
    }

    assert len(keys) == 4


def test_the_module_is_built_against_the_headers_of_the_images_kernel() -> None:
    lock = Lock.decode((IMAGE / "packages.lock.json").read_text("utf-8"))
    version = vm_module.kernel_version(lock)

    found = vm_module.headers(lock).sets[vm_module.HEADERS]

    assert f"linux-headers-{version}" in {package.name for package in found}
    kernels = {p.version for p in lock.sets["unpacked"] if p.name == f"linux-image-{version}"}
    assert {p.version for p in found if p.name.startswith("linux-")} == kernels


def test_headers_of_another_kernel_are_refused() -> None:
    lock = Lock.decode((IMAGE / "packages.lock.json").read_text("utf-8"))
    other = [
        dataclasses.replace(package, name="linux-image-6.99.1-cloud-amd64")
        if package.name.startswith("linux-image-")
        else package
        for package in lock.sets["unpacked"]
    ]

    with pytest.raises(ImageError, match="for another kernel: make image-lock"):
        vm_module.headers(Lock(release=lock.release, sets={"unpacked": tuple(other)}))


def test_a_lock_without_one_kernel_is_refused() -> None:
    with pytest.raises(ImageError, match="has 0 kernels"):
        vm_module.kernel_version(Lock(release="trixie", sets={"unpacked": ()}))
