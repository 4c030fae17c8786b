"""Values of a report as a person reads them, the same in a terminal and on a page.

Knows neither rich nor HTML. What a caller or a model named passes `plain` before it is shown.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1 import experiments_pb2 as pb

NOTHING: Final = "–"
STAGES: Final[Mapping[int, str]] = {
    pb.STAGE_DRAFT: "draft",
    pb.STAGE_SHADOW: "shadow",
    pb.STAGE_CANARY: "canary",
    pb.STAGE_PRIMARY: "primary",
    pb.STAGE_FINISHED: "finished",
    pb.STAGE_ROLLED_BACK: "rolled back",
}
VERDICTS: Final[Mapping[int, tuple[str, str]]] = {
    pb.VERDICT_PASS: ("✓", "holds"),
    pb.VERDICT_WAIT: ("…", "not known yet"),
    pb.VERDICT_CONSENT: ("?", "needs a person"),
    pb.VERDICT_FAIL: ("✗", "broken"),
}
"""A mark and a word, so that no verdict is told by its colour alone."""
GATES: Final = {
    "pairs": "Enough pairs",
    "coverage": "Coverage",
    "flips": "Changed decisions",
    "errors": "Errors",
    "psi": "Shift of the values (PSI)",
    "batch_time": "Time at a replica",
    "late": "Late answers",
    "labels": "Outcomes",
}
ERRORS: Final[Mapping[int, str]] = {
    pb.PAIR_ERROR_FAILED: "the model failed",
    pb.PAIR_ERROR_TIMEOUT: "no answer in time",
    pb.PAIR_ERROR_LOST: "its replica was lost",
    pb.PAIR_ERROR_GARBAGE: "what came is no answer",
}
CAUSES: Final = {
    "buffer": "the oldest made room",
    "load": "shed for the callers' sake",
    "unready": "no replica took any",
    "failing": "spared, after batches that all failed",
    "inputs": "the other version wants another input",
    "stopped": "the comparison was stopped",
    "control": "control could not be told",
    "gateway": "lost with their gateway",
    "error": "a fault of our own",
}


def plain(text: str) -> str:
    """One line without control or formatting characters: a terminal or a reader would obey them."""
    return "".join(
        " " if char in "\r\n\t" else "\ufffd" if unicodedata.category(char) in {"Cc", "Cf", "Cs"} else char
        for char in text
    )


def mark(verdict: int) -> str:
    return VERDICTS.get(verdict, (NOTHING, ""))[0]


def verdict(value: int) -> str:
    return VERDICTS.get(value, ("", "not said"))[1]


def gate(name: str) -> str:
    """A gate's title; one that this version does not know keeps its name."""
    return GATES.get(name, name)


def cause(name: str) -> str:
    """Why rows were dropped, in words."""
    return CAUSES.get(name, name)


def error(value: int) -> str:
    """How a side failed, in words."""
    return ERRORS.get(value, "failed")


def asked(failure: pb.Failure) -> str:
    """For whom the challenger failed."""
    return "a caller" if failure.canary else "the comparison"


def stage(value: int, share: float = 0.0) -> str:
    """`canary 5 %`: where an experiment stands, with the share where it has one."""
    word = STAGES.get(value, "not said")
    return f"{word} {short_percent(share)}" if value == pb.STAGE_CANARY and share else word


def percent(share: float) -> str:
    """`0.22 %`; a small share has as many digits as show what it is."""
    if not math.isfinite(share):
        return NOTHING
    size = abs(share)
    digits = 2 if size >= 1e-3 or size < 1e-6 else 3 if size >= 1e-4 else 4
    return _signless(f"{100 * share:.{digits}f} %")


def short_percent(share: float) -> str:
    """`5 %`, `0.5 %`: shares that somebody chose, and the labels of an axis."""
    return _signless(f"{100 * share:.4g} %")


def rate(value: pb.Rate) -> str:
    """`0.22 % (0.10 % to 0.44 %)`."""
    if not value.trials:
        return NOTHING
    bounds = value.interval
    return f"{percent(value.events / value.trials)} ({percent(bounds.lower)} to {percent(bounds.upper)})"


def count(value: float) -> str:
    return _signless(f"{value:,.0f}")


def number(value: float) -> str:
    """Four digits that mean something."""
    if not math.isfinite(value):
        return NOTHING
    return _signless(f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}")


def signed(value: float) -> str:
    """`+0.021`, `−0.021`: a difference."""
    return f"+{number(value)}" if value > 0 else number(value)


def alike(pairs: Sequence[pb.Disagreement]) -> list[tuple[str, str, str]]:
    """Incumbent, challenger and their difference, a pair each, all with the same number of decimals."""
    values = [(pair.incumbent, pair.challenger, pair.challenger - pair.incumbent) for pair in pairs]
    texts = [f"{each:.4g}" for row in values for each in row[:2]]
    decimals = min(4, max((len(text.partition(".")[2]) for text in texts if "e" not in text), default=0))
    return [
        (
            _signless(f"{row[0]:,.{decimals}f}"),
            _signless(f"{row[1]:,.{decimals}f}"),
            _signless(f"{row[2]:+,.{decimals}f}"),
        )
        for row in values
    ]


def edge(value: float) -> str:
    """An edge of a bin as an axis shows it: `−0.001`, `10⁻⁵`, `∞`."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    exponent = round(math.log10(size)) if size else 0
    if not -4 < exponent < 5 and math.isclose(size, 10.0**exponent):
        power = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{'−' if value < 0 else ''}10{power}"
    return _signless(f"{value:.3g}")


def milliseconds(value: float) -> str:
    """`4.12`, `41.2`, `412`: three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def money(amount: float, currency: str) -> str:
    return f"{count(amount)} {plain(currency)}".strip()


def moment(at: Timestamp) -> datetime:
    return at.ToDatetime(tzinfo=UTC)


def when(at: Timestamp) -> str:
    """`2026-11-12 14:03 UTC`."""
    return moment(at).strftime("%Y-%m-%d %H:%M UTC") if at.ByteSize() else NOTHING


def _signless(text: str) -> str:
    """A real minus, and no minus at all before a zero."""
    if not text.startswith("-"):
        return text
    return text[1:] if not any(char in "123456789" for char in text.partition("e")[0]) else f"−{text[1:]}"
