"""Logs: one JSON object a line on stderr, with the trace id where there is one. No payloads, no card data."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


def configure(level: str) -> None:
    """Send this process's logs to stderr as JSON lines."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[out], force=True)
    # Two event loops in one process share grpc's poller, and each logs the other's wake-ups. Harmless (grpc#25364).
    logging.getLogger("asyncio").addFilter(lambda record: "PollerCompletionQueue" not in record.getMessage())


class JsonLines(logging.Formatter):
    """time, level, logger, message; what the record's `fields` hold; error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
