"""What the pulls of a process add up to, as metrics.

Source: docs/ARCHITECTURE.md, decisions 6 and 16.
"""

from typing import Final

from guest.metrics import Kind, Metric, Metrics
from guest.rpc.status import Code
from image_pull.layers.record import Jail
from image_pull.observer import LayerOutcome

JAIL: Final = Metric(
    "coco_image_pull_jail_info",
    "1 for the jail that the unpack server started last gives its workers, 0 for the others.",
    Kind.GAUGE,
    ("jail",),
)
RECEIVED: Final = Metric(
    "coco_image_pull_bytes", "Bytes of layers that came from registries, as they came."
)
PLANNED: Final = Metric(
    "coco_image_pull_planned_bytes",
    "Bytes of layers that pulls set out to fetch, before the first of them came.",
)
PLANNED_LAYERS: Final = Metric(
    "coco_image_pull_planned_layers", "Layers that pulls set out to fetch."
)
UNPACKED: Final = Metric(
    "coco_image_pull_unpacked_bytes", "Bytes of the verified tar archives of stored layers."
)
LAYER_SECONDS: Final = Metric(
    "coco_image_pull_layer_seconds",
    "Duration of layers, from the key to the store, by outcome and exact status.",
    Kind.HISTOGRAM,
    ("outcome", "code"),
)
PULL_SECONDS: Final = Metric(
    "coco_image_pull_seconds",
    "Duration of whole pulls by exact status.",
    Kind.HISTOGRAM,
    ("code",),
)


class PullMetrics:
    """Counts what pulls do; an observer of the puller.

    Args:
        metrics: of the process.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def jail_chosen(self, jail: Jail) -> None:
        """Show this jail as the one in use."""
        for each in Jail:
            self._metrics.record(JAIL, float(each is jail), each.value)

    def pull_planned(self, layers: int, size: int) -> None:
        """Count what is to come; what came is beside it."""
        self._metrics.record(PLANNED, size)
        self._metrics.record(PLANNED_LAYERS, layers)

    def bytes_received(self, count: int) -> None:
        """Add bytes of a blob."""
        self._metrics.record(RECEIVED, count)

    def layer_ended(
        self, outcome: LayerOutcome, code: Code, seconds: float, tar_bytes: int
    ) -> None:
        """Count a layer and what was unpacked for it."""
        self._metrics.record(LAYER_SECONDS, seconds, outcome.value, code.name)
        self._metrics.record(UNPACKED, tar_bytes)

    def pull_ended(self, code: Code, seconds: float) -> None:
        """Count a pull."""
        self._metrics.record(PULL_SECONDS, seconds, code.name)
