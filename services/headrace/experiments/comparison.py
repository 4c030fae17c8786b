"""What is counted of the pairs of one comparison: sums that merge, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.v1 import experiments_pb2 as pb


class Comparison:
    """Mergeable sums of the pairs of one comparison. Thresholds ascend; a value of so much or more is blocked."""

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = tuple(thresholds)

    def add(self, columns: pb.PairColumns, counts: pb.SampleCounts) -> None:
        """Count what one message tells. ValueError names the field that is wrong; nothing is counted then."""
        raise NotImplementedError

    def merge(self, other: Comparison) -> None:
        """Count what the other has counted as well. ValueError: other thresholds."""
        raise NotImplementedError

    def dump(self) -> str:
        """As JSON, compact."""
        raise NotImplementedError

    @classmethod
    def load(cls, text: str) -> Comparison:
        """What `dump` wrote. ValueError: another format."""
        raise NotImplementedError

    def figures(self, alpha: float) -> pb.Figures:
        """As figures; each interval holds at every look with 1 - alpha."""
        raise NotImplementedError
