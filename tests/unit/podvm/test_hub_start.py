"""How the image starts the data hub."""

import subprocess
from pathlib import Path
from typing import Final

import pytest

from podvm.places import IMAGE

SCRIPT: Final = IMAGE / "tree/usr/local/libexec/start-confidential-data-hub"
VARIABLE: Final = "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS"
NAMED: Final = '[image]\nauthenticated_registry_credentials_uri = "kbs:///default/a/b"\n'
COMMENTED: Final = '[image]\n# authenticated_registry_credentials_uri = "kbs:///default/a/b"\n'


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "args= credentials=file:///run/peerpod/auth.json"),
        ("", "args=-c CONFIG credentials=file:///run/peerpod/auth.json"),
        (COMMENTED, "args=-c CONFIG credentials=file:///run/peerpod/auth.json"),
        (NAMED, "args=-c CONFIG credentials=unset"),
    ],
)
def test_credentials_that_the_configuration_names_go_before_user_data(
    config: str | None, expected: str, tmp_path: Path
) -> None:
    place, hub = tmp_path / "cdh.toml", tmp_path / "hub"
    hub.write_text(f'#!/bin/sh\necho "args=$* credentials=${{{VARIABLE}-unset}}"\n')
    hub.chmod(0o755)
    text = SCRIPT.read_text().replace("/run/peerpod/cdh.toml", str(place))
    script = tmp_path / "start"
    script.write_text(text.replace("/usr/local/bin/confidential-data-hub", str(hub)))
    if config is not None:
        place.write_text(config)

    done = subprocess.run(
        ["/bin/sh", str(script)], capture_output=True, text=True, timeout=60, check=True,
        env={"PATH": "/usr/bin:/bin", VARIABLE: "file:///run/peerpod/auth.json"},
    )  # fmt: skip

    assert done.stdout.strip() == expected.replace("CONFIG", str(place))
