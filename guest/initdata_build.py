"""A new init data document from files, written so that every TOML reader agrees. Sans-I/O.

Source: docs/spec/attestation-agent.md 6.1; TOML 1.0.0 "String".
"""

import re
from collections.abc import Mapping
from typing import Final

from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from guest.initdata import InitData

VERSION: Final = "0.1.0"
"""The one version that kata knows."""

ALGORITHMS: Final = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
"""What kata and pod VMs take; the attestation agent alone knows SM3 besides."""

_UNSAFE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_ESCAPED: Final = re.compile(r'[\x00-\x08\x0b-\x1f\x7f"\\]')


def build(algorithm: HashAlgorithm, files: Mapping[str, str]) -> InitData:
    """A document with these files, in the order given.

    Args:
        algorithm: of the digest; one of `ALGORITHMS`.
        files: names to contents.

    Raises:
        DecodeError: no reader gives the contents back, which a lone surrogate causes.
    """
    assert algorithm in ALGORITHMS
    head = f'version = "{VERSION}"\nalgorithm = "{algorithm}"\n\n[data]\n'
    text = head + "".join(f"{_key(name)} = {_value(content)}\n" for name, content in files.items())
    try:
        document = InitData.parse(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise DecodeError("init data cannot hold a lone surrogate") from error
    if document.data != dict(files):
        raise DecodeError("init data does not hold what it was made from")
    return document


def _key(name: str) -> str:
    return f'"{_ESCAPED.sub(_escape, name).replace(chr(10), chr(92) + "n")}"'


def _value(content: str) -> str:
    """A literal if that can hold the text, else with escapes; the first line end is TOML's own."""
    if _UNSAFE.search(content) or "'''" in content or content.endswith("'"):
        return f'"""\n{_ESCAPED.sub(_escape, content)}"""'
    return f"'''\n{content}'''"


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return f"\\{character}" if character in '"\\' else f"\\u{ord(character):04x}"
