"""One line of the bench's table."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure beside its bar.

    Attributes:
        name: what was measured.
        bar: the most (`at_most`) or the least that is allowed; None where there is no bar yet.
        value: the figure.
        unit: of bar and value; `x` for a ratio to the peer.
        peer: what it is measured against, its figure and the spread of ours.
    """

    name: str
    bar: float | None
    value: float
    unit: str
    peer: str
    kind: Literal["at most", "exactly"] = "at most"

    @property
    def holds(self) -> bool:
        """Whether the bar is reached."""
        if self.bar is None:
            return True
        return self.value == self.bar if self.kind == "exactly" else self.value <= self.bar

    def verdict(self) -> str:
        """`holds`, or by how much it is short."""
        if self.bar is None:
            return "no bar"
        if self.holds:
            return "holds"
        return f"short by {abs(self.value - self.bar):.3g} {self.unit}"
