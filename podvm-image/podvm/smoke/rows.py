"""The rows S1 to S20 of the specification's table, and the results that each stands on.

Source: docs/spec/podvm-image.md 17.
"""

from typing import Final

from podvm.smoke.table import Assertion

ROWS: Final = (
    Assertion(number="S1", what="verity root, read-only, of this root hash", needs=("cloud.S1",)),
    Assertion(number="S2", what="tampered root refused", needs=("hash.S2", "data.S2")),
    Assertion(
        number="S3",
        what="PCR 4, 9, 11 as predicted, 8 from zero; accepted by the KBS",
        needs=(
            "cloud.S3", "plain.S3", "cloud.evidence", "disk.evidence", "production.evidence",
        ),
    ),
    Assertion(
        number="S4",
        what="nothing given: the dummy, its digest and PCR 8, services up",
        needs=("plain.S4", "plain.S3", "plain.S19", "plain.S8"),
    ),
    Assertion(
        number="S5",
        what="allow-listed files from metadata and configuration disk, no foreign path",
        needs=("cloud.S5", "disk.S5"),
    ),
    Assertion(
        number="S6",
        what="init data overrides write_files; digest and PCR 8",
        needs=("cloud.S6", "cloud.S5", "cloud.S3", "disk.S6"),
    ),
    Assertion(
        number="S7",
        what="sockets accept at the instant their path exists",
        needs=("plain.S7",),
    ),
    Assertion(
        number="S8",
        what="REST answers in podns only",
        needs=("cloud.S8", "cloud.S8.token", "cloud.S8.debug", "plain.S8"),
    ),
    Assertion(
        number="S9",
        what="unseal, secure mount, encrypted image as an overlay that PID 1 sees",
        needs=(
            "cloud.S9.secret", "cloud.S9.image", "cloud.S9.volume", "cloud.S9.debug",
            "disk.S9.again", "disk.S9.edited",
        ),
    ),
    Assertion(
        number="S10",
        what="SIGKILL: back by itself; SIGTERM: clean (3 s and 5 s, ten times that emulated)",
        needs=("cloud.S10.kill", "cloud.S10.term", "plain.load"),
    ),
    Assertion(
        number="S11",
        what="no failed unit, none activating",
        needs=("cloud.S11", "cloud.S11.end", "disk.S11", "plain.S11"),
    ),
    Assertion(
        number="S12",
        what="no byte code written, none compiled",
        needs=("cloud.S12", "contents.bytecode", "cloud.S10.kill"),
        missing="budgets of processor time (told by cloud.S10.kill)",
    ),
    Assertion(
        number="S13",
        what="no listener, no login, declared programs only",
        needs=("cloud.S13", "production.login"),
    ),
    Assertion(
        number="S14",
        what="sandboxes of AA and REST hold",
        needs=("cloud.S14.agent", "cloud.S14.rest"),
    ),
    Assertion(
        number="S15",
        what="configfs-tsm is there, ENXIO without a provider, a report with one",
        needs=("cloud.S15",),
    ),
    Assertion(
        number="S16", what="scratch disk: dm-crypt, backup header at the end", needs=("disk.S16",)
    ),
    Assertion(
        number="S17",
        what="clock, DNS; TLS with a private CA only where it is configured",
        needs=("cloud.S17", "cloud.S9.image", "cloud.S17.name", "cloud.clock"),
    ),
    Assertion(number="S18", what="two builds are byte-identical", needs=("build.S18",)),
    Assertion(number="S19", what="time to the services (reported)", needs=("cloud.S19",)),
    Assertion(
        number="S20",
        what="no secret in journal or console, at info and debug",
        needs=(
            "cloud.S20", "cloud.console", "disk.S20", "disk.console", "production.console",
            "plain.console",
        ),
    ),
)  # fmt: skip
