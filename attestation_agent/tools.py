"""The commands `ttrpc-aa-client`, `evidence_getter` and `trustee-attester`.

Results go to standard output, everything else to standard error; a failure is exit status 1.

Source: docs/spec/attestation-agent.md 1.3, 1.4 and 1.4a.
"""

import os
from collections.abc import Sequence
from typing import Final

from attestation_agent import calls, getter, resource
from attestation_agent.hints import read_hints
from guest.proxies import Proxies
from guest.tool import finish

LEVEL: Final = "info"
"""Of the log of the two commands that attest, where `RUST_LOG` is not set."""


def client_main(argv: Sequence[str] | None = None) -> int:
    """`ttrpc-aa-client`: the exit status."""
    arguments = calls.make_parser().parse_args(argv)
    return finish(calls.PROGRAM, lambda _: calls.run(arguments), dict(os.environ))


def getter_main(argv: Sequence[str] | None = None) -> int:
    """`evidence_getter`: the exit status."""
    arguments = getter.make_parser().parse_args(argv)
    return finish(
        getter.PROGRAM,
        lambda environment: getter.begin(arguments, read_hints(environment)),
        dict(os.environ),
        level=LEVEL,
    )


def attester_main(argv: Sequence[str] | None = None) -> int:
    """`trustee-attester`: the exit status."""
    arguments = resource.make_parser().parse_args(argv)
    return finish(
        resource.PROGRAM,
        lambda environment: resource.run(
            arguments, read_hints(environment), Proxies.from_variables(environment)
        ),
        dict(os.environ),
        level=LEVEL,
    )
