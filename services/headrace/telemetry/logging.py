"""Logs: one JSON object a line on stderr, with the trace id where there is one. No payloads, no card data."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Final, NamedTuple

OURS: Final = "headrace"
WORDY: Final = ("hpack",)
"""Libraries that log what callers send, their tokens too, where anybody lets them."""


class Shown(NamedTuple):
    """Which lines are written; each flag speaks for one level."""

    info: bool
    warning: bool
    error: bool
    verbose: int
    """Above 0: what our own code says at DEBUG too."""


def configure(level: str) -> None:
    """Send this process's logs to stderr as JSON lines."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonLines())
    out.addFilter(CHOSEN)
    logging.basicConfig(level=level, handlers=[out], force=True)
    # Two event loops in one process share grpc's poller, and each logs the other's wake-ups. Harmless (grpc#25364).
    logging.getLogger("asyncio").addFilter(lambda record: "PollerCompletionQueue" not in record.getMessage())
    for name in WORDY:
        logging.getLogger(name).setLevel(logging.WARNING)


class Chosen(logging.Filter):
    """Lets through the levels that are shown: a logger's own level is a bound, and knows no gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = Shown(info=True, warning=True, error=True, verbose=1)

    def filter(self, record: logging.LogRecord) -> bool:
        level, shown = record.levelno, self.shown
        if level >= logging.ERROR:
            return shown.error
        if level >= logging.WARNING:
            return shown.warning
        return shown.info if level >= logging.INFO else shown.verbose > 0


CHOSEN: Final = Chosen()
"""The one of this process."""


def shown() -> Shown:
    """What this process writes now."""
    chosen, ours = CHOSEN.shown, logging.getLogger(OURS)
    return Shown(
        info=chosen.info and ours.isEnabledFor(logging.INFO),
        warning=chosen.warning and ours.isEnabledFor(logging.WARNING),
        error=chosen.error and ours.isEnabledFor(logging.ERROR),
        verbose=int(chosen.verbose > 0 and ours.isEnabledFor(logging.DEBUG)),
    )


def show(wanted: Shown) -> None:
    """Write these lines from now on, until this process ends."""
    levels = (wanted.info, logging.INFO), (wanted.warning, logging.WARNING), (wanted.error, logging.ERROR)
    lowest = next((level for asked, level in levels if asked), logging.CRITICAL + 1)
    CHOSEN.shown = wanted
    root = logging.getLogger()
    root.setLevel(lowest)
    logging.getLogger(OURS).setLevel(logging.DEBUG if wanted.verbose else logging.NOTSET)
    for handler in root.handlers:
        handler.addFilter(CHOSEN)  # once: it is kept as in a set


class JsonLines(logging.Formatter):
    """time, level, logger, message; what the record's `fields` hold; where an error was raised."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = where(record.exc_info[1])
        return json.dumps(line)


def where(error: BaseException | None) -> str:
    """The types and the frames of an error and its causes, without their messages: those may quote a payload."""
    told = []
    while error is not None:
        frames = "".join(traceback.format_tb(error.__traceback__))
        told.append(f"{type(error).__name__}\n{frames}")
        error = error.__cause__ or error.__context__
    return "caused by ".join(told)
