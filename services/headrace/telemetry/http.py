"""A process's HTTP port, on threads of its own: /metrics for Prometheus, and small pages for whoever runs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

LOOK_S: Final = 0.05
"""Between two looks whether it should end: a process that drains waits for the next."""

Page = Callable[[], tuple[int, bytes]]
"""Returns an HTTP status and a body."""


class MetricsServer:
    """Serves the registry on every path that is not one of `pages`."""

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, pages: Mapping[str, Page] | None = None
    ) -> None:
        metrics = make_wsgi_app(registry)
        known = pages or {}

        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            page = known.get(environ.get("PATH_INFO", ""))
            if page is None:
                return metrics(environ, start_response)  # type: ignore[no-any-return]
            status, body = page()
            start_response(f"{status} {'OK' if status < 400 else 'Unavailable'}", [])
            return [body]

        self._server = make_server(host, port, application, _Server, _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(LOOK_S,), name="metrics", daemon=True)
        self._thread.start()
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _Server(ThreadingMixIn, WSGIServer):
    """A slow scraper holds up no other."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the parameter's name is the base class's
        """Scrapes are not news."""
