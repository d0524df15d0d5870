"""What may be asked of a build, and what is refused before anything is made."""

from pathlib import Path

import pytest

from podvm.build import Options, build
from podvm.errors import ImageError


@pytest.mark.parametrize("variant", ["production", "smoke"])
def test_a_variant_without_ssh_takes_no_keys(variant: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ssh-ed25519 AAAA somebody\n")
    output = tmp_path / "output"
    with pytest.raises(ImageError, match=f"the variant {variant} has no ssh"):
        build(Options(variant=variant, output=output, authorized_keys=keys))
    assert not output.exists()


def test_keys_that_are_not_there_are_named(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    with pytest.raises(ImageError, match=f"{keys} is missing"):
        build(Options(variant="debug", output=tmp_path / "output", authorized_keys=keys))
