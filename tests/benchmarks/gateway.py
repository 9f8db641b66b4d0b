# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway costs: the same completions from the same server, asked directly and through a real HAProxy.

HAProxy has what the role gateway writes, with TLS, keys, its limits and its log, in a process of its own on loopback.
Behind it stands a small server in another process, which answers like vLLM after SERVICE_MILLISECONDS, and works on
SLOTS requests at a time: a model's answer takes time, and a ratio without that would say nothing of one. Both ways are
asked in turns over connections that are kept open; the best round of each counts, because whatever else the machine
does can only add. TLS is among what the gateway adds, also the client's part of it. Needs no Docker engine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import pathlib
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from support import debian_program
from support.free_port import free_port
from support.gateway_role import Gateway

from benchmarks.results import Row

SERVICE_MILLISECONDS = 20
SLOTS = 8
# More clients than slots, so that the server is never idle: then its rate is the throughput that can be had.
CLIENTS = 32
INTERNAL, KEY = "bench-internal-key-000", "bench-key-of-the-client-0"
P50_GOAL_MILLISECONDS = 1.0
THROUGHPUT_GOAL_RATIO = 0.95
QUESTION = json.dumps({"model": "tiny", "prompt": "Hello", "max_tokens": 8}).encode()
USAGE = {"prompt_tokens": 1, "completion_tokens": 8, "total_tokens": 9}
COMPLETION = json.dumps(
    {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "tiny",
        "choices": [{"index": 0, "text": "x"}],
        "usage": USAGE,
    }
).encode()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen about this benchmark."""
    parser.add_argument("--gateway-rounds", type=int, default=15, help="rounds of each way, in turns")
    parser.add_argument("--gateway-requests", type=int, default=60, help="requests of a round, of each kind")


def run(chosen: argparse.Namespace) -> list[Row]:
    """Two rows; none, with the reason, where there is no HAProxy."""
    try:
        with contextlib.ExitStack() as stack:
            server_port = stack.enter_context(_server())
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-bench-")))
            gateway = Gateway(folder, _variables(server_port))
            stack.callback(gateway.close)
            direct = Way(server_port, INTERNAL, None)
            through = Way(int(gateway.variables["gateway_https_port"]), KEY, gateway.tls)
            return asyncio.run(_measure(direct, through, chosen.gateway_rounds, chosen.gateway_requests))
    except debian_program.Missing as missing:
        sys.stderr.write(f"gateway benchmark: {missing}.\n")
        return []


def _variables(server_port: int) -> dict[str, object]:
    return {
        "gateway_servers": [{"name": "vllm-1", "address": "127.0.0.1", "port": server_port}],
        "gateway_upstream_api_key": INTERNAL,
        "gateway_api_keys": [{"name": "bench", "key": KEY, "unlimited": True}],
        "gateway_addresses": ["127.0.0.1"],
        "gateway_https_port": free_port(),
        "gateway_http_port": 0,
        "gateway_metrics_port": free_port(),
        "gateway_follow_names": False,
    }


# Asking ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """Where to ask, with which key; tls is None for the server itself."""

    port: int
    key: str
    tls: ssl.SSLContext | None


async def _measure(direct: Way, through: Way, rounds: int, requests: int) -> list[Row]:
    for way in (direct, through):
        await _ask_on(way, 1, 20)
    medians: dict[Way, list[float]] = {direct: [], through: []}
    rates: dict[Way, list[float]] = {direct: [], through: []}
    for number in range(rounds):
        # Each way comes first as often as the other.
        for way in (direct, through) if number % 2 else (through, direct):
            medians[way].append(statistics.median((await _ask_on(way, 1, requests))[0]) * 1000)
            rates[way].append(requests * 5 / (await _ask_on(way, CLIENTS, requests * 5))[1])
    base, added = min(medians[direct]), min(medians[through]) - min(medians[direct])
    rate, base_rate = max(rates[through]), max(rates[direct])
    ratio = rate / base_rate
    return [
        Row(
            "gateway adds to p50",
            round(added, 3),
            "ms",
            f"{base:.1f} ms direct, {SERVICE_MILLISECONDS} of them the server's",
            round((base + added) / base, 3),
            f"<= {P50_GOAL_MILLISECONDS:g} ms",
            added <= P50_GOAL_MILLISECONDS,
        ),
        Row(
            "completions through the gateway",
            round(rate, 1),
            "/s",
            f"{base_rate:.0f} /s direct, {SLOTS} at a time",
            round(ratio, 3),
            f">= {THROUGHPUT_GOAL_RATIO:g} x",
            ratio >= THROUGHPUT_GOAL_RATIO,
        ),
    ]


async def _ask_on(way: Way, clients: int, requests: int) -> tuple[list[float], float]:
    """So many requests by so many clients, one after the other in each; seconds of each request, and of all together.

    Every client has its connection before the clock starts.
    """
    shares = [requests // clients + (number < requests % clients) for number in range(clients)]
    host = "localhost" if way.tls else None
    opened = [
        await asyncio.open_connection("127.0.0.1", way.port, ssl=way.tls, server_hostname=host)
        for _number in range(clients)
    ]
    try:
        began = time.perf_counter()
        done = await asyncio.gather(*(_client(way, *one, share) for one, share in zip(opened, shares, strict=True)))
        return [seconds for part in done for seconds in part], time.perf_counter() - began
    finally:
        for _reader, writer in opened:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


async def _client(way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: int) -> list[float]:
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {way.key}\r\nContent-Length: {len(QUESTION)}\r\n\r\n"
    )
    found = []
    for _number in range(requests):
        began = time.perf_counter()
        writer.write(head.encode() + QUESTION)
        answer = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_length(answer))
        found.append(time.perf_counter() - began)
        if not answer.startswith(b"HTTP/1.1 200") or body != COMPLETION:
            raise RuntimeError(f"port {way.port} answered {answer!r}")
    return found


def _length(head: bytes) -> int:
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    return next((int(value) for name, _colon, value in lines if name == b"content-length"), 0)


# The server -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _server() -> Iterator[int]:
    """Its port, while it serves in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        if not ours.poll(30):
            raise TimeoutError("the server of the gateway's benchmark did not start within 30 s")
        yield int(ours.recv())
    finally:
        process.terminate()
        process.join()


def _serve(told: Connection) -> None:
    asyncio.run(_serve_on(told))


async def _serve_on(told: Connection) -> None:
    slots = asyncio.Semaphore(SLOTS)
    key = f"authorization: bearer {INTERNAL}".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(_length(head))
                status, body = b"200 OK", b"{}"
                if not head.startswith(b"get /health "):
                    if key in head:
                        body = COMPLETION
                        async with slots:
                            await asyncio.sleep(SERVICE_MILLISECONDS / 1000)
                    else:
                        status = b"401 Unauthorized"
                length = str(len(body)).encode()
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %s\r\n\r\n%s" % (status, length, body))
                await writer.drain()
                if b"connection: close" in head:
                    break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    told.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()
