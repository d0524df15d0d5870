"""User data and init data of the smoke test. Sans-I/O.

Source: docs/spec/podvm-image.md 5.
"""

import base64
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InitData:
    """An init data document.

    Attributes:
        text: the TOML.
    """

    text: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the TOML, lowercase hexadecimal."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def pcr8(self) -> str:
        """What PCR 8 holds after one extension, lowercase hexadecimal."""
        return hashlib.sha256(bytes(32) + bytes.fromhex(self.digest)).hexdigest()

    @property
    def encoded(self) -> str:
        """Base64 of the gzip, one line."""
        return base64.b64encode(gzip.compress(self.text, mtime=0)).decode()


def make_init_data(data: Mapping[str, str]) -> InitData:
    """A document with these files.

    Args:
        data: text by file name; without three single quotes in a row.

    Raises:
        ValueError: a text that a literal string cannot hold.
    """
    parts = ['algorithm = "sha256"\nversion = "0.1.0"\n\n[data]\n']
    for name, text in data.items():
        if "'''" in text:
            raise ValueError(f"{name} has three single quotes in a row")
        parts.append(f"\"{name}\" = '''\n{text}'''\n")
    return InitData(text="".join(parts).encode())


def make_user_data(files: Mapping[str, str]) -> bytes:
    """A cloud-config that writes these files, in this order.

    Args:
        files: content by absolute path; a content gets a newline at its end if it has none.
    """
    lines = ["#cloud-config", "", "write_files:"]
    for path, content in files.items():
        lines.append(f"  - path: {path}")
        if not content:
            continue
        lines.append("    content: |")
        lines += [f"      {line}".rstrip() for line in content.splitlines()]
    return ("\n".join(lines) + "\n").encode()
