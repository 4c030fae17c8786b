"""Logs: one JSON object a line on stderr, with the trace id where there is one. No payloads, no card data."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime


def configure(level: str) -> None:
    """Send this process's logs to stderr as JSON lines."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[out], force=True)
    # Two event loops in one process share grpc's poller, and each logs the other's wake-ups. Harmless (grpc#25364).
    logging.getLogger("asyncio").addFilter(lambda record: "PollerCompletionQueue" not in record.getMessage())


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
