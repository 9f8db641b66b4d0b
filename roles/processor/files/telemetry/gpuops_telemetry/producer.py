# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m gpuops_telemetry.producer: real completions and GPU samples, as events."""

from __future__ import annotations

import http.server
import importlib.resources
import itertools
import json
import logging
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from confluent_kafka import Producer
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest

from gpuops_telemetry.completions import CompletionClient, CompletionError
from gpuops_telemetry.events import GPU_METRICS_TOPIC, TOKEN_USAGE_TOPIC, Event, GpuMetrics, TokenUsage, now
from gpuops_telemetry.gpu_samples import SampleError, Sampler, choose_sampler
from gpuops_telemetry.kafka_options import producer_options
from gpuops_telemetry.kafka_publisher import Publisher, PublisherMetrics
from gpuops_telemetry.logs import kafka_logger, set_up_logging
from gpuops_telemetry.settings import Environment, ProducerSettings, SettingsError
from gpuops_telemetry.watchdog import watch

LOG = logging.getLogger(__name__)

# With this many events waiting for the broker no completion is asked for: its event could be lost, and it costs.
WAITING_LIMIT = 5_000

LONGEST_BACK_OFF_SECONDS = 30.0


class ProducerMetrics(PublisherMetrics):
    """What the publisher counts, and the completions."""

    def __init__(self) -> None:
        super().__init__()
        name = "gpuops_producer_"
        self.completions = Counter(name + "completions", "Completions received.", registry=self.registry)
        self.completion_failures = Counter(
            name + "completion_failures", "Requests for a completion that failed.", registry=self.registry
        )
        self.sample_failures = Counter(name + "sample_failures", "GPU samples that failed.", registry=self.registry)
        self.latency = Histogram(
            name + "completion_seconds",
            "Latency of completions as measured here.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )


class Repeater(threading.Thread):
    """Calls a function at an interval; after a failure it waits longer each time, up to a limit."""

    def __init__(
        self, name: str, interval_seconds: float, function: Callable[[], bool], stop: threading.Event, slack: float
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._interval_seconds = interval_seconds
        self._function = function
        self._stop_event = stop
        self._seen = time.monotonic()
        self._silence_limit = interval_seconds + LONGEST_BACK_OFF_SECONDS + slack

    def run(self) -> None:
        back_off = 0.0
        while not self._stop_event.is_set():
            started = self._seen = time.monotonic()
            if self._function():
                back_off = 0.0
                rest = self._interval_seconds - (time.monotonic() - started)
            else:
                back_off = min(LONGEST_BACK_OFF_SECONDS, back_off * 2 or 0.5)
                rest = max(back_off, self._interval_seconds)
            self._stop_event.wait(max(0.0, rest))

    def problem(self) -> str | None:
        """Why a restart would help, if it would. That vLLM or the broker is away is no such reason."""
        silent = time.monotonic() - self._seen
        if not self.is_alive():
            return f"The thread {self.name} ended."
        return f"The thread {self.name} has been silent for {silent:.0f} s." if silent > self._silence_limit else None


def problems_of(repeaters: Sequence[Repeater]) -> list[str]:
    """Why a restart would help, if it would."""
    return [problem for repeater in repeaters if (problem := repeater.problem())]


class Telemetry:
    """Makes events out of completions and samples."""

    def __init__(
        self,
        settings: ProducerSettings,
        publish: Callable[[str, str, bytes], bool],
        waiting: Callable[[], int],
        metrics: ProducerMetrics,
        client: CompletionClient,
        sampler: Sampler,
        prompts: Iterator[str],
    ) -> None:
        self._settings = settings
        self._publish_bytes = publish
        self._waiting = waiting
        self._metrics = metrics
        self._client = client
        self._sampler = sampler
        self._prompts = prompts

    def _publish(self, topic: str, event: Event) -> bool:
        return self._publish_bytes(topic, event.event_id, event.to_json())

    def complete_once(self) -> bool:
        """One prompt, one completion, one event."""
        if self._waiting() >= WAITING_LIMIT:
            LOG.warning("%d events wait for the broker: no completion is asked for until it takes them", WAITING_LIMIT)
            return False
        try:
            completion = self._client.complete(next(self._prompts))
        except CompletionError as error:
            self._metrics.completion_failures.inc()
            LOG.warning("No completion: %s", error)
            return False
        self._metrics.completions.inc()
        self._metrics.latency.observe(completion.latency_ms / 1000)
        event = TokenUsage(
            event_id=uuid.uuid4().hex,
            ts=now(),
            host=self._settings.vllm_host,
            model=self._settings.model,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            latency_ms=completion.latency_ms,
            gpu_index=self._settings.gpu_index,
        )
        return self._publish(TOKEN_USAGE_TOPIC, event)

    def sample_once(self) -> bool:
        """One sample of every GPU, an event each."""
        try:
            samples = self._sampler.sample()
        except (SampleError, OSError, ValueError) as error:
            self._metrics.sample_failures.inc()
            LOG.warning("No GPU sample: %s", error)
            return False
        moment = now()
        published = True
        for sample in samples:
            event = GpuMetrics(
                event_id=uuid.uuid4().hex,
                ts=moment,
                host=self._settings.host,
                price_per_hour_usd=self._settings.price_per_hour_usd,
                source=self._sampler.source,
                gpu_index=sample.gpu_index,
                name=sample.name,
                utilization=sample.utilization,
                mem_used_mb=sample.mem_used_mb,
                mem_total_mb=sample.mem_total_mb,
                power_w=sample.power_w,
            )
            published = self._publish(GPU_METRICS_TOPIC, event) and published
        return published


def bundled_prompts() -> Iterator[str]:
    """The prompt set, over and over."""
    text = importlib.resources.files("gpuops_telemetry").joinpath("prompts.json").read_text(encoding="utf-8")
    return itertools.cycle(json.loads(text))


def serve(port: int, metrics: ProducerMetrics, repeaters: list[Repeater]) -> http.server.ThreadingHTTPServer:
    """/health and /metrics for this container's own health check and for whoever shares its network."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
            elif self.path == "/health":
                problems = problems_of(repeaters)
                body = json.dumps({"status": "failed" if problems else "ok", "problems": problems}).encode()
                self._answer(503 if problems else 200, "application/json", body)
            else:
                self._answer(404, "application/json", b'{"detail": "Not Found"}')

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """A health check every few seconds is no news."""

    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)  # noqa: S104 - inside the container
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server


def main() -> int:
    """Runs until SIGTERM; 2 when a setting is wrong, 1 when events were left behind or only a restart helps."""
    set_up_logging()
    try:
        settings = ProducerSettings.from_environment(Environment())
    except SettingsError as error:
        sys.stderr.write(f"The producer can't start: {error}\n")
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    metrics = ProducerMetrics()
    # No time-out for a delivery: through an outage events wait in the bounded queue instead of being given up.
    options = producer_options(settings.kafka) | {"message.timeout.ms": 0}
    publisher = Publisher(Producer(options, logger=kafka_logger()), metrics)
    sampler = choose_sampler(settings.gpu_source)
    key, tokens, timeout = settings.vllm_api_key, settings.max_tokens, settings.request_timeout_seconds
    client = CompletionClient(settings.vllm_url, key, settings.model, tokens, timeout, settings.vllm_tls_fingerprint)
    telemetry = Telemetry(settings, publisher.publish, publisher.waiting, metrics, client, sampler, bundled_prompts())
    repeaters = [
        Repeater("completions", settings.interval_seconds, telemetry.complete_once, stop, timeout + 10),
        Repeater("gpu-samples", settings.gpu_sample_interval_seconds, telemetry.sample_once, stop, 30),
    ]
    LOG.info("Starting as %s: %s, GPU figures from %s", settings.host, settings.vllm_url, sampler.source)
    for repeater in repeaters:
        repeater.start()
    server = serve(settings.port, metrics, repeaters)
    problem = watch(stop, lambda: problems_of(repeaters))
    stop.set()
    server.shutdown()
    left = publisher.close(10.0)
    if left:
        LOG.error("%d events were not acknowledged before the stop", left)
    return 1 if left or problem else 0


if __name__ == "__main__":
    sys.exit(main())
