"""What an image is made of and what it measures to: manifest.json and an SPDX document. Sans-I/O.

Source: docs/spec/podvm-image.md 16; SPDX specification 2.3.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from podvm.packages import Package


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A Python distribution in the image.

    Attributes:
        file: its wheel's name.
        sha256: of the wheel, lowercase hexadecimal.
    """

    file: str
    sha256: str

    @property
    def name(self) -> str:
        """The distribution's name."""
        return self.file.split("-")[0]

    @property
    def version(self) -> str:
        """The distribution's version."""
        return self.file.split("-")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program of others in the image.

    Attributes:
        name: of the program, or `pause` for the sandbox's bundle.
        sha256: of the file, lowercase hexadecimal.
        source: `directory`, or repository and digest of the artifact.
    """

    name: str
    sha256: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything that the two documents say.

    Attributes:
        variant: of the image.
        epoch: seconds since 1970 that all times are.
        kernel: its version.
        root_hash: hexadecimal.
        packages: Debian packages, installed or unpacked.
        wheels: Python distributions.
        measurements: from `podvm.measurements.predict`.
        units_off: units whose program is not in the image.
        outputs: file name to SHA-256.
        programs: of others.
    """

    variant: str
    epoch: int
    kernel: str
    root_hash: str
    packages: Sequence[Package]
    wheels: Sequence[Wheel]
    measurements: Mapping[str, Mapping[str, str]]
    units_off: Sequence[str]
    outputs: Mapping[str, str]
    programs: Sequence[Program] = ()


def manifest(contents: Contents) -> str:
    """The text of manifest.json."""
    document = {
        "schema": 1,
        "variant": contents.variant,
        "kernel": contents.kernel,
        "root_hash": contents.root_hash,
        "measurements": contents.measurements,
        "units_off": list(contents.units_off),
        "programs": [
            {"name": p.name, "sha256": p.sha256, "source": p.source}
            for p in sorted(contents.programs, key=lambda p: p.name)
        ],
        "outputs": dict(sorted(contents.outputs.items())),
        "packages": [
            {"name": p.name, "version": p.version, "sha256": p.sha256}
            for p in sorted(contents.packages)
        ],
        "wheels": [
            {"name": w.name, "version": w.version, "file": w.file, "sha256": w.sha256}
            for w in sorted(contents.wheels, key=lambda w: w.file)
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def spdx(contents: Contents) -> str:
    """The text of sbom.spdx.json: one package per Debian package, wheel and program of others."""
    parts = (
        [
            _spdx_package(
                "deb", p.name, p.version, p.sha256, f"pkg:deb/debian/{p.name}@{p.version}"
            )
            for p in sorted(contents.packages)
        ]
        + [
            _spdx_package("pypi", w.name, w.version, w.sha256, f"pkg:pypi/{w.name}@{w.version}")
            for w in sorted(contents.wheels, key=lambda w: w.file)
        ]
        + [
            _spdx_package("generic", p.name, p.sha256, p.sha256, f"pkg:generic/{p.name}@{p.sha256}")
            for p in sorted(contents.programs, key=lambda p: p.name)
        ]
    )
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    name = f"podvm-{contents.variant}"
    created = datetime.fromtimestamp(contents.epoch, UTC)
    image: dict[str, object] = {
        "SPDXID": "SPDXRef-image",
        "name": name,
        "versionInfo": contents.root_hash,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    }
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:sha256:{digest}",
        "creationInfo": {
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: podvm"],
        },
        "packages": [image, *parts],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"),
            *(_relation("SPDXRef-image", "CONTAINS", str(part["SPDXID"])) for part in parts),
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _spdx_package(kind: str, name: str, version: str, sha256: str, url: str) -> dict[str, object]:
    return {
        "SPDXID": f"SPDXRef-{kind}-{re.sub('[^A-Za-z0-9.-]', '-', name)}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": url.replace("+", "%2B"),
            }
        ],
    }


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
