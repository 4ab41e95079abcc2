"""Prometheus metrics and a health endpoint, made from the status lines of the workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipelines.live.supervisor import View
from vitalake.errors import SettingsError
from vitalake.lake.commits.span import COUNT_NAMES

DOCUMENTED = {
    "vitalake_records_total": "Messages and rows by outcome, as the ledger counts them (label: outcome).",
    "vitalake_spans_total": "Spans decided and added.",
    "vitalake_worker_restarts_total": "Workers started again after they died.",
    "vitalake_lag_messages": "Messages in the log that were not read yet (label: part).",
    "vitalake_latency_seconds": "Broker's timestamp to decision (label: quantile).",
    "vitalake_last_commit_timestamp_seconds": "When the last span was decided.",
    "vitalake_memory_bytes": "Resident memory of all workers.",
    "vitalake_up": "1 while all workers run and none is paused.",
}
"""Every metric: name → help. No label ever contains anything from a message."""


class _LaneCollector(Collector):
    def __init__(self, view: Callable[[], View], job: str) -> None:
        self._view, self._job = view, job

    def collect(self) -> Iterable[Metric]:
        view = self._view()
        outcomes = CounterMetricFamily(
            "vitalake_records", DOCUMENTED["vitalake_records_total"], labels=["job", "outcome"]
        )
        for name in COUNT_NAMES:
            outcomes.add_metric([self._job, name], getattr(view.counts, name))
        yield outcomes
        for name, total in (("vitalake_spans", view.spans), ("vitalake_worker_restarts", view.restarts)):
            counter = CounterMetricFamily(name, DOCUMENTED[f"{name}_total"], labels=["job"])
            counter.add_metric([self._job], total)
            yield counter
        lag = GaugeMetricFamily("vitalake_lag_messages", DOCUMENTED["vitalake_lag_messages"], labels=["job", "part"])
        for part, messages in view.lag.items():
            lag.add_metric([self._job, part], messages)
        yield lag
        latency = GaugeMetricFamily(
            "vitalake_latency_seconds", DOCUMENTED["vitalake_latency_seconds"], labels=["job", "quantile"]
        )
        for q in (0.5, 0.99):
            milliseconds = view.latency_ms(q)
            if milliseconds is not None:
                latency.add_metric([self._job, str(q)], milliseconds / 1000)
        yield latency
        gauges = {
            "vitalake_last_commit_timestamp_seconds": view.last_commit_us / 1e6,
            "vitalake_memory_bytes": float(view.rss_bytes),
            "vitalake_up": float(view.state == "running"),
        }
        for name, value in gauges.items():
            gauge = GaugeMetricFamily(name, DOCUMENTED[name], labels=["job"])
            gauge.add_metric([self._job], value)
            yield gauge


class Observability:
    """The HTTP server of /metrics and /healthz."""

    def __init__(self, view: Callable[[], View], *, job: str, host: str, port: int) -> None:
        """Start the server.

        Raises:
            SettingsError: the port is in use.
        """
        registry = CollectorRegistry()
        registry.register(_LaneCollector(view, job))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(registry))
                elif self.path == "/healthz":
                    now = view()
                    body = msgspec.json.encode({"state": now.state, "reasons": now.reasons})
                    self._answer(200 if now.state == "running" else 503, "application/json", body)
                else:
                    self._answer(404, "text/plain", b"/metrics or /healthz\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing: requests are not events."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise SettingsError(
                f"Metrics cannot be served on this port ({error.strerror})",
                where=f"observability.port: {port}",
                remedy="Free the port, or set observability.port to another one (0 takes any free port).",
            ) from None
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
