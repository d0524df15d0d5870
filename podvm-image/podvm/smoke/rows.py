"""The rows S1 to S20 of the specification's table, and the results that each stands on.

Source: docs/spec/podvm-image.md 17.
"""

from typing import Final

from podvm.smoke.table import Assertion

_ROWS: Final = (
    ("verity root, read-only, of this root hash", "cloud.S1"),
    ("tampered root refused", "hash.S2 data.S2"),
    (
        "PCR 4, 9, 11 as predicted, 8 from zero; accepted by the KBS",
        "cloud.S3 plain.S3 cloud.evidence disk.evidence production.evidence",
    ),
    (
        "nothing given: the dummy, its digest and PCR 8, services up",
        "plain.S4 plain.S3 plain.S19 plain.S8",
    ),
    (
        "allow-listed files from metadata and configuration disk, no foreign path",
        "cloud.S5 disk.S5",
    ),
    ("init data overrides write_files; digest and PCR 8", "cloud.S6 cloud.S5 cloud.S3 disk.S6"),
    ("sockets accept at the instant their path exists", "plain.S7"),
    ("REST answers in podns only", "cloud.S8 cloud.S8.token cloud.S8.debug plain.S8"),
    (
        "unseal, secure mount, encrypted image as an overlay that PID 1 sees",
        """cloud.S9.secret cloud.S9.image cloud.S9.volume cloud.S9.debug
        disk.S9.again disk.S9.edited""",
    ),
    (
        "SIGKILL: back by itself; SIGTERM: clean (3 s and 5 s, ten times that emulated)",
        "cloud.S10.kill cloud.S10.term plain.load",
    ),
    ("no failed unit, none activating", "cloud.S11 cloud.S11.end disk.S11 plain.S11"),
    (
        "no byte code written, none compiled; imports soon",
        "cloud.S12 contents.bytecode plain.S12.starts",
    ),
    ("no listener, no login, declared programs only", "cloud.S13 production.login"),
    ("sandboxes of AA and REST hold", "cloud.S14.agent cloud.S14.rest"),
    ("configfs-tsm is there, ENXIO without a provider, a report with one", "cloud.S15"),
    ("scratch disk: dm-crypt, backup header at the end", "disk.S16"),
    (
        "clock, DNS; TLS with a private CA only where it is configured",
        "cloud.S17 cloud.S9.image cloud.S17.name cloud.clock",
    ),
    ("two builds are byte-identical", "build.S18"),
    ("time to the services (reported)", "cloud.S19 plain.S19.answer"),
    (
        "no secret in journal or console, at info and debug",
        "cloud.S20 cloud.console disk.S20 disk.console production.console plain.console",
    ),
)

ROWS: Final = tuple(
    Assertion(number=f"S{number}", what=what, needs=tuple(needs.split()))
    for number, (what, needs) in enumerate(_ROWS, 1)
)
