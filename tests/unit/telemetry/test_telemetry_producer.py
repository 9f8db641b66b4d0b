# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import http.server
import itertools
import json
import pathlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from gpuops_telemetry import healthcheck
from gpuops_telemetry.completions import CompletionClient, CompletionError, read_usage
from gpuops_telemetry.events import GPU_METRICS_TOPIC, TOKEN_USAGE_TOPIC, parse_event
from gpuops_telemetry.gpu_samples import GpuSample, SampleError, SimulatedGpu, parse_nvidia_smi
from gpuops_telemetry.producer import (
    WAITING_LIMIT,
    ProducerMetrics,
    Repeater,
    Telemetry,
    bundled_prompts,
    serve,
)
from gpuops_telemetry.settings import Environment, ProducerSettings

KEY = "planted-key-31c7"


class Server:
    """An OpenAI-compatible server that answers as it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.answer: Any = {"usage": {"prompt_tokens": 7, "completion_tokens": 11}}
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.keys.append(self.headers["Authorization"])
                outer.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                body = json.dumps(outer.answer).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Quiet."""

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.http.shutdown()
    started.http.server_close()


class FakeSampler:
    source: Literal["nvidia-smi", "simulated"] = "nvidia-smi"

    def __init__(self) -> None:
        self.broken = False

    def sample(self) -> list[GpuSample]:
        if self.broken:
            raise SampleError("no GPU")
        return [GpuSample(number, "A100", 0.5, 1.0, 2.0, None) for number in range(2)]


class Bench:
    """A Telemetry with everything around it under control."""

    def __init__(self, url: str) -> None:
        settings = ProducerSettings.from_environment(
            Environment(
                {"KAFKA_BOOTSTRAP_SERVERS": "k:9092", "VLLM_URL": url, "MODEL": "tiny", "FLEET_HOST": "producer-1"}
                | {"VLLM_HOST": "vllm-1", "PRICE_PER_HOUR_USD": "0"}
            )
        )
        self.published: list[tuple[str, str, bytes]] = []
        self.queue_length = 0
        self.metrics = ProducerMetrics()
        self.sampler = FakeSampler()
        self.telemetry = Telemetry(
            settings,
            self.publish,
            lambda: self.queue_length,
            self.metrics,
            CompletionClient(url, KEY, "tiny", 64, 5.0),
            self.sampler,
            itertools.cycle(["one", "two"]),
        )

    def publish(self, topic: str, key: str, value: bytes) -> bool:
        self.published.append((topic, key, value))
        return True

    def count(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"gpuops_producer_{name}_total")


def test_each_completion_becomes_one_event_with_the_servers_own_numbers(server: Server) -> None:
    bench = Bench(server.url)
    assert bench.telemetry.complete_once()
    assert bench.telemetry.complete_once()
    assert [request["prompt"] for request in server.requests] == ["one", "two"]
    assert server.keys == [f"Bearer {KEY}"] * 2
    topic, key, value = bench.published[0]
    event = parse_event(topic, value).to_document()
    assert topic == TOKEN_USAGE_TOPIC
    assert event["_id"] == key
    assert (event["prompt_tokens"], event["completion_tokens"]) == (7, 11)
    assert event["host"] == "vllm-1"
    assert event["latency_ms"] > 0
    assert bench.published[1][1] != key


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (401, {"error": "Unauthorized"}, "key"),
        (404, {}, "model"),
        (500, {}, "500"),
        (200, {"choices": []}, "usage"),
        (200, [], "usage"),
    ],
)
def test_a_server_that_fails_is_counted_and_gives_no_event(
    server: Server, status: int, answer: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.status, server.answer = status, answer
    bench = Bench(server.url)
    assert not bench.telemetry.complete_once()
    assert bench.published == []
    assert bench.count("completion_failures") == 1
    assert reason in caplog.text
    assert KEY not in caplog.text


def test_a_server_that_is_away_is_no_crash() -> None:
    bench = Bench("http://127.0.0.1:1")
    assert not bench.telemetry.complete_once()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", b"nonsense\r\n\r\n"]
)
def test_a_broken_answer_is_no_crash(answer: bytes) -> None:
    """Cut off in its middle, or no HTTP at all: nothing that OSError stands for."""

    def answer_once(listening: socket.socket) -> None:
        connection, _address = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer_once, args=(listening,), daemon=True).start()
        bench = Bench(f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert not bench.telemetry.complete_once()
    assert bench.count("completion_failures") == 1


def test_while_the_broker_takes_nothing_no_completion_is_paid_for(server: Server) -> None:
    bench = Bench(server.url)
    bench.queue_length = WAITING_LIMIT
    assert not bench.telemetry.complete_once()
    assert server.requests == []


def test_each_gpu_becomes_one_event(server: Server) -> None:
    bench = Bench(server.url)
    assert bench.telemetry.sample_once()
    events = [parse_event(topic, value).to_document() for topic, _key, value in bench.published]
    assert {topic for topic, _key, _value in bench.published} == {GPU_METRICS_TOPIC}
    assert [event["gpu_index"] for event in events] == [0, 1]
    assert {event["host"] for event in events} == {"producer-1"}
    assert events[0]["price_per_hour_usd"] == 0
    bench.sampler.broken = True
    assert not bench.telemetry.sample_once()
    assert bench.count("sample_failures") == 1


def test_nvidia_smi_is_read_with_what_it_cannot_tell() -> None:
    samples = parse_nvidia_smi(
        "0, NVIDIA A100-SXM4-40GB, 37, 1024, 40960, 250.53\n"
        "1, NVIDIA GeForce RTX 3090, Ti, 0, 1, 24576, [N/A]\n"
        "2, Tesla K80, [Not Supported], 5, 11441, 29.00\n\n"
    )
    assert samples[0] == GpuSample(0, "NVIDIA A100-SXM4-40GB", 0.37, 1024.0, 40960.0, 250.53)
    assert samples[1].name == "NVIDIA GeForce RTX 3090, Ti"
    assert samples[1].power_w is None
    assert samples[2].utilization == 0.0
    with pytest.raises(SampleError):
        parse_nvidia_smi("0, MIG device, [N/A], [N/A], [N/A], [N/A]\n")


def test_where_there_is_no_gpu_the_host_stands_in(tmp_path: pathlib.Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 2048000 kB\nMemFree: 1 kB\nMemAvailable: 1024000 kB\n")
    (tmp_path / "stat").write_text("cpu 100 0 100 800 0 0 0 0 0 0\ncpu0 1\n")
    gpu = SimulatedGpu(tmp_path)
    assert gpu.sample()[0].utilization == 0.0
    (tmp_path / "stat").write_text("cpu 150 0 125 825 0 0 0 0 0 0\ncpu0 1\n")
    (sample,) = gpu.sample()
    assert sample.utilization == 0.75
    assert (sample.mem_used_mb, sample.mem_total_mb) == (1000.0, 2000.0)
    assert gpu.source == "simulated"


def test_a_failing_repeater_waits_longer_each_time() -> None:
    stop = threading.Event()
    moments: list[float] = []

    def fails() -> bool:
        moments.append(time.monotonic())
        return False

    repeater = Repeater("test", 0.01, fails, stop, slack=5)
    repeater.start()
    time.sleep(0.9)
    assert repeater.problem() is None
    stop.set()
    repeater.join()
    assert len(moments) == 2
    assert "ended" in str(repeater.problem())


def test_health_and_metrics_are_served(server: Server) -> None:
    bench = Bench(server.url)
    stop = threading.Event()
    repeater = Repeater("test", 0.05, lambda: True, stop, slack=5)
    repeater.start()
    http_server = serve(0, bench.metrics, [repeater])
    base = f"http://127.0.0.1:{http_server.server_address[1]}"
    try:
        assert healthcheck.main([f"{base}/health"]) == 0
        with urllib.request.urlopen(f"{base}/metrics") as answer:  # noqa: S310
            assert b"gpuops_producer_completions_total" in answer.read()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{base}/else")  # noqa: S310
        stop.set()
        repeater.join()
        assert healthcheck.main([f"{base}/health"]) == 1
    finally:
        http_server.shutdown()
        http_server.server_close()
    assert healthcheck.main([f"{base}/health"]) == 1
    assert healthcheck.main(["file:///etc/passwd"]) == 2


def test_the_prompts_are_there() -> None:
    assert len(set(itertools.islice(bundled_prompts(), 40))) >= 10


def test_an_answer_without_usage_is_refused() -> None:
    with pytest.raises(CompletionError):
        read_usage(b"<html>", 1.0)
