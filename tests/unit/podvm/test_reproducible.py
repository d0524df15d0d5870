"""What two builds have in common, and how they are compared."""

import shutil
import subprocess
from pathlib import Path

import pytest

from podvm import reproducible, tree
from podvm.errors import ImageError


def results(place: Path, **changed: bytes) -> Path:
    """A directory with all outputs."""
    place.mkdir()
    for name in reproducible.COMPARED:
        (place / name).write_bytes(changed.get(name.replace(".", "_"), name.encode()))
    return place


def test_equal_outputs_are_identical(tmp_path: Path) -> None:
    lines, good = reproducible.verdict(results(tmp_path / "a"), results(tmp_path / "b"))

    assert good
    assert len(lines) == len(reproducible.COMPARED)
    assert all(line.startswith("identical") for line in lines)


def test_one_other_byte_is_a_difference(tmp_path: Path) -> None:
    other = results(tmp_path / "b", podvm_vhd=b"podvm.vhe")

    lines, good = reproducible.verdict(results(tmp_path / "a"), other)

    assert not good
    assert [line.split()[1] for line in lines if "DIFFERENT" in line] == ["podvm.vhd"]


def test_a_missing_output_is_a_difference(tmp_path: Path) -> None:
    one, other = results(tmp_path / "a"), results(tmp_path / "b")
    for place in (one, other):
        (place / "sbom.spdx.json").unlink()

    assert not reproducible.verdict(one, other)[1]


def test_only_fetched_inputs_are_shared(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in ("debs/a.deb", "wheels-py313/b.whl", "tpm-1/c.whl", "trees/x", "own/d.whl"):
        (cache / name).parent.mkdir(parents=True)
        (cache / name).write_text(name)

    reproducible.link_inputs(cache, tmp_path / "other")

    found = {path.name for path in (tmp_path / "other").iterdir()}
    assert found == {"debs", "wheels-py313", "tpm-1"}
    assert (tmp_path / "other/debs/a.deb").read_text() == "debs/a.deb"


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_sources_are_copied_as_a_clone_has_them(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    subprocess.run(["git", "init", "--quiet", str(project)], check=True, timeout=60)
    (project / ".gitignore").write_text("*.log\n")
    (project / "run").write_text("#!/bin/sh\n")
    (project / "run").chmod(0o755)
    (project / "build.log").write_text("no")
    (project / "to").symlink_to("run")
    (project / "new file").write_text("yes")

    copy, other = tmp_path / "copy", tmp_path / "other"
    (project / "empty").mkdir()
    reproducible.copy_sources(project, {copy: 0o077, other: 0o022})

    assert (other / "run").stat().st_mode & 0o777 == 0o755
    assert {path.name for path in copy.iterdir()} == {".gitignore", "run", "to", "new file"}
    assert (copy / "run").stat().st_mode & 0o777 == 0o700
    assert (copy / "new file").stat().st_mode & 0o777 == 0o600
    assert str((copy / "to").readlink()) == "run"


def test_a_build_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "podvm-image").mkdir()
    with pytest.raises(ImageError, match="failed"):
        reproducible.build(tmp_path, tmp_path / "out", {"PATH": "/nowhere"}, [], umask=0o022)


def test_modes_in_the_image_do_not_depend_on_the_checkouts_umask(tmp_path: Path) -> None:
    source, target = tmp_path / "tree", tmp_path / "root"
    source.mkdir()
    target.mkdir()
    for name, mode in (("a.conf", 0o600), ("b.conf", 0o664), ("run", 0o700), ("go", 0o775)):
        (source / name).write_text(name)
        (source / name).chmod(mode)

    (source / "empty").mkdir()
    (source / "full").mkdir()
    (source / "full/go").write_text("go")

    tree.overlay(source, target)

    assert (target / "full/go").exists()
    assert not (target / "empty").exists()
    shutil.rmtree(target / "full")

    modes = {path.name: path.stat().st_mode & 0o777 for path in target.iterdir()}
    assert modes == {"a.conf": 0o644, "b.conf": 0o644, "run": 0o755, "go": 0o755}
