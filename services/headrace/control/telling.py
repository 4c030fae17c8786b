"""Messages of pairs, held against what control takes: a wrong one is refused by a field's name, nothing is counted."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from headrace.control.names import MAX_TEXT
from headrace.core.octaves import BUCKETS
from headrace.errors import InvalidInference
from headrace.experiments import rows
from headrace.experiments.comparison import SIDES
from headrace.v1 import experiments_pb2 as pb

MAX_ROWS: Final = 50_000
MAX_CAUSES: Final = 16
MAX_COUNT: Final = 1 << 40
DAY_US: Final = 86_400_000_000
GATEWAY: Final = "gateway"
"""The cause of rows that were lost with their gateway. Control counts it."""


def check_bounds(request: pb.RecordPairsRequest) -> None:
    """What can be said of a message at once, before it may wait. Raises: InvalidInference naming the field."""
    if not 0 < len(request.gateway_id) <= MAX_TEXT:
        raise InvalidInference(f"gateway_id: 1 to {MAX_TEXT} characters")
    for name in ("pairs", "noise"):
        _check_rows(getattr(request, name), name)


def named(who: str, gateway_id: str) -> str:
    """A gateway as evidence knows it: no caller speaks for another one's. A caller's name holds no space."""
    return f"{who} {gateway_id}"


def caller(gateway: str) -> str:
    """Whose gateway that is."""
    return gateway.partition(" ")[0]


def check(request: pb.RecordPairsRequest, now_us: int) -> None:
    """All of it, the sender's id `named` or not. Raises: InvalidInference naming the field."""
    if not 0 < len(request.gateway_id) <= 2 * MAX_TEXT:
        raise InvalidInference(f"gateway_id: 1 to {MAX_TEXT} characters")
    if not 0 < request.sequence <= MAX_COUNT:
        raise InvalidInference("sequence: counted from 1")
    for name, counts_name in (("pairs", "counts"), ("noise", "noise_counts")):
        columns = getattr(request, name)
        _check_columns(columns, name, now_us)
        _check_counts(getattr(request, counts_name), counts_name)
        try:
            rows.read(columns)
        except ValueError as error:
            raise InvalidInference(f"{name}.{str(error).removeprefix('pairs.')}") from error


def pending(columns: pb.PairColumns, counts: pb.SampleCounts) -> int:
    """How many more rows are under way after a message than before it."""
    return int(counts.sampled - len(columns.at_us) - sum(counts.drops.values()))


def at(column: Any, i: int, otherwise: Any) -> Any:
    """Entry i of a column, which may be left out."""
    return column[i] if column else otherwise


def _check_columns(columns: pb.PairColumns, name: str, now_us: int) -> None:
    """What the ledger asks for beyond what the sums do."""
    _check_rows(columns, name)
    if len(columns.at_us) != len(columns.incumbent):
        raise InvalidInference(f"{name}.at_us: {len(columns.at_us)} entries for {len(columns.incumbent)} pairs")
    moments = np.fromiter(columns.at_us, np.uint64, len(columns.at_us))
    if np.any(moments > np.uint64(now_us + DAY_US)):
        raise InvalidInference(f"{name}.at_us: more than a day ahead")
    if any(len(event_id) > MAX_TEXT for event_id in columns.event_id):
        raise InvalidInference(f"{name}.event_id: {MAX_TEXT} characters at most")
    for code in set(columns.currency):
        if code and not (len(code) == 3 and code.isascii() and code.isalpha()):
            raise InvalidInference(f"{name}.currency: '{code}' is not an ISO code of 3 letters")


def _check_rows(columns: pb.PairColumns, name: str) -> None:
    if len(columns.incumbent) > MAX_ROWS:
        raise InvalidInference(f"{name}: {len(columns.incumbent)} rows, {MAX_ROWS} at most")


def _check_counts(counts: pb.SampleCounts, name: str) -> None:
    if len(counts.drops) > MAX_CAUSES or any(not 0 < len(cause) <= MAX_TEXT for cause in counts.drops):
        raise InvalidInference(f"{name}.drops: {MAX_CAUSES} causes of {MAX_TEXT} characters at most")
    if GATEWAY in counts.drops:
        raise InvalidInference(f"{name}.drops: '{GATEWAY}' is counted by control")
    for side in SIDES:
        took = getattr(counts, f"{side}_took")
        if any(place >= BUCKETS or rows > MAX_COUNT for place, rows in took.items()):
            raise InvalidInference(f"{name}.{side}_took: {BUCKETS} entries of {MAX_COUNT} at most")
    requests = [getattr(counts, f"{side}_{what}") for side in SIDES for what in ("requests", "failures")]
    if max((counts.sampled, *counts.drops.values(), *requests)) > MAX_COUNT:
        raise InvalidInference(f"{name}: more than {MAX_COUNT} rows or requests")
