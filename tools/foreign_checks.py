"""Checks of docs/spec that need somebody else's program: named, and not counted.

A check is here when no test of this repository can prove it without a daemon or client of another
project that no package of Debian or PyPI brings. A test that has found the program may still mark
it; it is then counted as proven.
"""

from collections.abc import Mapping
from typing import Final

NEEDS: Final[Mapping[str, Mapping[int, str]]] = {
    "kbs-protocol": {
        44: "Trustee's kbs-client and the Rust attestation-agent and confidential-data-hub",
        45: "Trustee (kbs with its built-in attestation service)",
    },
    "ttrpc": {
        35: "the Rust ttrpc 0.9.0 and Go ttrpc 1.2 client and server (make interop builds them)",
    },
}
"""Page to numbers to what they need."""
