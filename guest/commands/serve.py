"""`guest serve`: the three services in one process, with in-process channels between them.

Each is built by its own root from the command line that it would have as a daemon.
"""

import argparse
from collections.abc import Sequence
from typing import Final, NoReturn

from api_server_rest import main as rest_root
from attestation_agent import main as aa_root
from cdh import main as cdh_root
from guest.metrics import Metrics, MetricsServer
from guest.process import started_at
from guest.rpc.inprocess import InProcessChannel
from guest.supervisor import Component, main_loop
from guest.warmup import WarmUp

PROGRAM: Final = "guest serve"


def serve(options: argparse.Namespace, environment: dict[str, str]) -> NoReturn:
    """Start agent, data hub and shim in this order; serve until a signal."""
    aa_arguments = aa_root.make_parser(PROGRAM).parse_args(
        _words(
            options,
            attestation_sock="--attestation_sock",
            aa_config="--config-file",
            initdata_toml="--initdata-toml",
            initdata_digest="--initdata-digest",
            metrics_dir="--metrics-dir",
        )
    )
    cdh_arguments = cdh_root.make_parser(PROGRAM).parse_args(
        _words(
            options,
            cdh_config="--config",
            runtime_dir="--runtime-dir",
            metrics_dir="--metrics-dir",
        )
    )
    rest_words = [f"--bind={options.bind}", f"--features={options.features}"]
    rest_words.append(f"--resource-injection={options.resource_injection}")
    rest_arguments = rest_root.make_parser().parse_args(rest_words)

    async def build() -> Sequence[Component]:
        metrics = Metrics()
        agent, directory = aa_root.open_agent(aa_arguments, environment, metrics)
        aa = InProcessChannel(agent.routes)
        hub = cdh_root.open_hub(cdh_arguments, environment, metrics, aa=aa, started=started_at())
        shim = rest_root.open_shim(
            rest_arguments,
            environment,
            metrics,
            aa=InProcessChannel(agent.routes),
            cdh=InProcessChannel(hub.routes),
        )
        served = MetricsServer(metrics, "guest", directory=directory)
        warm_up = WarmUp((*agent.first_needs, *hub.first_needs), hub.prepare)
        return (agent, hub, shim, served, warm_up)

    main_loop(build, program=PROGRAM, notify_socket=environment.get("NOTIFY_SOCKET"))


def _words(options: argparse.Namespace, **flags: str) -> list[str]:
    """A command line of the flags whose option was given."""
    words = ["--strict"] if options.strict else []
    for name, flag in flags.items():
        value = getattr(options, name)
        if value is not None:
            words.append(f"{flag}={value}")
    return words
