"""Serves the progress of an attempt over HTTP: /progress (JSON), /metrics (Prometheus) and /healthz.

Read-only: nothing here can change a run.
"""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import prometheus_client
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from loraline_api.progress import Progress, Stage
from loraline_trainer.progress import Tracker


class ProgressCollector(Collector):
    """The progress as Prometheus gauges, read at each scrape."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def collect(self) -> Iterator[GaugeMetricFamily]:
        progress = self._tracker.now
        stage = GaugeMetricFamily("loraline_train_stage", "1 for the stage of the attempt.", labels=["stage"])
        for candidate in Stage:
            stage.add_metric([candidate.value], float(candidate is progress.stage))
        yield stage
        for name, text, value in _gauges(progress):
            if value is not None:
                yield GaugeMetricFamily(f"loraline_train_{name}", text, value=float(value))
        spent = GaugeMetricFamily("loraline_train_stage_seconds", "Seconds spent in finished stages.", labels=["stage"])
        for done, seconds in self._tracker.stage_seconds.items():
            spent.add_metric([done.value], seconds)
        yield spent


def _gauges(progress: Progress) -> Iterator[tuple[str, str, float | str | None]]:
    yield "step", "Optimizer steps done.", progress.step
    yield "total_steps", "Optimizer steps in all.", progress.total_steps
    yield "epoch", "Epochs done.", progress.epoch
    yield "loss", "Training loss of the last step.", progress.loss
    yield "learning_rate", "Learning rate of the last step.", progress.learning_rate
    yield "tokens_per_second", "Tokens per second of the last steps.", progress.tokens_per_second
    yield "eta_seconds", "Seconds until training ends, estimated.", progress.eta_seconds


@contextlib.contextmanager
def serving(tracker: Tracker, port: int, host: str = "0.0.0.0") -> Iterator[int]:
    """Serves the tracker while the block runs, and yields the port.

    Args:
        port: port to listen on; 0 takes a free one.
    """
    server = http.server.ThreadingHTTPServer((host, port), _handler(tracker))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="progress", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(tracker: Tracker) -> type[http.server.BaseHTTPRequestHandler]:
    registry = prometheus_client.CollectorRegistry()
    registry.register(ProgressCollector(tracker))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer(200, "application/json", tracker.now.model_dump_json(by_alias=True, exclude_none=True))
            elif self.path == "/metrics":
                text = prometheus_client.generate_latest(registry).decode()
                self._answer(200, prometheus_client.CONTENT_TYPE_LATEST, text)
            elif self.path == "/healthz":
                self._answer(200, "text/plain", "ok\n")
            else:
                self._answer(404, "text/plain", "known paths: /progress /metrics /healthz\n")

        def _answer(self, status: int, content_type: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who asked may have hung up
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not worth a log line."""

    return Handler
